//! Asking a packet the conditions of a rule.

use super::matches::{
    AddressKind, ConntrackTest, DevicePattern, MaskedNetwork, MatchTest, PortRange, RuleMatch,
};
use super::packet::{ConntrackStates, FlowDirection, FragmentPart, Packet, PacketDevice, TcpFlags, protocol};
use super::rule::ParsedRule;
use crate::resource::iptables::IpFamily;
use std::net::IpAddr;

/// What a packet answers to a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tristate {
    /// It does not meet it.
    No,
    /// It meets it.
    Yes,
    /// It may or may not.
    Unknown,
}

impl From<bool> for Tristate {
    fn from(yes: bool) -> Self {
        if yes { Tristate::Yes } else { Tristate::No }
    }
}

impl Tristate {
    fn negated_if(self, negated: bool) -> Self {
        match self {
            Tristate::Yes if negated => Tristate::No,
            Tristate::No if negated => Tristate::Yes,
            answer => answer,
        }
    }

    /// Both have to hold.
    pub(super) fn and(self, other: Tristate) -> Self {
        match (self, other) {
            (Tristate::No, _) | (_, Tristate::No) => Tristate::No,
            (Tristate::Yes, Tristate::Yes) => Tristate::Yes,
            _ => Tristate::Unknown,
        }
    }

    /// One of the two has to hold.
    fn or(self, other: Tristate) -> Self {
        self.negated_if(true).and(other.negated_if(true)).negated_if(true)
    }

    fn from_known<T>(known: Option<T>, test: impl FnOnce(T) -> bool) -> Self {
        known.map_or(Tristate::Unknown, |value| test(value).into())
    }
}

impl ParsedRule {
    /// Whether a packet meets all conditions of this rule.
    pub fn matches(&self, packet: &Packet) -> Tristate {
        let mut all = Tristate::Yes;
        for one in &self.matches {
            match one.answer(packet) {
                Tristate::No => return Tristate::No,
                Tristate::Unknown => all = Tristate::Unknown,
                Tristate::Yes => {}
            }
        }
        all
    }
}

impl RuleMatch {
    /// Whether a packet meets this condition.
    pub fn answer(&self, packet: &Packet) -> Tristate {
        let answer = match &self.test {
            MatchTest::Source(network) => from_loopback(packet, network.is_loopback())
                .unwrap_or_else(|| source(packet, |address| network.contains(address))),
            MatchTest::Destination(network) => in_network(packet, network),
            MatchTest::SourceRange(from, to) => from_loopback(packet, from.is_loopback() && to.is_loopback())
                .unwrap_or_else(|| source(packet, |address| between(*from, *to, address))),
            MatchTest::DestinationRange(from, to) => {
                Tristate::from_known(packet.dst, |address| between(*from, *to, address))
            }
            MatchTest::In(pattern) => interface(&packet.in_iface, pattern),
            MatchTest::Out(pattern) => interface(&packet.out_iface, pattern),
            MatchTest::Protocol(number) => {
                Tristate::from_known(packet.protocol, |protocol| protocol == *number)
            }
            MatchTest::Fragment => (packet.fragment == FragmentPart::Later).into(),
            MatchTest::SourcePorts(_)
            | MatchTest::DestinationPorts(_)
            | MatchTest::AnyPorts(_)
            | MatchTest::TcpFlags { .. }
            | MatchTest::Icmp { .. } => return self.transport(packet),
            MatchTest::Conntrack(asked) => asked.answer(packet),
            MatchTest::PhysIn(pattern) => device(&packet.physin, |name| pattern.fits(name)),
            MatchTest::PhysOut(pattern) => return phys_out(packet, self.negated, |name| pattern.fits(name)),
            MatchTest::PhysIsIn => present(&packet.physin),
            MatchTest::PhysIsOut => present(&packet.physout),
            MatchTest::PhysIsBridged => packet.bridged.into(),
            MatchTest::Mark { value, mask } => {
                Tristate::from_known(packet.mark, |mark| mark & mask == *value)
            }
            MatchTest::Length(least, most) => length(packet, *least, *most),
            MatchTest::SourceKind(kinds) => kind(kinds, packet.src, packet.src_local, Some(false)),
            MatchTest::DestinationKind(kinds) => {
                kind(kinds, packet.dst, packet.dst_local, packet.dst_broadcast)
            }
            MatchTest::InSet(set) => set.answer(packet),
            MatchTest::Unknown(_) => Tristate::Unknown,
        };
        answer.negated_if(self.negated)
    }

