//! Plans and recaps as people read them. Equal changes of many hosts are one block; hosts without
//! changes are not mentioned; the summary comes last, where the eye is.

use super::document::{ChangeEntry, Document, HostEntry};
use super::group::Said;
use super::{Renderer, Style, excerpt, findings, fold_names, group, impact, printable};
use crate::engine::{HostStatus, STRAGGLER};
use crate::plan::{ChangeAction, ChangeRisk};
use std::fmt::Write as _;

/// Text for people.
pub struct Human {
    /// Colour and width.
    pub style: Style,
    /// What of it.
    pub part: Part,
    /// Long diffs are printed in full.
    pub full: bool,
}

/// What of a document is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What changes.
    Plan,
    /// How it ended.
    Recap,
    /// What changes and, where it is a run, how it ended: hosts had their own plans, and how many there
    /// were of these a result does not tell.
    All,
}

impl Renderer for Human {
    fn render(&self, document: &Document) -> String {
        let recap = || recap_text(document, self.style);
        match self.part {
            Part::Plan => self.plan_text(document),
            Part::Recap => recap(),
            Part::All if document.is_run() => self.changes_text(document) + &recap(),
            Part::All => self.plan_text(document),
        }
    }
}

impl Human {
    /// What a run is to change. How many hosts it was is for the recap to say: they may have ended otherwise.
    pub(super) fn changes_text(&self, document: &Document) -> String {
        let mut out = self.blocks(document);
        warnings(document, self.style, &mut out);
        out.push_str(&impact::text(document, self.style));
        out
    }

    /// A plan: blocks, warnings, hosts that are left alone, one summary line.
    fn plan_text(&self, document: &Document) -> String {
        let style = self.style;
        let mut out = self.blocks(document);
        warnings(document, style, &mut out);
        hosts_by_message(document, style, &mut out);
        out.push_str(&impact::text(document, style));
        for line in summary(document, style).lines() {
            out.push_str(&style.prose(line));
            out.push('\n');
        }
        out
    }

    /// Equal changes under one heading, in the order of first mention.
    fn blocks(&self, document: &Document) -> String {
        let mut out = String::new();
        for (change, names) in group::changes(document) {
            block(change, &names, self, &mut out);
        }
        out
    }
}

/// The last line of a plan: how much changes, and what is left alone.
pub(super) fn summary(document: &Document, style: Style) -> String {
    let mut out = String::new();
    let changing = document.count(HostStatus::Changed);
    let of_changing =
        || document.hosts.iter().filter(|h| h.status == HostStatus::Changed).flat_map(|h| &h.changes);
    let count = |action| of_changing().filter(|c| c.action == action).count();
    let risky = of_changing().filter(|c| c.risks.contains(&ChangeRisk::ManagementPath)).count();
    let refused = document.count(HostStatus::Refused);
    let stuck = document.hosts.iter().filter(|h| h.status == HostStatus::Failed).count();
    if changing == 0 && stuck == 0 && refused == 0 {
        let _ = write!(out, "{}", style.strong(&nothing(document)));
    } else if changing > 0 && document.drift {
        let line = format!(
            "Drift: {} on {changing} of {} {} not as applied (- as applied, + as it is now).",
            counted(of_changing().count(), "resource"),
            hosts(document.hosts.len()),
            if of_changing().count() == 1 { "is" } else { "are" },
        );
        let _ = write!(out, "{}", style.strong(&line));
    } else if changing > 0 {
        let line = format!(
            "Plan: {} to add, {} to change, {} to remove on {changing} of {}.",
            count(ChangeAction::Add),
            count(ChangeAction::Change),
            count(ChangeAction::Remove),
            hosts(document.hosts.len()),
        );
        let _ = write!(out, "{}", style.strong(&line));
        if risky > 0 {
            let touch = if risky == 1 { "affects" } else { "affect" };
            let _ = write!(out, "\n{}", style.warn(&format!("{risky} of these {touch} the SSH path.")));
        }
    }
    if stuck > 0 {
        let what = if document.drift { "cannot be compared" } else { "failed" };
        let text = style.alarm(&format!("{} {what}.", hosts(stuck)));
        let _ = write!(out, "{}{text}", gap(&out));
    }
    let stragglers = document.hosts.iter().filter(|host| is_straggler(host)).count();
    if stragglers > 0 {
        let _ =
            write!(out, "{}{}", gap(&out), style.warn(&format!("{} not answered yet.", hosts(stragglers))));
    }
    let unreachable = document.count(HostStatus::Unreachable) - stragglers;
    if unreachable > 0 {
        let text = style.alarm(&format!("{} unreachable.", hosts(unreachable)));
        let _ = write!(out, "{}{text}", gap(&out));
    }
    if refused > 0 {
        let text = style.alarm(&format!("{} refused.", hosts(refused)));
        let _ = write!(out, "{}{text}", gap(&out));
    }
    out
}

