//! NAT: what a packet may become, and where it goes then.

use super::chain::Walker;
use super::nat::{Rewrite, To};
use super::outcome::{Outcomes, Step};
use super::packet::{Device, Direction, End, Fragment, Packet, States, TcpFlags, Translation, protocol};
use super::ruleset::Ruleset;
use super::surroundings::{Effect, Hook, Surroundings};
use super::walk::Base;
use crate::resource::iptables::Family;

/// In how many ways a packet may be rewritten before it counts as rewritten to anything.
const WAYS: usize = 16;

/// The packet under one assumption about NAT.
#[derive(Clone)]
pub(super) struct World {
    /// Where it goes.
    pub(super) base: Base,
    /// As it is now. The devices are those that it has in the end.
    pub(super) packet: Packet,
    /// The device that it leaves by as OUTPUT sees it: routing before NAT has chosen it.
    first_out: Device,
    /// The rule that has rewritten it, or may have and has not.
    pub(super) assuming: Option<(Step, bool)>,
    /// NAT finds no address and drops it.
    pub(super) lost: Option<Step>,
}

impl World {
    /// The packet as it comes in.
    pub(super) fn start(rules: &Ruleset, around: &Surroundings, base: Base, packet: &Packet) -> Self {
        let mut packet = packet.clone();
        if let Some(dst) = packet.dst {
            packet.dst_broadcast = packet.dst_broadcast.or_else(|| around.is_broadcast(dst));
            packet.dst_local = packet.dst_local.or_else(|| around.is_local(dst));
        }
        if let Some(src) = packet.src {
            packet.src_local = packet.src_local.or_else(|| around.is_local(src));
        }
        if around.may(Effect::MayMark) {
            packet.mark = None;
        }
        if around.may(Effect::MayUntrack) {
            packet.state = packet.state | States::UNTRACKED;
        }
        let fresh = !packet.state.meets(States::ESTABLISHED | States::RELATED);
        if fresh || !rules.all_rules().any(|rule| matches!(rule.target, super::rule::Target::Rewrite(_))) {
            packet.dnat = packet.dnat.or(Some(false));
            packet.snat = packet.snat.or(Some(false));
        }
        let first_out = match packet.translation {
            Translation::Known { destination: Some(_), .. } if base == Base::Output => match packet.dst {
                Some(dst) if around.is_local(dst) == Some(true) => Device::named("lo"),
                Some(dst) => around.device_to(dst),
                None => Device::Some,
            },
            _ => packet.out_iface.clone(),
        };
        World { base, packet, first_out, assuming: None, lost: None }
    }

    /// The packet as the chains of one hook see it.
    pub(super) fn at(&self, hook: Hook) -> Packet {
        let mut packet = self.packet.clone();
        match hook {
            Hook::Prerouting => {
                packet.out_iface = Device::Absent;
                packet.physout = Device::Absent;
                packet.bridged = false;
            }
            // Of what it routes Linux 5.7 and later tell here where it came in by, which only a rule of a
            // user's chain can ask; of bridged frames they do not.
            Hook::Postrouting if packet.bridged => packet.in_iface = Device::Absent,
            Hook::Postrouting => {}
            Hook::Output => packet.out_iface = self.first_out.clone(),
            // What is for the host itself is joined before, in IPv4; in IPv6 it is only behind INPUT.
            Hook::Input if packet.family == Family::V4 => packet.fragment = Fragment::Whole,
            Hook::Input | Hook::Forward | Hook::Bridge | Hook::BridgeHost => {}
        }
        packet
    }

    /// The hooks that it passes.
    pub(super) fn hooks(&self) -> Vec<Hook> {
        match self.base {
            Base::Input => vec![Hook::Prerouting, Hook::Input],
            Base::Forward => vec![Hook::Prerouting, Hook::Forward, Hook::Postrouting],
            Base::Output => vec![Hook::Output, Hook::Postrouting],
        }
    }

