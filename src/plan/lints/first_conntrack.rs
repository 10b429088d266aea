//! Connections that are open when the first rules come that ask conntrack.

use super::FamilyView;
use crate::problem::{LintCode, Warning};
use crate::resource::iptables::ChainPolicy;
use crate::resource::iptables::save::SavedTables;

impl FamilyView<'_> {
    /// What the host cannot save: it lets its own open TCP connections pass wherever the rules let
    /// ESTABLISHED pass, and nothing else.
    pub(super) fn first_conntrack(&self, warnings: &mut Vec<Warning>) {
        if tracks(self.live) || !tracks(self.predicted) || !refuses_the_rest(self.predicted) {
            return;
        }
        let message = format!(
            "these are the first {} rules on the host that use connection tracking. Open TCP connections of \
             the host continue; receive-only UDP and forwarded guest connections are treated as NEW and need \
             a rule that accepts NEW",
            self.family
        );
        warnings.push(Warning::new(LintCode::FirstConntrack, message, None));
    }
}

/// Whether some rule asks conntrack, so that it is active.
pub(super) fn tracks(save: &SavedTables) -> bool {
    let asks = |rule: &String| {
        ["-m state ", "-m conntrack ", "--ctstate", "-j MASQUERADE", "-j DNAT", "-j SNAT", "-j REDIRECT"]
            .iter()
            .any(|w| rule.contains(w))
    };
    save.tables.values().flat_map(|t| t.chains()).flat_map(|c| &c.rules).any(asks)
}

/// Whether the table filter ends with a rule or a policy that takes whatever came so far.
fn refuses_the_rest(save: &SavedTables) -> bool {
    let Some(filter) = save.tables.get("filter") else { return false };
    let wall = |rule: &String| rule.starts_with("-j DROP") || rule.starts_with("-j REJECT");
    filter.chains().iter().any(|c| c.policy == Some(ChainPolicy::Drop) || c.rules.iter().any(wall))
}
