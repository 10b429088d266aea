# How to return from the present state to the recorded one: `do COMMAND` lines, `lost TEXT` for what the change removed
# or left behind, `other TEXT` for what other programs changed. Links, addresses and routes that the change did not touch,
# or that are newer than it, belong to other programs: a guest that starts, an address that keepalived moves.
function number(ip,   o) { split(ip, o, "."); return ((o[1] * 256 + o[2]) * 256 + o[3]) * 256 + o[4] }
# Whether two IPv4 addresses are of one network: the kernel may take the second with the first.
function one_network(one, two,   a, b, size, bits) {
	if (one ~ / peer / || two ~ / peer / || one ~ /:/ || two ~ /:/) return 0
	if (split(one, a, "/") < 2 || split(two, b, "/") < 2 || a[2] != b[2]) return 0
	# BusyBox may be built without the power operator.
	size = 1
	for (bits = a[2]; bits < 32; bits++) size *= 2
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

# Whether another program took a port from its bridge. Its attributes there mean nothing elsewhere.
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
}
