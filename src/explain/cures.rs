//! The three cures, and what each costs on this host.

use super::scene::ExplainContext;
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
pub fn cures(scene: &ExplainContext<'_>) -> Vec<GuestRemedy> {
    let loaded = scene.observed.facts.br_netfilter;
    let wrong_here: Vec<String> = bypass_evidence(scene.observed).into_iter().collect();
    let filtered = (!wrong_here.is_empty()).then(|| {
        "somebody filters guests here (below): these accepts decide before that, unless `jump: last` stands at FORWARD".to_owned()
    });
    let mut each = GuestRemedy {
        module: "bridge-accept-each",
        what: "accepts what each bridge forwards between its own ports (-i br -o br -j ACCEPT)",
        isolation: "those with equal addresses on two bridges still meet in connection tracking and in the joining of fragments",
        throughput: "about 1.25 times the CPU time of a bypass for each packet, where the accept comes first",
        traps: vec![
            "a new bridge needs a new rule; every bridge has to stand under `bridges:`".to_owned(),
            "it has to come before the rule that drops: behind a REJECT it is dead".to_owned(),
        ],
        wrong_here: Vec::new(),
    };
    each.traps.extend(filtered.clone());
    let mut traps = vec!["it covers every bridge, also those to come".to_owned()];
    traps.extend(filtered);
    if !loaded {
        traps.push("br_netfilter is not loaded here; the first physdev rule loads it, and puts every bridge into netfilter".to_owned());
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
        isolation: "the only one that keeps those with equal addresses apart; but no rule of the host sees what guests send",
        throughput: "the cheapest: rules cost bridged packets nothing, however many there are; in netfilter, 1000 rules before the accept cost 4.8 \
                     times as much (nft; legacy 2.3 times). Large TCP segments see little of either",
        traps: bypass_writers(scene.observed),
        wrong_here,
    };
    vec![each, physdev, bypass]
}
