# shellcheck shell=dash disable=SC3043,SC2154
# The commands: what the controller calls, what boots, and what helps at the console.

# Everything up to the point of no return: lock, look again, record, prove, write down, sync.
stage() {
	run_is_memory || refuse no-tmpfs "/run is not a tmpfs, and a rollback must not need a disk"
	make_memory || refuse no-space "cannot write to $R"
	printf '%s\n' "${SSH_CONNECTION:-${OPERATOR_CONNECTION-}}" >"$T/ssh"
	for mark in commit rollback; do echo $mark >"$T/$mark" || refuse no-space "cannot write to $T"; done
	# Open before the guard is: what it says and then dies of must not be lost.
	exec 6<>"$R/ack"
	start_guard
	# Not by the function, which would be one process more: there is no lock here that could be kept.
	answer=$(command timeout 15 sh -c 'IFS= read -r line <&6 && printf "%s\n" "$line"')
	case $answer in
	locked) guarded=yes ;;
	busy*) refuse locked "${answer#busy }" ;;
	*) refuse guard-failed "the guard did not come up: $(tail -n 1 "$R/log" 2>/dev/null)" ;;
	esac
	# Where rules of others are taken over it is recorded what loaded them.
	if [ -e "$T/new/adopt4" ] || [ -e "$T/new/adopt6" ]; then boot_files_asked=yes; fi
	! holds "$T/new/sets" || SETS=yes
	probe
	[ -L $ETC/current ] || [ ! -e $ETC/generations ] || rm -rf $ETC/generations
	generation=0
	for file in "$ETC"/generations/*; do
		name=${file##*/}
		case $name in *[!0-9]* | '') ;; *) [ "$name" -le "$generation" ] || generation=$name ;; esac
	done
	generation=$((generation + 1))
	echo "$generation" >"$T/generation" || refuse no-space "cannot write to $T"
	G=$ETC/generations/$generation
	snapshot || refuse no-space "cannot write the snapshot to $T"
	mkdir -p "$G/adopted" $VAR/original/files $VAR/original/new || refuse no-space "cannot write to $ETC"
	cp -R "$T"/new/base/* "$T/new/sysctl.d" "$T/new/net" "$T/new/udev.rules" "$T/new/sysctl.keys" "$T/new/desired.json" "$T/new/boot.modules" "$T/new/boot.bridges" "$T/new/sets" "$T/new/sets.originals" "$T/owner" "$G/" && before_now >"$G/before" || refuse no-space "cannot write to $G"
	prove 4
	prove 6
	keep_adopted || refuse no-space "cannot write to $G"
	set --
	for file in "$T"/new/sysctl.d/*.conf; do
		[ ! -e "$file" ] || set -- "$@" "$G/sysctl.d/${file##*/}"
	done
	for file in "$T"/new/net/*; do
		[ -e "$file" ] || continue
		# NetworkManager and netplan want theirs for root alone; networkd is not root.
		case $file in *.nmconnection | *.yaml) ;; *) set -- "$@" "$G/net/${file##*/}" ;; esac
	done
	prove_netplan
	chmod a+rX $ETC $ETC/generations "$G" "$G/sysctl.d" "$G/net" "$@"
	for family in 4 6; do
		absent=
		if ipt_family $family; then
			ipt_saved $family || live=
			for table in raw mangle nat filter security; do
				case "$NL$live$NL" in *"$NL*$table$NL"*) ;; *) absent="${absent}absent $table$NL" ;; esac
			done
		fi
		put_text "$T/pre/tables$family" "$absent" || refuse no-space "cannot write to $T"
	done
	install_boot || refuse no-boot "there is no /etc/systemd/system to put the boot units into"
	set --
	for file in "$T"/* "$T"/pre/* "$T"/new/* "$T" "$G"/* "$G"/sysctl.d/* "$G"/net/* "$G"/adopted/* "$G" $ETC/generations $ETC ${ETC%/*} $VAR/txn $VAR ${VAR%/*}; do
		[ ! -e "$file" ] || [ -p "$file" ] || set -- "$@" "$file"
	done
	# shellcheck disable=SC2086 # our own names
	what_is_left_to_disk "$@" $boot_files || refuse no-space "cannot sync $T to disk"
	fill_memory || refuse no-space "cannot keep in $R what a rollback needs"
	run_checks before
	section staged
	printf 'generation=%s\n' "$generation"
	section end2
}

# The generation that boots now; 0 for the state before kvmfw.
before_now() {
	local now=0
	if [ -L $ETC/current ]; then
		# The probe has read it, under the same lock.
		link_target $ETC/current
		now=${target:-$(readlink $ETC/current)} || return 1
		[ -n "$now" ] || return 1
	fi
	printf '%s\n' "${now##*/}"
}

