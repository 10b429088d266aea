# shellcheck shell=dash disable=SC3043,SC2154
# What a change leaves for the next boot, and takes away again: tables, originals, generations, boot units.

# iptables-nft leaves empty base chains behind where there was no table before. They decide
# nothing, but "as it was" means as it was.
ipt_tidy_tables() {
	local table family=ip chains
	[ "$backend" = nft ] && have nft || return 0
	[ "$1" = 6 ] && family=ip6
	text_read "$2" || { say "which tables there were before cannot be read; empty ones may stay"; return 0; }
	for table in $REPLY; do
		[ "$table" != absent ] || continue
		chains=$(nft list table $family "$table" 2>/dev/null) || continue
		# Rules, a policy or a chain of anybody: then the table is in use.
		case $chains in *policy\ drop* | *counter* | *jump* | *comment*) continue ;; esac
		# A chain that got a rule meanwhile cannot be deleted, and then nothing is.
		{
			printf '%s\n' "$chains" | awk -v t="$family $table" '$1 == "chain" { print "delete chain " t " " $2 }'
			echo "delete table $family $table"
		} | nft -f - 2>/dev/null
	done
	:
}

# Makes the generation what boots: one rename. All of it can be done again after a power cut.
persist_generation() {
	local generation family inventory
	if [ -e "$T/new/zero" ]; then
		for family in 4 6; do
			ipt_find_backend $family && ipt_tidy_tables $family $VAR/original/tables$family
		done
		rm -f $ETC/current && files_unlink_all
		return
	fi
	first_line "$T/generation"
	generation=$REPLY
	[ -e "$ETC/generations/$generation/want4" ] || return 1
	persist_baseline || return 1
	files_put_link "generations/$generation" $ETC/current || return 1
	first_line "$T/new/inventory"
	inventory=$REPLY
	first_line $ETC/inventory
	if [ "$REPLY" != "$inventory" ]; then
		printf '%s\n' "$inventory" >$ETC/inventory.new && mv -f $ETC/inventory.new $ETC/inventory || return 1
	fi
	disk_sync $ETC $ETC/inventory || return 1
	# Done again at boot, where it is cut short twice.
	files_link || files_link || say "not all of the files in /etc lead to generation $generation yet"
	# What is reloaded is followed by a unit that is active (kvmfw.service), also before the first boot.
	if [ -d /run/systemd/system ] && [ -z "${booting-}" ]; then
		set -- kvmfw.service
		# Rules of a chain that another program makes follow when it is there.
		! grep -qsE '^\^(DOCKER-USER|CNI-ADMIN) ' "$T/new/want4" "$T/new/want6" || set -- "$@" kvmfw-settle.service
		timeout -s KILL 10 systemctl --no-block start "$@" 2>/dev/null
	fi
	# What did not load at boot was decided anew.
	[ ! -e $VAR/boot.failed ] || rm -f $VAR/boot.failed
	persist_prune
}

# Puts text $2 beside original $1, where that is not so already.
persist_baseline_text() {
	[ ! -e "$VAR/original/new/$1" ] || rm -f "$VAR/original/new/$1"
	if [ -e "$VAR/original/$1" ]; then
		text_read_lines "$VAR/original/$1" || return 1
		case $2 in "$REPLY" | "$REPLY$NL") return 0 ;; esac
	fi
	text_write "$VAR/original/new/$1" "$2"
}

# What was there before we first touched it, noted once.
persist_baseline() {
	local dir=$VAR/original kept family
	[ -d $dir/files ] && [ -d $dir/new ] || mkdir -p $dir/files $dir/new || return 1
	# An empty file is one that a power cut left before it was synced; later ones take its place by a rename.
	[ -s $dir/sysctl ] || text_write $dir/sysctl '' || return 1
	[ -s $dir/policies ] || text_write $dir/policies '' || return 1
	# Each part of the input says what it is: any of the files may be empty.
	kept=$(awk "$PERSIST_BASELINE_AWK" part=kept $dir/sysctl part=keys "$T/new/sysctl.keys" part=was "$T/pre/sysctl" \
		part=policies $dir/policies part=4 "$T/pre/own4" part=6 "$T/pre/own6")
	# What is cut off has no end; a disk that is full, the shell tells.
	case $kept in *"#policies$NL"*'#end') ;; *) return 1 ;; esac
	set --
	persist_baseline_text sysctl "${kept%%"#policies$NL"*}" && kept=${kept#*"#policies$NL"} && persist_baseline_text policies "${kept%'#end'}" || return 1
	[ ! -e $dir/new/sysctl ] || set -- $dir/new/sysctl
	[ ! -e $dir/new/policies ] || set -- "$@" $dir/new/policies
	for family in 4 6; do
		[ ! -e $dir/tables$family ] || continue
		text_read_lines "$T/pre/tables$family" && text_write $dir/new/tables$family "$REPLY" || return 1
		set -- "$@" $dir/new/tables$family
	done
	# Whole on disk before it takes the place of what was there.
	[ $# -eq 0 ] || disk_sync "$@" || return 1
	[ $# -eq 0 ] || mv -f "$@" $dir/ || return 1
	adopt_keep_files || return 1
	disk_sync $dir/sysctl $dir/policies $dir/tables4 $dir/tables6 $dir $VAR
}

# Generations beyond the newest twenty, and transactions beyond them, have served.
persist_prune() {
	local name
	set -- "$ETC"/generations/*
	# shellcheck disable=SC2012
	[ $# -le 20 ] || ls -1 $ETC/generations | sort -rn | tail -n +21 | while read -r name; do rm -rf "$ETC/generations/$name"; done
	set -- "$VAR"/txn/*
	# shellcheck disable=SC2012
	[ $# -le 20 ] || ls -1t $VAR/txn | tail -n +21 | while read -r name; do rm -rf "$VAR/txn/$name"; done
}

# The boot units are the same in every generation; installed before anything is armed. REPLY: the files that have to
# be synced to disk.
boot_install_units() {
	local unit boot_files dir=/etc/systemd/system
	REPLY=
	[ -d $dir ] || return 1
	[ -e $VAR/kvmfw.sh ] && cmp -s "$T/kvmfw.sh" $VAR/kvmfw.sh ||
		{ cp "$T/kvmfw.sh" $VAR/kvmfw.sh.new && chmod 700 $VAR/kvmfw.sh.new && mv -f $VAR/kvmfw.sh.new $VAR/kvmfw.sh; } || return 1
	# The files too, not only their names: after a power cut they would be there and empty. Always, because who wrote them
	# last may have been stopped before they were synced.
	boot_files="$VAR/kvmfw.sh $dir $dir/sysinit.target.wants $dir/multi-user.target.wants"
	for unit in $BOOT_UNITS; do boot_files="$boot_files $dir/${unit##*/}"; done
	for unit in $FOLLOWED; do boot_files="$boot_files $dir/$unit.service.wants"; done
	umask 022
	boot_put_units
	set -- $?
	umask 077
	REPLY=$boot_files
	return "$1"
}

