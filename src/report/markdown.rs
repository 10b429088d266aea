//! A comment for a merge request: one summary line, counts, one folded block for each change.
//!
//! What comes from hosts is text and never markup: outside of fences every sign that Markdown or HTML
//! could take for its own becomes a character reference, and a fence is longer than any run of
//! backticks inside it.

use super::document::{ChangeEntry, Document, WarningEntry};
use super::group::Said;
use super::human::{hosts, risk_words, summary};
use super::impact::{self, ImpactGroup};
use super::{Renderer, Style, excerpt, fold_names, group, printable, problems_text};
use crate::engine::HostStatus;
use crate::plan::ChangeAction;
use crate::problem::Problem;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// Markdown as GitHub and GitLab read it.
pub struct Markdown {
    /// It is never longer than so many bytes: blocks that do not fit are left out as a whole.
    pub limit: usize,
    /// Long diffs are printed in full.
    pub full: bool,
}

/// GitHub takes 65,536 characters; a few are left for a line that a pipeline puts above.
pub const GITHUB_LIMIT: usize = 65_000;

/// A shorter limit would not hold the summary.
pub const LEAST_LIMIT: usize = 1_000;

impl Renderer for Markdown {
    fn render(&self, document: &Document) -> String {
        let mut blocks: Vec<String> = Vec::new();
        blocks.extend(counts(document));
        blocks.extend(group::messages(document).iter().map(message));
        blocks.extend(group::changes(document).iter().map(|(change, names)| block(change, names, self.full)));
        blocks.extend(impact::groups(document).iter().map(impact_block));
        blocks.extend(group::warnings(document).iter().map(|(warning, names)| note(warning, names)));
        self.fill(&format!("**{}**\n", literal(&headline(document))), &blocks)
    }
}

impl Markdown {
    /// What is wrong with the input, as a comment.
    pub fn problems(&self, problems: &[Problem], sources: &BTreeMap<Arc<str>, Arc<str>>) -> String {
        let head = match problems.len() {
            1 => "**kvmfw: the input has an error; no host was probed.**\n".to_owned(),
            n => format!("**kvmfw: the input has {n} errors; no host was probed.**\n"),
        };
        let blocks: Vec<String> = problems
            .iter()
            .map(|p| fence("text", &problems_text(std::slice::from_ref(p), sources, false)))
            .collect();
        self.fill(&head, &blocks)
    }

    /// As many blocks as fit, and how much was left out.
    fn fill(&self, head: &str, blocks: &[String]) -> String {
        const NOTE: usize = 200;
        let mut text = head.to_owned();
        let (mut left_out, mut bytes) = (0_usize, 0_usize);
        for block in blocks {
            // Without a note behind it, the last block may take its room.
            if text.len() + 1 + block.len() + NOTE <= self.limit {
                text.push('\n');
                text.push_str(block);
            } else {
                left_out += 1;
                bytes += block.len();
            }
        }
        if left_out > 0 {
            let _ = write!(
                text,
                "\n_{left_out} of {} blocks ({bytes} bytes) are omitted, because this text is limited to {} \
                 bytes. The log of the job or the saved plan has all of them._\n",
                blocks.len(),
                self.limit
            );
        }
        text
    }
}

/// The one line that says it all.
fn headline(document: &Document) -> String {
    if !document.is_run() {
        return format!("kvmfw: {}", summary(document, Style::default()).replace('\n', " "));
    }
    let runs: Vec<&str> = document.run.iter().chain(&document.runs).map(String::as_str).collect();
    let counts: Vec<String> = HostStatus::ALL
        .into_iter()
        .map(|status| (document.count(status), status.words()))
        .filter(|(count, _)| *count > 0)
        .map(|(count, words)| format!("{count} {words}"))
        .collect();
    format!("kvmfw run {}: {} of {}.", runs.join(", "), counts.join(", "), hosts(document.hosts.len()))
}

/// A table with a row for each status that hosts have.
fn counts(document: &Document) -> Option<String> {
    let mut table = String::from("| status | hosts | |\n|---|---:|---|\n");
    let mut any = false;
    for status in HostStatus::ALL {
        let names: Vec<&str> =
            document.hosts.iter().filter(|h| h.status == status).map(|h| h.name.as_str()).collect();
        if names.is_empty() {
            continue;
        }
        any = true;
        let word = match status {
            HostStatus::Changed if document.drift => "drifted",
            HostStatus::Changed if !document.is_run() => "to change",
            other => other.words(),
        };
        let _ = writeln!(table, "| {word} | {} | {} |", names.len(), code(&shortened(&fold_names(&names))));
    }
    any.then_some(table)
}

