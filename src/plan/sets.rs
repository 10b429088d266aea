//! Sets of ipset: those that are declared, live against wanted.

use super::{Action, Change, Diff, DiffLine, Options, Record, Refusal, Risk};
use crate::desired::Desired;
use crate::observe::Observed;
use crate::problem::{Origin, Warning};
use crate::resource::Kind;
use crate::resource::ipset::{Live, Set, plain_member};
use crate::resource::iptables::PREFIX;
use crate::resource::iptables::save::{Save, tokens};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

/// So many members are shown of those that come and of those that go; of more, how many there are.
const SHOWN: usize = 20;

/// What a plan does about sets.
#[derive(Default)]
pub(super) struct SetsPlan {
    pub changes: Vec<Change>,
    pub warnings: Vec<Warning>,
    /// Why the host is left alone.
    pub refusal: Option<Refusal>,
    /// The sets that the host gets, at every boot too.
    pub wanted: String,
    /// What is done once: sets of others that become what they were, and names of those that go.
    pub once: String,
    /// Sets that were there before kvmfw stated them, for the record.
    pub originals: BTreeMap<String, Set>,
}

pub(super) fn plan(desired: &Desired, observed: &Observed, record: &Record, options: &Options) -> SetsPlan {
    let mut plan = SetsPlan { originals: record.original_sets.clone(), ..SetsPlan::default() };
    plan.originals.retain(|name, _| desired.sets.contains_key(name));
    plan.refusal = unusable(desired, observed);
    let management = named_by_input(observed);
    for set in desired.sets.values() {
        let live = observed.sets.live.get(&set.name);
        let ours = record.sets.contains_key(&set.name);
        if let Some(live) = live {
            taken_over(set, live, ours, options, &mut plan);
        }
        let (action, diff) = match live {
            None => (Action::Add, Some(added(set))),
            Some(live) => (Action::Change, changed(set, live)),
        };
        if let Some(diff) = diff {
            let risks = if management.contains(&set.name) { vec![Risk::ManagementPath] } else { Vec::new() };
            let (origin, resource) = (vec![set.origin.clone()], set.name.clone());
            plan.changes.push(Change { kind: Kind::Ipset, resource, action, diff, origin, risks });
        }
    }
    plan.wanted = render(desired.sets.values(), Set::render);
    let gone = record.sets.values().filter(|set| !desired.sets.contains_key(&set.name));
    // A list of sets goes before those that are in it.
    let (lists, others): (Vec<&Set>, Vec<&Set>) = gone.partition(|set| is_list(set));
    for set in lists.into_iter().chain(others) {
        removed(set, observed, record, &management, &mut plan);
    }
    plan
}

/// Sets as a host gets them, by `text`; lists of sets come last, because their members have to be there.
fn render<'a>(sets: impl Iterator<Item = &'a Set>, text: fn(&Set) -> String) -> String {
    let (lists, others): (Vec<&Set>, Vec<&Set>) = sets.partition(|set| is_list(set));
    others.into_iter().chain(lists).map(text).collect()
}

fn is_list(set: &Set) -> bool {
    set.shape.kind.method() == "list"
}

/// The lines that make the sets of a host, without members.
pub(super) fn headers(desired: &Desired) -> String {
    render(desired.sets.values(), Set::header)
}

/// Why no set at all can be made there.
fn unusable(desired: &Desired, observed: &Observed) -> Option<Refusal> {
    let words = observed.sets.refused.as_ref().filter(|_| !desired.sets.is_empty())?;
    Some(Refusal::new("rejected-set", format!("ipset on the host does not take the sets: {words}")))
}

