//! What decides about a packet beside the rules: links, ports of bridges, routes, forwarding, the time to live. What
//! cannot be decided is named, and makes the answer unknown.

use super::context::ExplainContext;
use super::path::PacketRoute;
use super::routing::{RouteDecision, RouteLookup, lookup, vrf_of};
use crate::host_state::HostLink;
use crate::netfilter::{MatchedRule, Packet, PacketDevice, PacketPath, PacketTrace, RuleTarget, Tristate};
use crate::resource::iptables::IpFamily;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OtherFilter {
    /// The kernel drops it, because of this.
    Drops(String),
    /// It may, and what decides.
    May(String),
}

/// The first that drops a packet, else the first that may.
pub(super) fn other_filter(
    scene: &ExplainContext<'_>,
    family: IpFamily,
    route: &PacketRoute,
    trace: Option<&PacketTrace>,
) -> Option<OtherFilter> {
    let packet = &route.packet;
    let mut found = links(scene, route);
    found.extend(programs(scene, route, packet));
    match &route.bridge {
        Some(bridge) => found.extend(bridged(scene, bridge, packet)),
        None => {
            if let Some(trace) = trace {
                found.extend(routed(scene, family, route.base, packet, trace));
            }
        }
    }
    let certain = found.iter().find(|one| matches!(one, OtherFilter::Drops(_)));
    certain.or(found.first()).cloned()
}

fn name(device: &PacketDevice) -> Option<&str> {
    if let PacketDevice::Named(name) = device { Some(name) } else { None }
}

/// Devices that are down.
fn links(scene: &ExplainContext<'_>, route: &PacketRoute) -> Vec<OtherFilter> {
    let mut found = Vec::new();
    let packet = &route.packet;
    let ports = [route.input.as_deref(), route.output.as_deref()];
    for device in [name(&packet.in_iface), name(&packet.out_iface)].into_iter().chain(ports).flatten() {
        let Some(link) = scene.link(device) else { continue };
        if link.flags.is_empty() || link.carries() {
            continue;
        }
        let why = if link.is_up() { "has no carrier" } else { "is down" };
        found.push(OtherFilter::Drops(format!("{} {why}", link.name)));
    }
    for link in ports.into_iter().flatten().filter_map(|port| scene.link(port)) {
        found.extend(port_state(link).map(OtherFilter::Drops));
    }
    found
}

/// Why a port of a bridge carries no frames, where it carries none.
pub(super) fn port_state(link: &HostLink) -> Option<String> {
    let state = link.linkinfo.port.get("state").and_then(Value::as_str)?;
    (state != "forwarding").then(|| format!("port {} of its bridge is in state {state}", link.name))
}

/// Programs and policies that see packets beside netfilter.
fn programs(scene: &ExplainContext<'_>, route: &PacketRoute, packet: &Packet) -> Vec<OtherFilter> {
    let mut found = Vec::new();
    let (input, output) = (route.input.as_deref(), route.output.as_deref());
    let way: BTreeSet<&str> =
        [name(&packet.in_iface), name(&packet.out_iface), input, output].into_iter().flatten().collect();
    for device in way {
        let input = name(&packet.in_iface) == Some(device) || input == Some(device);
        if input && scene.link(device).is_some_and(|link| link.xdp.is_some()) {
            found.push(OtherFilter::May(format!("the XDP program of {device}")));
        }
        if scene.observed.other_programs.tc.iter().any(|one| one == device) {
            found.push(OtherFilter::May(format!("the tc filters of {device}")));
        }
    }
    if route.bridge.is_none() {
        let among =
            |net: &ipnet::IpNet, address: Option<IpAddr>| address.is_none_or(|one| net.contains(&one));
        let v6 = packet.family == IpFamily::V6;
        let policy = scene.observed.other_programs.xfrm.iter().find(|(src, dst)| {
            src.addr().is_ipv6() == v6 && among(src, packet.src) && among(dst, packet.dst)
        });
        found.extend(
            policy.map(|(src, dst)| OtherFilter::May(format!("an IPsec policy from {src} to {dst}"))),
        );
        let other =
            scene.host_context(packet.family).other_tables.iter().find(|one| one.may_drop_at_bridge());
        let over_bridge = [&packet.in_iface, &packet.out_iface].into_iter().filter_map(name);
        let mut over_bridge =
            over_bridge.filter(|device| scene.link(device).is_some_and(HostLink::is_bridge));
        if let (Some(other), Some(device)) = (other, over_bridge.next()) {
            found.push(OtherFilter::May(format!("{} for what comes and goes by {device}", other.name)));
        }
    }
    found
}

