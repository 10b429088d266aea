//! Where the kernel sends a packet: policy rules, tables of routes, and what they say.

use crate::host_state::{HostLinks, PolicyRule, RouteKind, TableRoute};
use std::net::IpAddr;

/// What is asked of the routes.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouteLookup<'a> {
    pub src: Option<IpAddr>,
    pub dst: IpAddr,
    /// The device it comes in by; `None` is: the host sends it.
    pub input: Option<&'a str>,
    /// The firewall mark, where it is known.
    pub mark: Option<u32>,
    pub protocol: Option<u8>,
}

/// What the routes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RouteDecision {
    /// It is for the host, alone or with others.
    Local,
    /// It is for a group.
    Multicast,
    /// It leaves by one of these devices.
    Out(Vec<String>),
    /// It goes nowhere, because of this.
    Nowhere(String),
    /// What decides, and cannot be told.
    Unknown(String),
}

/// The answer to a condition.
enum RuleFit {
    Yes,
    No,
    Maybe,
}

/// Follows the policy rules. `None`: the host's routes are not known.
pub(super) fn lookup(links: &HostLinks, ask: &RouteLookup<'_>) -> Option<RouteDecision> {
    let v6 = ask.dst.is_ipv6();
    let known = |route: &TableRoute| route.dst.addr().is_ipv6() == v6;
    if !links.table.iter().any(known) {
        return None;
    }
    let usual = [(0, "local"), (32766, "main"), (32767, "default")].map(|(preference, table)| PolicyRule {
        v6,
        preference,
        words: ["from", "all", "lookup", table].map(str::to_owned).to_vec(),
    });
    let mut rules: Vec<&PolicyRule> = links.rules.iter().filter(|rule| rule.v6 == v6).collect();
    if rules.is_empty() {
        rules.extend(&usual);
    }
    rules.sort_by_key(|rule| rule.preference);
    let mut from = 0;
    for rule in rules {
        if rule.preference < from {
            continue;
        }
        let fits = fits(rule, ask);
        if matches!(fits, RuleFit::No) {
            continue;
        }
        if let Some(to) = after(rule, "goto").and_then(|to| to.parse().ok()) {
            match fits {
                RuleFit::Yes => from = to,
                _ => return Some(unknown(rule)),
            }
            continue;
        }
        match (act(links, rule, ask), fits) {
            (None, _) => {}
            (Some(_), RuleFit::Maybe) => return Some(unknown(rule)),
            (Some(way), _) => return Some(way),
        }
    }
    Some(RouteDecision::Nowhere(format!("the host has no route to {}", ask.dst)))
}

fn unknown(rule: &PolicyRule) -> RouteDecision {
    RouteDecision::Unknown(format!("policy rule {}", shown(rule)))
}

fn shown(rule: &PolicyRule) -> String {
    format!("{} `{}`", rule.preference, rule.words.join(" "))
}

fn after<'r>(rule: &'r PolicyRule, word: &str) -> Option<&'r str> {
    let at = rule.words.iter().position(|one| one == word)?;
    rule.words.get(at + 1).map(String::as_str)
}

/// What a rule says to a packet that fits; `None`: the next one is asked.
fn act(links: &HostLinks, rule: &PolicyRule, ask: &RouteLookup<'_>) -> Option<RouteDecision> {
    for word in ["blackhole", "unreachable", "prohibit"] {
        if rule.words.iter().any(|one| one == word) {
            return Some(RouteDecision::Nowhere(format!("policy rule {} drops it", shown(rule))));
        }
    }
    if rule.words.iter().any(|word| word == "nop") {
        return None;
    }
    let Some(table) = after(rule, "lookup") else {
        // `lookup [l3mdev-table]`: the table of the VRF that the device belongs to.
        let vrf = ask.input.and_then(|device| vrf_of(links, device))?;
        return Some(RouteDecision::Unknown(format!("the routes of the VRF {vrf}")));
    };
    let least = after(rule, "suppress_prefixlength").and_then(|length| length.parse::<u8>().ok());
    search(links, table, ask, least)
}

/// The VRF that a device belongs to, by itself or by the bridge that it is a port of.
pub(super) fn vrf_of<'l>(links: &'l HostLinks, device: &str) -> Option<&'l str> {
    let mut link = links.by_name.get(device)?;
    for _ in 0..3 {
        link = links.by_name.get(link.master.as_deref()?)?;
        if link.linkinfo.kind.as_deref() == Some("vrf") {
            return Some(&link.name);
        }
    }
    None
}

