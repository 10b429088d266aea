//! What is taken over of others: rules that say what ours say, in the words of the host's own iptables.
//! And, on the way back, what comes again of it.
//!
//! Taken are rules of built-in chains that stand in our chain, too, and whole chains that are like one of ours
//! and that nobody enters any more. That this changes no verdict is proven before anything is offered.

mod boot;
mod history;
mod near_match;
mod rules;
#[cfg(test)]
mod tests;

pub use history::AdoptionDelta;

use super::rules::RulesPlan;
use super::sysctl::SysctlPlan;
use super::{Change, ChangeAction, ChangeRisk, Diff, DiffLine, GenerationManifest, PlanOptions, Refusal};
use crate::host_state::{BootFiles, Observed};
use crate::problem::Warning;
use crate::resolve::Desired;
use crate::resource::ResourceKind;
use crate::resource::iptables::save::SaveChain;
use crate::resource::iptables::{ChainPolicy, IpFamily, is_builtin};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// An unmanaged rule or chain that was adopted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AdoptedRule {
    /// iptables or ip6tables.
    pub family: IpFamily,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// The rule less `-A CHAIN`; `None` is the chain itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The file that loaded the rule at boot, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// Where an undo goes back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreTarget {
    /// The generation; 0 is the state before kvmfw.
    pub generation: u32,
    /// What had been taken over by then.
    pub adopted: Vec<AdoptedRule>,
    /// Files of sysctl.d that had been taken over by then.
    pub files: BTreeSet<String>,
}

/// What a plan adopts or gives back.
#[derive(Default)]
pub(super) struct AdoptionPlan {
    pub changes: Vec<Change>,
    pub warnings: Vec<Warning>,
    /// Unmanaged text by family, for the host.
    pub texts: BTreeMap<IpFamily, String>,
    /// All that is taken over afterwards.
    pub adopted: Vec<AdoptedRule>,
    /// The same of files of sysctl.d, less `.conf`.
    pub files: BTreeSet<String>,
    /// Why it cannot be.
    pub refusal: Option<Refusal>,
}

/// Decides what is taken and what comes back; `rules` then tell how all rules will look.
pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    record: &GenerationManifest,
    options: &PlanOptions,
    rules: &mut [RulesPlan; 2],
    sysctl: &SysctlPlan,
) -> AdoptionPlan {
    let mut adoption = AdoptionPlan { adopted: record.adopted.clone(), ..AdoptionPlan::default() };
    let still = |name: &&String| options.restore.as_ref().is_none_or(|back| back.files.contains(*name));
    let now = sysctl.adopted.iter().map(|name| name.trim_end_matches(".conf").to_owned());
    adoption.files = record.adopted_files.iter().filter(still).cloned().chain(now).collect();
    // A file that is declared no more goes back to what it was.
    adoption.files.retain(|name| desired.sysctl.contains_key(name));
    if let Some(back) = &options.restore {
        // What was given back since then is not taken again by going there.
        let given = less(&record.adopted, &back.adopted);
        adoption.adopted = less(&record.adopted, &given);
        for (family, planned) in IpFamily::ALL.into_iter().zip(rules) {
            let again: Vec<_> = given.iter().filter(|one| one.family == family).cloned().collect();
            adoption.warnings.extend(boot::missing(family, &again, &observed.boot_files));
            bring_back(family, &again, planned, &mut adoption);
        }
        return adoption;
    }
    if !options.adopt {
        return adoption;
    }
    for (family, planned) in IpFamily::ALL.into_iter().zip(rules) {
        let (Some(there), Some(wanted)) = (observed.rules.get(&family), desired.rules.get(&family)) else {
            continue;
        };
        let mut taken = rules::adoptable_rules(family, &planned.predicted, wanted);
        adoption.warnings.append(&mut taken.warnings);
        if taken.list.is_empty() {
            continue;
        }
        if let Err(difference) = rules::prove_unchanged(family, &there.live, &planned.predicted, &taken) {
            let evidence = difference.evidence.map_or_else(String::new, |packet| format!("; {packet}"));
            adoption.refusal.get_or_insert(Refusal::new(
                "adoption-differs",
                format!(
                    "adopting the rules of {family} could change verdicts in {}/{}: {}{evidence}",
                    difference.table, difference.chain, difference.what
                ),
            ));
        }
        planned.predicted = rules::without_adopted(&planned.predicted, &taken.list);
        adoption.warnings.extend(boot::warnings(family, &taken.list, &observed.boot_files));
        adoption.texts.insert(family, text(&taken.list, '!'));
        adoption.changes.extend(changes(family, ChangeAction::Remove, &taken.list, &taken.origins));
        let from = |one: AdoptedRule| AdoptedRule { from: loaded_by(&one, &observed.boot_files), ..one };
        adoption.adopted.extend(taken.list.into_iter().map(from));
    }
    adoption
}

