# shellcheck shell=dash disable=SC3043,SC2154
# What changes the host: snapshot, apply, rollback.

# The desired state as the transaction has it, for the probe under the lock.
DESIRED=txn
txn_rules() { asked=$1; shift; "$@" 3<"$T/new/want$asked"; }

txn_keys() { "$@" <"$T/new/sysctl.keys"; }

# REPLY: own text $2 with the policies only of those chains whose policy the desired rules of family $1 name, because a
# rollback must not restore what the transaction does not manage. A chain that does not exist yet accepts.
ipt_keep_policies() {
	local own
	text_read "$T/new/want$1" || return 1
	own=$(awk "$IPT_KEEP_POLICIES_AWK" <<-TEXTS
			$REPLY
			=
			$2
			#end
		TEXTS
	) && text_unwrap_output "$own"
}

# REPLY: own text $1 in the canonical form of the host: chains and rules as the dry run printed them ($2, a save), jump rules
# and policies as they are desired.
ipt_canonical_goal() {
	local goal
	goal=$(awk "$IPT_CANONICAL_GOAL_AWK" <<-TEXTS
			$1
			=
			$2
			#end
		TEXTS
	) && text_unwrap_output "$goal"
}

# Whether the live managed rules of family $1 matter: some are desired, or an earlier generation exists.
ipt_is_needed() { text_is_filled "$T/new/want$1" || [ -L $ETC/current ]; }

# Records the rules of family $1.
txn_snapshot_rules() {
	local own='' foreign back='' flows='' live
	# Not straight from awk: that of busybox does not say that a disk was full.
	if ! ipt_find_backend "$1" || ! ipt_save_once "$1"; then
		[ "$backend" = none ] || ! ipt_is_needed "$1" || return 1
	else
		live=$REPLY
		case $live in
		*"$NL-A KVMFW--flows "*) flows=$(printf '%s\n' "$live" | grep '^-A KVMFW--flows ') || return 1 ;;
		esac
		adopt_goal "$1" || return 1
		foreign=$REPLY
		[ -z "$foreign" ] || { adopt_inverse "$live" "$foreign" && back=$REPLY; } || return 1
		[ -z "$live" ] || { ipt_managed "$live" && own=$REPLY; } || return 1
		ipt_keep_policies "$1" "$own" || return 1
		own=$REPLY
	fi
	text_write "$T/pre/flows$1" "$flows" && text_write "$T/pre/foreign$1" "$back" && text_write "$T/pre/own$1" "$own"
}

# Records everything that a rollback restores, before anything is changed.
txn_snapshot() {
	local family port bridge name value values keys
	for family in 4 6; do txn_snapshot_rules $family || return 1; done
	txn_snapshot_sets || return 1
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
	text_write "$T/pre/ports" "$values" || return 1
	text_read_lines "$T/new/sysctl.keys" || return 1
	keys=$REPLY
	values=$(sysctl_print_live "$keys") || return 1
	# Loading br_netfilter cannot be undone, but what it does can: at 0 it is as if it were not there.
	if text_is_filled "$T/new/modules" && [ ! -d /proc/sys/net/bridge ]; then
		sysctl_bridge_keys 0
		values=$values${values:+$NL}$REPLY
	fi
	text_write "$T/pre/sysctl" "$values" || return 1
	sysctl_snapshot_effects "$keys" || return 1
	net_snapshot
}

txn_step() { uptime_cs; printf '%s %s\n' "$REPLY" "$1" >>"$T/journal"; current_step=$1; } 2>/dev/null

txn_fail() {
	say "$current_step: $1"
	exit 1
}

ipt_print_program() { case $1 in 4) echo iptables ;; 6) echo ip6tables ;; esac; }