/// The best route of a table.
fn search(links: &HostLinks, table: &str, ask: &RouteLookup<'_>, least: Option<u8>) -> Option<RouteDecision> {
    let fits = |route: &&TableRoute| route.table == table && route.dst.contains(&ask.dst) && !route.tos;
    let mut routes: Vec<&TableRoute> = links.table.iter().filter(fits).collect();
    if let Some(route) = routes.iter().find(|route| route.src.is_some() && ask.src.is_none()) {
        return Some(RouteDecision::Unknown(format!("route `{}`, which asks for the source", route.text)));
    }
    routes.retain(|route| route.src.is_none_or(|src| ask.src.is_some_and(|asked| src.contains(&asked))));
    let rank = |route: &TableRoute| {
        let source = route.src.map_or(0, |src| src.prefix_len());
        (std::cmp::Reverse(route.dst.prefix_len()), std::cmp::Reverse(source), route.metric)
    };
    let best = routes.iter().map(|route| rank(route)).min()?;
    let same: Vec<&&TableRoute> = routes.iter().filter(|route| rank(route) == best).collect();
    let first = same.first()?;
    if least.is_some_and(|least| first.dst.prefix_len() <= least) {
        return None;
    }
    Some(match first.kind {
        RouteKind::Local | RouteKind::Broadcast => RouteDecision::Local,
        RouteKind::Multicast => RouteDecision::Multicast,
        RouteKind::Refused(_) => {
            RouteDecision::Nowhere(format!("route `{}` of table {table} drops it", first.text))
        }
        RouteKind::Throw => return None,
        RouteKind::Other => RouteDecision::Unknown(format!("route `{}`", first.text)),
        RouteKind::Unicast => {
            let mut devices: Vec<String> =
                same.iter().flat_map(|route| route.devices.iter().cloned()).collect();
            devices.sort();
            devices.dedup();
            if devices.is_empty() {
                RouteDecision::Unknown(format!("route `{}`", first.text))
            } else {
                RouteDecision::Out(devices)
            }
        }
    })
}

/// Whether a rule is for a packet.
fn fits(rule: &PolicyRule, ask: &RouteLookup<'_>) -> RuleFit {
    let mut words = rule.words.iter().map(String::as_str).peekable();
    let not = words.next_if_eq(&"not").is_some();
    let (mut maybe, mut all) = (false, true);
    while let Some(word) = words.next() {
        let one = match word {
            "from" => network(words.next(), ask.src),
            "to" => network(words.next(), Some(ask.dst)),
            "iif" => device(words.next(), ask.input),
            "fwmark" => mark(words.next(), ask.mark),
            "ipproto" => protocol(words.next(), ask.protocol),
            "lookup"
            | "table"
            | "goto"
            | "suppress_prefixlength"
            | "suppress_ifgroup"
            | "protocol"
            | "proto"
            | "realms"
            | "priority"
            | "pref"
            | "order" => {
                words.next();
                RuleFit::Yes
            }
            "unreachable" | "blackhole" | "prohibit" | "nop" | "unresolved" => RuleFit::Yes,
            // Beside what is asked here: the device a socket is bound to, ports, users, the type of service.
            _ => RuleFit::Maybe,
        };
        match one {
            RuleFit::Yes => {}
            RuleFit::No => all = false,
            RuleFit::Maybe => maybe = true,
        }
    }
    match (all, maybe, not) {
        (false, _, false) | (true, false, true) => RuleFit::No,
        (true, false, false) | (false, _, true) => RuleFit::Yes,
        (true, true, _) => RuleFit::Maybe,
    }
}

fn network(text: Option<&str>, address: Option<IpAddr>) -> RuleFit {
    let Some(text) = text.filter(|text| *text != "all") else { return RuleFit::Yes };
    let net: Option<ipnet::IpNet> =
        text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(ipnet::IpNet::from));
    match (net, address) {
        (Some(net), Some(address)) if net.contains(&address) => RuleFit::Yes,
        (Some(_), Some(_)) => RuleFit::No,
        _ => RuleFit::Maybe,
    }
}

/// `iif lo` is what the host sends itself.
fn device(name: Option<&str>, input: Option<&str>) -> RuleFit {
    match (name, input) {
        (Some("lo"), None) => RuleFit::Yes,
        (Some(_), None) => RuleFit::No,
        (Some(name), Some(input)) if name == input => RuleFit::Yes,
        (Some(_), Some("")) | (None, _) => RuleFit::Maybe,
        _ => RuleFit::No,
    }
}

