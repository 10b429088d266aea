# shellcheck shell=dash disable=SC3043,SC2154
# What touches the host: snapshot, apply, rollback, persist.

want() { asked=$1; shift; "$@" 3<"$T/new/want$asked"; }
want_keys() { "$@" <"$T/new/sysctl.keys"; }

# Keeps of own the policies only of those chains whose policy the wanted text of family $1 names: what
# the transaction does not manage it must not put back either. A chain that is not there yet accepts.
only_policies_of() {
	local text whole
	read_text "$T/new/want$1" || return 1
	own=$(awk '
		{ last = $0 }
		$0 == "=" { rest = 1; table = ""; next }
		/^\*/ { table = substr($1, 2) }
		!rest && /^\^/ && ($2 == "first" || $2 == "last") { moves[table " " $1 " " $3] = 1 }
		!rest {
			if (/^:/ && !/^:KVMFW-/) { named[table $1] = 1; list[table] = list[table] $1 "\n" }
			next
		}
		/^\*/ { seen[table] = 1; delete left; n = split(list[table], left, "\n") }
		/^:/ && !/^:KVMFW-/ { if (!((table $1) in named)) next; for (i = 1; i <= n; i++) if (left[i] == $1) left[i] = "" }
		# What this transaction moves has to go back to where it stood.
		/^\^/ && ((table " " $1 " " $3) in moves) { sub(/ /, " =") }
		{ print }
		END {
			for (t in list) if (!(t in seen)) {
				print "*" t
				n = split(list[t], left, "\n")
				for (i = 1; i <= n; i++) if (left[i] != "") print left[i] " ACCEPT"
				print "COMMIT"
			}
			if (last == "#end") print last
		}' <<-TEXTS
			$text
			=
			$own
			#end
		TEXTS
	) && whole_output "$own" || return 1
	own=$whole
}

# Sets goal to the goal in the host's own words: chains and rules as the dry run printed them ($2, a save),
# hooks and policies as they are wanted ($1).
goal_text() {
	local whole
	goal=$(awk '
		{ last = $0 }
		function out(  i) {
			print "*" table
			printf "%s%s%s%s", head[table], chains[table], hooks[table], rules[table]
			print "COMMIT"
		}
		$0 == "=" { rest = 1; next }
		/^\*/ { table = substr($1, 2); if (!rest) order[++n] = table; next }
		rest && ($1 == ":KVMFW--flows" || $2 == "KVMFW--flows" || / -j KVMFW--flows$/) { next }
		/^:KVMFW-/ { if (rest) chains[table] = chains[table] $1 " -\n"; next }
		/^:/ { if (!rest) head[table] = head[table] $0 "\n"; next }
		/^\^/ { if (!rest) hooks[table] = hooks[table] $0 "\n"; next }
		/^-A KVMFW-/ { if (rest) rules[table] = rules[table] $0 "\n" }
		END { for (k = 1; k <= n; k++) { table = order[k]; out() } if (last == "#end") print last }' <<-TEXTS
			$1
			=
			$2
			#end
		TEXTS
	) && whole_output "$goal" || return 1
	goal=$whole
}

# Whether it matters what rules of ours are live of family $1: some are wanted, or there was a generation before.
ours_are_asked() { holds "$T/new/want$1" || [ -L $ETC/current ]; }

# The part of it that is rules, of family $1.
snapshot_rules() {
	local own='' foreign='' back='' flows=''
	# Not straight from awk: that of busybox does not say that a disk was full.
	if ! ipt_family "$1" || ! ipt_saved "$1"; then
		[ "$backend" = none ] || ! ours_are_asked "$1" || return 1
	else
		case $live in
		*"$NL-A KVMFW--flows "*) flows=$(printf '%s\n' "$live" | grep '^-A KVMFW--flows ') || return 1 ;;
		esac
		foreign_goal "$1" || return 1
		[ -z "$foreign" ] || foreign_undo "$live" "$foreign" || return 1
		[ -z "$live" ] || ipt_own "$live" || return 1
		only_policies_of "$1" || return 1
	fi
	put_text "$T/pre/flows$1" "$flows" && put_text "$T/pre/foreign$1" "$back" && put_text "$T/pre/own$1" "$own"
}

