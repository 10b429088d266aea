#!/bin/sh
# kvmfw in a pipeline, whatever the engine: plan on a merge request, apply of that very plan after the
# merge, drift every night. The engine's file only fetches and keeps files, and calls this.
#
#   kvmfw-ci.sh name     the name under which the plan of this checkout is kept
#   kvmfw-ci.sh plan     writes plan.json, comment.md, plan.xml and plan.jsonl
#   kvmfw-ci.sh apply    applies plan.json; writes apply.md, apply.xml and apply.jsonl
#   kvmfw-ci.sh drift    writes drift.md and drift.xml; 2 if any host has drifted
#   kvmfw-ci.sh result FILE…   puts the apply.jsonl of several shards together: result.md, result.xml
#
# What follows plan, apply and drift goes to kvmfw: kvmfw-ci.sh apply --batch 1,100%
# It is called in the project's checkout. KVMFW is the program, OUT the folder for the files, and
# PLANS, if set, a folder that all jobs see, where plans are kept by name. All else is kvmfw's own:
# KVMFW_INVENTORY, and the variables by which engines name a shard.
set -u
kvmfw=${KVMFW:-kvmfw}
out=${OUT:-out}
mkdir -p "$out" || exit 1

# The content of the checkout, not its commit: a merge, a squash or a rebase that changes no file keeps
# the name, and a branch that is behind has another one. Of a shard, each has its own.
name() {
    tree=$(git rev-parse 'HEAD^{tree}') || exit 1
    shard=${JOB_COMPLETION_INDEX-}${CI_NODE_INDEX-}${BUILDKITE_PARALLEL_JOB-}${CIRCLE_NODE_INDEX-}
    printf 'kvmfw-plan-%s%s\n' "$tree" "${shard:+-$shard}"
}

what=${1-}
[ $# -eq 0 ] || shift
case $what in
name)
    name
    ;;
plan)
    # A plan that is left over, where the folder outlives the job, is not this one.
    rm -f "$out/plan.json"
    # The comment is made from the same plan afterwards.
    "$kvmfw" plan "$@" -o "$out/plan.json" --junit "$out/plan.xml" --format jsonl >"$out/plan.jsonl"
    code=$?
    if [ -s "$out/plan.json" ]; then
        "$kvmfw" show "$out/plan.json" --format markdown >"$out/comment.md"
        "$kvmfw" show "$out/plan.json"
    else
        # The input is wrong: that is what the comment says.
        "$kvmfw" plan "$@" --format markdown >"$out/comment.md" 2>/dev/null
    fi
    if [ -n "${PLANS-}" ] && [ -s "$out/plan.json" ]; then
        mkdir -p "$PLANS" && cp "$out/plan.json" "$PLANS/$(name).json" || exit 1
    fi
    exit $code
    ;;
apply)
    if [ -n "${PLANS-}" ]; then
        # One that is left over here was made of other content.
        rm -f "$out/plan.json" || exit 1
        cp "$PLANS/$(name).json" "$out/plan.json" 2>/dev/null || true
    fi
    if [ ! -s "$out/plan.json" ]; then
        echo "There is no plan for this content ($(name)): main has moved since it was planned. Plan again." |
            tee "$out/apply.md" >&2
        exit 7
    fi
    "$kvmfw" apply "$out/plan.json" "$@" --run-dir "$out/runs" --junit "$out/apply.xml" --format jsonl >"$out/apply.jsonl"
    code=$?
    if [ -s "$out/apply.jsonl" ]; then
        "$kvmfw" show "$out/apply.jsonl" --format markdown >"$out/apply.md"
        "$kvmfw" show "$out/apply.jsonl"
    else
        echo "The plan could not be used, and no host was touched; the job's log says why." >"$out/apply.md"
    fi
    exit $code
    ;;
drift)
    "$kvmfw" plan "$@" --drift --junit "$out/drift.xml" --format markdown >"$out/drift.md"
    code=$?
    cat "$out/drift.md"
    exit $code
    ;;
result)
    "$kvmfw" show "$@" --junit "$out/result.xml" --format markdown >"$out/result.md"
    "$kvmfw" show "$@"
    ;;
*)
    echo "usage: kvmfw-ci.sh name | plan | apply | drift | result FILE…" >&2
    exit 3
    ;;
esac
