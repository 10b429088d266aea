//! Boot files that would bring back what is taken over, and those that are missing when it is given back.

use super::AdoptedRule;
use crate::host_state::BootFiles;
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::iptables::IpFamily;
use std::collections::{BTreeMap, BTreeSet};

/// Names each file with its lines, and what to do about it.
pub(super) fn warnings(family: IpFamily, list: &[AdoptedRule], files: &BootFiles) -> Vec<Warning> {
    let mut lines: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for one in list {
        let Some(rule) = &one.rule else { continue };
        for place in files.places(family, &one.table, &one.chain, rule) {
            lines.entry(&place.path).or_default().insert(place.line);
        }
    }
    let warn = |message| Warning::new(LintCode::AdoptedAtBoot, message, None);
    let mut all: Vec<Warning> = lines
        .into_iter()
        .map(|(path, lines)| {
            let what = match path.starts_with("/etc/iptables/rules.") {
                true => format!("delete those lines, move {path} away, or run apt purge iptables-persistent"),
                false => format!("delete those lines, or move {path} away"),
            };
            warn(
                WarningMessage::new(format!(
                    "{path} loads the adopted rules again at the next boot, beside the \
                     managed ones (line {})",
                    ranges(&lines)
                ))
                .fix(what),
            )
        })
        .collect();
    let mut scripts: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for line in &files.scripts {
        scripts.entry(&line.path).or_default().insert(line.line);
    }
    all.extend(scripts.into_iter().map(|(path, lines)| {
        warn(
            WarningMessage::new(format!(
                "{path} calls iptables (line {}), so it may create the adopted rules again",
                ranges(&lines)
            ))
            .fix("check that line and remove it if it creates them"),
        )
    }));
    all
}

/// Rules that come back, which a file loaded at boot when they were taken over, and that no file loads now.
pub(super) fn missing(family: IpFamily, again: &[AdoptedRule], files: &BootFiles) -> Vec<Warning> {
    let mut lost: BTreeMap<&str, usize> = BTreeMap::new();
    for one in again {
        let (Some(rule), Some(from)) = (&one.rule, &one.from) else { continue };
        if files.places(family, &one.table, &one.chain, rule).next().is_none() {
            *lost.entry(from).or_default() += 1;
        }
    }
    let warn = |(path, count): (&str, usize)| {
        let (rules, do_not, them) =
            if count == 1 { ("rule", "does not", "it") } else { ("rules", "do not", "them") };
        let (cause, fix) = match files.has(path) {
            false => {
                (format!("{path}, which loaded {them}, no longer exists"), "restore that file".to_owned())
            }
            true => (format!("{path} no longer contains {them}"), format!("write {them} to that file again")),
        };
        let message = WarningMessage::new(format!(
            "{count} unmanaged {rules} that the undo restores {do_not} load at boot"
        ))
        .cause(cause)
        .fix(fix);
        Warning::new(LintCode::NotAtBoot, message, None)
    };
    lost.into_iter().map(warn).collect()
}

/// `3-5, 9`.
fn ranges(lines: &BTreeSet<u32>) -> String {
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for line in lines {
        match spans.last_mut() {
            Some((_, last)) if *line == *last + 1 => *last = *line,
            _ => spans.push((*line, *line)),
        }
    }
    let shown = |(from, to): &(u32, u32)| if from == to { format!("{from}") } else { format!("{from}-{to}") };
    spans.iter().map(shown).collect::<Vec<_>>().join(", ")
}
