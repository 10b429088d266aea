# shellcheck shell=dash disable=SC3043,SC2154
# Reads what the host is like, in one go and without changing anything. The controller parses the
# sections; this script decides nothing.
# Expects DESIRED, the prefix of three functions that hand over the desired state, and so tell where it comes from:
#   document (remote.rs), generation (generation.sh), txn (change.sh, ipset_change.sh)
#   ${DESIRED}_rules FAMILY COMMAND…   runs the command with own text on descriptor 3, rules of absent modules marked `?MODULE `
#   ${DESIRED}_keys COMMAND…           runs it with sysctl keys, paths below /proc/sys, on its input
#   ${DESIRED}_sets COMMAND…           runs it with sets on its input, where SETS is `yes`

probe_host() {
	section host
	first_line /proc/sys/kernel/osrelease
	printf 'kernel=%s\n' "$REPLY"
	first_line /proc/sys/kernel/hostname
	printf 'hostname=%s\n' "$REPLY"
	if [ -r /etc/os-release ]; then
		while IFS='=' read -r key value; do
			case $key in ID | ID_LIKE) printf 'os=%s\n' "$value" ;; esac
		done </etc/os-release
	fi
	read_boot_id
	printf 'boot_id=%s\n' "$REPLY"
	first_line /proc/loadavg
	printf 'loadavg=%s\n' "$REPLY"
	if [ -d /run/systemd/system ]; then echo systemd=yes; else echo systemd=no; fi
	if [ -d /etc/systemd/system ]; then echo units=yes; else echo units=no; fi
	# An operator on the host itself may have come over SSH too, though nothing is applied over that connection.
	printf 'ssh=%s\n' "${SSH_CONNECTION:-${OPERATOR_CONNECTION-}}"
	printf 'root=%s\n' "$ROOT"
	if [ -d /proc/sys/net/bridge ]; then echo br_netfilter=yes; else echo br_netfilter=no; fi
	for tool in ip awk sed flock setsid mkfifo timeout sync ln mv xargs unshare iptables-save ip6tables-save; do
		have "$tool" || printf 'missing=%s\n' "$tool"
	done
	for path in /usr/lib/systemd/systemd-sysctl /lib/systemd/systemd-sysctl; do
		[ -x $path ] && printf 'systemd_sysctl=%s\n' $path && break
	done
}

probe_state() {
	section state
	link_read $ETC/current $VAR/open /etc/sysctl.d/*.conf /run/sysctl.d/*.conf /usr/local/lib/sysctl.d/*.conf \
		/usr/lib/sysctl.d/*.conf /lib/sysctl.d/*.conf /etc/sysctl.conf
	first_line $ETC/inventory
	printf 'inventory=%s\n' "$REPLY"
	link_target $ETC/current
	current=$REPLY
	# One that cannot be read must not pass for none.
	[ -n "$current" ] || [ ! -L $ETC/current ] || refuse unreadable-record "which generation boots cannot be read from $ETC/current"
	printf 'generation=%s\n' "${current##*/}"
	link_target $VAR/open
	[ -z "$REPLY" ] || printf 'open=%s\n' "${REPLY##*/}"
	probe_boot_state
	[ -n "$current" ] || [ ! -d $VAR ] || echo traces=yes
	note_section generation
	[ -z "$current" ] || note_file "$ETC/$current/desired.json"
	note_section original
	note_file $VAR/original/sysctl
	note_file $VAR/original/policies
}

# What the last boot, and the second stage after it, left to be looked at.
probe_boot_state() {
	[ ! -s $VAR/boot.failed ] || printf 'boot_failed=%s\n' "$(tail -n 1 $VAR/boot.failed)"
	[ ! -s $VAR/boot.left ] || sed 's/^/boot_left=/' $VAR/boot.left
	[ ! -s $VAR/boot.repaired ] || sed 's/^/boot_repaired=/' $VAR/boot.repaired
}