/// What a bridge does with a frame from port to port.
fn bridged(scene: &ExplainContext<'_>, bridge: &str, packet: &Packet) -> Vec<OtherFilter> {
    let port = |device: &PacketDevice| name(device).and_then(|name| scene.link(name));
    let (from, to) = (port(&packet.physin), port(&packet.physout));
    let Some(from) = from else { return Vec::new() };
    let mut found = Vec::new();
    let flag = |link: &HostLink, flag: &str| link.port_flag(flag) == Some(true);
    if flag(from, "locked") {
        found.push(OtherFilter::May(format!("port {} is locked: only known MACs pass", from.name)));
    }
    if let Some(to) = to {
        if to.name == from.name && !flag(from, "hairpin") {
            found.push(OtherFilter::Drops(format!(
                "hairpin mode is off at port {}, so the bridge sends no frame back through it",
                from.name
            )));
        }
        if to.name != from.name && flag(from, "isolated") && flag(to, "isolated") {
            found.push(OtherFilter::Drops(format!(
                "ports {} and {} are isolated from each other",
                from.name, to.name
            )));
        }
        found.extend(vlans(scene, bridge, from, to).map(OtherFilter::Drops));
        return found;
    }
    let others = || scene.observed.links.ports(bridge).filter(|port| port.name != from.name);
    let reached =
        |port: &&HostLink| port_state(port).is_none() && !(flag(from, "isolated") && flag(port, "isolated"));
    if others().next().is_some() && !others().any(|port| reached(&port)) {
        found.push(OtherFilter::Drops(format!("no port of {bridge} takes frames from {}", from.name)));
    } else if flag(from, "isolated") && others().any(|port| flag(port, "isolated")) {
        found.push(OtherFilter::May(format!(
            "port {} is isolated: it depends on which port the destination is behind",
            from.name
        )));
    } else if others().any(|port| vlans(scene, bridge, from, port).is_some()) {
        found.push(OtherFilter::May(format!(
            "{bridge} filters VLANs: it depends on which port the destination is behind"
        )));
    }
    found
}

/// Why an untagged frame does not get from port to port of a bridge that filters VLANs.
fn vlans(scene: &ExplainContext<'_>, bridge: &str, from: &HostLink, to: &HostLink) -> Option<String> {
    if scene.desired.is_some() || scene.link(bridge)?.number("vlan_filtering") != Some(1) {
        return None;
    }
    let known = scene.observed.links.vlans.as_ref()?;
    let Some(vlan) = known.get(&from.name).and_then(crate::host_state::PortVlans::pvid) else {
        return Some(format!("port {} takes no untagged frames (no PVID)", from.name));
    };
    let member = known.get(&to.name).is_some_and(|vlans| vlans.0.contains_key(&vlan));
    (!member).then(|| {
        format!("port {} has no VLAN {vlan}, which untagged frames of {} are in", to.name, from.name)
    })
}

