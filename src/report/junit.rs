//! JUnit XML, as CI engines show it: a suite for what was done, a case for each host.

use super::{Document, HostEntry, Renderer, printable};
use crate::engine::HostStatus;
use std::fmt::Write as _;

/// JUnit: a host that failed, was rolled back or left alone is a failure; one that could not be
/// reached, or of which nobody knows how it is, is an error.
pub struct Junit {
    /// What was done: `plan`, `apply`, …
    pub command: &'static str,
}

impl Renderer for Junit {
    fn render(&self, document: &Document) -> String {
        let count = |list: &[HostStatus]| list.iter().map(|s| document.count(*s)).sum::<usize>();
        let drifted = if document.drift { document.count(HostStatus::Changed) } else { 0 };
        let failures = count(&[HostStatus::Failed, HostStatus::RolledBack, HostStatus::Refused]) + drifted;
        let errors = count(&[HostStatus::Unreachable, HostStatus::Unknown]);
        let totals = format!(
            "tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{}\"",
            document.hosts.len(),
            count(&[HostStatus::Skipped])
        );
        let suite = format!("kvmfw {}", self.command);
        let name = match &document.run {
            Some(run) => format!("{suite} {run}"),
            None => suite.clone(),
        };
        let name = xml(&name);
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"{name}\" {totals}>\n<testsuite name=\"{name}\" {totals}>\n"
        );
        document.hosts.iter().for_each(|host| case(&suite, document.drift, host, &mut text));
        if let Some(note) = &document.note {
            let _ = writeln!(text, "<system-out>{}</system-out>", xml(note));
        }
        text.push_str("</testsuite>\n</testsuites>\n");
        text
    }
}

fn case(suite: &str, drift: bool, host: &HostEntry, text: &mut String) {
    let _ = write!(text, "<testcase classname=\"{}\" name=\"{}\">", xml(suite), xml(&host.name));
    let message = || {
        let message = host.message.as_deref().unwrap_or(host.status.words());
        format!(
            "message=\"{}\" type=\"{}\"",
            xml(message),
            xml(host.reason.as_deref().unwrap_or(host.status.as_str()))
        )
    };
    let hint = || xml(host.hint.as_deref().unwrap_or_default());
    match host.status {
        HostStatus::Failed | HostStatus::RolledBack | HostStatus::Refused => {
            let _ = write!(text, "<failure {}>{}</failure>", message(), hint());
        }
        HostStatus::Unreachable | HostStatus::Unknown => {
            let _ = write!(text, "<error {}>{}</error>", message(), hint());
        }
        HostStatus::Skipped => {
            let _ = write!(text, "<skipped {}/>", message());
        }
        HostStatus::Changed if drift => {
            let _ = write!(text, "<failure message=\"drift\" type=\"drift\"></failure>");
        }
        HostStatus::Changed | HostStatus::Unchanged => {}
    }
    if !host.changes.is_empty() {
        text.push_str("<system-out>");
        for change in &host.changes {
            let _ = write!(
                text,
                "{}",
                xml(&format!("{} {}\n{}", change.kind.as_str(), change.resource, change.diff))
            );
        }
        text.push_str("</system-out>");
    }
    text.push_str("</testcase>\n");
}

/// Text for an attribute or an element; what XML cannot hold at all is shown escaped.
fn xml(text: &str) -> String {
    let mut out = String::new();
    for c in printable(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::HostOutcome;

    #[test]
    fn a_case_for_each_host() {
        let outcomes = [
            HostOutcome::new("kvm1", HostStatus::Changed),
            HostOutcome::new("kvm2", HostStatus::RolledBack)
                .reason("rolled-back")
                .message("a \"<b>\"\u{1b}[2J & c\nd"),
            HostOutcome::new("kvm3", HostStatus::Unreachable).message("no route"),
            HostOutcome::new("kvm4", HostStatus::Skipped).message("budget"),
        ];
        let text = Junit { command: "apply" }.render(&Document::of_run("r1", &outcomes));
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <testsuites name=\"kvmfw apply r1\" tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\">\n\
            <testsuite name=\"kvmfw apply r1\" tests=\"4\" failures=\"1\" errors=\"1\" skipped=\"1\">\n\
            <testcase classname=\"kvmfw apply\" name=\"kvm1\"></testcase>\n\
            <testcase classname=\"kvmfw apply\" name=\"kvm2\"><failure message=\"a &quot;&lt;b&gt;&quot;\\u{1b}[2J &amp; c&#10;d\" type=\"rolled-back\"></failure></testcase>\n\
            <testcase classname=\"kvmfw apply\" name=\"kvm3\"><error message=\"no route\" type=\"unreachable\"></error></testcase>\n\
            <testcase classname=\"kvmfw apply\" name=\"kvm4\"><skipped message=\"budget\" type=\"skipped\"/></testcase>\n\
            </testsuite>\n</testsuites>\n";
        assert_eq!(text, expected);
    }
}
