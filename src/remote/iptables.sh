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
#   ^DOCKER-USER any KVMFW-DOCKER-USER  one in a chain that another program makes counts only while that chain is there
#   -A KVMFW-INPUT -i lo -j ACCEPT
#   COMMIT
#
# What is taken over of others, and put back, stands in blocks of their own ("foreign text"):
#
#   !-A INPUT -j OLD                  a rule of others that goes, if it is there, by its own text
#   !:OLD                             a chain of others that goes; what else is in it makes the change fail
#   ~:OLD                             the same, but what is in use stays
#   +:OLD                             a chain of others that has to be there
#   +-A INPUT -j OLD                  a rule of others that has to be there, behind the ones before it in this
#   =-A INPUT -i lo -j ACCEPT         list; with = only to tell the place
#   &                                 the next list

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
{ last = $0 }
function flush_table(  i) {
	if (table == "") return
	print "*" table
	for (i = 1; i <= nhead; i++) print head[i]
	for (i = 1; i <= nhook; i++) print hook[i]
	for (i = 1; i <= nbody; i++) print body[i]
	print "COMMIT"
}
$1 == ":KVMFW--flows" || $2 == "KVMFW--flows" || / -j KVMFW--flows$/ { next }
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
END { flush_table(); if (last == "#end") print last }
'

# Reads the live save, a line "=", then the own text that is wanted, and foreign text (only with foreign=1), and a
# line "#end"; prints what iptables-restore
# --noflush has to be given, table by table, and nothing for a table that is as it should be; then "#end", unless the
# input was cut off: half of it would pass for a wish to have less, and no output for "all is as it should be".
# A policy that the goal does not name stays as it is.
CHANGE_AWK=$TARGET_AWK'
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
'

# With look=1 prints of a save what a plan compares. Counters and headers are not state; nor are the connections that
# were open when the rules came (conntrack.sh). Before CHANGE_AWK it also ends with 0 if the save is as the own text behind
# it says and file `asked_text` is the same as file `kept_text`, else with 3: what was proven once and is still there
# needs no second proof.
LOOK_AWK='
look && !goal && NF && $0 != "=" && !/^# (Generated|Completed)/ && $1 != ":KVMFW--flows" && $2 != "KVMFW--flows" && !/ -j KVMFW--flows$/ {
	if (/^:/) print $1 " " $2
	else print
}
'

ipt_version4='' ipt_version6='' live4='' saved4='' live6='' saved6=''
# Sets ipt (iptables or ip6tables) for family 4 or 6.
ipt_find() {
	if [ "$1" = 6 ]; then ipt=ip6tables; else ipt=iptables; fi
	have "$ipt-save" && have "$ipt-restore"
}

# The same, and backend (nft or legacy) and ipt_version. What told its version once is not asked again, nor is one
# whose saved rules begin with it.
ipt_find_backend() {
	local said
	said=$live4
	if [ "$1" = 6 ]; then ipt_version=$ipt_version6 said=$live6; else ipt_version=$ipt_version4; fi
	backend=none
	ipt_find "$1" || return 1
	if [ -z "$ipt_version" ]; then
		said=${said%%"$NL"*}
		case $said in
		'# Generated by '*'-save v'*'(nf_tables) on '*)
			said=${said#*-save }
			ipt_version="$ipt-restore ${said%% on *}"
			;;
		*) ipt_version=$("$ipt-restore" --version 2>/dev/null) || ipt_version= ;;
		esac
		if [ "$1" = 6 ]; then ipt_version6=$ipt_version; else ipt_version4=$ipt_version; fi
	fi
	case $ipt_version in
	*nf_tables*) backend=nft ;;
	*legacy*) backend=legacy ;;
	*) backend=old ;;
	esac
}

# Sets live to what iptables-save says. No -t: on legacy that would register the table. A save that fails, or
# that says it cannot show a table, is not an empty host.
ipt_save() {
	live=$("$ipt-save" 2>/dev/null) || { live='' && return 1; }
	case $live in
	*'is incompatible'*) return 2 ;;
	# The date behind it is 24 characters long.
	'' | *'# Completed on '????????????????????????) ;;
	*) live='' && return 1 ;;
	esac
}

# Sets live to what ipt_save said of family $1 the first time in this process: what a transaction compares with
# its plan, records and proves is one and the same state.
ipt_save_once() {
	local rc=$saved4
	[ "$1" = 4 ] || rc=$saved6
	if [ -z "$rc" ]; then
		ipt_save
		rc=$?
		if [ "$1" = 4 ]; then live4=$live saved4=$rc; else live6=$live saved6=$rc; fi
	fi
	if [ "$1" = 4 ]; then live=$live4; else live=$live6; fi
	return "$rc"
}

