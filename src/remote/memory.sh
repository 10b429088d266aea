# shellcheck shell=dash disable=SC3043,SC2154
# The transaction in memory (/run/kvmfw/RUN, a tmpfs), and who acts on it.
#
# From the moment a change is armed until the host is as before, nothing here reads or writes a disk: the change may
# have cut off the disk. A rollback takes all that it needs from here, and is written to disk afterwards.
#
#   kvmfw.sh pre/ new/ limits    what the rollback needs; compared with the disk before anything is armed
#   start abort armed result     what the guard looks at; decision is made here by link(2), and only here
#   applied claim decision
#   deadline beat                hundredths of a second since boot: when to act, and when the guard last did something
#   act.1, act.2, …              who acts: process and start time; the highest number counts
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
	# A link, which tells the decision without being read.
	if [ "$T/decision" -ef "$T/commit" ]; then
		ln "$R/commit" "$R/decision"
	elif [ -e "$T/decision" ]; then
		ln "$R/rollback" "$R/decision"
	fi
}

# The mark first: without it what is left of the memory does not count, but what the disk has.
memory_remove() { rm -rf "$R/armed" "$R"; }

# Overwritten in place: a full tmpfs has no room for a new page.
guard_beat() {
	uptime_cs
	printf '%15s\n' "$now" 1<>"$R/beat"
} 2>/dev/null

