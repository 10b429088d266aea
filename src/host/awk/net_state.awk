# What each line of the state is, with what tells it from others, what `ip` or `bridge` takes to make it, and where one
# command is not enough a second one, with tabs between:
#   L|link|command     A|link|family|scope|address|attributes    X|id|links|words      R|family|network|table|links|source|words
#   N|link|words       F|link|words                              V|link|words          P|family|words
#   M|link|words
function emit(key, command, second) { print key "\t" command (second == "" ? "" : "\t" second) }
function in_list(word, list) { return index(" " list " ", " " word " ") > 0 }
function set(name, words) { emit("L|" name "|" words, "link set dev " name " " words) }

# Only what can be set is kept of a link. Timers, the roots and states of spanning tree, counters and numbers
# of the kernel move by themselves.
function link(name,   w, n, i, kind, flags, busy) {
	n = split(text[name], w)
	flags = "," substr(w[3], 2, length(w[3]) - 2) ","
	busy = index(text[name], " topology_change 1 ")
	for (i = 4; i <= n; i++) {
		if (w[i] == "bridge" && w[i + 1] == "forward_delay") kind = "bridge"
		else if (w[i] == "bridge_slave") kind = "bridge_slave"
		else if (w[i] == "mtu" && kind == "") set(name, "mtu " w[++i])
		else if (w[i] == "qlen" && kind == "") set(name, "txqueuelen " w[++i])
		else if (w[i] == "group" && kind == "") set(name, "group " w[++i])
		else if (w[i] == "addrgenmode") set(name, "addrgenmode " w[++i])
		# A bridge that lost its last port has one of zeros, which cannot be set. One that nothing of the
		# change gives a MAC follows its ports, and would not do so any more.
		else if (w[i] == "link/ether" && (name in pinned) && w[i + 1] != "00:00:00:00:00:00") set(name, "address " w[++i])
		# While the topology changes, a bridge shows an ageing time that is none of its own.
		else if (w[i] == "ageing_time" && busy) print "busy|" name
		else if (kind == "bridge" && in_list(w[i], bridge_words)) set(name, "type bridge " w[i] " " w[++i])
		else if (kind == "bridge_slave" && in_list(w[i], port_words)) set(name, "type bridge_slave " w[i] " " w[++i])
	}
	set(name, master[name] == "" ? "nomaster" : "master " master[name])
	set(name, index(flags, ",UP,") ? "up" : "down")
	set(name, "promisc " (index(flags, ",PROMISC,") ? "on" : "off"))
	set(name, "arp " (index(flags, ",NOARP,") ? "off" : "on"))
}

function address(   i, who, v6, scope, tail, flags, state, label, valid, preferred, key, dad) {
	v6 = $3 == "inet6"
	who = $4
	i = 5
	if ($5 == "peer") { who = who " peer " $6; i = 7 }
	tail = flags = state = label = ""
	for (; i <= NF; i++) {
		if ($i == "scope") scope = $(++i)
		else if ($i == "valid_lft") valid = $(++i) + 0
		else if ($i == "preferred_lft") preferred = $(++i)
		else if (in_list($i, "brd metric proto any")) { tail = tail " " $i " " $(i + 1); i++ }
		else if ($i == "nodad") dad = " nodad"
		else if (in_list($i, "home mngtmpaddr noprefixroute autojoin")) flags = flags " " $i
		else if (in_list($i, "dynamic temporary deprecated")) state = state " " $i
		# Where it stands tells whether it is secondary; the others are of the moment.
		else if (in_list($i, "secondary tentative dadfailed optimistic stable-privacy permanent")) continue
		else label = $i
	}
	# The kernel makes those of an own prefix, and new ones every day.
	if (in_list("temporary", state)) return
	tail = tail (scope == "global" ? "" : " scope " scope) (label == "" || label == $2 ? "" : " label " label) flags
	key = "A|" $2 "|" $3 "|" scope "|" who "|" tail
	if (in_list("dynamic", state)) {
		# What is left of its time is less every second.
		key = key " dynamic" dad
		tail = tail " valid_lft " valid " preferred_lft " (preferred == "forever" ? preferred : preferred + 0)
	} else {
		key = key (in_list("deprecated", state) ? " deprecated" : "") dad
		if (in_list("deprecated", state)) tail = tail " preferred_lft 0"
		else if (preferred != "forever") tail = tail " preferred_lft " (preferred + 0)
	}
	# An address that is put back answers at once; that it was not asked for twice is forgotten afterwards.
	if (v6) emit(key, "addr replace " who " dev " $2 tail " nodad", dad == "" ? "addr change " who " dev " $2 tail : "")
	else emit(key, "addr replace " who " dev " $2 tail)
	if (who !~ / peer /) sub(/\/.*/, "", who); else sub(/ .*/, "", who)
	own[who]
}

