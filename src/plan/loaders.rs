//! What else loads rules when the host boots: programs that wipe ours, files that have copies of ours, and rules of ours
//! that wait for others.

use super::PlanOptions;
use super::rules::{RulesPlan, origins};
use crate::host_state::Observed;
use crate::problem::{LintCode, Origin, Warning, WarningMessage};
use crate::resolve::Desired;
use crate::resource::iptables::save::{SaveChain, jump, tokens};
use crate::resource::iptables::targets::is_set_option;
use crate::resource::iptables::{IpFamily, PREFIX};
use std::collections::{BTreeMap, BTreeSet};

/// Who loads a file in the form of `iptables-save` without a line that says so: the file, the service, and whether that
/// runs before kvmfw.service.
const SERVICES: [(&str, &str, bool); 4] = [
    ("/etc/iptables/rules.v4", "netfilter-persistent.service", true),
    ("/etc/iptables/rules.v6", "netfilter-persistent.service", true),
    ("/etc/sysconfig/iptables", "iptables.service", false),
    ("/etc/sysconfig/ip6tables", "ip6tables.service", false),
];

/// What a plan says of all that.
pub(super) fn warnings(
    desired: &Desired,
    observed: &Observed,
    options: &PlanOptions,
    rules: &[RulesPlan; 2],
) -> Vec<Warning> {
    let mut all = saved(observed, options);
    if desired.rules.values().all(|rules| rules.tables.is_empty()) {
        return all;
    }
    all.extend(loaders(observed));
    for (family, planned) in IpFamily::ALL.into_iter().zip(rules) {
        all.extend(waiting(family, desired, observed, planned));
    }
    all
}

/// Programs that replace whole tables or flush them at boot.
fn loaders(observed: &Observed) -> Vec<Warning> {
    let files = &observed.boot_files;
    let warn = |message| Warning::new(LintCode::BootLoader, message, None);
    let mut all = Vec::new();
    for (path, service, before) in SERVICES {
        if !files.saves(path) || !files.enabled(service) {
            continue;
        }
        all.push(warn(match before {
            true => WarningMessage::new(format!(
                "{service} replaces whole tables from {path}: harmless at boot, before the rules of kvmfw \
                 load. When it is restarted, the rules of kvmfw are missing for a second or two, until \
                 kvmfw-settle.service restores them"
            )),
            false => WarningMessage::new(format!(
                "{service} replaces whole tables from {path}, at boot and at a \
                 restart: the rules of kvmfw are then missing for a second or two, \
                 until kvmfw-settle.service restores them"
            ))
            .fix(format!(
                "run systemctl disable {service}, and move the rules of that file to the inventory"
            )),
        }));
    }
    for loader in &files.loaders {
        let place = &loader.place;
        let by = files.named_by(&place.path).map_or_else(String::new, |by| format!(", which {by} names"));
        all.push(warn(
            WarningMessage::new(format!(
                "{}:{}{by}: `{}` removes or replaces all rules at boot: those of \
                 kvmfw are then missing for a second or two, until \
                 kvmfw-settle.service restores them",
                place.path, place.line, loader.command
            ))
            .fix("remove the line or load with --noflush, and move the rules that it loads to the inventory"),
        ));
    }
    all
}

/// Files of others that have rules of ours in them.
fn saved(observed: &Observed, options: &PlanOptions) -> Vec<Warning> {
    let warn = |place: &crate::host_state::BootLine| {
        let (path, line) = (&place.path, place.line);
        let clean = match path.as_str() {
            "/etc/iptables/rules.v4" | "/etc/iptables/rules.v6" => {
                "run `netfilter-persistent save` there after an undo, or ".to_owned()
            }
            "/etc/sysconfig/iptables" => "run `service iptables save` there after an undo, or ".to_owned(),
            "/etc/sysconfig/ip6tables" => "run `service ip6tables save` there after an undo, or ".to_owned(),
            _ => String::new(),
        };
        let what = match options.purge {
            true => "the next boot, or another load of that file, brings them back after this undo",
            false => {
                "a load of that file brings back old rules, even after an undo; at boot the rules of the \
                 generation replace them"
            }
        };
        Warning::new(
            LintCode::SavedRules,
            WarningMessage::new(format!(
                "{path}:{line} contains rules of kvmfw (`{PREFIX}`), which another program saved: {what}"
            ))
            .fix(format!("{clean}run `sed -i /{PREFIX}/d {path}`")),
            None,
        )
    };
    observed.boot_files.ours.iter().map(warn).collect()
}

/// Rules of ours that need a chain or a set of others, which is not there yet when the rules load at boot.
fn waiting(family: IpFamily, desired: &Desired, observed: &Observed, planned: &RulesPlan) -> Vec<Warning> {
    let mut needs: BTreeMap<(String, Option<Origin>), String> = BTreeMap::new();
    for (table, chain) in planned.predicted.managed_chains() {
        for (index, rule) in chain.rules.iter().enumerate() {
            let Some(what) = needed(family, table, rule, desired, observed, planned) else { continue };
            let place = format!("{family} {table}/{}: `{rule}`", chain.name.trim_start_matches(PREFIX));
            needs.insert((place, origin(family, desired, table, chain, index)), what);
        }
    }
    let warn = |((place, origin), what)| {
        Warning::new(
            LintCode::NotAtBoot,
            format!(
                "{place} cannot load at boot before {what} exists, which another program creates. Until then \
                 packets go on to the rules after it; all other rules load, and this one follows within seconds"
            ),
            origin,
        )
    };
    needs.into_iter().map(warn).collect()
}

/// The chain or the set of others that a rule needs.
fn needed(
    family: IpFamily,
    table: &str,
    rule: &str,
    desired: &Desired,
    observed: &Observed,
    planned: &RulesPlan,
) -> Option<String> {
    if let Some(target) = jump(rule).map(|jump| jump.target)
        && !target.starts_with(PREFIX)
        && planned.predicted.chain(table, &target).is_some()
        && !observed.boot_files.makes_chain(family, table, &target)
    {
        return Some(format!("the chain {target}"));
    }
    if !rule.contains("-set ") {
        return None;
    }
    let words = tokens(rule).ok()?;
    let sets: BTreeSet<&str> =
        words.windows(2).filter(|two| is_set_option(&two[0])).map(|two| &*two[1]).collect();
    // Those that the inventory declares are made before the rules load.
    let mut others = sets.into_iter().filter(|set| !desired.sets.contains_key(*set));
    others.next().map(|set| format!("the set {set}"))
}

fn origin(
    family: IpFamily,
    desired: &Desired,
    table: &str,
    chain: &SaveChain,
    index: usize,
) -> Option<Origin> {
    let declared = desired.rules.get(&family)?.tables.get(table)?.chains.get(&chain.name)?;
    origins(declared, chain.rules.len()).into_iter().nth(index)?
}
