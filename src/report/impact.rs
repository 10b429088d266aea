//! The impact as people read it: what packets gain and lose. Equal lines of many hosts are one, and so are those of
//! IPv4 and IPv6.

use super::document::{Document, ImpactEntry};
use super::human::hosts;
use super::{Style, fold_names, printable};
use crate::impact::FlowVerdict;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Hosts with the same lines.
pub(super) struct ImpactGroup<'a> {
    /// The hosts.
    pub names: Vec<&'a str>,
    /// The lines.
    pub lines: Vec<ShownLine>,
}

/// One line as it is shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShownLine {
    /// The packets.
    pub flow: String,
    before: FlowVerdict,
    after: FlowVerdict,
    /// What decides, and where it was declared: `filter/FORWARD rule 1 (a.yaml:4)`.
    pub by: String,
}

impl ShownLine {
    /// `open → blocked`.
    pub fn verdicts(&self) -> String {
        if self.before == self.after {
            return format!("stays {}", self.after.as_str());
        }
        format!("{} → {}", self.before.as_str(), self.after.as_str())
    }
}

/// Lines with their hosts: each line once, those of the same hosts together, in the order of first mention.
pub(super) fn groups(document: &Document) -> Vec<ImpactGroup<'_>> {
    let mut shown: BTreeMap<[&[ImpactEntry]; 2], Vec<ShownLine>> = BTreeMap::new();
    let mut order: Vec<ShownLine> = Vec::new();
    let mut names_of: BTreeMap<ShownLine, Vec<&str>> = BTreeMap::new();
    for host in &document.hosts {
        let entries = [&host.impact[..], &host.unchanged_flows[..]];
        for line in
            shown.entry(entries).or_insert_with(|| lines(host.impact.iter().chain(&host.unchanged_flows)))
        {
            let names = names_of.entry(line.clone()).or_insert_with(|| {
                order.push(line.clone());
                Vec::new()
            });
            names.push(&host.name);
        }
    }
    let mut at: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
    let mut groups: Vec<ImpactGroup<'_>> = Vec::new();
    for line in order {
        let names = names_of.remove(&line).unwrap_or_default();
        let at = *at.entry(names.clone()).or_insert_with(|| {
            groups.push(ImpactGroup { names, lines: Vec::new() });
            groups.len() - 1
        });
        groups[at].lines.push(line);
    }
    groups
}

/// The lines of a host, those of IPv6 put into their twins of IPv4.
fn lines<'a>(entries: impl IntoIterator<Item = &'a ImpactEntry>) -> Vec<ShownLine> {
    let mut merged: Vec<(&ImpactEntry, Option<&ImpactEntry>)> = Vec::new();
    for entry in entries {
        let twin = merged.iter_mut().find(|(v4, v6)| {
            v6.is_none()
                && v4.flow != entry.flow
                && v4.flow.replace("IPv4", "IPv6") == entry.flow
                && (v4.before, v4.after) == (entry.before, entry.after)
        });
        match twin {
            Some((_, v6)) => *v6 = Some(entry),
            None => merged.push((entry, None)),
        }
    }
    let shown = |(v4, v6): (&ImpactEntry, Option<&ImpactEntry>)| ShownLine {
        flow: if v6.is_some() { v4.flow.replace("IPv4", "IPv4 and IPv6") } else { v4.flow.clone() },
        before: v4.before,
        after: v4.after,
        by: deciders(v4, v6),
    };
    merged.into_iter().map(shown).collect()
}

/// What decides for both families.
fn deciders(v4: &ImpactEntry, v6: Option<&ImpactEntry>) -> String {
    let place = |by: &Option<String>, origins: &[&str]| match (by, origins) {
        (Some(by), []) => by.clone(),
        (Some(by), origins) => format!("{by} ({})", origins.join(", ")),
        (None, _) => String::new(),
    };
    let origin = |entry: &'_ ImpactEntry| entry.origin.clone();
    let (mine, others) = (origin(v4), v6.and_then(origin));
    match v6 {
        Some(v6) if v6.by != v4.by => {
            let both = [
                place(&v4.by, &mine.as_deref().into_iter().collect::<Vec<_>>()),
                place(&v6.by, &others.as_deref().into_iter().collect::<Vec<_>>()),
            ];
            both.into_iter().filter(|one| !one.is_empty()).collect::<Vec<_>>().join(" and ")
        }
        _ => {
            let mut origins: Vec<&str> = mine.as_deref().into_iter().chain(others.as_deref()).collect();
            origins.dedup();
            place(&v4.by, &origins)
        }
    }
}

/// ` by filter/FORWARD rule 1 (a.yaml:4)`; nothing where no rule is met.
fn by(line: &ShownLine) -> String {
    if line.by.is_empty() { String::new() } else { format!(" by {}", printable(&line.by)) }
}

/// The lines of one host as plain text.
pub fn impact_lines(entries: &[ImpactEntry]) -> Vec<String> {
    let text = |line: ShownLine| format!("{}: {}{}", printable(&line.flow), line.verdicts(), by(&line));
    lines(entries).into_iter().map(text).collect()
}

/// The last part of a plan before its summary.
pub(super) fn text(document: &Document, style: Style) -> String {
    let mut out = String::new();
    let groups = groups(document);
    for group in &groups {
        let several =
            if group.names.len() > 1 { format!(" ({})", hosts(group.names.len())) } else { String::new() };
        let heading = format!("Impact on {}{several}:", printable(&fold_names(&group.names)));
        let _ = writeln!(out, "{}", style.prose(&style.strong(&heading)));
        for line in &group.lines {
            let by = by(line);
            let verdicts = line.verdicts();
            let shown = match line.after {
                _ if line.before == line.after => verdicts,
                FlowVerdict::Blocked => style.alarm(&verdicts),
                FlowVerdict::Open | FlowVerdict::Rewritten if line.before == FlowVerdict::Blocked => {
                    style.added(&verdicts)
                }
                _ => style.warn(&verdicts),
            };
            let _ = writeln!(out, "{}", style.prose(&format!("    {}: {shown}{by}", printable(&line.flow))));
        }
    }
    if !groups.is_empty() {
        out.push('\n');
    }
    out
}