probe_boot() {
	section boot
	[ -z "$current" ] || probe_boot_missing
}

# What has to be there so that the generation boots, and is not. A masked unit is an empty one.
probe_boot_missing() {
	local dir=/etc/systemd/system unit wants
	[ -e $ETC/current/want4 ] || echo "$ETC/$(readlink $ETC/current)"
	[ -s $VAR/kvmfw.sh ] || echo $VAR/kvmfw.sh
	for wants in $BOOT_UNITS; do
		unit=${wants##*/} wants=${wants%/*}
		[ -s "$dir/$unit" ] || echo "$dir/$unit"
		[ -s "$dir/$wants/$unit" ] || echo "$dir/$wants/$unit"
	done
	for wants in $FOLLOWED; do
		[ -L "$dir/$wants.service.wants/kvmfw-settle.service" ] || echo "$dir/$wants.service.wants/kvmfw-settle.service"
	done
	[ -e $ETC/current/sets ] || [ ! -e $ETC/current/sets.originals ] || echo $ETC/current/sets
	if [ -s $ETC/current/udev.rules ] && [ ! -s /etc/udev/rules.d/99-kvmfw.rules ]; then
		echo /etc/udev/rules.d/99-kvmfw.rules
	fi
	for family in 4 6; do
		first_line "$ETC/current/want$family"
		case $REPLY in '' | '#end 0') continue ;; esac
		first_line "$ETC/current/rules.v$family"
		case $REPLY in '' | '#end 0') echo "$ETC/current/rules.v$family" ;; esac
	done
}

