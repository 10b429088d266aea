#!/bin/bash
# Plants defects into a copy of the packet walk, one at a time: the comparison with the kernel has to catch
# each of them. Needs root. Ends with 0 only if all were caught, and the walk as it is was not.
# Arguments: names of defects (all of them). DIFF_SEED: the seed. DIFF_PACKETS: so many packets at most (3,000).
# shellcheck disable=SC2016,SC2317 # lines of another language; functions are called by the name of their defect
set -u -o pipefail
top=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd) || exit 1
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$top/target} CARGO_TERM_COLOR=never KVMFW_NO_SKIP=1
export DIFF_SEED=${DIFF_SEED:-1} DIFF_PACKETS=${DIFF_PACKETS:-3000}
unset DIFF_ONLY KVMFW_LONG
# One place, so that what is built there is built anew and not once more.
tree=$CARGO_TARGET_DIR/planted/walk
log=$tree.log

# Replaces a line that stands in the file exactly so often; anything else is a defect of this script.
plant() { # FILE TIMES OLD NEW
    OLD=$3 NEW=$4 awk -v times="$2" '
        $0 == ENVIRON["OLD"] { print ENVIRON["NEW"]; found++; next }
        { print }
        END { exit found != times }' "$tree/$1" >"$tree.new" || {
        echo "planted: $1 has not $2 times the line: $3" >&2
        exit 2
    }
    cp "$tree.new" "$tree/$1"
}

none() { :; }
# `!` is read and forgotten.
no_negation() {
    plant src/netfilter/test.rs 1 '            Answer::Yes if negated => Answer::No,' '            Answer::Yes if false => Answer::No,'
}
# A chain that was gone to comes back to where it was gone from.
goto_comes_back() {
    plant src/netfilter/chain.rs 1 '                    may_return |= self.enter(table, chain, inner, step);' \
        '                    if self.enter(table, chain, inner, step) { continue; }'
}
# RETURN lets the packet pass.
return_accepts() {
    plant src/netfilter/chain.rs 1 '                    may_return = true;' \
        '                    self.outcomes.note(Verdict::Accept, step());'
}
# The last port of a range is none of it.
short_ranges() {
    plant src/netfilter/matches.rs 1 '        (self.0..=self.1).contains(&port)' \
        '        (self.0..self.1).contains(&port) || self.0 == port'
}
# MARK sets bits and clears none.
marks_add_up() {
    plant src/netfilter/chain.rs 1 '                let after = self.packet.mark.map(|mark| (mark & !mask) ^ value);' \
        '                let after = { let _ = mask; self.packet.mark.map(|mark| mark | value) };'
}
# `! --dport` holds for what has no ports.
ports_of_anything() {
    plant src/netfilter/test.rs 1 '        match (carried, answer.negated_if(self.negated)) {' \
        '        match (if self.negated { Answer::Yes } else { carried }, answer.negated_if(self.negated)) {'
}
# Rules of raw see the state that conntrack finds only afterwards.
raw_knows_states() {
    plant src/netfilter/chain.rs 1 '            self.packet.state = seen_by_raw(&self.packet);' \
        '            let _ = seen_by_raw(&self.packet);'
}
# A packet whose destination was rewritten goes on as if it were not.
dnat_forgotten() {
    plant src/netfilter/nat.rs 1 '            To::Destination(address) => address.apply(packet.dst),' \
        '            To::Destination(_) => packet.dst,'
}

all='none no_negation goto_comes_back return_accepts short_ranges marks_add_up ports_of_anything raw_knows_states dnat_forgotten'
(($#)) || read -ra list <<<"$all"
(($#)) && list=("$@")
bad=0
for defect in "${list[@]}"; do
    [[ " $all " == *" $defect "* ]] || { echo "planted: no defect $defect; there are $all" >&2; exit 2; }
    rm -rf "$tree"
    mkdir -p "$tree"
    cp -r "$top"/{Cargo.toml,Cargo.lock,src,modules,benches,tests} "$tree/" || exit 2
    "$defect"
    # shellcheck disable=SC2164
    cd "$tree"
    cargo test --locked --quiet --test differential --no-run 2>"$log" || { cat "$log"; exit 2; }
    if cargo test --locked --quiet --test differential the_walk_says_what_the_kernel_does -- --nocapture >"$log" 2>&1; then
        [[ $defect == none ]] && { echo 'planted: without a defect nothing is wrong'; continue; }
        echo "planted: NOT CAUGHT in $DIFF_PACKETS packets: $defect"
        bad=1
    elif wrong=$(grep -m 1 'WRONG: ' "$log") && [[ $defect != none ]]; then
        echo "planted: caught: $defect: ${wrong#*WRONG: }"
    else
        echo "planted: the comparison failed otherwise: $defect"
        tail -n 20 "$log"
        bad=1
    fi
done
exit $bad
