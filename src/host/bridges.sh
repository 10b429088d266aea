# shellcheck shell=dash disable=SC3043,SC2154
# The bridges of a change: lines for `ip -batch` and `bridge -batch`, forward and back.

# Runs lines $1 with `ip -batch`, and those that begin with `vlan`, `fdb` or `mdb` with `bridge -batch`, in three turns: links
# and addresses, VLANs, and last the bridges that are to filter by them. $2 is -force or nothing; without it the first
# line that fails is the last. REPLY: which line failed, and why.
net_batch() {
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
	net_batch_turn "${IP:-ip}" "$links" "${2-}" && net_batch_turn bridge "$vlans" "${2-}" && net_batch_turn "${IP:-ip}" "$filters" "${2-}"
}

# REPLY: as of net_batch.
net_batch_turn() {
	local said error
	[ -n "$2" ] || return 0
	feed "${2%"$NL"}" "$1" ${3:+"$3"} -batch - && return
	case $? in
	# It ended before the last line, or did not begin.
	12[6-9] | 1[3-9]? | 2??) REPLY="$1 was killed"; return 1 ;;
	esac
	[ -n "$3" ] && return
	said=$REPLY
	error=$(net_print_failures "${2%"$NL"}" "$said") || error=$said
	# Some commands end a batch without the number of their line.
	error=${error:-${said:-$1 did not come to its end}}
	REPLY=${error%%"$NL"*}
	return 1
}

# Prints which of the lines $1 failed and why; $2 is the output of ip or bridge.
net_print_failures() {
	printf '%s\n=\n%s\n' "$1" "$2" | awk '
		$0 == "=" { rest = 1; next }
		!rest { line[++n] = $0; next }
		/^Command failed / { sub(/.*:/, ""); print "`" line[$0 + 0] "`: " why; next }
		{ sub(/^(RTNETLINK answers|Error): /, ""); why = $0 }'
}

# Makes the bridges among lines $1, and notes each, so that a rollback removes no bridge that another program made after
# the plan under the same name. REPLY: the other lines, or what failed.
net_make_bridges() {
	local line rest='' IFS="$NL"
	set -f
	# shellcheck disable=SC2086 # a line each
	set -- $1
	set +f
	unset IFS
	for line; do
		case $line in
		'link add name '*) net_make_bridge "$line" || return 1 ;;
		*) rest=$rest$line$NL ;;
		esac
	done
	REPLY=$rest
}

# REPLY: what failed.
net_make_bridge() {
	local line="$1" said
	# shellcheck disable=SC2086 # words of our own
	set -- $1
	[ ! -e "/sys/class/net/$4" ] || { REPLY="$4 has been made by somebody else since: plan again"; return 1; }
	echo "$4" >>"$R/made" || { REPLY="cannot note that $4 is made"; return 1; }
	said=$("${IP:-ip}" "$@" 2>&1) && return
	sed -i '$d' "$R/made"
	REPLY="\`$line\`: ${said#RTNETLINK answers: }"
	return 1
}

# REPLY: the lines that take the bridges back, without bridges that the change did not make, and without ports of bridges that
# are gone: at the name of such a bridge ip ends, also with -force.
net_way_back() {
	local line text way='' planned made='' IFS="$NL"
	text_read "$T/new/bridges" || return 1
	planned=$NL$REPLY
	if [ -e "$T/made" ]; then
		while IFS= read -r line; do made=$made$line$NL; done <"$T/made" || return 1
	fi
	text_read "$T/pre/bridges" || return 1
	text=$REPLY
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
	REPLY=$way
}

# REPLY: the guests that have become ports, since the plan, of bridges that lines $1 remove. An apply does not start then. A
# rollback removes such a bridge all the same, and its reason names the guests.
net_new_ports() {
	local line port bridge text came='' IFS="$NL"
	text_read "$T/new/bridges" || return 1
	text=$REPLY
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
	REPLY=$came
}

# REPLY: the lines that make links ports of their bridges again. A link that is a port of another bridge by now was moved
# by its owner.
net_lost_ports() {
	local line port bridge lines='' IFS="$NL"
	text_read "$T/pre/ports" || return 1
	for line in $REPLY; do
		bridge=${line##* } port=${line#link set dev }
		port=${port%% *}
		[ -e "/sys/class/net/$port" ] && [ ! -e "/sys/class/net/$port/brport" ] && [ -e "/sys/class/net/$bridge" ] || continue
		lines="${lines}link set dev $port master $bridge$NL"
	done
	REPLY=$lines
}
