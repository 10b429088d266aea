# shellcheck shell=dash disable=SC3043,SC2154,SC2016
# The network around a change of bridges: what the links it touches have, before it and after its rollback. Everything is
# kept as the line of `ip -batch` or `bridge -batch` that makes it so, so that what is missing can be put back whole,
# attributes included that the rest of kvmfw does not know.

# What each line of the state is, with what tells it from others, what `ip` or `bridge` takes to make it, and where one
# command is not enough a second one, with tabs between:
#   L|link|command     A|link|family|scope|address|attributes    X|id|links|words      R|family|network|table|links|source|words
#   N|link|words       F|link|words                              V|link|words          P|family|words
#   M|link|words
NETWORK_AWK='
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
	part == "end" { if (("links" in seen) && ("4" in seen) && (!v6 || ("6" in seen))) print "#end" }'


# What leads back from the state that is to the one that was: `do COMMAND` lines, `lost TEXT` for what the change took
# away or left behind, `other TEXT` for what differs by the hand of others. Links, addresses and routes that the change
# has nothing to do with, or that came meanwhile, are those of others: a guest that starts, an address that keepalived moves.
NETWORK_BACK_AWK='
	function number(ip,   o) { split(ip, o, "."); return ((o[1] * 256 + o[2]) * 256 + o[3]) * 256 + o[4] }
	# Whether two IPv4 addresses are of one network: the kernel may take the second with the first.
	function one_network(one, two,   a, b, size) {
		if (one ~ / peer / || two ~ / peer / || one ~ /:/ || two ~ /:/) return 0
		if (split(one, a, "/") < 2 || split(two, b, "/") < 2 || a[2] != b[2]) return 0
		size = 2 ^ (32 - a[2])
		return int(number(a[1]) / size) == int(number(b[1]) / size)
	}
	function add(kind, line) { todo[kind] = todo[kind] "do " line "\n" }
	function lose(kind, key) {
		print "lost " command[key]
		add(kind, command[key])
		if (second[key] != "") add(kind, second[key])
	}
	function other(key) { print "other " command[key] }
	function all_there(list,   n, w, i) {
		n = split(list, w, " ")
		for (i = 1; i <= n; i++) if (!(w[i] in there)) return 0
		return 1
	}

	# Whether a port has lost its bridge by the hand of others: what it was there it cannot be elsewhere.
	function no_bridge(dev) { return was_master[dev] != "" && !(was_master[dev] in made) && is_master[dev] != was_master[dev] && (!(dev in moved) || !(was_master[dev] in there)) }

	function link_back(key, f,   w) {
		if (f[3] ~ /^type bridge ageing_time / && (f[2] in busy)) return
		if (f[3] ~ /^(master |nomaster)/) {
			split(f[3], w, " ")
			if (!(f[2] in moved) && !(w[2] in made)) { other(key); return }
			# A port of a third bridge by now was moved by its owner.
			if (is_master[f[2]] != "" && !((f[2] " " is_master[f[2]]) in target)) { other(key); return }
			if (w[2] != "" && !(w[2] in there)) { if (w[2] in made) print "lost " command[key]; else other(key); return }
		} else if (f[3] ~ /^type bridge_slave / && (no_bridge(f[2]))) {
			other(key)
			return
		} else if (f[3] ~ /^(up|down)$/ && !(f[2] in made) && !(f[2] in raised)) {
			other(key)
			return
		}
		lose("L", key)
	}

	function route_back(key, f,   n, w, i, ours) {
		ours = (f[3] in routed) || f[6] != "" && (f[6] in source)
		n = split(f[5], w, " ")
		for (i = 1; i <= n; i++) if ((w[i] in changed) || (w[i] in made) || (w[i] in low)) ours = 1
		if (!ours) { other(key); return }
		if (all_there(f[5])) lose(f[7] ~ / via / ? "R2" : "R1", key)
		else for (i = 1; i <= n; i++) if (w[i] in made) { print "lost " command[key]; return }
	}

	function address_is_ours(dev, family, who,   i) {
		if ((dev in made) || (dev in low) && family == "inet6") return 1
		if (((dev "|" who) in gone) || ((dev "|" who) in came)) return 1
		if (family == "inet") for (i = 1; i <= addresses; i++) if (addressed[i] == dev && one_network(address[i], who)) return 1
		return 0
	}

	# Addresses of one link, family and scope, in the order in which they are made: the kernel takes the first of a network for
	# the one that it sends from, and those of IPv6 stand before the ones that came earlier.
	function addresses_back(group,   f, v6, n, m, i, j, k, key, want, have, same, who) {
		split(group, f, "|")
		v6 = f[2] == "inet6"
		if (!(f[1] in there)) {
			if (f[1] in made) for (i = 1; i <= pre_count[group]; i++) print "lost " command[pre[group, i]]
			return
		}
		n = 0
		for (i = 1; i <= pre_count[group]; i++) {
			key = pre[group, v6 ? pre_count[group] + 1 - i : i]
			who = whose[key]
			if (!(key in is)) {
				if (!address_is_ours(f[1], f[2], who)) { other(key); continue }
				print "lost " command[key]
				again[f[1] "|" who]
			}
			want[++n] = key
		}
		m = 0
		for (i = 1; i <= now_count[group]; i++) have[++m] = now[group, v6 ? now_count[group] + 1 - i : i]
		for (i = 1; i <= m; i++) {
			key = have[i]
			if (key in was) continue
			if ((f[1] "|" whose[key]) in again) continue
			if (((f[1] "|" whose[key]) in came) && !((f[1] "|" whose[key]) in had)) { print "lost " "no " command[key]; continue }
			want[++n] = key
		}
		for (same = 0; same < n && same < m && want[same + 1] == have[same + 1];) same++
		if (same == n && same == m) return
		if (!(f[1] in changed) && !(f[1] in made) && !(f[1] in low)) return
		for (i = m; i > same; i--) add("A", "addr del " whose[have[i]] " dev " f[1])
		for (i = same + 1; i <= n; i++) {
			add("A", command[want[i]])
			if (second[want[i]] != "") add("A", second[want[i]])
		}
		# In another order, and all of them there.
		for (i = same + 1; i <= n && i <= m; i++) if (want[i] in is) { print "lost order of " command[want[i]]; return }
	}

	BEGIN { FS = "\t" }
	/^=/ { part = substr($0, 2); next }
	part == "forward" {
		n = split($1, w, " ")
		for (i = 3; i < n && w[i] != "dev"; i++);
		dev = i < n ? w[i + 1] : ""
		if (w[1] == "link" && w[2] == "add") made[w[4]]
		else if (w[1] == "link" && w[2] == "del") made[w[4]]
		else if (w[1] == "link" && w[5] == "mtu" && w[6] + 0 < 1280) low[w[4]]
		else if (w[1] == "link" && w[5] == "master") { moved[w[4]]; target[w[4] " " w[6]] }
		else if (w[1] == "link" && w[5] == "nomaster") moved[w[4]]
		else if (w[1] == "link" && w[5] ~ /^(up|down)$/) raised[w[4]]
		else if (w[1] == "addr") {
			who = w[3] (w[4] == "peer" ? " peer " w[5] : "")
			changed[dev]
			addressed[++addresses] = dev
			address[addresses] = who
			split(who, w2, /[ \/]/)
			if (w[2] == "del") { gone[dev "|" who]; source[w2[1]] } else came[dev "|" who]
		} else if (w[1] == "route") { routed[w[3]]; if (w[2] != "del") route_made[w[3] " " dev] }
		else if (w[1] == "neigh" && w[2] != "del") neighbour_made[w[3] " " dev]
		else if (w[1] == "vlan") vlaned[w[4]]
		next
	}
	part == "made" { if ($1 != "") ours[$1]; next }
	part == "pre" && /^touched\|/ { stood[substr($0, 9)]; next }
	part == "now" && /^there\|/ { there[substr($0, 7)]; next }
	part == "now" && /^busy\|/ { busy[substr($0, 6)]; next }
	/^(there|touched|busy)\|/ { next }
	$0 == "#end" { ended[part]; next }
	$0 == "" { next }
	{
		key = $1
		n = split(key, f, "|")
		command[key] = $2
		second[key] = $3
		if (part == "pre") { was[key]; order[++keys] = key } else { is[key]; extra[++extras] = key }
		if (f[1] == "A") {
			group = f[2] "|" f[3] "|" f[4]
			whose[key] = f[5]
			if (!(group in known)) { known[group]; groups[++group_count] = group }
			if (part == "pre") { pre[group, ++pre_count[group]] = key; had[f[2] "|" f[5]] } else now[group, ++now_count[group]] = key
		}
		if (part == "pre" && f[1] == "V") { split(f[3], w, " "); had_vlan[f[2] " " w[2]] }
		if (f[1] == "L" && f[3] ~ /^master /) { if (part == "now") is_master[f[2]] = substr(f[3], 8); else was_master[f[2]] = substr(f[3], 8) }
	}
	END {
		if (!("pre" in ended) || !("now" in ended)) exit 1
		for (name in ours) if ((name in there) && !(name in stood)) {
			print "lost no link " name
			add("L", "link del dev " name)
		}
		for (k = 1; k <= group_count; k++) addresses_back(groups[k])
		for (k = 1; k <= keys; k++) {
			key = order[k]
			if (key in is) continue
			n = split(key, f, "|")
			if (f[1] == "R") route_back(key, f)
			else if (f[1] == "P") other(key)
			else if (f[1] == "X" && (f[3] == "" || f[3] in there)) lose("X", key)
			# Whoever took a link away took all of it.
			else if (!(f[2] in there)) { if ((f[2] in made) && f[1] == "L") print "lost " command[key] }
			else if (f[1] == "L") link_back(key, f)
			else if (f[1] == "N" || f[1] ~ /^[FMV]$/ && !no_bridge(f[2])) lose(f[1], key)
			else if (f[1] ~ /^[FMV]$/) other(key)
		}
		for (k = 1; k <= extras; k++) {
			key = extra[k]
			if (key in was) continue
			n = split(key, f, "|")
			if (f[1] == "R") {
				n = split(f[5], w, " ")
				for (i = 1; i <= n; i++) if ((f[3] " " w[i]) in route_made) {
					print "lost no " command[key]
					line = command[key]
					sub(/^route replace/, "route del", line)
					add("R0", line)
					break
				}
			} else if (f[1] == "N") {
				split(f[3], w, " ")
				if ((w[1] " " f[2]) in neighbour_made) { print "lost no " command[key]; add("N", "neigh del " w[1] " dev " f[2]) }
			} else if (f[1] == "V") {
				split(f[3], w, " ")
				if ((f[2] in vlaned) && !((f[2] " " w[2]) in had_vlan)) {
					print "lost no " command[key]
					add("V", "vlan del dev " f[2] " vid " w[2] (f[3] ~ / self$/ ? " self" : ""))
				}
			}
		}
		n = split("L A X R0 R1 R2 N V F M", w, " ")
		for (i = 1; i <= n; i++) printf "%s", todo[w[i]]
		print "#end"
	}'

