# shellcheck shell=dash disable=SC3043,SC2154
# The transaction as commands see it: from staging to the decision. What the guard does of it is in guard.sh.

# Everything up to the point of no return: lock, look again, record, prove, write down, sync.
txn_stage() {
	memory_is_tmpfs || refuse no-tmpfs "/run is not a tmpfs, and a rollback must not need a disk"
	memory_make || refuse no-space "cannot write to $R"
	printf '%s\n' "${SSH_CONNECTION:-${OPERATOR_CONNECTION-}}" >"$T/ssh"
	for mark in commit rollback; do echo $mark >"$T/$mark" || refuse no-space "cannot write to $T"; done
	# Opened before the guard starts, so that its last word is not lost if it dies.
	exec 6<>"$R/ack"
	guard_start
	# Not by the function, which would cost one more process: no lock is open here that could leak.
	answer=$(command timeout 15 sh -c 'IFS= read -r line <&6 && printf "%s\n" "$line"')
	case $answer in
	locked) guarded=yes ;;
	busy*) refuse locked "${answer#busy }" ;;
	*) refuse guard-failed "the guard did not come up: $(tail -n 1 "$R/log" 2>/dev/null)" ;;
	esac
	# The record of adopted rules names what loaded them.
	if [ -e "$T/new/adopt4" ] || [ -e "$T/new/adopt6" ]; then boot_files_asked=yes; fi
	! text_is_filled "$T/new/sets" || SETS=yes
	probe_all
	[ -L $ETC/current ] || [ ! -e $ETC/generations ] || rm -rf $ETC/generations
	generation=0
	for file in "$ETC"/generations/*; do
		name=${file##*/}
		case $name in *[!0-9]* | '') ;; *) [ "$name" -le "$generation" ] || generation=$name ;; esac
	done
	generation=$((generation + 1))
	echo "$generation" >"$T/generation" || refuse no-space "cannot write to $T"
	G=$ETC/generations/$generation
	txn_snapshot || refuse no-space "cannot write the snapshot to $T"
	mkdir -p "$G/adopted" $VAR/original/files $VAR/original/new || refuse no-space "cannot write to $ETC"
	cp -R "$T"/new/base/* "$T/new/sysctl.d" "$T/new/net" "$T/new/udev.rules" "$T/new/sysctl.keys" "$T/new/desired.json" "$T/new/boot.modules" "$T/new/boot.bridges" "$T/new/sets" "$T/new/sets.originals" "$T/owner" "$G/" && txn_print_current >"$G/before" || refuse no-space "cannot write to $G"
	txn_prove 4
	txn_prove 6
	adopt_keep_rules || refuse no-space "cannot write to $G"
	set --
	for file in "$T"/new/sysctl.d/*.conf; do
		[ ! -e "$file" ] || set -- "$@" "$G/sysctl.d/${file##*/}"
	done
	for file in "$T"/new/net/*; do
		[ -e "$file" ] || continue
		# NetworkManager and netplan want theirs for root alone; networkd is not root.
		case $file in *.nmconnection | *.yaml) ;; *) set -- "$@" "$G/net/${file##*/}" ;; esac
	done
	net_prove_netplan
	chmod a+rX $ETC $ETC/generations "$G" "$G/sysctl.d" "$G/net" "$@"
	for family in 4 6; do
		absent=
		if ipt_find_backend $family; then
			ipt_save_once $family || REPLY=
			for table in raw mangle nat filter security; do
				case "$NL$REPLY$NL" in *"$NL*$table$NL"*) ;; *) absent="${absent}absent $table$NL" ;; esac
			done
		fi
		text_write "$T/pre/tables$family" "$absent" || refuse no-space "cannot write to $T"
	done
	boot_install_units || refuse no-boot "there is no /etc/systemd/system to put the boot units into"
	boot_files=$REPLY
	set --
	for file in "$T"/* "$T"/pre/* "$T"/new/* "$T" "$G"/* "$G"/sysctl.d/* "$G"/net/* "$G"/adopted/* "$G" $ETC/generations $ETC ${ETC%/*} $VAR/txn $VAR ${VAR%/*}; do
		[ ! -e "$file" ] || [ -p "$file" ] || set -- "$@" "$file"
	done
	# shellcheck disable=SC2086 # our own names
	disk_sync_existing "$@" $boot_files || refuse no-space "cannot sync $T to disk"
	memory_fill || refuse no-space "cannot keep in $R what a rollback needs"
	txn_run_checks before
	section staged
	printf 'generation=%s\n' "$generation"
	section end2
}

# The generation that boots now; 0 for the state before kvmfw.
txn_print_current() {
	local now=0
	if [ -L $ETC/current ]; then
		# The probe has read it, under the same lock.
		link_target $ETC/current
		now=${REPLY:-$(readlink $ETC/current)} || return 1
		[ -n "$now" ] || return 1
	fi
	printf '%s\n' "${now##*/}"
}

