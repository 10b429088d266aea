//! Sets of ipset: those that are declared, live against wanted.

use super::{Change, ChangeAction, ChangeRisk, Diff, DiffLine, GenerationManifest, PlanOptions, Refusal};
use crate::host_state::Observed;
use crate::problem::{LintCode, Origin, Warning, WarningMessage};
use crate::resolve::Desired;
use crate::resource::ResourceKind;
use crate::resource::ipset::{DeclaredSet, LiveSet, plain_member};
use crate::resource::iptables::PREFIX;
use crate::resource::iptables::save::{SavedTables, tokens};
use crate::resource::iptables::targets::is_set_option;
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
    pub originals: BTreeMap<String, DeclaredSet>,
    /// The same as the current generation has them.
    taken: BTreeMap<String, DeclaredSet>,
}

pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    record: &GenerationManifest,
    options: &PlanOptions,
) -> SetsPlan {
    let (originals, taken) = (record.original_sets.clone(), record.original_sets.clone());
    let mut plan = SetsPlan { originals, taken, ..SetsPlan::default() };
    plan.originals.retain(|name, _| desired.sets.contains_key(name));
    plan.refusal = unusable(desired, observed);
    let management = named_by_input(observed);
    for set in desired.sets.values() {
        let live = observed.sets.live.get(&set.name);
        let recorded = record.sets.get(&set.name);
        if let Some(live) = live {
            taken_over(set, live, recorded, options, &mut plan);
        }
        let (action, diff) = match live {
            None => (ChangeAction::Add, Some(added(set))),
            Some(live) => (ChangeAction::Change, live_or_recorded(set, live, recorded, options, &mut plan)),
        };
        if let Some(diff) = diff {
            let risks =
                if management.contains(&set.name) { vec![ChangeRisk::ManagementPath] } else { Vec::new() };
            let (origin, resource) = (vec![set.origin.clone()], set.name.clone());
            plan.changes.push(Change { kind: ResourceKind::Ipset, resource, action, diff, origin, risks });
        }
    }
    plan.wanted = render(desired.sets.values(), DeclaredSet::render);
    let gone = record.sets.values().filter(|set| !desired.sets.contains_key(&set.name));
    // A list of sets goes before those that are in it.
    let (lists, others): (Vec<&DeclaredSet>, Vec<&DeclaredSet>) = gone.partition(|set| is_list(set));
    for set in lists.into_iter().chain(others) {
        removed(set, observed, record, &management, &mut plan);
    }
    plan
}

/// Sets as a host gets them, by `text`; lists of sets come last, because their members have to be there.
fn render<'a>(sets: impl Iterator<Item = &'a DeclaredSet>, text: fn(&DeclaredSet) -> String) -> String {
    let (lists, others): (Vec<&DeclaredSet>, Vec<&DeclaredSet>) = sets.partition(|set| is_list(set));
    others.into_iter().chain(lists).map(text).collect()
}

fn is_list(set: &DeclaredSet) -> bool {
    set.shape.kind.method() == "list"
}

/// The lines that make the sets of a host, without members.
pub(super) fn headers(desired: &Desired) -> String {
    render(desired.sets.values(), DeclaredSet::header)
}

/// Why no set at all can be made there.
fn unusable(desired: &Desired, observed: &Observed) -> Option<Refusal> {
    let words = observed.sets.refused.as_ref().filter(|_| !desired.sets.is_empty())?;
    Some(Refusal::new("rejected-set", format!("ipset on the host rejected the sets: {words}")))
}

/// Decides about a set that is there: whether it can be ours, and what is recorded of it.
fn taken_over(
    set: &DeclaredSet,
    live: &LiveSet,
    recorded: Option<&DeclaredSet>,
    options: &PlanOptions,
    plan: &mut SetsPlan,
) {
    let name = &set.name;
    if !set.is_same_type(live) {
        let is = live.options.split(" hashsize").next().unwrap_or(&live.options);
        let whose = if recorded.is_some() { "" } else { ", which is unmanaged" };
        let message = format!(
            "the set `{name}` exists as {is}{whose}, and is declared as {}: the type of a set cannot change; \
             declare it under another name ({})",
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
                "the set `{name}` exists without `{}`, and an option cannot change while other programs own \
                 the members; declare the options that it has, or destroy the set and apply again ({})",
                differing.join("`, `"),
                set.origin
            );
            plan.refusal.get_or_insert(Refusal::new("set-options", message));
        }
        // Whoever had it keeps it: from now on its members belong to other programs, whatever they were before.
        if recorded.is_none() || plan.originals.contains_key(name) {
            plan.originals.insert(name.clone(), set.clone());
        }
        return;
    }
    if !options.drift && has_members_of_others(set, live, recorded, plan) {
        adopted(set, live, recorded, options, plan);
    }
}

