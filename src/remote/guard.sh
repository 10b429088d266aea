# shellcheck shell=dash disable=SC3043,SC2154
# The transaction on the host. Truth is which files exist in its folder; everything else is a hint.
#
#   go        the controller wants it          armed     the guard watches: from here on it ends
#   claim     apply or fence, who was first    result    the apply child ended: ok or bad
#   decision  commit or rollback, by link(2)   done      what came of it
#
# The guard sleeps in read(2) on the fifo `ctl`; whatever happens writes a word there, and the
# guard looks at the files again. A second guard waits on the lock of the first and takes over the
# moment it dies.

txn() {
	ID=$1
	T=$VAR/txn/$ID
	[ -n "$ID" ] && [ -d "$T" ]
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

poke() { [ -p "$T/ctl" ] && echo "$1" 1<>"$T/ctl"; }

set_deadline() {
	uptime_cs
	# Also kept here: a full disk must not leave us with the deadline of the step before.
	deadline=$((now + $1 * 100))
	echo $deadline >"$T/deadline.new" && mv -f "$T/deadline.new" "$T/deadline"
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
	if [ -n "${deadline-}" ]; then line=$deadline; else first_line "$T/deadline"; fi
	left=$(((${line:-0} - now + 99) / 100))
}

# Sets limit to the seconds that the controller grants for $1.
limit() {
	local name value
	limit=
	while IFS='=' read -r name value; do
		if [ "$name" = "$1" ]; then limit=$value; fi
	done <"$T/limits"
	# A deadline there has to be.
	case $limit in '' | *[!0-9]*) limit=60 ;; esac
}

# Only one of commit and rollback becomes the decision: link(2) refuses the second.
decide() {
	[ -e "$T/decision" ] && return
	[ "$1" = rollback ] && printf '%s\n' "$2" >"$T/reason"
	ln "$T/$1" "$T/decision" 2>/dev/null
	if [ ! -e "$T/decision" ] && [ "$1" = rollback ]; then
		# A full or read-only disk: what cannot be recorded is not committed.
		rm -f "$T/commit"
		undecidable=yes
	fi
	to_disk "$T" 2>/dev/null
}

# Sets line to what was decided. It is one file with the word that won, which tells it without being read.
decision() {
	line=
	if [ "$T/decision" -ef "$T/commit" ]; then
		line=commit
	elif [ "$T/decision" -ef "$T/rollback" ] || [ -n "${undecidable-}" ]; then
		line=rollback
	elif [ -e "$T/decision" ]; then
		first_line "$T/decision"
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
	exec </dev/null >>"$T/log" 2>&1
	trap '' HUP PIPE INT TERM
	cd /
	exec 5<>"$T/ack" 8<>"$T/ctl" 7>>"$T/guard.lock"
	flock 7
	# Nothing is left to guard after an undo to the original; what is there now is another's.
	[ -d "$T" ] || exit 0
	# Who was here before may have died at its last words.
	[ ! -e "$T/done" ] || { put_away; exit 0; }
	exec 9>>$VAR/lock
	if [ -e "$T/deadline" ]; then
		# The one before us had this lock. A process that it leaves behind may give it back a moment later than
		# the lock of the guards, and who else gets it ends this transaction first.
		flock 9
		[ ! -e "$T/done" ] || { put_away; exit 0; }
	elif ! flock -n 9 && ! settled; then
		IFS= read -r line <$VAR/lock
		echo "busy ${line:-by an unknown holder}" >&5
		echo "released: the lock was held" >"$T/done"
		exit 0
	fi
	owner
	echo "$owner ($ID, since $(date -u +%Y-%m-%dT%H:%M:%SZ))" >$VAR/lock
	vanished
	if [ -e "$T/armed" ]; then took_over=yes; elif [ -L $VAR/open ]; then recover 5>/dev/null; fi
	if [ -e "$T/deadline" ]; then
		seconds_left
		[ "$left" -gt 0 ] && start_timer "$left"
	else
		limit stage
		set_deadline "$limit"
	fi
	echo locked >&5
	while watch; do read -r _ <&8; done
	stop_timer
	# Gone with everything else after an undo to the original.
	[ ! -d "$T" ] || true >$VAR/lock
	exit 0
}

# Whether the lock was only held for a repair of the rules after the boot (settle.sh), and is ours now.
settled() {
	first_line $VAR/lock
	[ "$line" = "$SETTLES" ] && timeout 10 flock 9
}

