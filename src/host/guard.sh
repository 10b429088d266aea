# shellcheck shell=dash disable=SC3043,SC2154
# The transaction on the host. Truth is which files exist, in memory (memory.sh) and in its folder on disk; everything
# else is a hint.
#
#   start     the controller wants it          armed     the guard watches: from here on it ends
#   claim     apply or fence: which came first result    the apply child ended: ok or bad
#   decision  commit or rollback, by link(2)   done      what came of it
#
# The guard sleeps in read(2) on the fifo `ctl`; whatever happens writes a word there, and the
# guard looks at the files again. A second guard waits on the lock of the first and takes over the
# moment it dies, or when it does not move though it should.

txn_select() {
	ID=$1
	T=$VAR/txn/$ID
	R=$RUN/$ID
	[ -n "$ID" ] && { [ -e "$R/armed" ] || [ -d "$T" ]; }
}

# REPLY: the open transaction. Reading it takes no program, which might fail and print nothing.
txn_find_open() {
	local folder
	REPLY=
	[ -L $VAR/open ] || return 0
	for folder in "$VAR"/txn/*; do
		[ ! "$folder" -ef $VAR/open ] || REPLY=${folder##*/}
	done
}

# REPLY: who runs the controller.
txn_owner() { first_line "$T/owner"; }

guard_wake() { [ -p "$R/ctl" ] && echo "$1" 1<>"$R/ctl"; }

guard_set_deadline() {
	uptime_cs
	# Also kept here, and overwritten in place: no room must not leave us with the deadline of the step before.
	deadline=$((REPLY + $1 * 100))
	printf '%15s\n' $deadline 1<>"$R/deadline" || return 1
	guard_start_timer "$1"
}

guard_stop_timer() {
	[ -n "${timer-}" ] || return 0
	# By group and by number: it may not have come to its setsid yet. And without `--`, which the
	# kill of dash takes for a number and then does nothing at all.
	kill -KILL "-$timer" 2>/dev/null
	kill -KILL "$timer" 2>/dev/null
	wait "$timer" 2>/dev/null
	timer=
}

guard_start_timer() {
	guard_stop_timer
	setsid sh -c 'sleep "$1"; echo tick >&8' sh "$1" 5>&- 9>&- 7>&- &
	timer=$!
}

# REPLY: the seconds until the deadline.
guard_seconds_left() {
	local now
	uptime_cs
	now=$REPLY
	if [ -n "${deadline-}" ]; then REPLY=$deadline; else first_line "$R/deadline"; fi
	REPLY=$(((${REPLY:-0} - now + 99) / 100))
}

# REPLY: the seconds that the controller grants for $1.
txn_limit() {
	local name value file=$R/limits
	REPLY=
	[ -e "$R/filled" ] || file=$T/limits
	while IFS='=' read -r name value; do
		if [ "$name" = "$1" ]; then REPLY=$value; fi
	done <"$file"
	# Without a deadline nothing would end the transaction.
	case $REPLY in '' | *[!0-9]*) REPLY=60 ;; esac
}

# Only one of commit and rollback becomes the decision: link(2) refuses the second. It is made in memory, where nothing
# hangs, and written to disk when it is carried out. A power cut between the two finds no decision, and the old state boots.
txn_decide() {
	[ -e "$R/decision" ] && return
	# The room that was kept for what is written from now on.
	{ true >"$R/reserve"; } 2>/dev/null
	[ "$1" = rollback ] && printf '%s\n' "$2" >"$R/reason"
	ln "$R/$1" "$R/decision" 2>/dev/null
	if [ ! -e "$R/decision" ] && [ "$1" = rollback ]; then
		# No room in memory: what cannot be recorded is not committed.
		rm -f "$R/commit"
		undecidable=yes
	fi
}

# REPLY: the decision, or nothing. The file is a link to the candidate that won, which is known without reading it. After a
# boot only the disk has it.
txn_decision() {
	local folder=$R
	[ -e "$R/decision" ] || [ -e "$R/armed" ] || folder=$T
	REPLY=
	if [ "$folder/decision" -ef "$folder/commit" ]; then
		REPLY=commit
	elif [ "$folder/decision" -ef "$folder/rollback" ] || [ -n "${undecidable-}" ]; then
		REPLY=rollback
	elif [ -e "$folder/decision" ]; then
		first_line "$folder/decision"
	fi
}