# The very transaction, in a clone of the live rules, before anything is armed.
prove() {
	local live predicted goal wanted foreign text
	put_text "$G/rules.v$1" '' || refuse no-space "cannot write to $G"
	foreign_goal "$1" || refuse unreadable "what was taken over cannot be read"
	ipt_family "$1" || return 0
	if ! ipt_saved "$1"; then
		! ours_are_asked "$1" || refuse dry-run "$ipt-save failed"
		return 0
	fi
	holds "$T/new/want$1" || [ -n "$foreign" ] || case $live in *KVMFW-*) ;; *) return 0 ;; esac
	# The live rules are what was proven of this very text: nothing is to be loaded, and nothing to be proven.
	case $as_proven in *"$1"*)
		if [ -z "$foreign" ]; then
			cp $ETC/current/rules.v"$1" "$G/" || refuse no-space "cannot write to $G"
			return 0
		fi
		;;
	esac
	want_provable "$1" || refuse unreadable "the rules that are wanted cannot be read"
	case "
$wanted" in *"
?"*) [ -d /proc/sys/net/bridge ] || return 0 ;; esac
	with_foreign "$goal" "$foreign"
	dry_known "$1" "$text" || ipt_dry "$1" "$live" "$text" ||
		refuse dry-run "$(ipt_number "$1") refuses the rules: $(echo "$predicted" | grep . | tail -n 3 | tr '\n' ' ')"
	goal_text "$goal" "$predicted" && put_text "$G/rules.v$1" "$goal" || refuse no-space "cannot write to $G"
	with_foreign "$goal" "$foreign"
	ipt_is "$predicted" "$text" || refuse dry-run "the rules are not what was wanted after loading them in a dry run"
}

# Before anything is armed.
abort() {
	true >"$R/abort"
	replace_guard
	poke abort
}

start_guard() {
	if [ -d /run/systemd/system ]; then
		have systemd-run || refuse systemd-unusable "systemd runs this host, but there is no systemd-run"
		# The second acts when the first does not move; to one that is stopped or frozen systemd does nothing. One that is
		# started again when all is over has no script any more, and is no failure.
		for unit in "kvmfw-$ID" "kvmfw-$ID-second"; do
			timeout -s KILL 15 systemd-run --quiet --unit="$unit" -p Restart=on-failure -p RestartSec=100ms -p OOMScoreAdjust=-1000 \
				-p StartLimitIntervalSec=0 -p StandardInput=null -p TimeoutStopSec=2 \
				sh -c '[ -e "$1" ] || exit 0; exec sh "$1" guard "$2"' sh "$R/kvmfw.sh" "$ID" >/dev/null 2>"$R/log" ||
				refuse systemd-unusable "systemd-run: $(tail -n 1 "$R/log")"
		done
	else
		setsid sh "$R/kvmfw.sh" guard "$ID" </dev/null >/dev/null 2>&1 6>&- &
		setsid sh "$R/kvmfw.sh" guard "$ID" </dev/null >/dev/null 2>&1 6>&- &
	fi
}

