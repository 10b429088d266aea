//! Reports the path of one packet through a host, hook by hook and rule by rule.

use super::context::{ExplainContext, RulePlace};
use super::other_filters::{OtherFilter, other_filter};
use super::routing::{RouteDecision, RouteLookup, lookup};
use super::samples::{MAX_RANGES, endpoints};
use super::settings::forwards;
use crate::expectation::{PacketEndpoint, PacketQuery, PacketTransport};
use crate::host_state::HostLink;
use crate::netfilter::{
    ConntrackStates, HostContext, Packet, PacketDevice, PacketPath, PacketTrace, PacketVerdict, RuleTarget,
    Ruleset, SkipReason, TcpFlags, TraceStep, Tristate, simulate,
};
use crate::resource::iptables::IpFamily;
use serde::Serialize;
use std::net::IpAddr;

/// The verdict about a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FinalVerdict {
    /// `passes`, `dropped`, or `unknown`.
    pub verdict: &'static str,
    /// The rule that says so, or the first that cannot be answered; none where no rule sees the packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<RulePlace>,
    /// Why, where no rule says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The facts that would have to be known.
    #[serde(skip)]
    pub(super) missing: Vec<String>,
}

impl FinalVerdict {
    fn new(verdict: &'static str, by: Option<RulePlace>, because: Option<String>) -> Self {
        Self { verdict, by, because, missing: Vec::new() }
    }
}

/// How a packet goes through the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PacketRoute {
    /// `bridged`, `routed`, `to the host`, `from the host`.
    pub kind: &'static str,
    /// The bridge that it crosses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The device it comes in by.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The device it leaves by.
    #[serde(rename = "out", skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// What had to be assumed.
    pub notes: Vec<String>,
    #[serde(skip)]
    pub(super) base: PacketPath,
    #[serde(skip)]
    pub(super) packet: Packet,
}

/// One built-in chain on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HookReport {
    /// The table.
    pub table: String,
    /// The built-in chain.
    pub chain: String,
    /// Why no rule was asked, or under which assumption the packet comes here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How many rules were asked.
    pub asked: usize,
    /// The rules that match, surely or maybe.
    pub rules: Vec<RuleHit>,
}

/// A rule that a packet meets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleHit {
    /// The rule.
    #[serde(flatten)]
    pub place: RulePlace,
    /// How deep in user chains.
    pub depth: usize,
    /// It surely matches; otherwise it may.
    pub sure: bool,
    /// What would have to be known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// `accept`, `drop`, `jump`, …
    pub does: &'static str,
}

/// The report about one packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PacketReport {
    /// What was asked, in words.
    pub packet: String,
    /// iptables or ip6tables.
    pub family: IpFamily,
    /// How it goes.
    pub route: PacketRoute,
    /// The hooks.
    #[serde(rename = "hops")]
    pub hooks: Vec<HookReport>,
    /// The end.
    #[serde(rename = "fate")]
    pub verdict: FinalVerdict,
    /// Where the port or the protocol decides and was not given: what becomes of common packets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub common: Vec<CommonVerdict>,
    /// The packet as it leaves the tables, where that is known.
    #[serde(skip)]
    final_packet: Option<Packet>,
    /// NAT rewrites it.
    #[serde(skip)]
    rewritten: bool,
}

impl PacketReport {
    /// Whether NAT rewrites the packet.
    pub(super) fn is_rewritten(&self) -> bool {
        self.rewritten
    }

    /// Address and port to which it goes in the end, as far as they are known.
    pub(super) fn destination(&self) -> (Option<IpAddr>, Option<u16>) {
        self.final_packet.as_ref().map_or((None, None), |packet| (packet.dst, packet.dport))
    }
}

/// The verdict about a packet of a common service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommonVerdict {
    /// What to write after `--to`.
    pub to: String,
    /// `passes`, `dropped`, or `unknown`.
    pub verdict: &'static str,
}