# Away with the candidate of a transaction that did not come to be.
txn_drop_generation() {
	first_line "$T/generation"
	case $REPLY in '' | *[!0-9]*) return 0 ;; esac
	[ $ETC/current -ef "$ETC/generations/$REPLY" ] || rm -rf "$ETC/generations/$REPLY"
}

# What only the change wanted goes. Where /etc could not be written a moment ago, it may be by now; what is left
# after that does nothing, and the next apply finds it.
txn_clear_away() {
	local tries=0
	until txn_drop_generation && persist_forget_new_host; do
		tries=$((tries + 1))
		[ $tries -lt 10 ] && [ -z "${booting-}" ] || return 0
		sleep 1
	done
}

guard_run() {
	# Started again by systemd after the end.
	[ -d "$R" ] || exit 0
	exec </dev/null >>"$R/log" 2>&1
	trap '' HUP PIPE INT TERM
	cd /
	exec 5<>"$R/ack" 8<>"$R/ctl" 7>>"$R/guard.lock"
	ctl=$R/ctl
	# The lock of the host is opened while the disk works. A later guard opens it only to read, which does not wait for a disk
	# that hangs; after an undo to the baseline the file does not exist.
	if [ ! -e "$R/armed" ]; then
		exec 4>>$VAR/lock
	elif [ -e $VAR/lock ]; then
		exec 4<$VAR/lock
	else
		exec 4<"$R/log"
	fi
	guard_await_turn || exit 0
	exec 9>&4 4>&-
	guard_beat
	if [ -e "$R/deadline" ]; then
		# The one before us had this lock. A process that it leaves behind may give it back a moment later than
		# the lock of the guards, and who else gets it ends this transaction first. One that cannot be killed keeps it.
		if [ -n "$REPLY_undead" ]; then flock -n 9; else lock_within 9 10; fi
		[ -d "$R" ] && [ ! -e "$R/done" ] || exit 0
		guard_seconds_left
		[ "$REPLY" -le 0 ] || guard_start_timer "$REPLY"
	elif flock -n 9 || guard_take_stale_lock; then
		txn_owner
		echo "$REPLY ($ID, since $(date -u +%Y-%m-%dT%H:%M:%SZ))" >$VAR/lock
		txn_finish_removal
		if [ -L $VAR/open ]; then txn_recover 5>/dev/null; fi
		[ ! -L $VAR/open ] || guard_refuse_busy "the transaction before, which is being ended"
		txn_limit stage
		guard_set_deadline "$REPLY" || guard_refuse_busy "nobody: there is no room in $RUN"
	else
		IFS= read -r line <$VAR/lock
		guard_refuse_busy "${line:-by an unknown holder}"
	fi
	if [ -e "$R/armed" ]; then took_over=yes; fi
	echo locked >&5
	while guard_watch; do read -r _ <&8; guard_beat; done
	guard_stop_timer
	true >"$R/done"
	memory_remove
	echo "done $ended" >&5
	exit 0
}

guard_refuse_busy() {
	true >"$R/done"
	echo "busy $1" >&5
	echo "released: the lock was held" >"$T/done"
	memory_remove
	exit 0
}

