# shellcheck shell=dash disable=SC3043,SC2154
# The rules at boot, when less may exist than when they were proven, and after it, while other programs load theirs.
#
#   boot.left      managed rules that the host cannot load yet, a line each: PROGRAM TABLE RULE, a tab, the reason
#   boot.repaired  when removed managed rules were put back, a line each: TIME PROGRAM

# How long the second stage watches (seconds), how often it repairs, and how long it may look for a rule that fails
# (hundredths of a second).
SETTLE_WINDOW=300
MOST_REPAIRS=10
MOST_SEARCH=2000

# Loads as much of own text $2 of family $1 as the host takes: a rule whose chain, set or module is not there yet must not
# keep the others out. REPLY_left: the rules that are not loaded, as in boot.left. REPLY: what iptables printed about a table that
# could not be loaded at all; then this fails, but the other tables are loaded.
ipt_load_most() {
	local table change tries rc=0 error='' text=$2 said live
	REPLY_left=''
	ipt_find "$1" || { REPLY="there is no $ipt"; return 1; }
	ipt_save || { REPLY="$ipt-save failed"; return 1; }
	live=$REPLY
	for table in raw mangle nat filter security; do
		tries=0
		while :; do
			ipt_change "$live" "$text" "$table" || { rc=1 error="no room for the rules"; break; }
			change=$REPLY
			[ -n "$change" ] || break
			feed "$change" "$ipt-restore" -w 10 --noflush && break
			said=$REPLY
			tries=$((tries + 1))
			case $said in *'xtables lock'*) tries=1000 ;; esac
			if [ $tries -le 100 ] && { ipt_leave_out_named || ipt_leave_out_line; }; then continue; fi
			if [ $tries -le 101 ] && ipt_leave_out_found "$1"; then
				tries=101
				continue
			fi
			rc=1 error="$table: $(ipt_print_reason)"
			break
		done
	done
	REPLY=$error
	return $rc
}

# Prints the line of the output of iptables that gives the reason.
ipt_print_reason() {
	printf '%s\n' "$said" | awk '
		{ sub(/^.*tables[^ ]*-restore v[^ ]* \([^)]*\):/, ""); sub(/^ +/, "") }
		/^$/ || /^Error occurred/ || /^Try / { next }
		{ print; found = 1; exit }
		END { if (!found) print "it does not load" }'
}

# Part of ipt_load_most, whose variables it changes: takes out of `text` the rules that an awk program picks in the table. The
# input of the program is $2, a line "=", and `text`; its function picked() decides about each rule. Fails if it picks none.
ipt_leave_out() {
	local all gone line IFS
	all=$(
		awk -v table="$table" "$1$NL$IPT_LEAVE_OUT_AWK" <<-TEXT
			$2
			=
			$text
			#end
		TEXT
	) || return 1
	case $all in *"$NL#end$NL=$NL"*) gone=${all#*"$NL#end$NL=$NL"} ;; *) return 1 ;; esac
	text=${all%%"$NL#end$NL=$NL"*}
	line=$(ipt_print_reason)
	IFS=$NL
	set -f
	for gone in $gone; do REPLY_left="$REPLY_left$ipt $table $gone	$line$NL"; done
	set +f
}

# Leaves out the rules that need what iptables reports as missing: a chain, a set, a match or a target; all of a kind at once.
ipt_leave_out_named() {
	ipt_leave_out "$IPT_LEAVE_OUT_NAMED_AWK" "$said"
}

# The rule at the line that iptables names, where one stands there.
ipt_leave_out_line() {
	local number rule
	number=$(printf '%s\n' "$said" | sed -n 's/.*line:* *\([0-9][0-9]*\).*/\1/p' | sed -n 1p)
	rule=$(printf '%s\n' "$change" | sed -n "${number:-0}p" 2>/dev/null)
	case $rule in '-A KVMFW-'*) ;; *) return 1 ;; esac
	ipt_leave_out 'function begin() { sub(/\n$/, "", given) } function picked() { return given == $0 }' "$rule"
}

