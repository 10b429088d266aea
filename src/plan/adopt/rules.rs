//! Which rules of others say what ours say.

use super::AdoptedRule;
use super::near_match::{NearMatch, near_matches};
use crate::netfilter::{Ruleset, VerdictDifference, prove_equivalent};
use crate::plan::origins_of;
use crate::problem::{LintCode, Origin, Warning, WarningMessage};
use crate::resource::iptables::chain_writers::reserved_for;
use crate::resource::iptables::save::{SaveChain, SaveTable, SavedTables, jump, tokens};
use crate::resource::iptables::{DeclaredRules, IpFamily, PREFIX, is_entered};
use std::collections::{BTreeMap, BTreeSet};

/// What is taken of one family, with where ours was declared.
#[derive(Default)]
pub(super) struct FamilyAdoption {
    /// Rules in their order, and chains behind their rules.
    pub list: Vec<AdoptedRule>,
    pub origins: BTreeMap<AdoptedRule, Origin>,
    pub warnings: Vec<Warning>,
    /// Rules that stay, of which ours say the same in other words.
    pub near: Vec<NearMatch>,
}

/// Finds them among the predicted rules: there, ours are as the kernel prints them.
pub(super) fn adoptable_rules(
    family: IpFamily,
    predicted: &SavedTables,
    wanted: &DeclaredRules,
) -> FamilyAdoption {
    let mut taken = FamilyAdoption::default();
    for (name, table) in &predicted.tables {
        let Some(declared) = wanted.tables.get(name) else { continue };
        let like = like_ours(name, table);
        let mut rules = Vec::new();
        for chain in table.chains().iter().filter(|c| is_entered(name, &c.name)) {
            let Some(ours) = table.chain(&managed_name(&chain.name)) else { continue };
            let origins = declared.chains.get(&ours.name).map(|d| origins_of(d, ours.rules.len()));
            for rule in chain.rules.iter().filter(|rule| !enters_managed(rule)) {
                let Some(at) = ours.rules.iter().position(|own| *own == renamed(rule, &like)) else {
                    continue;
                };
                if let Some(why) = stays(rule) {
                    taken.warnings.push(not_taken(family, name, chain, why));
                    continue;
                }
                rules.push((chain.name.as_str(), rule));
                let origin = origins.as_ref().and_then(|o| o.get(at)).cloned().flatten();
                let one = adopted(family, name, &chain.name, Some(rule));
                taken.origins.extend(origin.map(|origin| (one.clone(), origin)));
                taken.list.push(one);
            }
        }
        for chain in unentered(table, &like, &rules) {
            let origin = declared.chains.get(&managed_name(&chain.name)).map(|d| d.origin.clone());
            for one in chain.rules.iter().map(Some).chain([None]) {
                let one = adopted(family, name, &chain.name, one);
                taken.origins.extend(origin.clone().map(|origin| (one.clone(), origin)));
                taken.list.push(one);
            }
        }
        taken.warnings.extend(differing(family, name, table, &like));
    }
    for near in near_matches(predicted, &taken.list) {
        taken.warnings.push(near.warning(family));
        taken.near.push(near);
    }
    taken
}

pub(super) fn managed_name(chain: &str) -> String {
    format!("{PREFIX}{chain}")
}

fn adopted(family: IpFamily, table: &str, chain: &str, rule: Option<&String>) -> AdoptedRule {
    AdoptedRule { family, table: table.to_owned(), chain: chain.to_owned(), rule: rule.cloned(), from: None }
}

pub(super) fn enters_managed(rule: &str) -> bool {
    rule.contains(PREFIX) && jump(rule).is_some_and(|jump| jump.target.starts_with(PREFIX))
}

/// Why a rule cannot be deleted by its own text: iptables finds such ones not (measured with 1.8.9).
fn stays(rule: &str) -> Option<&'static str> {
    let words = tokens(rule).unwrap_or_default();
    let has = |name: &str| words.windows(2).any(|pair| pair[0] == "-m" && pair[1] == name);
    ["recent", "connlimit"].into_iter().find(|name| has(name))
}

