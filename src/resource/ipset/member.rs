//! Members: what people write, and what the kernel prints of it.

use super::{MAX_MEMBERS, MemberPart, SetShape, SetType, family_word};
use crate::resource::bridge::check_link_name;
use crate::resource::iptables::IpFamily;
use ipnet::{IpNet, Ipv4Net, Ipv4Subnets};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is wrong with a value, and the next step.
pub type MemberProblem = (String, Option<String>);

/// Protocols that a port of a set can have.
const PROTOCOLS: [&str; 4] = ["tcp", "udp", "sctp", "udplite"];

/// The members that a text stands for.
pub(super) fn members(shape: &SetShape, text: &str) -> Result<Vec<String>, MemberProblem> {
    let (element, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let options = options(shape, rest.trim())?;
    let parts: Vec<&str> = element.split(',').collect();
    let kinds = shape.kind.parts();
    if parts.len() != kinds.len() {
        let wanted: Vec<&str> = kinds.iter().map(|part| example(*part, shape.family)).collect();
        return Err((
            format!("`{element}` does not have the parts of a member of a {} set", shape.kind.as_str()),
            Some(format!("write it as `{}`", wanted.join(","))),
        ));
    }
    let mut all = vec![String::new()];
    for (at, (kind, part)) in kinds.iter().zip(parts).enumerate() {
        let values = values(shape, *kind, part)?;
        without_zero(shape, *kind, part, &values)?;
        if all.len().saturating_mul(values.len()) > MAX_MEMBERS {
            return Err((format!("`{element}` stands for more than {MAX_MEMBERS} members"), None));
        }
        let comma = if at == 0 { "" } else { "," };
        all = all
            .iter()
            .flat_map(|one| values.iter().map(move |value| format!("{one}{comma}{value}")))
            .collect();
    }
    Ok(all.into_iter().map(|one| format!("{one}{options}")).collect())
}

/// How a part of a member looks.
fn example(part: MemberPart, family: IpFamily) -> &'static str {
    match (part, family) {
        (MemberPart::Ip, IpFamily::V4) => "192.0.2.1",
        (MemberPart::Ip, IpFamily::V6) => "2001:db8::1",
        (MemberPart::Net, IpFamily::V4) => "192.0.2.0/24",
        (MemberPart::Net, IpFamily::V6) => "2001:db8::/32",
        (MemberPart::Port, _) => "tcp:22",
        (MemberPart::BarePort, _) => "22",
        (MemberPart::Iface, _) => "eth0",
        (MemberPart::Set, _) => "NAME",
    }
}

/// `nomatch` and `comment "…"` in the order in which the kernel prints them, each with a space before it.
fn options(shape: &SetShape, rest: &str) -> Result<String, MemberProblem> {
    let (mut rest, mut text) = (rest, String::new());
    if let Some(after) =
        rest.strip_prefix("nomatch").filter(|after| after.is_empty() || after.starts_with(' '))
    {
        if !shape.kind.has_exceptions() {
            let message = format!("members of a {} set cannot have `nomatch`", shape.kind.as_str());
            return Err((message, Some("only networks have exceptions".to_owned())));
        }
        text.push_str(" nomatch");
        rest = after.trim_start();
    }
    if let Some(after) = rest.strip_prefix("comment ") {
        let comment = after.strip_prefix('"').and_then(|after| after.strip_suffix('"'));
        let Some(comment) = comment.filter(|comment| !comment.contains(['"', '\\'])) else {
            return Err((
                format!("the comment `{after}` is not a text in double quotes"),
                Some("write `comment \"text\"`".to_owned()),
            ));
        };
        if !shape.comment {
            return Err((
                "a member has a comment, and its set has none".to_owned(),
                Some("add `comment: true` to the set".to_owned()),
            ));
        }
        if comment.len() > 255 {
            return Err(("the comment is longer than 255 bytes".to_owned(), None));
        }
        // ipset drops an empty one.
        let shown = if comment.is_empty() { String::new() } else { format!(" comment \"{comment}\"") };
        return Ok(format!("{text}{shown}"));
    }
    match rest.split(' ').next().unwrap_or_default() {
        "" => Ok(text),
        "timeout" => Err((
            "a declared member cannot have a timeout: it stays for as long as the inventory states it"
                .to_owned(),
            Some("leave it out, or use `entries: unmanaged` where another program adds members".to_owned()),
        )),
        other => Err((
            format!("`{other}` is not an option of a member"),
            Some("a member can have `nomatch` and `comment \"text\"`".to_owned()),
        )),
    }
}