fn mark(text: Option<&str>, mark: Option<u32>) -> RuleFit {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let Some(text) = text else { return RuleFit::Maybe };
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    match (number(value), number(mask), mark) {
        (Some(value), Some(mask), Some(mark)) if mark & mask == value => RuleFit::Yes,
        (Some(_), Some(_), Some(_)) => RuleFit::No,
        _ => RuleFit::Maybe,
    }
}

fn protocol(name: Option<&str>, protocol: Option<u8>) -> RuleFit {
    let number = name.and_then(|name| match name {
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        "ipv6-icmp" => Some(58),
        number => number.parse().ok(),
    });
    match (number, protocol) {
        (Some(asked), Some(is)) if asked == is => RuleFit::Yes,
        (Some(_), Some(_)) => RuleFit::No,
        _ => RuleFit::Maybe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostLinks {
        let routes = "default via 10.0.0.1 dev eth0\n10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.2\n\
            blackhole 192.0.2.0/24\n192.0.2.9 dev eth1\nlocal 10.0.0.2 dev eth0 table local\nbroadcast 10.0.0.255 dev eth0 table local\n\
            default via 10.9.0.1 dev eth9 table 77\nthrow 198.51.100.0/24 table 77\n0:\tfrom all lookup local\n\
            90:\tfrom all to 203.0.113.0/24 sport 7 lookup 77\n100:\tfrom all fwmark 0x7/0xff lookup 77\n\
            110:\tnot from 10.0.0.0/8 lookup 77\n120:\tfrom 10.6.6.6 prohibit\n32766:\tfrom all lookup main\n";
        let v6 = "2001:db8::/32 from 2001:db8:1::/48 dev eth1\ndefault dev eth0\n";
        HostLinks::parse("[]", routes, v6, "").unwrap()
    }

    #[test]
    fn the_kernel_would_say_the_same() {
        let links = host();
        let told = |dst: &str, src: Option<&str>, input: Option<&str>, mark: Option<u32>| {
            let src = src.map(|src| src.parse().unwrap());
            match lookup(
                &links,
                &RouteLookup { src, dst: dst.parse().unwrap(), input, mark, protocol: Some(6) },
            ) {
                Some(RouteDecision::Out(devices)) => devices.join(","),
                Some(RouteDecision::Nowhere(_)) => "nowhere".to_owned(),
                Some(RouteDecision::Unknown(_)) => "unknown".to_owned(),
                other => format!("{other:?}"),
            }
        };
        let own = Some("10.0.0.9");
        for (dst, src, input, mark, expected) in [
            ("8.8.8.8", own, Some("br0"), Some(0), "eth0"),
            ("8.8.8.8", own, Some("br0"), Some(0x107), "eth9"),
            ("8.8.8.8", own, Some("br0"), None, "unknown"),
            ("198.51.100.1", own, Some("br0"), Some(7), "eth0"),
            ("8.8.8.8", Some("172.16.0.1"), Some("br0"), Some(0), "eth9"),
            ("8.8.8.8", Some("172.16.0.1"), None, Some(0), "eth9"),
            ("8.8.8.8", None, Some("br0"), Some(0), "unknown"),
            ("8.8.8.8", Some("10.6.6.6"), None, Some(0), "nowhere"),
            ("203.0.113.1", own, None, Some(0), "unknown"),
            ("192.0.2.1", own, None, Some(0), "nowhere"),
            ("192.0.2.9", own, None, Some(0), "eth1"),
            ("10.0.0.2", own, Some("br0"), Some(0), "Some(Local)"),
            ("10.0.0.255", own, Some("br0"), Some(0), "Some(Local)"),
            ("2001:db8::1", Some("2001:db8:1::1"), None, Some(0), "eth1"),
            ("2001:db8::1", Some("2001:db8:2::1"), None, Some(0), "eth0"),
            ("2001:db8::1", None, None, Some(0), "unknown"),
        ] {
            assert_eq!(told(dst, src, input, mark), expected, "{dst} {src:?} {input:?} {mark:?}");
        }
        let none = HostLinks::parse("[]", "10.0.0.0/24 dev eth0\n", "", "").unwrap();
        let ask = RouteLookup {
            src: None,
            dst: "8.8.8.8".parse().unwrap(),
            input: None,
            mark: Some(0),
            protocol: None,
        };
        assert_eq!(
            lookup(&none, &ask),
            Some(RouteDecision::Nowhere("the host has no route to 8.8.8.8".to_owned()))
        );
    }
}