# Looks at the files and does what they call for. Fails when the transaction is over.
watch() {
	if [ -e "$T/decision" ] || [ -n "${undecidable-}" ]; then
		finish
		return 1
	fi
	seconds_left
	if [ ! -e "$T/armed" ]; then
		if [ -e "$T/abort" ] || [ "$left" -le 0 ]; then
			clear_away
			close_txn "released: nothing was touched"
			return 1
		fi
		[ -e "$T/go" ] || return 0
		if ! arm; then
			clear_away
			close_txn "released: could not arm, nothing was touched"
			return 1
		fi
		return 0
	fi
	if [ -e "$T/result" ]; then
		first_line "$T/result"
		if [ "$line" != ok ]; then
			decide rollback "the change could not be applied: $(tail -n 1 "$T/error" 2>/dev/null)"
			watch
			return
		fi
		if [ ! -e "$T/applied" ]; then
			limit confirm
			set_deadline "$limit"
			if ! ln "$T/ok" "$T/applied"; then
				decide rollback "that it was applied could not be recorded"
				watch
				return
			fi
			echo applied >&5
			return 0
		fi
	elif [ ! -e "$T/claim" ] && [ -n "${took_over-}" ]; then
		decide rollback "the guard died before it started the change"
		watch
		return
	fi
	# Always anew: who sleeps on without a timer sleeps for ever.
	[ "$left" -gt 0 ] && { start_timer "$left"; return 0; }
	if [ -e "$T/applied" ]; then
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
	echo "$boot" >"$T/boot_id" && ln -s "txn/$ID" $VAR/open && set_deadline "$limit" &&
		true >"$T/armed" && to_disk "$T/boot_id" "$T" $VAR || { rm -f $VAR/open "$T/armed"; return 1; }
	echo armed >&5
	{
		if setsid sh "$T/kvmfw.sh" apply "$ID" 8>&- >>"$T/log" 2>"$T/error"; then
			ln "$T/ok" "$T/result"
		else
			ln "$T/bad" "$T/result"
		fi
		echo result >&8
	} 5>&- 9>&- 7>&- &
}

# Nothing of the apply may run on once the restore begins.
fence() {
	ln "$T/fence" "$T/claim" 2>/dev/null
	first_line "$T/claim"
	[ "$line" = apply ] || return 0
	first_line "$T/boot_id"
	local booted=$line tries=0
	boot_id
	[ "$booted" = "$boot" ] || return 0
	# It may have its claim and not yet have told its number.
	while first_line "$T/apply.pid" && [ -z "$line" ] && [ $tries -lt 50 ]; do
		tries=$((tries + 1))
		sleep 0.02
	done
	[ -n "$line" ] || return 0
	tries=0
	while [ $tries -lt 100 ]; do
		kill -KILL "-$line" 2>/dev/null
		lives "$line" || return 0
		tries=$((tries + 1))
		sleep 0.02
	done
	return 1
}

# Whether a process group has members that are more than a record waiting to be read.
lives() { cat /proc/[0-9]*/stat 2>/dev/null | awk -v group="$1" '$5 == group && $3 != "Z" { found = 1 } END { exit !found }'; }

finish() {
	stop_timer
	decision
	case $line in
	commit)
		until persist; do
			say "cannot make it last yet"
			# At boot others wait for this; the next apply or boot tries again.
			[ -z "${booting-}" ] || { echo "$ID is decided, but could not be made to last" >>$VAR/boot.failed; return; }
			sleep 1
		done
		close_txn committed
		;;
	*)
		until fence; do say "the apply does not die"; done
		local tries=0
		until roll_back; do
			tries=$((tries + 1))
			[ -z "${booting-}" ] || { echo "the rollback of $ID did not succeed" >>$VAR/boot.failed; return; }
			[ $tries -eq 3 ] && shout "rollback of $ID failed, trying on: $VAR/kvmfw.sh status"
			[ $tries -eq 3 ] && echo "rollback_failed $(tail -n 1 "$T/log")" >&5
			[ $tries -ge 3 ] && echo "rollback failed" >"$T/state"
			sleep 1
		done
		rm -f "$T/state"
		clear_away
		first_line "$T/reason"
		close_txn "rolled_back: $line"
		;;
	esac
}

close_txn() {
	record "$1"
	# Whole or not at all; where not even this can be written, an empty one with the decision beside it.
	if ! { echo "$1" >"$T/done.new" && mv -f "$T/done.new" "$T/done"; }; then true >"$T/done"; fi
	put_away
	echo "done $1" >&5
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
	[ $# -eq 0 ] || rm -f "$@"
	to_disk "$T/done" "$T" $VAR/history $VAR 2>/dev/null
	:
}

record() {
	local generation
	[ -e "$T/armed" ] || return 0
	owner
	first_line "$T/generation"
	generation=$line
	first_line "$T/plan"
	printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$generation" "$ID" "$1" "$owner" "$line" >>$VAR/history
}

shout() {
	say "$1"
	echo "kvmfw: $1" >/dev/kmsg 2>/dev/null
	have logger && logger -p daemon.crit -t kvmfw "$1" 2>/dev/null
	have wall && wall "kvmfw: $1" 2>/dev/null
	:
}

# A transaction that nobody watches any more: both guards dead, or the host was booted since.
recover() {
	local mine=$ID id
	open_id
	txn "$id" || { rm -f $VAR/open; txn "$mine"; return; }
	[ ! -e "$T/done" ] || { put_away; txn "$mine"; return; }
	say "recovering $ID, left open"
	[ -e "$T/decision" ] || decide rollback "its guard is gone"
	first_line "$T/boot_id"
	local booted=$line
	boot_id
	decision
	if [ "$booted" != "$boot" ] && [ "$line" != commit ]; then
		# What was live is gone with the boot, and what boots was never changed.
		clear_away
		close_txn "rolled_back: the host was booted before a decision"
	else
		finish
	fi
	undecidable=
	txn "$mine"
}
