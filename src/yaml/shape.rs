//! Where the values of a YAML file stand and how they are written: the index that serde_yaml lacks.

use super::{MAX_DEPTH, Style};
use crate::problem::{Place, Problem};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::sync::Arc;

/// Where things stand and how they are written, without their values.
pub(super) enum Shape {
    Scalar { text: String, style: Style, place: Place },
    Seq(Vec<Shape>, Place),
    Map(Vec<(Shape, Shape)>, Place),
}

/// A list or map whose end has not come yet.
enum Open {
    Seq(Vec<Shape>, Place),
    Map(Vec<(Shape, Shape)>, Option<Shape>, Place),
}

/// Reads where things stand; refuses what kvmfw does not support.
pub(super) fn shape(file: &Arc<str>, text: &str) -> Result<Shape, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        if problems.len() >= 20 {
            break;
        }
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let (line, column) = (error.marker().line(), error.marker().col());
                if error.info().contains("recursion limit") {
                    problems.push(too_deep(&place(file, line, column, 1)));
                } else {
                    let problem = Problem::new("yaml-syntax", error.info().to_owned()).at(
                        file,
                        line as u32,
                        column as u32 + 1,
                        1,
                    );
                    problems.push(hint(problem, text, line));
                }
                return Err(problems);
            }
        };
        let here = span_place(file, &span);
        let done = match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents == 2 {
                    problems.push(
                        Problem::new("yaml-feature", "has a second YAML document")
                            .at_place(&here)
                            .help("one file is one document: remove the `---`, or make it two files"),
                    );
                }
                continue;
            }
            Event::Alias(_) => {
                problems.push(feature("an alias `*…`", &here));
                Shape::Scalar { text: String::new(), style: Style::Plain, place: here }
            }
            Event::Scalar(value, style, anchor, tag) => {
                if anchor != 0 {
                    problems.push(feature("an anchor `&…`", &here));
                }
                if tag.is_some() {
                    let problem = Problem::new("yaml-feature", "a tag `!…` is not supported").at_place(&here);
                    problems.push(hint(problem, text, span.start.line()));
                }
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
                    ScalarStyle::Literal => Style::Literal,
                    ScalarStyle::Folded => Style::Folded,
                };
                let mut here = here;
                if style == Style::Literal || style == Style::Folded {
                    // saphyr points at the first line that is not blank.
                    let blank = value.len() - value.trim_start_matches('\n').len();
                    here.line = here.line.saturating_sub(blank as u32).max(1);
                    here.length = 1;
                }
                Shape::Scalar { text: value.into_owned(), style, place: here }
            }
            Event::SequenceStart(anchor, ref tag) | Event::MappingStart(anchor, ref tag) => {
                if anchor != 0 || tag.is_some() {
                    let what = if anchor != 0 { "an anchor `&…`" } else { "a tag `!…`" };
                    problems.push(feature(what, &here));
                }
                if open.len() >= MAX_DEPTH {
                    problems.push(too_deep(&here));
                    return Err(problems);
                }
                open.push(match event {
                    Event::SequenceStart(..) => Open::Seq(Vec::new(), here),
                    _ => Open::Map(Vec::new(), None, here),
                });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::Seq(items, place)) => Shape::Seq(items, place),
                Some(Open::Map(pairs, _, place)) => Shape::Map(pairs, place),
                None => continue,
            },
            _ => continue,
        };
        match open.last_mut() {
            None => root = root.or(Some(done)),
            Some(Open::Seq(items, _)) => items.push(done),
            Some(Open::Map(pairs, key, _)) => match key.take() {
                None => *key = Some(done),
                Some(key) => pairs.push((key, done)),
            },
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(root.unwrap_or(Shape::Scalar {
        text: String::new(),
        style: Style::Plain,
        place: place(file, 1, 0, 1),
    }))
}

pub(super) fn place(file: &Arc<str>, line: usize, column: usize, length: usize) -> Place {
    Place {
        file: file.clone(),
        line: line.max(1) as u32,
        column: column as u32 + 1,
        length: length.max(1) as u32,
    }
}

fn span_place(file: &Arc<str>, span: &Span) -> Place {
    let length = if span.start.line() == span.end.line() { span.len() } else { 1 };
    place(file, span.start.line(), span.start.col(), length)
}

fn too_deep(place: &Place) -> Problem {
    Problem::new("too-deep", "nests too deep: no input of kvmfw needs more than 8 levels").at_place(place)
}

pub(super) fn feature(what: &str, place: &Place) -> Problem {
    Problem::new("yaml-feature", format!("{what} is not supported"))
        .at_place(place)
        .help("put what hosts share into a group")
}

/// Adds what a person needs to know about YAML when the line at fault looks like a rule or a range.
pub(super) fn hint(problem: Problem, text: &str, line: usize) -> Problem {
    let source = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    if source.trim_start_matches(' ').starts_with('\t') {
        return problem.help("indent with spaces, not with tabs");
    }
    if looks_like_rule(source) {
        let rule = source.trim().trim_start_matches("- ").trim();
        return problem.help(format!(
            "YAML reads this rule differently: write rules as text in a block\nrules: |\n  {rule}"
        ));
    }
    if source.contains('{') && source.contains("[0") || source.contains("[1") {
        return problem.help("inside `{ }` a range like `kvm[01-40]` needs quotes");
    }
    problem
}

/// Whether a line of YAML holds what a person meant as an iptables rule.
fn looks_like_rule(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.iter().any(|w| matches!(*w, "-j" | "-g" | "--jump" | "--goto"))
        || words.first() == Some(&"-A")
        || words.iter().take(3).any(|w| *w == "!") && words.iter().any(|w| w.starts_with('-') && w.len() > 1)
}