# Everything that a rollback puts back, read before anything is touched.
snapshot() {
	local family port bridge name value values keys
	for family in 4 6; do snapshot_rules $family || return 1; done
	snapshot_sets || return 1
	# Every port of every bridge, also the taps that came after the plan: a bridge that has to be
	# made again would not have them.
	values=
	for port in /sys/class/net/*/brport; do
		[ -r "$port/bridge/uevent" ] || continue
		bridge=
		while IFS='=' read -r name value; do
			if [ "$name" = INTERFACE ]; then bridge=$value; fi
		done 2>/dev/null <"$port/bridge/uevent"
		port=${port%/brport}
		[ -z "$bridge" ] || values="${values}link set dev ${port##*/} master $bridge$NL"
	done
	put_text "$T/pre/ports" "$values" || return 1
	lines_of "$T/new/sysctl.keys" || return 1
	keys=$lines
	values=$(live_keys "$keys") || return 1
	# Loading br_netfilter cannot be undone, but what it does can: at 0 it is as if it were not there.
	if holds "$T/new/modules" && [ ! -d /proc/sys/net/bridge ]; then
		bridge_keys 0
		values=$values${values:+$NL}$lines
	fi
	put_text "$T/pre/sysctl" "$values" || return 1
	snapshot_side_effects "$keys" || return 1
	network_snapshot
}

step() { uptime_cs; printf '%s %s\n' "$now" "$1" >>"$T/journal"; current_step=$1; } 2>/dev/null

failed() {
	say "$current_step: $1"
	exit 1
}

ipt_number() { case $1 in 4) echo iptables ;; 6) echo ip6tables ;; esac; }

apply_rules() {
	local goal predicted foreign text wanted saved
	if [ "$1" = 4 ]; then step iptables; else step ip6tables; fi
	foreign_goal "$1" && read_text "$T/pre/own$1" || failed "what was there before cannot be read"
	case $text in *KVMFW-*) ;; *) holds "$T/new/want$1" || [ -n "$foreign" ] || return 0 ;; esac
	ipt_name "$1" || { holds "$T/new/want$1" && failed "iptables-save is missing"; return 0; }
	wanted=
	! holds "$T/new/boot.modules" || want_provable "$1" || failed "the rules that are wanted cannot be read"
	case $NL$wanted in *"$NL?"*)
		ipt_save || failed "$ipt-save failed"
		with_foreign "$goal" "$foreign"
		ipt_dry "$1" "$live" "$text" || failed "$(echo "$predicted" | grep . | tail -n 3 | tr '\n' ' ')"
		goal_text "$wanted" "$predicted" && put_text "$G/rules.v$1" "$goal" && to_disk "$G/rules.v$1" || failed "no space for the rules"
		;;
	esac
	read_text "$G/rules.v$1" || failed "the rules of this change cannot be read"
	goal=$text
	[ -n "$goal" ] || ! holds "$T/new/want$1" || failed "the rules of this change are not there"
	warm_up "$1" "$goal"
	with_flows "$goal" "$T/flows$1" || failed "the connections that are open cannot be read"
	with_foreign "$text" "$foreign"
	[ -n "$saved" ] || ipt_save || failed "$ipt-save failed"
	ipt_load_onto "$text" ||
		failed "$(echo "$said" | grep . | head -n 3 | tr '\n' ' ')${foreign:+(rules that were to be taken over may have changed meanwhile; plan again)}"
	with_foreign "$goal" "$foreign"
	ipt_save && ipt_is "$live" "$text" || failed "the rules were not there after loading them"
}

# Runs as a process group of its own, so that the guard can end all of it.
apply() {
	trap '' HUP
	started $$
	echo "$$ $start" >"$R/apply.pid" && ln "$R/apply" "$R/claim" 2>/dev/null || exit 1
	echo apply >"$T/claim"
	first_line "$T/generation"
	G=$ETC/generations/$line
	step modules
	if holds "$T/new/modules" && [ ! -d /proc/sys/net/bridge ]; then
		modprobe br_netfilter || [ -d /proc/sys/net/bridge ] || failed "cannot load br_netfilter"
		# It comes with 1: no guest may meet the old rules before the new ones are there.
		bridge_keys 0
		put_text "$T/fresh" "$lines" || failed "cannot write to $T"
		write_keys "$T/fresh" || failed "cannot keep br_netfilter from the guests"
		bridge_keys 1
		put_text "$T/fresh" "$lines" || failed "cannot write to $T"
	fi
	step "sysctl, opening"
	write_keys "$T/new/sysctl.open" || failed "see above"
	apply_sets
	apply_rules 4
	apply_rules 6
	apply_sets_gone
	if holds "$T/new/bridges"; then
		step bridges
		lines_of "$T/new/bridges" || failed "cannot read what is to be done"
		newcomers "$lines" || failed "cannot read what is to be done"
		[ -z "$came" ] || failed "${came%%"$NL"*}, and that bridge was to go: plan again"
		quiet_profiles
		make_bridges "$lines" || failed "$error"
		bridge_batch "$rest" || failed "$error"
	fi
	place_window
	step "sysctl, closing"
	# What boots next time comes with 1 too; what is declared otherwise stays as declared.
	if [ -e "$T/fresh" ]; then
		lines_of "$T/new/sysctl.keys" && read_text "$T/fresh" || failed "the keys cannot be read"
		for key in $text; do
			case $NL$lines in *"$NL${key%%=*}$NL"*) ;; *) printf '%s\n' "${key#*=}" >"/proc/sys/${key%%=*}" ;; esac
		done
	fi
	write_keys "$T/new/sysctl.close" || failed "see above"
	keys_that_differ "$T/new/sysctl.open" || failed "the keys cannot be read"
	error=$differ
	keys_that_differ "$T/new/sysctl.close" || failed "the keys cannot be read"
	error=$error$differ
	[ -z "$error" ] || failed "$(not_kept "${error%%"$NL"*}")"
	step neighbours
	forget_neighbours || failed "the neighbour entries of the path to the controller cannot be read"
	step applied
	exit 0
}