/// The packet as routing sees it, and the chain that it meets next: once for each way in which NAT may leave it.
fn routed_packets(trace: &PacketTrace) -> Vec<(PacketPath, &Packet)> {
    let mut seen: Vec<(PacketPath, &Packet)> = Vec::new();
    let mut assumptions = Vec::new();
    for stage in &trace.stages {
        let base = match (&*stage.table, &*stage.chain) {
            ("mangle", "INPUT") => PacketPath::Input,
            ("mangle", "FORWARD") => PacketPath::Forward,
            ("mangle", "POSTROUTING") => PacketPath::Output,
            _ => continue,
        };
        let first = !assumptions.contains(&&stage.assuming) || base == PacketPath::Forward;
        let after_forward =
            base == PacketPath::Output && seen.iter().any(|(base, _)| *base == PacketPath::Forward);
        if first && !after_forward {
            assumptions.push(&stage.assuming);
            seen.push((base, &stage.packet));
        }
    }
    seen
}

/// What the routes, the keys and the time to live make of a packet.
fn routed(
    scene: &ExplainContext<'_>,
    family: IpFamily,
    base: PacketPath,
    asked: &Packet,
    trace: &PacketTrace,
) -> Vec<OtherFilter> {
    let mut found = Vec::new();
    if base == PacketPath::Output {
        // Before any rule is asked, the host has to find a way at all.
        if let Some(dst) = asked.dst {
            let ask =
                RouteLookup { src: asked.src, dst, input: None, mark: asked.mark, protocol: asked.protocol };
            if let Some(RouteDecision::Nowhere(why)) = lookup(&scene.observed.links, &ask) {
                return vec![OtherFilter::Drops(why)];
            }
        }
    }
    let ways = routed_packets(trace);
    let each: Vec<Option<OtherFilter>> = ways
        .iter()
        .map(|(base, packet)| {
            let mut one = one_way(scene, family, *base, asked, packet);
            if *base == PacketPath::Forward && !packet.bridged {
                one.extend(time_to_live(trace));
            }
            let certain = one.iter().find(|one| matches!(one, OtherFilter::Drops(_)));
            certain.or(one.first()).cloned()
        })
        .collect();
    let dropped = |one: &Option<OtherFilter>| matches!(one, Some(OtherFilter::Drops(_)));
    if each.iter().all(dropped) || each.len() == 1 {
        found.extend(each.into_iter().flatten().take(1));
    } else {
        // It depends on which of the ways it takes.
        found.extend(each.into_iter().flatten().take(1).map(|one| match one {
            OtherFilter::Drops(why) | OtherFilter::May(why) => OtherFilter::May(why),
        }));
    }
    found
}

fn one_way(
    scene: &ExplainContext<'_>,
    family: IpFamily,
    base: PacketPath,
    asked: &Packet,
    packet: &Packet,
) -> Vec<OtherFilter> {
    let mut found = Vec::new();
    let input = (base != PacketPath::Output).then(|| name(&packet.in_iface).unwrap_or(""));
    if let Some(input) = input.filter(|input| !input.is_empty()) {
        if let Some(vrf) = vrf_of(&scene.observed.links, input) {
            found.push(OtherFilter::May(format!("the VRF {vrf}, whose routes are not read")));
            return found;
        }
        found.extend(arrives(scene, family, input, asked, packet));
    }
    if packet.bridged {
        return found;
    }
    if base == PacketPath::Forward {
        found.extend(forwarded(scene, family, packet));
    }
    let Some(dst) = packet.dst else { return found };
    if dst.is_multicast() && base == PacketPath::Forward {
        found.push(OtherFilter::May(
            "multicast: the host takes what it has joined, and forwards as a multicast router".to_owned(),
        ));
        return found;
    }
    let ask = RouteLookup { src: packet.src, dst, input, mark: packet.mark, protocol: packet.protocol };
    let out = name(&packet.out_iface);
    match lookup(&scene.observed.links, &ask) {
        Some(RouteDecision::Nowhere(why)) => found.push(OtherFilter::Drops(why)),
        Some(RouteDecision::Unknown(what)) => found.push(OtherFilter::May(what)),
        Some(RouteDecision::Out(devices)) if base != PacketPath::Input => {
            found.extend(leaves(scene, packet, &devices, out));
        }
        _ => {}
    }
    found
}