# Nothing is armed yet, and only a guard acts. Where both were killed, others go on from the files as they would
# have; systemd sees to that itself.
replace_guard() {
	[ -d /run/systemd/system ] || ! flock -n "$R/guard.lock" true || start_guard
}

# Reads what the guard says until it is one of the words that end the wait, for $1 seconds at most.
await() {
	[ ! -e "$T/done" ] || return 0
	timeout "$1" sh -c '
		while IFS= read -r line <&6; do
			case $line in applied | done* | rollback-failed*) exit 0 ;; esac
		done
		exit 1'
}

# Arms the guard and tells how the change went.
go() {
	[ -d "$R" ] || { outcome; return; }
	true >"$R/go" || refuse no-space "cannot write to $R"
	exec 6<>"$R/ack"
	replace_guard
	poke go
	limit apply
	await $((limit + 10))
	outcome
}

# What is so, from the files.
outcome() {
	section outcome
	if [ -e "$T/done" ]; then
		first_line "$T/done"
		why=
		if [ -e "$T/reason" ]; then
			first_line "$T/reason"
			why=${line:-the reason that the host recorded cannot be read}
			first_line "$T/done"
		fi
		[ -n "$why" ] || case $line in *': '*) why=${line#*: } ;; esac
		if [ -z "$line" ]; then
			# The disk was full when it ended; which way it ended is on record.
			first_line "$T/decision"
			case $line in commit) line=committed ;; *) line=rolled-back ;; esac
		fi
		printf 'state=%s\n' "${line%%:*}"
		printf 'reason=%s\n' "$why"
	elif [ -e "$R/state" ]; then
		{ IFS= read -r line && IFS= read -r why; } <"$R/state"
		printf 'state=%s\nreason=%s\n' "$line" "$why"
	elif decision && [ -n "$line" ]; then
		printf 'state=deciding\ndecision=%s\n' "$line"
	elif [ -e "$R/applied" ]; then
		seconds_left
		printf 'state=applied\nleft=%s\n' "$left"
	elif [ -e "$T/armed" ]; then
		printf 'state=applying\nstep=%s\n' "$(tail -n 1 "$T/journal" 2>/dev/null)"
	else
		printf 'state=staged\n'
	fi
	if [ -s "$R/error" ]; then sed 's/^/error=/' "$R/error"; elif [ -s "$T/error" ]; then sed 's/^/error=/' "$T/error"; fi
	guard_moves || printf 'guard=%s\n' "$guard"
	section end
}

