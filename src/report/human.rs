//! Plans and recaps as people read them. Equal changes of many hosts are one block; hosts without
//! changes are not mentioned; the summary comes last, where the eye is.

use super::document::{ChangeEntry, Document};
use super::{Style, fold_names, printable};
use crate::apply::Status;
use crate::plan::{Action, Risk};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A plan: blocks, warnings, hosts that are left alone, one summary line.
pub fn plan_text(document: &Document, style: Style) -> String {
    let mut out = String::new();
    blocks(document, style, &mut out);
    warnings(document, style, &mut out);
    hosts_by_message(document, style, &mut out);
    let changing = document.count(Status::Changed);
    let of_changing =
        || document.hosts.iter().filter(|h| h.status == Status::Changed).flat_map(|h| &h.changes);
    let count = |action| of_changing().filter(|c| c.action == action).count();
    let risky = of_changing().filter(|c| c.risks.contains(&Risk::ManagementPath)).count();
    let refused = document.count(Status::Refused);
    let stuck = document.hosts.iter().filter(|h| h.status == Status::Failed).count();
    if changing == 0 && stuck == 0 && refused == 0 {
        let _ = write!(out, "{}", style.strong("No changes."));
    } else if changing > 0 {
        let line = format!(
            "Plan: {} to add, {} to change, {} to remove on {changing} of {}.",
            count(Action::Add),
            count(Action::Change),
            count(Action::Remove),
            hosts(document.hosts.len()),
        );
        let _ = write!(out, "{}", style.strong(&line));
        if risky > 0 {
            let _ = write!(out, "\n{}", style.warn(&format!("{risky} of these touch what SSH passes.")));
        }
    }
    if stuck > 0 {
        let gap = if changing > 0 { " " } else { "" };
        let _ =
            write!(out, "{gap}{}", style.alarm(&format!("{} cannot be changed like this.", hosts(stuck))));
    }
    let unreachable = document.count(Status::Unreachable);
    if unreachable > 0 {
        let _ = write!(out, " {}", style.alarm(&format!("{} unreachable.", hosts(unreachable))));
    }
    if refused > 0 {
        let gap = if out.is_empty() || out.ends_with('\n') { "" } else { " " };
        let _ = write!(out, "{gap}{}", style.alarm(&format!("{} refused.", hosts(refused))));
    }
    out.push('\n');
    out
}

/// How a run ended: a line for each outcome, causes, what to do next.
pub fn recap_text(document: &Document, style: Style) -> String {
    let mut out = String::new();
    hosts_by_message(document, style, &mut out);
    if let Some(run) = &document.run {
        let _ = writeln!(out, "{}", style.strong(&format!("Run {run}")));
    }
    for status in Status::ALL {
        let names: Vec<&str> =
            document.hosts.iter().filter(|h| h.status == status).map(|h| h.name.as_str()).collect();
        if names.is_empty() {
            continue;
        }
        let word = format!("{:<12}", status.words());
        let word = match status {
            Status::Unchanged => word,
            Status::Changed => style.added(&word),
            Status::Skipped | Status::Refused => style.warn(&word),
            _ => style.alarm(&word),
        };
        let _ = writeln!(out, "  {word} {:>4}   {}", names.len(), printable(&fold_names(&names)));
    }
    out
}

fn hosts(n: usize) -> String {
    if n == 1 { "1 host".to_owned() } else { format!("{n} hosts") }
}

/// Equal things of many hosts as one, with the names of the hosts, in the order of first mention.
fn together<'d, T: Ord + Copy>(all: impl Iterator<Item = (T, &'d str)>) -> Vec<(T, Vec<&'d str>)> {
    let mut order: Vec<(T, Vec<&str>)> = Vec::new();
    let mut index: BTreeMap<T, usize> = BTreeMap::new();
    for (thing, host) in all {
        let at = *index.entry(thing).or_insert_with(|| {
            order.push((thing, Vec::new()));
            order.len() - 1
        });
        order[at].1.push(host);
    }
    order
}

