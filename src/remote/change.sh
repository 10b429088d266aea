# shellcheck shell=dash disable=SC3043,SC2154
# What touches the host: snapshot, apply, rollback, persist.

want() { asked=$1; shift; "$@" 3<"$T/new/want$asked"; }
want_keys() { "$@" <"$T/new/sysctl.keys"; }

# Keeps of own text $1 the policies only of those chains whose policy the wanted text of family $2 names: what
# the transaction does not manage it must not put back either. A chain that is not there yet accepts.
only_policies_of() {
	awk '
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
		}' "$T/new/want$2" rest=1 table= - <<-OWN
			$1
		OWN
}

# Sets goal to the goal in the host's own words: chains and rules as the dry run printed them ($2, a save),
# hooks and policies as they are wanted ($1).
goal_text() {
	goal=$(awk '
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
		END { for (k = 1; k <= n; k++) { table = order[k]; out() } }' <<-TEXTS
			$1
			=
			$2
		TEXTS
	)
}

# Everything that a rollback puts back, read before anything is touched.
snapshot() {
	local family own foreign back port bridge name value side=''
	for family in 4 6; do
		true >"$T/pre/flows$family"
		ipt_family $family || { true >"$T/pre/own$family"; continue; }
		if ! ipt_saved $family; then
			[ ! -s "$T/new/want$family" ] || return 1
			true >"$T/pre/own$family"
			continue
		fi
		case $live in
		*"
-A KVMFW--flows "*) printf '%s\n' "$live" | grep '^-A KVMFW--flows ' >"$T/pre/flows$family" ;;
		esac
		foreign_goal $family
		# Not straight from awk: that of busybox does not say that a disk was full.
		back=
		[ -z "$foreign" ] || back=$(foreign_undo "$live" "$foreign") || return 1
		printf '%s' "${back:+$back$NL}" >"$T/pre/foreign$family" || return 1
		own=
		[ -z "$live" ] || ipt_own "$live" || return 1
		{ only_policies_of "$own" $family && echo '#end'; } >"$T/pre/own$family" || return 1
	done
	# Every port of every bridge, also the taps that came after the plan: a bridge that has to be
	# made again would not have them.
	for port in /sys/class/net/*/brport; do
		[ -r "$port/bridge/uevent" ] || continue
		bridge=
		while IFS='=' read -r name value; do
			if [ "$name" = INTERFACE ]; then bridge=$value; fi
		done 2>/dev/null <"$port/bridge/uevent"
		port=${port%/brport}
		[ -z "$bridge" ] || printf 'link set dev %s master %s\n' "${port##*/}" "$bridge" || return 1
	done >"$T/pre/ports" || return 1
	lines_of "$T/new/sysctl.keys" || return 1
	case $lines in *ip_forward* | */forwarding*) side=yes ;; esac
	{
		live_keys "$lines" || return 1
		# Loading br_netfilter cannot be undone, but what it does can: at 0 it is as if it were not there.
		if [ -s "$T/new/modules" ] && [ ! -d /proc/sys/net/bridge ]; then bridge_keys 0; fi
		echo '#end'
	} >"$T/pre/sysctl" || return 1
	# Forwarding writes to other keys as well, of every interface, and its inverse does not undo that.
	# Those go back too, but others may write them meanwhile: they are no measure of success.
	if [ -n "$side" ]; then
		(cd /proc/sys && grep -rs '' net/ipv4/conf net/ipv6/conf) | sed 's/:/=/' |
			grep -e /forwarding= -e /accept_redirects= -e /send_redirects= -e /proxy_ndp=
	fi >"$T/pre/sysctl.side"
	device_addresses >"$T/pre/addresses" || return 1
	# A disk that filled up on the way shows here: what is cut off has no end.
	all_end "$T/pre/own4" "$T/pre/own6" "$T/pre/sysctl"
}

# Whether the last line of each of these files, where there is one, says that it is the last.
all_end() {
	awk 'FNR == 1 && NR > 1 && last != "#end" { bad = 1 } { last = $0 } END { exit bad || NR > 0 && last != "#end" }' "$@"
}

