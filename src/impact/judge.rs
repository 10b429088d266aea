//! Simulates flows before and after a change.

use super::FlowVerdict;
use super::flow::{
    FlowEnds, FlowKind, HostSide, HostTopology, OpenConnection, PacketFlow, RoutedNetwork, elsewhere,
};
use super::services;
use crate::netfilter::{
    BridgeView, ConntrackStates, HostContext, Packet, PacketDevice, PacketPath, PacketTrace, PacketVerdict,
    RuleTarget, Ruleset, SshCase, SshVerdict, TcpFlags, TraceStep, Tristate, simulate,
};
use crate::resource::iptables::IpFamily;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Most rules that are evaluated for the pairs of ports of one direction, and for all listening ports: a long ruleset
/// gets fewer simulations.
const MAX_RULES: usize = 20_000;

/// Most open connections that are simulated.
const MAX_CONNECTIONS: usize = 64;

/// Most uplinks of a bridge that are simulated.
const MAX_UPLINKS: usize = 2;

/// The port that a frame comes in by, and the one that it leaves by.
type PortPair = (PacketDevice, PacketDevice);

/// A flow to which a change does something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowChange {
    /// The packets.
    pub flow: PacketFlow,
    /// What becomes of them before the change.
    pub before: FlowVerdict,
    /// What becomes of them after it.
    pub after: FlowVerdict,
    /// What decides afterwards.
    pub by: FlowDecider,
    /// It holds for some ports of the bridge: afterwards, packets of others get another verdict.
    pub some: bool,
}

/// What decides about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowDecider {
    /// A rule or a policy, or a table that is not simulated.
    Rule(TraceStep),
    /// The frames of this bridge meet no rules.
    Bypass(String),
    /// The key by which the host does not forward.
    Forwarding(String),
    /// No rule is met.
    Nothing,
}

/// The result of one simulation.
type Judged = (FlowVerdict, FlowDecider);