fn values(shape: &SetShape, kind: MemberPart, text: &str) -> Result<Vec<String>, MemberProblem> {
    match kind {
        MemberPart::Ip => addresses(shape, text),
        MemberPart::Net => networks(shape, text),
        MemberPart::Port => {
            let (protocol, ports) = text.split_once(':').unwrap_or(("tcp", text));
            if !PROTOCOLS.contains(&protocol) {
                let message = format!("`{protocol}` is not a protocol with ports in sets");
                return Err((message, Some(format!("use one of {}", PROTOCOLS.join(", ")))));
            }
            Ok(ports_of(ports)?.map(|port| format!("{protocol}:{port}")).collect())
        }
        MemberPart::BarePort => {
            let (low, high) = shape.range.as_deref().and_then(numbers).unwrap_or((0, u32::from(u16::MAX)));
            let ports: Vec<u16> = ports_of(text)?.collect();
            if ports.iter().any(|port| !(low..=high).contains(&u32::from(*port))) {
                return Err((format!("`{text}` is outside of the range {low}-{high} of the set"), None));
            }
            Ok(ports.into_iter().map(|port| port.to_string()).collect())
        }
        MemberPart::Iface => {
            let (prefix, name) = match text.strip_prefix("physdev:") {
                Some(name) => ("physdev:", name),
                None => ("", text),
            };
            match check_link_name(name) {
                Ok(()) => Ok(vec![format!("{prefix}{name}")]),
                Err(why) => Err((format!("`{}` {why}", name.escape_debug()), None)),
            }
        }
        MemberPart::Set => Ok(vec![text.to_owned()]),
    }
}

/// The types `hash:ip` and `hash:ip,port` cannot store an address of which no bit is set.
fn without_zero(
    shape: &SetShape,
    kind: MemberPart,
    text: &str,
    values: &[String],
) -> Result<(), MemberProblem> {
    let stores = !matches!(shape.kind.as_str(), "hash:ip" | "hash:ip,port") || kind != MemberPart::Ip;
    let Some(zero) = values.iter().find(|value| matches!(value.as_str(), "0.0.0.0" | "::")) else {
        return Ok(());
    };
    if stores {
        return Ok(());
    }
    let type_name = shape.kind.as_str();
    let message = match shape.netmask {
        Some(bits) if text != zero => format!("`{text}` with a netmask of {bits} bits contains `{zero}`"),
        _ if text != zero => format!("`{text}` contains `{zero}`"),
        _ => format!("`{text}` is the address of which no bit is set"),
    };
    let help = format!("leave it out, or use type `{}`", type_name.replace("ip", "net"));
    Err((format!("{message}, which a {type_name} set cannot hold"), Some(help)))
}

fn ports_of(text: &str) -> Result<std::ops::RangeInclusive<u16>, MemberProblem> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| text.chars().all(|c| c.is_ascii_digit()));
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (port(from), port(to)) {
        (Some(from), Some(to)) if from <= to => Ok(from..=to),
        _ => Err((
            format!("`{text}` is not a valid port or range of ports"),
            Some("write `22` or `8000-8010`".to_owned()),
        )),
    }
}

