# shellcheck shell=dash disable=SC3043
# The base of every script on a host: a fixed environment, framed output, small helpers.
# Plain sh: dash, bash and busybox sh run it alike. `local` is not in POSIX, but in all of them.

PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin
LC_ALL=C
TMPDIR=/dev/shm
NL='
'
export PATH LC_ALL TMPDIR
unset IFS CDPATH ENV BASH_ENV
umask 077
# Descriptors and limits that an rc file of the login left; root may lift them.
exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
# First more descriptors: without them the shell cannot even redirect.
ulimit -S -n 1024 || ulimit -n 1024
for kind in f t v d; do ulimit -$kind unlimited || ulimit -S -$kind unlimited; done 2>/dev/null
set -u

ETC=/etc/kvmfw
VAR=/var/lib/kvmfw
RUN=/run/kvmfw

# Starts a section of the answer. The nonce comes from the controller, so that neither a login
# banner nor a file's content can pass for one.
section() {
	case $NONCE in
	-) [ "$1" = end ] || printf '%s:\n' "$1" ;; # at the console, for people
	*) printf '\n@%s %s\n' "$NONCE" "$1" ;;
	esac
}

# A function that cannot print its result leaves it in REPLY, or in REPLY_WHAT where it has more than one; the comment above
# the function says so. The next function may overwrite it: callers copy it at once.

# REPLY: the path of program $1. A busybox sh may prefer its own applet of that name, and its ip does not print
# JSON, its sync takes no files.
find_program() {
	for REPLY in "/usr/sbin/$1" "/usr/bin/$1" "/sbin/$1" "/bin/$1"; do [ -x "$REPLY" ] && return; done
	REPLY=
	return 1
}
if find_program ip; then
	IP=$REPLY
	ip() { "$IP" "$@"; }
fi
if find_program sync; then
	SYNC=$REPLY
	sync() { "$SYNC" "$@"; }
fi
if find_program unshare; then
	UNSHARE=$REPLY
	unshare() { "$UNSHARE" "$@"; }
fi

if find_program timeout; then
	# That of BusyBox leaves a process behind, for up to a second and with all descriptors that it was given: none of a
	# lock, or that would go on being held.
	TIMEOUT=$REPLY
	timeout() { "$TIMEOUT" "$@" 7<&- 9<&-; }
fi

have() { command -v "$1" >/dev/null 2>&1; }

# REPLY: the first line of file $1, without a fork; empty if the file cannot be read.
first_line() {
	REPLY=
	[ -r "$1" ] && IFS= read -r REPLY <"$1"
	:
} 2>/dev/null

# REPLY: the last line of file $1.
last_line() {
	local next
	REPLY=
	while IFS= read -r next || [ -n "$next" ]; do REPLY=$next; done <"$1"
} 2>/dev/null

# Files of ours hold a text and, as their last line, how many bytes it has: `#end 120`. A file that is missing, that
# cannot be read or that is cut off so never passes for one that holds less, or nothing.

# Writes text $2 to file $1 in that form.
text_write() {
	case $2 in '' | *"$NL") set -- "$1" "$2" ;; *) set -- "$1" "$2$NL" ;; esac
	printf '%s#end %s\n' "$2" "${#2}" >"$1"
}

# REPLY: the text of file $1, without the last line break. Fails if the text is not known to be complete: it decides what
# a host becomes, and an unread text must not count as an empty one.
text_read() {
	local line='' n=0 got=''
	REPLY=
	# A short one costs no process; of a long one dash would read each byte alone.
	# shellcheck disable=SC2094 # both only read
	while IFS= read -r line; do
		[ $((n += 1)) -le 20 ] || { got=$(cat "$1") || return 1; got=$got$NL line=; break; }
		got=$got$line$NL
	done 2>/dev/null <"$1" || return 1
	text_unwrap "$got$line"
}

# REPLY: $1, a text in that form, without its last line. Fails if that line is missing, or states another number of bytes.
text_unwrap() {
	local before=${1%'#end '*}
	REPLY=
	[ "$1" = "$before#end ${#before}$NL" ] || return 1
	REPLY=${before%"$NL"}
}

# REPLY: the lines of file $1, each with its line break.
text_read_lines() {
	text_read "$1" || return 1
	REPLY=${REPLY:+$REPLY$NL}
}

# Whether file $1 has a text that is not empty. True if the file cannot be read: the caller reads it next, and fails then.
text_is_filled() {
	local REPLY
	first_line "$1"
	[ "$REPLY" != '#end 0' ]
}

# REPLY: the output $1 of one of our programs, which end with the line `#end`, without that line. The status of a program
# shows that it died, but not that its input or output was cut off.
text_unwrap_output() {
	REPLY=
	case $1 in '#end') ;; *"$NL#end") REPLY=${1%"$NL#end"} ;; *) return 1 ;; esac
}

# REPLY: hundredths of a second since boot, which no change of the clock moves.
uptime_cs() {
	local cs
	read -r REPLY _ </proc/uptime
	cs=${REPLY#*.}
	REPLY=$((${REPLY%.*} * 100 + ${cs#0}))
}

# Takes the lock of descriptor $1, and fails where others hold it for $2 seconds.
lock_within() {
	local until
	uptime_cs
	until=$((REPLY + $2 * 100))
	while ! flock -n "$1"; do
		uptime_cs
		[ "$REPLY" -lt $until ] || return 1
		sleep 0.1
	done
}

# REPLY: the number of this boot.
read_boot_id() { first_line /proc/sys/kernel/random/boot_id; }

# Writes files and their folders to disk. Never a bare sync: a hypervisor has gigabytes of dirty
# pages of its guests, and waiting for them would outlast every deadline.
disk_sync() {
	[ $# -gt 0 ] || return 0
	sync "$@"
}

# disk_sync of names of which some may be gone by now. Anything else that sync(1) says means lost, and so does no
# word at all. A second try would prove nothing: the kernel tells of a write it lost only once.
disk_sync_existing() {
	local told
	told=$(disk_sync "$@" 2>&1) && return
	[ -n "$told" ] || return 1
	while [ -n "$told" ]; do
		case ${told%%"$NL"*} in *': No such file or directory') ;; *) return 1 ;; esac
		case $told in *"$NL"*) told=${told#*"$NL"} ;; *) told= ;; esac
	done
}

# Gives text $1 to a command as its stdin. REPLY: all that the command prints. A pipe would need two processes more; but bash
# may keep a text in a file, and a rollback has to work where there is no room for one.
feed() {
	local text="$1" rc
	shift
	REPLY=$("$@" 2>&1 <<-TEXT
		$text
	TEXT
	)
	rc=$?
	case $rc$REPLY in
	0*) ;;
	*here-document*)
		REPLY=$(printf '%s\n' "$text" | "$@" 2>&1)
		rc=$?
		;;
	esac
	return $rc
}

say() { printf '%s\n' "$*" >&2; }

refuse() {
	# A guard that waits for the next command must not wait any longer.
	[ -z "${guarded-}" ] || txn_abort
	section refused
	printf '%s\n%s\n' "$1" "$2"
	exit 0
}

# Units, each in the folder of the target that pulls it in.
BOOT_UNITS='sysinit.target.wants/kvmfw-early.service sysinit.target.wants/kvmfw.service multi-user.target.wants/kvmfw-bridges.service
multi-user.target.wants/kvmfw-settle.service'

# Services that replace rules or make chains when they are started again: each has a link that then starts the second
# stage of the boot (boot_settle.sh). A service that is not installed has one too, because the next package may bring it.
FOLLOWED='nftables netfilter-persistent iptables ip6tables networking docker libvirtd virtnetworkd'