/// Services for which an answer is given if the port is not.
const COMMON: [(Option<u16>, PacketTransport); 6] = [
    (Some(22), PacketTransport::Tcp),
    (Some(80), PacketTransport::Tcp),
    (Some(443), PacketTransport::Tcp),
    (Some(53), PacketTransport::Tcp),
    (Some(53), PacketTransport::Udp),
    (None, PacketTransport::Icmp),
];

/// Follows a packet, for each family that the question is about.
///
/// Errors: the question names something that the host does not have.
pub fn packet_reports(
    scene: &ExplainContext<'_>,
    question: &PacketQuery,
) -> Result<Vec<PacketReport>, String> {
    let from = question.from.as_ref().and_then(PacketEndpoint::is_ipv4);
    let to = question.to.is_ipv4();
    if let (Some(source), true, Some(_)) = (&question.from, from != to && from.is_some(), to) {
        return Err(format!("{source} and {} are of different families", question.to));
    }
    let asked = to.or(from);
    let families =
        IpFamily::ALL.into_iter().filter(|family| asked.is_none_or(|v4| v4 == (*family == IpFamily::V4)));
    let mut reports = Vec::new();
    for family in families {
        for one in representatives(scene, family, question)? {
            reports.push(with_common(scene, &one, family)?);
        }
    }
    Ok(reports)
}

/// The packets that a question means, one for each verdict: of several that end alike the first one stands for all.
fn representatives(
    scene: &ExplainContext<'_>,
    family: IpFamily,
    question: &PacketQuery,
) -> Result<Vec<PacketQuery>, String> {
    let ends = |end: &PacketEndpoint| match end {
        PacketEndpoint::Network(_) | PacketEndpoint::Guest(_) | PacketEndpoint::Uplink(_) => {
            endpoints(scene, family, end)
        }
        _ => Ok(vec![end.clone()]),
    };
    let from = match &question.from {
        Some(from) => ends(from)?.into_iter().map(Some).collect(),
        None => vec![None],
    };
    let to = ends(&question.to)?;
    let mut queries = Vec::new();
    let mut known = Vec::new();
    for from in &from {
        let same = |to: &&PacketEndpoint| from.as_ref() != Some(*to) || from_and_to_are_one(question);
        for to in to.iter().filter(same) {
            let query = PacketQuery { from: from.clone(), to: to.clone(), ..question.clone() };
            if queries.len() + known.len() > MAX_RANGES {
                return Err("it means more packets than can be shown; write one address or port".to_owned());
            }
            let report = packet_report(scene, &query, family)?;
            let end = (report.verdict.verdict, report.verdict.by, report.route.kind);
            if !known.contains(&end) {
                known.push(end);
                queries.push(query);
            }
        }
    }
    Ok(queries)
}

fn from_and_to_are_one(question: &PacketQuery) -> bool {
    // Written twice by somebody who means it: `--from vnet0 --to vnet0`.
    question.from.as_ref() == Some(&question.to) && matches!(question.to, PacketEndpoint::Name(_))
}

fn family_of(address: IpAddr) -> IpFamily {
    if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }
}

/// Follows one packet, and where its port decides and is not given, packets of common services too.
fn with_common(
    scene: &ExplainContext<'_>,
    question: &PacketQuery,
    family: IpFamily,
) -> Result<PacketReport, String> {
    let mut report = packet_report(scene, question, family)?;
    let lacks_port = question.port.is_none() && question.transport != PacketTransport::Icmp;
    if report.verdict.verdict == "unknown" && lacks_port && asks_for_port(&report) {
        report.common = common(scene, question, family)?;
    }
    Ok(report)
}

/// Whether a rule that cannot be answered asks for the destination port.
fn asks_for_port(report: &PacketReport) -> bool {
    let asks = |fact: &String| fact == "destination port" || fact == "ports";
    report.hooks.iter().flat_map(|hook| &hook.rules).any(|hit| hit.missing.iter().any(asks))
}