txn_apply_rules() {
	local goal foreign text wanted='' live='' saved
	if [ "$1" = 4 ]; then txn_step iptables; else txn_step ip6tables; fi
	adopt_goal "$1" && foreign=$REPLY && text_read "$T/pre/own$1" || txn_fail "what was there before cannot be read"
	case $REPLY in *KVMFW-*) ;; *) text_is_filled "$T/new/want$1" || [ -n "$foreign" ] || return 0 ;; esac
	ipt_find "$1" || { text_is_filled "$T/new/want$1" && txn_fail "iptables-save is missing"; return 0; }
	if text_is_filled "$T/new/boot.modules"; then
		probe_provable_rules "$1" || txn_fail "the rules that are wanted cannot be read"
		wanted=$REPLY_desired goal=$REPLY
	fi
	case $NL$wanted in *"$NL?"*)
		ipt_save || txn_fail "$ipt-save failed"
		live=$REPLY
		adopt_join "$goal" "$foreign"
		ipt_dry_run "$1" "$live" "$REPLY" || txn_fail "$(echo "$REPLY" | grep . | tail -n 3 | tr '\n' ' ')"
		ipt_canonical_goal "$wanted" "$REPLY" && text_write "$G/rules.v$1" "$REPLY" && disk_sync "$G/rules.v$1" || txn_fail "no space for the rules"
		;;
	esac
	text_read "$G/rules.v$1" || txn_fail "the rules of this change cannot be read"
	goal=$REPLY
	[ -n "$goal" ] || ! text_is_filled "$T/new/want$1" || txn_fail "the rules of this change are not there"
	flows_warm_up "$1" "$goal"
	live=$REPLY saved=$REPLY_saved
	flows_join "$goal" "$T/flows$1" || txn_fail "the connections that are open cannot be read"
	adopt_join "$REPLY" "$foreign"
	text=$REPLY
	[ -n "$saved" ] || { ipt_save && live=$REPLY; } || txn_fail "$ipt-save failed"
	ipt_load_onto "$live" "$text" ||
		txn_fail "$(echo "$REPLY" | grep . | head -n 3 | tr '\n' ' ')${foreign:+(rules that were to be adopted may have changed meanwhile; plan again)}"
	adopt_join "$goal" "$foreign"
	text=$REPLY
	ipt_save && ipt_matches "$REPLY" "$text" || txn_fail "the rules were not there after loading them"
}

# Runs as a process group of its own, so that the guard can end all of it.
txn_apply() {
	trap '' HUP
	proc_read_stat $$
	echo "$$ $REPLY" >"$R/apply.pid" && ln "$R/apply" "$R/claim" 2>/dev/null || exit 1
	echo apply >"$T/claim"
	first_line "$T/generation"
	G=$ETC/generations/$REPLY
	txn_step modules
	if text_is_filled "$T/new/modules" && [ ! -d /proc/sys/net/bridge ]; then
		modprobe br_netfilter || [ -d /proc/sys/net/bridge ] || txn_fail "cannot load br_netfilter"
		# It comes with 1: no guest may meet the old rules before the new ones are there.
		sysctl_bridge_keys 0
		text_write "$T/fresh" "$REPLY" || txn_fail "cannot write to $T"
		sysctl_write_file "$T/fresh" || txn_fail "cannot keep br_netfilter from the guests"
		sysctl_bridge_keys 1
		text_write "$T/fresh" "$REPLY" || txn_fail "cannot write to $T"
	fi
	txn_step "sysctl, opening"
	sysctl_write_file "$T/new/sysctl.open" || txn_fail "see above"
	txn_apply_sets
	txn_apply_rules 4
	txn_apply_rules 6
	txn_apply_sets_gone
	if text_is_filled "$T/new/bridges"; then
		txn_step bridges
		text_read_lines "$T/new/bridges" || txn_fail "cannot read what is to be done"
		lines=$REPLY
		net_new_ports "$lines" || txn_fail "cannot read what is to be done"
		[ -z "$REPLY" ] || txn_fail "${REPLY%%"$NL"*}, and that bridge was to go: plan again"
		net_quiet_profiles
		net_make_bridges "$lines" || txn_fail "$REPLY"
		net_batch "$REPLY" || txn_fail "$REPLY"
	fi
	net_place_window
	txn_step "sysctl, closing"
	# What boots next time comes with 1 too; what is declared otherwise stays as declared.
	if [ -e "$T/fresh" ]; then
		text_read_lines "$T/new/sysctl.keys" && lines=$REPLY && text_read "$T/fresh" || txn_fail "the keys cannot be read"
		for key in $REPLY; do
			case $NL$lines in *"$NL${key%%=*}$NL"*) ;; *) printf '%s\n' "${key#*=}" >"/proc/sys/${key%%=*}" ;; esac
		done
	fi
	sysctl_write_file "$T/new/sysctl.close" || txn_fail "see above"
	sysctl_differing "$T/new/sysctl.open" || txn_fail "the keys cannot be read"
	error=$REPLY
	sysctl_differing "$T/new/sysctl.close" || txn_fail "the keys cannot be read"
	error=$error$REPLY
	[ -z "$error" ] || txn_fail "$(sysctl_print_not_kept "${error%%"$NL"*}")"
	txn_step neighbours
	net_forget_neighbours || txn_fail "the neighbour entries of the path to the controller cannot be read"
	txn_step applied
	exit 0
}

