# shellcheck shell=dash disable=SC3043,SC2154
# The transaction on the host. Truth is which files exist, in memory (memory.sh) and in its folder on disk; everything
# else is a hint.
#
#   go        the controller wants it          armed     the guard watches: from here on it ends
#   claim     apply or fence, who was first    result    the apply child ended: ok or bad
#   decision  commit or rollback, by link(2)   done      what came of it
#
# The guard sleeps in read(2) on the fifo `ctl`; whatever happens writes a word there, and the
# guard looks at the files again. A second guard waits on the lock of the first and takes over the
# moment it dies, or when it does not move though it should.

txn() {
	ID=$1
	T=$VAR/txn/$ID
	R=$RUN/$ID
	[ -n "$ID" ] && { [ -e "$R/armed" ] || [ -d "$T" ]; }
}

# Sets id to the transaction that is open. Which one that is takes no program, which might fail and say nothing.
open_id() {
	local folder
	id=
	[ -L $VAR/open ] || return 0
	for folder in "$VAR"/txn/*; do
		[ ! "$folder" -ef $VAR/open ] || id=${folder##*/}
	done
}

# Sets owner to who the controller says it is.
owner() {
	first_line "$T/owner"
	owner=$line
}

poke() { [ -p "$R/ctl" ] && echo "$1" 1<>"$R/ctl"; }

set_deadline() {
	uptime_cs
	# Also kept here, and overwritten in place: no room must not leave us with the deadline of the step before.
	deadline=$((now + $1 * 100))
	printf '%15s\n' $deadline 1<>"$R/deadline" || return 1
	start_timer "$1"
}

stop_timer() {
	[ -n "${timer-}" ] || return 0
	# By group and by number: it may not have come to its setsid yet. And without `--`, which the
	# kill of dash takes for a number and then does nothing at all.
	kill -KILL "-$timer" 2>/dev/null
	kill -KILL "$timer" 2>/dev/null
	wait "$timer" 2>/dev/null
	timer=
}

start_timer() {
	stop_timer
	setsid sh -c 'sleep "$1"; echo tick >&8' sh "$1" 5>&- 9>&- 7>&- &
	timer=$!
}

seconds_left() {
	uptime_cs
	if [ -n "${deadline-}" ]; then line=$deadline; else first_line "$R/deadline"; fi
	left=$(((${line:-0} - now + 99) / 100))
}

# Sets limit to the seconds that the controller grants for $1.
limit() {
	local name value file=$R/limits
	limit=
	[ -e "$R/filled" ] || file=$T/limits
	while IFS='=' read -r name value; do
		if [ "$name" = "$1" ]; then limit=$value; fi
	done <"$file"
	# A deadline there has to be.
	case $limit in '' | *[!0-9]*) limit=60 ;; esac
}

# Only one of commit and rollback becomes the decision: link(2) refuses the second. It is made in memory, where nothing
# hangs; who carries it out writes it to disk. A power cut between the two finds no decision, and the old state boots.
decide() {
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

# Sets line to what was decided. It is one file with the word that won, which tells it without being read. After a boot
# only the disk has it.
decision() {
	local folder=$R
	[ -e "$R/decision" ] || [ -e "$R/armed" ] || folder=$T
	line=
	if [ "$folder/decision" -ef "$folder/commit" ]; then
		line=commit
	elif [ "$folder/decision" -ef "$folder/rollback" ] || [ -n "${undecidable-}" ]; then
		line=rollback
	elif [ -e "$folder/decision" ]; then
		first_line "$folder/decision"
	fi
}

# Away with the candidate of a transaction that did not come to be.
drop_generation() {
	first_line "$T/generation"
	case $line in '' | *[!0-9]*) return 0 ;; esac
	[ $ETC/current -ef "$ETC/generations/$line" ] || rm -rf "$ETC/generations/$line"
}