probe_sysctl() {
	local file target keys='' modes=yes
	section sysctl
	# In some shells root may read and write everything, whatever the modes are; this key cannot be written.
	[ ! -w /proc/sys/kernel/osrelease ] || modes=
	keys_asked=
	"${DESIRED}_keys" probe_ask_keys
	[ -n "$keys_asked" ] || probe_no_room
	if [ -z "$modes" ] && [ -n "$keys" ]; then
		printf '%s' "$keys" | (cd /proc/sys && xargs stat -c '%A %n' /dev/null 2>/dev/null) |
			sed -n -e 's/^--w[^ ]* \(.*\)$/\1!writeonly/p' -e 's/^-r-[^ ]* \(.*\)$/\1!readonly/p'
	fi
	modes=
	if [ -e $ETC/current ]; then
		keys_asked=
		probe_ask_keys <$ETC/current/sysctl.keys
		[ -n "$keys_asked" ] || refuse unreadable-record "$ETC/current/sysctl.keys cannot be read; at the console of the host, \`$VAR/kvmfw.sh undo\` goes back to the generation before"
	fi
	# What a forecast needs whether it is declared or not.
	probe_ask_keys <<-'KEYS'
		net/bridge/bridge-nf-call-iptables
		net/bridge/bridge-nf-call-ip6tables
		net/bridge/bridge-nf-call-arptables
		net/bridge/bridge-nf-filter-vlan-tagged
		net/netfilter/nf_conntrack_tcp_loose
		net/ipv4/ip_forward
		net/ipv6/conf/all/forwarding
	KEYS
	for file in /proc/sys/net/ipv6/conf/*/accept_ra; do
		target=${file%/*}
		[ -e "/sys/class/net/${target##*/}/brport" ] || keys="$keys${file#/proc/sys/}$NL"
	done
	# Whether a link forwards is a key of its own, which the one for all links sets only when it is written.
	for file in /proc/sys/net/ipv4/conf/*; do
		[ ! -e "/sys/class/net/${file##*/}/brport" ] || continue
		for target in forwarding ${LINK_KEYS-}; do
			[ ! -e "$file/$target" ] || keys="$keys${file#/proc/sys/}/$target$NL"
		done
	done
	# Never by `read`: dash and busybox read byte by byte, and the kernel gives the first byte of a
	# number and then the end.
	(
		cd /proc/sys || exit
		set -f
		IFS=$NL
		# shellcheck disable=SC2086
		exec grep -sH '' /dev/null $keys
	)
	case $? in 0 | 1 | 2) ;; *) refuse unreadable "the values of the sysctl keys cannot be read" ;; esac
	case $keys in
	*vm/overcommit_* | *vm/min_free_kbytes* | *vm/nr_hugepages*)
		sed -n -E 's,^(MemTotal|MemAvailable|SwapTotal|HugePages_Total|Hugepagesize|Committed_AS):,meminfo/&,p' /proc/meminfo
		;;
	esac
	note_section sysctl.d
	for file in /etc/sysctl.d/*.conf /run/sysctl.d/*.conf /usr/local/lib/sysctl.d/*.conf /usr/lib/sysctl.d/*.conf /lib/sysctl.d/*.conf /etc/sysctl.conf; do
		[ -e "$file" ] || [ -L "$file" ] || continue
		link_target "$file"
		note_line ">$file${REPLY:+ $REPLY}"
		note_file "$file"
	done
}

# Adds to keys the sysctl keys that come in. Those that are not there are told, and with modes=yes those that cannot
# be read or not be written.
probe_ask_keys() {
	local key
	while read -r key; do
		case $key in
		'') continue ;;
		'#end '*) keys_asked=yes; continue ;;
		esac
		[ -e "/proc/sys/$key" ] || { printf '%s!absent\n' "$key"; continue; }
		keys="$keys$key$NL"
		[ -n "$modes" ] || continue
		if [ ! -r "/proc/sys/$key" ]; then
			printf '%s!writeonly\n' "$key"
		elif [ ! -w "/proc/sys/$key" ]; then
			printf '%s!readonly\n' "$key"
		fi
	done
}

probe_print_third() { cat <&3; }

# REPLY_desired: the desired own text of family $1. REPLY: the same with rules whose module is not loaded replaced by a mark
# in their place: a plan must not load a module, and physdev would load br_netfilter.
probe_provable_rules() {
	local goal wanted
	if [ "$1" = 4 ]; then wanted=$wanted4; else wanted=$wanted6; fi
	if [ -z "$wanted" ]; then
		wanted=$("${DESIRED}_rules" "$1" probe_print_third) && text_unwrap "$wanted$NL" || return 1
		wanted=$REPLY
		if [ "$1" = 4 ]; then wanted4=$wanted; else wanted6=$wanted; fi
	fi
	REPLY_desired=$wanted REPLY=$wanted
	case $wanted in *'?br_netfilter '*) ;; *) return 0 ;; esac
	if [ -d /proc/sys/net/bridge ]; then
		goal='s/^?br_netfilter //'
	else
		goal='s/^?br_netfilter -A \([^ ]*\) .*/-A \1 -m comment --comment "kvmfw:unproven"/'
	fi
	goal=$(printf '%s\n#end\n' "$wanted" | sed "$goal") && text_unwrap_output "$goal"
}

goal4='' dry4='' goal6='' dry6='' wanted4='' wanted6='' dry_runs='' as_proven=''
# REPLY: the canonical form of own text $2 of family $1. Fails if the probe of this process did not try this text.
probe_dry_known() {
	if [ "$1" = 4 ]; then REPLY=$dry4; else REPLY=$dry6; fi
	[ -n "$REPLY" ] && if [ "$1" = 4 ]; then [ "$2" = "$goal4" ]; else [ "$2" = "$goal6" ]; fi
}

# Some shells keep a text for a program in a file. What did not come for want of room must not pass for "nothing is
# wanted".
probe_no_room() { refuse no-space "the shell there found no room for a text of the plan, in /dev/shm or /tmp"; }