# Writes down what is, before anything is touched.
net_snapshot() {
	local text devices whole=''
	if text_is_filled "$T/new/bridges"; then
		text_read "$T/new/devices" && devices=$text && text_read "$T/new/bridges" &&
			text_unwrap_output "$(net_print_state '=touched' "$devices" "$text")" || return 1
	fi
	text_write "$T/pre/network" "$whole"
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
	} 2>/dev/null | awk -v v6="$v6" "$NETWORK_AWK"
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

# Puts back what the change took of the network or left behind there, and fails where that is not to be had. What others
# did meanwhile stays, and is told in the log.
net_restore() {
	local text whole before forward made='' line lines='' lost='' others='' tries=0 unknown='after the rollback nobody can tell whether the network is as it was'
	text_read "$T/pre/network" && before=$text && text_read "$T/new/bridges" || { say "$unknown"; return 1; }
	forward=$text
	if [ -e "$T/made" ]; then
		while IFS= read -r line; do made=$made$line$NL; done <"$T/made" || return 1
	fi
	while :; do
		text_unwrap_output "$(net_print_state '=again' "$before" "$forward")" &&
			text_unwrap_output "$(
				printf '%s\n' '=forward' "$forward" '=made' "$made" '=pre' "$before" '#end' '=now' "$whole" '#end' |
					awk "$NETWORK_BACK_AWK"
			)" || { say "$unknown"; return 1; }
		lines='' lost='' others=''
		while IFS= read -r line; do
			case $line in
			'do '*) lines=$lines${line#do }$NL ;;
			'lost '*) lost=$lost${lost:+; }${line#lost } ;;
			'other '*) others=$others${others:+; }${line#other } ;;
			esac
		done <<-COMPARED
			$whole
		COMPARED
		[ -n "$lost" ] && [ $((tries += 1)) -le 4 ] || break
		[ -z "$lines" ] || net_batch "$lines" -force
	done
	[ -z "$others" ] || say "changed by others meanwhile, and left so: $others"
	[ -n "$lost" ] || return 0
	say "after the rollback not back: $lost"
	return 1
}
