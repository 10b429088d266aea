//! Rules of others that say almost what one of ours says: they stay, and the nearest is named.

use super::AdoptedRule;
use super::rules::{enters_managed, managed_name};
use crate::netfilter::covers;
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::iptables::save::SavedTables;
use crate::resource::iptables::{IpFamily, is_entered};

/// A rule of a built-in chain that is not taken, and the rule of ours that decides about its packets as it does.
pub(super) struct NearMatch {
    table: String,
    chain: String,
    theirs: String,
    pub ours: String,
}

/// Finds them among the predicted rules; ours that are taken over already are nobody else's.
pub(super) fn near_matches(predicted: &SavedTables, taken: &[AdoptedRule]) -> Vec<NearMatch> {
    let mut found = Vec::new();
    for (name, table) in &predicted.tables {
        for chain in table.chains().iter().filter(|chain| is_entered(name, &chain.name)) {
            let Some(ours) = table.chain(&managed_name(&chain.name)) else { continue };
            let mut gone: Vec<&str> = taken
                .iter()
                .filter(|one| one.table == *name && one.chain == chain.name)
                .filter_map(|one| one.rule.as_deref())
                .collect();
            let free: Vec<&String> =
                ours.rules.iter().filter(|rule| !gone.contains(&rule.as_str())).collect();
            for rule in chain.rules.iter().filter(|rule| !enters_managed(rule)) {
                if let Some(at) = gone.iter().position(|one| one == rule) {
                    gone.remove(at);
                } else if let Some(nearest) = free.iter().find(|own| covers(own, rule)) {
                    found.push(NearMatch {
                        table: name.clone(),
                        chain: chain.name.clone(),
                        theirs: rule.clone(),
                        ours: (*nearest).clone(),
                    });
                }
            }
        }
    }
    found
}

impl NearMatch {
    pub fn is_in(&self, table: &str, chain: &str) -> bool {
        self.table == table && self.chain == chain
    }

    pub fn warning(&self, family: IpFamily) -> Warning {
        Warning::new(
            LintCode::NotAdopted,
            WarningMessage::new(format!(
                "{family} {}/{}: `{}` is not adopted",
                self.table, self.chain, self.theirs
            ))
            .cause(format!("the closest managed rule differs: `{}`", self.ours))
            .fix("write the rule exactly as on the host"),
            None,
        )
    }
}

/// The live rules with each of ours right before the rule that it is near to.
pub(super) fn with_near_matches(live: &SavedTables, near: &[NearMatch]) -> SavedTables {
    let mut save = live.clone();
    for one in near {
        // What is live already is met where it stands.
        if live
            .chain(&one.table, &managed_name(&one.chain))
            .is_some_and(|chain| chain.rules.contains(&one.ours))
        {
            continue;
        }
        let rules = save.tables.get_mut(&one.table).and_then(|table| table.rules_mut(&one.chain));
        if let Some(rules) = rules
            && let Some(at) = rules.iter().position(|rule| *rule == one.theirs)
            && !rules.contains(&one.ours)
        {
            rules.insert(at, one.ours.clone());
        }
    }
    save
}