fn not_taken(family: IpFamily, table: &str, chain: &SaveChain, why: &str) -> Warning {
    Warning::new(
        LintCode::NotAdopted,
        WarningMessage::new(format!("{family} {table}/{}: a rule is not adopted", chain.name))
            .cause(format!("iptables cannot delete a rule with `-m {why}` by its own text"))
            .fix(format!("delete it by number, from `{family} -t {table} -L {} --line-numbers`", chain.name)),
        None,
    )
}

/// Names of user chains of others that are, rule by rule, like the one of ours of that name.
fn like_ours<'t>(name: &str, table: &'t SaveTable) -> BTreeSet<&'t str> {
    let others = table.chains().iter().filter(|c| {
        !c.is_managed()
            && !is_entered(name, &c.name)
            && reserved_for(&c.name).is_none()
            && table.chain(&managed_name(&c.name)).is_some()
    });
    let mut like: BTreeMap<&str, &SaveChain> = others.map(|chain| (chain.name.as_str(), chain)).collect();
    loop {
        let names: BTreeSet<&str> = like.keys().copied().collect();
        let same = |chain: &SaveChain| {
            let ours = table.chain(&managed_name(&chain.name)).map_or(&[] as &[String], |ours| &ours.rules);
            ours.len() == chain.rules.len()
                && chain
                    .rules
                    .iter()
                    .zip(ours)
                    .all(|(rule, own)| *own == renamed(rule, &names) && stays(rule).is_none())
        };
        like.retain(|_, chain| same(chain));
        if like.len() == names.len() {
            return names;
        }
    }
}

/// A rule with the chain that it enters called as ours is; such a rule ends with it.
fn renamed(rule: &str, like: &BTreeSet<&str>) -> String {
    if let Some((before, target)) = rule.rsplit_once(' ')
        && like.contains(target)
        && (before == "-j" || before == "-g" || before.ends_with(" -j") || before.ends_with(" -g"))
    {
        return format!("{before} {PREFIX}{target}");
    }
    rule.to_owned()
}

/// Those of the chains that nothing of others enters once the rules of built-in chains are taken.
fn unentered<'t>(
    table: &'t SaveTable,
    like: &BTreeSet<&str>,
    taken: &[(&str, &String)],
) -> Vec<&'t SaveChain> {
    let mut going: BTreeSet<&str> = like.clone();
    loop {
        let stays = |chain: &&SaveChain| !going.contains(chain.name.as_str());
        let entered: BTreeSet<String> = table
            .chains()
            .iter()
            .filter(stays)
            .flat_map(|chain| {
                chain.rules.iter().filter(|rule| !taken.contains(&(chain.name.as_str(), *rule)))
            })
            .filter_map(|rule| jump(rule).map(|jump| jump.target.into_owned()))
            .collect();
        let before = going.len();
        going.retain(|name| !entered.contains(*name));
        if going.len() == before {
            return table.chains().iter().filter(|chain| going.contains(chain.name.as_str())).collect();
        }
    }
}

/// Chains that have the name of one of ours and differ from it: the first difference.
fn differing(family: IpFamily, name: &str, table: &SaveTable, like: &BTreeSet<&str>) -> Vec<Warning> {
    let others = table.chains().iter().filter(|c| !c.is_managed() && !is_entered(name, &c.name));
    others
        .filter(|chain| !like.contains(chain.name.as_str()))
        .filter_map(|chain| {
            let ours = table.chain(&managed_name(&chain.name))?;
            let all: BTreeSet<&str> = table.chains().iter().map(|c| c.name.as_str()).collect();
            let pairs = chain.rules.iter().map(Some).chain(std::iter::repeat(None));
            let own_rules = ours.rules.iter().map(Some).chain(std::iter::repeat(None));
            let length = chain.rules.len().max(ours.rules.len());
            let differs = pairs.zip(own_rules).take(length).find(|(theirs, own)| {
                theirs.map(|rule| renamed(rule, &all)).as_ref() != *own
                    || theirs.is_some_and(|r| stays(r).is_some())
            });
            let shown = |rule: Option<&String>| rule.map_or("nothing".to_owned(), |rule| format!("`{rule}`"));
            let words = differs.map_or_else(
                || "it jumps to a chain that differs from the managed one".to_owned(),
                |(theirs, own)| format!("the host has {}, the inventory has {}", shown(theirs), shown(own)),
            );
            Some(Warning::new(
                LintCode::NotAdopted,
                format!("{family} {name}/{} is not adopted: {words}", chain.name),
                None,
            ))
        })
        .collect()
}

