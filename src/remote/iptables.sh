# shellcheck shell=dash disable=SC3043
# The part of the host's rules that is ours, as one text ("own text"), and the way from any live
# state to any such text. Apply, rollback, undo and boot are this one way with another goal.
#
#   *filter
#   :INPUT DROP                       policy of a built-in chain
#   :KVMFW-INPUT -                    a chain of ours
#   ^INPUT any KVMFW-INPUT            the hook and where it stands: any, first, last, or its number
#   -A KVMFW-INPUT -i lo -j ACCEPT
#   COMMIT

# Reads iptables-save, prints our part of it: all policies, our chains, hooks with their numbers.
OWN_AWK='
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
	target = ""
	for (i = NF - 1; i > 2; i--) if ($i == "-j" || $i == "-g") { target = $(i + 1); break }
	if (target ~ /^KVMFW-/) hook[++nhook] = "^" $2 " " index_of[$2] " " target
}
END { flush_table() }
'

# Reads the live save, a line "=", then the own text that is wanted; prints what iptables-restore
# --noflush has to be given, table by table, and nothing for a table that is as it should be.
# A policy that the goal does not name stays as it is.
CHANGE_AWK='
BEGIN {
	hook_text = "-m comment --comment \"kvmfw:hook\" -j"
	order[1] = "raw"; order[2] = "mangle"; order[3] = "nat"; order[4] = "filter"; order[5] = "security"
}
$0 == "=" { goal = 1; table = ""; next }
/^#/ { next }
/^\*/ { table = substr($1, 2); if (goal) wanted[table] = 1; next }
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
	want_hook[table] = want_hook[table] " " substr($1, 2) " " $2 " " $3
	hook_wanted[table SUBSEP substr($1, 2) SUBSEP $3] = 1
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
	target = ""
	for (i = NF - 1; i > 2; i--) if ($i == "-j" || $i == "-g") { target = $(i + 1); break }
	if (target ~ /^KVMFW-/) {
		id = key SUBSEP target
		if (!(id in hooks)) { hook_list[table] = hook_list[table] " " $2 " " target; place[id] = count[key] }
		hooks[id]++
		text[id] = text[id] "-D" substr($0, 3) "\n"
	}
	next
}
function change(t,   head, rules, drop, put, remove, n, part, i, key, id, at) {
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
	n = split(hook_list[t], part, " ")
	for (i = 1; i < n; i += 2) {
		id = t SUBSEP part[i] SUBSEP part[i + 1]
		if (!(id in hook_wanted)) { drop = drop text[id]; count[t SUBSEP part[i]] -= hooks[id] }
	}
	n = split(want_hook[t], part, " ")
	for (i = 1; i < n; i += 3) {
		key = t SUBSEP part[i]; id = key SUBSEP part[i + 2]
		if (hooks[id] == 1) {
			if (part[i + 1] == "any" || part[i + 1] ~ /^[0-9]/) continue
			if (part[i + 1] == "first" && place[id] == 1) continue
			if (part[i + 1] == "last" && place[id] == count[key]) continue
		}
		if (hooks[id] > 0) { drop = drop text[id]; count[key] -= hooks[id] }
		at = part[i + 1]
		if (at == "last") put = put "-A " part[i] " " hook_text " " part[i + 2] "\n"
		else {
			if (at == "any" || at == "first") at = 1
			if (at > count[key] + 1) at = count[key] + 1
			put = put "-I " part[i] " " at " " hook_text " " part[i + 2] "\n"
		}
		count[key]++
	}
	if (head drop rules put remove == "") return
	printf "*%s\n%s%s%s%s%sCOMMIT\n", t, head, drop, rules, put, remove
}
END { for (o = 1; o <= 5; o++) if (only == "" || only == order[o]) change(order[o]) }
'

# Sets ipt (iptables or ip6tables), backend (nft or legacy) and ipt_version for family 4 or 6.
ipt_family() {
	if [ "$1" = 6 ]; then ipt=ip6tables; else ipt=iptables; fi
	ipt_version=
	backend=none
	have "$ipt-save" && have "$ipt-restore" || return 1
	ipt_version=$("$ipt-restore" --version 2>/dev/null) || ipt_version=
	case $ipt_version in
	*nf_tables*) backend=nft ;;
	*legacy*) backend=legacy ;;
	*) backend=old ;;
	esac
}

# Counters and headers are not state.
ipt_plain() { sed -e '/^# Generated/d' -e '/^# Completed/d' -e 's/^\(:[^ ]* [^ ]*\) \[.*/\1/'; }

# No -t: on legacy that would register the table.
ipt_save() {
	"$ipt-save" 2>/dev/null | ipt_plain
}

ipt_own() { awk "$OWN_AWK"; }

# $1 live save, $2 own text wanted, $3 only this table (empty: all)
ipt_change() {
	{
		printf '%s\n=\n' "$1"
		printf '%s\n' "$2"
	} | awk -v only="${3-}" "$CHANGE_AWK"
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
	printf '%s\n' "$predicted" | ipt_plain
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

# Makes our part of family $1 what own text $2 says, table by table. Each table is one atomic step.
# Returns 1 at the first table that fails; what iptables said is on stderr.
ipt_load() {
	ipt_family "$1" || return 1
	local live table change
	live=$(ipt_save)
	for table in raw mangle nat filter security; do
		change=$(ipt_change "$live" "$2" "$table")
		[ -n "$change" ] || continue
		printf '%s\n' "$change" | "$ipt-restore" -w 10 --noflush || return 1
	done
}
