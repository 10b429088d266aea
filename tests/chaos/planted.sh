#!/bin/bash
# Plants defects into copies of the source tree, one at a time: the chaos runner has to catch each of
# them within 200 runs. Each defect says which faults and which ills of a change can show it, so that
# the random space is small; what is in it stays random. Ends with 0 only if all were caught, and if the
# runner finds nothing in the same spaces without a defect (PLANTED_CLEAN=0 leaves that out).
# Arguments: names of defects (all of them). CHAOS_SEED: the seed.
# shellcheck disable=SC2016,SC2034,SC2154,SC2317 # lines of other scripts; what tests/planted.sh reads and sets; functions are called by the name of their defect
set -u -o pipefail
top=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd) || exit 1
work=$(mktemp -d /tmp/kvmfw-planted.XXXXXX) || exit 1
trap 'rm -rf "$work"' EXIT
# shellcheck source=../planted.sh
. "$top/tests/planted.sh"
tree=$work/tree
export CARGO_TERM_COLOR=never KVMFW_NO_SKIP=1 CHAOS_STOP=1 CHAOS_SEED=${CHAOS_SEED:-1} CHAOS_RUNS=200
unset CHAOS_ONLY CHAOS_BOOK
# Everything but the crate itself is the same each time.
target=${CARGO_TARGET_DIR:-$top/target}/planted

space() { export CHAOS_FAULT=$1 CHAOS_STEP=$2 CHAOS_SICK=$3; } # FAULTS STEPS ILLS, with commas between

# The restore begins while the apply may run on.
no_fence() {
    space 'apply hangs' 'claimed,rules v4,rules v6,closing keys' well
    plant src/host/guard.sh 1 $'\tguard_fence' $'\tstuck='
}
# The connection that applied confirms, and neither side minds.
old_connection() {
    space 'foreign writer,controller killed' 'armed,applied' 'well,lockout'
    plant src/engine/transaction/apply.rs 1 \
        '            state => self.confirm(&before, started, matches!(state, Ok(TransactionState::Applied))).await,' \
        '            _ => match self.verify_and_commit(&client, &before, &mut None).await {
                Ok(verified) => self.outcome_of(&verified.state, None),
                Err(_) => self.confirm(&before, started, true).await,
            },'
    plant src/host/transaction.sh 1 'txn_is_old_connection() { first_line "$T/ssh"; [ -n "${SSH_CONNECTION-}" ] && [ "$SSH_CONNECTION" = "$REPLY" ]; }' \
        'txn_is_old_connection() { return 1; }'
}
# A later decision takes the place of the one that was made.
move_for_link() {
    space 'decided otherwise at the console' 'applied,decided' 'well,check fails'
    plant src/host/guard.sh 1 $'\tln "$R/$1" "$R/decision" 2>/dev/null' $'\tmv "$R/$1" "$R/decision" 2>/dev/null'
    plant src/host/guard.sh 1 $'\t[ -e "$R/decision" ] && return' $'\t:'
}
# Nothing is written to disk on purpose. The disks of the lab lose such things in a power cut.
no_sync() {
    space 'power cut' 'result,applied,decided,over' well
    plant src/host/lib.sh 1 $'\tsync "$@"' $'\t:'
}
# What nobody has confirmed boots.
early_persist() {
    space 'controller killed,power cut' 'closing keys,result,applied' 'well,check fails'
    plant src/host/change.sh 1 $'\ttxn_step "sysctl, closing"' $'\ttxn_step "sysctl, closing"; persist_generation'
}
# What was recorded to go back to is what was there after the rules were loaded.
late_snapshot() {
    space 'controller killed,foreign writer' 'closing keys,result,applied' 'well,check fails'
    plant src/host/change.sh 1 $'\ttxn_step "sysctl, closing"' $'\ttxn_step "sysctl, closing"; txn_snapshot'
}
# The guard is a child of the session, and not a service.
guard_in_session() {
    space 'sshd session killed' 'armed,claimed,rules v4,rules v6,result,applied' well
    plant src/host/transaction.sh 1 $'\tif [ -d /run/systemd/system ]; then' $'\tif false; then'
}
# A port of a bridge that goes is nobody's afterwards.
ports_forgotten() {
    space 'guest started' 'recorded,staged' 'check fails,well'
    plant src/host/bridges.sh 1 $'\t\tlines="${lines}link set dev $port master $bridge$NL"' $'\t\t:'
    plant src/host/change.sh 1 $'\t\tnet_new_ports "$lines" || txn_fail "cannot read what is to be done"' $'\t\tREPLY='
}

all='no_fence old_connection move_for_link no_sync early_persist late_snapshot guard_in_session ports_forgotten'
choose "$@"
try_them
runner=$(cd "$top" && cargo test --locked --test chaos --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"name":"chaos".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[[ -x $runner ]] || { echo 'planted: the chaos runner was not built' >&2; exit 2; }
cd "$top" || exit 2
bad=0
for defect in "${list[@]}"; do
    copy_with "$defect"
    (cd "$tree" && CARGO_TARGET_DIR=$target cargo build --locked --quiet --bin kvmfw) || exit 2
    cp "$target/debug/kvmfw" "$work/kvmfw" || exit 2
    if KVMFW=$work/kvmfw "$runner" --nocapture >"$work/log" 2>&1; then
        echo "planted: NOT CAUGHT in 200 runs: $defect"
        bad=1
    elif run=$(grep -m 1 -o '^VIOLATION.*CHAOS_ONLY=[0-9]*' "$work/log"); then
        echo "planted: caught at run $((${run##*=} + 1)): $defect: $(grep -m 1 -A 1 '^VIOLATION' "$work/log" | tail -n 1)"
    else
        echo "planted: the runner failed without a violation: $defect"
        tail -n 20 "$work/log"
        bad=1
    fi
    [[ ${PLANTED_KEEP-} ]] && cp "$work/log" "$PLANTED_KEEP/$defect.log"
    # The same space without the defect: what caught it was not a fault of the runner.
    [[ ${PLANTED_CLEAN-10} == 0 ]] && continue
    if ! CHAOS_RUNS=${PLANTED_CLEAN-10} "$runner" --nocapture >"$work/log" 2>&1; then
        echo "planted: and without it: $(grep -m 1 -A 1 '^VIOLATION' "$work/log" | tail -n 1)"
        bad=1
    fi
done
exit $bad
