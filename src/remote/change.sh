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
	local family own foreign port bridge name value side=''
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
		foreign_undo "$live" "$foreign" >"$T/pre/foreign$family" || return 1
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

bridge_keys() {
	for key in iptables ip6tables arptables; do printf 'net/bridge/bridge-nf-call-%s=%s\n' "$key" "$1"; done
}

# Sets lines to what file $1 holds. A short one costs no process; of a long one dash would read each byte alone.
lines_of() {
	local n=0
	lines=
	# shellcheck disable=SC2094 # both only read
	while IFS= read -r line; do
		[ $((n += 1)) -le 20 ] || { lines=$(cat "$1"); return; }
		lines=$lines$line$NL
	done <"$1"
}

# Calls $1 with lines $2, some at a time: no command takes any number of arguments. Sets IFS to a newline for it, and
# no patterns.
by_parts() {
	local line some='' n=0 rc=0 IFS="$NL"
	set -f
	for line in $2; do
		some=$some$line$NL
		[ $((n += 1)) -ge 50 ] || continue
		"$1" "$some" || rc=1
		some='' n=0
	done
	[ -z "$some" ] || "$1" "$some" || rc=1
	set +f
	return $rc
}

# Sets values to what sysctl keys $1 are, less those that are not there: lines /proc/sys/KEY:VALUE. Not by `read`: the
# kernel gives it the first byte of a number and then the end. Fails where nobody could look, which is no answer.
values_of() {
	local key paths=''
	for key in $1; do paths=$paths/proc/sys/$key$NL; done
	# shellcheck disable=SC2086 # one each
	values=$(grep -sH '' /dev/null $paths)
	case $? in 0 | 1 | 2) ;; *) return 1 ;; esac
}

# Prints KEY=VALUE of the sysctl keys of lines $1 that are there.
live_keys() { by_parts print_values "$1"; }

print_values() {
	local line
	values_of "$1" || return 1
	for line in $values; do
		line=${line#/proc/sys/}
		printf '%s=%s\n' "${line%%:*}" "${line#*:}" || return 1
	done
}

# Sets differ to those KEY=VALUE lines of file $1 that are not so now, keys that do not exist left out. Fails where
# nobody could look.
keys_that_differ() {
	differ=
	[ -s "$1" ] || return 0
	lines_of "$1" && by_parts add_differing "$lines"
}

add_differing() {
	local line entry key keys='' live
	for line in $1; do keys=$keys${line%%=*}$NL; done
	values_of "$keys" || return 1
	for line in $1; do
		case $line in *=*) ;; *) continue ;; esac
		key=${line%%=*} live=$NL
		# Of a value of more than one line the last. A key may be named twice.
		for entry in $values; do
			case $entry in "/proc/sys/$key:"*) live=${entry#*:} ;; esac
		done
		[ "$live" != "$NL" ] && [ "$live" != "${line#*=}" ] || continue
		single_spaces "$live"
		live=$spaced
		single_spaces "${line#*=}"
		[ "$live" = "$spaced" ] || differ=$differ$line$NL
	done
}

single_spaces() {
	local IFS=' 	'
	# shellcheck disable=SC2086 # split on purpose
	set -- $1
	spaced="$*"
}

write_keys() {
	local line rc=0 IFS="$NL"
	keys_that_differ "$1" || { say "the sysctl keys cannot be read" 2>>"${2-/dev/stderr}"; return 1; }
	[ -n "$differ" ] || return 0
	set -f
	for line in $differ; do
		printf '%s\n' "${line#*=}" >"/proc/sys/${line%%=*}" && continue
		say "sysctl ${line%%=*}: the kernel refused the value ${line#*=}"
		rc=1
	done 2>>"${2-/dev/stderr}" || rc=1
	set +f
	return $rc
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

# Whether rules make conntrack look at packets.
tracks() {
	case $1 in *'-m state '* | *'-m conntrack '* | *'-j MASQUERADE'* | *NAT\ * | *'-j REDIRECT'* | *'-j CT '*) return 0 ;; esac
	return 1
}

