#!/bin/bash
# Plants defects into copies of the source tree, one at a time: the chaos runner has to catch each of
# them within 200 runs. Ends with 0 only if it caught all. Arguments: names of defects (all of them).
# shellcheck disable=SC2317 # functions are called by the name of their defect
set -u -o pipefail
top=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd) || exit 1
work=$(mktemp -d /tmp/kvmfw-planted.XXXXXX) || exit 1
trap 'rm -rf "$work"' EXIT
export CARGO_TERM_COLOR=never KVMFW_NO_SKIP=1 CHAOS_STOP=1
unset CHAOS_ONLY CHAOS_BOOK

# Replaces a line that stands in the file exactly so often; anything else is a defect of this script.
plant() { # FILE TIMES OLD NEW
    OLD=$3 NEW=$4 awk -v times="$2" '
        $0 == ENVIRON["OLD"] { print ENVIRON["NEW"]; found++; next }
        { print }
        END { exit found != times }' "$work/tree/$1" >"$work/new" || {
        echo "planted: $1 has not $2 times the line: $3" >&2
        exit 2
    }
    cp "$work/new" "$work/tree/$1"
}

no_fence() {
    plant src/remote/guard.sh 1 $'\t\tuntil fence; do say "the apply does not die"; done' $'\t\t:'
}
move_for_link() {
    # shellcheck disable=SC2016
    plant src/remote/guard.sh 1 $'\tln "$T/$1" "$T/decision" 2>/dev/null' $'\tmv "$T/$1" "$T/decision" 2>/dev/null'
    # shellcheck disable=SC2016
    plant src/remote/guard.sh 1 $'\t[ -e "$T/decision" ] && return' $'\t:'
}
early_persist() { plant src/remote/change.sh 1 $'\tstep "sysctl, closing"' $'\tstep "sysctl, closing"; persist'; }
late_snapshot() { plant src/remote/change.sh 1 $'\tstep "sysctl, closing"' $'\tstep "sysctl, closing"; snapshot'; }

all='no_fence move_for_link early_persist late_snapshot'
(($#)) || read -ra list <<<"$all"
(($#)) && list=("$@")
runner=$(cd "$top" && cargo test --locked --test chaos --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"name":"chaos".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[[ -x $runner ]] || { echo 'planted: the chaos runner was not built' >&2; exit 2; }
bad=0
for defect in "${list[@]}"; do
    [[ " $all " == *" $defect "* ]] || { echo "planted: no defect $defect; there are $all" >&2; exit 2; }
    rm -rf "$work/tree"
    mkdir "$work/tree"
    cp -r "$top"/{Cargo.toml,Cargo.lock,src,modules,benches} "$work/tree/" || exit 2
    "$defect"
    (cd "$work/tree" && CARGO_TARGET_DIR=$work/target cargo build --locked --quiet -j2 --bin kvmfw) || exit 2
    if KVMFW=$work/target/debug/kvmfw CHAOS_SEED=${CHAOS_SEED:-1} CHAOS_RUNS=200 "$runner" >"$work/log" 2>&1; then
        echo "planted: NOT CAUGHT in 200 runs: $defect"
        bad=1
    elif grep -m 1 '^VIOLATION' "$work/log"; then
        echo "planted: caught: $defect"
    else
        echo "planted: the runner failed without a violation: $defect"
        tail -n 20 "$work/log"
        bad=1
    fi
done
exit $bad
