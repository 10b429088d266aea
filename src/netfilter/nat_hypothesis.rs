//! NAT: what a packet may become, and where it goes then.

use super::chain::ChainEvaluator;
use super::host_context::{HostContext, NetfilterHook, TableEffect};
use super::outcome::{BranchOutcomes, TraceStep};
use super::packet::{
    ConnectionNat, ConntrackStates, FlowDirection, FragmentPart, NatEndpoint, Packet, PacketDevice, TcpFlags,
    protocol,
};
use super::rewrite::{NatRewrite, RewriteAddress};
use super::ruleset::Ruleset;
use super::simulate::PacketPath;
use crate::resource::iptables::IpFamily;

/// In how many ways a packet may be rewritten before it counts as rewritten to anything.
const MAX_REWRITES: usize = 16;

/// The packet under one assumption about NAT.
#[derive(Clone)]
pub(super) struct NatHypothesis {
    /// Where it goes.
    pub(super) base: PacketPath,
    /// As it is now. The devices are those that it has in the end.
    pub(super) packet: Packet,
    /// The device that it leaves by as OUTPUT sees it: routing before NAT has chosen it.
    first_out: PacketDevice,
    /// The rule that has rewritten it, or may have and has not.
    pub(super) assuming: Option<(TraceStep, bool)>,
    /// NAT finds no address and drops it.
    pub(super) lost: Option<TraceStep>,
}

impl NatHypothesis {
    /// The packet as it comes in.
    pub(super) fn start(rules: &Ruleset, context: &HostContext, base: PacketPath, packet: &Packet) -> Self {
        let mut packet = packet.clone();
        if let Some(dst) = packet.dst {
            packet.dst_broadcast = packet.dst_broadcast.or_else(|| context.is_broadcast(dst));
            packet.dst_local = packet.dst_local.or_else(|| context.is_local(dst));
        }
        if let Some(src) = packet.src {
            packet.src_local = packet.src_local.or_else(|| context.is_local(src));
        }
        if context.may(TableEffect::MayMark) {
            packet.mark = None;
        }
        if context.may(TableEffect::MayUntrack) {
            packet.state = packet.state | ConntrackStates::UNTRACKED;
        }
        let fresh = !packet.state.meets(ConntrackStates::ESTABLISHED | ConntrackStates::RELATED);
        if fresh || !rules.all_rules().any(|rule| matches!(rule.target, super::rule::RuleTarget::Rewrite(_)))
        {
            packet.dnat = packet.dnat.or(Some(false));
            packet.snat = packet.snat.or(Some(false));
        }
        let first_out = match packet.translation {
            ConnectionNat::Known { destination: Some(_), .. } if base == PacketPath::Output => {
                match packet.dst {
                    Some(dst) if context.is_local(dst) == Some(true) => PacketDevice::named("lo"),
                    Some(dst) => context.device_to(dst),
                    None => PacketDevice::Some,
                }
            }
            _ => packet.out_iface.clone(),
        };
        NatHypothesis { base, packet, first_out, assuming: None, lost: None }
    }

    /// The packet as the chains of one hook see it.
    pub(super) fn at(&self, hook: NetfilterHook) -> Packet {
        let mut packet = self.packet.clone();
        match hook {
            NetfilterHook::Prerouting => {
                packet.out_iface = PacketDevice::Absent;
                packet.physout = PacketDevice::Absent;
                packet.bridged = false;
            }
            // Of what it routes Linux 5.7 and later tell here where it came in by, which only a rule of a
            // user's chain can ask; of bridged frames they do not.
            NetfilterHook::Postrouting if packet.bridged => packet.in_iface = PacketDevice::Absent,
            NetfilterHook::Postrouting => {}
            NetfilterHook::Output => packet.out_iface = self.first_out.clone(),
            // What is for the host itself is joined before, in IPv4; in IPv6 it is only behind INPUT.
            NetfilterHook::Input if packet.family == IpFamily::V4 => packet.fragment = FragmentPart::Whole,
            NetfilterHook::Input
            | NetfilterHook::Forward
            | NetfilterHook::Bridge
            | NetfilterHook::BridgeHost => {}
        }
        packet
    }

    /// The hooks that it passes.
    pub(super) fn hooks(&self) -> Vec<NetfilterHook> {
        match self.base {
            PacketPath::Input => vec![NetfilterHook::Prerouting, NetfilterHook::Input],
            PacketPath::Forward => {
                vec![NetfilterHook::Prerouting, NetfilterHook::Forward, NetfilterHook::Postrouting]
            }
            PacketPath::Output => vec![NetfilterHook::Output, NetfilterHook::Postrouting],
        }
    }

