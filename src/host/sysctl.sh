# shellcheck shell=dash disable=SC3043,SC2154
# sysctl keys: their values, which of them differ from the desired ones, and writing these.

# REPLY: KEY=VALUE of the three keys of br_netfilter, with value $1.
sysctl_bridge_keys() {
	local key
	REPLY=
	for key in iptables ip6tables arptables; do REPLY=${REPLY}net/bridge/bridge-nf-call-$key=$1$NL; done
}

# Calls $1 with lines $2, some at a time: no command takes any number of arguments. IFS is a newline for it, and
# patterns are off.
sysctl_by_parts() {
	local line some='' n=0 rc=0 IFS="$NL"
	set -f
	for line in $2; do
		some=$some$line$NL
		[ $((n += 1)) -ge 50 ] || continue
		"$1" "$some" || rc=1
		some='' n=0
	done
	[ -z "$some" ] || "$1" "$some" || rc=1
	set +f
	return $rc
}

# REPLY: the values of sysctl keys $1 that exist, as lines /proc/sys/KEY:VALUE. Not by `read`: the kernel gives it the first
# byte of a number and then the end. Fails if the keys could not be read, which is not an answer.
sysctl_values() {
	local key values paths='' missing=''
	for key in $1; do paths=$paths/proc/sys/$key$NL; done
	sysctl_grep "$paths" || return 1
	values=$REPLY
	# What is there and was not read is asked for once more: some keys cannot be read, but grep may have been cut off too.
	for key in $paths; do
		case $NL$values in *"$NL$key:"*) ;; *) [ ! -r "$key" ] || missing=$missing$key$NL ;; esac
	done
	[ -n "$missing" ] || return 0
	sysctl_grep "$missing" || return 1
	REPLY=$values${values:+$NL}$REPLY
}

# REPLY: lines FILE:TEXT of files $1.
sysctl_grep() {
	# shellcheck disable=SC2086 # one each
	REPLY=$(grep -sH '' /dev/null $1)
	case $? in 0 | 1 | 2) ;; *) return 1 ;; esac
}

# Prints KEY=VALUE of the sysctl keys of lines $1 that are there.
sysctl_print_live() { sysctl_by_parts sysctl_print_values "$1"; }

sysctl_print_values() {
	local line
	sysctl_values "$1" || return 1
	for line in $REPLY; do
		line=${line#/proc/sys/}
		printf '%s=%s\n' "${line%%:*}" "${line#*:}" || return 1
	done
}

# REPLY: the KEY=VALUE lines of file $1 whose keys have another value now; keys that do not exist are left out. Fails if the
# keys could not be read.
sysctl_differing() { text_read_lines "$1" && sysctl_differing_lines "$REPLY"; }

# REPLY: the same of lines $1.
sysctl_differing_lines() {
	local differ=''
	sysctl_by_parts sysctl_add_differing "$1" || return 1
	REPLY=$differ
}

# Part of sysctl_differing_lines: adds to `differ` those of lines $1.
sysctl_add_differing() {
	local line entry key keys='' values live
	for line in $1; do keys=$keys${line%%=*}$NL; done
	sysctl_values "$keys" || return 1
	values=$REPLY
	for line in $1; do
		case $line in *=*) ;; *) continue ;; esac
		key=${line%%=*} live=$NL
		# Of a value of more than one line the last. A key may be named twice.
		for entry in $values; do
			case $entry in "/proc/sys/$key:"*) live=${entry#*:} ;; esac
		done
		[ "$live" != "$NL" ] && [ "$live" != "${line#*=}" ] || continue
		sysctl_single_spaces "$live"
		live=$REPLY
		sysctl_single_spaces "${line#*=}"
		[ "$live" = "$REPLY" ] || differ=$differ$line$NL
	done
}

# REPLY: $1 with single spaces.
sysctl_single_spaces() {
	local IFS=' 	'
	# shellcheck disable=SC2086 # split on purpose
	set -- $1
	REPLY="$*"
}

# Writes the keys of KEY=VALUE lines of file $1 that have another value. What the kernel refuses is written to file $2.
sysctl_write_file() {
	text_read_lines "$1" || { say "the sysctl keys cannot be read" 2>>"${2-/dev/stderr}"; return 1; }
	sysctl_write "$REPLY" "${2-/dev/stderr}"
}

# The same of lines $1. REPLY: those that had another value; with status 1 and nothing here, no key could be read.
sysctl_write() {
	local line differ rc=0 IFS="$NL"
	REPLY=
	sysctl_differing_lines "$1" || { say "the sysctl keys cannot be read" 2>>"$2"; REPLY=; return 1; }
	differ=$REPLY
	[ -n "$differ" ] || return 0
	set -f
	for line in $differ; do
		printf '%s\n' "${line#*=}" >"/proc/sys/${line%%=*}" && continue
		say "sysctl ${line%%=*}: the kernel refused the value ${line#*=}"
		rc=1
	done 2>>"$2" || rc=1
	set +f
	REPLY=$differ
	return $rc
}

# The kernel may write a value in another way: sorted, in other units, within bounds.
sysctl_print_not_kept() {
	local now
	now=$(sysctl_print_live "${1%%=*}") || now='=what cannot be read'
	printf 'the kernel did not keep %s but made it %s; if that is as good, write it so in the inventory' "$1" "${now#*=}"
}