/// Whether the device that the rules were asked about is the one that the routes choose, and carries.
fn leaves(
    scene: &ExplainContext<'_>,
    packet: &Packet,
    devices: &[String],
    asked: Option<&str>,
) -> Vec<OtherFilter> {
    let mut found = Vec::new();
    if let ([device], true) = (devices, asked.is_none_or(|asked| !devices.iter().any(|one| one == asked))) {
        if asked.is_some() {
            found.push(OtherFilter::May(format!("the routes, by which it leaves by {device}")));
        }
        if let Some(link) = scene.link(device).filter(|link| !link.flags.is_empty() && !link.carries()) {
            found.push(OtherFilter::Drops(format!("it leaves by {}, which carries nothing", link.name)));
        }
    }
    let same = packet.in_iface == packet.out_iface;
    if let (Some(IpAddr::V6(src)), false) = (packet.src, same)
        && src.is_unicast_link_local()
        && packet.in_iface != PacketDevice::Absent
    {
        found.push(OtherFilter::Drops(format!(
            "{src} is an address of one link, and nothing from it is routed"
        )));
    }
    found
}

/// Whether the host forwards what comes in by a device.
fn forwarded(scene: &ExplainContext<'_>, family: IpFamily, packet: &Packet) -> Option<OtherFilter> {
    let device = name(&packet.in_iface).unwrap_or("all");
    let (on, key) = scene.host_after().forwards(family, device)?;
    if on {
        return None;
    }
    let short = match key.as_str() {
        "net/ipv4/ip_forward" => "ip_forward".to_owned(),
        path => path.replace('/', "."),
    };
    Some(OtherFilter::Drops(match key.contains(device) {
        true if device != "all" => {
            format!("the host does not forward what comes in by {device} ({short} is 0)")
        }
        _ => format!("the host does not forward ({short} is 0)"),
    }))
}

/// What is looked at where a packet comes in: addresses that no packet may have, and the way back.
fn arrives(
    scene: &ExplainContext<'_>,
    family: IpFamily,
    input: &str,
    asked: &Packet,
    packet: &Packet,
) -> Vec<OtherFilter> {
    let mut found = Vec::new();
    let drops = |text: String| Some(OtherFilter::Drops(text));
    let on = |key: &str| {
        ["all", input].iter().any(|device| {
            let path = format!("net/ipv4/conf/{device}/{key}");
            scene.host_after().key(&path).is_some_and(|(value, _)| value != "0")
        })
    };
    let local_net = family == IpFamily::V4 && on("route_localnet");
    if input == "lo" {
        return found;
    }
    if let Some(src) = asked.src {
        let v4_only = matches!(src, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0);
        found.extend(match () {
            () if src.is_multicast() || v4_only => drops(format!("no packet may come from {src}")),
            () if src.is_loopback() && !local_net => {
                drops(format!("{src} is an address of the loopback, and nothing from it comes in by {input}"))
            }
            () if src.is_ipv4()
                && scene.host_context(family).is_local(src) == Some(true)
                && !on("accept_local") =>
            {
                drops(format!("{src} is an address of the host itself (accept_local is 0)"))
            }
            () => None,
        });
        if src.is_ipv4() {
            found.extend(reverse_path(scene, input, src, packet.dst));
        }
    }
    if let Some(dst) = packet.dst
        && dst.is_loopback()
        && !local_net
    {
        let key = if family == IpFamily::V4 { " (route_localnet is 0)" } else { "" };
        found.extend(drops(format!("nothing that comes in by {input} gets to {dst}{key}")));
    }
    found
}