# Sets own to our part of save $1.
ipt_managed() {
	local whole
	own=$(awk "$OWN_AWK" <<-SAVE
		$1
		#end
	SAVE
	) && text_unwrap_output "$own" || return 1
	own=$whole
}

# Sets change to what makes live save $1 own text $2, in table $3 only (empty: in all).
ipt_change() {
	local foreign=0 whole
	case $2 in
	*"
!"* | *"
+"* | *"
~"*) foreign=1 ;;
	esac
	# A pipe has two processes more. But bash may keep the text in a file, and a way back has to be found where
	# there is no room for one.
	change=$(awk 2>/dev/null -v only="${3-}" -v foreign=$foreign "$CHANGE_AWK" <<-TEXTS
		$1
		=
		$2
		#end
	TEXTS
	) && text_unwrap_output "$change" || {
		change=$(printf '%s\n=\n%s\n#end\n' "$1" "$2" | awk -v only="${3-}" -v foreign=$foreign "$CHANGE_AWK") && text_unwrap_output "$change" || return 1
	}
	change=$whole
}

# Whether live save $1 is as own text $2 says.
ipt_matches() {
	local change
	ipt_change "$1" "$2" && [ -z "$change" ]
}

# Loads a clone of the live rules into a network namespace that nobody else sees, makes the real
# change there, and sets predicted to what iptables-save says afterwards: the host's own word on what the
# rules will look like, and the proof that its kernel takes them. Returns 3 when the clone failed,
# 4 when the change did; predicted is then what iptables said.
# $1 family, $2 live save, $3 own text wanted.
# shellcheck disable=SC2016
ipt_dry_run() {
	local change sets='' rc
	predicted=
	ipt_find "$1" && ipt_change "$2" "$3" || return 1
	case "$2$3" in
	*-set\ *) ipset_stand_ins "$1" || sets= ;;
	esac
	# /dev/null as the lock: a dry run neither waits for the host nor holds it up.
	# Texts go in by descriptors: an argument or variable of the environment ends at 128 KiB.
	predicted=$(
		XTABLES_LOCKFILE=/dev/null "${UNSHARE:-unshare}" -n sh -c '
			ipt=$1
			[ -z "$2" ] || ipset -exist restore <&3 >/dev/null 2>&1
			# What it warns of is no part of the rules.
			said=$("$ipt-restore" <&4 2>&1) || { printf "%s\n" "$said"; exit 3; }
			said=$("$ipt-restore" --noflush <&5 2>&1) || { printf "%s\n" "$said"; exit 4; }
			exec "$ipt-save" 2>/dev/null
		' sh "$ipt" "${sets:+sets}" 2>&1 3<<SETS 4<<LIVE 5<<CHANGE
$sets
SETS
$2
LIVE
$change
CHANGE
	)
	rc=$?
	[ $rc -ne 4 ] || predicted=$(printf '%s\n' "$predicted"; ipt_print_culprit "$predicted" "$change")
	return $rc
}

# Names the rule that the host did not take: the line that iptables named, or, where legacy only
# says that the COMMIT failed, the first rule that fails alone.
ipt_print_culprit() {
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
	local rc
	ipt_find "$1" || return 1
	ipt_save || { say "$ipt-save failed"; return 1; }
	ipt_load_onto "$2"
	rc=$?
	[ -z "$said" ] || say "$said"
	return $rc
}

# The same for own text $1 of the family of ipt, onto what ipt_save has just told. Sets said to what iptables says.
ipt_load_onto() {
	local table change all
	said=
	ipt_change "$live" "$1" || return 1
	all=$change
	for table in raw mangle nat filter security; do
		case "
$all" in *"
*$table
"*) ;; *) continue ;; esac
		# Of several tables each alone.
		case $all in *"
COMMIT
"*) ipt_change "$live" "$1" "$table" || return 1 ;; esac
		feed "$change" "$ipt-restore" -w 10 --noflush || return 1
	done
	case "$live$1" in *KVMFW--flows*) ;; *) return 0 ;; esac
	# Nothing leads there any more.
	ipt_save || return 0
	case $live in
	*' -j KVMFW--flows'*) ;;
	*:KVMFW--flows*) feed "*filter$NL:KVMFW--flows - [0:0]$NL-X KVMFW--flows${NL}COMMIT" "$ipt-restore" -w 10 --noflush ;;
	esac
	:
}