/// What is wrong with a text that should be an address of a family.
fn wrong_address(shape: &SetShape, text: &str, what: &str) -> MemberProblem {
    let bare = text.split(['/', '-']).next().unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(found) if found.is_ipv4() != (shape.family == IpFamily::V4) => (
            format!("`{text}` is not of family {}, which the set has", family_word(shape.family)),
            Some("a set has addresses of one family; state a second set for the other one".to_owned()),
        ),
        Err(_) if bare.contains(|c: char| c.is_ascii_alphabetic()) && !bare.contains(':') => (
            format!("`{text}` is a host name"),
            Some(
                "write its address: a set would keep the address that DNS gave once, and would not load at \
                boot"
                    .to_owned(),
            ),
        ),
        _ => (format!("`{text}` is not a valid {what}"), None),
    }
}

/// From and to of `a-b`, `a/len` or `a`, of IPv4.
fn v4_range(text: &str) -> Option<(Ipv4Addr, Ipv4Addr)> {
    if let Some((from, to)) = text.split_once('-') {
        let (from, to): (Ipv4Addr, Ipv4Addr) = (from.parse().ok()?, to.parse().ok()?);
        return (from <= to).then_some((from, to));
    }
    if text.contains('/') {
        let network: Ipv4Net = text.parse().ok()?;
        return Some((network.network(), network.broadcast()));
    }
    let address = text.parse().ok()?;
    Some((address, address))
}

/// Single addresses: a network or a range stands for all of its addresses.
fn addresses(shape: &SetShape, text: &str) -> Result<Vec<String>, MemberProblem> {
    if shape.family == IpFamily::V6 {
        let plain = text.strip_suffix("/128").unwrap_or(text);
        return match plain.parse::<Ipv6Addr>() {
            Ok(address) => Ok(vec![shown(masked(address, shape.netmask))]),
            Err(_) if text.contains(['/', '-']) && text.contains(':') => Err((
                format!("`{text}` is not a single address, and a set of this type takes no other of IPv6"),
                Some("use type `hash:net`".to_owned()),
            )),
            Err(_) => Err(wrong_address(shape, text, "address")),
        };
    }
    let Some((from, to)) = v4_range(text) else { return Err(wrong_address(shape, text, "address")) };
    if let Some((low, high)) = shape.range.as_deref().and_then(v4_range)
        && (from < low || to > high)
    {
        return Err((format!("`{text}` is outside of the range {low}-{high} of the set"), None));
    }
    let bits = u32::from(shape.netmask.unwrap_or(32));
    let step = 1_u64.checked_shl(32 - bits.min(32)).unwrap_or(1);
    let (first, last) = (u64::from(u32::from(from)) / step * step, u64::from(u32::from(to)));
    if (last - first) / step >= MAX_MEMBERS as u64 {
        let message = format!("`{text}` stands for more than {MAX_MEMBERS} members");
        return Err((message, Some("use type `hash:net`, which has one member for a network".to_owned())));
    }
    let mut all = Vec::new();
    let mut at = first;
    while at <= last {
        all.push(Ipv4Addr::from(u32::try_from(at).unwrap_or(u32::MAX)).to_string());
        at += step;
    }
    Ok(all)
}

/// An address with only so many of its bits.
fn masked(address: Ipv6Addr, bits: Option<u8>) -> Ipv6Addr {
    let bits = u32::from(bits.unwrap_or(128)).min(128);
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    (u128::from(address) & mask).into()
}

/// As the C library prints it: the last 32 bits of an IPv4-compatible address with dots.
fn shown(address: Ipv6Addr) -> String {
    let bits = u128::from(address);
    match u32::try_from(bits) {
        Ok(low) if low > 0xffff => format!("::{}", Ipv4Addr::from(low)),
        _ => address.to_string(),
    }
}