# Whether the lock was only held for a repair of the rules after the boot (boot_settle.sh), or by a transaction that is over,
# and is ours now.
guard_take_stale_lock() {
	local id
	first_line $VAR/lock
	id=${REPLY##*(}
	[ "$REPLY" = "$SETTLES" ] || [ -z "$REPLY" ] || [ -e "$VAR/txn/${id%%,*}/done" ] || return 1
	lock_within 9 10
}

# Looks at the files and does what they call for. Fails when the transaction is over.
guard_watch() {
	local left result
	if [ -e "$R/decision" ] || [ -n "${undecidable-}" ]; then
		guard_finish
		return 1
	fi
	if [ -e "$R/armed" ] && [ -e "$R/abort" ]; then
		# It came while the guard was arming.
		first_line "$R/abort"
		txn_decide rollback "${REPLY:-the controller gave it up}"
		guard_finish
		return 1
	fi
	guard_seconds_left
	left=$REPLY
	if [ ! -e "$R/armed" ]; then
		if [ -e "$R/abort" ] || [ "$left" -le 0 ]; then
			txn_clear_away
			txn_close "released: nothing was touched"
			return 1
		fi
		[ -e "$R/start" ] || return 0
		if ! guard_arm; then
			txn_clear_away
			txn_close "released: could not arm, nothing was touched"
			return 1
		fi
		return 0
	fi
	if [ -e "$R/result" ]; then
		first_line "$R/result"
		result=$REPLY
		# Its word may not be there yet.
		if [ -n "$result" ] && [ "$result" != ok ]; then
			last_line "$R/error"
			txn_decide rollback "the change could not be applied: $REPLY"
			guard_watch
			return
		fi
		if [ -n "$result" ] && [ ! -e "$R/applied" ]; then
			txn_limit confirm
			guard_set_deadline "$REPLY"
			if ! true >"$R/applied"; then
				txn_decide rollback "that it was applied could not be recorded"
				guard_watch
				return
			fi
			# On disk for people only, so nothing waits for it.
			{
				guard_detach
				true >"$T/applied"
			} &
			echo applied >&5
			return 0
		fi
	elif [ ! -e "$R/claim" ] && [ -n "${took_over-}" ]; then
		txn_decide rollback "the guard died before it started the change"
		guard_watch
		return
	fi
	# Always a new timer: without one the guard would sleep for ever.
	[ "$left" -gt 0 ] && { guard_start_timer "$left"; return 0; }
	if [ -e "$R/applied" ]; then
		txn_limit confirm
		txn_decide rollback "nobody confirmed over a new connection within ${REPLY}s"
	else
		txn_limit apply
		txn_decide rollback "the change was not applied within ${REPLY}s"
	fi
	guard_watch
}

guard_arm() {
	local boot
	read_boot_id
	boot=$REPLY
	txn_limit apply
	[ -e "$R/filled" ] && echo "$boot" >"$T/boot_id" && ln -s "txn/$ID" $VAR/open && guard_set_deadline "$REPLY" &&
		true >"$T/armed" && disk_sync "$T/boot_id" "$T" $VAR && true >"$R/armed" || { rm -f $VAR/open "$T/armed"; return 1; }
	echo armed >&5
	{
		exec 5>&- 7>&- 9>&-
		word=bad
		if setsid sh "$T/kvmfw.sh" apply "$ID" 8>&- >>"$R/log" 2>"$R/error" && echo ok >"$T/result"; then word=ok; fi
		echo $word >"$R/result"
		echo result >&8
		# Written down where it may hang only when the guard knows.
		[ $word = ok ] || echo bad >"$T/result"
	} &
}

# Nothing of the apply may run on once the restore begins.
guard_fence() {
	local tries=0 group start until
	stuck=
	ln "$R/fence" "$R/claim" 2>/dev/null
	first_line "$R/claim"
	[ "$REPLY" = apply ] || return 0
	# The apply may have its claim and not yet have written its number.
	while first_line "$R/apply.pid" && [ -z "$REPLY" ] && [ $tries -lt 50 ]; do
		tries=$((tries + 1))
		sleep 0.02
	done
	[ -n "$REPLY" ] || return 0
	group=${REPLY%% *} start=${REPLY#* }
	proc_is_group "$group" "$start" || return 0
	uptime_cs
	until=$((REPLY + 200))
	while [ "$REPLY" -lt "$until" ]; do
		kill -KILL "-$group" 2>/dev/null
		proc_group_lives "$group" || return 0
		sleep 0.02
		guard_beat
	done
	# It waits in the kernel, perhaps for a disk. It runs nothing any more, but its last request may still take effect.
	stuck=$group
}

# Whether a process group has members that are more than a record waiting to be read. Takes no program: one that does
# not start would mean that there are none.
proc_group_lives() {
	local file line
	kill -0 "-$1" || return 1
	for file in /proc/[0-9]*/stat; do
		read -r line <"$file" || continue
		line=${line##*) }
		case $line in [ZX]*) continue ;; esac
		# Its state and its parent come before the group.
		case ${line#? * } in "$1 "*) return 0 ;; esac
	done
	return 1
} 2>/dev/null

guard_finish() {
	guard_stop_timer
	txn_decision
	case $REPLY in commit) guard_finish_commit ;; *) guard_finish_rollback ;; esac
}

guard_finish_commit() {
	local rc inherited=''
	[ ! -e "$R/linking" ] || inherited=yes
	until guard_work settle 60 guard_note_deciding; do
		rc=$?
		# At boot others wait for this; the next apply or boot tries again.
		[ -z "${booting-}" ] || { echo "$ID is decided, but could not be made to last" >>$VAR/boot.failed; return; }
		if [ "$rc" -eq 5 ]; then
			printf '%s\n' "that it was confirmed could not be recorded" >"$R/reason"
			ln "$R/rollback" "$R/decided" && mv -f "$R/decided" "$R/decision" || undecidable=yes
			guard_finish_rollback
			return
		fi
		guard_outlive "$REPLY_hung"
		# The process that tried it is gone, so it will not come about any more.
		[ -n "$inherited" ] || rm -f "$R/linking"
		sleep 1
	done
	ended=committed
}

guard_finish_rollback() {
	local tries=0
	guard_fence
	[ -n "${booting-}" ] || guard_copy_decision &
	until [ -e "$R/recorded" ] || guard_work restore 20; do
		tries=$((tries + 1))
		[ -z "${booting-}" ] || { echo "the rollback of $ID did not succeed" >>$VAR/boot.failed; return; }
		[ $((tries % 600)) -eq 3 ] && guard_broadcast "rollback of $ID failed, trying on: $VAR/kvmfw.sh status"
		last_line "$R/log"
		[ $tries -eq 3 ] && echo "rollback-failed $REPLY" >&5
		[ $tries -ge 3 ] && guard_set_state rollback-failed "$REPLY"
		sleep 1
		# Not for ever more of the same.
		[ $tries -lt 100 ] || true >"$R/log"
	done
	while [ -n "$stuck" ] && proc_group_lives "$stuck"; do
		guard_set_state rolled-back "$(txn_print_reason), but the apply still hangs in the kernel"
		guard_beat
		sleep 2
	done
	# Its last request may have taken effect only now.
	[ -z "$stuck" ] || { stuck=; guard_finish_rollback; return; }
	[ "$tries" -lt 3 ] || rm -f "$R/state"
	tries=0
	until guard_work record 30 guard_note_unrecorded; do
		[ -n "${booting-}" ] || [ -e "$R/state" ] || guard_note_unrecorded 'take it'
		# At the console the operator reads it. The second guard, the next apply or the next boot records it.
		[ -z "${console-}${booting-}" ] || return 0
		guard_outlive "$REPLY_hung"
		# A disk that refuses at once is tried again only after a pause.
		[ $((tries += 1)) -lt 10 ] || sleep 9
		sleep 1
		[ $tries -lt 100 ] || true >"$R/log"
	done
	ended="rolled-back: $(txn_print_reason)"
}

# In a part of this shell that may hang: it keeps no lock and nothing that others wait for. By exec, because a shell
# keeps copies of what a redirection of its own functions closes.
guard_detach() { exec 5>&- 7>&- 8>&- 9>&- >/dev/null 2>&1; }

# On disk for people only: nothing waits for it, and guard_work_record does it again.
guard_copy_decision() {
	guard_detach
	cp "$R/reason" "$T/reason"
	[ -e "$T/decision" ] || ln "$T/rollback" "$T/decision"
}

txn_print_reason() { first_line "$R/reason"; printf '%s\n' "$REPLY"; }

# The state that commands report meanwhile.
guard_set_state() { printf '%s\n%s\n' "$1" "$2" >"$R/state"; }

guard_note_deciding() { guard_set_state deciding "confirmed, but the disk does not answer: until it does, the old state boots"; }

guard_note_unrecorded() {
	guard_set_state rolled-back "$(txn_print_reason) (not on record yet: the disk does not ${1:-answer})"
	say "the host is as before; the disk does not ${1:-answer}"
	echo "done rolled-back: $(txn_print_reason)" >&5
}

# Part of the work, in a process of its own: puts the host back, from memory alone.
guard_work_restore() {
	[ ! -e "$R/filled" ] || T=$R
	txn_roll_back
}

# Part of the work: writes down that the host was put back. Fails where the disk does not take it.
guard_work_record() {
	if [ ! -e "$T/done" ]; then
		[ ! -e "$R/reason" ] || cp "$R/reason" "$T/reason"
		[ -e "$T/decision" ] || ln "$T/rollback" "$T/decision"
		txn_clear_away
		txn_close "rolled-back: $(txn_print_reason)"
	else
		txn_wind_up rolled-back
	fi
	[ -e "$T/done" ]
}

# Part of the work: makes a commit last. Ends with 5 where the disk refuses to take the decision.
guard_work_settle() {
	local first=''
	# Gone with everything else after an undo to the original.
	[ -d "$T" ] || return 0
	[ ! -e "$T/done" ] || { txn_wind_up committed; return 0; }
	if [ ! -e "$T/decision" ]; then
		# A link that hung in an earlier attempt may still come about.
		[ -e "$R/linking" ] || first=yes
		true >"$R/linking"
		ln "$T/commit" "$T/decision"
		[ -e "$T/decision" ] || { [ -z "$first" ] || return 5; return 1; }
	fi
	disk_sync "$T" || { say "cannot sync the decision to disk"; return 1; }
	persist_generation || { say "cannot make it last yet"; return 1; }
	txn_close committed
}

txn_close() {
	local kept
	ended=$1
	txn_record "$1"
	for kept in log error; do [ ! -s "$R/$kept" ] || cat "$R/$kept" >"$T/$kept"; done
	# Whole or not at all; where not even this can be written, an empty one with the decision beside it.
	if ! { echo "$1" >"$T/done.new" && mv -f "$T/done.new" "$T/done"; }; then true >"$T/done"; fi
	# The next actor has to know, without a disk, that nothing is to be restored any more.
	if [ -e "$T/done" ] && [ -d "$R" ]; then true >"$R/recorded"; fi
	txn_wind_up "$1"
}

# What follows after that is on record; all of it can be done again.
txn_wind_up() {
	txn_put_away
	true >$VAR/lock
	if [ "$1" = committed ] && [ -e "$T/new/zero" ]; then txn_remove_traces; fi
}

# Removes all state in one step (rename, then delete), so that a process that waits for the lock never sees a folder that is
# half deleted. A folder at its place after that step belongs to the next transaction.
txn_remove_traces() {
	if mv $VAR $VAR.gone 2>/dev/null; then rm -rf $VAR.gone; else rm -rf $VAR; fi
}

# Where a power cut came between the two.
txn_finish_removal() { [ ! -e $VAR.gone ] || rm -rf $VAR.gone; }

# What a transaction that is over leaves lying.
txn_put_away() {
	set --
	[ -L $VAR/open ] && [ $VAR/open -ef "$VAR/txn/$ID" ] && set -- $VAR/open
	[ -e "$T/token" ] && set -- "$@" "$T/token"
	# Once more where it was killed: what is open keeps the next apply busy.
	[ $# -eq 0 ] || rm -f "$@" || rm -f "$@"
	disk_sync "$T/done" "$T" $VAR/history $VAR 2>/dev/null
	:
}

txn_record() {
	local generation owner
	[ -e "$T/armed" ] || return 0
	# One that was killed on the way may have written it.
	[ ! -e "$T/recording" ] || ! grep -qs "	$ID	" $VAR/history || return 0
	true >"$T/recording"
	txn_owner
	owner=$REPLY
	first_line "$T/generation"
	generation=$REPLY
	first_line "$T/plan"
	printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$generation" "$ID" "$1" "$owner" "$REPLY" >>$VAR/history
}

# In the background: a terminal, the journal or the console may have stopped.
guard_broadcast() {
	say "$1"
	if [ -n "${booting-}" ]; then guard_pass_on "$1"; else { guard_detach; guard_pass_on "$1"; } & fi
	:
}

guard_pass_on() {
	have logger && timeout -s KILL 5 logger -p daemon.crit -t kvmfw "$1"
	have wall && timeout -s KILL 5 wall "kvmfw: $1"
	echo "kvmfw: $1" >/dev/kmsg
} 2>/dev/null

# Ends a transaction without a guard: both guards are dead, or the host was booted since.
txn_recover() {
	local mine=$ID booted beaten
	txn_find_open
	txn_select "$REPLY" || { rm -f $VAR/open; txn_select "$mine"; return; }
	[ ! -e "$T/done" ] || { txn_put_away; memory_remove; txn_select "$mine"; return; }
	say "recovering $ID, left open"
	first_line "$T/boot_id"
	booted=$REPLY
	[ -n "${booting-}" ] || memory_restore || { say "there is no room in $RUN"; txn_select "$mine"; return; }
	[ -n "${booting-}${ctl-}" ] || { ctl=$R/ctl && exec 8<>"$ctl"; }
	read_boot_id
	if [ "$booted" = "$REPLY" ]; then
		# An operator at the console may be at it.
		first_line "$R/beat"
		beaten=${REPLY:-0}
		uptime_cs
		if [ "$REPLY" -le $((beaten + GRACE * 100)) ] && guard_actor_lives; then txn_select "$mine"; return; fi
		guard_take_place || { txn_select "$mine"; return; }
		txn_decide rollback "its guard is gone"
		guard_finish
	else
		txn_decision
		if [ "$REPLY" = commit ]; then
			guard_finish
		else
			# What was live is gone with the boot, and what boots was never changed.
			txn_clear_away
			txn_close "rolled-back: the host was booted before a decision"
		fi
	fi
	memory_remove
	undecidable=
	txn_select "$mine"
}