/// Whether the members that a set has are not those of an earlier generation.
fn has_members_of_others(
    set: &DeclaredSet,
    live: &LiveSet,
    recorded: Option<&DeclaredSet>,
    plan: &SetsPlan,
) -> bool {
    match recorded {
        None => true,
        Some(DeclaredSet { entries: Some(_), .. }) => false,
        // kvmfw made it for other programs: it is theirs as far as they have put something into it.
        Some(_) if !plan.originals.contains_key(&set.name) => {
            let wanted: HashSet<String> =
                set.entries.iter().flat_map(|e| e.iter().map(|m| plain_member(m))).collect();
            live.members.iter().flatten().any(|member| !wanted.contains(member))
        }
        Some(_) => true,
    }
}

/// Takes over a set with the members of others, where that is allowed: they are recorded, so that they can come back.
fn adopted(
    set: &DeclaredSet,
    live: &LiveSet,
    recorded: Option<&DeclaredSet>,
    options: &PlanOptions,
    plan: &mut SetsPlan,
) {
    let name = &set.name;
    // Whoever goes back to a generation says by that whose members the set is to have.
    if !options.adopt && options.restore.is_none() {
        let whose = match recorded {
            None => "exists and is unmanaged; declare another name,",
            Some(_) => {
                "has members that other programs added while its entries were unmanaged; declare those that \
                 must stay,"
            }
        };
        let message = format!(
            "the set `{name}` {whose} write `entries: unmanaged` if another program adds its members, or \
             adopt it with --adopt, which removes undeclared members ({})",
            set.origin
        );
        plan.refusal.get_or_insert(Refusal::new("unmanaged-owner", message));
        return;
    }
    match original(set, live) {
        Some(original) => drop(plan.originals.insert(name.clone(), original)),
        None => {
            let message = format!(
                "the set `{name}` cannot be adopted: it has members with a timeout, or options that kvmfw \
                 does not know; write `entries: unmanaged` ({})",
                set.origin
            );
            plan.refusal.get_or_insert(Refusal::new("unmanaged-owner", message));
        }
    }
}