/// Decides about a set that is there: whether it can be ours, and what is recorded of it.
fn taken_over(set: &Set, live: &Live, ours: bool, options: &Options, plan: &mut SetsPlan) {
    let name = &set.name;
    if !set.is_same_type(live) {
        let is = live.options.split(" hashsize").next().unwrap_or(&live.options);
        let whose = if ours { "" } else { ", which is not of kvmfw" };
        let message = format!(
            "the set `{name}` is there as {is}{whose}, and is declared as {}: the members of one type cannot take the place of \
             those of another; declare it under another name ({})",
            set.options().split(" hashsize").next().unwrap_or_default(),
            set.origin
        );
        plan.refusal.get_or_insert(Refusal::new("set-type", message));
        return;
    }
    if set.entries.is_none() {
        let differing = set.differing(live);
        if !differing.is_empty() {
            let message = format!(
                "the set `{name}` is there without `{}`, and an option cannot change while its members are those of others; state \
                 what it has, or destroy it there and apply again ({})",
                differing.join("`, `"),
                set.origin
            );
            plan.refusal.get_or_insert(Refusal::new("set-options", message));
        }
        if !ours {
            plan.originals.insert(name.clone(), set.clone());
        }
        return;
    }
    if ours {
        return;
    }
    if !options.adopt {
        let message = format!(
            "the set `{name}` is there and is not of kvmfw; give the declared one another name, write `entries: unmanaged` where \
             another program adds its members, or take it over with --adopt ({})",
            set.origin
        );
        plan.refusal.get_or_insert(Refusal::new("unmanaged-owner", message));
        return;
    }
    let original = original(set, live);
    match original {
        Some(original) => drop(plan.originals.insert(name.clone(), original)),
        None => {
            let message = format!(
                "the set `{name}` cannot be taken over: some of its members go after a time, or it has options that kvmfw does not \
                 know; write `entries: unmanaged` ({})",
                set.origin
            );
            plan.refusal.get_or_insert(Refusal::new("unmanaged-owner", message));
        }
    }
}

/// A set of others as it is, so that it can become that again.
fn original(set: &Set, live: &Live) -> Option<Set> {
    let (shape, members) = (live.shape()?, live.members.clone()?);
    let lasting = members.iter().all(|member| !member.ends_with(" timeout") && !member.contains(" timeout "));
    lasting.then(|| Set {
        name: set.name.clone(),
        shape,
        entries: Some(Arc::new(members)),
        origin: set.origin.clone(),
    })
}

fn line(sign: char, text: String, origin: Option<&Origin>) -> DiffLine {
    DiffLine { sign, text, origin: origin.cloned() }
}

/// What is shown of a set that comes or goes.
fn whole(sign: char, set: &Set, origin: Option<&Origin>) -> Diff {
    let mut lines = vec![line(sign, set.options(), origin)];
    match &set.entries {
        None => lines.push(line(sign, "entries unmanaged".to_owned(), origin)),
        Some(entries) => members(sign, entries.iter(), entries.len(), origin, &mut lines),
    }
    lines.into()
}

fn added(set: &Set) -> Diff {
    whole('+', set, Some(&set.origin))
}

/// Some members, and how many more there are.
fn members<'a>(
    sign: char,
    all: impl Iterator<Item = &'a String>,
    count: usize,
    origin: Option<&Origin>,
    lines: &mut Vec<DiffLine>,
) {
    // One line in the place of one member would save nothing.
    let shown = if count <= SHOWN + 1 { count } else { SHOWN };
    lines.extend(all.take(shown).map(|member| line(sign, member.clone(), origin)));
    if count > shown {
        lines.push(line(sign, format!("… and {} more", count - shown), origin));
    }
}

/// What differs between a set that is there and what is declared; `None` where nothing does.
fn changed(set: &Set, live: &Live) -> Option<Diff> {
    let mut lines = Vec::new();
    let origin = Some(&set.origin);
    // Options of a set whose members are those of others cannot change.
    let entries = set.entries.as_ref()?;
    if !set.has_options_of(live) {
        lines.push(line('-', live.options.split(" bucketsize").next().unwrap_or_default().to_owned(), None));
        lines.push(line('+', set.options(), origin));
    }
    let nothing = Vec::new();
    let there = live.members.as_ref().unwrap_or(&nothing);
    // What the kernel prints of a member, and a declared one, are compared in the same form.
    let wanted: HashSet<String> = entries.iter().map(|member| plain_member(member)).collect();
    let is: HashSet<&str> = there.iter().map(String::as_str).collect();
    let gone: Vec<&String> = there.iter().filter(|member| !wanted.contains(*member)).collect();
    let new: Vec<&String> =
        entries.iter().filter(|member| !is.contains(plain_member(member).as_str())).collect();
    if gone.is_empty() && new.is_empty() && lines.is_empty() {
        return None;
    }
    let same = there.len() - gone.len();
    if same > 0 {
        lines.push(line('…', format!("{same} unchanged"), None));
    }
    members('-', gone.iter().copied(), gone.len(), None, &mut lines);
    members('+', new.iter().copied(), new.len(), origin, &mut lines);
    Some(lines.into())
}

