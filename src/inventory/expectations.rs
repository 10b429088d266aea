//! `expect:`: what packets are expected to do.

use super::reader::InventoryReader;
use crate::expectation::{
    Expectation, ExpectedVerdict, PacketDestination, PacketEndpoint, RewrittenDestination,
};
use crate::yaml::{Node, Pair, Value};

/// The keys of the packets that are meant.
pub(super) const KEYS: [&str; 6] = ["from", "to", "in", "bridge", "established", "rewritten-to"];

/// Reads a list of expectations.
pub(super) fn expectations(node: &Node, reader: &mut InventoryReader<'_>) -> Vec<Expectation> {
    let items = reader.list(node, "a list of expectations");
    items.iter().filter_map(|item| expectation(item, reader)).collect()
}

fn expectation(node: &Node, reader: &mut InventoryReader<'_>) -> Option<Expectation> {
    let verdicts = ExpectedVerdict::ALL.map(ExpectedVerdict::as_str);
    match reader.fields(node, "an expectation", &verdicts) {
        [Pair { key, value, .. }] => {
            let verdict = ExpectedVerdict::ALL.into_iter().find(|verdict| verdict.as_str() == key)?;
            packets(verdict, value, node, reader)
        }
        pairs => {
            if matches!(node.value, Value::Map(_) | Value::Null) {
                let message = match pairs.len() {
                    0 => "an expectation has no verdict",
                    _ => "an expectation has more than one verdict",
                };
                let help = "write `passes: { from: …, to: … }` or `blocked: { from: …, to: … }`";
                reader.wrong_help("wrong-type", &node.place, message, help);
            }
            None
        }
    }
}

/// The ends of the packets, and what else is said of them.
fn packets(
    verdict: ExpectedVerdict,
    node: &Node,
    whole: &Node,
    reader: &mut InventoryReader<'_>,
) -> Option<Expectation> {
    let (mut from, mut to) = (None, None);
    let (mut device, mut bridge, mut established, mut rewritten_to) = (None, None, false, None);
    let before = reader.problems.len();
    let mut open = false;
    let fields = reader.fields(node, "the packets of an expectation", &KEYS);
    for Pair { key, value, .. } in fields {
        open |= matches!(value.value, Value::Open(_));
        match key.as_str() {
            "from" => from = parsed(value, "`from`", reader, PacketEndpoint::parse),
            "to" => to = parsed(value, "`to`", reader, PacketDestination::parse),
            "in" => device = reader.word(value, "a device", "").map(str::to_owned),
            "bridge" => bridge = reader.word(value, "a bridge", "").map(str::to_owned),
            "established" => established = reader.bool(value).unwrap_or_default(),
            _ => {
                rewritten_to =
                    parsed(value, "`rewritten-to`", reader, RewrittenDestination::parse).map(|(to, _)| to)
            }
        }
    }
    if open || reader.problems.len() > before {
        return None;
    }
    let missing = if from.is_none() { "from" } else { "to" };
    let (Some((from, from_text)), Some((to, to_text))) = (from, to) else {
        if matches!(node.value, Value::Map(_) | Value::Null) {
            let message = format!("`{}` needs `{missing}`", verdict.as_str());
            let help = "write `{ from: guest@br0, to: '192.0.2.53:53/udp' }`";
            reader.wrong_help("missing-key", &node.place, message, help);
        }
        return None;
    };
    if let (Some(source), Some(destination)) = (from.is_ipv4(), to.endpoint.is_ipv4())
        && source != destination
    {
        let message = format!("`{from_text}` and `{to_text}` are of different families");
        reader.wrong("bad-address", &node.place, message);
        return None;
    }
    if rewritten_to.is_some() && verdict == ExpectedVerdict::Blocked {
        let message = "a blocked packet is not rewritten";
        reader.wrong_help("wrong-type", &node.place, message, "write `passes`, or leave `rewritten-to` out");
        return None;
    }
    let text = format!("{from_text} to {to_text}");
    let origin = whole.place.origin();
    Some(Expectation { verdict, from, to, device, bridge, established, rewritten_to, text, origin })
}

/// A value as `parse` reads it, with its text.
fn parsed<T>(
    node: &Node,
    what: &str,
    reader: &mut InventoryReader<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<(T, String)> {
    let text = reader.line(node, what)?;
    match parse(text) {
        Ok(value) => Some((value, text.to_owned())),
        Err(why) => {
            reader.wrong("bad-address", &node.place, why);
            None
        }
    }
}
