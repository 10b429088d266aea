//! `ipset:` as it is written.

use super::reader::{InventoryReader, Spanned};
use crate::problem::{Place, did_you_mean};
use crate::resource::ipset::{self, MAX_MEMBERS, MAX_NAME, SetType, TEMPORARY, TYPES};
use crate::resource::iptables::IpFamily;
use crate::yaml::{Node, Pair, Value};
use std::sync::Arc;

/// A set; what is not stated is `None`.
#[derive(Clone, Debug)]
pub struct SetStatement {
    /// Its name.
    pub name: Spanned<String>,
    /// `type`.
    pub kind: Option<Spanned<SetType>>,
    /// `family`.
    pub family: Option<Spanned<IpFamily>>,
    /// `entries`.
    pub entries: Option<Spanned<EntriesStatement>>,
    /// `range`.
    pub range: Option<Spanned<String>>,
    /// Numbers by key.
    pub numbers: Vec<(&'static str, Spanned<u32>)>,
    /// Flags by key.
    pub flags: Vec<(&'static str, Spanned<bool>)>,
}

/// The members of a set.
#[derive(Clone, Debug, PartialEq)]
pub enum EntriesStatement {
    /// Other programs add and remove them.
    Unmanaged,
    /// These and no others.
    List(EntryList),
}

/// Members as they are written.
#[derive(Clone, Debug)]
pub struct EntryList {
    /// Each with its place.
    pub items: Arc<Vec<(String, Place)>>,
    /// They are the value of a param: those of the other address family are skipped.
    pub of_param: bool,
}

impl PartialEq for EntryList {
    /// Two lists are equal if they say the same, wherever they stand.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.items, &other.items)
            || self.items.iter().map(|(text, _)| text).eq(other.items.iter().map(|(text, _)| text))
    }
}

/// Numbers of a set and their bounds.
pub(super) const NUMBERS: [(&str, i128, i128); 5] = [
    ("hashsize", 1, 16_777_216),
    ("maxelem", 1, 16_777_216),
    ("netmask", 1, 128),
    ("timeout", 0, 2_147_483),
    ("size", 1, 65_535),
];

/// Flags of a set.
pub(super) const FLAGS: [&str; 3] = ["counters", "comment", "forceadd"];

/// The keys of a set.
pub(super) fn keys() -> Vec<&'static str> {
    let mut keys = vec!["type", "family", "entries", "range"];
    keys.extend(NUMBERS.map(|(key, ..)| key));
    keys.extend(FLAGS);
    keys
}

/// Reads sets by name; `of_params` are the names of those whose entries are the value of a param.
pub(super) fn sets(node: &Node, of_params: &[String], reader: &mut InventoryReader<'_>) -> Vec<SetStatement> {
    let mut sets = Vec::new();
    for pair in reader.short_map(node, "sets by name") {
        let right = name(&pair.key, &pair.key_place, reader);
        let text = set(pair, of_params.contains(&pair.key), reader);
        if right {
            sets.push(text);
        }
    }
    sets
}

/// The sets below `ipset:` whose entries are the value of a param.
pub(super) fn of_params(node: &Node) -> Vec<String> {
    let Value::Map(sets) = &node.value else { return Vec::new() };
    let is_param = |pair: &&Pair| {
        let Value::Map(fields) = &pair.value.value else { return false };
        let entries = fields.iter().find(|field| field.key == "entries");
        entries.is_some_and(
            |e| matches!(&e.value.value, Value::Str(text) if super::params::reference(text).is_some()),
        )
    };
    sets.iter().filter(is_param).map(|pair| pair.key.clone()).collect()
}

fn name(name: &str, place: &Place, reader: &mut InventoryReader<'_>) -> bool {
    if !reader.clean(name, place, "the name of a set") || !reader.is_word(name, place, "set", "_.:-") {
        return false;
    }
    if name.len() > MAX_NAME {
        let message =
            format!("set `{name}` has a name of {} characters, and ipset takes {MAX_NAME}", name.len());
        reader.wrong_help("bad-name", place, message, format!("use at most {MAX_NAME} characters"));
        return false;
    }
    if name.starts_with(TEMPORARY) {
        let message =
            format!("set `{name}` begins with `{TEMPORARY}`, which kvmfw uses while it swaps members");
        reader.wrong_help("bad-name", place, message, "use another name");
        return false;
    }
    true
}

