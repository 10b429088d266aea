//! Asking a packet the conditions of a rule.

use super::matches::{AddressKind, Conntrack, Match, Network, Pattern, PortRange, Test};
use super::packet::{Device, Direction, Fragment, Packet, States, protocol};
use super::rule::Rule;
use std::net::IpAddr;

/// What a packet answers to a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It does not meet it.
    No,
    /// It meets it.
    Yes,
    /// It may or may not.
    Unknown,
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Self {
        if yes { Answer::Yes } else { Answer::No }
    }
}

impl Answer {
    fn negated_if(self, negated: bool) -> Self {
        match self {
            Answer::Yes if negated => Answer::No,
            Answer::No if negated => Answer::Yes,
            answer => answer,
        }
    }

    /// Both have to hold.
    pub(super) fn and(self, other: Answer) -> Self {
        match (self, other) {
            (Answer::No, _) | (_, Answer::No) => Answer::No,
            (Answer::Yes, Answer::Yes) => Answer::Yes,
            _ => Answer::Unknown,
        }
    }

    /// One of the two has to hold.
    fn or(self, other: Answer) -> Self {
        self.negated_if(true).and(other.negated_if(true)).negated_if(true)
    }

    fn of<T>(known: Option<T>, test: impl FnOnce(T) -> bool) -> Self {
        known.map_or(Answer::Unknown, |value| test(value).into())
    }
}

impl Rule {
    /// Whether a packet meets all conditions of this rule.
    pub fn matches(&self, packet: &Packet) -> Answer {
        let mut all = Answer::Yes;
        for one in &self.matches {
            match one.answer(packet) {
                Answer::No => return Answer::No,
                Answer::Unknown => all = Answer::Unknown,
                Answer::Yes => {}
            }
        }
        all
    }
}

impl Match {
    /// Whether a packet meets this condition.
    pub fn answer(&self, packet: &Packet) -> Answer {
        let answer = match &self.test {
            Test::Source(network) => from_loopback(packet, network.is_loopback())
                .unwrap_or_else(|| source(packet, |address| network.contains(address))),
            Test::Destination(network) => in_network(packet, network),
            Test::SourceRange(from, to) => from_loopback(packet, from.is_loopback() && to.is_loopback())
                .unwrap_or_else(|| source(packet, |address| between(*from, *to, address))),
            Test::DestinationRange(from, to) => {
                Answer::of(packet.dst, |address| between(*from, *to, address))
            }
            Test::In(pattern) => interface(&packet.in_iface, pattern),
            Test::Out(pattern) => interface(&packet.out_iface, pattern),
            Test::Protocol(number) => Answer::of(packet.protocol, |protocol| protocol == *number),
            Test::Fragment => (packet.fragment == Fragment::Later).into(),
            Test::SourcePorts(_)
            | Test::DestinationPorts(_)
            | Test::AnyPorts(_)
            | Test::TcpFlags { .. }
            | Test::Icmp { .. } => return self.transport(packet),
            Test::Conntrack(asked) => asked.answer(packet),
            Test::PhysIn(pattern) => device(&packet.physin, |name| pattern.fits(name)),
            Test::PhysOut(pattern) => return phys_out(packet, self.negated, |name| pattern.fits(name)),
            Test::PhysIsIn => present(&packet.physin),
            Test::PhysIsOut => present(&packet.physout),
            Test::PhysIsBridged => packet.bridged.into(),
            Test::Mark { value, mask } => Answer::of(packet.mark, |mark| mark & mask == *value),
            Test::SourceKind(kinds) => kind(kinds, packet.src, packet.src_local, Some(false)),
            Test::DestinationKind(kinds) => kind(kinds, packet.dst, packet.dst_local, packet.dst_broadcast),
            Test::InSet(set) => set.answer(packet),
            Test::Unknown(_) => Answer::Unknown,
        };
        answer.negated_if(self.negated)
    }

    /// Conditions on the header of a protocol: without that header the answer is no, and `!` does
    /// not turn it round.
    fn transport(&self, packet: &Packet) -> Answer {
        if packet.fragment == Fragment::Later {
            // iptables-nft takes for ports and flags whatever stands where they would be.
            return if matches!(self.test, Test::Icmp { .. }) { Answer::No } else { Answer::Unknown };
        }
        let carries = |protocols: &[u8]| Answer::of(packet.protocol, |number| protocols.contains(&number));
        let inside = |ranges: &[PortRange], port: Option<u16>| {
            Answer::of(port, |port| ranges.iter().any(|range| range.contains(port)))
        };
        let (carried, answer) = match &self.test {
            Test::SourcePorts(ranges) => (carries(&protocol::PORTS), inside(ranges, packet.sport)),
            Test::DestinationPorts(ranges) => (carries(&protocol::PORTS), inside(ranges, packet.dport)),
            Test::AnyPorts(ranges) => {
                let either = match (inside(ranges, packet.sport), inside(ranges, packet.dport)) {
                    (Answer::Yes, _) | (_, Answer::Yes) => Answer::Yes,
                    (Answer::No, Answer::No) => Answer::No,
                    _ => Answer::Unknown,
                };
                (carries(&protocol::PORTS), either)
            }
            Test::TcpFlags { mask, set } => {
                let flags = packet.tcp_flags;
                let answer = if (flags.set ^ set) & mask & flags.known != 0 || set & !mask != 0 {
                    Answer::No
                } else if mask & !flags.known == 0 {
                    Answer::Yes
                } else {
                    Answer::Unknown
                };
                (carries(&[protocol::TCP]), answer)
            }
            Test::Icmp { protocol, kind } => {
                let answer = match kind {
                    None => Answer::Yes,
                    Some((kind, code)) => Answer::of(packet.icmp, |(packet_kind, packet_code)| {
                        packet_kind == *kind && code.is_none_or(|code| packet_code == code)
                    }),
                };
                (carries(&[*protocol]), answer)
            }
            _ => return Answer::Unknown,
        };
        match (carried, answer.negated_if(self.negated)) {
            (Answer::No, _) | (_, Answer::No) => Answer::No,
            (Answer::Yes, answer) => answer,
            (Answer::Unknown, _) => Answer::Unknown,
        }
    }
}