# What only the change wanted goes. Where /etc could not be written a moment ago, it may be by now; what is left
# after that does nothing, and the next apply finds it.
clear_away() {
	local tries=0
	until drop_generation && forget_if_new; do
		tries=$((tries + 1))
		[ $tries -lt 10 ] && [ -z "${booting-}" ] || return 0
		sleep 1
	done
}

guard() {
	# Started again by systemd after the end.
	[ -d "$R" ] || exit 0
	exec </dev/null >>"$R/log" 2>&1
	trap '' HUP PIPE INT TERM
	cd /
	exec 5<>"$R/ack" 8<>"$R/ctl" 7>>"$R/guard.lock"
	ctl=$R/ctl
	# The lock of the host is opened while the disk is there. Who comes later opens it only to read, which does not wait
	# for a disk that hangs; after an undo to the original there is none.
	if [ ! -e "$R/armed" ]; then
		exec 4>>$VAR/lock
	elif [ -e $VAR/lock ]; then
		exec 4<$VAR/lock
	else
		exec 4<"$R/log"
	fi
	await_turn || exit 0
	exec 9>&4 4>&-
	beat
	if [ -e "$R/deadline" ]; then
		# The one before us had this lock. A process that it leaves behind may give it back a moment later than
		# the lock of the guards, and who else gets it ends this transaction first. One that cannot be killed keeps it.
		if [ -n "$undead" ]; then flock -n 9; else lock_within 9 10; fi
		[ -d "$R" ] && [ ! -e "$R/done" ] || exit 0
		seconds_left
		[ "$left" -le 0 ] || start_timer "$left"
	elif flock -n 9 || settled; then
		owner
		echo "$owner ($ID, since $(date -u +%Y-%m-%dT%H:%M:%SZ))" >$VAR/lock
		vanished
		if [ -L $VAR/open ]; then recover 5>/dev/null; fi
		[ ! -L $VAR/open ] || busy "the transaction before, which is being ended"
		limit stage
		set_deadline "$limit" || busy "nobody: there is no room in $RUN"
	else
		IFS= read -r line <$VAR/lock
		busy "${line:-by an unknown holder}"
	fi
	if [ -e "$R/armed" ]; then took_over=yes; fi
	echo locked >&5
	while watch; do read -r _ <&8; beat; done
	stop_timer
	true >"$R/done"
	remove_memory
	echo "done $ended" >&5
	exit 0
}

busy() {
	true >"$R/done"
	echo "busy $1" >&5
	echo "released: the lock was held" >"$T/done"
	remove_memory
	exit 0
}