boot_put_units() {
	local dir=/etc/systemd/system wants unit reload='' some=''
	for wants in $BOOT_UNITS; do
		for unit in "$dir/${wants##*/}" "$dir/$wants"; do
			if [ -e "$unit" ] || [ -L "$unit" ]; then some=yes; fi
		done
	done
	if [ -z "$some" ]; then
		# Nothing leads to them yet, so nobody meets half of them.
		mkdir -p $dir/sysinit.target.wants $dir/multi-user.target.wants &&
			cp "$T"/units/* $dir/ && chmod 644 $dir/kvmfw*.service || return 1
		for wants in sysinit.target.wants multi-user.target.wants; do
			set --
			for unit in $BOOT_UNITS; do
				case $unit in $wants/*) set -- "$@" "../${unit##*/}" ;; esac
			done
			ln -s "$@" $dir/$wants/ || return 1
		done
		reload=yes
	else
		for wants in $BOOT_UNITS; do
			unit=${wants##*/} wants=${wants%/*}
			[ -L "$dir/$wants/$unit" ] && [ -e "$dir/$unit" ] && cmp -s "$T/units/$unit" "$dir/$unit" && continue
			[ -d "$dir/$wants" ] || mkdir "$dir/$wants" || return 1
			cat "$T/units/$unit" >"$dir/$unit.new" && mv -f "$dir/$unit.new" "$dir/$unit" &&
				ln -sfn "../$unit" "$dir/$wants/$unit" || return 1
			reload=yes
		done
	fi
	set --
	for wants in $FOLLOWED; do
		wants=$dir/$wants.service.wants
		[ -L "$wants/kvmfw-settle.service" ] || set -- "$@" "$wants"
	done
	if [ $# -gt 0 ]; then
		mkdir -p "$@" || return 1
		for wants; do ln -sfn ../kvmfw-settle.service "$wants/kvmfw-settle.service" || return 1; done
		reload=yes
	fi
	[ -n "$reload" ] || return 0
	if [ -d /run/systemd/system ]; then timeout -s KILL 10 systemctl daemon-reload; fi
	return 0
}

# Fails where something of it may be left; it can be done again.
boot_remove_units() {
	local dir=/etc/systemd/system removed=0 wants
	boot_stop_units
	set --
	for wants in $BOOT_UNITS; do set -- "$@" "$dir/${wants##*/}" "$dir/$wants"; done
	for wants in "$dir"/*.service.wants/kvmfw-settle.service; do set -- "$@" "$wants"; done
	rm -f "$@" || removed=1
	set -- $dir/sysinit.target.wants $dir/multi-user.target.wants
	for wants in $FOLLOWED; do
		[ ! -d "$dir/$wants.service.wants" ] || set -- "$@" "$dir/$wants.service.wants"
	done
	rmdir "$@" 2>/dev/null
	# 1: a folder that others use stays.
	[ $? -le 1 ] || removed=1
	if [ -d /run/systemd/system ]; then timeout -s KILL 10 systemctl daemon-reload; fi
	return $removed
}

# What systemd has of them in memory goes too, or it lists them as not found. Not at boot, when this is one of them.
boot_stop_units() {
	local wants
	[ -d /run/systemd/system ] && [ -z "${booting-}" ] || return 0
	set --
	for wants in $BOOT_UNITS; do set -- "$@" "${wants##*/}"; done
	timeout -s KILL 10 systemctl stop "$@" 2>/dev/null
	timeout -s KILL 5 systemctl reset-failed "$@" 2>/dev/null
	:
}

# A host that was never managed is left as it was found, but for the record of the attempt.
persist_forget_new_host() {
	[ -L $ETC/current ] && return
	boot_remove_units && rm -rf $ETC
}
