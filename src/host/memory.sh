# shellcheck shell=dash disable=SC3043,SC2154
# The transaction in memory (/run/kvmfw/RUN, a tmpfs), and the actor: the process that carries it out.
#
# From the moment a change is armed until the host is as before, nothing here reads or writes a disk: the change may
# have cut off the disk. A rollback takes all that it needs from here, and is written to disk afterwards.
#
#   kvmfw.sh pre/ new/ limits    what the rollback needs; compared with the disk before anything is armed
#   start abort armed result     what the guard reads; the decision is made here by link(2), and only here
#   applied claim decision
#   deadline beat                hundredths of a second since boot: when to act, and when the guard last did something
#   act.1, act.2, …              the actor: process and start time; the highest number counts
#   reserve                      room for what is written from the decision on
#   step hung worker             what a rollback is doing, what of it did not return, and its process group

# A guard that has not moved for so many seconds when it should have is replaced.
GRACE=5

# Whether /run is in memory.
memory_is_tmpfs() {
	local mount type found=''
	while read -r _ mount type _; do
		if [ "$mount" = /run ]; then found=$type; fi
	done </proc/mounts
	case $found in tmpfs | ramfs) ;; *) return 1 ;; esac
}

memory_make() {
	local mark
	# Of transactions that are over, and whose end was cut off.
	for mark in "$RUN"/*/done; do [ ! -e "$mark" ] || rm -rf "${mark%/done}"; done
	mkdir -p "$R" && mkfifo "$R/ctl" "$R/ack" && cp "$T/kvmfw.sh" "$R/" || return 1
	for mark in apply fence commit rollback; do echo $mark >"$R/$mark" || return 1; done
	printf '%65536s' '' >"$R/reserve"
}

# Takes along what a rollback needs, and compares it with what is on disk.
memory_fill() {
	local file sums line on_disk='' in_memory='' IFS="$NL"
	cp -R "$T/limits" "$T/pre" "$T/new" "$R/" || return 1
	set --
	for file in "$T/kvmfw.sh" "$T/limits" "$T"/pre/* "$T"/new/* "$T"/new/*/*; do
		[ ! -f "$file" ] || set -- "$@" "$file" "$R/${file#"$T/"}"
	done
	sums=$(cksum "$@") || return 1
	for line in $sums; do
		case $line in
		*" $T/"*) on_disk=$on_disk${line%" $T/"*}${line##*" $T/"}$NL ;;
		*" $R/"*) in_memory=$in_memory${line%" $R/"*}${line##*" $R/"}$NL ;;
		esac
	done
	[ -n "$on_disk" ] && [ "$on_disk" = "$in_memory" ] && true >"$R/filled"
}

# For a transaction whose memory is gone, though the host was not booted.
memory_restore() {
	local mark
	[ ! -e "$R/filled" ] || return 0
	rm -rf "$R"
	memory_make && memory_fill && cp "$0" "$R/kvmfw.sh" || return 1
	for mark in armed reason claim apply.pid made made.sets placed quieted; do
		[ ! -e "$T/$mark" ] || cp "$T/$mark" "$R/" || return 1
	done
	# A link, so that the decision is known without reading it.
	if [ "$T/decision" -ef "$T/commit" ]; then
		ln "$R/commit" "$R/decision"
	elif [ -e "$T/decision" ]; then
		ln "$R/rollback" "$R/decision"
	fi
}

# The mark first: without it what is left of the memory does not count, but what the disk has.
memory_remove() { rm -rf "$R/armed" "$R"; }

# Notes that the guard moves. REPLY: the time, as of uptime_cs. Overwritten in place: a full tmpfs has no room for a new page.
guard_beat() {
	uptime_cs
	printf '%15s\n' "$REPLY" 1<>"$R/beat"
} 2>/dev/null