/// The verdicts about packets of common services between the same ends.
fn common(
    scene: &ExplainContext<'_>,
    question: &PacketQuery,
    family: IpFamily,
) -> Result<Vec<CommonVerdict>, String> {
    let answer = |(port, transport): (Option<u16>, PacketTransport)| {
        let asked = PacketQuery { port, transport, ..question.clone() };
        let verdict = packet_report(scene, &asked, family)?.verdict.verdict;
        Ok(CommonVerdict { to: asked.destination(), verdict })
    };
    COMMON.into_iter().map(answer).collect()
}

/// Follows one packet of a family.
///
/// Errors: the question names something that the host does not have.
pub(super) fn packet_report(
    scene: &ExplainContext<'_>,
    question: &PacketQuery,
    family: IpFamily,
) -> Result<PacketReport, String> {
    let route = route(scene, question, family)?;
    let verdict = final_verdict(scene, family, route.base, &route.packet, route.bridge.as_deref());
    let set = scene.sets.get(&family).filter(|_| seen(scene, family, route.bridge.as_deref()));
    let trace = set.map(|set| simulate(set, scene.host_context(family), route.base, &route.packet));
    let verdict = with_kernel(verdict, other_filter(scene, family, &route, trace.as_ref()));
    let verdict = if scene.is_offline() { declared_alone(scene, &route, family, verdict) } else { verdict };
    let rewritten = trace.as_ref().is_some_and(|trace| trace.first_rewrite().is_some());
    let final_packet = match &trace {
        Some(trace) => trace.final_packet.as_ref().map(|(_, packet)| packet.clone()),
        None => Some(route.packet.clone()),
    };
    let hops = trace.map_or_else(Vec::new, |trace| hops(scene, family, &trace));
    Ok(PacketReport {
        packet: words(question),
        family,
        route,
        hooks: hops,
        verdict,
        common: vec![],
        final_packet,
        rewritten,
    })
}

/// A verdict where nothing is known but what the inventory declares: it counts where a declared rule or key decides,
/// whatever else there is on the host.
fn declared_alone(
    scene: &ExplainContext<'_>,
    route: &PacketRoute,
    family: IpFamily,
    verdict: FinalVerdict,
) -> FinalVerdict {
    let bridged = route.bridge.as_deref();
    let by_rule = verdict.by.as_ref().is_some_and(|by| by.owner == "kvmfw" && by.rule.is_some());
    let decided = match (verdict.verdict, bridged) {
        ("unknown", _) => true,
        // Whether the host routes it, and by which devices, follows from addresses that are not declared.
        (_, None) if route.base == PacketPath::Forward => false,
        ("passes", Some(bridge)) => by_rule || !scene.bridge(family, bridge).nf_call,
        // Whether bridged frames meet rules has to be declared too.
        (_, Some(bridge)) => by_rule && scene.declares_filtering(family, bridge),
        (_, None) => by_rule,
    };
    match decided && route.notes.is_empty() {
        true => verdict,
        false => FinalVerdict::new("unknown", None, Some("depends on the host".to_owned())),
    }
}

/// What the rules say, and what decides beside them.
fn with_kernel(verdict: FinalVerdict, beside: Option<OtherFilter>) -> FinalVerdict {
    match beside {
        Some(OtherFilter::Drops(why)) => FinalVerdict::new("dropped", None, Some(why)),
        Some(OtherFilter::May(what)) if verdict.verdict == "passes" => {
            FinalVerdict::new("unknown", None, Some(format!("depends on {what}")))
        }
        _ => verdict,
    }
}

/// `a new tcp connection from vnet0 to 192.168.1.53 port 53`.
fn words(question: &PacketQuery) -> String {
    let what = match (question.transport, question.established) {
        (PacketTransport::Icmp, _) => "a ping".to_owned(),
        (PacketTransport::Udp, false) => "the first udp packet".to_owned(),
        (PacketTransport::Tcp, false) => "a new tcp connection".to_owned(),
        (other, true) => format!("a packet of an open {} connection", other.as_str()),
    };
    let from = question.from.as_ref().map_or_else(String::new, |end| format!(" from {end}"));
    let port = question.port.map_or_else(String::new, |port| format!(" port {port}"));
    format!("{what}{from} to {}{port}", question.to)
}