# One line of new/checks: number, from host or not, timeout, kind, argument, port.
run_checks() {
	local n seconds kind what port line text IFS="$NL"
	read_text "$T/new/checks" || refuse unreadable "the checks of this change cannot be read"
	section "checks"
	set -f
	for line in $text; do
		set +f
		unset IFS
		n=${line%% *} line=${line#* }
		seconds=${line%% *} line=${line#* }
		kind=${line%% *} what=${line#* }
		case $kind in
		ping) timeout "$seconds" ping -n -c 1 -W "$seconds" "$what" >/dev/null 2>&1 ;;
		tcp)
			port=${what##* }
			what=${what% *}
			if have bash; then timeout "$seconds" bash -c 'exec 3<>"/dev/tcp/$1/$2"' bash "$what" "$port" 2>/dev/null
			else timeout "$seconds" nc -z "$what" "$port" >/dev/null 2>&1; fi
			;;
		command) timeout "$seconds" sh -c "$what" >/dev/null 2>&1 </dev/null ;;
		esac
		printf '%s=%s %s\n' "$n" "$?" "$1"
	done </dev/null
	set +f
}

# Comes over a new connection, proves by the token that it is the controller, and decides.
confirm() {
	section confirm
	if ! token_is_right; then
		[ -e "$T/done" ] || { echo "refused=the token is wrong"; outcome; return; }
	fi
	if old_connection; then
		echo "refused=this is the connection that applied; an old connection proves nothing"
		outcome
		return
	fi
	run_checks after
	outcome
}

# An established session lives on under rules that no new one passes.
old_connection() { first_line "$T/ssh"; [ -n "${SSH_CONNECTION-}" ] && [ "$SSH_CONNECTION" = "$line" ]; }

token_is_right() { first_line "$T/token"; [ "${TOKEN-}" != "" ] && [ "$TOKEN" = "$line" ]; }

commit() {
	! old_connection && token_is_right && [ -e "$R/applied" ] && disk_answers && decide commit
	settle
}

# A change that has cut off the disk is not confirmed: the deadline brings the disk back.
disk_answers() {
	local folder
	first_line "$T/generation"
	# Two disks, perhaps.
	for folder in "$T" "$ETC/generations/$line"; do
		[ -d "$folder" ] || continue
		timeout -s KILL 10 dd if="$R/limits" of="$folder/answers" conv=fsync 2>/dev/null || {
			say "the disk does not take the decision"
			return 1
		}
	done
	rm -f "$folder/answers"
}

# Until the guard is through, or has said that it tries on: that is an answer too.
# Fails when the guard is gone or does not move.
wait_guard() {
	local tries=0 silent=0 beaten=''
	while [ -d "$R" ] && [ ! -e "$R/done" ] && [ ! -e "$R/state" ] && [ $tries -lt 60 ]; do
		# Who acts at a console has no lock.
		if { timeout -s KILL 1 flock "$R/guard.lock" true; } 2>/dev/null; then actor_lives || return 1; fi
		tries=$((tries + 1))
		first_line "$R/beat"
		if [ "$line" = "$beaten" ]; then silent=$((silent + 1)); else silent=0 beaten=$line; fi
		[ $silent -lt $GRACE ] || return 1
	done
}

settle() {
	poke decision
	decision
	if [ -n "$line" ]; then
		won=$line
		case $NONCE in -) await_end ;; *) wait_guard ;; esac
		if [ ! -d "$T" ]; then
			# The last trace went with the transaction: back to the original.
			section outcome
			[ "$won" = commit ] && echo state=committed
			section end
			return
		fi
	fi
	outcome
}

status() {
	local current open state
	section status
	current=
	if [ -L $ETC/current ]; then
		current=$(readlink $ETC/current) || refuse unreadable "which generation boots cannot be read from $ETC/current"
	fi
	printf 'generation=%s\n' "${current##*/}"
	first_line $ETC/inventory
	printf 'inventory=%s\n' "$line"
	open_id
	open=$id
	printf 'open=%s\n' "$open"
	R=$RUN/$open
	[ -z "$open" ] || guard_moves || printf 'guard=%s\n' "$guard"
	boot_state
	adopted_rules
	[ -n "$current$open" ] || unrecorded
	if [ -n "$current" ] && [ -z "$open" ]; then
		differs
		boot_missing | sed 's/^/boot_missing=/'
	fi
	section transactions
	for T in "$VAR"/txn/*/; do
		[ -d "$T" ] || continue
		T=${T%/} R=$RUN/${T##*/}
		first_line "$T/done"
		state=$line
		if [ -z "$state" ]; then
			state=$(outcome) || state='state=unknown'
			state=${state#*state=}
			state=${state%%"$NL"*}
		fi
		owner
		printf '%s\t%s\t%s\n' "${T##*/}" "$state" "$owner"
	done
	section lock
	# The text outlives a holder that was killed; the lock itself does not.
	if [ -e $VAR/lock ] && ! flock -n $VAR/lock true; then cat $VAR/lock; fi
	section history
	tail -n 20 $VAR/history 2>/dev/null
	section end
}

# Rules of ours that are live on a host that has no generation.
unrecorded() {
	local family
	for family in 4 6; do
		ipt_name $family && ipt_save || continue
		case $live in *:KVMFW-*) printf 'unrecorded=%s\n' "$(ipt_number $family)" ;; esac
	done
}

