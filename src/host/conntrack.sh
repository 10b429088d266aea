# shellcheck shell=dash disable=SC3043,SC2154
# Connections that are open when the first rules come that ask conntrack.

# Whether rules make conntrack look at packets.
flows_are_tracked() {
	case $1 in *'-m state '* | *'-m conntrack '* | *'-j MASQUERADE'* | *NAT\ * | *'-j REDIRECT'* | *'-j CT '*) return 0 ;; esac
	return 1
}

# Before the first rule that asks conntrack, conntrack has never seen the host's connections, and
# takes the next packet of each for a new one: storage and cluster traffic would be rejected. A rule
# that only asks makes it look, which is enough for what talks now. What is silent, or only hears,
# gets rules of its own that ride with the real ones, in the same step: the open TCP connections,
# each by its four numbers, pass wherever the rules let ESTABLISHED pass (flows_join). They are part
# of what is live, not of the generation: no plan sees them, no boot loads them.
# REPLY_saved: `yes` if REPLY is the live save, and nothing was changed since.
flows_warm_up() {
	local sockets tries=0 open live=''
	REPLY_saved=
	text_write "$T/flows$1" '' || return 0
	flows_are_tracked "$2" || return 0
	if ipt_save; then live=$REPLY REPLY_saved=yes; fi
	if [ -n "$REPLY_saved" ] && flows_are_tracked "$live"; then
		# Once more those that an earlier apply let pass and that are still open.
		! text_is_filled "$T/pre/flows$1" || {
			flows_list_open "$1" && open=$REPLY && text_read "$T/pre/flows$1" && flows_keep_listed "$REPLY" "$open" &&
				text_write "$T/flows$1" "$REPLY"
		} || txn_fail "the connections that are open cannot be told"
		REPLY=$live
		return 0
	fi
	flows_list_open "$1" && text_write "$T/flows$1" "$REPLY" || txn_fail "the connections that are open cannot be told"
	open=$REPLY sockets=$REPLY_sockets
	REPLY=$live
	[ -n "$open" ] || return 0
	REPLY_saved=
	[ "$sockets" -lt $MOST_FLOWS ] || say "more than $MOST_FLOWS connections are open, the rest may have to be opened anew" 2>>"$R/log"
	printf '*filter\n:KVMFW--flows - [0:0]\n-A KVMFW--flows -m conntrack --ctstate NEW\nCOMMIT\n' |
		"$ipt-restore" -w 10 --noflush || return 0
	# Bounded: an idle connection shows itself when it pleases.
	while [ $tries -lt 20 ] && [ "$(cat /proc/sys/net/netfilter/nf_conntrack_count)" -lt "$sockets" ]; do
		tries=$((tries + 1))
		sleep 0.05
	done
}

MOST_FLOWS=1000

# REPLY: the open TCP connections of family $1 as rules, one for each direction. REPLY_sockets: the number of connections.
# Connections of sshd are also accepted in state NEW. No rule accepts a SYN, so the rule of a closed connection opens
# nothing.
flows_list_open() {
	local said ends
	REPLY='' REPLY_sockets=0
	have ss || return 0
	first_line "$T/ssh"
	ends=$REPLY
	said=$(ss -tn state connected 2>/dev/null) || return 1
	said=$(awk -v family="$1" -v ssh="${ends##* }" -v most=$MOST_FLOWS "$FLOWS_LIST_OPEN_AWK" <<-SOCKETS
			$said
			#end
		SOCKETS
	) && text_unwrap_output "$said" || return 1
	REPLY_sockets=${REPLY##*"$NL"}
	case $REPLY in *"$NL"*) REPLY=${REPLY%"$NL"*} ;; *) REPLY= ;; esac
}

# REPLY: the lines of $2 that are lines of $1 too.
flows_keep_listed() {
	local open
	open=$(awk '
		{ last = $0 }
		$0 == "=" { rest = 1; next }
		!rest { was[$0]; next }
		$0 in was
		END { if (last == "#end") print last }' <<-TEXTS
			$1
			=
			$2
			#end
		TEXTS
	) && text_unwrap_output "$open"
}

# REPLY: own text $1 with the rules of file $2 behind every rule that lets ESTABLISHED pass.
flows_join() {
	local text
	text_read "$2" || return 1
	[ -n "$REPLY" ] || { REPLY=$1; return 0; }
	text=$(awk "$FLOWS_JOIN_AWK" <<-TEXTS
			$REPLY
			=
			$1
			#end
		TEXTS
	) && text_unwrap_output "$text"
}