    /// The same packet with another destination, in all the ways in which it may go on.
    fn rerouted(&self, context: &HostContext, end: NatEndpoint) -> Vec<NatHypothesis> {
        let packet = &self.packet;
        if packet.dst.is_some() && packet.dst == end.address {
            let packet = Packet { dport: end.port, ..packet.clone() };
            return vec![NatHypothesis { packet, ..self.clone() }];
        }
        let local = end.address.and_then(|address| context.is_local(address));
        let out = end.address.map_or(PacketDevice::Some, |address| context.device_to(address));
        let moved = Packet {
            dst: end.address,
            dport: end.port,
            dst_local: local,
            dst_broadcast: end.address.and_then(|address| context.is_broadcast(address)),
            ..packet.clone()
        };
        if self.base == PacketPath::Output {
            let out_iface = if local == Some(true) { PacketDevice::named("lo") } else { out };
            return vec![NatHypothesis { packet: Packet { out_iface, ..moved }, ..self.clone() }];
        }
        let mut ways = Vec::new();
        if local != Some(false) {
            ways.push(NatHypothesis {
                base: PacketPath::Input,
                packet: Packet {
                    dst_local: Some(true),
                    out_iface: PacketDevice::Absent,
                    physout: PacketDevice::Absent,
                    bridged: false,
                    ..moved.clone()
                },
                ..self.clone()
            });
        }
        if local != Some(true) {
            // A frame that came in by a bridge and now goes to a machine on it is bridged, whether it
            // was or not.
            let by_port = packet.physin != PacketDevice::Absent;
            let same = match (&packet.in_iface, &out) {
                (PacketDevice::Named(from), PacketDevice::Named(to)) => Some(from == to),
                _ => None,
            };
            for bridged in [true, false] {
                let may = by_port && same != Some(false);
                let must = may && same == Some(true) && packet.physin != PacketDevice::Unknown;
                if if bridged { may } else { !must } {
                    let out_iface = if bridged { packet.in_iface.clone() } else { out.clone() };
                    let physout = if bridged { PacketDevice::Some } else { PacketDevice::Absent };
                    let dst_local = Some(false);
                    let packet = Packet { out_iface, physout, bridged, dst_local, ..moved.clone() };
                    ways.push(NatHypothesis { base: PacketPath::Forward, packet, ..self.clone() });
                }
            }
        }
        ways
    }
}

/// Whether nat asks its rules about a packet: those of the first of a connection, or of an expected
/// one. ICMP errors are rewritten as the connection that they are about.
pub(super) fn asks_rules(packet: &Packet) -> bool {
    if matches!(packet.translation, ConnectionNat::Known { .. }) {
        return false;
    }
    let icmp = matches!(packet.protocol, Some(protocol::ICMP | protocol::ICMPV6));
    packet.state.meets(ConntrackStates::NEW) || packet.state.meets(ConntrackStates::RELATED) && !icmp
}

/// What the destination may become. `outcomes`: what the chain said, if it was asked.
pub(super) fn destination(
    rules: &Ruleset,
    context: &HostContext,
    hypothesis: &NatHypothesis,
    outcomes: Option<&BranchOutcomes>,
) -> Vec<NatHypothesis> {
    let state = hypothesis.packet.state;
    if let ConnectionNat::Known { destination, .. } = hypothesis.packet.translation {
        return known_or_not(context, hypothesis, destination);
    }
    let mut same = outcomes.is_none_or(passes_unchanged)
        || state.meets(ConntrackStates::INVALID | ConntrackStates::UNTRACKED);
    let mut blame: Option<TraceStep> = None;
    let mut anything = false;
    if state.meets(ConntrackStates::ESTABLISHED | ConntrackStates::RELATED) {
        same = true;
        if let Some(step) = may_be_rewritten(rules, hypothesis) {
            (blame, anything) = (Some(step), true);
        }
    }
    let mut hypotheses = Vec::new();
    let rewritten = outcomes.map_or(&[][..], |one| &one.rewritten);
    anything |= rewritten.len() > MAX_REWRITES;
    let mut ends: Vec<NatEndpoint> = Vec::new();
    for (rewrite, step) in rewritten {
        blame.get_or_insert_with(|| step.clone());
        if anything {
            break;
        }
        match own(context, rewrite, &hypothesis.packet.in_iface, hypothesis) {
            Err(()) => hypotheses.push(NatHypothesis { lost: Some(step.clone()), ..hypothesis.clone() }),
            Ok(address) => {
                let end = rewrite.destination(&hypothesis.packet, address);
                if !ends.contains(&end) {
                    ends.push(end);
                    hypotheses
                        .extend(changed(context, hypothesis, end).into_iter().map(|w| assume(w, step, true)));
                }
            }
        }
    }
    if anything {
        let end = NatEndpoint { address: None, port: None };
        hypotheses = changed(context, hypothesis, end);
    }
    if same {
        let mut unchanged = hypothesis.clone();
        if let Some(step) = &blame {
            unchanged = assume(unchanged, step, false);
        }
        hypotheses.push(unchanged);
    }
    if hypotheses.len() == 1 {
        for hypothesis in &mut hypotheses {
            hypothesis.assuming = None;
        }
    } else if let Some(step) = blame {
        for hypothesis in &mut hypotheses {
            hypothesis.assuming.get_or_insert_with(|| (step.clone(), true));
        }
    }
    hypotheses
}

