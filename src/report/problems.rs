//! What is wrong with the input, with the line it is about. The only place that knows miette.

use super::{EventEntry, Line, printable};
use crate::problem::Problem;
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource, Report};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All problems as text, each with its line and what to do.
pub fn problems_text(problems: &[Problem], sources: &BTreeMap<Arc<str>, Arc<str>>, color: bool) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_context_lines(1);
    let mut out = String::new();
    for problem in problems {
        let mut diagnostic =
            MietteDiagnostic::new(printable(&problem.message)).with_code(format!("kvmfw::{}", problem.code));
        if let Some(help) = &problem.help {
            diagnostic = diagnostic.with_help(printable(help));
        }
        let source = problem.place.as_ref().and_then(|p| Some((p, sources.get(&p.file)?)));
        let report = match source {
            Some((place, text)) => {
                let (start, length) = span(text, place.line, place.column, place.length);
                let diagnostic = diagnostic.with_label(LabeledSpan::new(None, start, length));
                // Never the raw file: it may hold what a terminal obeys. Same length, so that spans fit.
                let safe: String = text
                    .chars()
                    .map(|c| if c.is_control() && c != '\n' && c != '\t' { '?' } else { c })
                    .collect();
                // Line and column are added to the name.
                Report::from(diagnostic).with_source_code(NamedSource::new(&*place.file, safe))
            }
            None => match &problem.place {
                Some(place) => Report::from(MietteDiagnostic {
                    message: format!(
                        "{}:{}:{}: {}",
                        place.file,
                        place.line,
                        place.column,
                        printable(&problem.message)
                    ),
                    ..diagnostic
                }),
                None => Report::from(diagnostic),
            },
        };
        if handler.render_report(&mut out, report.as_ref()).is_err() {
            out.push_str(&printable(&problem.to_string()));
        }
        out.push('\n');
    }
    out
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
