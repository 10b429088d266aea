//! What is wrong with the input, with the line it is about. The only place that knows miette.

use super::outlet::stamped;
use super::{EventEntry, Line, printable};
use crate::characters::is_harmless;
use crate::problem::Problem;
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A line is shown with its mark up to this length. What draws it counts columns in 16 bits, and nobody reads further.
const LONGEST_LINE: usize = 1_000;
/// Of a message, which may quote a whole value.
const LONGEST_MESSAGE: usize = 4_000;
/// Characters that are shown on each side of the place in a line that is longer than [`LONGEST_LINE`].
const AROUND: usize = 40;

/// All problems as text, each with its line and what to do.
pub fn problems_text(problems: &[Problem], sources: &BTreeMap<Arc<str>, Arc<str>>, color: bool) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_context_lines(1);
    let mut out = String::new();
    for problem in problems {
        if handler.render_report(&mut out, diagnostic(problem, sources).as_ref()).is_err() {
            out.push_str(&message(&problem.to_string()));
        }
        out.push('\n');
    }
    // All that stood in it is printable, so what styles it is ours.
    stamped(&out)
}

/// A problem with its line, where that can be shown.
fn diagnostic(problem: &Problem, sources: &BTreeMap<Arc<str>, Arc<str>>) -> Report {
    let mut diagnostic =
        MietteDiagnostic::new(message(&problem.message)).with_code(format!("kvmfw::{}", problem.code));
    if let Some(help) = &problem.help {
        diagnostic = diagnostic.with_help(message(help));
    }
    let Some(place) = &problem.place else { return Report::from(diagnostic) };
    let named = |excerpt: &str| MietteDiagnostic {
        message: message(&format!(
            "{}:{}:{}: {}{excerpt}",
            place.file, place.line, place.column, problem.message
        )),
        ..diagnostic.clone()
    };
    let Some(text) = sources.get(&place.file) else { return Report::from(named("")) };
    let at = (place.line as usize).min(text.lines().count());
    let lines = || text.lines().skip(at.saturating_sub(2)).take(3);
    if lines().any(|line| line.len() > LONGEST_LINE) {
        let line = text.lines().nth(at.saturating_sub(1)).unwrap_or_default();
        let before = (place.column as usize).saturating_sub(AROUND);
        let part: String = line.chars().skip(before).take(2 * AROUND).collect();
        return Report::from(named(&format!("\nin `…{part}…`")));
    }
    // Never the raw file: it may hold what a terminal obeys. The lines before are only counted.
    let mut safe = "\n".repeat(at.saturating_sub(2));
    for line in lines() {
        safe.extend(line.chars().map(|c| if is_harmless(c) || c == '\t' { c } else { '?' }));
        safe.push('\n');
    }
    let (start, length) = span(&safe, place.line, place.column, place.length);
    let diagnostic = diagnostic.with_label(LabeledSpan::new(None, start, length));
    // Line and column are added to the name.
    Report::from(diagnostic).with_source_code(NamedSource::new(message(&place.file), safe))
}

/// A message of a length that people read.
fn message(text: &str) -> String {
    match text.char_indices().nth(LONGEST_MESSAGE) {
        None => printable(text),
        Some((end, _)) => {
            let rest = text.get(end..).unwrap_or_default().chars().count();
            format!("{}… and {rest} more characters", printable(text.get(..end).unwrap_or_default()))
        }
    }
}

/// Bytes from line and column, never outside the text.
fn span(text: &str, line: u32, column: u32, length: u32) -> (usize, usize) {
    let start_of_line: usize =
        text.split_inclusive('\n').take(line.saturating_sub(1) as usize).map(str::len).sum();
    let rest = text.get(start_of_line..).unwrap_or("");
    let rest = rest.split('\n').next().unwrap_or("");
    let skip: usize = rest.chars().take(column.saturating_sub(1) as usize).map(char::len_utf8).sum();
    let marked = rest.get(skip..).unwrap_or("");
    let length: usize = marked.chars().take(length as usize).map(char::len_utf8).sum();
    (start_of_line + skip, length)
}

/// All problems as a stream of events, complete.
pub fn problems_jsonl(problems: &[Problem], time: &str, exit: u8) -> String {
    let error = |p: &Problem| EventEntry::Error {
        code: p.code.to_string(),
        message: p.message.clone(),
        place: p.place.as_ref().map(|l| format!("{}:{}:{}", l.file, l.line, l.column)),
        help: p.help.clone(),
    };
    let end = EventEntry::Summary { summary: serde_json::Map::new(), exit };
    let events =
        std::iter::once(EventEntry::start("check", None)).chain(problems.iter().map(error)).chain([end]);
    events.map(|event| Line { time: time.to_owned(), event }.text()).collect()
}

/// All problems as JSON.
pub fn problems_json(problems: &[Problem]) -> String {
    let errors: Vec<serde_json::Value> = problems
        .iter()
        .map(|p| {
            serde_json::json!({
                "code": p.code,
                "message": p.message,
                "file": p.place.as_ref().map(|l| l.file.to_string()),
                "line": p.place.as_ref().map(|l| l.line),
                "column": p.place.as_ref().map(|l| l.column),
                "help": p.help,
            })
        })
        .collect();
    let document = serde_json::json!({ "version": super::Document::VERSION, "errors": errors });
    format!("{}\n", serde_json::to_string_pretty(&document).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(source: &str, line: u32, column: u32, message: &str) -> String {
        let file: Arc<str> = Arc::from("a.yaml");
        let problem = Problem::new("x", message).at(&file, line, column, 3).help(message);
        problems_text(&[problem], &BTreeMap::from([(file, source.into())]), false)
    }

    #[test]
    fn lines_before_are_counted_and_the_mark_is_where_it_belongs() {
        let text = shown(&format!("{}b: bad\nc: 1\nd: 2\n", "a: 1\n".repeat(70)), 71, 4, "is bad");
        assert!(text.contains("[a.yaml:71:4]") && text.contains("70 │ a: 1\n"), "{text}");
        assert!(text.contains("71 │ b: bad\n") && text.contains("72 │ c: 1\n"), "{text}");
        assert!(text.contains("·    ───\n"), "{text}");
        // What cannot be seen is as wide as what stands for it.
        let text = shown("a\u{9b}\u{202e}: bad\n", 1, 6, "is bad");
        assert!(text.contains("a??: bad\n   ·      ───"), "{text}");
    }

    #[test]
    fn no_length_is_too_much() {
        for length in [999, 1_001, 65_529, 65_530, 65_536, 1 << 20] {
            let line = format!("{}bad", "x".repeat(length));
            let text = shown(&line, 1, u32::try_from(length).unwrap() + 1, "is bad");
            assert!(text.contains("is bad") && text.contains("bad"), "{length}: {text}");
            assert!(text.len() < 20_000, "{length}: {}", text.len());
            let text = shown("a: bad\n", 1, 4, &line);
            assert!(text.len() < 20_000, "{length}: {}", text.len());
        }
        for (line, column) in [(0, 0), (u32::MAX, u32::MAX), (1, u32::MAX), (100_000, 1)] {
            assert!(shown("a: bad\n", line, column, "is bad").contains("is bad"));
        }
    }
}