/// The flows of guests and to listening ports whose verdict changes; with `all`, the others too.
pub fn changed_flows(
    (family, context): (IpFamily, &HostContext),
    topology: &HostTopology,
    [before, after]: [&HostSide<'_>; 2],
    all: bool,
) -> Vec<FlowChange> {
    let mut found = Vec::new();
    let mut note = |ends: FlowEnds, kind: FlowKind, some: bool, [was, is]: [Judged; 2]| {
        let flow = PacketFlow { ends, kind, at_boot: false };
        let changes = was.0 != is.0;
        if changes || all {
            found.push(FlowChange { flow, before: was.0, after: is.0, by: is.1, some });
        }
        changes
    };
    for view in &after.bridges {
        let Some(was) = before.bridge(&view.name) else { continue };
        bridged(family, context, topology, ([before, after], [was, view]), &mut note);
        if !topology.with_address.contains(&view.name) {
            continue;
        }
        for kind in FlowKind::of_guests(family) {
            let judged = [(before, was), (after, view)]
                .map(|(side, view)| to_host(side.rules, context, view, topology, kind.sample(family)));
            note(FlowEnds::ToHost(view.name.clone()), *kind, false, judged);
        }
    }
    for network in &topology.routed {
        for kind in FlowKind::routed() {
            let judged = [before, after].map(|side| to_networks(side, context, network, family, *kind));
            note(FlowEnds::ToNetworks(network.device.clone()), *kind, false, judged);
            let judged = [before, after].map(|side| from_networks(side, context, network, family, *kind));
            note(FlowEnds::FromNetworks(network.device.clone()), *kind, false, judged);
        }
    }
    let budget = 16 * MAX_RULES / (before.rules.len() + after.rules.len() + 1);
    for (port, tcp) in topology.listening.iter().copied().take(budget.clamp(16, 512)) {
        let judged = [before, after].map(|side| to_port(side.rules, context, family, port, tcp));
        let kind = if tcp { FlowKind::NewTcp } else { FlowKind::NewUdp };
        note(FlowEnds::Listening(port, tcp), kind, false, judged);
    }
    found
}

/// Frames between the ports of a bridge: of each direction the pair of ports to which the worst happens, of those that
/// change and of those that do not.
fn bridged(
    family: IpFamily,
    context: &HostContext,
    topology: &HostTopology,
    (sides, views): ([&HostSide<'_>; 2], [&BridgeView; 2]),
    note: &mut impl FnMut(FlowEnds, FlowKind, bool, [Judged; 2]) -> bool,
) {
    let [_, view] = views;
    let budget = (MAX_RULES / (sides[1].rules.len() + 1)).clamp(1, 6);
    let (between, outward) = pairs(sides[1].rules, view, topology);
    let inward: Vec<PortPair> =
        outward.iter().map(|(guest, uplink)| (uplink.clone(), guest.clone())).collect();
    let of = view.name.clone();
    let ends = [
        (FlowEnds::BetweenGuests(of.clone()), between),
        (FlowEnds::ToUplink(of.clone()), outward),
        (FlowEnds::FromUplink(of), inward),
    ];
    for (ends, pairs) in ends {
        for kind in FlowKind::of_guests(family) {
            // A pair to which nothing happens must not stand for one that changes, nor the other way round.
            let mut worst: [Option<[Judged; 2]>; 2] = [None, None];
            for (from, to) in pairs.iter().take(budget) {
                let judge = |n: usize| {
                    crossing(sides[n], context, views[n], views[n].frame(kind.sample(family), from, to))
                };
                let (was, is) = (judge(0), judge(1));
                let worst = &mut worst[usize::from(was.0 == is.0)];
                if worst.as_ref().is_none_or(|[_, known]| is.0 > known.0) {
                    *worst = Some([was, is]);
                }
            }
            let some = matches!(&worst, [Some([_, one]), Some([_, other])] if one.0 != other.0);
            for judged in worst.into_iter().flatten() {
                note(ends.clone(), *kind, some, judged);
            }
        }
    }
}

/// Pairs of guests, and pairs of a guest and an uplink, of each sort that the rules tell apart. The guests of a bridge
/// without any are those to come.
fn pairs(rules: &Ruleset, view: &BridgeView, topology: &HostTopology) -> (Vec<PortPair>, Vec<PortPair>) {
    let (guests, uplinks): (Vec<String>, Vec<String>) =
        view.ports.iter().cloned().partition(|port| topology.guests.contains(port));
    let mut outward = Vec::new();
    for uplink in uplinks.into_iter().take(MAX_UPLINKS) {
        let device = PacketDevice::named(&uplink);
        let ports = std::iter::once(uplink).chain(guests.iter().cloned()).collect();
        let pairs = BridgeView { ports, ..view.clone() }.pairs(rules);
        outward.extend(pairs.into_iter().filter(|(_, to)| *to == device));
    }
    (BridgeView { ports: guests, ..view.clone() }.pairs(rules), outward)
}

/// A frame from port to port of a bridge.
fn crossing(side: &HostSide<'_>, context: &HostContext, view: &BridgeView, frame: Packet) -> Judged {
    if !view.nf_call {
        return match context.on_bridges() {
            Some(other) => (FlowVerdict::Unknown, FlowDecider::Rule(other.step())),
            None => (FlowVerdict::Open, FlowDecider::Bypass(view.name.clone())),
        };
    }
    let judged = judged(&simulate(side.rules, context, PacketPath::Forward, &frame));
    match (judged, side.forwarding_off(&view.name)) {
        // What NAT moves off the bridge, or makes come from the host, has to be forwarded there or back.
        ((FlowVerdict::Rewritten, _), Some(key)) => {
            (FlowVerdict::Unknown, FlowDecider::Forwarding(key.to_owned()))
        }
        (judged, _) => judged,
    }
}

/// A packet of a guest to an address of the host on its bridge.
fn to_host(
    rules: &Ruleset,
    context: &HostContext,
    view: &BridgeView,
    topology: &HostTopology,
    packet: Packet,
) -> Judged {
    let port = view.ports.iter().find(|port| topology.guests.contains(*port));
    let physin = match (view.nf_call, port) {
        // Rules are told the port only where bridged frames meet them.
        (false, _) => PacketDevice::Absent,
        (true, Some(port)) => PacketDevice::named(port),
        (true, None) => PacketDevice::Some,
    };
    let packet = Packet {
        dst_local: Some(true),
        in_iface: PacketDevice::named(&view.name),
        out_iface: PacketDevice::Absent,
        physin,
        physout: PacketDevice::Absent,
        ..packet
    };
    let judged = judged(&simulate(rules, context, PacketPath::Input, &packet));
    match context.other_tables.iter().find(|other| other.may_drop_at_bridge()) {
        Some(other) if judged.0 == FlowVerdict::Open => {
            (FlowVerdict::Unknown, FlowDecider::Rule(other.step()))
        }
        _ => judged,
    }
}

fn to_networks(
    side: &HostSide<'_>,
    context: &HostContext,
    network: &RoutedNetwork,
    family: IpFamily,
    kind: FlowKind,
) -> Judged {
    let ends = (network.guest, elsewhere(family));
    routed(side, context, (&network.device, &network.uplink), ends, kind.sample(family))
}

fn from_networks(
    side: &HostSide<'_>,
    context: &HostContext,
    network: &RoutedNetwork,
    family: IpFamily,
    kind: FlowKind,
) -> Judged {
    let ends = (elsewhere(family), network.guest);
    routed(side, context, (&network.uplink, &network.device), ends, kind.sample(family))
}

/// A packet that the host routes from device to device.
fn routed(
    side: &HostSide<'_>,
    context: &HostContext,
    (from, to): (&str, &str),
    (src, dst): (IpAddr, IpAddr),
    packet: Packet,
) -> Judged {
    if let Some(key) = side.forwarding_off(from) {
        return (FlowVerdict::Blocked, FlowDecider::Forwarding(key.to_owned()));
    }
    // Rules are told the port only where bridged frames meet them.
    let has_port = side.bridge(from).is_some_and(|bridge| bridge.nf_call);
    let packet = Packet {
        src: Some(src),
        dst: Some(dst),
        in_iface: PacketDevice::named(from),
        out_iface: PacketDevice::named(to),
        physin: if has_port { PacketDevice::Some } else { PacketDevice::Absent },
        physout: PacketDevice::Absent,
        ..packet
    };
    judged(&simulate(side.rules, context, PacketPath::Forward, &packet))
}

/// The first packet of another machine to a port of the host.
fn to_port(rules: &Ruleset, context: &HostContext, family: IpFamily, port: u16, tcp: bool) -> Judged {
    let packet = if tcp { Packet::tcp(family, 0, port, TcpFlags::SYN) } else { Packet::udp(family, 0, port) };
    let packet = Packet { sport: None, state: ConntrackStates::NEW, ..packet };
    judged(&simulate(rules, context, PacketPath::Input, &inward(packet)))
}

/// A packet of another machine to the host.
fn inward(packet: Packet) -> Packet {
    Packet {
        src_local: Some(false),
        dst_local: Some(true),
        in_iface: PacketDevice::Outside,
        out_iface: PacketDevice::Absent,
        physout: PacketDevice::Absent,
        ..packet
    }
}

/// The open connections of services with a name whose packets, either way, get another verdict.
pub fn changed_connections(
    (family, context): (IpFamily, &HostContext),
    connections: &BTreeSet<OpenConnection>,
    [before, after]: [&HostSide<'_>; 2],
    all: bool,
) -> Vec<FlowChange> {
    let named = connections.iter().filter(|open| services::name(open.service).is_some());
    let mut found = Vec::new();
    for open in named.take(MAX_CONNECTIONS) {
        let [was, is] = [before, after].map(|side| connection(side.rules, context, family, open));
        if was.0 != is.0 || all {
            let ends = FlowEnds::Connection(open.service, open.tcp);
            let flow = PacketFlow { ends, kind: FlowKind::Established, at_boot: false };
            let change = FlowChange { flow, before: was.0, after: is.0, by: is.1, some: false };
            if !found.contains(&change) {
                found.push(change);
            }
        }
    }
    found
}

/// The worse of the two directions of an open connection. Conntrack knows it: an apply sees to that before the first
/// rule that asks for a state.
fn connection(rules: &Ruleset, context: &HostContext, family: IpFamily, open: &OpenConnection) -> Judged {
    let [arrives, leaves] = open.packets(family);
    let arrives = Packet { src_local: Some(false), ..arrives };
    let arrives = judged(&simulate(rules, context, PacketPath::Input, &arrives));
    let leaves = judged(&simulate(rules, context, PacketPath::Output, &leaves));
    if leaves.0 > arrives.0 { leaves } else { arrives }
}

/// The kinds of SSH packets whose verdict changes.
pub fn changed_ssh(
    (client, port): (IpAddr, u16),
    [before, after]: [&SshVerdict; 2],
    all: bool,
) -> Vec<FlowChange> {
    let kind = |case| match case {
        SshCase::New => Some(FlowKind::NewTcp),
        SshCase::Established => Some(FlowKind::Established),
        SshCase::Reply => Some(FlowKind::Reply),
        SshCase::Neighbour => Some(FlowKind::Neighbour),
        // Conntrack is warmed up before: that the session may end is a warning.
        SshCase::Pickup => None,
    };
    let mut found = Vec::new();
    for (case, trace) in after.cases() {
        let Some(kind) = kind(case) else { continue };
        let Some((_, was)) = before.cases().find(|(other, _)| *other == case) else { continue };
        let (was, is) = (judged(was), judged(trace));
        if was.0 != is.0 || all {
            let flow = PacketFlow { ends: FlowEnds::Ssh(client, port), kind, at_boot: false };
            found.push(FlowChange { flow, before: was.0, after: is.0, by: is.1, some: false });
        }
    }
    found
}

/// The verdict of a simulation, and what decides it.
fn judged(trace: &PacketTrace) -> Judged {
    let decider =
        |step: Option<&TraceStep>| step.map_or(FlowDecider::Nothing, |s| FlowDecider::Rule(s.clone()));
    let rewriter = trace
        .matched_rules()
        .find(|met| met.answer == Tristate::Yes && matches!(met.target, RuleTarget::Rewrite(_)));
    match (trace.verdict, rewriter) {
        (PacketVerdict::Drop, _) => (FlowVerdict::Blocked, decider(trace.decided_by.as_ref())),
        (PacketVerdict::Unknown, _) => (FlowVerdict::Unknown, decider(trace.decided_by.as_ref())),
        (PacketVerdict::Accept, Some(met)) => (FlowVerdict::Rewritten, decider(Some(&met.step))),
        (PacketVerdict::Accept, None) => (FlowVerdict::Open, decider(trace.decided_by.as_ref())),
    }
}