# The very transaction, in a clone of the live rules, before anything is armed.
txn_prove() {
	local live predicted goal foreign text
	text_write "$G/rules.v$1" '' || refuse no-space "cannot write to $G"
	adopt_goal "$1" || refuse unreadable "what was adopted cannot be read"
	foreign=$REPLY
	ipt_find_backend "$1" || return 0
	if ! ipt_save_once "$1"; then
		! ipt_is_needed "$1" || refuse dry-run "$ipt-save failed"
		return 0
	fi
	live=$REPLY
	text_is_filled "$T/new/want$1" || [ -n "$foreign" ] || case $live in *KVMFW-*) ;; *) return 0 ;; esac
	# The live rules are what was proven of this very text: nothing is to be loaded, and nothing to be proven.
	case $as_proven in *"$1"*)
		if [ -z "$foreign" ]; then
			cp $ETC/current/rules.v"$1" "$G/" || refuse no-space "cannot write to $G"
			return 0
		fi
		;;
	esac
	probe_provable_rules "$1" || refuse unreadable "the rules that are wanted cannot be read"
	goal=$REPLY
	case "
$REPLY_desired" in *"
?"*) [ -d /proc/sys/net/bridge ] || return 0 ;; esac
	adopt_join "$goal" "$foreign"
	text=$REPLY
	probe_dry_known "$1" "$text" || ipt_dry_run "$1" "$live" "$text" ||
		refuse dry-run "$(ipt_print_program "$1") refuses the rules: $(echo "$REPLY" | grep . | tail -n 3 | tr '\n' ' ')"
	predicted=$REPLY
	ipt_canonical_goal "$goal" "$predicted" && goal=$REPLY && text_write "$G/rules.v$1" "$goal" || refuse no-space "cannot write to $G"
	adopt_join "$goal" "$foreign"
	ipt_matches "$predicted" "$REPLY" || refuse dry-run "the rules are not what was wanted after loading them in a dry run"
}

# Before anything is armed.
txn_abort() {
	true >"$R/abort"
	guard_replace
	guard_wake abort
}

guard_start() {
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
guard_replace() {
	[ -d /run/systemd/system ] || ! flock -n "$R/guard.lock" true || guard_start
}

# Reads the words of the guard until one of them ends the wait, for $1 seconds at most.
guard_await() {
	[ ! -e "$T/done" ] || return 0
	timeout "$1" sh -c '
		while IFS= read -r line <&6; do
			case $line in applied | done* | rollback-failed*) exit 0 ;; esac
		done
		exit 1'
}

# Lets the guard arm, waits for the change, and prints the outcome.
txn_start() {
	[ -d "$R" ] || { txn_outcome; return; }
	true >"$R/start" || refuse no-space "cannot write to $R"
	exec 6<>"$R/ack"
	guard_replace
	guard_wake start
	txn_limit apply
	guard_await $((REPLY + 10))
	txn_outcome
}

# Prints the state of the transaction, from its files.
txn_outcome() {
	local outcome why=''
	section outcome
	if [ -e "$T/done" ]; then
		if [ -e "$T/reason" ]; then
			first_line "$T/reason"
			why=${REPLY:-the reason that the host recorded cannot be read}
		fi
		first_line "$T/done"
		outcome=$REPLY
		[ -n "$why" ] || case $outcome in *': '*) why=${outcome#*: } ;; esac
		if [ -z "$outcome" ]; then
			# The disk was full when the transaction ended; the decision is on record.
			first_line "$T/decision"
			case $REPLY in commit) outcome=committed ;; *) outcome=rolled-back ;; esac
		fi
		printf 'state=%s\n' "${outcome%%:*}"
		printf 'reason=%s\n' "$why"
	elif [ -e "$R/state" ]; then
		{ IFS= read -r outcome && IFS= read -r why; } <"$R/state"
		printf 'state=%s\nreason=%s\n' "${outcome-}" "$why"
	elif txn_decision && [ -n "$REPLY" ]; then
		printf 'state=deciding\ndecision=%s\n' "$REPLY"
	elif [ -e "$R/applied" ]; then
		guard_seconds_left
		printf 'state=applied\nleft=%s\n' "$REPLY"
	elif [ -e "$T/armed" ]; then
		printf 'state=applying\nstep=%s\n' "$(tail -n 1 "$T/journal" 2>/dev/null)"
	else
		printf 'state=staged\n'
	fi
	if [ -s "$R/error" ]; then sed 's/^/error=/' "$R/error"; elif [ -s "$T/error" ]; then sed 's/^/error=/' "$T/error"; fi
	guard_moves || printf 'guard=%s\n' "$REPLY"
	section end
}