probe_rules() {
	local goal wanted predicted live='' kept='' unread='' saved=0
	section "rules$1"
	if ipt_find "$1"; then
		ipt_save_once "$1"
		saved=$? live=$REPLY
	fi
	ipt_find_backend "$1"
	printf 'backend=%s\nversion=%s\n' "$backend" "$ipt_version"
	[ "$backend" = none ] && return
	section "live$1"
	looked=
	if "${DESIRED}_rules" "$1" probe_live_rules "$1"; then
		section "same$1"
		as_proven="$as_proven$1"
		return
	fi
	[ -n "$looked" ] || probe_no_room
	probe_provable_rules "$1" || probe_no_room
	wanted=$REPLY_desired goal=$REPLY
	# A save that failed is no host without rules.
	if [ $saved = 1 ] && { [ -n "$wanted" ] || [ -L $ETC/current ]; }; then refuse dry-run "$ipt-save failed"; fi
	case "$goal$live" in
	*KVMFW-* | *:[A-Z]*\ [AD][CR]*) ;;
	*) return ;;
	esac
	[ -n "$goal" ] || case $live in *KVMFW-*) ;; *) return ;; esac
	# The same rules are desired, but those that boot may differ.
	if [ -L $ETC/current ]; then
		if ! text_read $ETC/current/want"$1"; then
			unread=yes
		elif [ "$REPLY" = "$wanted" ]; then
			if text_read $ETC/current/rules.v"$1"; then kept=$REPLY; else unread=yes; fi
		fi
	fi
	section "dry$1"
	dry_runs=yes
	ipt_dry_run "$1" "$live" "$goal"
	rc=$? predicted=$REPLY
	printf 'rc=%s\n%s\n' "$rc" "$predicted" | awk -v look=1 "$PROBE_LIVE_AWK"
	if [ $rc -eq 0 ]; then
		if [ "$1" = 4 ]; then goal4=$goal dry4=$predicted; else goal6=$goal dry6=$predicted; fi
	fi
	case $rc$goal in [!0]* | *kvmfw:unproven*) return ;; esac
	if [ -n "$unread" ] || [ -n "$kept" ] && ! ipt_matches "$predicted" "$kept"; then
		section "boot$1"
		echo "$ETC/current/rules.v$1"
	fi
}

# Prints the live rules of family $1. Succeeds if they are those that were proven before and are desired now.
probe_live_rules() {
	looked=yes
	first_line $ETC/current/rules.v"$1"
	if [ -n "$REPLY" ] && [ "$REPLY" != '#end 0' ] && [ -e $ETC/current/want"$1" ]; then
		awk -v look=1 -v asked_text=/proc/self/fd/3 -v kept_text=$ETC/current/want"$1" "$PROBE_LIVE_AWK$IPT_TARGET_AWK$IPT_CHANGE_AWK" - $ETC/current/rules.v"$1" <<-LIVE
			$live
			=
		LIVE
		case $? in 0) return 0 ;; 3) return 1 ;; esac
		# It did not come to its end: once more, and the last of two sections counts.
		section "live$1"
	fi
	[ -z "$live" ] || printf '%s\n' "$live" | awk -v look=1 "$PROBE_LIVE_AWK"
	return 1
}