fn set(pair: &Pair, of_param: bool, reader: &mut InventoryReader<'_>) -> SetStatement {
    let mut set = SetStatement {
        name: Spanned::new(pair.key.clone(), &pair.key_place),
        kind: None,
        family: None,
        entries: None,
        range: None,
        numbers: vec![],
        flags: vec![],
    };
    for field in reader.fields(&pair.value, "a set", &keys()) {
        let (node, place) = (&field.value, &field.key_place);
        match field.key.as_str() {
            "type" => set.kind = kind(node, reader).map(|kind| Spanned::new(kind, &node.place)),
            "family" => set.family = family(node, reader).map(|family| Spanned::new(family, &node.place)),
            "entries" => set.entries = entries(node, of_param, reader).map(|e| Spanned::new(e, place)),
            "range" => {
                set.range =
                    reader.line(node, "a range").map(|text| Spanned::new(text.to_owned(), &node.place))
            }
            key => {
                if let Some((name, low, high)) = NUMBERS.iter().find(|(name, ..)| *name == key) {
                    let number = reader.int(node, name, *low, *high).and_then(|n| u32::try_from(n).ok());
                    set.numbers.extend(number.map(|n| (*name, Spanned::new(n, place))));
                } else if let Some(name) = FLAGS.iter().find(|name| **name == key) {
                    set.flags.extend(reader.bool(node).map(|v| (*name, Spanned::new(v, place))));
                }
            }
        }
    }
    set
}

fn kind(node: &Node, reader: &mut InventoryReader<'_>) -> Option<SetType> {
    let text = reader.line(node, "a type of set")?;
    let found = SetType::parse(text);
    if found.is_none() {
        let known = TYPES.map(|(name, _)| name);
        let help = did_you_mean(text, known).unwrap_or_else(|| format!("use one of {}", known.join(", ")));
        let message = format!("`{text}` is not a type of set that kvmfw can state");
        reader.wrong_help("bad-set-type", &node.place, message, help);
    }
    found
}

fn family(node: &Node, reader: &mut InventoryReader<'_>) -> Option<IpFamily> {
    match reader.line(node, "a family")? {
        "inet" => Some(IpFamily::V4),
        "inet6" => Some(IpFamily::V6),
        other => {
            let message = format!("`{other}` is not a family of sets");
            reader.wrong_help("wrong-type", &node.place, message, "write `inet` or `inet6`");
            None
        }
    }
}

fn entries(node: &Node, of_param: bool, reader: &mut InventoryReader<'_>) -> Option<EntriesStatement> {
    match &node.value {
        Value::Str(text) if text == "unmanaged" => return Some(EntriesStatement::Unmanaged),
        Value::Str(text) => {
            let message =
                format!("expected a list of entries or `unmanaged`, found `{}`", text.escape_debug());
            reader.wrong_help("wrong-type", &node.place, message, "write `[…]`, or `unmanaged`");
            return None;
        }
        Value::Open(_) => return None,
        _ => {}
    }
    let mut items = Vec::new();
    for item in reader.list_up_to(node, "a list of entries", MAX_MEMBERS) {
        let text = match &item.value {
            Value::Int(number) => number.to_string(),
            Value::Open(_) => continue,
            _ => match reader.line(item, "an entry") {
                Some(text) => text.to_owned(),
                None => continue,
            },
        };
        items.push((text, item.place.clone()));
    }
    Some(EntriesStatement::List(EntryList { items: Arc::new(items), of_param }))
}

/// The pattern of the names of sets, for the schema.
pub(super) fn name_pattern() -> String {
    format!("^(?!{})[A-Za-z0-9_.:][A-Za-z0-9_.:-]{{0,{}}}$", ipset::TEMPORARY, MAX_NAME - 1)
}
