//! Other firewalls on the host: what ours accept they may drop.

use crate::host_state::Observed;
use crate::plan::other_tables::default_drop_chains;
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resolve::Desired;
use crate::resource::iptables::IpFamily;
use std::collections::{BTreeMap, BTreeSet};

/// Native nft tables with the policy drop, where rules of ours filter the same family.
pub(super) fn dropped_elsewhere(desired: &Desired, observed: &Observed, warnings: &mut Vec<Warning>) {
    let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for family in IpFamily::ALL {
        if !desired.rules.get(&family).is_some_and(|rules| rules.tables.contains_key("filter")) {
            continue;
        }
        for (table, hook) in default_drop_chains(&observed.other_filters, family) {
            found.entry(table).or_default().insert(hook);
        }
    }
    for (table, hooks) in found {
        let hooks: Vec<&str> = hooks.into_iter().collect();
        let message = WarningMessage::new(format!(
            "{table} is another firewall with `policy drop` for {}, so it may \
             drop packets that these rules accept",
            hooks.join(" and ")
        ))
        .fix("also accept them in that table, or remove the table and its loader");
        warnings.push(Warning::new(LintCode::DroppedElsewhere, message, None));
    }
}