function nexthop(   i, words, dev, group) {
	words = dev = group = ""
	for (i = 3; i <= NF; i++) {
		if ($i == "scope") { i++; continue }
		if (in_list($i, states)) continue
		if ($i == "dev") dev = $(i + 1)
		if ($i == "group") group = 1
		words = words " " $i
	}
	if (dev != "" && (dev in touched) || group) emit("X|" $2 "|" dev "|" words, "nexthop replace id " $2 words)
}

# Keeps a route that has to do with the touched links, by where it goes or by the source that it gives.
function route(   i, kind, dst, words, key, devs, table, src, expires, hops, mine, nhid, value) {
	i = 1
	kind = ""
	if (in_list($1, "unicast local broadcast multicast anycast unreachable blackhole prohibit throw nat")) { kind = $1 " "; i = 2 }
	dst = $(i++)
	if (dst == "default" && family == 6) dst = "::/0"
	words = devs = src = expires = nhid = ""
	table = "main"
	hops = 0
	for (; i <= NF; i++) {
		value = $(i + 1)
		if (in_list($i, states)) continue
		if ($i == "nexthop") { hops = 1; if (nhid != "") continue }
		if ($i == "expires") { expires = " expires " (value + 0); i++; continue }
		if ($i == "error") { i++; continue }
		# Locked whether this is said or not.
		if ($i == "rto_min" && value == "lock") { words = words " rto_min " $(i + 2); i += 2; continue }
		if ($i == "dev") { devs = devs " " value; if (value in touched) mine = 1 }
		if ($i == "src") { src = value; if (value in own) mine = 1 }
		if ($i == "table") table = value
		if ($i == "nhid") nhid = value
		# The hops of an object stand there.
		if (nhid != "" && in_list($i, "via dev weight")) { i += $i == "via" && value ~ /^inet6?$/ ? 2 : 1; continue }
		if (nhid != "" && $i == "onlink") continue
		words = words " " $i
	}
	# What the kernel keeps of its own for each address comes and goes with that.
	if (table == "local" && words ~ / proto (kernel|none|unspec)/) return
	if (!mine && !((family " " dst) in routed)) return
	key = kind dst words
	emit("R|" family "|" dst "|" table "|" devs " |" src "|" key, "route replace " key expires)
}

function neighbour(   i, words) {
	for (i = 2; i <= NF; i++) if ($i == "dev") break
	if (!($(i + 1) in touched)) return
	words = $0
	sub(/ +$/, "", words)
	if (sub(/ proxy$/, "", words)) { emit("N|" $(i + 1) "|proxy " words, "neigh replace proxy " words); return }
	sub(/ PERMANENT$/, " nud permanent", words)
	emit("N|" $(i + 1) "|" words, "neigh replace " words)
}

function forwarding(   i, dev, words, bridge, kept) {
	for (i = 2; i <= NF; i++) {
		if ($i == "dev") dev = $(i + 1)
		if ($i == "master") bridge = $(i + 1)
		if (in_list($i, "permanent static")) kept = $i
	}
	if (!(dev in touched) || kept == "") return
	# The groups that a link listens to, and the MAC of each port, are the kernel s own.
	if ($1 ~ /^(33:33|01:00:5e|01:80:c2):/ || $1 == mac[dev] || bridge != "" && $1 == mac[bridge]) return
	words = $0
	gsub(/ +/, " ", words)
	sub(/ $/, "", words)
	sub(/ permanent/, " local", words)
	gsub(/ (offload|stale|extern_learn)/, "", words)
	if (bridge != "") sub(" master " bridge, " master", words)
	emit("F|" dev "|" words, "fdb replace " words)
}

# Groups that somebody wrote down; those that a bridge learned come and go.
function group_entry(   i, words, kept) {
	words = "dev " $2 " port " $4
	for (i = 5; i <= NF; i++) {
		if (in_list($i, "grp src vid")) { words = words " " $i " " $(i + 1); i++ }
		else if ($i == "permanent") { words = words " permanent"; kept = 1 }
	}
	if (kept && ($4 in touched)) emit("M|" $4 "|" words, "mdb add " words)
}

