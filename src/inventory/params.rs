//! Params of modules: their types, and values that are put into a module.

use super::reader::{InventoryReader, describe};
use crate::problem::{Place, Problem};
use crate::resource::bridge::check_link_name;
use crate::resource::iptables::IpFamily;
use crate::resource::iptables::address;
use crate::resource::iptables::expand::{ParamElement, ParamValue};
use crate::yaml::{Node, Style, Value};
use ipnet::IpNet;
use std::net::IpAddr;

/// A param as a module declares it.
#[derive(Clone, Debug)]
pub struct ParamDeclaration {
    /// Its name.
    pub name: String,
    /// Where it is declared.
    pub place: Place,
    /// What values it takes.
    pub kind: ParamType,
    /// Its value where nobody gives one.
    pub default: Option<Node>,
    /// What it is for.
    pub doc: Option<String>,
}

/// What values a param takes.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamType {
    /// Each value.
    pub base: BaseType,
    /// `list<…>`.
    pub list: bool,
}

/// What one value is.
#[derive(Clone, Debug, PartialEq)]
pub enum BaseType {
    /// `true` or `false`.
    Bool,
    /// A number between `min` and `max`.
    Int(i128, i128),
    /// One line of text that a glob fits.
    String(Option<String>),
    /// A network with prefix length.
    Cidr,
    /// An address.
    Ip,
    /// A MAC address.
    Mac,
    /// An interface name, may end with `+`.
    Iface,
    /// A port or a range `a:b`.
    Port,
    /// One of these.
    Enum(Vec<String>),
}

/// The types of one value.
pub(super) const TYPES: [&str; 9] = ["bool", "int", "string", "cidr", "ip", "mac", "iface", "port", "enum"];

/// The keys of a declared param.
pub(super) const KEYS: [&str; 7] = ["type", "default", "doc", "min", "max", "pattern", "values"];

/// Reads `params:` of a module.
pub fn declared(node: &Node, reader: &mut InventoryReader<'_>) -> Vec<ParamDeclaration> {
    let mut params = Vec::new();
    for pair in reader.map(node, "the params of the module by name") {
        let name = &pair.key;
        let right = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !right || name == "bridges" {
            let why = if right {
                "stands for the bridges of the host"
            } else {
                "is not a valid name, such as `allow_tcp`"
            };
            reader.wrong("bad-name", &pair.key_place, format!("param `{name}` {why}"));
            continue;
        }
        if let Some(param) = one_declared(name, &pair.key_place, &pair.value, reader) {
            params.push(param);
        }
    }
    params
}