/// What becomes of a packet; one that crosses a bridge may be seen by no rule.
pub(super) fn final_verdict(
    scene: &ExplainContext<'_>,
    family: IpFamily,
    base: PacketPath,
    packet: &Packet,
    bridge: Option<&str>,
) -> FinalVerdict {
    let word = |verdict| match verdict {
        PacketVerdict::Accept => "passes",
        PacketVerdict::Drop => "dropped",
        PacketVerdict::Unknown => "unknown",
    };
    if !seen(scene, family, bridge) {
        if let Some(other) = scene.host_context(family).on_bridges() {
            let by = Some(scene.place(family, &other.step()));
            return FinalVerdict::new("unknown", by, None);
        }
        let because = format!("bridged frames meet no rule of {family}");
        return FinalVerdict::new("passes", None, Some(because));
    }
    if base == PacketPath::Forward && bridge.is_none() && !forwards(scene, family, device_of(packet)) {
        let because = "the host does not forward (ip_forward is 0)".to_owned();
        return FinalVerdict::new("dropped", None, Some(because));
    }
    let Some(set) = scene.sets.get(&family) else {
        return FinalVerdict::new("unknown", None, Some(format!("the host has no {family}")));
    };
    let found = simulate(set, scene.host_context(family), base, packet);
    if let (PacketVerdict::Accept, Some(rewriter), false) = (
        found.verdict,
        found.first_rewrite().filter(|_| packet.bridged),
        forwards(scene, family, device_of(packet)),
    ) {
        // What NAT moves off the bridge, or makes come from the host, has to be forwarded there or back.
        let because = "it rewrites what crosses the bridge, and the host does not forward (ip_forward is 0)";
        let by = Some(scene.place(family, &rewriter.step));
        return FinalVerdict::new("unknown", by, Some(because.to_owned()));
    }
    let by = found.decided_by.as_ref().map(|step| scene.place(family, step));
    let missing = unique(found.unanswered_rules().flat_map(|met| met.missing.clone()).collect());
    let because = match found.verdict {
        PacketVerdict::Unknown if !missing.is_empty() => Some(format!("depends on {}", missing.join(", "))),
        PacketVerdict::Accept if by.is_none() => Some("there are no rules".to_owned()),
        _ => None,
    };
    FinalVerdict { verdict: word(found.verdict), by, because, missing }
}

/// The device that a packet comes in by; `all` where that is not known.
fn device_of(packet: &Packet) -> &str {
    if let PacketDevice::Named(name) = &packet.in_iface { name } else { "all" }
}

fn unique(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words.dedup();
    words
}

/// Whether rules see it: everything but what crosses a bridge that is out of netfilter.
fn seen(scene: &ExplainContext<'_>, family: IpFamily, bridge: Option<&str>) -> bool {
    bridge.is_none_or(|bridge| scene.bridge(family, bridge).nf_call)
}

/// The rules that a packet meets.
pub(super) fn rule_hits(
    set: &Ruleset,
    around: &HostContext,
    base: PacketPath,
    packet: &Packet,
) -> Vec<TraceStep> {
    simulate(set, around, base, packet).matched_rules().map(|met| met.step.clone()).collect()
}

