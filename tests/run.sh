#!/bin/bash
# All tests, the fast ones first; stops at the first stage that fails.
#
# As root: installs the packages that the lab needs (tests/install-deps.sh) and runs everything.
# As another user, or where the kernel lacks something: tests that need it say SKIPPED. Not so with
# CI=true or KVMFW_NO_SKIP=1: then such a test fails.
#
#   KVMFW_NO_INSTALL=1   install nothing
#   KVMFW_LONG=1         long forms, with another seed at each run
#   TEST_THREADS=N       so many integration tests at once; each has a lab of its own
# shellcheck disable=SC2317 # functions are called by stage
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
export LC_ALL=C.UTF-8
# A change is judged by what it changes: it meets the same random faults and packets as the one before.
[[ ${KVMFW_LONG-} ]] || export CHAOS_SEED=${CHAOS_SEED:-20261130} DIFF_SEED=${DIFF_SEED:-20261130}

cores=$(nproc)
threads=${TEST_THREADS:-$((cores < 2 ? 2 : cores > 8 ? 8 : cores))}

# The tests that cargo counted, less those that said they were skipped or left to the night; a stage that
# fails without a failed test counts as one failure.
finish() {
    awk -v broken="$1" '
        /^test result: / { passed += $4; failed += $6; ignored += $8 }
        /^SKIPPED: / { skipped++ }
        /^NIGHTLY: / { nightly++ }
        END {
            if (broken && !failed) failed = 1
            printf "%d passed, %d failed", passed - skipped - nightly, failed
            if (skipped + ignored) printf ", %d skipped", skipped + ignored
            print ""
        }' "$log"
    exit "$1"
}

stage() {
    local name=$1 start=$EPOCHREALTIME rc
    shift
    printf '== %s\n' "$name"
    "$@" > >(tee -a "$log") 2> >(tee -a "$log" >&2)
    rc=$?
    # What is still in the pipes belongs to this stage.
    sleep 0.1
    awk -v name="$name" -v from="$start" -v to="$EPOCHREALTIME" -v rc=$rc \
        'BEGIN { printf "== %s: %s, %.1f s\n", name, rc ? "FAILED" : "ok", to - from }'
    [ $rc -eq 0 ] || finish 1
}

# The scripts for hosts are checked as what a host gets: one file, for the strictest of its shells.
remote_scripts() {
    local all parts
    all=$(mktemp --suffix .sh) || return 1
    # In the order in which the crate puts them together.
    mapfile -t parts < <(sed -n '/^pub const KVMFW_SH/,/^);/s|.*include_str!("\(host/[a-z_]*\.sh\)").*|src/\1|p' src/host.rs)
    [ ${#parts[@]} -gt 5 ] || { echo 'src/host.rs names no scripts for hosts' >&2; return 1; }
    { echo '#!/bin/sh'; cat "${parts[@]}"; } >"$all"
    # Programs for awk and for an inner sh stand in single quotes, and `a && b || refuse` is meant.
    shellcheck -s dash -e SC2015,SC2016 "$all"
    local rc=$?
    rm -f "$all"
    [ "$rc" -eq 0 ] && cat src/host/over.sh src/host/lib.sh src/host/upload.sh src/host/undo_target.sh src/host/history.sh src/host/generation.sh src/host/explain.sh | shellcheck -s dash -e SC2015,SC2034 -
}

scripts() {
    local files=()
    for file in book/src/pipelines/*.sh tests/*.sh tests/lab/*.sh tests/lab/services/* tests/chaos/*.sh tests/differential/*.sh tests/vm/*.sh tests/vm/boots/*.sh fuzz/*.sh .ci/run .ci/nightly benches/*.sh; do
        [ -e "$file" ] && files+=("$file")
    done
    shellcheck -e SC1091 "${files[@]}"
}

# Whether the defects of the long runs still find the lines that they change.
planted() {
    PLANTED_TRY=1 bash tests/chaos/planted.sh && PLANTED_TRY=1 bash tests/differential/planted.sh
}

if [ "$(id -u)" = 0 ] && [ "${KVMFW_NO_INSTALL-}" != 1 ]; then
    stage 'packages' bash tests/install-deps.sh
fi
stage 'cargo fmt' cargo fmt --check
stage 'shellcheck, host side' remote_scripts
stage 'shellcheck, tests' scripts
stage 'defects to plant' planted
stage 'clippy' cargo clippy --locked --all-targets -- -D warnings
stage 'unit tests' cargo test --locked --lib --bins
stage 'doc tests' cargo test --locked --doc
stage 'build of the integration tests' cargo test --locked --test '*' --no-run
# What most changes break comes first; what takes longest is last.
for tier in fast hosts faults differential chaos vm linear; do
    stage "tests: $tier" cargo test --locked --test "$tier" -- --test-threads "$threads"
done
finish 0