# Restores the rules of family $1. A text that cannot be read is not loaded: an empty one would remove all managed rules, and
# the comparison afterwards would succeed.
txn_restore_family() {
	local own foreign text bad=0
	text_read "$T/pre/foreign$1" && foreign=$REPLY && text_read "$T/pre/own$1" ||
		{ say "the $(ipt_print_program "$1") rules that were there before cannot be read"; return 1; }
	own=$REPLY
	case $own in *KVMFW-*) ;; *) text_is_filled "$T/new/want$1" || [ -n "$foreign" ] || return 0 ;; esac
	ipt_find_backend "$1" || { [ -z "$own" ]; return; }
	# Connections that are open are worth a try, and no reason to stay with what failed.
	flows_join "$own" "$T/pre/flows$1" || REPLY=$own
	adopt_join "$REPLY" "$foreign"
	ipt_load "$1" "$REPLY" || bad=1
	adopt_join "$own" "$foreign"
	text=$REPLY
	ipt_save && ipt_matches "$REPLY" "$text" || bad=1
	ipt_tidy_tables "$1" "$T/pre/tables$1"
	return $bad
}

# The links, with their ports and addresses.
txn_restore_bridges() {
	local lost came bad=0
	text_is_filled "$T/pre/bridges" || return 0
	net_way_back && net_new_ports "$REPLY" || { say "the way back of the bridges cannot be read"; return 1; }
	came=$REPLY
	if [ -n "$came" ]; then
		first_line "$T/reason"
		lost=$REPLY
		while [ -n "$came" ]; do
			lost="$lost; ${came%%"$NL"*}, which went with this change"
			came=${came#*"$NL"}
		done
		say "$lost"
		printf '%s\n' "$lost" >"$T/reason"
	fi
	# The daemon that configures links forgets the change first, or it would act on it during the rollback.
	net_remove_window
	net_way_back && net_batch "$REPLY" -force || bad=1
	if ! net_lost_ports; then
		say "the ports of the bridges that were there before cannot be read"
		bad=1
	elif [ -n "$REPLY" ]; then
		net_batch_turn "${IP:-ip}" "$REPLY" -force || bad=1
	fi
	net_restore || bad=1
	return $bad
}

# Puts back what the snapshot recorded, whatever state the apply left behind, and looks.
txn_roll_back() {
	local part bad=0 last=''
	# A part that did not return in an earlier attempt must not delay the others.
	for part in bridges sets rules sets_gone keys links; do
		if [ -e "$R/hung" ] && grep -qsx "$part" "$R/hung"; then last="$last $part"; else txn_restore_part "$part" || bad=1; fi
	done
	for part in $last; do txn_restore_part "$part" || bad=1; done
	return $bad
}

txn_restore_part() {
	{ echo "$1" >"$R/step"; } 2>/dev/null
	"txn_restore_$1"
}

txn_restore_rules() {
	local family bad=0
	for family in 4 6; do txn_restore_family $family || bad=1; done
	return $bad
}

txn_restore_keys() {
	local differ
	sysctl_write_file "$T/pre/sysctl" /dev/null
	sysctl_restore_effects || return 1
	if ! sysctl_differing "$T/pre/sysctl"; then
		say "after the rollback nobody can tell whether the sysctl keys are back"
		return 1
	fi
	differ=$REPLY
	[ -z "$differ" ] || sysctl_is_refused "$differ" || {
		say "after the rollback not back at ${differ%%"$NL"*}"
		return 1
	}
}

# Last of all the daemon that would make a missing bridge again, because it may not answer.
txn_restore_links() {
	! text_is_filled "$T/pre/bridges" || net_unquiet_profiles
}
