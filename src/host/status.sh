# shellcheck shell=dash disable=SC3043,SC2154
# What an operator or the controller asks at any time: what is live, what boots and what is open.

status_print() {
	local current open state
	section status
	current=
	if [ -L $ETC/current ]; then
		current=$(readlink $ETC/current) || refuse unreadable "which generation boots cannot be read from $ETC/current"
	fi
	printf 'generation=%s\n' "${current##*/}"
	first_line $ETC/inventory
	printf 'inventory=%s\n' "$REPLY"
	txn_find_open
	open=$REPLY
	printf 'open=%s\n' "$open"
	R=$RUN/$open
	[ -z "$open" ] || guard_moves || printf 'guard=%s\n' "$REPLY"
	probe_boot_state
	adopt_print_counts
	[ -n "$current$open" ] || status_unrecorded
	if [ -n "$current" ] && [ -z "$open" ]; then
		status_differs
		probe_boot_missing | sed 's/^/boot_missing=/'
	fi
	section transactions
	for T in "$VAR"/txn/*/; do
		[ -d "$T" ] || continue
		T=${T%/} R=$RUN/${T##*/}
		first_line "$T/done"
		state=$REPLY
		if [ -z "$state" ]; then
			state=$(txn_outcome) || state='state=unknown'
			state=${state#*state=}
			state=${state%%"$NL"*}
		fi
		txn_owner
		printf '%s\t%s\t%s\n' "${T##*/}" "$state" "$REPLY"
	done
	section lock
	# The text outlives a holder that was killed; the lock itself does not.
	if [ -e $VAR/lock ] && ! flock -n $VAR/lock true; then cat $VAR/lock; fi
	section history
	tail -n 20 $VAR/history 2>/dev/null
	section end
}

# Prints the families with live managed rules on a host without a generation.
status_unrecorded() {
	local family
	for family in 4 6; do
		ipt_find $family && ipt_save || continue
		case $REPLY in *:KVMFW-*) printf 'unrecorded=%s\n' "$(ipt_print_program $family)" ;; esac
	done
}

# Prints in what the live state differs from the generation.
status_differs() {
	local family text
	for family in 4 6; do
		if ! text_read $ETC/current/rules.v$family; then
			printf 'boot_missing=%s\n' "$ETC/current/rules.v$family"
			continue
		fi
		text=$REPLY
		[ -n "$text" ] && ipt_find $family && ipt_save || continue
		ipt_matches "$REPLY" "$text" || printf 'differs=%s\n' "$(ipt_print_program $family)"
	done
	! ipset_generation_differs || echo differs=ipset
	sysctl_generation_keys $ETC/current && sysctl_differing_lines "$REPLY" && [ -z "$REPLY" ] || echo differs=sysctl
}
