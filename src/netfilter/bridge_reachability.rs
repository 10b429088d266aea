//! Whether guests on a bridge can reach each other through the rules.

use super::packet::{ConntrackStates, Packet, PacketDevice, TcpFlags};
use super::ruleset::Ruleset;
use super::simulate::{PacketPath, simulate};
use super::{DevicePattern, HostContext, MatchTest, PacketVerdict, TraceStep};
use crate::resource::iptables::IpFamily;
use std::collections::{BTreeMap, HashSet};

/// A bridge as far as the rules can tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BridgeView {
    /// Its name.
    pub name: String,
    /// Its ports, the taps of guests among them.
    pub ports: Vec<String>,
    /// Whether its frames go through the rules of the family in question: the global
    /// `bridge-nf-call-*` or the bridge's own `nf_call_*` is on. Either is enough.
    pub nf_call: bool,
    /// Where the bridge filters VLANs and no rule sees frames with a tag: the VLAN of each port by which untagged
    /// frames come in and leave. FORWARD is asked only about a frame that has no tag when it comes in and none
    /// when it leaves, so only between two such ports of one VLAN.
    pub untagged: Option<BTreeMap<String, u16>>,
}

impl BridgeView {
    /// Ports between which rules see frames.
    fn groups(&self) -> Vec<Vec<String>> {
        let Some(untagged) = &self.untagged else { return vec![self.ports.clone()] };
        let mut groups: BTreeMap<u16, Vec<String>> = BTreeMap::new();
        for port in &self.ports {
            if let Some(vlan) = untagged.get(port) {
                groups.entry(*vlan).or_default().push(port.clone());
            }
        }
        // Which VLAN a guest to come has is not known.
        groups.into_values().filter(|ports| ports.len() > 1).collect()
    }

    /// Two ports each between which rules see frames, for all that the rules tell apart.
    pub fn pairs(&self, rules: &Ruleset) -> Vec<(PacketDevice, PacketDevice)> {
        let mut pairs = Vec::new();
        for ports in self.groups() {
            let ports = representatives(rules, &ports);
            for (a, from) in ports.iter().enumerate() {
                let others = ports.iter().enumerate().filter(|(b, _)| *b != a);
                pairs.extend(others.map(|(_, to)| (from.clone(), to.clone())));
            }
        }
        pairs
    }

    /// A packet on its way from port to port.
    pub fn frame(&self, packet: Packet, from: &PacketDevice, to: &PacketDevice) -> Packet {
        Packet {
            in_iface: PacketDevice::named(&self.name),
            out_iface: PacketDevice::named(&self.name),
            physin: from.clone(),
            physout: to.clone(),
            bridged: true,
            ..packet
        }
    }
}

/// Frames between the ports of a bridge are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeBlocked {
    /// The rule or policy that drops the first of them.
    pub step: TraceStep,
    /// The first of them: `new TCP connection from vnet0 to eth1`.
    pub sample: String,
    /// All kinds of frames that are dropped between those two ports.
    pub dropped: Vec<&'static str>,
}

/// Frames between the ports of a bridge may be dropped: what is known of them does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeUndecided {
    /// The rule that cannot be answered, or another table that packets pass.
    pub step: TraceStep,
    /// The first of them: `new TCP connection from vnet0 to eth1`.
    pub sample: String,
    /// All kinds of frames between those two ports of which this is so.
    pub kinds: Vec<&'static str>,
    /// What would have to be known.
    pub missing: Vec<String>,
}

/// The port that the samples go to: one that rulesets hardly name. A range that is opened for
/// some service is no sign that a guest can talk.
const DPORT: u16 = 1021;

/// The port that the samples come from.
const SPORT: u16 = 40_000;

/// Ports that the rules tell apart are tried in pairs, up to so many: with a chain per tap, as
/// neutron has them, all pairs would be too many, and one blocked pair is enough.
const CLASSES: usize = 8;

/// Says whether new connections between ports of a bridge are dropped for certain, whatever the
/// addresses of the guests.
pub fn blocked_between_ports(
    rules: &Ruleset,
    context: &HostContext,
    family: IpFamily,
    bridge: &BridgeView,
) -> Option<BridgeBlocked> {
    if !bridge.nf_call {
        return None;
    }
    bridge
        .pairs(rules)
        .iter()
        .find_map(|(from, to)| blocked_from_to(rules, context, family, bridge, from, to))
}