fn one_declared(
    name: &str,
    place: &Place,
    node: &Node,
    reader: &mut InventoryReader<'_>,
) -> Option<ParamDeclaration> {
    let (mut base, mut list, mut default, mut doc) = (None, false, None, None);
    let (mut min, mut max, mut pattern, mut values) = (None, None, None, None);
    for pair in reader.fields(node, "a param", &KEYS) {
        let value = &pair.value;
        match pair.key.as_str() {
            "type" => {
                let text = reader.line(value, "the type")?;
                let inner = text.strip_prefix("list<").and_then(|t| t.strip_suffix('>'));
                list = inner.is_some();
                let inner = inner.unwrap_or(text).trim();
                if TYPES.contains(&inner) {
                    base = Some((inner.to_owned(), value.place.clone()));
                } else {
                    let mut problem =
                        Problem::new("wrong-type", format!("unknown type `{text}`")).at_place(&value.place);
                    problem.help = crate::problem::did_you_mean(inner, TYPES);
                    reader.problems.push(problem);
                    return None;
                }
            }
            "default" => default = Some(value.clone()),
            "doc" => doc = reader.line(value, "the doc").map(str::to_owned),
            "min" => min = reader.int(value, "min", i128::MIN, i128::MAX),
            "max" => max = reader.int(value, "max", i128::MIN, i128::MAX),
            "pattern" => {
                let text = reader.line(value, "the pattern")?;
                if globset::Glob::new(text).is_err() {
                    reader.wrong("wrong-type", &value.place, format!("pattern `{text}` is not a valid glob"));
                }
                pattern = Some(text.to_owned());
            }
            "values" => {
                values = Some(reader.names(value, "value", "._+:/-").into_iter().map(|v| v.value).collect())
            }
            _ => {}
        }
    }
    let Some((base, type_place)) = base else {
        reader.wrong_help(
            "missing-key",
            place,
            format!("param `{name}` has no type"),
            format!("add `type:`, one of {}", TYPES.join(", ")),
        );
        return None;
    };
    let base = match base.as_str() {
        "bool" => BaseType::Bool,
        "int" => BaseType::Int(min.unwrap_or(i64::MIN.into()), max.unwrap_or(i64::MAX.into())),
        "string" => BaseType::String(pattern.take()),
        "cidr" => BaseType::Cidr,
        "ip" => BaseType::Ip,
        "mac" => BaseType::Mac,
        "iface" => BaseType::Iface,
        "port" => BaseType::Port,
        _ => match values.take() {
            Some(values) => BaseType::Enum(values),
            None => {
                reader.wrong_help(
                    "missing-key",
                    &type_place,
                    "an enum needs its values",
                    "add `values: [a, b]`",
                );
                return None;
            }
        },
    };
    let is_int = matches!(base, BaseType::Int(..));
    if !is_int && (min.is_some() || max.is_some()) || pattern.is_some() || values.is_some() {
        reader.wrong("unknown-key", place, format!("param `{name}` has a limit that its type does not have"));
    }
    let kind = ParamType { base, list };
    if let Some(default) = &default {
        kind.check(name, default, reader);
    }
    Some(ParamDeclaration { name: name.to_owned(), place: place.clone(), kind, default, doc })
}

impl ParamType {
    /// Checks a value; what is wrong goes to the reader.
    pub fn check(&self, name: &str, node: &Node, reader: &mut InventoryReader<'_>) {
        if !self.list {
            return self.base.check(name, node, reader);
        }
        if node.value == Value::Null {
            return reader.expected(node, &format!("a list for param `{name}`"));
        }
        for item in reader.list(node, &format!("a list for param `{name}`")) {
            self.base.check(name, item, reader);
        }
    }

    /// What a checked value stands for in a rule.
    pub fn param(&self, node: &Node) -> ParamValue {
        match &node.value {
            Value::Seq(items) => ParamValue::List(items.iter().map(|item| self.base.element(item)).collect()),
            _ => ParamValue::One(self.base.element(node)),
        }
    }
}

impl BaseType {
    fn check(&self, name: &str, node: &Node, reader: &mut InventoryReader<'_>) {
        let what = format!("param `{name}`");
        let problem = match self {
            BaseType::Bool => {
                reader.bool(node);
                return;
            }
            BaseType::Int(low, high) => {
                reader.int(node, &what, *low, *high);
                return;
            }
            BaseType::Port => {
                if matches!(node.value, Value::Int(_)) {
                    reader.int(node, &what, 0, 65535);
                    return;
                }
                let Some(text) = reader.line(node, &what) else { return };
                let numeric = text.chars().all(|c| c.is_ascii_digit() || c == ':');
                match address::check_ports(text, false) {
                    None if numeric => return,
                    Some((message, help)) => (message, help),
                    None => (
                        format!("`{text}` is not a valid port"),
                        Some("write its number, or a range `a:b`".to_owned()),
                    ),
                }
            }
            _ => {
                let Some(text) = reader.line(node, &what) else { return };
                match self.check_text(text) {
                    Some(problem) => problem,
                    None => return,
                }
            }
        };
        let (message, help) = problem;
        let mut problem = Problem::new("wrong-type", format!("{what}: {message}")).at_place(&node.place);
        problem.help = help;
        reader.problems.push(problem);
    }

