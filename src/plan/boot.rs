//! What has to be on a host so that its generation boots: unit files, links, rules files.

use super::{Action, Change, Diff, DiffLine, Kind};
use crate::observe::Observed;
use std::collections::BTreeMap;

/// What is missing or not as it was written; any apply writes it anew.
pub(super) fn changes(observed: &Observed) -> Vec<Change> {
    let mut kinds: BTreeMap<Kind, Vec<DiffLine>> = BTreeMap::new();
    for path in &observed.state.boot_missing {
        let line = DiffLine { sign: '+', text: path.clone(), origin: None };
        kinds.entry(kind(path)).or_default().push(line);
    }
    let change = |(kind, lines)| Change {
        kind,
        resource: "boot".to_owned(),
        action: Action::Change,
        diff: Diff::from(lines),
        origin: Vec::new(),
        risks: Vec::new(),
    };
    kinds.into_iter().map(change).collect()
}

/// Which kind of resource boots by a file.
fn kind(path: &str) -> Kind {
    match path.rsplit('/').next().unwrap_or(path) {
        "kvmfw-bridges.service" => Kind::Bridge,
        "rules.v6" => Kind::Ip6tables,
        "kvmfw.service" | "rules.v4" | "kvmfw.sh" => Kind::Iptables,
        _ => Kind::Sysctl,
    }
}