/// The first file that loads a rule at boot.
fn loaded_by(one: &AdoptedRule, files: &BootFiles) -> Option<String> {
    let places = files.places(one.family, &one.table, &one.chain, one.rule.as_deref()?);
    places.map(|place| place.path.clone()).next()
}

/// What is in the first list and not in the second.
fn less(all: &[AdoptedRule], some: &[AdoptedRule]) -> Vec<AdoptedRule> {
    let mut rest: Vec<&AdoptedRule> = some.iter().collect();
    all.iter()
        .filter(|one| match rest.iter().position(|other| other == one) {
            Some(at) => {
                rest.remove(at);
                false
            }
            None => true,
        })
        .cloned()
        .collect()
}

/// The rules come back where they stood; the host knows where. For what is said of it here they stand first.
fn bring_back(family: IpFamily, again: &[AdoptedRule], planned: &mut RulesPlan, adoption: &mut AdoptionPlan) {
    adoption.changes.extend(changes(family, ChangeAction::Add, again, &BTreeMap::new()));
    for one in again {
        let table = planned.predicted.tables.entry(one.table.clone()).or_default();
        if table.chain(&one.chain).is_none() {
            let policy = is_builtin(&one.table, &one.chain).then_some(ChainPolicy::Accept);
            table.insert(SaveChain { name: one.chain.clone(), policy, ..SaveChain::default() });
        }
        let before =
            again.iter().filter(|o| o.table == one.table && o.chain == one.chain && o.rule.is_some());
        let at = before.take_while(|o| !std::ptr::eq(*o, one)).count();
        if let (Some(rule), Some(rules)) = (&one.rule, table.rules_mut(&one.chain)) {
            rules.insert(at.min(rules.len()), rule.clone());
        }
    }
}

/// Unmanaged text, a line for each.
fn text(list: &[AdoptedRule], sign: char) -> String {
    let mut text = String::new();
    let tables: BTreeSet<&str> = list.iter().map(|one| one.table.as_str()).collect();
    for table in tables {
        let _ = writeln!(text, "*{table}");
        for one in list.iter().filter(|one| one.table == table) {
            let _ = match &one.rule {
                Some(rule) => writeln!(text, "{sign}-A {} {rule}", one.chain),
                None => writeln!(text, "{sign}:{}", one.chain),
            };
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// What the plan shows: a change for each chain of others.
fn changes(
    family: IpFamily,
    action: ChangeAction,
    list: &[AdoptedRule],
    origins: &BTreeMap<AdoptedRule, crate::problem::Origin>,
) -> Vec<Change> {
    let mut by_chain: BTreeMap<(&str, &str), Vec<&AdoptedRule>> = BTreeMap::new();
    for one in list {
        by_chain.entry((&one.table, &one.chain)).or_default().push(one);
    }
    let kind = ResourceKind::from(family);
    let sign = if action == ChangeAction::Remove { '-' } else { '+' };
    by_chain
        .into_iter()
        .map(|((table, chain), list)| {
            let line = |one: &&AdoptedRule| DiffLine {
                sign,
                text: one.rule.clone().unwrap_or_else(|| format!("the chain {chain}")),
                origin: origins.get(*one).cloned(),
            };
            let mut origin: Vec<_> = list.iter().filter_map(|one| origins.get(*one).cloned()).collect();
            origin.sort();
            origin.dedup();
            let risks = if chain == "INPUT" { vec![ChangeRisk::ManagementPath] } else { Vec::new() };
            let diff = Diff::from(list.iter().map(line).collect::<Vec<_>>());
            Change { kind, resource: format!("{table}/{chain} (unmanaged)"), action, diff, origin, risks }
        })
        .collect()
}
