//! iptables: our chains, their hooks and the declared policies, live against predicted.

use super::diff::DesiredLine;
use super::{Change, ChangeAction, ChangeRisk, Diff, GenerationManifest};
use crate::host_state::{Observed, PredictedRules};
use crate::problem::{LintCode, Origin, Warning};
use crate::resolve::Desired;
use crate::resource::ResourceKind;
use crate::resource::iptables::save::{SaveChain, SavedTables, jump, tokens};
use crate::resource::iptables::{
    ChainPolicy, DeclaredChain, DeclaredRules, IpFamily, JUMP_COMMENT, JumpPosition, PREFIX,
    is_administrators, maker_of_administrators,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// The comment that stands in a dry run for a rule whose module is not loaded.
const UNPROVEN: &str = "kvmfw:unproven";

/// What a plan does about the rules of one family.
#[derive(Default)]
pub(super) struct RulesPlan {
    pub changes: Vec<Change>,
    pub warnings: Vec<Warning>,
    /// How all rules will look, as far as that is known.
    pub predicted: SavedTables,
    /// Policies that are declared no more and go back to what they were.
    pub policies_back: Vec<(String, String, String)>,
    /// Modules that the apply will load.
    pub modules: BTreeSet<&'static str>,
}

pub(super) fn plan(
    family: IpFamily,
    desired: &Desired,
    observed: &Observed,
    record: &GenerationManifest,
) -> RulesPlan {
    let mut plan = RulesPlan::default();
    let Some(rules) = observed.rules.get(&family) else { return plan };
    let nothing = DeclaredRules::default();
    let wanted = desired.rules.get(&family).unwrap_or(&nothing);
    let live = &rules.live;
    plan.predicted = match &rules.predicted {
        PredictedRules::Rules(save) => save.clone(),
        PredictedRules::Refused(_) => as_written(live, wanted),
        _ => live.clone(),
    };
    policies_back(family, wanted, observed, record, &mut plan);
    unproven(family, wanted, observed, &mut plan);
    waiting(family, live, wanted, &mut plan);

    let reach = reachable_from_input(&plan.predicted).into_iter().chain(reachable_from_input(live)).collect();
    for (table, chain) in resources(live, &plan.predicted, wanted) {
        let declared = wanted.tables.get(&table).and_then(|t| t.chains.get(&full_name(&table, &chain)));
        let old: Vec<String> =
            lines(live, &table, &chain, None, wanted, &plan).into_iter().map(|l| l.0).collect();
        let new = lines(&plan.predicted, &table, &chain, declared, wanted, &plan);
        let diff = Diff::compute(&old, &new);
        if diff.is_empty() {
            continue;
        }
        let action = if old.is_empty() {
            ChangeAction::Add
        } else if new.is_empty() {
            ChangeAction::Remove
        } else {
            ChangeAction::Change
        };
        plan.changes.push(change(family, &table, &chain, action, diff, declared, &reach));
    }
    plan
}

fn change(
    family: IpFamily,
    table: &str,
    chain: &str,
    action: ChangeAction,
    diff: Diff,
    declared: Option<&DeclaredChain>,
    reach: &BTreeSet<String>,
) -> Change {
    let mut origin: Vec<Origin> =
        diff.lines.iter().filter(|l| l.sign == '+').filter_map(|l| l.origin.clone()).collect();
    if origin.is_empty() {
        origin.extend(declared.map(|d| d.origin.clone()));
    }
    origin.sort();
    origin.dedup();
    let risks = if table == "filter" && reach.contains(&full_name(table, chain)) || chain == "INPUT" {
        vec![ChangeRisk::ManagementPath]
    } else {
        Vec::new()
    };
    let kind = ResourceKind::from(family);
    Change { kind, resource: format!("{table}/{chain}"), action, diff, origin, risks }
}

fn full_name(_table: &str, chain: &str) -> String {
    format!("{PREFIX}{chain}")
}

/// Every chain that there is something to say about, by the name that people gave it.
fn resources(
    live: &SavedTables,
    predicted: &SavedTables,
    wanted: &DeclaredRules,
) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for save in [live, predicted] {
        for (table, chain) in save.managed_chains() {
            all.insert((table.to_owned(), chain.name.trim_start_matches(PREFIX).to_owned()));
        }
        for hook in save.jump_rules() {
            all.insert((hook.table.to_owned(), hook.target.trim_start_matches(PREFIX).to_owned()));
        }
    }
    for (table, rules) in &wanted.tables {
        all.extend(rules.policies.keys().map(|c| (table.clone(), c.clone())));
    }
    all
}