/// The reverse path filter of IPv4: strict, it wants the way back by the same device; loose, any.
fn reverse_path(
    scene: &ExplainContext<'_>,
    input: &str,
    src: IpAddr,
    dst: Option<IpAddr>,
) -> Option<OtherFilter> {
    if scene.host_context(IpFamily::V4).is_local(src) == Some(true) {
        return None;
    }
    let value = |device: &str| scene.host_after().key(&super::rp_filter(device))?.0.parse::<u8>().ok();
    // The greater of the two counts, and 2 asks for any way back.
    let filter = match (value("all"), value(input)) {
        (Some(all), Some(own)) => Some(all.max(own)),
        _ => None,
    };
    if filter == Some(0) {
        return None;
    }
    let ask = RouteLookup { src: dst, dst: src, input: None, mark: Some(0), protocol: None };
    let (back, there) = match lookup(&scene.observed.links, &ask)? {
        RouteDecision::Out(devices) if devices.iter().any(|device| device == input) => return None,
        RouteDecision::Out(devices) => (format!("the way back to {src} is {}", devices.join(" or ")), true),
        RouteDecision::Unknown(what) => {
            return Some(OtherFilter::May(format!("the way back to {src}: {what}")));
        }
        RouteDecision::Nowhere(why) => (why, false),
        RouteDecision::Local | RouteDecision::Multicast => {
            (format!("{src} is not an address of a machine"), false)
        }
    };
    let because = format!("it comes in by {input}, and {back}");
    match filter {
        Some(1) => Some(OtherFilter::Drops(format!("{because}: rp_filter is 1"))),
        Some(_) if !there => Some(OtherFilter::Drops(format!("{because}: rp_filter is 2"))),
        Some(_) => None,
        None => Some(OtherFilter::May(format!("{because}: the host drops that where rp_filter is 1"))),
    }
}

/// A rule before routing that leaves a packet no time to live.
fn time_to_live(trace: &PacketTrace) -> Option<OtherFilter> {
    let before =
        trace.stages.iter().filter(|stage| &*stage.table == "mangle" && &*stage.chain == "PREROUTING");
    let sets = |met: &&MatchedRule| met.target == RuleTarget::Continue && hops_left(&met.step.text).is_some();
    let last = before.flat_map(|stage| &stage.matched).rfind(sets)?;
    let step = &last.step;
    let place = format!("{}/{} rule {}", step.table, step.chain, step.index.unwrap_or_default());
    match hops_left(&step.text)? {
        Some(0 | 1) if last.answer == Tristate::Yes => {
            Some(OtherFilter::Drops(format!("{place} `{}` leaves it no hop", step.text)))
        }
        Some(2..) if last.answer == Tristate::Yes => None,
        _ => Some(OtherFilter::May(format!("{place} `{}`, and the time to live it comes with", step.text))),
    }
}

/// What a TTL or HL target sets; `Some(None)`: it takes some away. `None`: it is another target, or adds.
fn hops_left(rule: &str) -> Option<Option<u8>> {
    let (_, target) = rule.split_once("-j TTL ").or_else(|| rule.split_once("-j HL "))?;
    let mut words = target.split(' ');
    match words.next()? {
        "--ttl-set" | "--hl-set" => Some(words.next()?.parse().ok()),
        "--ttl-dec" | "--hl-dec" => Some(None),
        _ => None,
    }
}

/// Why not all frames get from port to port of a bridge, whatever its rules say: the place, and between which ports.
pub(super) fn between_ports(scene: &ExplainContext<'_>, bridge: &str) -> Option<(String, String)> {
    let link = scene.link(bridge)?;
    if !link.flags.is_empty() && !link.is_up() {
        return Some(("is down".to_owned(), "frame between two ports".to_owned()));
    }
    let ports = || scene.observed.links.ports(bridge);
    if let Some((port, why)) =
        ports().filter(|port| port.carries()).find_map(|port| Some((port, port_state(port)?)))
    {
        return Some((why, format!("frame from or to {}", port.name)));
    }
    let mut apart = ports().filter(|port| port.port_flag("isolated") == Some(true));
    let (one, other) = (apart.next()?, apart.next()?);
    let why = format!("keeps isolated ports apart: {} and {}", one.name, other.name);
    Some((why, format!("frame from {} to {}", one.name, other.name)))
}