    /// Conditions on the header of a protocol: without that header the answer is no, and `!` does
    /// not turn it round.
    fn transport(&self, packet: &Packet) -> Tristate {
        if packet.fragment == FragmentPart::Later {
            // iptables-nft takes for ports and flags whatever stands where they would be.
            return if matches!(self.test, MatchTest::Icmp { .. }) {
                Tristate::No
            } else {
                Tristate::Unknown
            };
        }
        let carries =
            |protocols: &[u8]| Tristate::from_known(packet.protocol, |number| protocols.contains(&number));
        let inside = |ranges: &[PortRange], port: Option<u16>| {
            Tristate::from_known(port, |port| ranges.iter().any(|range| range.contains(port)))
        };
        let (carried, answer) = match &self.test {
            MatchTest::SourcePorts(ranges) => (carries(&protocol::PORTS), inside(ranges, packet.sport)),
            MatchTest::DestinationPorts(ranges) => (carries(&protocol::PORTS), inside(ranges, packet.dport)),
            MatchTest::AnyPorts(ranges) => {
                let either = match (inside(ranges, packet.sport), inside(ranges, packet.dport)) {
                    (Tristate::Yes, _) | (_, Tristate::Yes) => Tristate::Yes,
                    (Tristate::No, Tristate::No) => Tristate::No,
                    _ => Tristate::Unknown,
                };
                (carries(&protocol::PORTS), either)
            }
            MatchTest::TcpFlags { mask, set } => {
                let flags = packet.tcp_flags;
                let answer = if (flags.set ^ set) & mask & flags.known != 0 || set & !mask != 0 {
                    Tristate::No
                } else if mask & !flags.known == 0 {
                    Tristate::Yes
                } else {
                    Tristate::Unknown
                };
                (carries(&[protocol::TCP]), answer)
            }
            MatchTest::Icmp { protocol, kind } => {
                let answer = match kind {
                    None => Tristate::Yes,
                    Some((kind, code)) => Tristate::from_known(packet.icmp, |(packet_kind, packet_code)| {
                        packet_kind == *kind && code.is_none_or(|code| packet_code == code)
                    }),
                };
                (carries(&[*protocol]), answer)
            }
            _ => return Tristate::Unknown,
        };
        match (carried, answer.negated_if(self.negated)) {
            (Tristate::No, _) | (_, Tristate::No) => Tristate::No,
            (Tristate::Yes, answer) => answer,
            (Tristate::Unknown, _) => Tristate::Unknown,
        }
    }
}

/// `-m length`: no packet is shorter than its headers, and how much it carries is not known.
fn length(packet: &Packet, least: u16, most: u16) -> Tristate {
    let shortest = shortest(packet);
    if most < shortest {
        return Tristate::No;
    }
    if least <= shortest && most == u16::MAX { Tristate::Yes } else { Tristate::Unknown }
}

/// The bytes of the headers that a packet has at least, as the kernel counts them for `-m length`.
fn shortest(packet: &Packet) -> u16 {
    let ip = match packet.family {
        IpFamily::V4 => 20,
        IpFamily::V6 => 40,
    };
    if packet.fragment != FragmentPart::Whole {
        return ip;
    }
    // What GRO joined to more than 64 kB has a payload length of 0 in its IPv6 header, but a SYN is never joined.
    let is_syn = packet.tcp_flags.known & packet.tcp_flags.set & TcpFlags::SYN.set != 0;
    ip + match packet.protocol {
        Some(protocol::TCP) if packet.family == IpFamily::V4 || is_syn => 20,
        Some(protocol::UDP | protocol::ICMP) => 8,
        Some(protocol::ICMPV6) => 4,
        _ => 0,
    }
}

/// Of a source that is one of several the answer is what it is for each of them.
fn source(packet: &Packet, test: impl Fn(IpAddr) -> bool) -> Tristate {
    if packet.src.is_some() {
        return Tristate::from_known(packet.src, test);
    }
    let mut answers = packet.src_among.iter().map(|address| test(*address));
    match answers.next() {
        Some(first) if answers.all(|answer| answer == first) => first.into(),
        _ => Tristate::Unknown,
    }
}

fn between(from: IpAddr, to: IpAddr, address: IpAddr) -> bool {
    from.is_ipv4() == address.is_ipv4() && (from..=to).contains(&address)
}

/// The kernel compares with an empty name where there is no device, which fits nothing.
fn device(device: &PacketDevice, fits: impl FnOnce(&str) -> bool) -> Tristate {
    match device {
        PacketDevice::Named(name) => fits(name).into(),
        PacketDevice::Absent => Tristate::No,
        PacketDevice::Unknown | PacketDevice::Some | PacketDevice::Outside => Tristate::Unknown,
    }
}

/// `-i` and `-o`.
fn interface(iface: &PacketDevice, pattern: &DevicePattern) -> Tristate {
    match iface {
        PacketDevice::Outside if pattern.0 == "lo" => Tristate::No,
        iface => device(iface, |name| pattern.fits(name)),
    }
}