/// Says whether some frames between ports of a bridge may be dropped, whatever their ports and addresses, where none
/// is for certain: a rule asks for more than is known, a table is there that is not read, or NAT rewrites what a host
/// that does not forward cannot bring back to the bridge.
pub fn undecided_between_ports(
    rules: &Ruleset,
    context: &HostContext,
    family: IpFamily,
    bridge: &BridgeView,
    forwards: bool,
) -> Option<BridgeUndecided> {
    if let Some(other) = context.on_bridges() {
        let kinds = samples(family).into_iter().map(|(kind, _)| kind).collect();
        let sample = "frame between two ports".to_owned();
        return Some(BridgeUndecided { step: other.step(), sample, kinds, missing: Vec::new() });
    }
    if !bridge.nf_call {
        return None;
    }
    bridge.pairs(rules).iter().find_map(|(from, to)| {
        let mut doubt: Option<BridgeUndecided> = None;
        for (kind, packet) in samples(family) {
            // To some port of some guest.
            let any = Packet { sport: None, dport: None, dst_local: Some(false), ..packet };
            let found = simulate(rules, context, PacketPath::Forward, &bridge.frame(any, from, to));
            let rewriter = || Some(found.first_rewrite()?.step.clone());
            let mut missing: Vec<String> = Vec::new();
            let step = match found.verdict {
                PacketVerdict::Accept if forwards => None,
                PacketVerdict::Accept => {
                    missing.push("forwarding, which is off (ip_forward is 0)".to_owned());
                    rewriter()
                }
                _ => {
                    missing.extend(found.unanswered_rules().flat_map(|met| met.missing.clone()));
                    missing.sort();
                    missing.dedup();
                    found.decided_by.clone()
                }
            };
            let Some(step) = step else { continue };
            let sample = format!("{kind} from {} to {}", shown(from), shown(to));
            doubt
                .get_or_insert(BridgeUndecided { step, sample, kinds: Vec::new(), missing })
                .kinds
                .push(kind);
        }
        doubt
    })
}

/// First packets from port to port of a bridge, of whatever addresses and ports, for each sort of port that the rules
/// tell apart.
pub fn packets_between_ports(rules: &Ruleset, family: IpFamily, bridge: &BridgeView) -> Vec<Packet> {
    let mut packets = Vec::new();
    for (from, to) in bridge.pairs(rules) {
        packets.extend(samples(family).into_iter().take(2).map(|(_, packet)| {
            let any = Packet { sport: None, dport: None, dst_local: Some(false), ..packet };
            bridge.frame(any, &from, &to)
        }));
    }
    packets
}

fn blocked_from_to(
    rules: &Ruleset,
    context: &HostContext,
    family: IpFamily,
    bridge: &BridgeView,
    from: &PacketDevice,
    to: &PacketDevice,
) -> Option<BridgeBlocked> {
    let mut blocked: Option<BridgeBlocked> = None;
    for (kind, packet) in samples(family) {
        let found = simulate(rules, context, PacketPath::Forward, &bridge.frame(packet, from, to));
        let (PacketVerdict::Drop, Some(step)) = (found.verdict, found.decided_by) else { continue };
        let sample = format!("{kind} from {} to {}", shown(from), shown(to));
        blocked.get_or_insert(BridgeBlocked { step, sample, dropped: Vec::new() }).dropped.push(kind);
    }
    blocked
}

fn shown(port: &PacketDevice) -> &str {
    match port {
        PacketDevice::Named(name) => name,
        _ => "a guest",
    }
}

/// What a guest has to be able to send.
fn samples(family: IpFamily) -> Vec<(&'static str, Packet)> {
    let new = |packet| Packet { state: ConntrackStates::NEW, ..packet };
    let ping = match family {
        IpFamily::V4 => Packet::icmp(family, 8, 0),
        IpFamily::V6 => Packet::icmp(family, 128, 0),
    };
    let mut samples = vec![
        ("new TCP connection", new(Packet::tcp(family, SPORT, DPORT, TcpFlags::SYN))),
        ("new UDP flow", new(Packet::udp(family, SPORT, DPORT))),
        ("ping", new(ping)),
    ];
    if family == IpFamily::V6 {
        let untracked = |kind| Packet { state: ConntrackStates::UNTRACKED, ..Packet::icmp(family, kind, 0) };
        samples.push(("neighbour solicitation", untracked(135)));
        samples.push(("neighbour advertisement", untracked(136)));
    }
    samples
}

/// Two ports of each sort that the rules tell apart; where the bridge has fewer than two ports,
/// those of guests to come.
fn representatives(rules: &Ruleset, ports: &[String]) -> Vec<PacketDevice> {
    let mut patterns: Vec<&DevicePattern> = Vec::new();
    let mut known = HashSet::new();
    for rule in rules.all_rules() {
        for one in &rule.matches {
            if let MatchTest::PhysIn(pattern) | MatchTest::PhysOut(pattern) = &one.test
                && known.insert(pattern)
            {
                patterns.push(pattern);
            }
        }
    }
    let mut sorts: Vec<(Vec<bool>, usize)> = Vec::new();
    let mut chosen = Vec::new();
    for port in ports {
        let sort: Vec<bool> = patterns.iter().map(|pattern| pattern.fits(port)).collect();
        let full = sorts.len() >= CLASSES;
        match sorts.iter_mut().find(|(known, _)| *known == sort) {
            Some((_, 2..)) => continue,
            Some((_, count)) => *count += 1,
            None if full => continue,
            None => sorts.push((sort, 1)),
        }
        chosen.push(PacketDevice::named(port));
    }
    while chosen.len() < 2 {
        chosen.push(PacketDevice::Some);
    }
    chosen
}

#[cfg(test)]
mod tests;
