//! YAML text to a tree that knows where every value stands.
//!
//! `serde_yaml` is the authority for values; saphyr's events say where they stand and how they are
//! written. No other file names either crate. What makes YAML surprising is refused: anchors,
//! aliases, tags, merge keys, several documents.

use crate::problem::{Place, Problem};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::sync::Arc;

/// No input file is larger.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// No input nests deeper.
const MAX_DEPTH: usize = 128;

/// A value of a YAML file and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// How a scalar is written.
    pub style: Style,
    /// Where it stands; of a block scalar the first line of its content.
    pub place: Place,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// A number with a fraction or exponent.
    Float(f64),
    /// Text.
    Str(String),
    /// A list.
    Seq(Vec<Node>),
    /// A map, keys in the order in which they are written.
    Map(Vec<Pair>),
    /// A `$param` of a module that is checked without values.
    Open(String),
}

/// One entry of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The key as it is written, less quotes.
    pub key: String,
    /// Where the key stands.
    pub key_place: Place,
    /// The value.
    pub value: Node,
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes; also lists and maps.
    Plain,
    /// In single or double quotes.
    Quoted,
    /// A block after `|`, in which YAML changes nothing.
    Literal,
    /// A block after `>`, whose lines YAML joins.
    Folded,
}

impl Node {
    /// What an empty file holds.
    pub fn null(file: &Arc<str>) -> Self {
        Self { value: Value::Null, style: Style::Plain, place: place(file, 1, 0, 1) }
    }
}

/// Reads a file's bytes as text, or says why they cannot be an input file.
pub fn text(file: &Arc<str>, bytes: Vec<u8>) -> Result<String, Problem> {
    if bytes.len() as u64 > MAX_BYTES {
        let size = bytes.len();
        return Err(Problem::new(
            "too-large",
            format!("is {size} bytes long, more than the 16 MiB of an input file"),
        )
        .at(file, 1, 1, 1)
        .help("split it: a folder of files is read as one inventory"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|b| **b == b'\n').count() as u32 + 1;
        let start = valid.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&valid[start..]).chars().count() as u32 + 1;
        Problem::new("not-utf8", "is not UTF-8 text")
            .at(file, line, column, 1)
            .help("save it as UTF-8 without BOM")
    })?;
    Ok(text)
}

/// Parses one file.
///
/// Errors: all that is wrong with it as YAML; the tree is only there when nothing is.
pub fn parse(file: &Arc<str>, text: &str) -> Result<Node, Vec<Problem>> {
    let characters = characters(file, text);
    if !characters.is_empty() {
        return Err(characters);
    }
    let shape = shape(file, text)?;
    // libyaml nests by recursion and scans quadratically: it only sees what has been found flat.
    let raw = serde_yaml::from_str::<Raw>(text).map_err(|error| vec![refused(file, text, &error)])?;
    let mut problems = Vec::new();
    let node = zip(shape, raw, &mut problems);
    if problems.is_empty() { Ok(node) } else { Err(problems) }
}

/// The characters that no input file may hold: at most five problems.
fn characters(file: &Arc<str>, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (at, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.bytes().all(|b| (b' '..0x7f).contains(&b) || b == b'\t') {
            continue;
        }
        for (column, c) in line.chars().enumerate() {
            let Some(name) = forbidden(c) else { continue };
            let code = c as u32;
            problems.push(
                Problem::new("bad-character", format!("has the character {name} U+{code:04X}"))
                    .at(file, at as u32 + 1, column as u32 + 1, 1)
                    .help("remove it; it cannot be seen in most editors"),
            );
        }
        if problems.len() >= 5 {
            break;
        }
    }
    problems
}

/// Characters that two YAML parsers read differently, or that make a line look like another one.
fn forbidden(c: char) -> Option<&'static str> {
    match c {
        '\u{feff}' => Some("BYTE ORDER MARK"),
        '\0' => Some("NUL"),
        '\u{85}' | '\u{2028}' | '\u{2029}' => Some("UNICODE LINE SEPARATOR"),
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => Some("BIDIRECTIONAL CONTROL"),
        '\t' => None,
        c if c.is_control() => Some("CONTROL"),
        _ => None,
    }
}

/// Where things stand and how they are written, without their values.
enum Shape {
    Scalar { text: String, style: Style, place: Place },
    Seq(Vec<Shape>, Place),
    Map(Vec<(Shape, Shape)>, Place),
}

/// A list or map whose end has not come yet.
enum Open {
    Seq(Vec<Shape>, Place),
    Map(Vec<(Shape, Shape)>, Option<Shape>, Place),
}

fn shape(file: &Arc<str>, text: &str) -> Result<Shape, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
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