# Addresses of the links that this transaction touches.
device_addresses() {
	while read -r device; do
		ip -o addr show dev "$device" scope global 2>/dev/null | awk -v d="$device" '{ print d, $3, $4 }'
	done <"$T/new/devices"
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
	foreign_goal "$1"
	[ -s "$T/new/want$1" ] || [ -n "$foreign" ] || grep -q KVMFW- "$T/pre/own$1" || return 0
	ipt_name "$1" || { [ -s "$T/new/want$1" ] && failed "iptables-save is missing"; return 0; }
	if [ -s "$T/new/boot.modules" ] && grep -q '^?' "$T/new/want$1"; then
		ipt_save || failed "$ipt-save failed"
		want_provable "$1"
		with_foreign "$goal" "$foreign"
		ipt_dry "$1" "$live" "$text" || failed "$(echo "$predicted" | grep . | tail -n 3 | tr '\n' ' ')"
		goal_text "$wanted" "$predicted" || failed "no space for the rules"
		printf '%s\n' "$goal" >"$G/rules.v$1" || failed "no space for the rules"
		to_disk "$G/rules.v$1"
	fi
	goal=$(cat "$G/rules.v$1")
	warm_up "$1" "$goal"
	with_flows "$goal" "$T/flows$1"
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
	echo $$ >"$T/apply.pid" && ln "$T/apply" "$T/claim" 2>/dev/null || exit 1
	first_line "$T/generation"
	G=$ETC/generations/$line
	step modules
	if [ -s "$T/new/modules" ] && [ ! -d /proc/sys/net/bridge ]; then
		modprobe br_netfilter || [ -d /proc/sys/net/bridge ] || failed "cannot load br_netfilter"
		# It comes with 1: no guest may meet the old rules before the new ones are there.
		bridge_keys 0 >"$T/fresh" || failed "cannot write to $T"
		write_keys "$T/fresh"
		bridge_keys 1 >"$T/fresh" || failed "cannot write to $T"
	fi
	step "sysctl, opening"
	write_keys "$T/new/sysctl.open" || failed "see above"
	apply_rules 4
	apply_rules 6
	if [ -s "$T/new/bridges" ]; then
		step bridges
		lines_of "$T/new/bridges" || failed "cannot read what is to be done"
		newcomers "$lines"
		[ -z "$came" ] || failed "${came%%"$NL"*}, and that bridge was to go: plan again"
		quiet_profiles
		make_bridges "$lines" || failed "$error"
		bridge_batch "$rest" || failed "$error"
	fi
	place_window
	step "sysctl, closing"
	# What boots next time comes with 1 too; what is declared otherwise stays as declared.
	if [ -e "$T/fresh" ]; then
		while IFS='=' read -r key value; do
			grep -q "^$key\$" "$T/new/sysctl.keys" || printf '%s\n' "$value" >"/proc/sys/$key"
		done <"$T/fresh"
	fi
	write_keys "$T/new/sysctl.close" || failed "see above"
	keys_that_differ "$T/new/sysctl.open" || failed "the keys cannot be read"
	error=$differ
	keys_that_differ "$T/new/sysctl.close" || failed "the keys cannot be read"
	error=$error$differ
	[ -z "$error" ] || failed "$(not_kept "${error%%"$NL"*}")"
	step applied
	exit 0
}

# Lines $1 for `ip -batch`, and those that begin with `vlan` for `bridge -batch`, in their three turns: links
# and addresses, VLANs, and last the bridges that are to filter by them. $2 is -force or nothing; without it
# the first that fails is the last, and `error` says which and why.
bridge_batch() {
	local line links='' vlans='' filters='' IFS="$NL"
	set -f
	for line in $1; do
		case $line in
		'vlan '*) vlans=$vlans$line$NL ;;
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
	[ -n "$3" ] && return
	error=$(failed_lines "${2%"$NL"}" "$said")
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
	echo "$4" >>"$T/made" || { error="cannot note that $4 is made"; return 1; }
	said=$("${IP:-ip}" "$@" 2>&1) && return
	sed -i '$d' "$T/made"
	error="\`$line\`: ${said#RTNETLINK answers: }"
	return 1
}