# Where iptables names none: those that fail alone, found by halves in a clone of the live rules. What it does not come
# to in time is left out too.
ipt_leave_out_found() {
	local first last middle until spans bad=''
	uptime_cs
	until=$((REPLY + MOST_SEARCH))
	last=$(printf '%s\n' "$text" | awk -v table="$table" '/^\*/ { at = substr($1, 2) } at == table && /^-A KVMFW-/ { n++ } END { print n + 0 }')
	# Chains and jump rules alone: if those do not load, no rule is to blame.
	ipt_takes_rules "$1" 0 0 || return 1
	spans="1-$last"
	while [ -n "$spans" ]; do
		first=${spans%%-*} last=${spans#*-}
		last=${last%% *}
		case $spans in *' '*) spans=${spans#* } ;; *) spans= ;; esac
		[ "$first" -le "$last" ] || continue
		uptime_cs
		if [ "$REPLY" -ge $until ]; then bad="$bad$first-$last "; continue; fi
		ipt_takes_rules "$1" "$first" "$last" && continue
		if [ "$first" = "$last" ]; then bad="$bad$first-$last "; continue; fi
		middle=$(((first + last) / 2))
		spans="$first-$middle $((middle + 1))-$last${spans:+ $spans}"
	done
	[ -n "$bad" ] || return 1
	ipt_leave_out '
		function begin(   span, part, n, i, k) {
			n = split(given, span, " ")
			for (i = 1; i <= n; i++) { split(span[i], part, "-"); for (k = part[1] + 0; k <= part[2] + 0; k++) fails[k] = 1 }
		}
		function picked() { return (++rule) in fails }' "$bad"
}

# Whether the host takes the table with only those of its managed rules that have the numbers $2 to $3.
ipt_takes_rules() {
	ipt_dry_run "$1" "$live" "$(printf '%s\n' "$text" | awk -v table="$table" -v first="$2" -v last="$3" '
		/^\*/ { at = substr($1, 2) }
		at != table { next }
		/^-A KVMFW-/ && (++n < first + 0 || n > last + 0) { next }
		{ print }')"
}

# Loads the rules of family $1 of the generation, and records those that do not load; reports those that are new.
boot_load_family() {
	local program lines line before rc said left='' unread=''
	ipt_program "$1"
	program=$REPLY
	if ! text_read $ETC/current/rules.v"$1"; then
		rc=1 unread=yes said="$ETC/current/rules.v$1 cannot be read"
	elif [ -z "$REPLY" ]; then
		return 0
	else
		ipt_load_most "$1" "$REPLY"
		rc=$?
		said=$REPLY left=$REPLY_left
	fi
	boot_lines_without "$program: " $VAR/boot.failed
	lines=$REPLY
	if [ $rc -ne 0 ]; then
		# Once, not at every try.
		grep -qsxF "$program: $said" $VAR/boot.failed || guard_broadcast "the $program rules did not load, the host may be open: $said"
		lines="$lines$program: $said"
	fi
	boot_keep_lines "${lines%"$NL"}" $VAR/boot.failed
	[ -z "$unread" ] || return 1
	boot_lines_without '' $VAR/boot.left
	before=$REPLY
	boot_lines_without "$program " $VAR/boot.left
	lines=$REPLY$left
	boot_keep_lines "${lines%"$NL"}" $VAR/boot.left
	while IFS= read -r line; do
		case "$NL$before$NL" in *"$NL$line$NL"*) continue ;; esac
		[ -z "$line" ] || guard_broadcast "this rule does not load yet and is left out until it does: ${line%%	*} (${line#*	})"
	done <<-LEFT
		${left%"$NL"}
	LEFT
	[ $rc -eq 0 ] && [ -z "$left" ]
}

# REPLY: the program of family $1.
ipt_program() { if [ "$1" = 6 ]; then REPLY=ip6tables; else REPLY=iptables; fi; }

# REPLY: the lines of file $2 that do not begin with $1; none if the file does not exist.
boot_lines_without() {
	local line
	REPLY=
	[ -e "$2" ] || return 0
	while IFS= read -r line; do
		case $line in "${1:-$NL}"*) ;; *) REPLY=$REPLY$line$NL ;; esac
	done <"$2"
}