function vlan(   i, vid, words) {
	if ($1 == "port") return
	if ($0 ~ /^[^ \t]/) { port = $1; i = 2 } else i = 1
	vid = $(i++)
	if (!(port in touched) || vid !~ /^[0-9]/) return
	words = ""
	if (index($0, " PVID")) words = words " pvid"
	if (index($0, " Egress Untagged")) words = words " untagged"
	if (is_bridge[port] && master[port] == "") words = words " self"
	emit("V|" port "|vid " vid words, "vlan add dev " port " vid " vid words)
}

BEGIN {
	states = "linkdown dead offload trap pervasive rt_offload rt_trap offload_failed rt_offload_failed"
	bridge_words = "forward_delay hello_time max_age ageing_time stp_state priority vlan_filtering vlan_protocol vlan_default_pvid vlan_stats_enabled vlan_stats_per_port group_fwd_mask group_address mcast_snooping no_linklocal_learn mcast_vlan_snooping mcast_router mcast_query_use_ifaddr mcast_querier mcast_hash_max mcast_last_member_count mcast_startup_query_count mcast_last_member_interval mcast_membership_interval mcast_querier_interval mcast_query_interval mcast_query_response_interval mcast_startup_query_interval mcast_stats_enabled mcast_igmp_version mcast_mld_version nf_call_iptables nf_call_ip6tables nf_call_arptables"
	port_words = "priority cost hairpin guard root_block fastleave learning flood proxy_arp proxy_arp_wifi mcast_router mcast_flood bcast_flood mcast_to_unicast group_fwd_mask neigh_suppress vlan_tunnel isolated locked mab"
}
{ gsub(/\\/, " ") }
/^=/ {
	if ($0 == "=4" && !listed++) {
		for (i = 1; i <= links; i++) if ((order[i] in named) && master[order[i]] != "") touched[master[order[i]]]
		for (i = 1; i <= links; i++) if (again) print "there|" order[i]
		for (i = 1; i <= links; i++) if (order[i] in touched) { print "touched|" order[i]; link(order[i]) }
	}
	part = substr($0, 2)
	family = part
	next
}
part == "touched" { if (NF) { touched[$1]; named[$1] } next }
part == "again" { again = 1; if (/^touched\|/) touched[substr($0, 9)]; next }
part == "forward" {
	if (/^link (add name|del dev) / || /^link set dev [^ ]* address /) pinned[$4]
	if (/^route /) { routed[4 " " $3]; routed[6 " " $3] }
	next
}
part == "links" {
	name = $2
	sub(/:$/, "", name)
	sub(/@.*/, "", name)
	order[++links] = name
	text[name] = $0
	for (i = 4; i < NF; i++) {
		if ($i == "master" && master[name] == "") master[name] = $(i + 1)
		if ($i == "link/ether") mac[name] = $(i + 1)
		if ($i == "bridge" && $(i + 1) == "forward_delay") is_bridge[name] = 1
	}
	if (name == "lo") seen["links"]
	next
}
(part == "4" || part == "6") && /^[0-9]+: lo: / { seen[part]; next }
(part == "4" || part == "6") && $1 ~ /^[0-9]+:$/ && $3 ~ /^inet6?$/ { if ($2 in touched) address(); next }
(part == "4" || part == "6") && /^[0-9]+:\t/ {
	sub(/ \[detached\]/, "")
	sub(/ +$/, "")
	i = index($0, ":")
	emit("P|" part "|" $0, "rule add pref " substr($0, 1, i - 1) " " substr($0, i + 2))
	next
}
(part == "4" || part == "6") && /^id [0-9]+ / { nexthop(); next }
(part == "4" || part == "6") && / (PERMANENT|proxy) *$/ { neighbour(); next }
part == "4" || part == "6" { if (NF > 1) route(); next }
part == "bridge" && /^[0-9a-f][0-9a-f]:/ { forwarding(); next }
part == "bridge" && $1 == "dev" && $3 == "port" { group_entry(); next }
part == "bridge" && NF { vlan(); next }
# What was read only in part is no state.
part == "end" { if (("links" in seen) && ("4" in seen) && (!v6 || ("6" in seen))) print "#end" }
