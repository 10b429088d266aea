# shellcheck shell=dash disable=SC3043,SC2154
# Neighbour entries (ARP, IPv6 neighbour discovery) of the path to the controller.

# Deletes the neighbour entries by which packets reach the controller, so that the host has to resolve them again
# under the new state. Otherwise the confirm would succeed over entries older than the change, and the host would
# become unreachable once they expire. Entries that are never resolved again stay: permanent, noarp, and those that
# a daemon or the kernel itself maintains. Fails where the entries cannot be read: a confirm would then prove nothing.
net_forget_neighbours() {
	local hop zone device entries
	first_line "$T/ssh"
	hop=${REPLY%% *}
	[ -n "$hop" ] || return 0
	zone=
	case $hop in *%*) zone=${hop#*%} hop=${hop%%%*} ;; esac
	net_next_hop "$hop" "$zone" || return 1
	hop=$REPLY device=$REPLY_device
	[ -n "$device" ] || return 0
	entries=$(ip -o neigh show to "$hop" dev "$device" 2>/dev/null) || return 1
	case $entries in '' | *PERMANENT* | *NOARP* | *extern_learn* | *managed*) return 0 ;; esac
	ip neigh del "$hop" dev "$device" 2>/dev/null
	:
}

# REPLY: the neighbour that packets to address $1 (on link $2, if the address is link-local) go to. REPLY_device: its link,
# empty if there is none, as on the loopback. Fails if the route cannot be read.
net_next_hop() {
	local route word before=''
	REPLY=$1 REPLY_device=$2
	[ -z "$2" ] || return 0
	# Status 2: the kernel has no route.
	route=$(ip -o route get "$1" 2>/dev/null)
	case $? in 0 | 2) ;; *) return 1 ;; esac
	case $route in local* | '') return 0 ;; esac
	for word in $route; do
		case $before in
		via) case $word in inet | inet6) continue ;; *) REPLY=$word ;; esac ;;
		dev) REPLY_device=$word ;;
		esac
		before=$word
	done
}
