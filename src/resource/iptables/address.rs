//! Addresses, ports, protocols and interface names as they stand in rules.

use super::{IpFamily, protocols};
use crate::problem::closest;
use std::net::{Ipv4Addr, Ipv6Addr};

/// What is wrong with a value, and the next step.
pub type AddressProblem = Option<(String, Option<String>)>;

/// Checks the value of `-s` or `-d`.
pub fn check(text: &str, family: IpFamily, negated: bool) -> AddressProblem {
    if negated && text.contains(',') {
        return Some((
            format!("`{text}` is a negated list"),
            Some("iptables takes one address after `!`; accept the others first".into()),
        ));
    }
    text.split(',').find_map(|one| check_one(one, family))
}

fn check_one(text: &str, family: IpFamily) -> AddressProblem {
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text, None),
    };
    let found = if address.parse::<Ipv6Addr>().is_ok() {
        IpFamily::V6
    } else if is_v4(address, mask.is_some()) {
        IpFamily::V4
    } else {
        return Some(no_address(text, address));
    };
    if found != family {
        let other = found.key();
        return Some((
            format!("`{text}` is not a valid address for {family}"),
            Some(format!("put the rule under `{other}:`, or leave it out here")),
        ));
    }
    let mask = mask?;
    let right = match (mask.parse::<u8>(), found) {
        (Ok(bits), IpFamily::V4) => bits <= 32,
        (Ok(bits), IpFamily::V6) => bits <= 128,
        (Err(_), IpFamily::V4) => mask.parse::<Ipv4Addr>().is_ok(),
        (Err(_), IpFamily::V6) => mask.parse::<Ipv6Addr>().is_ok(),
    };
    (!right).then(|| (format!("`/{mask}` in `{text}` is not a valid prefix length for {family}"), None))
}

fn no_address(text: &str, address: &str) -> (String, Option<String>) {
    let numeric = !address.is_empty() && address.chars().all(|c| c.is_ascii_digit() || c == '.');
    if numeric {
        let padded = address.split('.').any(|part| part.len() > 1 && part.starts_with('0'));
        let help = padded.then(|| "iptables reads a number with a leading 0 as octal".to_owned());
        return (format!("`{text}` is not a valid address"), help);
    }
    let name = address.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if name && !address.is_empty() && !address.starts_with('-') {
        return (
            format!("`{text}` is a host name"),
            Some(
                "write its address: a rule would keep the address that DNS gave once, and would not load at \
                boot"
                    .into(),
            ),
        );
    }
    (format!("`{text}` is not a valid address"), None)
}

/// An IPv4 address; with a mask iptables takes less than four numbers (`10/8`).
fn is_v4(address: &str, masked: bool) -> bool {
    let parts: Vec<&str> = address.split('.').collect();
    let right = |part: &&str| {
        !part.is_empty()
            && part.len() <= 3
            && (part.len() == 1 || !part.starts_with('0'))
            && part.parse::<u8>().is_ok()
    };
    parts.iter().all(right) && (parts.len() == 4 || masked && parts.len() < 4)
}

/// Checks the value of `-p`.
pub fn check_protocol(text: &str) -> AddressProblem {
    if protocols::number(text).is_some() {
        return None;
    }
    let name = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-.+_/".contains(c));
    if !name {
        let help = text.contains(',').then(|| "write one rule per protocol".to_owned());
        return Some((format!("`{text}` is not a known protocol"), help));
    }
    let help = match closest(text, protocols::names()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "write its number, from 0 to 255".to_owned(),
    };
    Some((format!("unknown protocol `{text}`"), Some(help)))
}

/// Checks an interface name, which may end with `+` for any ending.
pub fn check_interface(text: &str) -> AddressProblem {
    if text.len() > 15 {
        let message = format!("`{text}` is longer than the 15 characters an interface name may have");
        return Some((message, Some("a `+` at the end stands for any ending".into())));
    }
    let bad = text.is_empty()
        || text.starts_with('-')
        || text.contains(|c: char| c.is_whitespace() || "/!*,".contains(c));
    bad.then(|| {
        let help = text.ends_with('*').then(|| format!("write `{}+`", text.trim_end_matches('*')));
        (format!("`{text}` is not a valid interface name"), help)
    })
}

/// Checks a port, a range `a:b`, and for multiport a list of up to 15.
pub fn check_ports(text: &str, list: bool) -> AddressProblem {
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 1 && !list {
        return Some((
            format!("`{text}` is a list of ports"),
            Some(format!("write `-m multiport --dports {text}`")),
        ));
    }
    let slots: usize = parts.iter().map(|part| if part.contains(':') { 2 } else { 1 }).sum();
    if list && slots > 15 {
        return Some((format!("`{text}` has more than the 15 ports that multiport takes"), None));
    }
    parts.iter().find_map(|part| check_port_range(part))
}

fn check_port_range(text: &str) -> AddressProblem {
    let bound = |text: &str, open: u16| match text {
        "" => Some(open),
        text => text.parse::<u16>().ok(),
    };
    let digits = text.chars().all(|c| c.is_ascii_digit() || c == ':');
    if !digits && !text.is_empty() {
        // A service name: only the host knows its /etc/services.
        let name =
            text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+:".contains(c)) && !text.starts_with('-');
        let range =
            text.split_once('-').filter(|(a, b)| a.parse::<u16>().is_ok() && b.parse::<u16>().is_ok());
        return match range {
            Some((a, b)) => {
                Some((format!("`{text}` is not a valid port"), Some(format!("a range is written `{a}:{b}`"))))
            }
            None => (!name).then(|| (format!("`{text}` is not a valid port"), None)),
        };
    }
    let (low, high) = text.split_once(':').unwrap_or((text, text));
    match (bound(low, 0), bound(high, u16::MAX)) {
        _ if text.is_empty() => Some(("a port is empty".into(), None)),
        (Some(low), Some(high)) if low <= high => None,
        (Some(_), Some(_)) => Some((format!("the range `{text}` ends before it starts"), None)),
        _ => Some((format!("`{text}` is not a valid port"), Some("ports go from 0 to 65535".into()))),
    }
}

/// Whether a text is a MAC address.
pub fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.chars().all(|c| c.is_ascii_hexdigit()))
}