# Writes lines $1 to file $2, unless it has them; removes it if there are none.
boot_keep_lines() {
	boot_lines_without '' "$2"
	if [ -n "$1" ]; then
		[ "$REPLY" = "$1$NL" ] || { printf '%s\n' "$1" >"$2.new" && mv -f "$2.new" "$2"; }
	elif [ -e "$2" ]; then
		rm -f "$2"
	fi
}

# At boot, the rules of the generation. Fails until all of them are loaded.
boot_load() {
	local family module failed=0
	# A link that leads nowhere is a generation that is lost, not none.
	[ -L $ETC/current ] || return 0
	# An operator may start the unit at any time: a transaction that is under way loads its own rules. Any other holder of the
	# lock gives it back soon; a boot does not go on without its rules meanwhile.
	if [ -r $VAR/lock ]; then
		exec 9<$VAR/lock
		lock_within 9 10 || { [ -L $VAR/open ] || say "no rules loaded: $VAR/lock is held"; [ -L $VAR/open ]; return; }
	fi
	if text_read $ETC/current/boot.modules; then
		for module in $REPLY; do timeout -s KILL 30 modprobe "$module"; done
	else
		failed=1
		say "$ETC/current/boot.modules cannot be read"
		echo "modules: $ETC/current/boot.modules cannot be read" >>$VAR/boot.failed
	fi
	boot_load_sets || failed=1
	for family in 4 6; do boot_load_family $family || failed=1; done
	return $failed
}

# The second stage: until some minutes after the boot, and for as long as a rule is left out, it puts back what others
# take away and loads what could not be loaded.
boot_settle() {
	local since family pause=1 repairs=0 turn=0 waits='' waited4='' waited6=''
	uptime_cs
	since=$REPLY
	while [ -e $ETC/current ]; do
		turn=$((turn + 1))
		waits=
		boot_settle_sets || return 1
		for family in 4 6; do boot_settle_rules "$family" || return 1; done
		uptime_cs
		pause=1
		[ $((REPLY - since)) -lt 12000 ] || pause=5
		if [ $((REPLY - since)) -ge $((SETTLE_WINDOW * 100)) ]; then
			pause=30
			if [ -d /run/systemd/system ] && [ "$(timeout -s KILL 10 systemctl is-system-running 2>/dev/null)" = starting ]; then
				pause=5
			elif [ -z "$waits" ] && [ ! -s $VAR/boot.left ] && ! grep -qs -e '^ip6*tables: ' -e '^ipset: ' $VAR/boot.failed; then
				break
			fi
		fi
		sleep $pause
	done
	:
}

# Compares family $1 once, and repairs it. Fails when it has repaired too often.
boot_settle_rules() {
	local all='' now_left='' failed taken program line rc missing before live
	# What cannot be read now, the next turn may read.
	text_read $ETC/current/rules.v"$1" && all=$REPLY
	[ -n "$all" ] && ipt_find "$1" && ipt_save || return 0
	live=$REPLY
	ipt_program "$1"
	program=$REPLY
	boot_missing_chains "$all"
	missing=$REPLY
	if [ "$1" = 6 ]; then before=$waited6 waited6=$missing; else before=$waited4 waited4=$missing; fi
	[ -z "$missing" ] || waits=yes
	[ ! -e $VAR/boot.left ] || while IFS= read -r line; do
		case $line in "$program "*) line=${line#"$program "} now_left=$now_left${line%%	*}$NL ;; esac
	done <$VAR/boot.left
	now_left=${now_left%"$NL"}
	failed=
	[ ! -e $VAR/boot.failed ] || while IFS= read -r line; do
		case $line in "$program: "*) failed=yes ;; esac
	done <$VAR/boot.failed
	taken=yes
	if ipt_matches "$live" "$all"; then
		[ -n "$now_left$failed" ] || return 0
		taken=
	elif [ "$before" != "$missing" ] && boot_chain_arrived "$all" "$before"; then
		taken=
	elif [ -n "$failed" ] || { [ -n "$now_left" ] && ipt_without_rules "$all" "$now_left" && ipt_matches "$live" "$REPLY"; }; then
		# Rules that could not be loaded before are tried again. No program is known to have removed them; loading costs more than comparing.
		[ "$turn" -le 10 ] || [ $((turn % 5)) -eq 0 ] || [ "$pause" = 30 ] || return 0
		taken=
	fi
	[ -r $VAR/lock ] || return 0
	exec 9<$VAR/lock
	if ! flock -n 9 || [ -L $VAR/open ] || ! text_read $ETC/current/rules.v"$1" || [ "$REPLY" != "$all" ]; then
		exec 9<&-
		return 0
	fi
	echo "$SETTLES" >$VAR/lock
	boot_load_family "$1"
	rc=$?
	[ -z "$taken" ] || boot_note_repair
	true >$VAR/lock
	exec 9<&-
	if [ $rc -eq 0 ] && [ -d /run/systemd/system ] && timeout -s KILL 10 systemctl --quiet is-failed kvmfw.service; then
		timeout -s KILL 10 systemctl --no-block start kvmfw.service
	fi
	[ "$repairs" -lt $MOST_REPAIRS ]
}

