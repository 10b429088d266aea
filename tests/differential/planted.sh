#!/bin/bash
# Plants defects into a copy of the packet walk, one at a time: the comparison with the kernel has to catch
# each of them. Needs root. Ends with 0 only if all were caught, and the walk as it is was not.
# Arguments: names of defects (all of them). DIFF_SEED: the seed. DIFF_PACKETS: so many packets at most (10,000).
# shellcheck disable=SC2016,SC2034,SC2154,SC2317 # lines of another language; what tests/planted.sh reads and sets; functions are called by the name of their defect
set -u -o pipefail
top=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd) || exit 1
# Not beside what is built here: a program with a defect must not lie where tests look for it.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$top/target}/planted CARGO_TERM_COLOR=never KVMFW_NO_SKIP=1
export DIFF_SEED=${DIFF_SEED:-1} DIFF_PACKETS=${DIFF_PACKETS:-10000}
unset DIFF_ONLY KVMFW_LONG
# shellcheck source=../planted.sh
. "$top/tests/planted.sh"
# One place, so that what is built there is built anew and not once more.
tree=$CARGO_TARGET_DIR/walk
log=$tree.log

none() { :; }
# `!` is read and forgotten.
no_negation() {
    plant src/netfilter/answer.rs 1 '            Tristate::Yes if negated => Tristate::No,' '            Tristate::Yes if false => Tristate::No,'
}
# A chain that was gone to comes back to where it was gone from.
goto_comes_back() {
    plant src/netfilter/chain.rs 1 '                    may_return |= self.enter(table, chain, inner, step);' \
        '                    if self.enter(table, chain, inner, step) { continue; }'
}
# RETURN lets the packet pass.
return_accepts() {
    plant src/netfilter/chain.rs 1 '                    may_return = true;' \
        '                    self.outcomes.note(PacketVerdict::Accept, step());'
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
# `--sport` looks at the other port.
ports_swapped() {
    plant src/netfilter/answer.rs 1 '            MatchTest::SourcePorts(ranges) => (carries(&protocol::PORTS), inside(ranges, packet.sport)),' \
        '            MatchTest::SourcePorts(ranges) => (carries(&protocol::PORTS), inside(ranges, packet.dport)),'
}
# Rules of raw see the state that conntrack finds only afterwards.
raw_knows_states() {
    plant src/netfilter/chain.rs 1 '            self.packet.state = seen_by_raw(&self.packet);' \
        '            let _ = seen_by_raw(&self.packet);'
}
# A packet whose destination was rewritten goes on as if it were not.
dnat_forgotten() {
    plant src/netfilter/rewrite.rs 1 '            RewriteAddress::Destination(address) => address.apply(packet.dst),' \
        '            RewriteAddress::Destination(_) => packet.dst,'
}
# Rules are asked about frames with a VLAN tag, whatever the switch says.
tags_unseen() {
    plant src/netfilter/frame.rs 1 '        if frame.tagged && !self.tagged {' '        if false {'
}
# A later piece of a packet has the ports of the first.
pieces_have_ports() {
    plant src/netfilter/answer.rs 1 '        if packet.fragment == FragmentPart::Later {' '        if false {'
}
# A bridge is said to be open where rules ask for more than is known.
open_by_default() {
    plant src/netfilter/bridge_reachability.rs 1 '                PacketVerdict::Accept if forwards => None,' '                _ if forwards => None,'
}

all='none no_negation goto_comes_back return_accepts short_ranges marks_add_up ports_swapped raw_knows_states dnat_forgotten tags_unseen pieces_have_ports open_by_default'
choose "$@"
try_them
bad=0
for defect in "${list[@]}"; do
    copy_with "$defect" "$top/tests"
    # shellcheck disable=SC2164
    cd "$tree"
    cargo test --locked --quiet --test differential --no-run 2>"$log" || { cat "$log"; exit 2; }
    if cargo test --locked --quiet --test differential -- --nocapture the_simulator_agrees_with_the_kernel pieces_without >"$log" 2>&1; then
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