# Where what is live is not what the generation says.
differs() {
	local family text keys
	for family in 4 6; do
		if ! read_text $ETC/current/rules.v$family; then
			printf 'boot_missing=%s\n' "$ETC/current/rules.v$family"
			continue
		fi
		[ -n "$text" ] && ipt_name $family && ipt_save || continue
		ipt_is "$live" "$text" || printf 'differs=%s\n' "$(ipt_number $family)"
	done
	! generation_sets_differ || echo differs=ipset
	differ=
	generation_keys $ETC/current && by_parts add_differing "$keys" && [ -z "$differ" ] || echo differs=sysctl
}

# Sets keys to what the sysctl files of a generation's folder set, as PATH=VALUE. Of two files that set one, the last
# counts.
generation_keys() {
	local file text whole
	keys=
	for file in "$1"/sysctl.d/*.conf; do
		[ ! -e "$file" ] || { set -- "$@" "$file"; }
	done
	shift
	[ $# -gt 0 ] || return 0
	# As sysctl.d(5): where the first separator is a dot, dots and slashes swap.
	text=$(awk '
		/^[^#=]*[^ #=] = / {
			at = index($0, " = "); key = substr($0, 1, at - 1); out = ""
			if (key ~ /^[^\/]*\./) {
				for (i = 1; i <= length(key); i++) {
					c = substr(key, i, 1)
					out = out (c == "." ? "/" : c == "/" ? "." : c)
				}
				key = out
			}
			if (!(key in value)) order[++n] = key
			value[key] = substr($0, at + 3)
		}
		END { for (i = 1; i <= n; i++) print order[i] "=" value[order[i]]; print "#end" }' "$@") && whole_output "$text" || return 1
	keys=${whole:+$whole$NL}
}

# Sets to to the generation before $1, as that recorded it, or where it did not, the newest older one that has its rules.
generation_before() {
	local file number
	if [ -e "$ETC/generations/$1/before" ]; then
		first_line "$ETC/generations/$1/before"
		to=$line
		[ -n "$to" ] || { say "which generation was before $1 cannot be read: name it"; return 1; }
		return
	fi
	to=0
	for file in "$ETC"/generations/*; do
		number=${file##*/}
		case $number in '' | *[!0-9]*) continue ;; esac
		[ -s "$file/rules.v4" ] && [ -s "$file/rules.v6" ] || continue
		[ "$number" -ge "$1" ] || [ "$number" -le "$to" ] || to=$number
	done
}

# Sets goal to the policies of family $1 from before kvmfw, as own text.
original_policies() {
	local text line IFS="$NL"
	goal=
	read_text $VAR/original/policies || return 1
	for line in $text; do
		case $line in "$1 "*) ;; *) continue ;; esac
		IFS=' '
		# shellcheck disable=SC2086 # its words
		set -- $line
		IFS=$NL
		goal="$goal*$2$NL:$3 $4${NL}COMMIT$NL"
	done
	goal=${goal%"$NL"}
}

# Sets keys to KEY=VALUE of what an undo from generation $1 to $2 sets: what that generation sets, and for keys that it
# does not set what was there before us.
undo_keys() {
	local key value text was there
	generation_keys "$ETC/generations/$2" || return 1
	there=$NL$keys
	text=
	[ ! -e $VAR/original/sysctl ] || read_text $VAR/original/sysctl || return 1
	was=$NL$text$NL
	if [ -e "$ETC/generations/$1/sysctl.keys" ]; then
		read_text "$ETC/generations/$1/sysctl.keys" || return 1
	else
		# Of a generation that is gone nobody knows what it set: it was some of these.
		text=
		while IFS= read -r key; do text="$text${key%%=*}$NL"; done <<-KEYS
			$was
		KEYS
	fi
	for key in $text; do
		case $there in *"$NL$key="*) continue ;; esac
		case $was in *"$NL$key="*) ;; *) continue ;; esac
		value=${was#*"$NL$key="}
		keys=$keys$key=${value%%"$NL"*}$NL
	done
}

