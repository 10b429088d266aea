#!/bin/bash
# How long `kvmfw --help` takes beside /bin/true, in turns so that both meet the same machine.
# Prints milliseconds of wall time; judges nothing.   startup.sh [KVMFW [ROUNDS]]
set -eu
program=${1:-target/release/kvmfw}
rounds=${2:-100}

once() {
    local start=$EPOCHREALTIME
    "$@" >/dev/null
    awk -v from="$start" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.3f\n", (to - from) * 1000 }'
}

results=$(for ((i = 0; i < rounds; i++)); do
    echo "kvmfw $(once "$program" --help)"
    echo "true $(once /bin/true)"
done)

for name in kvmfw true; do
    sed -n "s/^$name //p" <<<"$results" | sort -n | awk -v name="$name" '
        { all[NR] = $1 }
        END { printf "%-5s  min %.1f  median %.1f  p95 %.1f ms\n", name, all[1], all[int((NR + 1) / 2)], all[int(NR * 0.95)] }'
done
