//! What has to be on a host so that its generation boots: unit files, links, rules files.

use super::{Change, ChangeAction, Diff, DiffLine, HostPlan, ResourceKind};
use crate::host_state::{Observed, SkippedRule, plain_rule};
use crate::problem::{LintCode, Origin, Warning, WarningMessage};
use crate::resolve::Desired;
use crate::resource::iptables::{IpFamily, PREFIX};
use std::collections::BTreeMap;

/// What the second stage of the boot did, and what it still waits for.
pub(super) fn warnings(desired: &Desired, observed: &Observed) -> Vec<Warning> {
    let left = observed.state.boot_left.iter().map(|left| {
        Warning::new(
            LintCode::LeftOut,
            WarningMessage::new(format!(
                "{} {}/{}: `{}` is not loaded since the last boot; all other rules are loaded",
                left.family,
                left.table,
                left.chain.trim_start_matches(PREFIX),
                left.rule
            ))
            .cause(&*left.reason),
            origin(desired, left),
        )
    });
    let mut programs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in &observed.state.boot_repaired {
        if let Some((time, program)) = line.split_once(' ') {
            programs.entry(program).or_default().push(time);
        }
    }
    let words = |program| match program {
        "ipset" => "sets".to_owned(),
        program => format!("the {program} rules"),
    };
    let repaired = programs.into_iter().map(|(program, times)| {
        Warning::new(
            LintCode::BootRepaired,
            WarningMessage::new(format!(
                "since the last boot another program removed or changed {} of kvmfw \
                 ({}, the last time at {}); kvmfw-settle.service restored them, and \
                 until then they did not filter",
                words(program),
                match times.len() {
                    1 => "once".to_owned(),
                    n => format!("{n} times"),
                },
                times.last().unwrap_or(&"?")
            ))
            .fix("stop that program from changing them"),
            None,
        )
    });
    left.chain(repaired).collect()
}

/// Where a rule was declared that is known as the host writes it.
fn origin(desired: &Desired, left: &SkippedRule) -> Option<Origin> {
    let chain = desired.rules.get(&left.family)?.tables.get(&left.table)?.chains.get(&left.chain)?;
    let wanted = plain_rule(&left.rule);
    chain.rules.iter().find(|rule| plain_rule(&rule.text) == wanted).map(|rule| rule.origin.clone())
}

/// What is missing or not as it was written; any apply writes it anew.
pub(super) fn changes(observed: &Observed) -> Vec<Change> {
    let mut kinds: BTreeMap<ResourceKind, Vec<DiffLine>> = BTreeMap::new();
    for path in &observed.state.boot_missing {
        let line = DiffLine { sign: '+', text: path.clone(), origin: None };
        kinds.entry(kind(path)).or_default().push(line);
    }
    let change = |(kind, lines)| Change {
        kind,
        resource: "boot".to_owned(),
        action: ChangeAction::Change,
        diff: Diff::from(lines),
        origin: Vec::new(),
        risks: Vec::new(),
    };
    kinds.into_iter().map(change).collect()
}

/// Live rules of ours on a host that has no record of them do not boot, whether or not they are the wanted ones.
pub(super) fn unrecorded(desired: &Desired, observed: &Observed, plan: &mut HostPlan) {
    if observed.state.generation.is_some() {
        return;
    }
    for family in IpFamily::ALL {
        let live = observed.rules.get(&family).map(|rules| &rules.live);
        if !live.is_some_and(|live| live.managed_chains().next().is_some() || !live.jump_rules().is_empty()) {
            continue;
        }
        let kind = ResourceKind::from(family);
        plan.warnings.push(Warning::new(
            LintCode::Unrecorded,
            WarningMessage::new(format!(
                "{family} rules of kvmfw are live without a record on the host, and \
                 the next boot does not load them"
            ))
            .cause("/etc/kvmfw was removed, or another program loaded rules that it had saved")
            .fix(
                "apply, to record the declared state; then `kvmfw undo --to 0` \
                 removes everything if that is the goal",
            ),
            None,
        ));
        if desired.rules.contains_key(&family) {
            let text = "/etc/kvmfw/current, the boot state of these rules".to_owned();
            let diff = Diff::from(vec![DiffLine { sign: '+', text, origin: None }]);
            let (resource, action) = ("boot".to_owned(), ChangeAction::Add);
            plan.changes.push(Change { kind, resource, action, diff, origin: Vec::new(), risks: Vec::new() });
        }
    }
}

/// Which kind of resource boots by a file.
fn kind(path: &str) -> ResourceKind {
    match path.rsplit('/').next().unwrap_or(path) {
        "kvmfw-bridges.service" => ResourceKind::Bridge,
        "rules.v6" => ResourceKind::Ip6tables,
        "sets" => ResourceKind::Ipset,
        "kvmfw.service" | "kvmfw-settle.service" | "rules.v4" | "kvmfw.sh" => ResourceKind::Iptables,
        _ => ResourceKind::Sysctl,
    }
}