fn blocks(document: &Document, style: Style, out: &mut String) {
    let hosts = document.hosts.iter();
    let changes = hosts.flat_map(|host| host.changes.iter().map(|change| (change, host.name.as_str())));
    for (change, names) in together(changes) {
        block(change, &names, style, out);
    }
}

fn block(change: &ChangeEntry, names: &[&str], style: Style, out: &mut String) {
    let sign = match change.action {
        Action::Add => style.added("+"),
        Action::Change => style.warn("~"),
        Action::Remove => style.removed("-"),
    };
    let title = format!("{} {}", change.kind.as_str(), printable(&change.resource));
    let mut who = printable(&fold_names(names));
    if names.len() > 1 {
        let _ = write!(who, " ({})", hosts(names.len()));
    }
    let _ = write!(out, "{sign} {}   {who}", style.strong(&format!("{title:<36}")));
    let mut column = 2 + title.chars().count().max(36) + 3 + who.chars().count();
    for risk in &change.risks {
        let text = match risk {
            Risk::ManagementPath => "! SSH passes here",
            Risk::Lockout => "! LOCKOUT",
            Risk::GuestsDark => "! guests go dark",
            Risk::OneWay => "! cannot be rolled back in full",
            Risk::RemovesAll => "! removes all of its kind",
            Risk::BypassWrong => "! the bypass is wrong here",
        };
        column += 3 + text.chars().count();
        let gap = if style.width.is_some_and(|w| column > w) {
            column = 4 + text.chars().count();
            "\n    "
        } else {
            "   "
        };
        let grave = matches!(risk, Risk::Lockout | Risk::GuestsDark | Risk::BypassWrong);
        let _ = write!(out, "{gap}{}", if grave { style.alarm(text) } else { style.warn(text) });
    }
    out.push('\n');
    for line in change.lines() {
        let text = format!("    {} {}", line.sign, printable(&line.text));
        let shown = match line.sign {
            '+' => style.added(&text),
            '-' => style.removed(&text),
            _ => style.faint(&text),
        };
        out.push_str(&shown);
        if let (Some(origin), '+') = (&line.origin, line.sign) {
            let note = format!("   # {}", printable(&origin.to_string()));
            // Where it does not fit, the terminal would wrap it into the next rule.
            if style.width.is_none_or(|w| text.chars().count() + note.chars().count() <= w) {
                out.push_str(&style.faint(&note));
            }
        }
        out.push('\n');
    }
    out.push('\n');
}

fn warnings(document: &Document, style: Style, out: &mut String) {
    let hosts = document.hosts.iter();
    let order = together(hosts.flat_map(|host| host.warnings.iter().map(|w| (w, host.name.as_str()))));
    let any = !order.is_empty();
    for (warning, names) in order {
        let _ = write!(
            out,
            "{} {}: {}",
            style.warn(&format!("! {}", warning.code)),
            printable(&fold_names(&names)),
            printable(&warning.message)
        );
        if let Some(origin) = &warning.origin {
            let _ = write!(out, " {}", style.faint(&format!("({})", printable(origin))));
        }
        out.push('\n');
    }
    if any {
        out.push('\n');
    }
}

/// Hosts with something to say about themselves, equal words together.
fn hosts_by_message(document: &Document, style: Style, out: &mut String) {
    let said = document.hosts.iter().filter_map(|host| Some((host, host.message.as_deref()?)));
    let groups = together(
        said.map(|(host, message)| ((host.status, message, host.hint.as_deref()), host.name.as_str())),
    );
    let any = !groups.is_empty();
    for ((status, message, hint), names) in groups {
        let words = format!("{} {}", printable(&fold_names(&names)), status.words().to_uppercase());
        let _ = writeln!(out, "{}: {}", style.alarm(&words), printable(message));
        if let Some(hint) = hint {
            let _ = writeln!(out, "    → {}", printable(hint));
        }
    }
    if any {
        out.push('\n');
    }
}