# The way back, less the bridges that the change did not make, and less ports of bridges that are gone: at the
# name of such a one ip ends, also with -force.
way_back() {
	local line
	# shellcheck disable=SC2094 # both only read
	while read -r line; do
		case $line in
		'link del dev '*) grep -qs "^link add name ${line#link del dev } " "$T/new/bridges" && ! grep -qsxF "${line#link del dev }" "$T/made" && continue ;;
		'link set dev '*' master '*) [ -e "/sys/class/net/${line##* }" ] || grep -q "^link add name ${line##* } " "$T/pre/bridges" || continue ;;
		esac
		printf '%s\n' "$line"
	done <"$T/pre/bridges"
}

# Sets came to the guests that came since the plan to bridges that lines $1 remove. An apply does not begin then; a
# rollback goes back to where there was no such bridge, and says whom that leaves without one.
newcomers() {
	local line port bridge IFS="$NL"
	came=
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
			grep -qxF -e "link set dev $port nomaster" -e "link set dev $port master $bridge" "$T/new/bridges" ||
				came="$came$port has become a port of $bridge$NL"
		done
	done
}

# Puts back what the snapshot recorded, whatever state the apply left behind, and looks.
roll_back() {
	local part bad=0
	for part in bridges rules keys links; do "restore_$part" || bad=1; done
	return $bad
}

restore_bridges() {
	local missing lost
	[ -s "$T/pre/bridges" ] || return 0
	newcomers "$(way_back)"
	if [ -n "$came" ]; then
		lost=$(cat "$T/reason" 2>/dev/null)
		while [ -n "$came" ]; do
			lost="$lost; ${came%%"$NL"*}, which went with this change"
			came=${came#*"$NL"}
		done
		say "$lost"
		printf '%s\n' "$lost" >"$T/reason"
	fi
	# First who configures links forgets the change: else it acts on it while it is taken back.
	take_back_window
	bridge_batch "$(way_back)" -force
	# Ports that lost their bridge; one that is a port of another by now was moved by its owner.
	while read -r _ _ _ port _ bridge; do
		[ -e "/sys/class/net/$port" ] && [ ! -e "/sys/class/net/$port/brport" ] && [ -e "/sys/class/net/$bridge" ] || continue
		echo "link set dev $port master $bridge"
	done <"$T/pre/ports" | ip -force -batch - >/dev/null 2>&1
	missing=$(device_addresses | awk 'NR == FNR { now[$0] = 1; next } !($0 in now)' - "$T/pre/addresses")
	if [ -n "$missing" ]; then
		say "after the rollback not back: $(echo "$missing" | head -n 3 | tr '\n' ' ')"
		return 1
	fi
}

restore_rules() {
	local family bad=0 foreign own text
	for family in 4 6; do
		foreign=$(cat "$T/pre/foreign$family" 2>/dev/null)
		[ -s "$T/new/want$family" ] || [ -n "$foreign" ] || grep -q KVMFW- "$T/pre/own$family" || continue
		ipt_family $family || continue
		own=$(cat "$T/pre/own$family")
		with_flows "$own" "$T/pre/flows$family"
		with_foreign "$text" "$foreign"
		ipt_load $family "$text" || bad=1
		with_foreign "$own" "$foreign"
		ipt_save && ipt_is "$live" "$text" || bad=1
		tidy_tables $family "$T/pre/tables$family"
	done
	return $bad
}

restore_keys() {
	write_keys "$T/pre/sysctl" /dev/null
	write_keys "$T/pre/sysctl.side" /dev/null
	# Writing one key can set others; a second pass finds them.
	write_keys "$T/pre/sysctl" /dev/null
	if ! keys_that_differ "$T/pre/sysctl"; then
		say "after the rollback nobody can tell whether the sysctl keys are back"
		return 1
	elif [ -n "$differ" ]; then
		say "after the rollback not back at ${differ%%"$NL"*}"
		return 1
	fi
}

# Last of all, who would make a bridge anew that is not there: it may not answer.
restore_links() {
	[ ! -s "$T/pre/bridges" ] || loud_profiles
}
