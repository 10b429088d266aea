//! What both drawings say.

use super::bridges::FamilyReport;
use super::context::RulePlace;
use crate::resource::iptables::IpFamily;

/// `IPv4 through the host's rules`, or past them.
pub(super) fn cloud(family: &FamilyReport) -> String {
    let name = match family.family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    };
    if family.filtered {
        format!("{name} through the rules of the host")
    } else {
        format!("{name} bypasses all rules")
    }
}

/// Whether frames pass, or what is or may be dropped, by which rule, and who wrote that; then the tables on their way, and which switch
/// sends them there.
pub(super) fn lines(family: &FamilyReport) -> Vec<String> {
    let by = |place: &RulePlace| {
        let origin = place.origin.as_ref().map_or_else(String::new, |origin| format!(" ({origin})"));
        format!("by {}{origin}", place.name())
    };
    let mut lines = match (&family.blocked, &family.undecided) {
        (Some(blocked), _) => vec![format!("dropped: {}", blocked.dropped.join(", ")), by(&blocked.by)],
        (None, Some(doubt)) => vec![format!("may be dropped: {}", doubt.kinds.join(", ")), by(&doubt.by)],
        (None, None) => vec!["frames pass".to_owned()],
    };
    if !family.tables.is_empty() {
        lines.push(format!("on the way: {}", family.tables.join(", ")));
    }
    lines.push(family.because.clone());
    lines
}
