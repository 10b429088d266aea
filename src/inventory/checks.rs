//! The checks that must pass before an apply is confirmed.

use super::reader::InventoryReader;
use super::{CheckFrom, CheckProbe, ConfirmCheck};
use crate::yaml::{Node, Value};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// The keys of a check.
pub(super) const KEYS: [&str; 6] = ["ping", "tcp", "command", "from", "timeout", "required"];

/// Reads a list of checks.
pub fn checks(node: &Node, reader: &mut InventoryReader<'_>) -> Vec<ConfirmCheck> {
    let items = reader.list(node, "a list of checks");
    items.iter().filter_map(|item| check(item, reader)).collect()
}

fn check(node: &Node, reader: &mut InventoryReader<'_>) -> Option<ConfirmCheck> {
    let mut check = None;
    let (mut count, mut open) = (0, false);
    let (mut from, mut timeout, mut required) = (None, Duration::from_secs(5), false);
    for pair in reader.fields(node, "a check", &KEYS) {
        let value = &pair.value;
        match pair.key.as_str() {
            "ping" | "tcp" | "command" => {
                count += 1;
                open |= matches!(value.value, Value::Open(_));
                check = probe(&pair.key, value, reader);
            }
            "from" => match reader.line(value, "from") {
                Some("host") => from = Some((CheckFrom::Host, &value.place)),
                Some("controller") => from = Some((CheckFrom::Controller, &value.place)),
                Some(other) => {
                    let message = format!("`{other}` cannot run checks");
                    reader.wrong_help("wrong-type", &value.place, message, "write `host` or `controller`");
                }
                None => {}
            },
            "timeout" => timeout = reader.duration(value, "timeout").unwrap_or(timeout),
            "required" => required = reader.bool(value).unwrap_or_default(),
            _ => {}
        }
    }
    if count != 1 && matches!(node.value, Value::Map(_) | Value::Null) {
        let what = if count == 0 { "does nothing" } else { "has more than one kind of check" };
        reader.wrong_help(
            "wrong-type",
            &node.place,
            format!("a check {what}"),
            "write exactly one of `ping`, `tcp` and `command`",
        );
    }
    let probe = check.filter(|_| !open)?;
    if let (CheckProbe::Command(_), Some((CheckFrom::Controller, place))) = (&probe, from) {
        let message = "a command from the controller is refused: an inventory runs nothing on the controller";
        reader.wrong_help("injection", place, message, "use `ping` or `tcp`, or run it on the host");
        return None;
    }
    let from = from.map(|(from, _)| from).unwrap_or_default();
    Some(ConfirmCheck { probe, from, timeout, required, origin: node.place.origin() })
}

fn probe(kind: &str, node: &Node, reader: &mut InventoryReader<'_>) -> Option<CheckProbe> {
    let text = reader.line(node, kind)?;
    match kind {
        "command" => Some(CheckProbe::Command(text.to_owned())),
        "ping" => host(text, node, reader).then(|| CheckProbe::Ping(text.to_owned())),
        _ => {
            let split = match text.strip_prefix('[') {
                Some(rest) => rest.split_once("]:"),
                None => text.rsplit_once(':'),
            };
            let port =
                split.and_then(|(name, port)| Some((name, port.parse::<u16>().ok().filter(|p| *p != 0)?)));
            let Some((name, port)) = port else {
                let help = "write `'192.0.2.1:22'`, or `'[2001:db8::1]:22'`";
                reader.wrong_help(
                    "wrong-type",
                    &node.place,
                    format!("`{text}` is not a valid address and port"),
                    help,
                );
                return None;
            };
            if name.contains(':') && name.parse::<Ipv6Addr>().is_err() {
                reader.wrong("wrong-type", &node.place, format!("`{name}` is not a valid address"));
                return None;
            }
            host(name, node, reader).then(|| CheckProbe::Tcp(name.to_owned(), port))
        }
    }
}

/// Whether a text is an address or a host name.
pub fn host(text: &str, node: &Node, reader: &mut InventoryReader<'_>) -> bool {
    if text.parse::<IpAddr>().is_ok() {
        return true;
    }
    if text.starts_with('-') {
        return reader.is_word(text, &node.place, "a host", "");
    }
    let digits = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let why = match super::names::check_host(text) {
        Ok(()) if digits => "is not a valid address".to_owned(),
        Ok(()) => return true,
        Err(why) => why,
    };
    reader.wrong("bad-address", &node.place, format!("`{}` {why}", text.escape_debug()));
    false
}