# Lines $1 for `ip -batch`, and those that begin with `vlan`, `fdb` or `mdb` for `bridge -batch`, in their three turns: links
# and addresses, VLANs, and last the bridges that are to filter by them. $2 is -force or nothing; without it
# the first that fails is the last, and `error` says which and why.
bridge_batch() {
	local line links='' vlans='' filters='' IFS="$NL"
	set -f
	for line in $1; do
		case $line in
		'vlan '* | 'fdb '* | 'mdb '*) vlans=$vlans$line$NL ;;
		*' vlan_filtering 1') filters=$filters$line$NL ;;
		*) links=$links$line$NL ;;
		esac
	done
	set +f
	unset IFS
	batch_turn "${IP:-ip}" "$links" "${2-}" && batch_turn bridge "$vlans" "${2-}" && batch_turn "${IP:-ip}" "$filters" "${2-}"
}

batch_turn() {
	[ -n "$2" ] || return 0
	fed "${2%"$NL"}" "$1" ${3:+"$3"} -batch - && return
	case $? in
	# It ended before the last line, or did not begin.
	12[6-9] | 1[3-9]? | 2??) error="$1 was killed"; return 1 ;;
	esac
	[ -n "$3" ] && return
	error=$(failed_lines "${2%"$NL"}" "$said") || error=$said
	# Some commands end a batch without the number of their line.
	error=${error:-${said:-$1 did not come to its end}}
	error=${error%%"$NL"*}
	return 1
}

# Which of the lines $1 failed and why, where ip or bridge said $2 of them.
failed_lines() {
	printf '%s\n=\n%s\n' "$1" "$2" | awk '
		$0 == "=" { rest = 1; next }
		!rest { line[++n] = $0; next }
		/^Command failed / { sub(/.*:/, ""); print "`" line[$0 + 0] "`: " why; next }
		{ sub(/^(RTNETLINK answers|Error): /, ""); why = $0 }'
}

# The bridges among lines $1 that the change makes, first of all; sets rest to the other lines. Each is noted, so that
# a rollback takes away no bridge that somebody else made after the plan, under the name of one of ours. `error` says
# what failed.
make_bridges() {
	local line IFS="$NL"
	rest=
	set -f
	# shellcheck disable=SC2086 # a line each
	set -- $1
	set +f
	unset IFS
	for line; do
		case $line in
		'link add name '*) make_bridge "$line" || return 1 ;;
		*) rest=$rest$line$NL ;;
		esac
	done
}

make_bridge() {
	local line="$1" said
	# shellcheck disable=SC2086 # words of our own
	set -- $1
	[ ! -e "/sys/class/net/$4" ] || { error="$4 has been made by somebody else since: plan again"; return 1; }
	echo "$4" >>"$R/made" || { error="cannot note that $4 is made"; return 1; }
	said=$("${IP:-ip}" "$@" 2>&1) && return
	sed -i '$d' "$R/made"
	error="\`$line\`: ${said#RTNETLINK answers: }"
	return 1
}

# Sets way to the way back, less the bridges that the change did not make, and less ports of bridges that are gone: at
# the name of such a one ip ends, also with -force.
way_back() {
	local line text planned made='' IFS="$NL"
	way=
	read_text "$T/new/bridges" || return 1
	planned=$NL$text
	if [ -e "$T/made" ]; then
		while IFS= read -r line; do made=$made$line$NL; done <"$T/made" || return 1
	fi
	read_text "$T/pre/bridges" || return 1
	set -f
	for line in $text; do
		case $line in
		'link del dev '*)
			case $planned in *"${NL}link add name ${line#link del dev } "*)
				case $NL$made in *"$NL${line#link del dev }$NL"*) ;; *) continue ;; esac
				;;
			esac
			;;
		'link set dev '*' master '*)
			[ -e "/sys/class/net/${line##* }" ] || case $NL$text in *"${NL}link add name ${line##* } "*) ;; *) continue ;; esac
			;;
		esac
		way=$way$line$NL
	done
	set +f
}