# One line of new/checks: number, from host or not, timeout, kind, argument, port.
txn_run_checks() {
	local n seconds kind what port line IFS="$NL"
	text_read "$T/new/checks" || refuse unreadable "the checks of this change cannot be read"
	section "checks"
	set -f
	for line in $REPLY; do
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

# Verifies, over a new connection, that the controller with the token can reach the host, and runs the checks. Decides nothing.
txn_verify() {
	section verify
	if ! txn_token_is_right; then
		[ -e "$T/done" ] || { echo "refused=the token is wrong"; txn_outcome; return; }
	fi
	if txn_is_old_connection; then
		echo "refused=this is the connection that applied; an old connection proves nothing"
		txn_outcome
		return
	fi
	txn_run_checks after
	txn_outcome
}

# An established session lives on under rules that no new one passes.
txn_is_old_connection() { first_line "$T/ssh"; [ -n "${SSH_CONNECTION-}" ] && [ "$SSH_CONNECTION" = "$REPLY" ]; }

txn_token_is_right() { first_line "$T/token"; [ "${TOKEN-}" != "" ] && [ "$TOKEN" = "$REPLY" ]; }

txn_commit() {
	! txn_is_old_connection && txn_token_is_right && [ -e "$R/applied" ] && txn_disk_answers && txn_decide commit
	txn_await_decision
}

# A change that has cut off the disk is not confirmed: the deadline brings the disk back.
txn_disk_answers() {
	local folder
	first_line "$T/generation"
	# Two disks, perhaps.
	for folder in "$T" "$ETC/generations/$REPLY"; do
		[ -d "$folder" ] || continue
		timeout -s KILL 10 dd if="$R/limits" of="$folder/answers" conv=fsync 2>/dev/null || {
			say "the disk does not take the decision"
			return 1
		}
	done
	rm -f "$folder/answers"
}

# Waits until the guard has ended, or has written a state while it keeps trying.
# Fails when the guard is gone or does not move.
guard_wait() {
	local tries=0 silent=0 beaten=''
	while [ -d "$R" ] && [ ! -e "$R/done" ] && [ ! -e "$R/state" ] && [ $tries -lt 60 ]; do
		# An actor at a console has no lock.
		if { timeout -s KILL 1 flock "$R/guard.lock" true; } 2>/dev/null; then guard_actor_lives || return 1; fi
		tries=$((tries + 1))
		first_line "$R/beat"
		if [ "$REPLY" = "$beaten" ]; then silent=$((silent + 1)); else silent=0 beaten=$REPLY; fi
		[ $silent -lt $GRACE ] || return 1
	done
}

txn_await_decision() {
	guard_wake decision
	txn_decision
	won=$REPLY
	if [ -n "$won" ]; then
		case $NONCE in -) txn_await_end ;; *) guard_wait ;; esac
		if [ ! -d "$T" ]; then
			# The last trace went with the transaction: back to the original.
			section outcome
			[ "$won" = commit ] && echo state=committed
			section end
			return
		fi
	fi
	txn_outcome
}

# At the console: waits for the guard, and acts in its place if it is gone or does not move.
txn_await_end() {
	while [ -d "$R" ] && [ ! -e "$R/done" ] && { [ ! -e "$R/state" ] || ! guard_moves; }; do
		if [ ! -e "$R/state" ] && guard_wait || guard_act_beside; then return; fi
	done
}

# Fails if another process took the place first.
guard_act_beside() {
	[ -p "$R/ctl" ] || return 0
	exec 5>/dev/null 8<>"$R/ctl"
	ctl=$R/ctl
	# A guard that hangs keeps the lock of the host; opened to read, because the disk may hang too.
	if [ -e $VAR/lock ]; then exec 9<$VAR/lock && flock -n 9; fi
	guard_take_place || return 1
	[ -d "$R" ] && [ ! -e "$R/done" ] || return 0
	[ -e "$R/armed" ] || { txn_clear_away; txn_close "released: unlocked"; memory_remove; return 0; }
	console=yes ended=''
	txn_decide rollback "${REASON:-its guard does not move}"
	guard_finish
	[ -n "$ended" ] || return 0
	true >"$R/done"
	memory_remove
}

# Ends a transaction without a guard; one with a guard is left alone.
txn_recover_abandoned() {
	section recovered
	[ -L $VAR/open ] || { section end; return 0; }
	exec 9>>$VAR/lock
	if flock -n 9; then
		ID=none T=$VAR/txn/none
		txn_recover 5>/dev/null
		echo ended=yes
	fi
	section end
}
