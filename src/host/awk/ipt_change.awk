# Reads the live save, a line "=", then the own text that is wanted, and foreign text (only with foreign=1), and a
# line "#end"; prints what iptables-restore
# --noflush has to be given, table by table, and nothing for a table that is as it should be; then "#end", unless the
# input was cut off: half of it would pass for a wish to have less, and no output for "all is as it should be".
# A policy that the goal does not name stays as it is.
{ last = $0 }
BEGIN {
	order[1] = "raw"; order[2] = "mangle"; order[3] = "nat"; order[4] = "filter"; order[5] = "security"
}
$0 == "=" { goal = 1; table = ""; next }
/^#/ { next }
# The connections that were open when the rules came (conntrack.sh) are not state.
!goal && ($1 == ":KVMFW--flows" || $2 == "KVMFW--flows" || / -j KVMFW--flows$/) { next }
/^\*/ { table = substr($1, 2); next }
$0 == "&" { list++; next }
/^[!~+=]/ {
	name = $1 == substr($1, 1, 1) "-A" ? $2 : substr($1, 3)
	if (index(touched[table], " " name " ") == 0) touched[table] = touched[table] " " name " "
	key = table SUBSEP name
	if (substr($1, 2, 1) == ":") { sign = substr($1, 1, 1); if (sign == "+") made[key] = 1; else goes[key] = sign; next }
	asked[key]++
	# A rule that comes back needs its chain, which may be gone since.
	if (substr($1, 1, 1) == "+" && !builtin(name)) made[key] = 1
	asked_sign[key, asked[key]] = substr($1, 1, 1)
	asked_list[key, asked[key]] = list
	asked_rule[key, asked[key]] = substr($0, length($1) + length($2) + 3)
	next
}
/^:/ {
	name = substr($1, 2); key = table SUBSEP name
	if (!goal && foreign) there[key] = 1
	if (!goal) {
		if (name ~ /^KVMFW-/) { live[key] = 1; live_list[table] = live_list[table] " " name }
		else policy[key] = $2
	} else if (name ~ /^KVMFW-/) { want[key] = 1; want_list[table] = want_list[table] " " name }
	else want_policy[table] = want_policy[table] " " name " " $2
	next
}
/^\^/ {
	chain = substr($1, 2)
	id = table SUBSEP chain SUBSEP $3
	if (!(id in wanted)) hook_list[table] = hook_list[table] " " chain " " $3
	k = ++wanted[id]
	place_wanted[id, k] = $2
	text_wanted[id, k] = $4 == "" ? "-m comment --comment \"kvmfw:hook\" -j " $3 : substr($0, length($1) + length($2) + length($3) + 4)
	next
}
/^-A / {
	key = table SUBSEP $2
	if ($2 ~ /^KVMFW-/) {
		if (goal && foreign) entered[table] = entered[table] " " $NF " "
		if (goal) want_rules[key] = want_rules[key] $0 "\n"
		else live_rules[key] = live_rules[key] $0 "\n"
		next
	}
	if (goal) next
	count[key]++
	target = target_of($0)
	if (foreign) {
		all[key, count[key]] = substr($0, length($2) + 5)
		all_target[key, count[key]] = target
		if (NF > 3 && ($(NF - 1) == "-j" || $(NF - 1) == "-g")) uses[table, $NF]++
	}
	if (target ~ /^KVMFW-/) {
		id = key SUBSEP target
		if (!(id in hooks)) live_hooks[table] = live_hooks[table] " " $2 " " target
		k = ++hooks[id]
		place[id, k] = count[key]
		text[id, k] = substr($0, length($2) + 5)
	}
	next
}
function builtin(chain) { return chain ~ /^(INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING)$/ }
# A chain that another program makes and that is not there yet cannot enter ours; nothing else waits for it.
function is_missing(key, chain) { return !builtin(chain) && !(key in policy) && !(key in made) }
# Whether the hooks of one chain into one of ours are as they are wanted.
function in_place(id, key, target,   k, at) {
	at = place_wanted[id, 1]
	if (at == "any" || at == "first" || at == "last") {
		if (hooks[id] != 1) return 0
		# A hook with conditions of its own is none.
		if (text[id, 1] != "-j " target && text[id, 1] != "-m comment --comment \"kvmfw:hook\" -j " target) return 0
		return at == "any" || at == "first" && place[id, 1] == 1 || at == "last" && place[id, 1] == count[key]
	}
	if (hooks[id] != wanted[id]) return 0
	for (k = 1; k <= wanted[id]; k++) {
		if (text[id, k] != text_wanted[id, k]) return 0
		if (substr(place_wanted[id, k], 1, 1) == "=" && substr(place_wanted[id, k], 2) != place[id, k]) return 0
	}
	return 1
}
function drop_hooks(id, key, chain,   k, lines) {
	lines = ""
	dropped[id] = 1
	for (k = 1; k <= hooks[id]; k++) lines = lines "-D " chain " " text[id, k] "\n"
	count[key] -= hooks[id]
	return lines
}
# The first place behind `from` at which the work list has a rule; 0 for none.
function where(rule, from,   i) {
	for (i = from + 1; i <= size; i++) if (work[i] == rule) return i
	return 0
}
function copies(rule,   i, n) {
	n = 0
	for (i = 1; i <= size; i++) if (work[i] == rule) n++
	return n
}
# Where a rule goes that nothing is known to stand before: in front of what stood behind it, else where our
# hook was, which took its place.
function front(key, i,   k, j) {
	for (k = i + 1; k <= asked[key]; k++) {
		if (asked_list[key, k] != asked_list[key, i]) break
		j = where(asked_rule[key, k], 0)
		if (j) return j
	}
	return place_of_ours ? place_of_ours : 1
}
# What becomes of the foreign rules of a chain: taken ones go, those that come back stand behind the one that
# they stood behind. Whatever somebody else has put there meanwhile stays, and so does its order.
function edit(t, chain,   key, i, j, at, last, rule, sign) {
	key = t SUBSEP chain
	size = 0
	split("", work); split("", need)
	place_of_ours = 0
	for (i = 1; i <= count_live[key]; i++) {
		if (!((key SUBSEP all_target[key, i]) in dropped)) work[++size] = all[key, i]
		else if (!place_of_ours) place_of_ours = size + 1
	}
	for (i = 1; i <= asked[key]; i++) if (asked_sign[key, i] != "!") need[asked_list[key, i], asked_rule[key, i]]++
	at = 0; last = -1
	for (i = 1; i <= asked[key]; i++) {
		rule = asked_rule[key, i]; sign = asked_sign[key, i]
		if (sign == "!") {
			j = where(rule, 0)
			if (!j) continue
			for (; j < size; j++) work[j] = work[j + 1]
			size--
			take = take "-D " chain " " rule "\n"
			if (match(rule, /(^| )-[jg] [^ ]+$/)) { sub(/.* /, "", rule); uses[t, rule]-- }
			continue
		}
		if (asked_list[key, i] != last) { at = 0; last = asked_list[key, i] }
		j = where(rule, at)
		if (j) { at = j; continue }
		if (sign == "=" || copies(rule) >= need[asked_list[key, i], rule]) continue
		at = at ? at + 1 : front(key, i)
		for (j = ++size; j > at; j--) work[j] = work[j - 1]
		work[at] = rule
		bring = bring "-I " chain " " at " " rule "\n"
	}
	count[key] = size
}
function foreigners(t,   n, part, i, key) {
	take = bring = made_text = gone_text = ""
	n = split(touched[t], part, " ")
	for (i = 1; i <= n; i++) {
		key = t SUBSEP part[i]
		if ((key in made) && !(key in there)) made_text = made_text ":" part[i] " - [0:0]\n"
		edit(t, part[i])
	}
	for (i = 1; i <= n; i++) {
		key = t SUBSEP part[i]
		if (!(key in goes) || !(key in there)) continue
		if (goes[key] == "~" && (count[key] > 0 || uses[t, part[i]] > 0 || index(entered[t], " " part[i] " "))) continue
		gone_text = gone_text "-X " part[i] "\n"
	}
}
function change(t,   head, rules, drop, put, remove, n, part, i, k, key, id, at) {
	head = rules = drop = put = remove = ""
	n = split(want_policy[t], part, " ")
	for (i = 1; i < n; i += 2) {
		key = t SUBSEP part[i]
		if ((key in policy ? policy[key] : "ACCEPT") != part[i + 1]) head = head ":" part[i] " " part[i + 1] " [0:0]\n"
	}
	n = split(want_list[t], part, " ")
	for (i = 1; i <= n; i++) {
		key = t SUBSEP part[i]
		if (!(key in live) || live_rules[key] != want_rules[key]) {
			head = head ":" part[i] " - [0:0]\n"
			rules = rules want_rules[key]
		}
	}
	n = split(live_list[t], part, " ")
	for (i = 1; i <= n; i++) if (!((t SUBSEP part[i]) in want)) {
		head = head ":" part[i] " - [0:0]\n"
		remove = remove "-X " part[i] "\n"
	}
	n = split(live_hooks[t], part, " ")
	for (i = 1; i < n; i += 2) {
		key = t SUBSEP part[i]; id = key SUBSEP part[i + 1]
		if (!(id in wanted)) drop = drop drop_hooks(id, key, part[i])
	}
	n = split(hook_list[t], part, " ")
	for (i = 1; i < n; i += 2) {
		key = t SUBSEP part[i]; id = key SUBSEP part[i + 1]
		moves[i] = !is_missing(key, part[i]) && !in_place(id, key, part[i + 1])
	}
	for (i = 1; i < n; i += 2) if (moves[i]) {
		key = t SUBSEP part[i]
		drop = drop drop_hooks(key SUBSEP part[i + 1], key, part[i])
	}
	if (foreign) foreigners(t)
	for (i = 1; i < n; i += 2) {
		key = t SUBSEP part[i]; id = key SUBSEP part[i + 1]
		if (!moves[i]) continue
		for (k = 1; k <= wanted[id]; k++) {
			at = place_wanted[id, k]
			if (at == "last") put = put "-A " part[i] " " text_wanted[id, k] "\n"
			else {
				sub(/^=/, "", at)
				if (at == "any" || at == "first") at = 1
				if (at + 0 > count[key] + 1) at = count[key] + 1
				put = put "-I " part[i] " " at " " text_wanted[id, k] "\n"
			}
			count[key]++
		}
	}
	if (head drop rules put remove made_text take bring gone_text == "") return
	differs = 1
	if (look) return
	printf "*%s\n%s%s%s%s%s%s%s%s%sCOMMIT\n", t, head, made_text, drop, take, rules, bring, put, gone_text, remove
}
function same_text(one, other,   a, b, line, more) {
	do {
		a = (getline line <one)
		b = (getline more <other)
	} while (a > 0 && b > 0 && line == more)
	return a == 0 && b == 0
}
END {
	if (foreign) for (key in count) count_live[key] = count[key]
	for (o = 1; o <= 5; o++) if (only == "" || only == order[o]) change(order[o])
	if (look && !goal) exit 1
	if (look) exit differs || last !~ /^#end [0-9]+$/ || !same_text(asked_text, kept_text) ? 3 : 0
	if (last == "#end") print last
}