# Before the first rule that asks conntrack, conntrack has never seen the host's connections, and
# takes the next packet of each for a new one: storage and cluster traffic would be rejected. A rule
# that only asks makes it look, which is enough for what talks now. What is silent, or only hears,
# gets rules of its own that ride with the real ones, in the same step: the open TCP connections,
# each by its four numbers, pass wherever the rules let ESTABLISHED pass (with_flows). They are part
# of what is live, not of the generation: no plan sees them, no boot loads them.
# Sets saved where ipt_save has told what is live, and nothing was done since.
warm_up() {
	local sockets tries=0
	saved=
	true >"$T/flows$1" || return 0
	tracks "$2" || return 0
	! ipt_save || saved=yes
	if [ -n "$saved" ] && tracks "$live"; then
		# Once more those that an earlier apply let pass and that are still open.
		[ -s "$T/pre/flows$1" ] || return 0
		flows "$1" | grep -xF -f "$T/pre/flows$1" >"$T/flows$1"
		return 0
	fi
	flows "$1" >"$T/flows$1"
	[ -s "$T/flows$1" ] || return 0
	saved=
	sockets=$(($(wc -l <"$T/flows$1") / 2))
	[ "$sockets" -lt $MOST_FLOWS ] || say "more than $MOST_FLOWS connections are open, the rest may have to be opened anew" 2>>"$T/log"
	printf '*filter\n:KVMFW--flows - [0:0]\n-A KVMFW--flows -m conntrack --ctstate NEW\nCOMMIT\n' |
		"$ipt-restore" -w 10 --noflush || return 0
	# Bounded: an idle connection shows itself when it pleases.
	while [ $tries -lt 20 ] && [ "$(cat /proc/sys/net/netfilter/nf_conntrack_count)" -lt "$sockets" ]; do
		tries=$((tries + 1))
		sleep 0.05
	done
}

MOST_FLOWS=1000

# The open TCP connections of family $1 as rules, one for each direction. Those of sshd are let in as
# new ones too. None of them lets a SYN pass: what is left of a closed connection opens nothing.
flows() {
	have ss || return 0
	first_line "$T/ssh"
	ss -tn state connected 2>/dev/null | awk -v family="$1" -v ssh="${line##* }" -v most=$MOST_FLOWS '
		function address(end) { sub(/:[0-9]+$/, "", end); gsub(/[][]/, "", end); sub(/^::ffff:/, "", end); return end }
		function port(end) { sub(/.*:/, "", end); return end }
		function rule(s, sport, d, dport) {
			return "-A KVMFW--flows -s " s (family == 6 ? "/128" : "/32") " -d " d (family == 6 ? "/128" : "/32") \
				" -p tcp -m tcp --sport " sport " --dport " dport " ! --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT"
		}
		$1 !~ /^(ESTAB|CLOSE-WAIT|FIN-WAIT-[12]|LAST-ACK)$/ { next }
		{
			gsub(/%[^]:]*/, "")
			here = address($4); there = address($5)
			if ((index(here, ":") > 0) != (family == 6) || port($4) == ssh || count == most) next
			count++
			print rule(there, port($5), here, port($4))
			print rule(here, port($4), there, port($5))
		}'
}

# Sets text to own text $1 with the rules of file $2 behind every rule that lets ESTABLISHED pass.
with_flows() {
	text=$1
	[ -s "$2" ] || return 0
	text=$(printf '%s\n' "$1" | awk '
		{ print }
		/^\*/ { table = $0; if (table == "*filter") print ":KVMFW--flows -" }
		table != "*filter" || !/^-A KVMFW-/ || !/ESTABLISHED/ || !/ -j ACCEPT$/ { next }
		{
			gsub(/"([^"\\]|\\.)*"/, "")
			gsub(/ -m comment --comment/, "")
			if (sub(/ -m (state --state|conntrack --ctstate) [A-Z,]*ESTABLISHED[A-Z,]*/, "") && sub(/ -j ACCEPT$/, " -j KVMFW--flows")) print
		}
	' | awk -v file="$2" '
		/^\*/ { table = $0 }
		/^COMMIT/ && table == "*filter" { while ((getline rule < file) > 0) print rule }
		{ print }')
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
		bridge_keys 0 >"$T/fresh"
		write_keys "$T/fresh"
		bridge_keys 1 >"$T/fresh"
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

# The kernel may write a value in another way: sorted, in other units, within bounds.
not_kept() {
	local now
	now=$(printf '%s\n' "${1%%=*}" | read_keys)
	printf 'the kernel did not keep %s but made it %s; if that is as good, write it so in the inventory' "$1" "${now#*=}"
}

# Puts back what the snapshot recorded, whatever state the apply left behind, and looks.
roll_back() {
	local family bad=0 missing foreign lost own text
	if [ -s "$T/pre/bridges" ]; then
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
		# And last who would make a bridge anew that is not there.
		loud_profiles
		# Ports that lost their bridge; one that is a port of another by now was moved by its owner.
		while read -r _ _ _ port _ bridge; do
			[ -e "/sys/class/net/$port" ] && [ ! -e "/sys/class/net/$port/brport" ] && [ -e "/sys/class/net/$bridge" ] || continue
			echo "link set dev $port master $bridge"
		done <"$T/pre/ports" | ip -force -batch - >/dev/null 2>&1
		missing=$(device_addresses | awk 'NR == FNR { now[$0] = 1; next } !($0 in now)' - "$T/pre/addresses")
		if [ -n "$missing" ]; then
			say "after the rollback not back: $(echo "$missing" | head -n 3 | tr '\n' ' ')"
			bad=1
		fi
	fi
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
	write_keys "$T/pre/sysctl" /dev/null
	write_keys "$T/pre/sysctl.side" /dev/null
	# Writing one key can set others; a second pass finds them.
	write_keys "$T/pre/sysctl" /dev/null
	if ! keys_that_differ "$T/pre/sysctl"; then
		say "after the rollback nobody can tell whether the sysctl keys are back"
		bad=1
	elif [ -n "$differ" ]; then
		say "after the rollback not back at ${differ%%"$NL"*}"
		bad=1
	fi
	return $bad
}

# iptables-nft leaves empty base chains behind where there was no table before. They decide
# nothing, but "as it was" means as it was.
tidy_tables() {
	local table family=ip chains
	[ "$backend" = nft ] && have nft || return 0
	[ "$1" = 6 ] && family=ip6
	sed -n 's/^absent //p' "$2" 2>/dev/null | while read -r table; do
		chains=$(nft list table $family "$table" 2>/dev/null) || continue
		# Rules, a policy or a chain of anybody: then the table is in use.
		case $chains in *policy\ drop* | *counter* | *jump* | *comment*) continue ;; esac
		# A chain that got a rule meanwhile cannot be deleted, and then nothing is.
		{
			printf '%s\n' "$chains" | awk -v t="$family $table" '$1 == "chain" { print "delete chain " t " " $2 }'
			echo "delete table $family $table"
		} | nft -f - 2>/dev/null
	done
	:
}

