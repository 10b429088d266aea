//! Asking a packet the conditions of a rule.

use super::matches::{Match, PortRange, Test};
use super::packet::{Device, Packet, protocol};
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
            Test::Source(network) => Answer::of(packet.src, |address| network.contains(address)),
            Test::Destination(network) => Answer::of(packet.dst, |address| network.contains(address)),
            Test::SourceRange(from, to) => Answer::of(packet.src, |address| between(*from, *to, address)),
            Test::DestinationRange(from, to) => {
                Answer::of(packet.dst, |address| between(*from, *to, address))
            }
            Test::In(pattern) => device(&packet.in_iface, |name| pattern.fits(name)),
            Test::Out(pattern) => device(&packet.out_iface, |name| pattern.fits(name)),
            Test::Protocol(number) => Answer::of(packet.protocol, |protocol| protocol == *number),
            // The walk follows whole packets.
            Test::Fragment => Answer::No,
            Test::SourcePorts(_)
            | Test::DestinationPorts(_)
            | Test::AnyPorts(_)
            | Test::TcpFlags { .. }
            | Test::Icmp { .. } => return self.transport(packet),
            Test::State { states, nat } => {
                if packet.state.within(*states) {
                    Answer::Yes
                } else if *nat || packet.state.meets(*states) {
                    Answer::Unknown
                } else {
                    Answer::No
                }
            }
            Test::PhysIn(pattern) => device(&packet.physin, |name| pattern.fits(name)),
            Test::PhysOut(pattern) => return phys_out(packet, self.negated, |name| pattern.fits(name)),
            Test::PhysIsIn => present(&packet.physin),
            Test::PhysIsOut => present(&packet.physout),
            Test::PhysIsBridged => packet.bridged.into(),
            Test::Mark { value, mask } => Answer::of(packet.mark, |mark| mark & mask == *value),
            Test::SourceLocal { only } => local(packet.src_local, *only),
            Test::DestinationLocal { only } => local(packet.dst_local, *only),
            Test::Unknown(_) => Answer::Unknown,
        };
        answer.negated_if(self.negated)
    }

    /// Conditions on the header of a protocol: without that header the answer is no, and `!` does
    /// not turn it round.
    fn transport(&self, packet: &Packet) -> Answer {
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

fn between(from: IpAddr, to: IpAddr, address: IpAddr) -> bool {
    from.is_ipv4() == address.is_ipv4() && (from..=to).contains(&address)
}

/// The kernel compares with an empty name where there is no device, which fits nothing.
fn device(device: &Device, fits: impl FnOnce(&str) -> bool) -> Answer {
    match device {
        Device::Named(name) => fits(name).into(),
        Device::Absent => Answer::No,
        Device::Unknown | Device::Some => Answer::Unknown,
    }
}

fn present(device: &Device) -> Answer {
    match device {
        Device::Named(_) | Device::Some => Answer::Yes,
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

fn local(local: Option<bool>, only: bool) -> Answer {
    match local {
        Some(true) => Answer::Yes,
        Some(false) if only => Answer::No,
        _ => Answer::Unknown,
    }
}
