# shellcheck shell=dash disable=SC3043,SC2154
# Connections that are open when the first rules come that ask conntrack.

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
