# shellcheck shell=dash disable=SC3043
# The part of the host's rules that is ours, as one text ("own text"), and the way from any live
# state to any such text. Apply, rollback, undo and boot are this one way with another goal.
#
#   *filter
#   :INPUT DROP                       policy of a built-in chain
#   :KVMFW-INPUT -                    a chain of ours
#   ^INPUT any KVMFW-INPUT            the hook and where it has to stand: any, first, last
#   ^INPUT 3 KVMFW-INPUT -j …         a hook as it was found, with its number and its own words;
#   ^INPUT =3 KVMFW-INPUT -j …        with = it also has to stand at that number again
#   -A KVMFW-INPUT -i lo -j ACCEPT
#   COMMIT

# The chain that a rule enters; what stands in quotes is text.
TARGET_AWK='
function target_of(rule,   words, n, i) {
	if (index(rule, "KVMFW-") == 0) return ""
	gsub(/"([^"\\]|\\.)*"/, "\"\"", rule)
	n = split(rule, words, " ")
	for (i = n - 1; i > 2; i--) if (words[i] == "-j" || words[i] == "-g") return words[i + 1]
	return ""
}
'

# Reads iptables-save, prints our part of it: all policies, our chains, hooks with their numbers.
OWN_AWK=$TARGET_AWK'
function flush_table(  i) {
	if (table == "") return
	print "*" table
	for (i = 1; i <= nhead; i++) print head[i]
	for (i = 1; i <= nhook; i++) print hook[i]
	for (i = 1; i <= nbody; i++) print body[i]
	print "COMMIT"
}
/^\*/ { flush_table(); table = substr($1, 2); nhead = nhook = nbody = 0; split("", index_of); next }
/^:/ {
	name = substr($1, 2)
	if (name ~ /^KVMFW-/) head[++nhead] = ":" name " -"
	else if ($2 != "-") head[++nhead] = ":" name " " $2
	next
}
/^-A / {
	if ($2 ~ /^KVMFW-/) { body[++nbody] = $0; next }
	index_of[$2]++
	target = target_of($0)
	if (target ~ /^KVMFW-/) hook[++nhook] = "^" $2 " " index_of[$2] " " target " " substr($0, length($2) + 5)
}
END { flush_table() }
'

# Reads the live save, a line "=", then the own text that is wanted; prints what iptables-restore
# --noflush has to be given, table by table, and nothing for a table that is as it should be.
# A policy that the goal does not name stays as it is.
CHANGE_AWK=$TARGET_AWK'
BEGIN {
	order[1] = "raw"; order[2] = "mangle"; order[3] = "nat"; order[4] = "filter"; order[5] = "security"
}
$0 == "=" { goal = 1; table = ""; next }
/^#/ { next }
/^\*/ { table = substr($1, 2); next }
/^:/ {
	name = substr($1, 2); key = table SUBSEP name
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
		if (goal) want_rules[key] = want_rules[key] $0 "\n"
		else live_rules[key] = live_rules[key] $0 "\n"
		next
	}
	if (goal) next
	count[key]++
	target = target_of($0)
	if (target ~ /^KVMFW-/) {
		id = key SUBSEP target
		if (!(id in hooks)) live_hooks[table] = live_hooks[table] " " $2 " " target
		k = ++hooks[id]
		place[id, k] = count[key]
		text[id, k] = substr($0, length($2) + 5)
	}
	next
}
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
	for (k = 1; k <= hooks[id]; k++) lines = lines "-D " chain " " text[id, k] "\n"
	count[key] -= hooks[id]
	return lines
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
		if (in_place(id, key, part[i + 1])) continue
		drop = drop drop_hooks(id, key, part[i])
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
	if (head drop rules put remove == "") return
	printf "*%s\n%s%s%s%s%sCOMMIT\n", t, head, drop, rules, put, remove
}
END { for (o = 1; o <= 5; o++) change(order[o]) }
'

# Sets ipt (iptables or ip6tables), backend (nft or legacy) and ipt_version for family 4 or 6. Each is asked
# for its version once in the life of a shell.
ipt_family() {
	case $1 in
	6) ipt=ip6tables ipt_version=${ipt_version6-} ;;
	*) ipt=iptables ipt_version=${ipt_version4-} ;;
	esac
	backend=none
	have "$ipt-save" && have "$ipt-restore" || { ipt_version=; return 1; }
	[ -n "$ipt_version" ] || ipt_version=$("$ipt-restore" --version 2>/dev/null) || ipt_version=
	if [ "$1" = 6 ]; then ipt_version6=$ipt_version; else ipt_version4=$ipt_version; fi
	case $ipt_version in
	*nf_tables*) backend=nft ;;
	*legacy*) backend=legacy ;;
	*) backend=old ;;
	esac
}