/// Networks; those of one address are printed without a prefix length.
fn networks(shape: &SetShape, text: &str) -> Result<Vec<String>, MemberProblem> {
    let whole = if shape.family == IpFamily::V4 { 32 } else { 128 };
    if shape.family == IpFamily::V4 && text.contains('-') {
        let Some((from, to)) = v4_range(text) else { return Err(wrong_address(shape, text, "range")) };
        let parts: Vec<Ipv4Net> = Ipv4Subnets::new(from, to, 0).collect();
        return parts.iter().map(|part| network(shape, (*part).into(), whole, text)).collect();
    }
    let parsed = match text.contains('/') {
        true => text.parse::<IpNet>().ok(),
        false => text.parse::<IpAddr>().ok().map(IpNet::from),
    };
    match parsed.filter(|found| found.addr().is_ipv4() == (shape.family == IpFamily::V4)) {
        Some(found) => Ok(vec![network(shape, found, whole, text)?]),
        None => Err(wrong_address(shape, text, "network")),
    }
}

fn network(shape: &SetShape, found: IpNet, whole: u8, text: &str) -> Result<String, MemberProblem> {
    if found.prefix_len() == 0 && !shape.kind.parts().contains(&MemberPart::Iface) {
        let halves = if whole == 32 { "`0.0.0.0/1` and `128.0.0.0/1`" } else { "`::/1` and `8000::/1`" };
        let message =
            format!("`{text}`: a {} set cannot hold a network of all addresses", shape.kind.as_str());
        return Err((message, Some(format!("write its halves, {halves}"))));
    }
    let address = match found.network() {
        IpAddr::V6(address) => shown(address),
        address => address.to_string(),
    };
    Ok(if found.prefix_len() == whole { address } else { format!("{address}/{}", found.prefix_len()) })
}