/// What is said where nothing changes: of the hosts that answered.
fn nothing(document: &Document) -> String {
    let (all, answered) = (document.hosts.len(), document.answered());
    let (none, done) = if document.drift { ("No drift", "compared") } else { ("No changes", "planned") };
    match answered {
        _ if answered == all => format!("{none}."),
        0 => format!("No host answered: nothing was {done}."),
        _ => format!("{none} on {answered} of {}.", hosts(all)),
    }
}

/// Whether it had not answered when the others began: that says nothing yet.
fn is_straggler(host: &HostEntry) -> bool {
    host.reason.as_deref() == Some(STRAGGLER)
}

/// What stands between two sentences.
fn gap(before: &str) -> &'static str {
    if before.is_empty() { "" } else { " " }
}

/// How a run ended: a line for each outcome, causes, what to do next.
fn recap_text(document: &Document, style: Style) -> String {
    let mut out = String::new();
    hosts_by_message(document, style, &mut out);
    if let Some(run) = &document.run {
        let _ = writeln!(out, "{}", style.strong(&format!("Run {run}")));
    } else if !document.runs.is_empty() {
        let _ = writeln!(out, "{}", style.strong(&format!("Runs {}", document.runs.join(", "))));
    }
    for status in HostStatus::ALL {
        let names: Vec<&str> =
            document.hosts.iter().filter(|h| h.status == status).map(|h| h.name.as_str()).collect();
        if names.is_empty() {
            continue;
        }
        let word = format!("{:<12}", status.words());
        let word = match status {
            HostStatus::Unchanged => word,
            HostStatus::Changed => style.added(&word),
            HostStatus::Skipped | HostStatus::Refused => style.warn(&word),
            _ => style.alarm(&word),
        };
        let line = format!("  {word} {:>4}   {}", names.len(), printable(&fold_names(&names)));
        let _ = writeln!(out, "{}", style.prose(&line));
    }
    if let Some(next) = &document.next {
        let _ = writeln!(out, "Retry the remaining hosts: {next}");
    }
    out
}

/// `1 host`, `3 hosts`.
pub fn hosts(n: usize) -> String {
    counted(n, "host")
}

/// `1 rule`, `3 rules`.
pub fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn block(change: &ChangeEntry, names: &[&str], human: &Human, out: &mut String) {
    let style = human.style;
    let sign = match change.action {
        ChangeAction::Add => style.added("+"),
        ChangeAction::Change => style.warn("~"),
        ChangeAction::Remove => style.removed("-"),
    };
    let title = format!("{} {}", change.kind.as_str(), printable(&change.resource));
    let mut who = printable(&fold_names(names));
    if names.len() > 1 {
        let _ = write!(who, " ({})", hosts(names.len()).replace(' ', "\u{a0}"));
    }
    let heading =
        |sign: &str, title: &str| style.prose(&format!("{sign} {title}   {who}")).replace('\u{a0}', " ");
    let title = format!("{title:<36}");
    out.push_str(&heading(&sign, &style.strong(&title)));
    let mut column = heading("+", &title).lines().last().map_or(0, |line| line.chars().count());
    for risk in &change.risks {
        let text = risk_words(*risk);
        column += 3 + text.chars().count();
        let gap = if style.width.is_some_and(|w| column > w) {
            column = 4 + text.chars().count();
            "\n    "
        } else {
            "   "
        };
        let grave =
            matches!(risk, ChangeRisk::Lockout | ChangeRisk::GuestsUnreachable | ChangeRisk::BypassWrong);
        let _ = write!(out, "{gap}{}", if grave { style.alarm(text) } else { style.warn(text) });
    }
    out.push('\n');
    for line in excerpt(change.lines(), human.full) {
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

/// What a risk is called beside a change.
pub(super) fn risk_words(risk: ChangeRisk) -> &'static str {
    match risk {
        ChangeRisk::ManagementPath => "! on SSH path",
        ChangeRisk::Lockout => "! LOCKOUT",
        ChangeRisk::GuestsUnreachable => "! cuts off guests",
        ChangeRisk::OneWay => "! no full rollback",
        ChangeRisk::RemovesAll => "! removes all of this kind",
        ChangeRisk::BypassWrong => "! bypass is wrong here",
    }
}

fn warnings(document: &Document, style: Style, out: &mut String) {
    let text = findings::of_document(document, style);
    if !text.is_empty() {
        out.push_str(&text);
        out.push('\n');
    }
}

/// Hosts with something to say about themselves, equal words together.
fn hosts_by_message(document: &Document, style: Style, out: &mut String) {
    let groups = group::messages(document);
    let any = !groups.is_empty();
    for Said { host, message, names } in groups {
        let word = if is_straggler(host) { STRAGGLER } else { host.status.words() };
        let words = format!("{} {}", printable(&fold_names(&names)), word.to_uppercase());
        let words = if is_straggler(host) { style.warn(&words) } else { style.alarm(&words) };
        let _ = writeln!(out, "{}", style.prose(&format!("{words}: {}", printable(&message))));
        if let Some(hint) = &host.hint {
            let _ = writeln!(out, "{}", style.prose(&format!("    → {}", printable(hint))));
        }
    }
    if any {
        out.push('\n');
    }
}