/// A set of ours that is declared no more goes, or becomes what it was before.
fn removed(
    set: &Set,
    observed: &Observed,
    record: &Record,
    management: &BTreeSet<String>,
    plan: &mut SetsPlan,
) {
    let Some(live) = observed.sets.live.get(&set.name) else { return };
    let risks = if management.contains(&set.name) { vec![Risk::ManagementPath] } else { Vec::new() };
    let (kind, resource, origin) = (Kind::Ipset, set.name.clone(), Vec::new());
    if let Some(original) = record.original_sets.get(&set.name) {
        if original.entries.is_some() && original.is_same_type(live) {
            plan.once.push_str(&original.render());
            if let Some(diff) = changed(original, live) {
                plan.changes.push(Change { kind, resource, action: Action::Change, diff, origin, risks });
            }
        }
        return;
    }
    if let Some(rule) = named_by_others(&set.name, observed) {
        plan.warnings.push(Warning {
            code: "set-in-use",
            message: format!(
                "the set `{}` stays on the host, though it is declared no more: {rule}, which is not of kvmfw, asks it; \
                 `ipset destroy {}` there once that is gone",
                set.name, set.name
            ),
            origin: None,
        });
        return;
    }
    let _ = writeln!(plan.once, "gone {}", set.name);
    let diff = whole('-', set, None);
    plan.changes.push(Change { kind, resource, action: Action::Remove, diff, origin, risks });
}

/// Sets whose members a live rule adds or removes.
pub(super) fn changed_by_rules(observed: &Observed) -> BTreeSet<String> {
    let mut changed = BTreeSet::new();
    for (.., rule) in live_rules(observed).filter(|(.., rule)| rule.contains("-set ")) {
        let words = tokens(rule).unwrap_or_default();
        let changing = words.windows(2).filter(|two| matches!(&*two[0], "--add-set" | "--del-set"));
        changed.extend(changing.map(|two| two[1].to_string()));
    }
    changed
}

/// The sets that a rule names.
fn sets_of(rule: &str) -> Vec<String> {
    if !rule.contains("-set ") {
        return Vec::new();
    }
    let words = tokens(rule).unwrap_or_default();
    let naming = |word: &str| matches!(word, "--match-set" | "--add-set" | "--del-set" | "--map-set");
    words.windows(2).filter(|two| naming(&two[0])).map(|two| two[1].to_string()).collect()
}

/// Every live rule with its table and chain.
fn live_rules(observed: &Observed) -> impl Iterator<Item = (&str, &str, &String)> {
    let saves = observed.rules.values().map(|rules| &rules.live);
    saves.flat_map(rules_of)
}

fn rules_of(save: &Save) -> impl Iterator<Item = (&str, &str, &String)> {
    save.tables.iter().flat_map(|(table, chains)| {
        let chains = chains.chains().iter();
        chains
            .flat_map(move |chain| chain.rules.iter().map(move |r| (table.as_str(), chain.name.as_str(), r)))
    })
}

/// A live rule of others that names a set.
fn named_by_others(set: &str, observed: &Observed) -> Option<String> {
    let mut rules = live_rules(observed).filter(|(_, chain, _)| !chain.starts_with(PREFIX));
    let (table, chain, rule) = rules.find(|(.., rule)| sets_of(rule).iter().any(|name| name == set))?;
    Some(format!("the rule `{rule}` of {table}/{chain}"))
}

/// Sets that a rule asks which a packet to the host may pass: not those of FORWARD and of other tables alone.
fn named_by_input(observed: &Observed) -> BTreeSet<String> {
    let predicted = observed.rules.values().filter_map(|rules| match &rules.predicted {
        crate::observe::Predicted::Rules(save) => Some(save),
        _ => None,
    });
    let all = live_rules(observed).chain(predicted.flat_map(rules_of));
    let rules = all.filter(|(table, chain, _)| *table == "filter" && !chain.ends_with("FORWARD"));
    rules.flat_map(|(.., rule)| sets_of(rule)).collect()
}
