# shellcheck shell=dash disable=SC3043,SC2154
# What sysctl keys change beside themselves: the same key of other links, and the IPv6 addresses and routes of the host.

# Records what writing keys $1 may change beside them.
sysctl_snapshot_effects() {
	local key names='' ipv6=''
	for key in $1; do
		case $key in
		net/ipv6/*) ipv6=yes ;;
		esac
		case $key in
		# Forwarding writes to these of every link, and its inverse does not undo that.
		net/ipv4/ip_forward | net/ipv[46]/conf/*/forwarding) names="$names forwarding accept_redirects send_redirects proxy_ndp" ;;
		# `all` writes through to every link, `default` to those on which nobody has set it.
		net/ipv[46]/conf/all/* | net/ipv[46]/conf/default/*) names="$names ${key##*/}" ;;
		# These start IPv6 on a link anew.
		net/ipv6/conf/*/disable_ipv6 | net/ipv6/conf/*/mtu) names="$names disable_ipv6 addr_gen_mode mtu" ;;
		esac
	done
	# These go back too, but others may write them meanwhile: they are no measure of success.
	sysctl_link_keys "$names" && text_write "$T/pre/sysctl.side" "$REPLY" || return 1
	REPLY=
	[ -z "$ipv6" ] || sysctl_ipv6_state || return 1
	text_write "$T/pre/ipv6" "$REPLY"
}

# REPLY: KEY=VALUE of the sysctl keys named $1 of all links.
sysctl_link_keys() {
	local key name keys=''
	for name in $1; do
		for key in /proc/sys/net/ipv4/conf/*/"$name" /proc/sys/net/ipv6/conf/*/"$name"; do
			[ ! -e "$key" ] || keys=$keys${key#/proc/sys/}$NL
		done
	done
	REPLY=$(sysctl_print_live "$keys")
}

# REPLY: the IPv6 addresses and routes of the host as lines for `ip -batch`, without those that the kernel makes itself. The
# time that is left stands at the end, behind ` # `. Fails if not all of it could be read.
sysctl_ipv6_state() {
	local state
	state=$("${IP:-ip}" -6 -o -batch - 2>/dev/null <<-'SHOW'
		address show
		route show table all
	SHOW
	) || return 1
	state=$(printf '%s\n#end\n' "$state" | awk "$SYSCTL_IPV6_AWK") && text_unwrap_output "$state"
}

# REPLY: the lines of recorded IPv6 state $1 that are missing now, whatever time is left of them.
sysctl_ipv6_lost() {
	local lost
	sysctl_ipv6_state || return 1
	lost=$(printf '%s\n=\n%s\n#end\n' "$REPLY" "$1" | awk '
		{ last = $0 }
		$0 == "#end" { next }
		$0 == "=" { rest = 1; next }
		{ what = $0; sub(/ #.*/, "", what) }
		!rest { now[what] = 1; next }
		what != "" && !(what in now) { sub(/ #/, ""); print }
		END { if (last == "#end") print last }') && text_unwrap_output "$lost"
}

# Puts back what writing keys changed beside them. Others may write the keys of links meanwhile, so these are no measure
# of success; addresses and routes without an end are.
sysctl_restore_effects() {
	local text lost='' line name missing=''
	text_read "$T/pre/sysctl.side" || { say "the sysctl keys that were there before cannot be read"; return 1; }
	sysctl_write "$REPLY" /dev/null
	# Writing one key can set others; a second pass finds them.
	sysctl_write_file "$T/pre/sysctl" /dev/null
	text_read "$T/pre/ipv6" || { say "the IPv6 addresses that were there before cannot be read"; return 1; }
	text=$REPLY
	[ -n "$text" ] || return 0
	# A second time for routes by addresses and routes that came after them.
	for name in 1 2 3; do
		sysctl_ipv6_lost "$text" || { say "after the rollback nobody can tell whether the IPv6 addresses are back"; return 1; }
		lost=$REPLY
		[ -n "$lost" ] || return 0
		[ "$name" = 3 ] || printf '%s\n' "$lost" | "${IP:-ip}" -6 -force -batch - >/dev/null 2>&1
	done
	# Links that are gone by now took theirs along, and what had an end may have come to it.
	while IFS= read -r line; do
		case $line in *' valid_lft '* | *' expires '*) continue ;; esac
		name=${line##* dev }
		[ ! -e "/sys/class/net/${name%% *}" ] || missing=${missing:-$line}
	done <<-LOST
		$lost
	LOST
	[ -n "$missing" ] || return 0
	say "after the rollback not back: $missing"
	return 1
}

# Whether the kernel refuses to set back any of the keys of lines $1, which still differ. A key may be busy for a moment: only
# the third time this is so, the rollback ends with it, and its reason names the keys.
sysctl_is_refused() {
	local line refused='' IFS="$NL"
	set -f
	for line in $1; do
		{ printf '%s\n' "${line#*=}" >"/proc/sys/${line%%=*}"; } 2>/dev/null && { set +f; return 1; }
		refused="$refused${refused:+, }${line%%=*}"
	done
	set +f
	# Each attempt is a process of its own.
	first_line "$R/refusals"
	refusals=$((${REPLY:-0} + 1))
	echo $refusals >"$R/refusals"
	[ $refusals -ge 3 ] || [ -n "${booting-}" ] || return 1
	say "the kernel refuses to set back $refused"
	first_line "$T/reason"
	printf '%s; but %s could not be set back: the kernel refuses that until the next boot\n' "$REPLY" "$refused" >"$T/reason"
}
