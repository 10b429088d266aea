//! The depth of a jump host: the longest chain of hosts that are reached through it.

use crate::problem::{LintCode, Warning};
use std::collections::BTreeMap;

/// A host through which others are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JumpRole {
    /// Length of the longest chain of hosts behind it, at least 1.
    pub depth: usize,
    /// Names the hosts behind it.
    pub warning: Warning,
}

impl JumpRole {
    /// `behind` summarizes the hosts behind it, `source` is what shows that they are.
    pub(super) fn new(depth: usize, behind: &str, source: &str) -> Self {
        let message = format!(
            "this host is the jump host of {behind} ({source}): what cuts it off cuts them off too; it is changed \
             alone, and last"
        );
        Self { depth, warning: Warning::new(LintCode::JumpHost, message, None) }
    }
}

/// Raises `depths` until each host is one deeper than every host `behind` it. All are positions in `depths`.
pub(super) fn deepen(behind: &BTreeMap<usize, Vec<usize>>, depths: &mut [usize]) {
    // Each round follows the chains by one more jump. The number of rounds is limited because chains can be circular.
    for _ in 0..behind.len() {
        let before = depths.to_vec();
        for (host, others) in behind {
            let deepest = others.iter().map(|other| depths[*other].saturating_add(1)).max().unwrap_or(1);
            depths[*host] = depths[*host].max(deepest);
        }
        if before == depths {
            return;
        }
    }
}

/// `kvm1 and 3 more`; `None` if there are no names. Each name counts once.
pub(super) fn summary(mut names: Vec<&str>) -> Option<String> {
    names.sort_unstable();
    names.dedup();
    let (first, rest) = names.split_first()?;
    Some(if rest.is_empty() { (*first).to_owned() } else { format!("{first} and {} more", rest.len()) })
}
