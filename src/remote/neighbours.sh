# shellcheck shell=dash disable=SC3043,SC2154
# Neighbour entries (ARP, IPv6 neighbour discovery) of the path to the controller.

# Deletes the neighbour entries by which packets reach the controller, so that the host has to resolve them again
# under the new state. Otherwise the confirm would succeed over entries older than the change, and the host would
# become unreachable once they expire. Entries that are never resolved again stay: permanent, noarp, and those that
# a daemon or the kernel itself maintains. Fails where the entries cannot be read: a confirm would then prove nothing.
net_forget_neighbours() {
	local hop zone entries
	first_line "$T/ssh"
	hop=${line%% *}
	[ -n "$hop" ] || return 0
	zone=
	case $hop in *%*) zone=${hop#*%} hop=${hop%%%*} ;; esac
	net_next_hop "$hop" "$zone" || return 1
	[ -n "$hop_device" ] || return 0
	entries=$(ip -o neigh show to "$hop" dev "$hop_device" 2>/dev/null) || return 1
	case $entries in '' | *PERMANENT* | *NOARP* | *extern_learn* | *managed*) return 0 ;; esac
	ip neigh del "$hop" dev "$hop_device" 2>/dev/null
	:
}

# Sets hop and hop_device to the neighbour that packets to address $1 (on link $2, where it is link-local) go to.
# hop_device is empty where there is none, as on the loopback. Fails where that cannot be read.
net_next_hop() {
	local route word before=''
	hop=$1 hop_device=$2
	[ -z "$2" ] || return 0
	# Status 2: the kernel has no route.
	route=$(ip -o route get "$1" 2>/dev/null)
	case $? in 0 | 2) ;; *) return 1 ;; esac
	case $route in local* | '') return 0 ;; esac
	for word in $route; do
		case $before in
		via) case $word in inet | inet6) continue ;; *) hop=$word ;; esac ;;
		dev) hop_device=$word ;;
		esac
		before=$word
	done
}
