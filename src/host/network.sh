# shellcheck shell=dash disable=SC3043,SC2154,SC2016
# The network around a change of bridges: what the links it touches have, before it and after its rollback. Everything is
# kept as the line of `ip -batch` or `bridge -batch` that makes it so, so that what is missing can be put back whole,
# attributes included that the rest of kvmfw does not know.

# Writes down what is, before anything is touched.
net_snapshot() {
	local devices state=''
	if text_is_filled "$T/new/bridges"; then
		text_read "$T/new/devices" && devices=$REPLY && text_read "$T/new/bridges" &&
			text_unwrap_output "$(net_print_state '=touched' "$devices" "$REPLY")" || return 1
		state=$REPLY
	fi
	text_write "$T/pre/network" "$state"
}

# Prints the state. Its last line is #end, or it was not all to be had. The links are those of lines $2: with $1
# `=touched` of the plan, and the bridges that they are ports of; with `=again` of a state. $3 is the way forward.
net_print_state() {
	local file groups='' v6=''
	[ ! -e /proc/net/if_inet6 ] || v6=yes
	# bridge ends at what the kernel has not.
	for file in /sys/class/net/*/bridge/multicast_snooping; do [ ! -e "$file" ] || groups="mdb show$NL"; done
	{
		printf '%s\n' "$1" "$2" '=forward' "$3" '=links'
		"${IP:-ip}" -d -o link show
		echo '=4'
		net_print_family 4
		if [ -n "$v6" ]; then
			echo '=6'
			net_print_family 6
		fi
		echo '=bridge'
		if have bridge; then printf 'fdb show\n%svlan show\n' "$groups" | bridge -d -batch -; fi
		printf '=end\n\n'
	} 2>/dev/null | awk -v v6="$v6" "$NET_STATE_AWK"
}

# `link show` says that all before it was read. An ip or a kernel without objects for next hops ends behind it.
net_print_family() {
	"${IP:-ip}" -o "-$1" -batch - <<-'STATE'
		rule show
		addr show
		neigh show nud permanent
		neigh show proxy
		route show table all
		link show dev lo
		nexthop show
	STATE
}

# Restores what the change removed from the network and removes what it left there; fails if that is not possible. What
# other programs changed meanwhile stays, and is written to the log.
net_restore() {
	local before forward made='' line lines='' lost='' others='' tries=0 unknown='after the rollback nobody can tell whether the network is as it was'
	text_read "$T/pre/network" && before=$REPLY && text_read "$T/new/bridges" || { say "$unknown"; return 1; }
	forward=$REPLY
	if [ -e "$T/made" ]; then
		while IFS= read -r line; do made=$made$line$NL; done <"$T/made" || return 1
	fi
	while :; do
		text_unwrap_output "$(net_print_state '=again' "$before" "$forward")" &&
			text_unwrap_output "$(
				printf '%s\n' '=forward' "$forward" '=made' "$made" '=pre' "$before" '#end' '=now' "$REPLY" '#end' |
					awk "$NET_RESTORE_AWK"
			)" || { say "$unknown"; return 1; }
		lines='' lost='' others=''
		while IFS= read -r line; do
			case $line in
			'do '*) lines=$lines${line#do }$NL ;;
			'lost '*) lost=$lost${lost:+; }${line#lost } ;;
			'other '*) others=$others${others:+; }${line#other } ;;
			esac
		done <<-COMPARED
			$REPLY
		COMPARED
		[ -n "$lost" ] && [ $((tries += 1)) -le 4 ] || break
		[ -z "$lines" ] || net_batch "$lines" -force
	done
	[ -z "$others" ] || say "changed by others meanwhile, and left so: $others"
	[ -n "$lost" ] || return 0
	say "after the rollback not back: $lost"
	return 1
}