/// Names that would fill the comment lose their end.
fn shortened(names: &str) -> String {
    const MOST: usize = 160;
    if names.chars().count() <= MOST {
        return names.to_owned();
    }
    format!("{}…", names.chars().take(MOST).collect::<String>())
}

fn named(names: &[&str]) -> String {
    let folded = code(&shortened(&fold_names(names)));
    if names.len() > 1 { format!("{folded} ({})", hosts(names.len())) } else { folded }
}

fn block(change: &ChangeEntry, names: &[&str], full: bool) -> String {
    let sign = match change.action {
        ChangeAction::Add => "add",
        ChangeAction::Change => "change",
        ChangeAction::Remove => "remove",
    };
    let mut title = format!(
        "{sign} <b>{}</b> on {}",
        code(&format!("{} {}", change.kind.as_str(), change.resource)),
        named(names)
    );
    for risk in &change.risks {
        let _ = write!(title, " — <b>{}</b>", literal(risk_words(*risk).trim_start_matches("! ")));
    }
    let lines = excerpt(change.lines(), full);
    let diff: String = lines.iter().map(|line| format!("{} {}\n", line.sign, one_line(&line.text))).collect();
    let mut text = format!("<details><summary>{title}</summary>\n\n{}", fence("diff", &diff));
    if !change.origin.is_empty() {
        let _ = writeln!(text, "\nfrom {}", code(&shortened(&change.origin.join(", "))));
    }
    text.push_str("\n</details>\n");
    text
}

fn message(said: &Said<'_>) -> String {
    let mut text =
        format!("- **{}** {}: {}", said.host.status.words(), named(&said.names), code(&said.message));
    if let Some(hint) = &said.host.hint {
        let _ = write!(text, " → {}", code(hint));
    }
    text.push('\n');
    text
}

/// What packets gain and lose on hosts that have the same lines.
fn impact_block(group: &ImpactGroup<'_>) -> String {
    let mut text = format!("Impact on {}:\n\n", named(&group.names));
    for line in &group.lines {
        let _ = write!(text, "- <b>{}</b>: {}", literal(&line.verdicts()), code(&line.flow));
        if !line.by.is_empty() {
            let _ = write!(text, " by {}", code(&line.by));
        }
        text.push('\n');
    }
    text
}

fn note(warning: &WarningEntry, names: &[&str]) -> String {
    let mut text =
        format!("- {} {}: {}", code(&warning.code), named(names), code(&warning.message.to_string()));
    if let Some(origin) = &warning.origin {
        let _ = write!(text, " ({})", code(origin));
    }
    text.push('\n');
    text
}

/// A fenced block that its content cannot end.
fn fence(language: &str, content: &str) -> String {
    let content = printable(content);
    let longest = content.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let end = if content.is_empty() || content.ends_with('\n') { "" } else { "\n" };
    format!("{fence}{language}\n{content}{end}{fence}\n")
}

/// Text that stays on its line.
fn one_line(text: &str) -> String {
    printable(text).replace('\n', "\\n")
}

/// Text as code. A mention or a link in it is none, and neither is anything else.
fn code(text: &str) -> String {
    format!("<code>{}</code>", literal(text))
}

