//! What both drawings say.

use super::bridges::FamilyStory;
use crate::resource::iptables::Family;

/// `IPv4, filter/FORWARD`, or past it.
pub(super) fn cloud(family: &FamilyStory) -> String {
    let name = match family.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    if family.filtered { format!("{name} through filter/FORWARD") } else { format!("{name} past all rules") }
}

/// Whether frames pass, or what is dropped, by which rule, and who wrote that; then which switch sends them there.
pub(super) fn lines(family: &FamilyStory) -> Vec<String> {
    let mut lines = match &family.dark {
        Some(dark) => {
            let origin = dark.by.origin.as_ref().map_or_else(String::new, |origin| format!(" ({origin})"));
            vec![format!("dropped: {}", dark.dropped.join(", ")), format!("by {}{origin}", dark.by.name())]
        }
        None => vec!["frames pass".to_owned()],
    };
    lines.push(family.because.clone());
    lines
}