/// One chain as lines: its policy where it is managed, its hooks, its rules.
fn lines(
    save: &SavedTables,
    table: &str,
    chain: &str,
    declared: Option<&DeclaredChain>,
    wanted: &DeclaredRules,
    plan: &RulesPlan,
) -> Vec<DesiredLine> {
    let mut lines = Vec::new();
    let managed = wanted.tables.get(table).and_then(|t| t.policies.get(chain));
    let goes_back = plan.policies_back.iter().any(|(t, c, _)| t == table && c == chain);
    if managed.is_some() || goes_back {
        let policy = save.chain(table, chain).and_then(|c| c.policy).unwrap_or(ChainPolicy::Accept);
        lines.push((format!("policy {policy}"), managed.map(|(_, origin)| origin.clone())));
    }
    let name = full_name(table, chain);
    let origin = declared.map(|d| d.origin.clone());
    for hook in save.jump_rules().iter().filter(|h| h.table == table && h.target == name) {
        let text = if hook.rule.contains(JUMP_COMMENT) { "" } else { " (made by hand)" };
        // Where it stands is only a change when it has to move.
        let place = match declared.or(wanted.tables.get(table).and_then(|t| t.chains.get(&name))) {
            Some(DeclaredChain { jump: Some((_, crate::resource::iptables::JumpPosition::Any)), .. })
            | None => String::new(),
            Some(_) => format!(", position {}", hook.position),
        };
        lines.push((format!("jump rule in {}{place}{text}", hook.chain), origin.clone()));
    }
    if let Some(found) = save.chain(table, &name) {
        let origins = declared.map_or_else(Vec::new, |d| origins(d, found.rules.len()));
        for (i, rule) in found.rules.iter().enumerate() {
            lines.push((rule.clone(), origins.get(i).cloned().flatten()));
        }
        if found.rules.is_empty() {
            lines.push(("(empty chain)".to_owned(), origin));
        }
    }
    lines
}

/// Which declared rule each canonical one comes from: a list in `-s` or `-d` became several.
pub fn origins(declared: &DeclaredChain, canonical: usize) -> Vec<Option<Origin>> {
    let mut all = Vec::with_capacity(canonical);
    for rule in declared.rules.iter() {
        for _ in 0..expansion(&rule.text) {
            all.push(Some(rule.origin.clone()));
        }
    }
    if all.len() == canonical { all } else { vec![Some(declared.origin.clone()); canonical] }
}

fn expansion(rule: &str) -> usize {
    // Most rules have no list, and a fleet has many rules.
    if !rule.contains(',') {
        return 1;
    }
    let words = tokens(rule).unwrap_or_default();
    words
        .windows(2)
        .filter(|w| matches!(&*w[0], "-s" | "-d" | "--src" | "--dst" | "--source" | "--destination"))
        .map(|w| w[1].split(',').count())
        .product()
}

/// Policies of the generation that boots which are declared no more.
fn policies_back(
    family: IpFamily,
    wanted: &DeclaredRules,
    observed: &Observed,
    record: &GenerationManifest,
    plan: &mut RulesPlan,
) {
    for (table, rules) in record.rules.get(&family).map(|r| &r.tables).into_iter().flatten() {
        for chain in rules.policies.keys() {
            if wanted.tables.get(table).is_some_and(|t| t.policies.contains_key(chain)) {
                continue;
            }
            let original = observed
                .state
                .original_policies
                .get(&(family, table.clone(), chain.clone()))
                .map_or("ACCEPT", String::as_str);
            let policy = if original == "DROP" { ChainPolicy::Drop } else { ChainPolicy::Accept };
            if let Some(tables) = plan.predicted.tables.get_mut(table)
                && let Some(mut found) = tables.chain(chain).cloned()
            {
                found.policy = Some(policy);
                tables.insert(found);
            }
            plan.policies_back.push((table.clone(), chain.clone(), policy.to_string()));
        }
    }
}

/// The live rules without the chains of ours that are no longer declared, and without the jump rules to them.
fn without_undeclared(live: &SavedTables, wanted: &DeclaredRules) -> SavedTables {
    let is_declared =
        |table: &str, chain: &str| wanted.tables.get(table).is_some_and(|t| t.chains.contains_key(chain));
    let mut save = live.clone();
    for hook in live.jump_rules().iter().filter(|hook| !is_declared(hook.table, &hook.target)) {
        if let Some(rules) = save.tables.get_mut(hook.table).and_then(|table| table.rules_mut(hook.chain)) {
            rules.retain(|rule| rule != hook.rule);
        }
    }
    for (table, chain) in live.managed_chains().filter(|(table, chain)| !is_declared(table, &chain.name)) {
        if let Some(table) = save.tables.get_mut(table) {
            table.remove(&chain.name);
        }
    }
    save
}

