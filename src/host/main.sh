# shellcheck shell=dash disable=SC3043,SC2154
# The commands: what the controller calls, what boots, and what helps at the console. PROTOCOL.md lists them.

main() {
	command=${1-status}
	: "${NONCE:=-}"
	case $command in
	status)
		status_print
		return
		;;
	undo) undo_run "${2-}"; return ;;
	boot-early) boot_run_unit boot_early; return ;;
	recover) txn_recover_abandoned; return ;;
	boot-load) boot_run_unit boot_load; return ;;
	boot-bridges) boot_run_unit boot_bridges; return ;;
	boot-settle) boot_run_unit boot_settle; return ;;
	esac
	id=${2-}
	# First those in memory: the disk may not answer.
	[ -n "$id" ] || for R in "$RUN"/*/armed; do
		[ ! -e "$R" ] || [ -e "${R%/armed}/recorded" ] || { id=${R%/armed} id=${id##*/}; }
	done
	[ -n "$id" ] || { txn_find_open && id=$REPLY; }
	# One that is not armed yet is known only by the lock that it holds.
	[ -n "$id" ] || id=$(sed -n 's/.* (\([^ ]*\), since [^ ]*)$/\1/p' $VAR/lock 2>/dev/null)
	if ! txn_select "$id"; then
		section outcome
		printf 'state=none\n'
		section end
		return 1
	fi
	case $command in
	stage | start | apply | outcome | commit) "txn_$command" ;;
	guard) guard_run ;;
	restore | record | settle)
		"guard_work_$command"
		echo "end $$ $?" 1<>"$3"
		;;
	verify) txn_verify ;;
	confirm)
		# At the console the operator is the proof.
		first_line "$T/token"
		SSH_CONNECTION='' TOKEN=$REPLY
		txn_commit
		;;
	abort)
		txn_abort
		[ ! -d "$R" ] || timeout -s KILL 10 flock "$R/guard.lock" true
		txn_outcome
		;;
	rollback | unlock)
		case ${REASON-},$NONCE in
		,-) REASON="asked for by ${SUDO_USER:-root} at the console" ;;
		,*) REASON="asked for by a controller" ;;
		esac
		if [ -e "$R/armed" ]; then txn_decide rollback "$REASON"; elif [ -d "$R" ]; then echo "$REASON" >"$R/abort"; fi
		guard_wake decision
		txn_await_end
		if [ ! -d "$R" ] && [ -d "$T" ] && [ ! -e "$T/done" ]; then
			# An `exec` that fails would end this shell.
			(exec 9>>$VAR/lock) 2>/dev/null || { say "$VAR/lock cannot be written"; txn_outcome; return 1; }
			exec 9>>$VAR/lock 5>/dev/null
			flock -n 9 && if [ -e "$T/armed" ]; then txn_recover; else txn_clear_away; txn_close "released: unlocked"; fi
		fi
		txn_outcome
		;;
	*) say "usage: kvmfw.sh status | confirm [RUN] | rollback [RUN] | unlock | undo [GENERATION]"; return 3 ;;
	esac
}

main "$@"