# Makes the generation what boots: one rename. All of it can be done again after a power cut.
persist() {
	local generation family inventory
	if [ -e "$T/new/zero" ]; then
		for family in 4 6; do
			ipt_family $family && tidy_tables $family $VAR/original/tables$family
		done
		rm -f $ETC/current
		link_files_none
		return
	fi
	first_line "$T/generation"
	generation=$line
	[ -e "$ETC/generations/$generation/want4" ] || return 1
	keep_originals || return 1
	put_link "generations/$generation" $ETC/current || return 1
	first_line "$T/new/inventory"
	inventory=$line
	first_line $ETC/inventory
	if [ "$line" != "$inventory" ]; then
		printf '%s\n' "$inventory" >$ETC/inventory.new && mv -f $ETC/inventory.new $ETC/inventory || return 1
	fi
	to_disk $ETC $ETC/inventory || return 1
	link_files
	# What did not load at boot was decided anew.
	[ ! -e $VAR/boot.failed ] || rm -f $VAR/boot.failed
	prune
}

# Puts text $2 beside original $1, where that is not so already.
keep_text() {
	[ ! -e "$VAR/original/new/$1" ] || rm -f "$VAR/original/new/$1"
	if [ -e "$VAR/original/$1" ]; then
		lines_of "$VAR/original/$1" || return 1
		case $2 in "$lines" | "$lines$NL") return 0 ;; esac
	fi
	printf '%s' "$2" >"$VAR/original/new/$1"
}