/// The live rules with ours as they are written: what is shown of rules that the host refuses, and of
/// hosts that nobody has asked.
pub(super) fn as_written(live: &SavedTables, wanted: &DeclaredRules) -> SavedTables {
    let mut save = without_undeclared(live, wanted);
    for (name, rules) in &wanted.tables {
        let table = save.tables.entry(name.clone()).or_default();
        for (chain, declared) in &rules.chains {
            let rules = declared.rules.iter().map(|r| r.text.clone()).collect();
            table.insert(SaveChain { name: chain.clone(), policy: None, odd_policy: None, rules });
        }
        let entered = rules.chains.iter().filter_map(|(own, c)| {
            let (builtin, place) = c.jump.as_ref()?;
            Some((builtin, *place, own))
        });
        for builtin in rules.policies.keys().chain(entered.clone().map(|(builtin, ..)| builtin)) {
            // Another program makes it: nothing enters ours before.
            if is_administrators(name, builtin) && table.chain(builtin).is_none() {
                continue;
            }
            let mut found = table.chain(builtin).cloned().unwrap_or_else(|| SaveChain {
                name: builtin.clone(),
                policy: Some(ChainPolicy::Accept),
                ..SaveChain::default()
            });
            found.policy = rules.policies.get(builtin).map(|(policy, _)| *policy).or(found.policy);
            if let Some((_, place, own)) = entered.clone().find(|(of, ..)| *of == builtin)
                && !found.rules.iter().any(|rule| rule.ends_with(&format!("-j {own}")))
            {
                let at = if place == JumpPosition::Last { found.rules.len() } else { 0 };
                found.rules.insert(at, format!("-m comment --comment \"{JUMP_COMMENT}\" -j {own}"));
            }
            table.insert(found);
        }
    }
    save
}

/// Puts the declared text where the dry run had to leave a mark, and says so.
fn unproven(family: IpFamily, wanted: &DeclaredRules, observed: &Observed, plan: &mut RulesPlan) {
    if observed.facts.br_netfilter {
        return;
    }
    for (table, rules) in &wanted.tables {
        for (name, chain) in &rules.chains {
            let mut marked = chain.rules.iter().filter(|r| r.module.is_some());
            let Some(found) = plan.predicted.tables.get_mut(table).and_then(|t| t.rules_mut(name)) else {
                continue;
            };
            for text in found.iter_mut().filter(|t| t.contains(UNPROVEN)) {
                let Some(rule) = marked.next() else { break };
                *text = rule.text.clone();
                plan.warnings.push(Warning::new(
                    LintCode::Unproven,
                    format!(
                        "{family} {table}/{}: `{}` is unproven on this host: apply will load {}, which makes \
                         bridged frames pass the FORWARD chain of the host",
                        name.trim_start_matches(PREFIX),
                        rule.text,
                        rule.module.unwrap_or_default()
                    ),
                    Some(rule.origin.clone()),
                ));
                plan.modules.extend(rule.module);
            }
        }
    }
}

/// Chains of the administrator that are not there yet: nothing enters ours until another program makes them.
fn waiting(family: IpFamily, live: &SavedTables, wanted: &DeclaredRules, plan: &mut RulesPlan) {
    for (table, rules) in &wanted.tables {
        for declared in rules.chains.values() {
            let Some((chain, _)) = &declared.jump else { continue };
            let Some(maker) = maker_of_administrators(table, chain) else { continue };
            if live.chain(table, chain).is_none() {
                plan.warnings.push(Warning::new(
                    LintCode::WaitsForChain,
                    format!(
                        "{family} {table}/{chain}: the chain does not exist until {maker} creates it; the \
                         rules are loaded, and kvmfw-settle.service adds the jump rule as soon as the chain \
                         exists"
                    ),
                    Some(declared.origin.clone()),
                ));
            }
        }
    }
}

/// Our chains that a packet to the host itself passes.
fn reachable_from_input(save: &SavedTables) -> BTreeSet<String> {
    let mut reach = BTreeSet::new();
    let mut edges: BTreeMap<&str, Vec<Cow<'_, str>>> = BTreeMap::new();
    let Some(filter) = save.tables.get("filter") else { return reach };
    for chain in filter.chains() {
        let targets = chain.rules.iter().filter_map(|r| jump(r)).map(|j| j.target);
        edges.insert(chain.name.as_str(), targets.collect());
    }
    let mut todo = vec!["INPUT".to_owned(), "OUTPUT".to_owned()];
    while let Some(name) = todo.pop() {
        for target in edges.get(name.as_str()).into_iter().flatten() {
            if edges.contains_key(&**target) && reach.insert(target.to_string()) {
                todo.push(target.to_string());
            }
        }
    }
    reach
}
