#!/bin/sh
# kvmfw in a pipeline, for every CI engine: plan a merge request, apply exactly that plan after the
# merge, look for drift every night. The file of the engine only stores and fetches files, and calls this script.
#
#   kvmfw-ci.sh name     prints the name under which the plan of this checkout is stored
#   kvmfw-ci.sh plan     writes plan.json, comment.md, plan.xml and plan.jsonl
#   kvmfw-ci.sh apply    applies plan.json; writes apply.md, apply.xml and apply.jsonl
#   kvmfw-ci.sh drift    writes drift.md and drift.xml; exits with 2 if any host has drifted
#   kvmfw-ci.sh result FILE…   merges the apply.jsonl of several shards: result.md, result.xml
#
# Further arguments of plan, apply and drift are passed to kvmfw: kvmfw-ci.sh apply --batch 1,100%
# Call it in the checkout of the project. KVMFW is the program, OUT the folder for the files, and
# PLANS, if set, a folder shared by all jobs, where plans are stored by name. kvmfw itself reads
# KVMFW_INVENTORY, and the variables with which engines number a shard.
set -u
kvmfw=${KVMFW:-kvmfw}
out=${OUT:-out}
mkdir -p "$out" || exit 1

# The name is derived from the content of the checkout, not from the commit: a merge, a squash or a rebase
# that changes no file keeps the name, and a branch that is behind has a different one. Each shard has its own.
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
    # If the folder outlives the job, it can contain an old plan.
    rm -f "$out/plan.json"
    # The comment is made from this plan below.
    "$kvmfw" plan "$@" -o "$out/plan.json" --junit "$out/plan.xml" --format jsonl >"$out/plan.jsonl"
    code=$?
    if [ -s "$out/plan.json" ]; then
        "$kvmfw" show "$out/plan.json" --format markdown >"$out/comment.md"
        "$kvmfw" show "$out/plan.json"
    else
        # The input is invalid: the comment shows the errors.
        "$kvmfw" plan "$@" --format markdown >"$out/comment.md" 2>/dev/null
    fi
    if [ -n "${PLANS-}" ] && [ -s "$out/plan.json" ]; then
        mkdir -p "$PLANS" && cp "$out/plan.json" "$PLANS/$(name).json" || exit 1
    fi
    exit $code
    ;;
apply)
    if [ -n "${PLANS-}" ]; then
        # A plan left here by an earlier job was made from different content.
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