# Sets came to the guests that came since the plan to bridges that lines $1 remove. An apply does not begin then; a
# rollback goes back to where there was no such bridge, and says whom that leaves without one.
newcomers() {
	local line port bridge text IFS="$NL"
	came=
	read_text "$T/new/bridges" || return 1
	set -f
	# shellcheck disable=SC2086 # a line each
	set -- $1
	set +f
	unset IFS
	for line; do
		case $line in 'link del dev '*) bridge=${line#link del dev } ;; *) continue ;; esac
		for port in "/sys/class/net/$bridge/brif"/*; do
			[ -e "$port" ] || continue
			port=${port##*/}
			case $NL$text$NL in
			*"${NL}link set dev $port nomaster$NL"* | *"${NL}link set dev $port master $bridge$NL"*) ;;
			*) came="$came$port has become a port of $bridge$NL" ;;
			esac
		done
	done
}

# The rules of family $1. Nothing is loaded of what cannot be read: an empty text would take all of ours away, and the
# look at it afterwards would find that it is so.
restore_family() {
	local own foreign text bad=0
	read_text "$T/pre/foreign$1" && foreign=$text && read_text "$T/pre/own$1" ||
		{ say "the $(ipt_number "$1") rules that were there before cannot be read"; return 1; }
	own=$text
	case $own in *KVMFW-*) ;; *) holds "$T/new/want$1" || [ -n "$foreign" ] || return 0 ;; esac
	ipt_family "$1" || { [ -z "$own" ]; return; }
	# Connections that are open are worth a try, and no reason to stay with what failed.
	with_flows "$own" "$T/pre/flows$1" || text=$own
	with_foreign "$text" "$foreign"
	ipt_load "$1" "$text" || bad=1
	with_foreign "$own" "$foreign"
	ipt_save && ipt_is "$live" "$text" || bad=1
	tidy_tables "$1" "$T/pre/tables$1"
	return $bad
}

# Sets lines to what makes ports of their bridges again those that lost it; one that is a port of another by now was
# moved by its owner.
ports_to_return() {
	local line port bridge text IFS="$NL"
	lines=
	read_text "$T/pre/ports" || return 1
	for line in $text; do
		bridge=${line##* } port=${line#link set dev }
		port=${port%% *}
		[ -e "/sys/class/net/$port" ] && [ ! -e "/sys/class/net/$port/brport" ] && [ -e "/sys/class/net/$bridge" ] || continue
		lines="${lines}link set dev $port master $bridge$NL"
	done
}

# The links, with their ports and addresses.
restore_bridges() {
	local lost said way came lines bad=0
	holds "$T/pre/bridges" || return 0
	way_back && newcomers "$way" || { say "the way back of the bridges cannot be read"; return 1; }
	if [ -n "$came" ]; then
		first_line "$T/reason"
		lost=$line
		while [ -n "$came" ]; do
			lost="$lost; ${came%%"$NL"*}, which went with this change"
			came=${came#*"$NL"}
		done
		say "$lost"
		printf '%s\n' "$lost" >"$T/reason"
	fi
	# First who configures links forgets the change: else it acts on it while it is taken back.
	take_back_window
	way_back && bridge_batch "$way" -force || bad=1
	if ! ports_to_return; then
		say "the ports of the bridges that were there before cannot be read"
		bad=1
	elif [ -n "$lines" ]; then
		batch_turn "${IP:-ip}" "$lines" -force || bad=1
	fi
	network_back || bad=1
	return $bad
}

# Puts back what the snapshot recorded, whatever state the apply left behind, and looks.
roll_back() {
	local part bad=0 last=''
	# What did not return in an earlier attempt keeps nobody from the rest.
	for part in bridges sets rules sets_gone keys links; do
		if [ -e "$R/hung" ] && grep -qsx "$part" "$R/hung"; then last="$last $part"; else restore_part "$part" || bad=1; fi
	done
	for part in $last; do restore_part "$part" || bad=1; done
	return $bad
}

restore_part() {
	{ echo "$1" >"$R/step"; } 2>/dev/null
	"restore_$1"
}

restore_rules() {
	local family bad=0
	for family in 4 6; do restore_family $family || bad=1; done
	return $bad
}

restore_keys() {
	write_keys "$T/pre/sysctl" /dev/null
	restore_side_effects || return 1
	if ! keys_that_differ "$T/pre/sysctl"; then
		say "after the rollback nobody can tell whether the sysctl keys are back"
		return 1
	fi
	[ -z "$differ" ] || keys_refused || {
		say "after the rollback not back at ${differ%%"$NL"*}"
		return 1
	}
}

# Last of all, who would make a bridge anew that is not there: it may not answer.
restore_links() {
	! holds "$T/pre/bridges" || loud_profiles
}