    fn check_text(&self, text: &str) -> Option<(String, Option<String>)> {
        match self {
            BaseType::Cidr => {
                let help = text
                    .parse::<IpAddr>()
                    .ok()
                    .map(|ip| format!("write `{ip}/{}`", if ip.is_ipv4() { 32 } else { 128 }));
                text.parse::<IpNet>()
                    .is_err()
                    .then(|| (format!("`{text}` is not a valid network with prefix length"), help))
            }
            BaseType::Ip => {
                text.parse::<IpAddr>().is_err().then(|| (format!("`{text}` is not a valid address"), None))
            }
            BaseType::Mac => {
                (!address::is_mac(text)).then(|| (format!("`{text}` is not a valid MAC address"), None))
            }
            BaseType::Iface => {
                let plain = text.strip_suffix('+').unwrap_or(text);
                check_link_name(plain).err().map(|why| (format!("`{text}` {why}"), None))
            }
            BaseType::Enum(values) if !values.iter().any(|v| v == text) => Some((
                format!("`{text}` is not one of its values"),
                crate::problem::did_you_mean(text, values.iter().map(String::as_str)),
            )),
            BaseType::String(Some(pattern)) => {
                let fits =
                    globset::Glob::new(pattern).is_ok_and(|glob| glob.compile_matcher().is_match(text));
                (!fits).then(|| (format!("`{text}` does not match the pattern `{pattern}`"), None))
            }
            _ => None,
        }
    }

    fn element(&self, node: &Node) -> ParamElement {
        let text = plain(node);
        let family = match self {
            BaseType::Cidr | BaseType::Ip => {
                Some(if text.contains(':') { IpFamily::V6 } else { IpFamily::V4 })
            }
            _ => None,
        };
        ParamElement { text, family }
    }
}

/// A scalar as text.
pub fn plain(node: &Node) -> String {
    match &node.value {
        Value::Str(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        _ => describe(node),
    }
}

/// A value as one line, for messages and for comparing.
pub fn shown(node: &Node) -> String {
    match &node.value {
        Value::Seq(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Map(pairs) => {
            let pairs: Vec<String> =
                pairs.iter().map(|p| format!("{}: {}", p.key, shown(&p.value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Null => "null".into(),
        _ => plain(node),
    }
}

/// Puts values in for `$name` where that is a whole YAML value; `$$x` is `$x`.
///
/// `value_of` gives a value, `Ok(None)` where values are not known yet, `Err` where there is no such
/// param.
pub fn substitute(
    node: &Node,
    value_of: &mut dyn FnMut(&str) -> Result<Option<Node>, Problem>,
    problems: &mut Vec<Problem>,
) -> Node {
    let value = match &node.value {
        Value::Seq(items) => {
            Value::Seq(items.iter().map(|item| substitute(item, value_of, problems)).collect())
        }
        Value::Map(pairs) => Value::Map(
            pairs
                .iter()
                .map(|pair| {
                    let mut pair = pair.clone();
                    pair.value = substitute(&pair.value, value_of, problems);
                    pair
                })
                .collect(),
        ),
        Value::Str(text) if matches!(node.style, Style::Plain | Style::Quoted) => match reference(text) {
            Some(name) => match value_of(name) {
                Ok(Some(found)) => return moved(found, &node.place),
                Ok(None) => Value::Open(name.to_owned()),
                Err(problem) => {
                    problems.push(problem.at_place(&node.place));
                    Value::Open(name.to_owned())
                }
            },
            None => match text.strip_prefix("$$") {
                Some(rest) if reference(&text[1..]).is_some() => Value::Str(format!("${rest}")),
                _ => return node.clone(),
            },
        },
        _ => return node.clone(),
    };
    Node { value, style: node.style, place: node.place.clone() }
}

/// The name in a text that is `$name` as a whole.
pub fn reference(text: &str) -> Option<&str> {
    let name = text.strip_prefix('$')?;
    let right = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    right.then_some(name)
}

/// The value as if it stood where its `$name` stands.
fn moved(mut node: Node, place: &Place) -> Node {
    if let Value::Seq(items) = &mut node.value {
        let taken = std::mem::take(items);
        *items = taken.into_iter().map(|item| moved(item, place)).collect();
    }
    node.place = place.clone();
    node
}