# Behind which bridge and port guests are that lead here or to other hosts: the controller, jump hosts.
probe_client() {
	local client dev jump met=''
	section client
	have bridge || return 0
	client=${SSH_CONNECTION:-${OPERATOR_CONNECTION-}}
	client=${client%% *}
	for dev in /sys/class/net/*/bridge ''; do [ ! -d "$dev" ] || break; done
	[ -n "$dev" ] || return 0
	[ -z "$client" ] || probe_guest_port "$client" guest=
	for jump in ${JUMP_HOSTS-}; do
		probe_on_bridge "${jump#*=}" || continue
		met="$met $jump"
		# Idle hosts drop out of the forwarding database. All are pinged in parallel, so absent ones cost one timeout.
		if have ping; then ping -c 1 -W 1 "${jump#*=}" >/dev/null 2>&1 & fi
	done
	[ -z "$met" ] || wait
	for jump in $met; do probe_guest_port "${jump#*=}" "jump_host=${jump%%=*} "; done
}

# Whether $1 is in the network of one of the host's bridges.
probe_on_bridge() {
	local dev
	dev=$("${IP:-ip}" -o route get "$1" 2>/dev/null)
	case $dev in *' via '* | local* | '') return 1 ;; esac
	dev=${dev#* dev }
	[ -d "/sys/class/net/${dev%% *}/bridge" ]
}

# Prints $2, and the port and the bridge behind which $1 is, if that is a guest's: a tap, or named like one.
probe_guest_port() {
	local mac='' dev='' port neighbours word before=''
	neighbours=$("${IP:-ip}" -o neigh show to "$1" 2>/dev/null)
	for word in $neighbours; do
		case $before in dev) dev=$word ;; lladdr) mac=$word ;; esac
		[ "$before" = lladdr ] || { before=$word; continue; }
		before=$word
		[ -d "/sys/class/net/$dev/bridge" ] || continue
		port=$(bridge fdb show br "$dev" 2>/dev/null | awk -v mac="$mac" '$1 == mac && !/permanent/ { print $3; exit }')
		case $port in
		'') continue ;;
		vnet* | tap* | fwpr* | veth*i[0-9]*) ;;
		*) [ -e "/sys/class/net/$port/tun_flags" ] || continue ;;
		esac
		printf '%s%s of %s\n' "$2" "$port" "$dev"
	done
}

# The sockets of the program behind the tun device that the controller comes by, which carry the tunnel. Hosts without
# such a device have no process for it.
probe_tunnel() {
	local client dev pid inodes
	client=${SSH_CONNECTION:-${OPERATOR_CONNECTION-}}
	client=${client%% *}
	for dev in /sys/class/net/*/tun_flags ''; do [ ! -e "$dev" ] || [ -e "${dev%/*}/brport" ] || break; done
	[ -n "$dev" ] && [ -n "$client" ] || return 0
	dev=$("${IP:-ip}" -o route get "$client" 2>/dev/null)
	case $dev in *' dev '*) dev=${dev#* dev } dev=${dev%% *} ;; *) return 0 ;; esac
	[ -e "/sys/class/net/$dev/tun_flags" ] || return 0
	section tunnel
	inodes=$(
		grep -ls "^iff:[[:space:]]*$dev\$" /proc/[0-9]*/fdinfo/* 2>/dev/null | while read -r pid; do
			pid=${pid#/proc/}
			ls -l "/proc/${pid%%/*}/fd" 2>/dev/null
		done | sed -n 's/.* -> socket:\[\([0-9]*\)\]$/\1/p'
	)
	[ -n "$inodes" ] || return 0
	set --
	for dev in /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6; do [ ! -r "$dev" ] || set -- "$@" "$dev"; done
	awk 'NR == FNR { inode[$1] = 1; next }
		FNR == 1 { print ">" FILENAME }
		$10 in inode { print $2, $3, $4 }' - "$@" <<-INODES
			$inodes
		INODES
}

# What listens and what is connected, so that a plan can say which of it new rules would cut. Bounded: a host may have a
# hundred thousand, and to walk its table of them takes a millisecond even where it is empty. Where the rules are as
# they were proven nothing is cut, unless those of others are taken over or come back, or members of sets change.
probe_sockets() {
	local file
	for file in "$ETC"/current/adopted/*; do [ ! -e "$file" ] || dry_runs=yes; done
	[ -n "$dry_runs$boot_files_asked${SETS-}" ] || return 0
	note_section sockets
	for file in /proc/net/tcp /proc/net/tcp6 /proc/net/udp /proc/net/udp6; do note_file $file; done
}

# What loads rules of others at boot: files as iptables-save writes them, and whatever may call iptables: scripts of the
# network, units that are enabled, cron. notes.sh tells the lines that matter, and of files of rules all where it is
# asked for (boot_files_asked), because such a file may be long.
probe_boot_files() {
	local file link name seen=' '
	note_section boot_files
	for file in /etc/iptables/rules.v4 /etc/iptables/rules.v6 /etc/sysconfig/iptables /etc/sysconfig/ip6tables \
		/etc/iptables.rules /etc/ip6tables.rules /etc/iptables.up.rules /etc/rc.local /etc/rc.d/rc.local /etc/network/interfaces \
		/etc/network/interfaces.d/* /etc/network/if-pre-up.d/* /etc/network/if-up.d/* /etc/networkd-dispatcher/*.d/* \
		/etc/NetworkManager/dispatcher.d/* /etc/cron.d/* /etc/crontab /var/spool/cron/crontabs/* /var/spool/cron/* \
		/etc/systemd/system/*.service.d/*.conf; do
		case ${file##*/} in *kvmfw*) ;; *) note_file "$file" ;; esac
	done
	for link in /etc/systemd/system/*.wants/*.service /etc/systemd/system/*.requires/*.service; do
		name=${link##*/}
		case $name$seen in kvmfw* | *" $name "*) continue ;; esac
		seen="$seen$name "
		case $name in netfilter-persistent.service | iptables.service | ip6tables.service) note_line "!$name" ;; esac
		for file in "/etc/systemd/system/$name" "/usr/local/lib/systemd/system/$name" "/usr/lib/systemd/system/$name" "/lib/systemd/system/$name"; do
			if [ -e "$file" ] || [ -L "$file" ]; then note_file "$file"; break; fi
		done
	done
	for file in /etc/rc[2S].d/S*; do
		name=${file##*/S[0-9][0-9]}
		[ -e "/usr/lib/systemd/system/$name.service" ] || [ -e "/lib/systemd/system/$name.service" ] || note_file "$file"
	done
}