fn hops(scene: &ExplainContext<'_>, family: IpFamily, found: &PacketTrace) -> Vec<HookReport> {
    let hop = |stage: &crate::netfilter::TraceStage| {
        let skipped = stage.skipped.map(|why| match why {
            SkipReason::NoRules => "no rules".to_owned(),
            SkipReason::LaterPacket => "NAT applies only to the first packet of a connection".to_owned(),
        });
        let assuming = stage.assuming.as_ref().map(|(step, rewritten)| {
            let word = if *rewritten { "rewrites" } else { "does not rewrite" };
            format!("if {}/{} `{}` {word} the packet", step.table, step.chain, step.text)
        });
        let end = stage.decided_by.iter().filter(|step| step.index.is_none()).map(|step| RuleHit {
            place: scene.place(family, step),
            depth: 0,
            sure: true,
            missing: Vec::new(),
            does: if stage.verdict == PacketVerdict::Drop { "drop" } else { "accept" },
        });
        let met = stage.matched.iter().map(|met| RuleHit {
            place: scene.place(family, &met.step),
            depth: met.depth,
            sure: met.answer == Tristate::Yes,
            missing: met.missing.clone(),
            does: does(&met.target),
        });
        HookReport {
            table: stage.table.to_string(),
            chain: stage.chain.to_string(),
            note: assuming.or(skipped),
            asked: stage.asked,
            rules: met.chain(end).collect(),
        }
    };
    found.stages.iter().map(hop).collect()
}

fn does(target: &RuleTarget) -> &'static str {
    match target {
        RuleTarget::Accept => "accept",
        RuleTarget::Drop => "drop",
        RuleTarget::Return => "return",
        RuleTarget::Jump(_) | RuleTarget::Goto(_) => "jump",
        RuleTarget::Continue => "go on",
        RuleTarget::Mark { .. } | RuleTarget::AnyMark => "mark",
        RuleTarget::Untrack => "untrack",
        RuleTarget::Unknown(_) => "unknown",
        _ => "rewrite",
    }
}

// --- how it goes ------------------------------------------------------------------------------------

/// A side of the way: the device, and the port where the device is a bridge.
#[derive(Default)]
struct PathSide {
    device: Option<String>,
    port: Option<String>,
}

fn route(
    scene: &ExplainContext<'_>,
    question: &PacketQuery,
    family: IpFamily,
) -> Result<PacketRoute, String> {
    let mut notes = Vec::new();
    let from = from_side(scene, question)?;
    let host = question.from == Some(PacketEndpoint::Host);
    let to = match &question.to {
        PacketEndpoint::Host => None,
        PacketEndpoint::Address(address) if scene.host_context(family).is_local(*address) == Some(true) => {
            None
        }
        // To all of a network of the host, the host among them.
        PacketEndpoint::Address(address)
            if !from_bridge(scene, question, &from)
                && leads_to(scene, question, &from, *address) == Some(RouteDecision::Local) =>
        {
            None
        }
        PacketEndpoint::Address(address) => Some(to_address(scene, question, *address, &from, &mut notes)),
        PacketEndpoint::Name(name) => Some(named(scene, name)?),
        PacketEndpoint::Guest(bridge) | PacketEndpoint::Uplink(bridge) => Some(a_port_of(scene, bridge)?),
        PacketEndpoint::Network(_) => Some(PathSide::default()),
    };
    let Some(to) = to else {
        if host {
            return Err("from the host to itself: nothing of that leaves the host".to_owned());
        }
        return Ok(finish(
            scene,
            question,
            family,
            "to the host",
            PacketPath::Input,
            from,
            PathSide::default(),
            notes,
        ));
    };
    if host {
        return Ok(finish(
            scene,
            question,
            family,
            "from the host",
            PacketPath::Output,
            PathSide::default(),
            to,
            notes,
        ));
    }
    let same = from.device.is_some() && from.device == to.device;
    let bridge = same
        && question.device.is_none()
        && from.device.as_deref().is_some_and(|name| is_bridge(scene, name));
    let kind = if bridge { "bridged" } else { "routed" };
    Ok(finish(scene, question, family, kind, PacketPath::Forward, from, to, notes))
}

/// Whether it comes in by a bridge that may carry it on itself.
fn from_bridge(scene: &ExplainContext<'_>, question: &PacketQuery, from: &PathSide) -> bool {
    question.device.is_none() && from.device.as_deref().is_some_and(|name| is_bridge(scene, name))
}