# Sets live to the rules of this family, without the connections that were open when our rules came: those
# are no state, and stand in live_flows (flows in change.sh). Whoever reads live passes over comments and counters.
# No -t: on legacy that would register the table. A save that fails, or that says it cannot show a
# table, is not an empty host.
ipt_save() {
	local rc=0
	live_flows='' flowing=''
	live=$("$ipt-save" 2>/dev/null) || rc=1
	case $live in
	*KVMFW--flows*)
		flowing=yes
		live_flows=$(printf '%s\n' "$live" | grep '^-A KVMFW--flows ')
		live=$(printf '%s\n' "$live" | sed -e '/^:KVMFW--flows /d' -e '/^-A KVMFW--flows /d' -e '/ -j KVMFW--flows$/d')
		;;
	esac
	case $live in *'is incompatible'*) rc=1 ;; esac
	return $rc
}

ipt_own() { awk "$OWN_AWK"; }

# $1 live save, $2 own text wanted
ipt_change() {
	{
		printf '%s\n=\n' "$1"
		printf '%s\n' "$2"
	} | awk "$CHANGE_AWK"
}

# Loads a clone of the live rules into a network namespace that nobody else sees, makes the real
# change there, and prints what iptables-save says afterwards: the host's own word on what the
# rules will look like, and the proof that its kernel takes them. Returns 3 when the clone failed,
# 4 when the change did, and then prints what iptables said.
# $1 family, $2 live save, $3 own text wanted.
# shellcheck disable=SC2016
ipt_dry() {
	ipt_family "$1" || return 1
	local change sets predicted rc
	change=$(ipt_change "$2" "$3") || return 1
	sets=
	case "$2$3" in
	*-set\ *) have ipset && sets=$(ipset list -n 2>/dev/null) ;;
	esac
	# /dev/null as the lock: a dry run neither waits for the host nor holds it up.
	# Texts go in by descriptors: an argument or variable of the environment ends at 128 KiB.
	predicted=$(
		XTABLES_LOCKFILE=/dev/null unshare -n sh -c '
			ipt=$1
			for set in $2; do
				if [ "$ipt" = ip6tables ]; then ipset create "$set" hash:ip family inet6; else ipset create "$set" hash:ip; fi
			done 2>/dev/null
			# What it warns of is no part of the rules.
			said=$("$ipt-restore" <&4 2>&1) || { printf "%s\n" "$said"; exit 3; }
			said=$("$ipt-restore" --noflush <&5 2>&1) || { printf "%s\n" "$said"; exit 4; }
			exec "$ipt-save" 2>/dev/null
		' sh "$ipt" "$sets" 4<<LIVE 5<<CHANGE
$2
LIVE
$change
CHANGE
	)
	rc=$?
	printf '%s\n' "$predicted"
	[ $rc -ne 4 ] || ipt_blame "$predicted" "$change"
	return $rc
}

# Names the rule that the host did not take: the line that iptables named, or, where legacy only
# says that the COMMIT failed, the first rule that fails alone.
ipt_blame() {
	local number rule
	number=$(printf '%s\n' "$1" | sed -n 's/.*line:* *\([0-9][0-9]*\).*/\1/p' | tail -n 1)
	rule=$(printf '%s\n' "$2" | sed -n "${number:-0}p" 2>/dev/null)
	case $rule in
	-A*) ;;
	*)
		rule=$(printf '%s\n' "$2" | grep '^-A KVMFW-' | head -n 300 | while IFS= read -r rule; do
			printf '%s\n' "$2" | awk -v rule="$rule" '
				/^\*/ { text = "" }
				/^[*:]/ || /^-I / || / -[jg] KVMFW-/ { text = text $0 "\n" }
				$0 == rule { if (!/ -[jg] KVMFW-/) text = text $0 "\n"; found = 1 }
				/^COMMIT/ { if (found) { printf "%sCOMMIT\n", text; exit } }
			' | XTABLES_LOCKFILE=/dev/null unshare -n "$ipt-restore" >/dev/null 2>&1 || { printf '%s\n' "$rule"; break; }
		done)
		;;
	esac
	case $rule in -A*) printf 'rule: %s\n' "$rule" ;; esac
}

# Makes our part of family $1 what own text $2 says. Each table is one atomic step, and the first that fails
# is the last that is tried; what iptables said is on stderr.
ipt_load() {
	ipt_family "$1" || return 1
	local change
	ipt_save || { say "$ipt-save failed"; return 1; }
	change=$(ipt_change "$live" "$2")
	if [ -n "$change" ]; then printf '%s\n' "$change" | "$ipt-restore" -w 10 --noflush || return 1; fi
	case $flowing$2 in yes* | *KVMFW--flows*) ;; *) return 0 ;; esac
	# Nothing leads there any more.
	live=$("$ipt-save" 2>/dev/null) || return 0
	case $live in
	*' -j KVMFW--flows'*) ;;
	*:KVMFW--flows*) printf '*filter\n:KVMFW--flows - [0:0]\n-X KVMFW--flows\nCOMMIT\n' | "$ipt-restore" -w 10 --noflush ;;
	esac
	:
}