probe_links() {
	section links
	ip -d -j address show 2>/dev/null
	section routes4
	probe_routes 4
	section routes6
	probe_routes 6
}

# VLANs of ports, where a bridge filters by them, is to, or had some from us.
probe_vlans() {
	local file asked=${VLANS-}
	section vlans
	for file in /sys/class/net/*/bridge/vlan_filtering; do
		[ -n "$asked" ] && break
		first_line "$file"
		[ "$REPLY" != 1 ] || asked=yes
	done
	if [ -z "$asked" ]; then
		[ -s $ETC/current/boot.bridges ] || [ -s "${T-}/new/boot.bridges" ] || return 0
		grep -qs -e '^vlan ' -e ' vlan_filtering 1$' $ETC/current/boot.bridges "${T-}/new/boot.bridges"
		# One of the two may not be there.
		case $? in 1 | 2) return 0 ;; esac
	fi
	have bridge && bridge -compressvlans -json vlan show 2>/dev/null
	:
}

# Routes, the rules that choose among their tables, and neighbours and next hops that somebody wrote down.
probe_routes() {
	ip -o "-$1" -force -batch - <<-'ROUTES' 2>/dev/null
		route show table all
		rule show
		neigh show nud permanent
		neigh show proxy
		nexthop show
	ROUTES
}

probe_all() {
	reads=''
	probe_host
	if [ "$ROOT" != yes ]; then
		section end
		return
	fi
	probe_state
	probe_boot
	probe_sysctl
	probe_sets
	probe_rules 4
	probe_rules 6
	probe_others
	probe_evidence
	probe_links
	probe_vlans
	probe_tunnel
	probe_sockets
	probe_network
	probe_boot_files
	probe_client
	note_print || refuse unreadable "the files of this host cannot be read"
	section end
}

ROOT=no
[ -w /proc/sys/net/ipv4/ip_forward ] && ROOT=yes