# Whether the lock was only held for a repair of the rules after the boot (settle.sh), or by a transaction that is over,
# and is ours now.
settled() {
	local id
	first_line $VAR/lock
	id=${line##*(}
	[ "$line" = "$SETTLES" ] || [ -z "$line" ] || [ -e "$VAR/txn/${id%%,*}/done" ] || return 1
	lock_within 9 10
}

# Looks at the files and does what they call for. Fails when the transaction is over.
watch() {
	if [ -e "$R/decision" ] || [ -n "${undecidable-}" ]; then
		finish
		return 1
	fi
	if [ -e "$R/armed" ] && [ -e "$R/abort" ]; then
		# It came while the guard was arming.
		first_line "$R/abort"
		decide rollback "${line:-the controller gave it up}"
		finish
		return 1
	fi
	seconds_left
	if [ ! -e "$R/armed" ]; then
		if [ -e "$R/abort" ] || [ "$left" -le 0 ]; then
			clear_away
			close_txn "released: nothing was touched"
			return 1
		fi
		[ -e "$R/go" ] || return 0
		if ! arm; then
			clear_away
			close_txn "released: could not arm, nothing was touched"
			return 1
		fi
		return 0
	fi
	if [ -e "$R/result" ]; then
		first_line "$R/result"
		# Its word may not be there yet.
		if [ -n "$line" ] && [ "$line" != ok ]; then
			last_line "$R/error"
			decide rollback "the change could not be applied: $line"
			watch
			return
		fi
		if [ -n "$line" ] && [ ! -e "$R/applied" ]; then
			limit confirm
			set_deadline "$limit"
			if ! true >"$R/applied"; then
				decide rollback "that it was applied could not be recorded"
				watch
				return
			fi
			# On disk for whoever looks there; nobody waits for it.
			{
				detach
				true >"$T/applied"
			} &
			echo applied >&5
			return 0
		fi
	elif [ ! -e "$R/claim" ] && [ -n "${took_over-}" ]; then
		decide rollback "the guard died before it started the change"
		watch
		return
	fi
	# Always anew: who sleeps on without a timer sleeps for ever.
	[ "$left" -gt 0 ] && { start_timer "$left"; return 0; }
	if [ -e "$R/applied" ]; then
		limit confirm
		decide rollback "nobody confirmed over a new connection within ${limit}s"
	else
		limit apply
		decide rollback "the change was not applied within ${limit}s"
	fi
	watch
}

arm() {
	boot_id
	limit apply
	[ -e "$R/filled" ] && echo "$boot" >"$T/boot_id" && ln -s "txn/$ID" $VAR/open && set_deadline "$limit" &&
		true >"$T/armed" && to_disk "$T/boot_id" "$T" $VAR && true >"$R/armed" || { rm -f $VAR/open "$T/armed"; return 1; }
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
fence() {
	local tries=0 group until
	stuck=
	ln "$R/fence" "$R/claim" 2>/dev/null
	first_line "$R/claim"
	[ "$line" = apply ] || return 0
	# It may have its claim and not yet have told its number.
	while first_line "$R/apply.pid" && [ -z "$line" ] && [ $tries -lt 50 ]; do
		tries=$((tries + 1))
		sleep 0.02
	done
	[ -n "$line" ] || return 0
	group=${line%% *}
	is_group "$group" "${line#* }" || return 0
	uptime_cs
	until=$((now + 200))
	while [ "$now" -lt "$until" ]; do
		kill -KILL "-$group" 2>/dev/null
		lives "$group" || return 0
		sleep 0.02
		beat
	done
	# It waits in the kernel, for a disk perhaps. It runs nothing any more, but what it asked for last may still come.
	stuck=$group
}

# Whether a process group has members that are more than a record waiting to be read. Takes no program: one that does
# not start would mean that there are none.
lives() {
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

finish() {
	stop_timer
	decision
	case $line in commit) finish_commit ;; *) finish_rollback ;; esac
}

finish_commit() {
	local rc inherited=''
	[ ! -e "$R/linking" ] || inherited=yes
	until work settle 60 not_on_disk; do
		rc=$?
		# At boot others wait for this; the next apply or boot tries again.
		[ -z "${booting-}" ] || { echo "$ID is decided, but could not be made to last" >>$VAR/boot.failed; return; }
		if [ "$rc" -eq 5 ]; then
			printf '%s\n' "that it was confirmed could not be recorded" >"$R/reason"
			ln "$R/rollback" "$R/decided" && mv -f "$R/decided" "$R/decision" || undecidable=yes
			finish_rollback
			return
		fi
		outlive
		# The process that tried it is gone, so it will not come about any more.
		[ -n "$inherited" ] || rm -f "$R/linking"
		sleep 1
	done
	ended=committed
}

finish_rollback() {
	local tries=0
	fence
	[ -n "${booting-}" ] || decided_on_disk &
	until [ -e "$R/recorded" ] || work restore 20; do
		tries=$((tries + 1))
		[ -z "${booting-}" ] || { echo "the rollback of $ID did not succeed" >>$VAR/boot.failed; return; }
		[ $((tries % 600)) -eq 3 ] && shout "rollback of $ID failed, trying on: $VAR/kvmfw.sh status"
		last_line "$R/log"
		[ $tries -eq 3 ] && echo "rollback-failed $line" >&5
		[ $tries -ge 3 ] && set_state "rollback failed" "$line"
		sleep 1
		# Not for ever more of the same.
		[ $tries -lt 100 ] || true >"$R/log"
	done
	while [ -n "$stuck" ] && lives "$stuck"; do
		set_state rolled-back "$(rollback_reason), but the apply still hangs in the kernel"
		beat
		sleep 2
	done
	# What it had asked for came only now.
	[ -z "$stuck" ] || { stuck=; finish_rollback; return; }
	[ "$tries" -lt 3 ] || rm -f "$R/state"
	tries=0
	until work record 30 not_on_record; do
		[ -n "${booting-}" ] || [ -e "$R/state" ] || not_on_record 'take it'
		# Whoever sits there is told; the second guard, the next apply or the next boot writes it down.
		[ -z "${console-}${booting-}" ] || return 0
		outlive
		# A disk that refuses at once is not asked without a pause.
		[ $((tries += 1)) -lt 10 ] || sleep 9
		sleep 1
		[ $tries -lt 100 ] || true >"$R/log"
	done
	ended="rolled-back: $(rollback_reason)"
}

# In a part of this shell that may hang: it keeps no lock and nothing that others wait for. By exec, because a shell
# keeps copies of what a redirection of its own functions closes.
detach() { exec 5>&- 7>&- 8>&- 9>&- >/dev/null 2>&1; }

# For whoever looks at the disk; nobody waits for it, and work_record does it again.
decided_on_disk() {
	detach
	cp "$R/reason" "$T/reason"
	[ -e "$T/decision" ] || ln "$T/rollback" "$T/decision"
}

# Sets line to the last line of file $1.
last_line() {
	local next
	line=
	while IFS= read -r next || [ -n "$next" ]; do line=$next; done <"$1"
} 2>/dev/null

rollback_reason() { first_line "$R/reason"; printf '%s\n' "$line"; }

# What whoever asks is told meanwhile.
set_state() { printf '%s\n%s\n' "$1" "$2" >"$R/state"; }

not_on_disk() { set_state deciding "confirmed, but the disk does not answer: until it does, the old state boots"; }

not_on_record() {
	set_state rolled-back "$(rollback_reason) (not on record yet: the disk does not ${1:-answer})"
	say "the host is as before; the disk does not ${1:-answer}"
	echo "done rolled-back: $(rollback_reason)" >&5
}

# Part of the work, in a process of its own: puts the host back, from memory alone.
work_restore() {
	[ ! -e "$R/filled" ] || T=$R
	roll_back
}

# Part of the work: writes down that the host was put back. Fails where the disk does not take it.
work_record() {
	if [ ! -e "$T/done" ]; then
		[ ! -e "$R/reason" ] || cp "$R/reason" "$T/reason"
		[ -e "$T/decision" ] || ln "$T/rollback" "$T/decision"
		clear_away
		close_txn "rolled-back: $(rollback_reason)"
	else
		wind_up rolled-back
	fi
	[ -e "$T/done" ]
}

# Part of the work: makes a commit last. Ends with 5 where the disk refuses to take the decision.
work_settle() {
	local first=''
	# Gone with everything else after an undo to the original.
	[ -d "$T" ] || return 0
	[ ! -e "$T/done" ] || { wind_up committed; return 0; }
	if [ ! -e "$T/decision" ]; then
		# A link that hung in an earlier attempt may still come about.
		[ -e "$R/linking" ] || first=yes
		true >"$R/linking"
		ln "$T/commit" "$T/decision"
		[ -e "$T/decision" ] || { [ -z "$first" ] || return 5; return 1; }
	fi
	to_disk "$T" || { say "cannot sync the decision to disk"; return 1; }
	persist || { say "cannot make it last yet"; return 1; }
	close_txn committed
}

close_txn() {
	local kept
	ended=$1
	record "$1"
	for kept in log error; do [ ! -s "$R/$kept" ] || cat "$R/$kept" >"$T/$kept"; done
	# Whole or not at all; where not even this can be written, an empty one with the decision beside it.
	if ! { echo "$1" >"$T/done.new" && mv -f "$T/done.new" "$T/done"; }; then true >"$T/done"; fi
	# Whoever acts next has to know, without a disk, that nothing is to be put back any more.
	if [ -e "$T/done" ] && [ -d "$R" ]; then true >"$R/recorded"; fi
	wind_up "$1"
}

# What follows after that is on record; all of it can be done again.
wind_up() {
	put_away
	true >$VAR/lock
	if [ "$1" = committed ] && [ -e "$T/new/zero" ]; then vanish; fi
}

# Nothing of us is left, in one step: who waits for a lock would put it into a folder that is half gone. What
# is at its place after that step is of whoever came next.
vanish() {
	if mv $VAR $VAR.gone 2>/dev/null; then rm -rf $VAR.gone; else rm -rf $VAR; fi
}

# Where a power cut came between the two.
vanished() { [ ! -e $VAR.gone ] || rm -rf $VAR.gone; }

# What a transaction that is over leaves lying.
put_away() {
	set --
	[ -L $VAR/open ] && [ $VAR/open -ef "$VAR/txn/$ID" ] && set -- $VAR/open
	[ -e "$T/token" ] && set -- "$@" "$T/token"
	# Once more where it was killed: what is open keeps the next apply busy.
	[ $# -eq 0 ] || rm -f "$@" || rm -f "$@"
	to_disk "$T/done" "$T" $VAR/history $VAR 2>/dev/null
	:
}

record() {
	local generation
	[ -e "$T/armed" ] || return 0
	# One that was killed on the way may have written it.
	[ ! -e "$T/recording" ] || ! grep -qs "	$ID	" $VAR/history || return 0
	true >"$T/recording"
	owner
	first_line "$T/generation"
	generation=$line
	first_line "$T/plan"
	printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$generation" "$ID" "$1" "$owner" "$line" >>$VAR/history
}

# Nobody waits for those who pass it on: a terminal, the journal or the console may have stopped.
shout() {
	say "$1"
	if [ -n "${booting-}" ]; then pass_on "$1"; else { detach; pass_on "$1"; } & fi
	:
}

pass_on() {
	have logger && timeout -s KILL 5 logger -p daemon.crit -t kvmfw "$1"
	have wall && timeout -s KILL 5 wall "kvmfw: $1"
	echo "kvmfw: $1" >/dev/kmsg
} 2>/dev/null

# A transaction that nobody watches any more: both guards dead, or the host was booted since.
recover() {
	local mine=$ID id booted
	open_id
	txn "$id" || { rm -f $VAR/open; txn "$mine"; return; }
	[ ! -e "$T/done" ] || { put_away; remove_memory; txn "$mine"; return; }
	say "recovering $ID, left open"
	first_line "$T/boot_id"
	booted=$line
	boot_id
	[ -n "${booting-}" ] || restore_memory || { say "there is no room in $RUN"; txn "$mine"; return; }
	[ -n "${booting-}${ctl-}" ] || { ctl=$R/ctl && exec 8<>"$ctl"; }
	if [ "$booted" = "$boot" ]; then
		# Somebody at the console may be at it.
		first_line "$R/beat"
		uptime_cs
		if actor_lives && [ "$now" -le $((${line:-0} + GRACE * 100)) ]; then txn "$mine"; return; fi
		take_place || { txn "$mine"; return; }
		decide rollback "its guard is gone"
		finish
	else
		decision
		if [ "$line" = commit ]; then
			finish
		else
			# What was live is gone with the boot, and what boots was never changed.
			clear_away
			close_txn "rolled-back: the host was booted before a decision"
		fi
	fi
	remove_memory
	undecidable=
	txn "$mine"
}