/// No, where a packet from elsewhere is asked for the loopback's addresses; its own may be unknown.
fn from_loopback(packet: &Packet, asked: bool) -> Option<Tristate> {
    (asked && packet.src.is_none() && packet.in_iface == PacketDevice::Outside).then_some(Tristate::No)
}

fn in_network(packet: &Packet, network: &MaskedNetwork) -> Tristate {
    match packet.dst {
        None if packet.in_iface == PacketDevice::Outside && network.is_loopback() => Tristate::No,
        address => Tristate::from_known(address, |address| network.contains(address)),
    }
}

fn present(device: &PacketDevice) -> Tristate {
    match device {
        PacketDevice::Named(_) | PacketDevice::Some | PacketDevice::Outside => Tristate::Yes,
        PacketDevice::Absent => Tristate::No,
        PacketDevice::Unknown => Tristate::Unknown,
    }
}

/// `! --physdev-out` holds for a packet that no bridge has seen, but not for one that came in by a
/// bridge port and leaves by none (`physdev_mt` of the kernel).
fn phys_out(packet: &Packet, negated: bool, fits: impl FnOnce(&str) -> bool) -> Tristate {
    match (&packet.physout, &packet.physin) {
        (PacketDevice::Absent, PacketDevice::Absent) => Tristate::from(negated),
        (PacketDevice::Absent, PacketDevice::Unknown) if negated => Tristate::Unknown,
        (PacketDevice::Absent, _) => Tristate::No,
        (out, _) => device(out, fits).negated_if(negated),
    }
}

impl ConntrackTest {
    /// What it answers for each state that the packet may be in, if that is the same.
    fn answer(&self, packet: &Packet) -> Tristate {
        let mut all = packet.state.each().map(|state| self.in_state(packet, state));
        let Some(first) = all.next() else { return Tristate::Unknown };
        if all.all(|answer| answer == first) { first } else { Tristate::Unknown }
    }

    /// `conntrack_mt` of the kernel: without an entry the state alone decides, and where no state is
    /// asked for the answer is no.
    fn in_state(&self, packet: &Packet, state: ConntrackStates) -> Tristate {
        let tracked = state.within(ConntrackStates::TRACKED);
        let state_fits = self.states.map_or(Tristate::Yes, |list| {
            let mut fits = Tristate::from(state.within(list.states));
            if tracked && list.snat {
                fits = fits.or(Tristate::from_known(packet.snat, |snat| snat));
            }
            if tracked && list.dnat {
                fits = fits.or(Tristate::from_known(packet.dnat, |dnat| dnat));
            }
            fits.negated_if(list.negated)
        });
        if !tracked {
            return if self.states.is_some() { state_fits } else { Tristate::No };
        }
        let direction =
            if state == ConntrackStates::NEW { Some(FlowDirection::Original) } else { packet.direction };
        let direction_fits = self.direction.map_or(Tristate::Yes, |(asked, negated)| {
            Tristate::from_known(direction, |direction| direction == asked).negated_if(negated)
        });
        let rest = if self.other.is_some() { Tristate::Unknown } else { Tristate::Yes };
        state_fits.and(direction_fits).and(rest)
    }
}

/// `-m addrtype`: IPv4 asks for one of the kinds, IPv6 for all of them.
fn kind(
    kinds: &[AddressKind],
    address: Option<IpAddr>,
    local: Option<bool>,
    broadcast: Option<bool>,
) -> Tristate {
    let has = |kind| kinds.contains(&kind);
    match address {
        Some(IpAddr::V6(address)) => {
            let multicast = address.is_multicast();
            let unicast = !multicast && !address.is_unspecified();
            if has(AddressKind::Multicast) && !multicast || has(AddressKind::Unicast) && !unicast {
                Tristate::No
            } else if has(AddressKind::Local) {
                match local {
                    Some(false) if has(AddressKind::Other) => Tristate::Unknown,
                    local => Tristate::from_known(local, |local| local),
                }
            } else if has(AddressKind::Other) {
                Tristate::Unknown
            } else {
                Tristate::Yes
            }
        }
        Some(IpAddr::V4(address)) if address.is_multicast() => has(AddressKind::Multicast).into(),
        Some(IpAddr::V4(address)) if address.is_broadcast() || address.octets()[0] == 0 => {
            has(AddressKind::Broadcast).into()
        }
        _ => match (local, broadcast) {
            (Some(true), _) => has(AddressKind::Local).into(),
            (Some(false), Some(false)) if address.is_some() => has(AddressKind::Unicast).into(),
            (Some(false), Some(true)) => has(AddressKind::Broadcast).into(),
            (Some(false), _) if kinds == [AddressKind::Local] => Tristate::No,
            _ => Tristate::Unknown,
        },
    }
}