/// Where the routes lead from a side to an address, as far as they are known.
fn leads_to(
    scene: &ExplainContext<'_>,
    question: &PacketQuery,
    from: &PathSide,
    dst: IpAddr,
) -> Option<RouteDecision> {
    let src = match question.from {
        Some(PacketEndpoint::Address(src)) if src.is_ipv4() == dst.is_ipv4() => Some(src),
        _ => question.source,
    };
    let host = question.from == Some(PacketEndpoint::Host);
    let input = (!host).then(|| from.device.as_deref().unwrap_or(""));
    lookup(&scene.observed.links, &RouteLookup { src, dst, input, mark: Some(0), protocol: None })
}

/// The one device that routes lead to.
fn device_of_route(way: Option<RouteDecision>) -> Option<String> {
    match way {
        Some(RouteDecision::Out(mut devices)) if devices.len() == 1 => devices.pop(),
        _ => None,
    }
}

fn is_bridge(scene: &ExplainContext<'_>, name: &str) -> bool {
    scene.link(name).is_some_and(|link| link.is_bridge())
        || scene.bridges().iter().any(|bridge| bridge == name)
}

/// Where it comes in.
fn from_side(scene: &ExplainContext<'_>, question: &PacketQuery) -> Result<PathSide, String> {
    let mut side = match &question.from {
        None | Some(PacketEndpoint::Host | PacketEndpoint::Network(_)) => PathSide::default(),
        Some(PacketEndpoint::Name(name)) => named(scene, name)?,
        Some(PacketEndpoint::Guest(bridge) | PacketEndpoint::Uplink(bridge)) => a_port_of(scene, bridge)?,
        Some(PacketEndpoint::Address(address)) => {
            let ask = RouteLookup { src: None, dst: *address, input: None, mark: Some(0), protocol: None };
            let device = match scene.host_context(family_of(*address)).device_to(*address) {
                PacketDevice::Named(device) => Some(device.to_string()),
                _ => device_of_route(lookup(&scene.observed.links, &ask)),
            };
            PathSide { device, port: None }
        }
    };
    for name in question.device.iter().chain(&question.bridge) {
        let given = named(scene, name)?;
        side = PathSide { device: given.device, port: given.port.or(side.port) };
    }
    Ok(side)
}

/// Some port of a bridge, whose name is not known.
fn a_port_of(scene: &ExplainContext<'_>, bridge: &str) -> Result<PathSide, String> {
    match is_bridge(scene, bridge) {
        true => Ok(PathSide { device: Some(bridge.to_owned()), port: None }),
        false => Err(format!("{} has no bridge `{bridge}`", scene.host)),
    }
}

/// A device by its name, the bridge of a port, or the port of a guest.
fn named(scene: &ExplainContext<'_>, name: &str) -> Result<PathSide, String> {
    if let Some(link) = scene.link(name) {
        let bridge = link.master.clone().filter(|master| is_bridge(scene, master));
        return Ok(match bridge {
            Some(bridge) => PathSide { device: Some(bridge), port: Some(name.to_owned()) },
            None => PathSide { device: Some(name.to_owned()), port: None },
        });
    }
    let of_guest =
        scene.observed.guests.iter().find(|(_, guest)| *guest == name).map(|(port, _)| port.clone());
    match of_guest {
        Some(port) if port != name => named(scene, &port),
        _ => {
            let known: Vec<&str> = scene.observed.links.by_name.keys().map(String::as_str).collect();
            Err(format!("{} has no device, port or guest `{name}`; it has {}", scene.host, known.join(", ")))
        }
    }
}

