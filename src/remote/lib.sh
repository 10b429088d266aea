# shellcheck shell=dash disable=SC3043
# What every script of ours on a host stands on: a fixed environment, framed output, small helpers.
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

# Where a program lies. A busybox sh may prefer its own applet of that name, and its ip knows no
# JSON, its sync no files.
find_program() {
	for path in "/usr/sbin/$1" "/usr/bin/$1" "/sbin/$1" "/bin/$1"; do [ -x "$path" ] && return; done
	path=
	return 1
}
if find_program ip; then
	IP=$path
	ip() { "$IP" "$@"; }
fi
if find_program sync; then
	SYNC=$path
	sync() { "$SYNC" "$@"; }
fi
if find_program unshare; then
	UNSHARE=$path
	unshare() { "$UNSHARE" "$@"; }
fi

if find_program timeout; then
	# That of BusyBox leaves a process behind, for up to a second and with all descriptors that it was given: none of a
	# lock, or that would go on being held.
	TIMEOUT=$path
	timeout() { "$TIMEOUT" "$@" 7<&- 9<&-; }
fi

have() { command -v "$1" >/dev/null 2>&1; }

# First line of a file, without a fork; empty when it cannot be read.
first_line() {
	line=
	[ -r "$1" ] && IFS= read -r line <"$1"
	:
} 2>/dev/null

# Sets line to the last line of file $1.
last_line() {
	local next
	line=
	while IFS= read -r next || [ -n "$next" ]; do line=$next; done <"$1"
} 2>/dev/null

# Files of ours hold a text and, as their last line, how many bytes it has: `#end 120`. A file that is missing, that
# cannot be read or that is cut off so never passes for one that holds less, or nothing.

# Writes text $2 to file $1 in that form.
text_write() {
	case $2 in '' | *"$NL") set -- "$1" "$2" ;; *) set -- "$1" "$2$NL" ;; esac
	printf '%s#end %s\n' "$2" "${#2}" >"$1"
}

# Sets text to what file $1 of ours holds, without the last line break. Fails where that is not known to be all of it:
# what is read back decides what a host becomes, and an unread text must not count as an empty one.
text_read() {
	local line='' n=0 got=''
	text=
	# A short one costs no process; of a long one dash would read each byte alone.
	# shellcheck disable=SC2094 # both only read
	while IFS= read -r line; do
		[ $((n += 1)) -le 20 ] || { got=$(cat "$1") || return 1; got=$got$NL line=; break; }
		got=$got$line$NL
	done 2>/dev/null <"$1" || return 1
	text_unwrap "$got$line"
}

# Sets text to what stands before the last line of $1, a text in that form. Fails where there is no such line, or it
# tells of another number of bytes.
text_unwrap() {
	local before=${1%'#end '*}
	text=
	[ "$1" = "$before#end ${#before}$NL" ] || return 1
	text=${before%"$NL"}
}

# Sets lines to what file $1 of ours holds, each with its line break.
text_read_lines() {
	local text
	lines=
	text_read "$1" || return 1
	lines=${text:+$text$NL}
}

# Whether file $1 of ours holds more than nothing. Yes, where that cannot be told: whoever goes on to read it fails.
text_is_filled() {
	first_line "$1"
	[ "$line" != '#end 0' ]
}

# Sets whole to the output $1 of a program of ours that prints `#end` as its last line, without that line. The status
# of a program tells of its death, and not of an input or an output that was cut off.
text_unwrap_output() {
	whole=
	case $1 in '#end') ;; *"$NL#end") whole=${1%"$NL#end"} ;; *) return 1 ;; esac
}

# Hundredths of a second since boot: no clock jump moves it.
uptime_cs() {
	read -r up _ </proc/uptime
	up_s=${up%.*}
	up_c=${up#*.}
	now=$((up_s * 100 + ${up_c#0}))
}

# Takes the lock of descriptor $1, and fails where others hold it for $2 seconds.
lock_within() {
	local until
	uptime_cs
	until=$((now + $2 * 100))
	while ! flock -n "$1"; do
		uptime_cs
		[ "$now" -lt $until ] || return 1
		sleep 0.1
	done
}

read_boot_id() {
	first_line /proc/sys/kernel/random/boot_id
	boot=$line
}

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

# Gives text $1 to a command as its stdin, and sets said to all that it says. A pipe has two processes more; but bash
# may keep a text in a file, and where there is no room for that a way back still has to be found.
feed() {
	local text="$1" rc
	shift
	said=$("$@" 2>&1 <<-TEXT
		$text
	TEXT
	)
	rc=$?
	case $rc$said in
	0*) ;;
	*here-document*)
		said=$(printf '%s\n' "$text" | "$@" 2>&1)
		rc=$?
		;;
	esac
	return $rc
}

say() { printf '%s\n' "$*" >&2; }

refuse() {
	# A guard that waits for what comes next is told that nothing does.
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