fn place(file: &Arc<str>, line: usize, column: usize, length: usize) -> Place {
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

fn feature(what: &str, place: &Place) -> Problem {
    Problem::new("yaml-feature", format!("{what} is not supported"))
        .at_place(place)
        .help("put what hosts share into a group")
}

/// Adds what a person needs to know about YAML when the line at fault looks like a rule or a range.
fn hint(problem: Problem, text: &str, line: usize) -> Problem {
    let source = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    if looks_like_rule(source) {
        let rule = source.trim().trim_start_matches("- ").trim();
        return problem.help(format!(
            "YAML reads this rule as something else: write rules as text in a block\nrules: |\n  {rule}"
        ));
    }
    if source.contains('{') && source.contains("[0") || source.contains("[1") {
        return problem.help("inside `{ }` a range like `kvm[01-40]` has to stand in quotes");
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

fn refused(file: &Arc<str>, text: &str, error: &serde_yaml::Error) -> Problem {
    let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
    let message = error.to_string();
    // The location is told by the place.
    let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
    let problem = Problem::new("yaml-syntax", message).at(file, line as u32, column as u32, 1);
    hint(problem, text, line)
}

/// Puts values and places together; both parsers have to agree on what the file says.
fn zip(shape: Shape, raw: Raw, problems: &mut Vec<Problem>) -> Node {
    let node = |value, style, place| Node { value, style, place };
    match (shape, raw) {
        (Shape::Scalar { style, place, .. }, Raw::Null) => node(Value::Null, style, place),
        (Shape::Scalar { style, place, .. }, Raw::Bool(v)) => node(Value::Bool(v), style, place),
        (Shape::Scalar { style, place, .. }, Raw::Int(v)) => node(Value::Int(v), style, place),
        (Shape::Scalar { style, place, .. }, Raw::Float(v)) => node(Value::Float(v), style, place),
        (Shape::Scalar { style, place, text }, Raw::Str(v)) if text == v => node(Value::Str(v), style, place),
        (Shape::Seq(shapes, place), Raw::Seq(raws)) if shapes.len() == raws.len() => {
            let items = shapes.into_iter().zip(raws).map(|(s, r)| zip(s, r, problems)).collect();
            node(Value::Seq(items), Style::Plain, place)
        }
        (Shape::Map(shapes, place), Raw::Map(raws)) if shapes.len() == raws.len() => {
            let mut pairs: Vec<Pair> = Vec::with_capacity(raws.len());
            for ((key_shape, shape), (_, raw)) in shapes.into_iter().zip(raws) {
                let value = zip(shape, raw, problems);
                let Shape::Scalar { text: key, place: key_place, style } = key_shape else {
                    problems.push(Problem::new("wrong-type", "a key has to be text").at_place(&value.place));
                    continue;
                };
                if key == "<<" && style == Style::Plain {
                    problems.push(feature("the merge key `<<`", &key_place));
                }
                pairs.push(Pair { key, key_place, value });
            }
            duplicates(&pairs, problems);
            node(Value::Map(pairs), Style::Plain, place)
        }
        (Shape::Scalar { place, .. } | Shape::Seq(_, place) | Shape::Map(_, place), _) => {
            problems.push(
                Problem::new("yaml-ambiguous", "can be read in two ways")
                    .at_place(&place)
                    .help("put the value in quotes or in a block"),
            );
            node(Value::Null, Style::Plain, place)
        }
    }
}

fn duplicates(pairs: &[Pair], problems: &mut Vec<Problem>) {
    let mut seen: std::collections::HashMap<&str, &Pair> = std::collections::HashMap::new();
    for pair in pairs {
        match seen.get(pair.key.as_str()) {
            None => {
                seen.insert(&pair.key, pair);
            }
            Some(first) => problems.push(
                Problem::new("duplicate-key", format!("`{}` is there twice", pair.key))
                    .at_place(&pair.key_place)
                    .help(format!("the first one is in line {}", first.key_place.line)),
            ),
        }
    }
}

/// A value as serde_yaml reads it; keys are not yet checked for duplicates.
enum Raw {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Seq(Vec<Raw>),
    Map(Vec<(Raw, Raw)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Raw, E> {
                Ok(Raw::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
                Ok(Raw::Int(v.into()))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Raw, E> {
                Ok(Raw::Int(v.into()))
            }
            fn visit_i128<E>(self, v: i128) -> Result<Raw, E> {
                Ok(Raw::Int(v))
            }
            fn visit_u128<E: Error>(self, v: u128) -> Result<Raw, E> {
                i128::try_from(v).map(Raw::Int).map_err(|_| E::custom("the number is too large"))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Raw, E> {
                Ok(Raw::Float(v))
            }
            fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
                Ok(Raw::Str(v.to_owned()))
            }
            fn visit_string<E>(self, v: String) -> Result<Raw, E> {
                Ok(Raw::Str(v))
            }
            fn visit_unit<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_none<E>(self) -> Result<Raw, E> {
                Ok(Raw::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
                Raw::deserialize(deserializer)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element()? {
                    items.push(item);
                }
                Ok(Raw::Seq(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = access.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Raw::Map(pairs))
            }
        }
        deserializer.deserialize_any(Any)
    }
}
