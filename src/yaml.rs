//! YAML text to a tree that knows where every value stands.
//!
//! `serde_yaml` is the authority for values; saphyr's events say where they stand and how they are
//! written. No other file names serde_yaml. What makes YAML surprising is refused: anchors,
//! aliases, tags, merge keys, several documents.

mod shape;

use self::shape::{Shape, feature, hint, place, shape};
use crate::problem::{Place, Problem};
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
                Problem::new("bad-character", format!("contains the character {name} U+{code:04X}"))
                    .at(file, at as u32 + 1, column as u32 + 1, 1)
                    .help("remove it; most editors do not show it"),
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
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => {
            Some("BIDIRECTIONAL CONTROL")
        }
        '\t' => None,
        c if c.is_control() => Some("CONTROL"),
        _ => None,
    }
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
                    let problem = Problem::new("wrong-type", "a key has to be text").at_place(&value.place);
                    problems.push(problem.help(
                        "quote a value with braces; there are no templates: use groups and params for values that differ",
                    ));
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
                    .help("put the value into quotes or into a block"),
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
                Problem::new("duplicate-key", format!("`{}` is defined twice", pair.key))
                    .at_place(&pair.key_place)
                    .help(format!("the first definition is in line {}", first.key_place.line)),
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