/// The rules less those that are taken.
pub(super) fn without_adopted(save: &SavedTables, list: &[AdoptedRule]) -> SavedTables {
    let mut save = save.clone();
    for one in list {
        let Some(table) = save.tables.get_mut(&one.table) else { continue };
        match &one.rule {
            Some(rule) => {
                if let Some(rules) = table.rules_mut(&one.chain)
                    && let Some(at) = rules.iter().position(|r| r == rule)
                {
                    rules.remove(at);
                }
            }
            None => drop(table.remove(&one.chain)),
        }
    }
    save
}

/// Proves that the adoption alone changes no verdict. A rule of ours that says the same as one that stays, and more,
/// counts as if it stood there already: what more it says is a change of its own, which the plan shows.
pub(super) fn prove_unchanged(
    family: IpFamily,
    live: &SavedTables,
    predicted: &SavedTables,
    taken: &FamilyAdoption,
) -> Result<(), VerdictDifference> {
    let before = super::near_match::with_near_matches(live, &taken.near);
    let (before, after) = (Ruleset::new(&before), Ruleset::new(&alone(live, predicted, taken)));
    prove_equivalent(&before, &after, family).map_err(|mut difference| {
        // What else the plan declares may accept that packet after all.
        let whole = Ruleset::new(&without_adopted(predicted, &taken.list));
        if !difference.also_in(&Ruleset::new(live), &whole) {
            difference.evidence = None;
        }
        difference
    })
}

/// The live rules after the adoption and nothing else of the plan: of ours only what was live before, and what is
/// taken over or stays in other words.
fn alone(live: &SavedTables, predicted: &SavedTables, taken: &FamilyAdoption) -> SavedTables {
    let list = &taken.list;
    let mut save = without_adopted(predicted, list);
    for (name, table) in &mut save.tables {
        let chains: BTreeSet<&str> = list
            .iter()
            .filter(|one| one.table == *name && one.rule.is_none())
            .map(|one| one.chain.as_str())
            .collect();
        let of = |chain: &str| -> BTreeSet<String> {
            let here = list.iter().filter(|one| one.table == *name && one.chain == chain);
            // Chains that stay because others enter them are like ours all the same.
            here.filter_map(|one| one.rule.as_deref())
                .flat_map(|rule| [renamed(rule, &chains), own_name(rule)])
                .collect()
        };
        let names: Vec<String> = table.chains().iter().map(|chain| chain.name.clone()).collect();
        for chain in names {
            if let Some(plain) = chain.strip_prefix(PREFIX).filter(|plain| is_entered(name, plain)) {
                let near = &taken.near;
                let near: Vec<&String> =
                    near.iter().filter(|n| n.is_in(name, plain)).map(|n| &n.ours).collect();
                let taken = of(plain);
                let before = live.chain(name, &chain).map_or(&[] as &[String], |chain| &chain.rules);
                if let Some(rules) = table.rules_mut(&chain) {
                    rules
                        .retain(|rule| taken.contains(rule) || before.contains(rule) || near.contains(&rule));
                }
            } else if let Some(mut found) = table.chain(&chain).cloned() {
                let policy = live.chain(name, &chain).and_then(|chain| chain.policy);
                found.policy = found.policy.map(|now| {
                    policy.unwrap_or(match live.tables.contains_key(name) {
                        true => now,
                        false => crate::resource::iptables::ChainPolicy::Accept,
                    })
                });
                table.insert(found);
            }
        }
    }
    save
}

/// A rule that enters a chain, as it is called in ours.
fn own_name(rule: &str) -> String {
    let target = rule.rsplit(' ').next().unwrap_or_default();
    renamed(rule, &[target].into())
}