/// Of a source that is one of several the answer is what it is for each of them.
fn source(packet: &Packet, test: impl Fn(IpAddr) -> bool) -> Answer {
    if packet.src.is_some() {
        return Answer::of(packet.src, test);
    }
    let mut answers = packet.src_among.iter().map(|address| test(*address));
    match answers.next() {
        Some(first) if answers.all(|answer| answer == first) => first.into(),
        _ => Answer::Unknown,
    }
}

fn between(from: IpAddr, to: IpAddr, address: IpAddr) -> bool {
    from.is_ipv4() == address.is_ipv4() && (from..=to).contains(&address)
}

/// The kernel compares with an empty name where there is no device, which fits nothing.
fn device(device: &Device, fits: impl FnOnce(&str) -> bool) -> Answer {
    match device {
        Device::Named(name) => fits(name).into(),
        Device::Absent => Answer::No,
        Device::Unknown | Device::Some | Device::Outside => Answer::Unknown,
    }
}

/// `-i` and `-o`.
fn interface(iface: &Device, pattern: &Pattern) -> Answer {
    match iface {
        Device::Outside if pattern.0 == "lo" => Answer::No,
        iface => device(iface, |name| pattern.fits(name)),
    }
}

/// No, where a packet from elsewhere is asked for the loopback's addresses; its own may be unknown.
fn from_loopback(packet: &Packet, asked: bool) -> Option<Answer> {
    (asked && packet.src.is_none() && packet.in_iface == Device::Outside).then_some(Answer::No)
}

fn in_network(packet: &Packet, network: &Network) -> Answer {
    match packet.dst {
        None if packet.in_iface == Device::Outside && network.is_loopback() => Answer::No,
        address => Answer::of(address, |address| network.contains(address)),
    }
}

fn present(device: &Device) -> Answer {
    match device {
        Device::Named(_) | Device::Some | Device::Outside => Answer::Yes,
        Device::Absent => Answer::No,
        Device::Unknown => Answer::Unknown,
    }
}

/// `! --physdev-out` holds for a packet that no bridge has seen, but not for one that came in by a
/// bridge port and leaves by none (`physdev_mt` of the kernel).
fn phys_out(packet: &Packet, negated: bool, fits: impl FnOnce(&str) -> bool) -> Answer {
    match (&packet.physout, &packet.physin) {
        (Device::Absent, Device::Absent) => Answer::from(negated),
        (Device::Absent, Device::Unknown) if negated => Answer::Unknown,
        (Device::Absent, _) => Answer::No,
        (out, _) => device(out, fits).negated_if(negated),
    }
}

impl Conntrack {
    /// What it answers for each state that the packet may be in, if that is the same.
    fn answer(&self, packet: &Packet) -> Answer {
        let mut all = packet.state.each().map(|state| self.in_state(packet, state));
        let Some(first) = all.next() else { return Answer::Unknown };
        if all.all(|answer| answer == first) { first } else { Answer::Unknown }
    }

    /// `conntrack_mt` of the kernel: without an entry the state alone decides, and where no state is
    /// asked for the answer is no.
    fn in_state(&self, packet: &Packet, state: States) -> Answer {
        let tracked = state.within(States::TRACKED);
        let state_fits = self.states.map_or(Answer::Yes, |list| {
            let mut fits = Answer::from(state.within(list.states));
            if tracked && list.snat {
                fits = fits.or(Answer::of(packet.snat, |snat| snat));
            }
            if tracked && list.dnat {
                fits = fits.or(Answer::of(packet.dnat, |dnat| dnat));
            }
            fits.negated_if(list.negated)
        });
        if !tracked {
            return if self.states.is_some() { state_fits } else { Answer::No };
        }
        let direction = if state == States::NEW { Some(Direction::Original) } else { packet.direction };
        let direction_fits = self.direction.map_or(Answer::Yes, |(asked, negated)| {
            Answer::of(direction, |direction| direction == asked).negated_if(negated)
        });
        let rest = if self.other.is_some() { Answer::Unknown } else { Answer::Yes };
        state_fits.and(direction_fits).and(rest)
    }
}

/// `-m addrtype`: IPv4 asks for one of the kinds, IPv6 for all of them.
fn kind(
    kinds: &[AddressKind],
    address: Option<IpAddr>,
    local: Option<bool>,
    broadcast: Option<bool>,
) -> Answer {
    let has = |kind| kinds.contains(&kind);
    match address {
        Some(IpAddr::V6(address)) => {
            let multicast = address.is_multicast();
            let unicast = !multicast && !address.is_unspecified();
            if has(AddressKind::Multicast) && !multicast || has(AddressKind::Unicast) && !unicast {
                Answer::No
            } else if has(AddressKind::Local) {
                match local {
                    Some(false) if has(AddressKind::Other) => Answer::Unknown,
                    local => Answer::of(local, |local| local),
                }
            } else if has(AddressKind::Other) {
                Answer::Unknown
            } else {
                Answer::Yes
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
            (Some(false), _) if kinds == [AddressKind::Local] => Answer::No,
            _ => Answer::Unknown,
        },
    }
}
