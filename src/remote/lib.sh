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
set -u

ETC=/etc/kvmfw
VAR=/var/lib/kvmfw

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
real() {
	for path in "/usr/sbin/$1" "/usr/bin/$1" "/sbin/$1" "/bin/$1"; do [ -x "$path" ] && return; done
	path=
	return 1
}
if real ip; then
	IP=$path
	ip() { "$IP" "$@"; }
fi
if real sync; then
	SYNC=$path
	sync() { "$SYNC" "$@"; }
fi
if real unshare; then
	UNSHARE=$path
	unshare() { "$UNSHARE" "$@"; }
fi

have() { command -v "$1" >/dev/null 2>&1; }

# First line of a file, without a fork; empty when it cannot be read.
first_line() {
	line=
	[ -r "$1" ] && IFS= read -r line <"$1"
	:
} 2>/dev/null

# Sets lines to what file $1 holds. A short one costs no process; of a long one dash would read each byte alone.
lines_of() {
	local n=0
	lines=
	# shellcheck disable=SC2094 # both only read
	while IFS= read -r line; do
		[ $((n += 1)) -le 20 ] || { lines=$(cat "$1"); return; }
		lines=$lines$line$NL
	done <"$1"
}

# Hundredths of a second since boot: no clock jump moves it.
uptime_cs() {
	read -r up _ </proc/uptime
	up_s=${up%.*}
	up_c=${up#*.}
	now=$((up_s * 100 + ${up_c#0}))
}

boot_id() {
	first_line /proc/sys/kernel/random/boot_id
	boot=$line
}

# Writes files and their folders to disk. Never a bare sync: a hypervisor has gigabytes of dirty
# pages of its guests, and waiting for them would outlast every deadline.
to_disk() {
	[ $# -gt 0 ] || return 0
	sync "$@"
}

# to_disk of names of which some may be gone by now. Anything else that sync(1) says means lost, and so does no
# word at all. A second try would prove nothing: the kernel tells of a write it lost only once.
what_is_left_to_disk() {
	local told
	told=$(to_disk "$@" 2>&1) && return
	[ -n "$told" ] || return 1
	while [ -n "$told" ]; do
		case ${told%%"$NL"*} in *': No such file or directory') ;; *) return 1 ;; esac
		case $told in *"$NL"*) told=${told#*"$NL"} ;; *) told= ;; esac
	done
}

# Gives text $1 to a command as its stdin, and sets said to all that it says. A pipe has two processes more; but bash
# may keep a text in a file, and where there is no room for that a way back still has to be found.
fed() {
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
	[ -z "${guarded-}" ] || abort
	section refused
	printf '%s\n%s\n' "$1" "$2"
	exit 0
}

# Units, each in the folder of the target that pulls it in.
BOOT_UNITS='sysinit.target.wants/kvmfw-early.service sysinit.target.wants/kvmfw.service multi-user.target.wants/kvmfw-bridges.service'