fn assume(hypothesis: NatHypothesis, step: &TraceStep, rewritten: bool) -> NatHypothesis {
    NatHypothesis { assuming: Some((step.clone(), rewritten)), ..hypothesis }
}

/// Whether a branch of a chain leaves the packet as it is.
fn passes_unchanged(outcomes: &BranchOutcomes) -> bool {
    outcomes.accept.is_some()
        || outcomes.unknown.is_some()
        || outcomes.untouched
        || outcomes.rewritten.is_empty()
}

/// The hypotheses for a first packet whose destination a rule rewrites.
fn changed(context: &HostContext, hypothesis: &NatHypothesis, end: NatEndpoint) -> Vec<NatHypothesis> {
    let mut hypotheses = hypothesis.rerouted(context, end);
    for one in &mut hypotheses {
        let before = (hypothesis.packet.dst, hypothesis.packet.dport);
        one.packet.dnat = match (before, (one.packet.dst, one.packet.dport)) {
            ((Some(_), _), after @ (Some(_), _)) if before.1.is_some() || before.1 == after.1 => {
                Some(before != after)
            }
            _ => None,
        };
    }
    hypotheses
}

/// A packet that raw took out of conntrack is not rewritten, whatever its connection.
fn known_or_not(
    context: &HostContext,
    hypothesis: &NatHypothesis,
    destination: Option<NatEndpoint>,
) -> Vec<NatHypothesis> {
    let mut hypotheses = Vec::new();
    let state = hypothesis.packet.state;
    if destination.is_none() || state.meets(ConntrackStates::TRACKED) {
        hypotheses.push(known(context, hypothesis, destination));
    }
    if destination.is_some() && !state.within(ConntrackStates::TRACKED) {
        let end = NatEndpoint { address: hypothesis.packet.dst, port: hypothesis.packet.dport };
        let unrouted = Packet { dst: None, ..hypothesis.packet.clone() };
        hypotheses.extend(NatHypothesis { packet: unrouted, ..hypothesis.clone() }.rerouted(context, end));
    }
    hypotheses
}

/// A later packet whose rewriting is known; the caller has routed it.
fn known(
    context: &HostContext,
    hypothesis: &NatHypothesis,
    destination: Option<NatEndpoint>,
) -> NatHypothesis {
    let Some(end) = destination else { return hypothesis.clone() };
    let local = match hypothesis.base {
        PacketPath::Input => Some(true),
        PacketPath::Forward => Some(false),
        PacketPath::Output => end.address.and_then(|address| context.is_local(address)),
    };
    let packet = Packet {
        dst: end.address,
        dport: end.port,
        dst_local: local,
        dst_broadcast: end.address.and_then(|address| context.is_broadcast(address)),
        ..hypothesis.packet.clone()
    };
    NatHypothesis { packet, ..hypothesis.clone() }
}

fn own(
    context: &HostContext,
    rewrite: &NatRewrite,
    device: &PacketDevice,
    hypothesis: &NatHypothesis,
) -> Result<Option<std::net::IpAddr>, ()> {
    match rewrite.to {
        // What the host redirects of its own goes to the loopback.
        RewriteAddress::Redirect if hypothesis.base == PacketPath::Output => {
            Ok(match hypothesis.packet.family {
                IpFamily::V4 => Some(std::net::Ipv4Addr::LOCALHOST.into()),
                IpFamily::V6 => Some(std::net::Ipv6Addr::LOCALHOST.into()),
            })
        }
        RewriteAddress::Redirect => context.own_address_on(device, hypothesis.packet.dst),
        // On its way to itself IPv6 takes the destination for the source (RFC 6724, rule 1).
        RewriteAddress::Masquerade
            if hypothesis.packet.family == IpFamily::V6 && hypothesis.packet.dst_local == Some(true) =>
        {
            Ok(hypothesis.packet.dst)
        }
        RewriteAddress::Masquerade => {
            Ok(context.own_address_on(device, hypothesis.packet.dst).unwrap_or(None))
        }
        _ => Ok(None),
    }
}