    /// The same packet with another destination, in all the ways in which it may go on.
    fn rerouted(&self, around: &Surroundings, end: End) -> Vec<World> {
        let packet = &self.packet;
        if packet.dst.is_some() && packet.dst == end.address {
            let packet = Packet { dport: end.port, ..packet.clone() };
            return vec![World { packet, ..self.clone() }];
        }
        let local = end.address.and_then(|address| around.is_local(address));
        let out = end.address.map_or(Device::Some, |address| around.device_to(address));
        let moved = Packet {
            dst: end.address,
            dport: end.port,
            dst_local: local,
            dst_broadcast: end.address.and_then(|address| around.is_broadcast(address)),
            ..packet.clone()
        };
        if self.base == Base::Output {
            let out_iface = if local == Some(true) { Device::named("lo") } else { out };
            return vec![World { packet: Packet { out_iface, ..moved }, ..self.clone() }];
        }
        let mut ways = Vec::new();
        if local != Some(false) {
            ways.push(World {
                base: Base::Input,
                packet: Packet {
                    dst_local: Some(true),
                    out_iface: Device::Absent,
                    physout: Device::Absent,
                    bridged: false,
                    ..moved.clone()
                },
                ..self.clone()
            });
        }
        if local != Some(true) {
            // A frame that came in by a bridge and now goes to a machine on it is bridged, whether it
            // was or not.
            let by_port = packet.physin != Device::Absent;
            let same = match (&packet.in_iface, &out) {
                (Device::Named(from), Device::Named(to)) => Some(from == to),
                _ => None,
            };
            for bridged in [true, false] {
                let may = by_port && same != Some(false);
                let must = may && same == Some(true) && packet.physin != Device::Unknown;
                if if bridged { may } else { !must } {
                    let out_iface = if bridged { packet.in_iface.clone() } else { out.clone() };
                    let physout = if bridged { Device::Some } else { Device::Absent };
                    let dst_local = Some(false);
                    let packet = Packet { out_iface, physout, bridged, dst_local, ..moved.clone() };
                    ways.push(World { base: Base::Forward, packet, ..self.clone() });
                }
            }
        }
        ways
    }
}

/// Whether nat asks its rules about a packet: those of the first of a connection, or of an expected
/// one. ICMP errors are rewritten as the connection that they are about.
pub(super) fn asks_rules(packet: &Packet) -> bool {
    if matches!(packet.translation, Translation::Known { .. }) {
        return false;
    }
    let icmp = matches!(packet.protocol, Some(protocol::ICMP | protocol::ICMPV6));
    packet.state.meets(States::NEW) || packet.state.meets(States::RELATED) && !icmp
}

/// What the destination may become. `outcomes`: what the chain said, if it was asked.
pub(super) fn destination(
    rules: &Ruleset,
    around: &Surroundings,
    world: &World,
    outcomes: Option<&Outcomes>,
) -> Vec<World> {
    let state = world.packet.state;
    if let Translation::Known { destination, .. } = world.packet.translation {
        return known_or_not(around, world, destination);
    }
    let mut same = outcomes.is_none_or(passes_unchanged) || state.meets(States::INVALID | States::UNTRACKED);
    let mut blame: Option<Step> = None;
    let mut anything = false;
    if state.meets(States::ESTABLISHED | States::RELATED) {
        same = true;
        if let Some(step) = may_be_rewritten(rules, world) {
            (blame, anything) = (Some(step), true);
        }
    }
    let mut worlds = Vec::new();
    let rewritten = outcomes.map_or(&[][..], |one| &one.rewritten);
    anything |= rewritten.len() > WAYS;
    let mut ends: Vec<End> = Vec::new();
    for (rewrite, step) in rewritten {
        blame.get_or_insert_with(|| step.clone());
        if anything {
            break;
        }
        match own(around, rewrite, &world.packet.in_iface, world) {
            Err(()) => worlds.push(World { lost: Some(step.clone()), ..world.clone() }),
            Ok(address) => {
                let end = rewrite.destination(&world.packet, address);
                if !ends.contains(&end) {
                    ends.push(end);
                    worlds.extend(changed(around, world, end).into_iter().map(|w| assume(w, step, true)));
                }
            }
        }
    }
    if anything {
        let end = End { address: None, port: None };
        worlds = changed(around, world, end);
    }
    if same {
        let mut unchanged = world.clone();
        if let Some(step) = &blame {
            unchanged = assume(unchanged, step, false);
        }
        worlds.push(unchanged);
    }
    if worlds.len() == 1 {
        for world in &mut worlds {
            world.assuming = None;
        }
    } else if let Some(step) = blame {
        for world in &mut worlds {
            world.assuming.get_or_insert_with(|| (step.clone(), true));
        }
    }
    worlds
}