# REPLY: the chains of own text $1 that are to enter ours and are not in `live` (another program makes them, maybe
# later), each with its table and a comma.
boot_missing_chains() {
	local line table='' chain IFS="$NL"
	REPLY=
	set -f
	for line in $1; do
		case $line in
		'*'*) table=$line ;;
		'^INPUT '* | '^FORWARD '* | '^OUTPUT '* | '^PREROUTING '* | '^POSTROUTING '*) ;;
		'^'*)
			chain=${line#^} chain=${chain%% *}
			case $live in *"$table$NL"*) ;; *) REPLY="$REPLY$table ^$chain," && continue ;; esac
			line="${live#*"$table$NL"}"
			case "$NL${line%%"${NL}COMMIT"*}" in
			*"$NL:$chain "*) ;;
			*) REPLY="$REPLY$table ^$chain," ;;
			esac
			;;
		esac
	done
	set +f
}

# Whether only jump rules differ from own text $1 that waited for a chain of $2 which exists now. Logs that.
boot_chain_arrived() {
	local text
	text=$(awk -v come="$2" '
		BEGIN { n = split(come, part, ","); for (i = 1; i <= n; i++) waited[part[i]] = 1 }
		{ last = $0 }
		/^\*/ { table = $0 }
		/^\^/ && ((table " " $1) in waited) { next }
		{ print }' <<-TEXT
			$1
			#end
		TEXT
	) && text_unwrap_output "$text" && ipt_matches "$live" "$REPLY" || return 1
	boot_log "a chain that $program rules of kvmfw waited for is there now; they are in it"
}

# The holder of the lock then; a transaction waits for it.
SETTLES='the boot units, for a moment'

# Records a repair, and broadcasts the last one.
boot_note_repair() {
	repairs=$((repairs + 1))
	printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$program" >>$VAR/boot.repaired
	case $program in
	ipset) boot_log "another program had taken away or changed sets of kvmfw since they were made; they are back" ;;
	*) boot_log "another program had taken away or changed the $program rules of kvmfw since they were loaded; they are back" ;;
	esac
	[ "$repairs" -ge $MOST_REPAIRS ] || return 0
	echo "$program: another program takes the rules away again and again; after $MOST_REPAIRS repairs they are no longer put back" >>$VAR/boot.failed
	guard_broadcast "another program takes the rules away again and again; they are no longer put back: kvmfw plan names it"
}

# Logs to the journal, or to syslog.
boot_log() {
	say "$1"
	[ -d /run/systemd/system ] || ! have logger || timeout -s KILL 5 logger -p daemon.warning -t kvmfw "$1" 2>/dev/null
	:
}

# REPLY: own text $1 without the rules of lines $2, `TABLE RULE` each.
ipt_without_rules() {
	local text
	text=$(awk '
		{ last = $0 }
		!rest && $0 == "=" { rest = 1; next }
		!rest { gone[$0]++; next }
		/^\*/ { table = substr($1, 2) }
		/^-A / && gone[table " " $0] > 0 { gone[table " " $0]--; next }
		{ print }' <<-TEXTS
			$2
			=
			$1
			#end
		TEXTS
	) && text_unwrap_output "$text"
}
