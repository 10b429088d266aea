//! The three remedies for unreachable guests, and what each costs on this host.

use super::context::ExplainContext;
use crate::plan::{bypass_evidence, bypass_writers};
use serde::Serialize;

/// A way to give guests their network back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GuestRemedy {
    /// The module that does it.
    pub module: &'static str,
    /// What it does.
    pub what: &'static str,
    /// What it means for guests of different tenants.
    pub isolation: &'static str,
    /// What it costs to run. Measured with 64-byte UDP packets over a bridge, one CPU.
    pub throughput: &'static str,
    /// What else to know.
    pub traps: Vec<String>,
    /// Why it is wrong on this host, where it is.
    pub wrong_here: Vec<String>,
}

/// All three, for a host.
pub fn remedies(scene: &ExplainContext<'_>) -> Vec<GuestRemedy> {
    let loaded = scene.observed.facts.br_netfilter;
    let wrong_here: Vec<String> = bypass_evidence(scene.observed).into_iter().collect();
    let filtered = (!wrong_here.is_empty()).then(|| {
        "another program filters guests on this host (see below): these accepts decide first, unless FORWARD \
         has `jump: last`"
            .to_owned()
    });
    let mut each = GuestRemedy {
        module: "bridge-accept-each",
        what: "accepts frames between the ports of each bridge (-i br -o br -j ACCEPT)",
        isolation: "no isolation of tenants with overlapping addresses on two bridges: they share connection \
            tracking and fragment reassembly",
        throughput: "about 1.25 times the CPU time of a bypass per packet, if the accept is the first rule",
        traps: vec![
            "a new bridge needs a new rule; list every bridge under `bridges:`".to_owned(),
            "the accept must come before the rule that drops: after a REJECT it is never reached".to_owned(),
        ],
        wrong_here: Vec::new(),
    };
    each.traps.extend(filtered.clone());
    let mut traps = vec!["covers every bridge, including future ones".to_owned()];
    traps.extend(filtered);
    if !loaded {
        traps.push(
            "br_netfilter is not loaded on this host; the first physdev rule loads it, and puts every \
            bridge into netfilter"
                .to_owned(),
        );
    }
    let physdev = GuestRemedy {
        module: "bridge-accept-physdev",
        what: "accepts every bridged frame (-m physdev --physdev-is-bridged -j ACCEPT)",
        traps,
        ..each.clone()
    };
    let bypass = GuestRemedy {
        module: "bridge-bypass",
        what: "takes bridges out of iptables (bridge-nf-call-iptables = 0)",
        isolation: "the only fix that isolates tenants with overlapping addresses; but no rule of the host \
            sees packets between guests",
        throughput: "the cheapest: the number of rules does not matter; in netfilter, 1000 rules before the \
            accept cost 4.8 times as much (nft; legacy 2.3 times). Large TCP segments differ little",
        traps: bypass_writers(scene.observed).iter().map(ToString::to_string).collect(),
        wrong_here,
    };
    vec![each, physdev, bypass]
}