fn assume(world: World, step: &Step, rewritten: bool) -> World {
    World { assuming: Some((step.clone(), rewritten)), ..world }
}

/// Whether a branch of a chain leaves the packet as it is.
fn passes_unchanged(outcomes: &Outcomes) -> bool {
    outcomes.accept.is_some()
        || outcomes.unknown.is_some()
        || outcomes.untouched
        || outcomes.rewritten.is_empty()
}

/// The worlds of a first packet whose destination a rule rewrites.
fn changed(around: &Surroundings, world: &World, end: End) -> Vec<World> {
    let mut worlds = world.rerouted(around, end);
    for one in &mut worlds {
        let before = (world.packet.dst, world.packet.dport);
        one.packet.dnat = match (before, (one.packet.dst, one.packet.dport)) {
            ((Some(_), _), after @ (Some(_), _)) if before.1.is_some() || before.1 == after.1 => {
                Some(before != after)
            }
            _ => None,
        };
    }
    worlds
}

/// A packet that raw took out of conntrack is not rewritten, whatever its connection.
fn known_or_not(around: &Surroundings, world: &World, destination: Option<End>) -> Vec<World> {
    let mut worlds = Vec::new();
    let state = world.packet.state;
    if destination.is_none() || state.meets(States::TRACKED) {
        worlds.push(known(around, world, destination));
    }
    if destination.is_some() && !state.within(States::TRACKED) {
        let end = End { address: world.packet.dst, port: world.packet.dport };
        let unrouted = Packet { dst: None, ..world.packet.clone() };
        worlds.extend(World { packet: unrouted, ..world.clone() }.rerouted(around, end));
    }
    worlds
}

/// A later packet whose rewriting is known; the caller has routed it.
fn known(around: &Surroundings, world: &World, destination: Option<End>) -> World {
    let Some(end) = destination else { return world.clone() };
    let local = match world.base {
        Base::Input => Some(true),
        Base::Forward => Some(false),
        Base::Output => end.address.and_then(|address| around.is_local(address)),
    };
    let packet = Packet {
        dst: end.address,
        dport: end.port,
        dst_local: local,
        dst_broadcast: end.address.and_then(|address| around.is_broadcast(address)),
        ..world.packet.clone()
    };
    World { packet, ..world.clone() }
}

fn own(
    around: &Surroundings,
    rewrite: &Rewrite,
    device: &Device,
    world: &World,
) -> Result<Option<std::net::IpAddr>, ()> {
    match rewrite.to {
        // What the host redirects of its own goes to the loopback.
        To::Redirect if world.base == Base::Output => Ok(match world.packet.family {
            Family::V4 => Some(std::net::Ipv4Addr::LOCALHOST.into()),
            Family::V6 => Some(std::net::Ipv6Addr::LOCALHOST.into()),
        }),
        To::Redirect => around.own_on(device, world.packet.dst),
        // On its way to itself IPv6 takes the destination for the source (RFC 6724, rule 1).
        To::Masquerade if world.packet.family == Family::V6 && world.packet.dst_local == Some(true) => {
            Ok(world.packet.dst)
        }
        To::Masquerade => Ok(around.own_on(device, world.packet.dst).unwrap_or(None)),
        _ => Ok(None),
    }
}