# REPLY: the start time of process $1. REPLY_state: its state. Fails if there is no such process.
proc_read_stat() {
	local line
	REPLY='' REPLY_state=''
	read -r line <"/proc/$1/stat" || return 1
	line=${line##*) }
	# shellcheck disable=SC2086 # words
	set -- $line
	REPLY_state=$1 REPLY=${20}
} 2>/dev/null

# REPLY: the number of the actor, 0 if there is none. REPLY_pid, REPLY_start: its process, and when that started.
guard_find_actor() {
	local actor=0
	while [ -e "$R/act.$((actor + 1))" ]; do actor=$((actor + 1)); done
	first_line "$R/act.$actor"
	REPLY_pid=${REPLY%% *} REPLY_start=${REPLY#* }
	REPLY=$actor
}

# REPLY, REPLY_pid, REPLY_start: as of guard_find_actor.
guard_actor_lives() {
	local actor
	guard_find_actor
	actor=$REPLY
	[ "$actor" -gt 0 ] && proc_read_stat "${REPLY_pid:-0}" && [ "$REPLY" = "$REPLY_start" ] && [ "$REPLY_state" != Z ]
	set -- $?
	REPLY=$actor
	return "$1"
}

# Whether group $1 may still be that of a process which started at $2. As long as a group has members, nobody else gets
# its number; a process of that number with another start means that the group was gone before.
proc_is_group() { ! proc_read_stat "$1" || [ "$REPLY" = "$2" ]; }

# Whether the actor should have moved by now, and has not.
guard_overdue() {
	local due beaten
	[ ! -e "$R/done" ] && [ -e "$R/deadline" ] || return 1
	first_line "$R/deadline"
	due=${REPLY:-0}
	first_line "$R/beat"
	beaten=${REPLY:-0}
	uptime_cs
	[ "$REPLY" -gt $((due + GRACE * 100)) ] && [ "$REPLY" -gt $((beaten + GRACE * 100)) ]
}

# Takes the place of the actor, which is killed first, with what works for it. REPLY_undead: its process, if that hangs in the
# kernel. Such a process runs nothing any more once it has been killed. Fails if another process took the place first.
guard_take_place() {
	local number pid start='' tries=0
	REPLY_undead=
	if guard_actor_lives; then start=$REPLY_start; fi
	number=$REPLY pid=$REPLY_pid
	if [ -n "$start" ]; then
		say "process $pid has not moved for ${GRACE}s or more, and is replaced"
		kill -KILL "$pid" 2>/dev/null
		while proc_read_stat "$pid" && [ "$REPLY" = "$start" ] && [ "$REPLY_state" != Z ] && [ $tries -lt 50 ]; do
			tries=$((tries + 1))
			sleep 0.02
		done
		[ $tries -lt 50 ] || REPLY_undead=$pid
	fi
	first_line "$R/worker"
	pid=${REPLY%% *}
	[ -z "$pid" ] || ! proc_is_group "$pid" "${REPLY#* }" || kill -KILL "-$pid" 2>/dev/null
	proc_read_stat $$
	echo "$$ $REPLY" >"$R/self.$$"
	ln "$R/self.$$" "$R/act.$((number + 1))" 2>/dev/null && return
	# No room for a link is no reason to leave a host cut off.
	[ ! -e "$R/act.$((number + 1))" ]
}

# Sleeps until there is no actor, or one that does not move. Fails when the transaction is over.
guard_await_turn() {
	while :; do
		# The guard ignores TERM, and so would flock. The shell says of each that is killed that it was. What a timeout
		# leaves behind may keep this lock: it is ours from here on.
		if { command timeout -s KILL 5 flock 7; } 2>/dev/null; then
			[ -d "$R" ] && [ ! -e "$R/done" ] || return 1
			# An actor beside a guard that cannot be killed has no lock.
			if guard_actor_lives && ! guard_overdue; then sleep 1; continue; fi
		else
			guard_overdue || continue
		fi
		! guard_take_place || return 0
	done
}

# Has part $1 of the work done by a process group of its own, because this shell must never wait for a disk or a program. The
# group is killed if it stays at one step for $2 seconds; the next time it is granted twice as long, because it may only be
# slow. REPLY_hung: the group, if it was killed. After five seconds calls $3.
guard_work() {
	local limit=$2 late=${3-} word worker ticker since now step='' ticks=0 rc=1 script=$R/kvmfw.sh times gone=''
	REPLY_hung=
	first_line "$R/hung.$1"
	times=${REPLY:-0}
	while [ "$times" -gt 0 ] && [ "$limit" -lt 300 ]; do times=$((times - 1)) limit=$((limit * 2)); done
	if [ -n "${booting-}" ]; then
		("guard_work_$1")
		return
	fi
	rm -f "$R/step"
	setsid sh "$script" "$1" "$ID" "$ctl" 5>&- 6>&- 7>&- 9>&- >>"$R/log" 2>&1 &
	worker=$!
	proc_read_stat "$worker"
	echo "$worker $REPLY" >"$R/worker"
	# shellcheck disable=SC2016
	setsid sh -c 'while sleep 1 && kill -0 "$1"; do echo tick >&8; done' sh $$ 5>&- 6>&- 7>&- 9>&- >/dev/null 2>&1 &
	ticker=$!
	uptime_cs
	since=$REPLY
	while IFS= read -r word <&8; do
		guard_beat
		now=$REPLY
		case $word in
		"end $worker "*)
			rc=${word##* }
			break
			;;
		"gone $worker") break ;;
		tick) ;;
		*) continue ;;
		esac
		first_line "$R/step"
		[ "$REPLY" = "$step" ] || { step=$REPLY since=$now; }
		[ $((ticks += 1)) -ne 5 ] || [ -z "$late" ] || "$late"
		if [ "$now" -gt $((since + limit * 100)) ]; then
			kill -KILL "-$worker" 2>/dev/null
			REPLY_hung=$worker
			say "$1: ${step:-it} has not returned for ${limit}s, and is killed"
			[ -z "$step" ] || echo "$step" >>"$R/hung"
			first_line "$R/hung.$1"
			echo $((${REPLY:-0} + 1)) >"$R/hung.$1"
			break
		fi
		# It may have been killed before it could say that it ended. If it did, its word is in the fifo already, before
		# this one. It is a process before it is a group; and ticks of an earlier timer may come at any time.
		[ -n "$gone" ] || proc_group_lives "$worker" || { proc_read_stat "$worker" && [ "$REPLY_state" != Z ]; } || { gone=yes && echo "gone $worker" >&8; }
	done
	kill -KILL "-$ticker" "$ticker" 2>/dev/null
	wait "$ticker" 2>/dev/null
	echo "" >"$R/worker"
	[ -n "$REPLY_hung" ] || wait "$worker"
	return "$rc"
}

# Waits until process group $1, which hung, is gone: only then may another one start.
guard_outlive() {
	while [ -n "$1" ] && proc_group_lives "$1"; do
		guard_beat
		sleep 2
	done
}

# Whether the guard of an open transaction exists and moves as it should. REPLY: what is wrong with it.
guard_moves() {
	REPLY=
	[ -e "$R/filled" ] && [ ! -e "$R/done" ] || return 0
	if ! guard_actor_lives; then
		REPLY='gone; kvmfw.sh rollback puts the host back'
	elif [ "$REPLY_state" = T ] || [ "$REPLY_state" = t ]; then
		REPLY="stopped (process $REPLY_pid); kvmfw.sh rollback acts in its place"
	elif guard_overdue; then
		REPLY="does not move (process $REPLY_pid); kvmfw.sh rollback acts in its place"
	else
		REPLY=
	fi
	[ -z "$REPLY" ]
}