# Sets start to the start time of process $1, and stat to its state; fails when there is none.
proc_read_stat() {
	stat='' start=''
	read -r line <"/proc/$1/stat" || return 1
	line=${line##*) }
	# shellcheck disable=SC2086 # words
	set -- $line
	stat=$1 start=${20}
} 2>/dev/null

# Sets actor to the number of who acts, 0 for nobody, and actor_pid.
guard_find_actor() {
	actor=0
	while [ -e "$R/act.$((actor + 1))" ]; do actor=$((actor + 1)); done
	first_line "$R/act.$actor"
	actor_pid=${line%% *} actor_start=${line#* }
}

guard_actor_lives() {
	guard_find_actor
	[ "$actor" -gt 0 ] && proc_read_stat "${actor_pid:-0}" && [ "$start" = "$actor_start" ] && [ "$stat" != Z ]
}

# Whether group $1 may still be that of a process which started at $2. As long as a group has members, nobody else gets
# its number; a process of that number with another start means that the group was gone before.
proc_is_group() { ! proc_read_stat "$1" || [ "$start" = "$2" ]; }

# Whether whoever acts should have moved by now, and has not.
guard_overdue() {
	local due beaten
	[ ! -e "$R/done" ] && [ -e "$R/deadline" ] || return 1
	first_line "$R/deadline"
	due=${line:-0}
	first_line "$R/beat"
	beaten=${line:-0}
	uptime_cs
	[ "$now" -gt $((due + GRACE * 100)) ] && [ "$now" -gt $((beaten + GRACE * 100)) ]
}

# Takes the place of whoever acts. It is killed first, and so is what works for it. A process that hangs in the kernel
# stays, but runs nothing any more once it has been killed: undead is its number. Fails when somebody else was faster.
guard_take_place() {
	local number pid tries=0
	undead=
	if guard_actor_lives; then
		pid=$actor_pid
		say "process $pid has not moved for ${GRACE}s or more, and is replaced"
		kill -KILL "$pid" 2>/dev/null
		while proc_read_stat "$pid" && [ "$start" = "$actor_start" ] && [ "$stat" != Z ] && [ $tries -lt 50 ]; do
			tries=$((tries + 1))
			sleep 0.02
		done
		[ $tries -lt 50 ] || undead=$pid
	fi
	number=$actor
	first_line "$R/worker"
	pid=${line%% *}
	[ -z "$pid" ] || ! proc_is_group "$pid" "${line#* }" || kill -KILL "-$pid" 2>/dev/null
	proc_read_stat $$
	echo "$$ $start" >"$R/self.$$"
	ln "$R/self.$$" "$R/act.$((number + 1))" 2>/dev/null && return
	# No room for a link is no reason to leave a host cut off.
	[ ! -e "$R/act.$((number + 1))" ]
}

# Sleeps until there is nobody who acts, or nobody who moves. Fails when the transaction is over.
guard_await_turn() {
	while :; do
		# The guard ignores TERM, and so would flock. The shell says of each that is killed that it was. What a timeout
		# leaves behind may keep this lock: it is ours from here on.
		if { command timeout -s KILL 5 flock 7; } 2>/dev/null; then
			[ -d "$R" ] && [ ! -e "$R/done" ] || return 1
			# One who acts beside a guard that cannot be killed has no lock.
			if guard_actor_lives && ! guard_overdue; then sleep 1; continue; fi
		else
			guard_overdue || continue
		fi
		! guard_take_place || return 0
	done
}

# Has part $1 of the work done by a process group of its own, which is killed when it is at one step for $2 seconds:
# this shell never waits for a disk or a program. Sets hung to yes where it was killed; the
# next time it is granted twice as long, because it may only be slow. After five seconds calls $3.
guard_work() {
	local limit=$2 late=${3-} word ticker since step='' ticks=0 rc=1 script=$R/kvmfw.sh times gone=''
	hung=
	first_line "$R/hung.$1"
	times=${line:-0}
	while [ "$times" -gt 0 ] && [ "$limit" -lt 300 ]; do times=$((times - 1)) limit=$((limit * 2)); done
	if [ -n "${booting-}" ]; then
		("guard_work_$1")
		return
	fi
	rm -f "$R/step"
	setsid sh "$script" "$1" "$ID" "$ctl" 5>&- 6>&- 7>&- 9>&- >>"$R/log" 2>&1 &
	worker=$!
	proc_read_stat "$worker"
	echo "$worker $start" >"$R/worker"
	# shellcheck disable=SC2016
	setsid sh -c 'while sleep 1 && kill -0 "$1"; do echo tick >&8; done' sh $$ 5>&- 6>&- 7>&- 9>&- >/dev/null 2>&1 &
	ticker=$!
	uptime_cs
	since=$now
	while IFS= read -r word <&8; do
		guard_beat
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
		[ "$line" = "$step" ] || { step=$line since=$now; }
		[ $((ticks += 1)) -ne 5 ] || [ -z "$late" ] || "$late"
		if [ "$now" -gt $((since + limit * 100)) ]; then
			kill -KILL "-$worker" 2>/dev/null
			hung=yes
			say "$1: ${step:-it} has not returned for ${limit}s, and is killed"
			[ -z "$step" ] || echo "$step" >>"$R/hung"
			first_line "$R/hung.$1"
			echo $((${line:-0} + 1)) >"$R/hung.$1"
			break
		fi
		# It may have been killed before it could say that it ended. If it did, its word is in the fifo already, before
		# this one. It is a process before it is a group; and ticks of an earlier timer may come at any time.
		[ -n "$gone" ] || proc_group_lives "$worker" || { proc_read_stat "$worker" && [ "$stat" != Z ]; } || { gone=yes && echo "gone $worker" >&8; }
	done
	kill -KILL "-$ticker" "$ticker" 2>/dev/null
	wait "$ticker" 2>/dev/null
	echo "" >"$R/worker"
	[ -n "$hung" ] || wait "$worker"
	return "$rc"
}

# After a worker that hung: another one only when that one is gone.
guard_outlive() {
	while [ -n "$hung" ] && proc_group_lives "$worker"; do
		guard_beat
		sleep 2
	done
}

# Whether the guard of an open transaction is there and moves as it should. Sets guard to what is wrong with it.
guard_moves() {
	guard=
	[ -e "$R/filled" ] && [ ! -e "$R/done" ] || return 0
	if ! guard_actor_lives; then
		guard='gone; kvmfw.sh rollback puts the host back'
	elif [ "$stat" = T ] || [ "$stat" = t ]; then
		guard="stopped (process $actor_pid); kvmfw.sh rollback acts in its place"
	elif guard_overdue; then
		guard="does not move (process $actor_pid); kvmfw.sh rollback acts in its place"
	fi
	[ -z "$guard" ]
}