# At the console, with the controller out of reach: back to an older generation, at once and without
# a guard, because whoever types this sits in front of the host. Bridges stay as they are.
# $1 a generation, 0 for the state before kvmfw; empty for the one before the current.
undo() {
	local current to=${1-} family text goal keys wanted once names rc=0
	exec 9>>$VAR/lock
	flock -n 9 || { say "locked by $(cat $VAR/lock)"; return 1; }
	[ ! -L $VAR/open ] || { say "a transaction is open: rollback or confirm it first"; return 1; }
	[ -L $ETC/current ] || { say "this host is not managed"; return 1; }
	current=$(readlink $ETC/current) && [ -n "$current" ] || { say "which generation boots cannot be read"; return 1; }
	current=${current##*/}
	[ -n "$to" ] || generation_before "$current" || return 1
	[ "$to" = 0 ] || [ -e "$ETC/generations/$to/desired.json" ] || { say "there is no generation $to"; return 1; }
	undo_sets "$current" "$to" || { say "the sets of generation $to cannot be read: name another"; return 1; }
	[ -z "$wanted$once" ] || load_sets "$wanted$NL$once" || { say "the sets did not load: $said"; return 1; }
	# A disk that is full must not cut off what is loaded: nothing of it is written there.
	for family in 4 6; do
		ipt_family $family || continue
		goal=
		if [ "$to" = 0 ]; then
			original_policies $family || { say "the policies from before kvmfw cannot be read"; return 1; }
		else
			read_text "$ETC/generations/$to/rules.v$family" || { say "the $(ipt_number $family) rules of generation $to cannot be read: name another"; return 1; }
			goal=$text
		fi
		foreign_back $family "$to" || { say "the $(ipt_number $family) rules that were taken over cannot be read"; return 1; }
		with_foreign "$goal" "$back"
		ipt_load $family "$text" || { say "the $(ipt_number $family) rules did not load"; return 1; }
	done
	gone_names "$once"
	drop_sets "$names" || rc=1
	# What the generation sets, and for keys that it does not set what was there before us: of two the last.
	differ=
	if ! undo_keys "$current" "$to" || ! write_lines "$keys" /dev/stderr; then
		# Where the kernel refused some, once more would not help.
		[ -n "$differ" ] || {
			say "the rules of generation $to are live, but the sysctl keys cannot be read, and the next boot loads generation $current: undo once more"
			return 1
		}
		rc=1
	fi
	printf '%s\t%s\tconsole\tundo\t%s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$to" "${SUDO_USER:-root}" >>$VAR/history
	if [ "$to" = 0 ]; then
		for family in 4 6; do ipt_family $family && tidy_tables $family $VAR/original/tables$family; done
		rm -f $ETC/current
		link_files_none || link_files_none || {
			say "not all of the files in /etc could be removed: look for kvmfw in /etc/systemd/system and /etc/sysctl.d"
			rc=1
		}
		vanish
		echo "back at the state before kvmfw$([ $rc = 0 ] || echo ', less what is said above')"
		return $rc
	fi
	ln -sfn "generations/$to" $ETC/current.new && mv -fT $ETC/current.new $ETC/current && to_disk $ETC || {
		say "generation $to is live, but the next boot loads generation $current: $ETC cannot be written"
		return 1
	}
	link_files || {
		say "not all of the files in /etc are those of generation $to; the next boot puts them right"
		rc=1
	}
	echo "back at generation $to$([ $rc = 0 ] || echo ', less what is said above')"
	return $rc
}

# At the console: waits for the guard, and does its work in its place where it is gone or does not move.
await_end() {
	while [ -d "$R" ] && [ ! -e "$R/done" ] && { [ ! -e "$R/state" ] || ! guard_moves; }; do
		if [ ! -e "$R/state" ] && wait_guard || act_beside; then return; fi
	done
}

# Fails when somebody else was faster.
act_beside() {
	[ -p "$R/ctl" ] || return 0
	exec 5>/dev/null 8<>"$R/ctl"
	ctl=$R/ctl
	# A guard that hangs keeps the lock of the host; opened to read, because the disk may hang too.
	if [ -e $VAR/lock ]; then exec 9<$VAR/lock && flock -n 9; fi
	take_place || return 1
	[ -d "$R" ] && [ ! -e "$R/done" ] || return 0
	[ -e "$R/armed" ] || { clear_away; close_txn "released: unlocked"; remove_memory; return 0; }
	console=yes ended=''
	decide rollback "${REASON:-its guard does not move}"
	finish
	[ -n "$ended" ] || return 0
	true >"$R/done"
	remove_memory
}

# Ends a transaction that nobody watches any more; one that is watched is left alone.
recover_abandoned() {
	section recovered
	[ -L $VAR/open ] || { section end; return 0; }
	exec 9>>$VAR/lock
	if flock -n 9; then
		ID=none T=$VAR/txn/none
		recover 5>/dev/null
		echo ended=yes
	fi
	section end
}

main() {
	command=${1-status}
	: "${NONCE:=-}"
	case $command in
	status)
		status
		return
		;;
	undo) undo "${2-}"; return ;;
	boot-early) at_boot boot_early; return ;;
	recover) recover_abandoned; return ;;
	boot-load) at_boot boot_load; return ;;
	boot-bridges) at_boot boot_bridges; return ;;
	boot-settle) at_boot boot_settle; return ;;
	esac
	id=${2-}
	# First those in memory: the disk may not answer.
	[ -n "$id" ] || for R in "$RUN"/*/armed; do
		[ ! -e "$R" ] || [ -e "${R%/armed}/recorded" ] || { id=${R%/armed} id=${id##*/}; }
	done
	[ -n "$id" ] || open_id
	# One that is not armed yet is known only by the lock that it holds.
	[ -n "$id" ] || id=$(sed -n 's/.* (\([^ ]*\), since [^ ]*)$/\1/p' $VAR/lock 2>/dev/null)
	if ! txn "$id"; then
		section outcome
		printf 'state=none\n'
		section end
		return 1
	fi
	case $command in
	stage | go | guard | apply | outcome | commit) $command ;;
	restore | record | settle)
		"work_$command"
		echo "end $$ $?" 1<>"$3"
		;;
	probe-confirm) confirm ;;
	confirm)
		# At the console the operator is the proof.
		first_line "$T/token"
		SSH_CONNECTION='' TOKEN=$line
		commit
		;;
	abort)
		abort
		[ ! -d "$R" ] || timeout -s KILL 10 flock "$R/guard.lock" true
		outcome
		;;
	rollback | unlock)
		case ${REASON-},$NONCE in
		,-) REASON="asked for by ${SUDO_USER:-root} at the console" ;;
		,*) REASON="asked for by a controller" ;;
		esac
		if [ -e "$R/armed" ]; then decide rollback "$REASON"; elif [ -d "$R" ]; then echo "$REASON" >"$R/abort"; fi
		poke decision
		await_end
		if [ ! -d "$R" ] && [ -d "$T" ] && [ ! -e "$T/done" ]; then
			# An `exec` that fails would end this shell.
			(exec 9>>$VAR/lock) 2>/dev/null || { say "$VAR/lock cannot be written"; outcome; return 1; }
			exec 9>>$VAR/lock 5>/dev/null
			flock -n 9 && if [ -e "$T/armed" ]; then recover; else clear_away; close_txn "released: unlocked"; fi
		fi
		outcome
		;;
	*) say "usage: kvmfw.sh status | confirm [RUN] | rollback [RUN] | unlock | undo [GENERATION]"; return 3 ;;
	esac
}

main "$@"