# What was there before we first touched it, noted once.
keep_originals() {
	local dir=$VAR/original kept family
	[ -d $dir/files ] && [ -d $dir/new ] || mkdir -p $dir/files $dir/new || return 1
	true >>$dir/sysctl && true >>$dir/policies || return 1
	# Each part of the input says what it is: any of the files may be empty.
	kept=$(awk '
		part == "kept" { print; kept[substr($0, 1, index($0, "=") - 1)]; next }
		part == "keys" { keys[++n] = $0; next }
		part == "was" {
			key = substr($0, 1, index($0, "=") - 1)
			if (!(key in was)) was[key] = $0
			next
		}
		part == "policies" { policies = policies $0 "\n"; kept[$1, $2, $3]; next }
		/^\*/ { table = substr($1, 2) }
		/^:/ && !/^:KVMFW-/ {
			chain = substr($1, 2)
			if (!((part, table, chain) in kept)) policies = policies part " " table " " chain " " $2 "\n"
		}
		END {
			for (i = 1; i <= n; i++) if (!(keys[i] in kept) && (keys[i] in was)) print was[keys[i]]
			printf "#policies\n%s#end\n", policies
		}' part=kept $dir/sysctl part=keys "$T/new/sysctl.keys" part=was "$T/pre/sysctl" \
		part=policies $dir/policies part=4 "$T/pre/own4" part=6 "$T/pre/own6")
	# What is cut off has no end; a disk that is full, the shell tells.
	case $kept in *"#policies$NL"*'#end') ;; *) return 1 ;; esac
	set --
	keep_text sysctl "${kept%%"#policies$NL"*}" && kept=${kept#*"#policies$NL"} && keep_text policies "${kept%'#end'}" || return 1
	[ ! -e $dir/new/sysctl ] || set -- $dir/new/sysctl
	[ ! -e $dir/new/policies ] || set -- "$@" $dir/new/policies
	for family in 4 6; do
		[ ! -e $dir/tables$family ] || continue
		lines_of "$T/pre/tables$family" && printf '%s' "$lines" >$dir/new/tables$family || return 1
		set -- "$@" $dir/new/tables$family
	done
	# Whole on disk before it takes the place of what was there.
	[ $# -eq 0 ] || to_disk "$@" || return 1
	[ $# -eq 0 ] || mv -f "$@" $dir/ || return 1
	keep_adopted_files || return 1
	to_disk $dir/sysctl $dir/policies $dir/tables4 $dir/tables6 $dir $VAR
}

# Generations beyond the newest twenty, and transactions beyond them, have served.
prune() {
	local name
	set -- "$ETC"/generations/*
	# shellcheck disable=SC2012
	[ $# -le 20 ] || ls -1 $ETC/generations | sort -rn | tail -n +21 | while read -r name; do rm -rf "$ETC/generations/$name"; done
	set -- "$VAR"/txn/*
	# shellcheck disable=SC2012
	[ $# -le 20 ] || ls -1t $VAR/txn | tail -n +21 | while read -r name; do rm -rf "$VAR/txn/$name"; done
}

# The boot units are the same in every generation; installed before anything is armed. Sets boot_files to those that
# have to be synced to disk.
install_boot() {
	local unit dir=/etc/systemd/system
	boot_files=
	[ -d $dir ] || return 1
	[ -e $VAR/kvmfw.sh ] && cmp -s "$T/kvmfw.sh" $VAR/kvmfw.sh ||
		{ cp "$T/kvmfw.sh" $VAR/kvmfw.sh.new && chmod 700 $VAR/kvmfw.sh.new && mv -f $VAR/kvmfw.sh.new $VAR/kvmfw.sh; } || return 1
	# The files too, not only their names: after a power cut they would be there and empty. Always, because who wrote them
	# last may have been stopped before they were synced.
	boot_files="$VAR/kvmfw.sh $dir $dir/sysinit.target.wants $dir/multi-user.target.wants"
	for unit in $BOOT_UNITS; do boot_files="$boot_files $dir/${unit##*/}"; done
	umask 022
	put_units
	set -- $?
	umask 077
	return "$1"
}

put_units() {
	local dir=/etc/systemd/system wants unit reload='' some=''
	for wants in $BOOT_UNITS; do
		for unit in "$dir/${wants##*/}" "$dir/$wants"; do
			if [ -e "$unit" ] || [ -L "$unit" ]; then some=yes; fi
		done
	done
	if [ -z "$some" ]; then
		# Nothing leads to them yet, so nobody meets half of them.
		mkdir -p $dir/sysinit.target.wants $dir/multi-user.target.wants &&
			cp "$T"/units/* $dir/ && chmod 644 $dir/kvmfw*.service || return 1
		for wants in sysinit.target.wants multi-user.target.wants; do
			set --
			for unit in $BOOT_UNITS; do
				case $unit in $wants/*) set -- "$@" "../${unit##*/}" ;; esac
			done
			ln -s "$@" $dir/$wants/ || return 1
		done
		reload=yes
	else
		for wants in $BOOT_UNITS; do
			unit=${wants##*/} wants=${wants%/*}
			[ -L "$dir/$wants/$unit" ] && [ -e "$dir/$unit" ] && cmp -s "$T/units/$unit" "$dir/$unit" && continue
			[ -d "$dir/$wants" ] || mkdir "$dir/$wants" || return 1
			cat "$T/units/$unit" >"$dir/$unit.new" && mv -f "$dir/$unit.new" "$dir/$unit" &&
				ln -sfn "../$unit" "$dir/$wants/$unit" || return 1
			reload=yes
		done
	fi
	[ -n "$reload" ] || return 0
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	return 0
}

remove_boot() {
	local dir=/etc/systemd/system removed=0
	for wants in $BOOT_UNITS; do
		unit=${wants##*/} wants=${wants%/*}
		rm -f "$dir/$unit" "$dir/$wants/$unit" || removed=1
		rmdir "$dir/$wants" 2>/dev/null
	done
	if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
	return $removed
}

# A host that was never managed is left as it was found, but for the record of the attempt.
forget_if_new() {
	[ -L $ETC/current ] && return
	remove_boot && rm -rf $ETC
}