/// The rule by which a later packet may belong to a connection whose destination, or for its answers
/// source, was rewritten.
fn may_be_rewritten(rules: &Ruleset, world: &World) -> Option<Step> {
    let packet = &world.packet;
    let first = Packet {
        state: States::NEW,
        tcp_flags: TcpFlags::default(),
        translation: Translation::ByRules,
        mark: None,
        ..packet.clone()
    };
    let rewrites = |chain: &str, packet: &Packet| {
        Walker::new(rules, packet).builtin("nat", chain).outcomes.rewritten.into_iter().next()
    };
    let (dnat, snat) = match world.base {
        Base::Output => ("OUTPUT", "INPUT"),
        Base::Input | Base::Forward => ("PREROUTING", "POSTROUTING"),
    };
    let mut found = None;
    if packet.direction != Some(Direction::Reply) {
        found = rewrites(dnat, &first);
    }
    if found.is_none() && packet.direction != Some(Direction::Original) {
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
            in_iface: Device::Absent,
            out_iface: packet.in_iface.clone(),
            physin: Device::Unknown,
            physout: Device::Unknown,
            ..first
        };
        found = rewrites(snat, &swapped);
    }
    found.map(|(_, step)| step)
}

/// What the source becomes; the rule that finds no address for it.
pub(super) fn source(
    rules: &Ruleset,
    around: &Surroundings,
    world: &mut World,
    outcomes: Option<&Outcomes>,
) -> Option<Step> {
    let anything = End { address: None, port: None };
    if let Translation::Known { source, .. } = world.packet.translation {
        let state = world.packet.state;
        if let Some(end) = source.filter(|_| state.meets(States::TRACKED)) {
            let sure = state.within(States::TRACKED);
            let end = if sure { end } else { anything };
            (world.packet.src, world.packet.sport) = (end.address, end.port);
            world.packet.src_local = end.address.and_then(|address| around.is_local(address));
        }
        return None;
    }
    let Some(outcomes) = outcomes else {
        // A later packet: from whom it seems to come is not known where any rule rewrites that.
        let nat = rules.all_rules().any(|rule| matches!(rule.target, super::rule::Target::Rewrite(_)));
        if nat && world.packet.state.meets(States::TRACKED) {
            (world.packet.src, world.packet.sport, world.packet.src_local) = (None, None, None);
        }
        return None;
    };
    let [(rewrite, _)] = outcomes.rewritten.as_slice() else {
        if !outcomes.rewritten.is_empty() {
            world.seems(around, anything);
        }
        return None;
    };
    let device = world.packet.out_iface.clone();
    let address = own(around, rewrite, &device, world).unwrap_or(None);
    let end = rewrite.source(&world.packet, address);
    // What conntrack may not have seen may not be rewritten.
    let unchanged =
        passes_unchanged(outcomes) || world.packet.state.meets(States::INVALID | States::UNTRACKED);
    world.seems(around, if unchanged { anything } else { end });
    if !unchanged && rewrite.to == To::Masquerade && world.packet.src.is_none() {
        world.packet.src_among = around.own(world.packet.family);
        world.packet.src_local = Some(true);
    }
    None
}

impl World {
    /// Rewrites where a first packet seems to come from.
    fn seems(&mut self, around: &Surroundings, end: End) {
        self.packet.snat = match (self.packet.src, end.address) {
            (Some(before), Some(after)) if before != after => Some(true),
            _ => None,
        };
        (self.packet.src, self.packet.sport) = (end.address, end.port);
        self.packet.src_local = end.address.and_then(|address| around.is_local(address));
        self.packet.src_among.clear();
    }
}