fn numbers(text: &str) -> Option<(u32, u32)> {
    let (from, to) = text.split_once('-')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

/// The range of a bitmap as the kernel prints it.
pub(super) fn range(kind: SetType, text: &str) -> Result<String, MemberProblem> {
    if kind.parts() == [MemberPart::BarePort] {
        return match ports_of(text) {
            Ok(ports) if text.contains('-') => Ok(format!("{}-{}", ports.start(), ports.end())),
            _ => Err((format!("`{text}` is not a range of ports"), Some("write it as `0-1023`".to_owned()))),
        };
    }
    match v4_range(text) {
        Some((from, to)) if u32::from(to) - u32::from(from) < 65_536 && from != to => {
            Ok(format!("{from}-{to}"))
        }
        Some(_) => Err((format!("the range `{text}` is not one of 2 to 65536 addresses"), None)),
        None => Err((
            format!("`{text}` is not a range of IPv4 addresses"),
            Some("write it as `192.0.2.0/24`".to_owned()),
        )),
    }
}

/// What a member is sorted by.
pub(super) fn order(member: &str) -> (u8, u128, u8, String) {
    let end = member.find(['/', ',', ' ']).unwrap_or(member.len());
    let (first, rest) = member.split_at(end);
    let length =
        rest.strip_prefix('/').and_then(|rest| rest.split([',', ' ']).next()?.parse().ok()).unwrap_or(255);
    match (first.parse::<IpAddr>(), first.parse::<u32>()) {
        (Ok(IpAddr::V4(address)), _) => (0, u32::from(address).into(), length, rest.to_owned()),
        (Ok(IpAddr::V6(address)), _) => (1, address.into(), length, rest.to_owned()),
        (Err(_), Ok(number)) => (2, number.into(), length, rest.to_owned()),
        _ => (3, 0, 0, member.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(kind: &str, family: IpFamily) -> SetShape {
        SetShape { comment: true, ..SetShape::new(SetType::parse(kind).unwrap(), family) }
    }

    /// As `ipset save` of version 7.17 printed them.
    #[test]
    fn members_as_the_kernel_prints_them() {
        for (kind, family, text, members) in [
            ("hash:net", IpFamily::V4, "10.1.2.3/8", "10.0.0.0/8"),
            ("hash:net", IpFamily::V4, "192.0.2.1/32", "192.0.2.1"),
            ("hash:net", IpFamily::V4, "10.0.0.0-10.0.2.255", "10.0.0.0/23 10.0.2.0/24"),
            ("hash:net", IpFamily::V4, "10.1.0.0/16 nomatch", "10.1.0.0/16 nomatch"),
            ("hash:net", IpFamily::V6, "2001:DB8:0:0:1::/80", "2001:db8:0:0:1::/80"),
            ("hash:net", IpFamily::V6, "::1.2.3.4", "::1.2.3.4"),
            ("hash:ip", IpFamily::V4, "192.0.2.0/30", "192.0.2.0 192.0.2.1 192.0.2.2 192.0.2.3"),
            ("hash:ip", IpFamily::V6, "2001:db8::1/128", "2001:db8::1"),
            ("hash:ip,port", IpFamily::V4, "192.0.2.1,80", "192.0.2.1,tcp:80"),
            ("hash:ip,port", IpFamily::V4, "192.0.2.1,udp:80-81", "192.0.2.1,udp:80 192.0.2.1,udp:81"),
            ("hash:net,iface", IpFamily::V4, "0.0.0.0/0,physdev:eth0", "0.0.0.0/0,physdev:eth0"),
            ("bitmap:port", IpFamily::V4, "80-81", "80 81"),
        ] {
            let found = shape(kind, family).members(text).unwrap();
            let all: Vec<String> = match text.ends_with("nomatch") {
                true => vec![members.to_owned()],
                false => members.split(' ').map(str::to_owned).collect(),
            };
            assert_eq!(found, all, "{kind} {text}");
        }
        let halved = SetShape { netmask: Some(24), ..shape("hash:ip", IpFamily::V4) };
        assert_eq!(halved.members("10.0.0.9-10.0.1.255").unwrap(), ["10.0.0.0", "10.0.1.0"]);
    }

    #[test]
    fn what_is_not_a_member() {
        for (kind, family, text) in [
            ("hash:net", IpFamily::V4, "0.0.0.0/0"),
            ("hash:net", IpFamily::V4, "2001:db8::/32"),
            ("hash:net", IpFamily::V4, "www.example.net"),
            ("hash:net", IpFamily::V4, "10.0.0.0/33"),
            ("hash:net", IpFamily::V4, "10.0.0.0/8 timeout 60"),
            ("hash:net", IpFamily::V4, "10.0.0.0/8 -exist"),
            ("hash:net", IpFamily::V4, "10.0.0.0/8,80"),
            ("hash:ip", IpFamily::V4, "10.0.0.0/8"),
            ("hash:ip", IpFamily::V4, "192.0.2.1 nomatch"),
            ("hash:ip", IpFamily::V6, "2001:db8::/64"),
            ("hash:ip,port", IpFamily::V4, "192.0.2.1,ssh"),
            ("hash:ip,port", IpFamily::V4, "192.0.2.1,icmp:8"),
            ("hash:ip,port", IpFamily::V4, "192.0.2.1,65536"),
            ("hash:net,iface", IpFamily::V4, "10.0.0.0/8,a/b"),
            ("hash:net", IpFamily::V4, "10.0.0.0/8 comment \"a\"b\""),
            ("hash:net", IpFamily::V4, ""),
        ] {
            assert!(shape(kind, family).members(text).is_err(), "{kind} {text}");
        }
    }

    #[test]
    fn in_the_order_of_numbers() {
        let mut all = ["10.0.0.10", "10.0.0.9", "10.0.0.0/24", "9.0.0.0/8", "::1"].map(str::to_owned);
        super::super::sort(&mut all);
        assert_eq!(all, ["9.0.0.0/8", "10.0.0.0/24", "10.0.0.9", "10.0.0.10", "::1"]);
    }
}