/// Where a packet to an address leaves.
fn to_address(
    scene: &ExplainContext<'_>,
    question: &PacketQuery,
    address: IpAddr,
    from: &PathSide,
    notes: &mut Vec<String>,
) -> PathSide {
    let device = device_of_route(leads_to(scene, question, from, address));
    let device = device.or_else(|| match scene.host_context(family_of(address)).device_to(address) {
        PacketDevice::Named(device) => Some(device.to_string()),
        _ => None,
    });
    let by_route = PathSide { device, port: None };
    let Some(bridge) = from.device.as_deref().filter(|name| is_bridge(scene, name)) else { return by_route };
    let stay = PathSide { device: Some(bridge.to_owned()), port: None };
    if question.bridge.is_some() {
        return stay;
    }
    if question.device.is_some() {
        return by_route;
    }
    let mut own = scene
        .host_context(family_of(address))
        .addresses
        .iter()
        .filter(|(device, net)| device == bridge && net.addr().is_ipv4() == address.is_ipv4());
    let near = own.clone().any(|(_, net)| net.contains(&address));
    let mut ports = scene.observed.links.ports(bridge).peekable();
    if !near && own.clone().next().is_some() && ports.peek().is_some() && ports.all(HostLink::is_of_guest) {
        notes.push(format!("assumed to be routed: {bridge} has no router except the host"));
        return by_route;
    }
    if !near && own.next().is_some() {
        notes.push(format!(
            "assumed to stay on {bridge}, through a router there; if the host is the gateway of the guest, \
             add --in {bridge}"
        ));
    }
    stay
}

#[expect(clippy::too_many_arguments, reason = "one way, put together in one place")]
fn finish(
    scene: &ExplainContext<'_>,
    question: &PacketQuery,
    family: IpFamily,
    kind: &'static str,
    base: PacketPath,
    from: PathSide,
    to: PathSide,
    notes: Vec<String>,
) -> PacketRoute {
    let bridged = kind == "bridged";
    let address = |end: Option<&PacketEndpoint>| match end {
        Some(PacketEndpoint::Address(address)) => Some(*address),
        _ => None,
    };
    let side = |side: &PathSide, absent: bool| match &side.device {
        Some(device) => PacketDevice::named(device),
        None if absent => PacketDevice::Absent,
        None => PacketDevice::Some,
    };
    let port = |side: &PathSide, there: bool| match &side.port {
        Some(port) => PacketDevice::named(port),
        None if there => PacketDevice::Some,
        None if side.device.as_deref().is_some_and(|device| is_bridge(scene, device)) => PacketDevice::Some,
        None => PacketDevice::Absent,
    };
    // A bridged packet leaves by a port; a routed one is not known to when the rules are asked.
    let physout = if bridged { port(&to, true) } else { PacketDevice::Absent };
    // Which port it came in by is known to the rules where bridged frames meet them.
    let tells_port =
        |side: &PathSide| side.device.as_deref().is_none_or(|device| scene.bridge(family, device).nf_call);
    let physin = if base == PacketPath::Output || !bridged && !tells_port(&from) {
        PacketDevice::Absent
    } else {
        port(&from, bridged)
    };
    let state = if question.established { ConntrackStates::ESTABLISHED } else { ConntrackStates::NEW };
    let packet = Packet {
        src: address(question.from.as_ref()).or(question.source),
        dst: address(Some(&question.to)),
        src_local: (base == PacketPath::Output).then_some(true),
        dst_local: Some(base == PacketPath::Input),
        in_iface: side(&from, base == PacketPath::Output),
        out_iface: side(&to, base == PacketPath::Input),
        physin,
        physout,
        bridged,
        state,
        ..transport(question, family)
    };
    let name = |side: PathSide| side.port.or(side.device);
    let bridge = bridged.then(|| from.device.clone()).flatten();
    PacketRoute { kind, bridge, input: name(from), output: name(to), notes, base, packet }
}

fn transport(question: &PacketQuery, family: IpFamily) -> Packet {
    let flags = if question.established { TcpFlags::ACK } else { TcpFlags::SYN };
    let packet = match question.transport {
        PacketTransport::Tcp => Packet::tcp(family, 0, 0, flags),
        PacketTransport::Udp => Packet::udp(family, 0, 0),
        PacketTransport::Icmp => {
            return Packet::icmp(family, if family == IpFamily::V4 { 8 } else { 128 }, 0);
        }
    };
    Packet { sport: None, dport: question.port, ..packet }
}
