//! What a generation adopted, computed from its history.

use super::super::{Change, ChangeAction, GenerationManifest};
use super::{changes, less};
use crate::resource::iptables::IpFamily;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Unmanaged rules and files that were adopted, or given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdoptionDelta {
    /// How many rules, those of the chains among them.
    pub rules: usize,
    /// How many chains.
    pub chains: usize,
    /// Files of sysctl.d, less `.conf`.
    pub files: Vec<String>,
    /// The files that loaded the rules at boot; none for rules that only somebody's hand brought.
    pub from: BTreeSet<String>,
}

impl GenerationManifest {
    /// What this generation adopted and an older one had not.
    pub fn adopted_since(&self, before: &GenerationManifest) -> Option<AdoptionDelta> {
        let list = less(&self.adopted, &before.adopted);
        let took = AdoptionDelta {
            rules: list.iter().filter(|one| one.rule.is_some()).count(),
            chains: list.iter().filter(|one| one.rule.is_none()).count(),
            files: self.adopted_files.difference(&before.adopted_files).cloned().collect(),
            from: list.into_iter().filter_map(|one| one.from).collect(),
        };
        (took.rules + took.chains + took.files.len() > 0).then_some(took)
    }

    /// The same as changes, by chain: what was taken, and what was given back.
    pub(in crate::plan) fn adoption_since(&self, before: &GenerationManifest) -> Vec<Change> {
        let ways = [(ChangeAction::Remove, self, before), (ChangeAction::Add, before, self)];
        let of = |(action, more, less_of): (ChangeAction, &GenerationManifest, &GenerationManifest)| {
            let list = less(&more.adopted, &less_of.adopted);
            IpFamily::ALL.into_iter().flat_map(move |family| {
                let here: Vec<_> = list.iter().filter(|one| one.family == family).cloned().collect();
                changes(family, action, &here, &BTreeMap::new())
            })
        };
        ways.into_iter().flat_map(of).collect()
    }
}
