//! Warnings as people read them: one line of finding, one of cause, one of fix; errors first.

use super::document::Document;
use super::severity::{paint, severity, word};
use super::{Style, fold_names, group, printable};
use crate::problem::{Warning, WarningMessage};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write as _;

/// A warning of some hosts; that of IPv6 is one with its twin of IPv4.
struct Finding<'a> {
    code: &'a str,
    names: Vec<&'a str>,
    text: String,
    causes: Vec<String>,
    fixes: Vec<String>,
    origins: Vec<String>,
}

impl<'a> Finding<'a> {
    fn new(code: &'a str, message: &WarningMessage, origin: Option<String>, names: Vec<&'a str>) -> Self {
        let (causes, origins) = match (&message.cause, origin) {
            (Some(cause), Some(origin)) => (vec![format!("{} ({origin})", without_stop(cause))], Vec::new()),
            (Some(cause), None) => (vec![without_stop(cause).to_owned()], Vec::new()),
            (None, origin) => (Vec::new(), origin.into_iter().collect()),
        };
        let fixes = message.fix.iter().cloned().collect();
        Self { code, names, text: message.finding.clone(), causes, fixes, origins }
    }

    /// Takes in the same finding of the other family; false if it is another one.
    fn merge(&mut self, other: &Self) -> bool {
        if self.code != other.code || self.names != other.names {
            return false;
        }
        // Warnings are sorted by their text, so that of either family may be first.
        let (v4, v6) = match () {
            () if is_twin(&self.text, &other.text) => (&*self, other),
            () if is_twin(&other.text, &self.text) => (other, &*self),
            () => return false,
        };
        let both = |of: fn(&Self) -> &Vec<String>| {
            let new = of(v6).iter().filter(|one| !of(v4).contains(one));
            of(v4).iter().chain(new).cloned().collect()
        };
        let text = v4.text.replace("iptables", "iptables and ip6tables").replace("IPv4", "IPv4 and IPv6");
        let (causes, fixes, origins) = (both(|f| &f.causes), both(|f| &f.fixes), both(|f| &f.origins));
        let names = std::mem::take(&mut self.names);
        *self = Self { code: self.code, names, text, causes, fixes, origins };
        true
    }

    fn write(&self, style: Style, out: &mut String) {
        let severity = severity(self.code);
        let label = paint(severity, style, &format!("{}[{}]", word(severity), self.code));
        let hosts = match self.names.is_empty() {
            true => String::new(),
            false => format!(" {}", printable(&fold_names(&self.names))),
        };
        let mut line = format!("{label}{hosts}: {}", printable(&self.text));
        if !self.origins.is_empty() {
            let _ = write!(line, " {}", style.faint(&format!("({})", printable(&self.origins.join(", ")))));
        }
        let _ = writeln!(out, "{}", style.prose(&line));
        for (what, texts) in [("cause", &self.causes), ("fix", &self.fixes)] {
            for text in texts {
                let _ = writeln!(out, "{}", style.prose(&format!("    {what}: {}", printable(text))));
            }
        }
    }
}

/// A cause may be a sentence that a program on the host printed.
fn without_stop(cause: &str) -> &str {
    cause.trim_end_matches('.')
}

/// Whether two texts are those of IPv4 and IPv6.
fn is_twin(v4: &str, v6: &str) -> bool {
    (v4.contains("IPv4") && v4.replace("IPv4", "IPv6") == v6)
        || (v4.contains("iptables") && !v4.contains("ip6tables") && v4.replace("iptables", "ip6tables") == v6)
}

fn write_all<'a>(all: impl Iterator<Item = Finding<'a>>, style: Style) -> String {
    let mut merged: Vec<Finding<'a>> = Vec::new();
    // A comparison of each with each would cost the square of their number.
    let mut by_text: HashMap<(&str, Vec<&str>, String), usize> = HashMap::new();
    for finding in all {
        let as_v4 = finding.text.replace("ip6tables", "iptables").replace("IPv6", "IPv4");
        match by_text.entry((finding.code, finding.names.clone(), as_v4)) {
            Entry::Occupied(first) if merged[*first.get()].merge(&finding) => continue,
            Entry::Occupied(_) => {}
            Entry::Vacant(entry) => {
                entry.insert(merged.len());
            }
        }
        merged.push(finding);
    }
    merged.sort_by_key(|finding| severity(finding.code));
    let mut out = String::new();
    merged.iter().for_each(|finding| finding.write(style, &mut out));
    out
}

/// The warnings of a plan, with their hosts.
pub(super) fn of_document(document: &Document, style: Style) -> String {
    let all = group::warnings(document).into_iter();
    let findings = all.map(|(w, names)| Finding::new(&w.code, &w.message, w.origin.clone(), names));
    write_all(findings, style)
}

/// Warnings of the inventory alone.
pub fn warnings_text(warnings: &[Warning], style: Style) -> String {
    let findings = warnings.iter().map(|w| {
        Finding::new(w.code.as_str(), &w.message, w.origin.as_ref().map(ToString::to_string), Vec::new())
    });
    write_all(findings, style)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by it")]

    use super::*;
    use crate::problem::{LintCode, Origin};

    fn warning(code: LintCode, message: impl Into<WarningMessage>, line: u32) -> Warning {
        Warning::new(code, message, Some(Origin { file: "m.yaml".into(), line }))
    }

    #[test]
    fn families_are_one_finding_and_errors_come_first() {
        let found = |text: &str| WarningMessage::new(text);
        let unreachable = |family, rule| {
            WarningMessage::new(format!("guests unreachable over {family}"))
                .cause(format!("rule {rule}"))
                .fix("a module")
        };
        let warnings = [
            warning(LintCode::EmptyList, found("nothing"), 1),
            warning(LintCode::DeadRule, found("ip6tables filter/INPUT rule 2 is never reached"), 3),
            warning(LintCode::DeadRule, found("iptables filter/INPUT rule 2 is never reached"), 2),
            warning(LintCode::GuestsUnreachable, unreachable("IPv4", 5), 4),
            warning(LintCode::GuestsUnreachable, unreachable("IPv6", 6), 5),
        ];
        assert_eq!(
            warnings_text(&warnings, Style::default()),
            "error[guests-unreachable]: guests unreachable over IPv4 and IPv6\n    cause: rule 5 (m.yaml:4)\n    \
             cause: rule 6 (m.yaml:5)\n    fix: a module\n\
             warning[dead-rule]: iptables and ip6tables filter/INPUT rule 2 is never reached (m.yaml:2, m.yaml:3)\n\
             note[empty-list]: nothing (m.yaml:1)\n"
        );
    }
}