/// The rule by which a later packet may belong to a connection whose destination, or for its answers
/// source, was rewritten.
fn may_be_rewritten(rules: &Ruleset, hypothesis: &NatHypothesis) -> Option<TraceStep> {
    let packet = &hypothesis.packet;
    let first = Packet {
        state: ConntrackStates::NEW,
        tcp_flags: TcpFlags::default(),
        translation: ConnectionNat::ByRules,
        mark: None,
        ..packet.clone()
    };
    let rewrites = |chain: &str, packet: &Packet| {
        ChainEvaluator::new(rules, packet).builtin("nat", chain).outcomes.rewritten.into_iter().next()
    };
    let (dnat, snat) = match hypothesis.base {
        PacketPath::Output => ("OUTPUT", "INPUT"),
        PacketPath::Input | PacketPath::Forward => ("PREROUTING", "POSTROUTING"),
    };
    let mut found = None;
    if packet.direction != Some(FlowDirection::Reply) {
        found = rewrites(dnat, &first);
    }
    if found.is_none() && packet.direction != Some(FlowDirection::Original) {
        // Its first packet went the other way, and whose it really was is what is asked.
        let swapped = Packet {
            src: None,
            src_local: None,
            sport: None,
            dst: packet.src,
            dst_local: packet.src_local,
            dst_broadcast: Some(false),
            dport: packet.sport,
            icmp: None,
            in_iface: PacketDevice::Absent,
            out_iface: packet.in_iface.clone(),
            physin: PacketDevice::Unknown,
            physout: PacketDevice::Unknown,
            ..first
        };
        found = rewrites(snat, &swapped);
    }
    found.map(|(_, step)| step)
}

/// What the source becomes; the rule that finds no address for it.
pub(super) fn source(
    rules: &Ruleset,
    context: &HostContext,
    hypothesis: &mut NatHypothesis,
    outcomes: Option<&BranchOutcomes>,
) -> Option<TraceStep> {
    let anything = NatEndpoint { address: None, port: None };
    if let ConnectionNat::Known { source, .. } = hypothesis.packet.translation {
        let state = hypothesis.packet.state;
        if let Some(end) = source.filter(|_| state.meets(ConntrackStates::TRACKED)) {
            let sure = state.within(ConntrackStates::TRACKED);
            let end = if sure { end } else { anything };
            (hypothesis.packet.src, hypothesis.packet.sport) = (end.address, end.port);
            hypothesis.packet.src_local = end.address.and_then(|address| context.is_local(address));
        }
        return None;
    }
    let Some(outcomes) = outcomes else {
        // A later packet: from whom it seems to come is not known where any rule rewrites that.
        let nat = rules.all_rules().any(|rule| matches!(rule.target, super::rule::RuleTarget::Rewrite(_)));
        if nat && hypothesis.packet.state.meets(ConntrackStates::TRACKED) {
            (hypothesis.packet.src, hypothesis.packet.sport, hypothesis.packet.src_local) =
                (None, None, None);
        }
        return None;
    };
    let [(rewrite, _)] = outcomes.rewritten.as_slice() else {
        if !outcomes.rewritten.is_empty() {
            hypothesis.set_source(context, anything);
        }
        return None;
    };
    let device = hypothesis.packet.out_iface.clone();
    let address = own(context, rewrite, &device, hypothesis).unwrap_or(None);
    let end = rewrite.source(&hypothesis.packet, address);
    // What conntrack may not have seen may not be rewritten.
    let unchanged = passes_unchanged(outcomes)
        || hypothesis.packet.state.meets(ConntrackStates::INVALID | ConntrackStates::UNTRACKED);
    hypothesis.set_source(context, if unchanged { anything } else { end });
    if !unchanged && rewrite.to == RewriteAddress::Masquerade && hypothesis.packet.src.is_none() {
        hypothesis.packet.src_among = context.own_addresses(hypothesis.packet.family);
        hypothesis.packet.src_local = Some(true);
    }
    None
}

impl NatHypothesis {
    /// Rewrites where a first packet seems to come from.
    fn set_source(&mut self, context: &HostContext, end: NatEndpoint) {
        self.packet.snat = match (self.packet.src, end.address) {
            (Some(before), Some(after)) if before != after => Some(true),
            _ => None,
        };
        (self.packet.src, self.packet.sport) = (end.address, end.port);
        self.packet.src_local = end.address.and_then(|address| context.is_local(address));
        self.packet.src_among.clear();
    }
}