/// A set of others as it is, so that it can become that again.
fn original(set: &DeclaredSet, live: &LiveSet) -> Option<DeclaredSet> {
    let (shape, members) = (live.shape()?, live.members.clone()?);
    let lasting = members.iter().all(|member| !member.ends_with(" timeout") && !member.contains(" timeout "));
    lasting.then(|| DeclaredSet {
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
fn whole(sign: char, set: &DeclaredSet, origin: Option<&Origin>) -> Diff {
    let mut lines = vec![line(sign, set.options(), origin)];
    match &set.entries {
        None => lines.push(line(sign, "entries unmanaged".to_owned(), origin)),
        Some(entries) => members(sign, entries.iter(), entries.len(), origin, &mut lines),
    }
    lines.into()
}

fn added(set: &DeclaredSet) -> Diff {
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

/// What changes of a set that is there: how it is live, and else what is recorded of it.
///
/// A generation is what every boot makes, so that what it says otherwise is a change, too.
fn live_or_recorded(
    set: &DeclaredSet,
    live: &LiveSet,
    recorded: Option<&DeclaredSet>,
    options: &PlanOptions,
    plan: &mut SetsPlan,
) -> Option<Diff> {
    let origin = Some(&set.origin);
    let mut lines = Vec::new();
    if set.entries.is_none() && remade(set, live, options, plan) {
        lines.push(line('-', live.options.split(" bucketsize").next().unwrap_or_default().to_owned(), None));
        lines.push(line('+', set.options(), origin));
    }
    let differing = changed(set, live);
    if recorded.is_none_or(|recorded| recorded.entries.is_some() != set.entries.is_some()) {
        let unmanaged = || "entries unmanaged".to_owned();
        if let Some(recorded) = recorded {
            lines.push(match &recorded.entries {
                Some(entries) => line('-', format!("entries declared, {}", entries.len()), None),
                None => line('-', unmanaged(), None),
            });
        } else {
            lines.push(line('…', "the set exists already".to_owned(), None));
        }
        lines.push(match &set.entries {
            Some(entries) => line('+', format!("entries declared, {}", entries.len()), origin),
            None => line('+', unmanaged(), origin),
        });
        lines.extend(given_back(set, live, recorded, options, plan));
    } else if differing.is_none()
        && let Some(recorded) = recorded.filter(|recorded| recorded.render() != set.render())
    {
        lines.extend(recorded_otherwise(set, recorded));
    }
    lines.extend(differing.into_iter().flat_map(|diff| diff.lines.iter().cloned().collect::<Vec<_>>()));
    (!lines.is_empty()).then(|| lines.into())
}

/// Whether a set whose members are those of others was made anew with another type or other options.
fn remade(set: &DeclaredSet, live: &LiveSet, options: &PlanOptions, plan: &SetsPlan) -> bool {
    // What it may have beyond what is stated is known only of a set that kvmfw made.
    let exactly = options.drift && !plan.originals.contains_key(&set.name);
    !set.is_same_type(live) || !set.differing(live).is_empty() || exactly && !set.has_options_of(live)
}

/// An undo to a generation in which the members were those of others: they come back as they were recorded.
fn given_back(
    set: &DeclaredSet,
    live: &LiveSet,
    recorded: Option<&DeclaredSet>,
    options: &PlanOptions,
    plan: &mut SetsPlan,
) -> Vec<DiffLine> {
    let taken = recorded.is_some_and(|recorded| recorded.entries.is_some());
    let Some(original) = plan.taken.get(&set.name) else { return Vec::new() };
    if options.restore.is_none() || set.entries.is_some() || !taken || !original.is_same_type(live) {
        return Vec::new();
    }
    let Some(diff) = changed(original, live) else { return Vec::new() };
    plan.once.push_str(&original.render());
    diff.lines.to_vec()
}

/// A generation says something else, though the set is as declared already.
fn recorded_otherwise(set: &DeclaredSet, recorded: &DeclaredSet) -> Vec<DiffLine> {
    let mut lines =
        vec![line('…', "the live host has no difference; the boot state has one".to_owned(), None)];
    if recorded.options() != set.options() {
        lines.push(line('-', recorded.options(), None));
        lines.push(line('+', set.options(), Some(&set.origin)));
    }
    let of = |set: &DeclaredSet| {
        set.entries.iter().flat_map(|entries| entries.iter().cloned()).collect::<BTreeSet<_>>()
    };
    let (was, is) = (of(recorded), of(set));
    let (gone, new): (Vec<&String>, Vec<&String>) =
        (was.difference(&is).collect(), is.difference(&was).collect());
    members('-', gone.iter().copied(), gone.len(), None, &mut lines);
    members('+', new.iter().copied(), new.len(), Some(&set.origin), &mut lines);
    lines
}

/// What differs between a set that is there and what is declared; `None` where nothing does.
fn changed(set: &DeclaredSet, live: &LiveSet) -> Option<Diff> {
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

/// A set of ours that is declared no more goes, or becomes what it was before. Either way the generation forgets it.
fn removed(
    set: &DeclaredSet,
    observed: &Observed,
    record: &GenerationManifest,
    management: &BTreeSet<String>,
    plan: &mut SetsPlan,
) {
    let risks = if management.contains(&set.name) { vec![ChangeRisk::ManagementPath] } else { Vec::new() };
    let mut change = |action, diff: Diff| {
        let (kind, resource, origin) = (ResourceKind::Ipset, set.name.clone(), Vec::new());
        plan.changes.push(Change { kind, resource, action, diff, origin, risks: risks.clone() });
    };
    let stays = |why: &str| Diff::from(vec![line('-', set.options(), None), line('…', why.to_owned(), None)]);
    let Some(live) = observed.sets.live.get(&set.name) else {
        change(ChangeAction::Remove, stays("it does not exist, and no boot creates it any more"));
        return;
    };
    if let Some(original) = record.original_sets.get(&set.name) {
        let back = original.entries.is_some() && original.is_same_type(live);
        match changed(original, live).filter(|_| back) {
            Some(diff) => change(ChangeAction::Change, diff),
            None => change(ChangeAction::Remove, stays("stays, as an unmanaged set")),
        }
        if back {
            plan.once.push_str(&original.render());
        }
        return;
    }
    if let Some(rule) = named_by_others(&set.name, observed) {
        change(ChangeAction::Remove, stays("stays, because an unmanaged rule uses it"));
        plan.warnings.push(Warning::new(
            LintCode::SetInUse,
            WarningMessage::new(format!(
                "the set `{}` stays on the host although it is no longer declared",
                set.name
            ))
            .cause(format!("{rule}, which is unmanaged, uses it"))
            .fix(format!("remove that rule, then run `ipset destroy {}` on the host", set.name)),
            None,
        ));
        return;
    }
    change(ChangeAction::Remove, whole('-', set, None));
    let _ = writeln!(plan.once, "gone {}", set.name);
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
    words.windows(2).filter(|two| is_set_option(&two[0])).map(|two| two[1].to_string()).collect()
}

/// Every live rule with its table and chain.
fn live_rules(observed: &Observed) -> impl Iterator<Item = (&str, &str, &String)> {
    let saves = observed.rules.values().map(|rules| &rules.live);
    saves.flat_map(rules_of)
}

fn rules_of(save: &SavedTables) -> impl Iterator<Item = (&str, &str, &String)> {
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
        crate::host_state::PredictedRules::Rules(save) => Some(save),
        _ => None,
    });
    let all = live_rules(observed).chain(predicted.flat_map(rules_of));
    let rules = all.filter(|(table, chain, _)| *table == "filter" && !chain.ends_with("FORWARD"));
    rules.flat_map(|(.., rule)| sets_of(rule)).collect()
}