/// Text in which no sign means anything to Markdown or HTML.
fn literal(text: &str) -> String {
    let mut out = String::new();
    for c in one_line(text).chars() {
        if !c.is_ascii() || c.is_ascii_alphanumeric() || matches!(c, ' ' | ',' | '.' | '/' | '(' | ')') {
            out.push(c);
        } else {
            let _ = write!(out, "&#{};", u32::from(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{ChangeRisk, ResourceKind};
    use crate::report::HostEntry;
    use proptest::prelude::*;

    fn change(resource: &str, diff: &str) -> ChangeEntry {
        ChangeEntry {
            kind: ResourceKind::Iptables,
            resource: resource.to_owned(),
            action: ChangeAction::Change,
            diff: diff.into(),
            origin: ["modules/m/module.yaml:4".to_owned()].into(),
            risks: vec![ChangeRisk::ManagementPath],
            lines: Arc::default(),
        }
    }

    fn document(changes: &[(&str, Vec<ChangeEntry>)]) -> Document {
        let host = |(name, changes): &(&str, Vec<ChangeEntry>)| HostEntry {
            name: (*name).to_owned(),
            status: if changes.is_empty() { HostStatus::Unchanged } else { HostStatus::Changed },
            reason: None,
            message: None,
            hint: None,
            plan: None,
            changes: changes.clone(),
            impact: Vec::new(),
            unchanged_flows: Vec::new(),
            warnings: Vec::new(),
        };
        Document::new(None, changes.iter().map(host).collect())
    }

    #[test]
    fn one_block_for_equal_changes() {
        let same = vec![change("filter/INPUT", "  jump rule in INPUT\n- -j DROP\n+ -p tcp -j ACCEPT\n")];
        let text = Markdown { limit: GITHUB_LIMIT, full: false }.render(&document(&[
            ("kvm1", same.clone()),
            ("kvm2", same),
            ("kvm3", vec![]),
        ]));
        let expected = "\
**kvmfw&#58; Plan&#58; 0 to add, 2 to change, 0 to remove on 2 of 3 hosts. 2 of these affect the SSH path.**

| status | hosts | |
|---|---:|---|
| unchanged | 1 | <code>kvm3</code> |
| to change | 2 | <code>kvm&#91;1&#45;2&#93;</code> |

<details><summary>change <b><code>iptables filter/INPUT</code></b> on <code>kvm&#91;1&#45;2&#93;</code> (2 hosts) — <b>on SSH path</b></summary>

```diff
  jump rule in INPUT
- -j DROP
+ -p tcp -j ACCEPT
```

from <code>modules/m/module.yaml&#58;4</code>

</details>
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_host_cannot_leave_its_place() {
        let evil = "  ```\n+ </details><script>alert(1)</script> ````` @everyone #1 **x** [a](http://b) | \u{1b}[2J\n";
        let text = Markdown { limit: GITHUB_LIMIT, full: false }
            .render(&document(&[("kvm1", vec![change("</summary><img src=x> `a` |", evil)])]));
        let fences: Vec<&str> = text.lines().filter(|l| l.starts_with("```")).collect();
        assert_eq!(fences, ["``````diff", "``````"], "{text}");
        let (before, rest) = text.split_once("``````diff\n").unwrap();
        let (_, after) = rest.split_once("\n``````\n").unwrap();
        for outside in [before, after] {
            assert!(
                !outside.contains("<img") && !outside.contains("<script") && !outside.contains('@'),
                "{outside}"
            );
            assert!(!outside.contains('`') && !outside.contains('\u{1b}'), "{outside}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn what_does_not_fit_is_left_out_as_a_whole() {
        let long = "+ -s 10.0.0.0/8 -j ACCEPT\n".repeat(30);
        let many: Vec<ChangeEntry> = (0..20).map(|n| change(&format!("filter/C{n}"), &long)).collect();
        let all = document(&[("kvm1", many)]);
        for limit in [LEAST_LIMIT, 2_000, 5_000, GITHUB_LIMIT] {
            let text = Markdown { limit, full: false }.render(&all);
            assert!(text.len() <= limit, "{} > {limit}", text.len());
            assert_eq!(text.matches("<details>").count(), text.matches("</details>").count());
            assert_eq!(text.matches("```").count() % 2, 0);
            assert_eq!(text.contains("are omitted"), limit < GITHUB_LIMIT, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_markup(text in "\\PC{0,60}", limit in LEAST_LIMIT..9_000) {
            let made = literal(&text);
            prop_assert!(!made.contains(['<', '>', '`', '*', '_', '[', '|', '@', '#']) || !text.is_ascii() || made.contains("&#"));
            prop_assert!(!made.contains(['<', '>', '`', '*', '_', '[', '|', '@', '\n']));
            let all = document(&[("kvm1", vec![change(&text, &format!("+ {text}\n"))])]);
            let text = Markdown { limit, full: false }.render(&all);
            prop_assert!(text.len() <= limit);
            prop_assert_eq!(text.lines().filter(|l| l.starts_with("```")).count() % 2, 0);
        }
    }
}
