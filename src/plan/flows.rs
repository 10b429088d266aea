//! What rules do to connections that are open when they come.

use crate::problem::Warning;
use crate::resource::iptables::save::Save;
use crate::resource::iptables::{Family, Policy};

/// A warning of what the host cannot save: it lets its own open TCP connections pass wherever the rules let
/// ESTABLISHED pass, and nothing else.
pub(super) fn unsaved(family: Family, live: &Save, predicted: &Save) -> Option<Warning> {
    if live == predicted || !refuses_the_rest(predicted) || refuses_the_rest(live) {
        return None;
    }
    let (code, message) = if !lets_established_pass(predicted) {
        let what = "no rule accepts ESTABLISHED, and what no rule accepts is refused: open connections are cut, and \
                    answers from elsewhere do not come in, unless a rule of theirs lets them pass";
        ("no-established", what)
    } else if !tracks(live) && tracks(predicted) {
        let what = "the first rules here that ask conntrack: open TCP connections of the host live on, but UDP that \
                    only hears and connections that the host forwards for guests count as new, and have to pass as such";
        ("first-conntrack", what)
    } else {
        return None;
    };
    Some(Warning { code, message: format!("{family}: {message}"), origin: None })
}

/// Whether some rule asks conntrack, so that it is active.
pub(super) fn tracks(save: &Save) -> bool {
    let asks = |rule: &String| {
        ["-m state ", "-m conntrack ", "--ctstate", "-j MASQUERADE", "-j DNAT", "-j SNAT", "-j REDIRECT"]
            .iter()
            .any(|w| rule.contains(w))
    };
    save.tables.values().flat_map(|t| t.chains()).flat_map(|c| &c.rules).any(asks)
}

/// Whether the table filter ends with a rule or a policy that takes whatever came so far.
fn refuses_the_rest(save: &Save) -> bool {
    let Some(filter) = save.tables.get("filter") else { return false };
    let wall = |rule: &String| rule.starts_with("-j DROP") || rule.starts_with("-j REJECT");
    filter.chains().iter().any(|c| c.policy == Some(Policy::Drop) || c.rules.iter().any(wall))
}

fn lets_established_pass(save: &Save) -> bool {
    let chains = save.tables.get("filter").map(|t| t.chains()).unwrap_or_default();
    chains.iter().flat_map(|c| &c.rules).any(|r| r.contains("ESTABLISHED") && r.ends_with("-j ACCEPT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(rules: &str) -> Save {
        Save::parse(&format!("*filter\n:INPUT ACCEPT [0:0]\n:KVMFW-INPUT - [0:0]\n{rules}COMMIT\n")).unwrap()
    }

    fn code(live: &str, predicted: &str) -> Option<&'static str> {
        unsaved(Family::V4, &save(live), &save(predicted)).map(|w| w.code)
    }

    const ESTABLISHED: &str = "-A KVMFW-INPUT -m state --state ESTABLISHED -j ACCEPT\n";
    const WALL: &str = "-A KVMFW-INPUT -j DROP\n";
    const NARROW: &str = "-A KVMFW-INPUT -p tcp -m tcp --dport 1 -j DROP\n";

    #[test]
    fn announces_what_is_not_saved() {
        let both = format!("{ESTABLISHED}{WALL}");
        assert_eq!(code("", &both), Some("first-conntrack"));
        assert_eq!(code("", WALL), Some("no-established"));
        assert_eq!(code(ESTABLISHED, &both), None, "conntrack knows what is open");
        assert_eq!(code(&both, &both), None);
        assert_eq!(code(WALL, &both), None, "what is open passed already");
        assert_eq!(code("", NARROW), None, "one port is no wall");
    }
}
