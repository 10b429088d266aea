//! Targets that rewrite an address or a port.

use super::packet::{End, Packet};
use std::borrow::Cow;
use std::net::IpAddr;

/// What a rewriting target does to one end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rewrite {
    /// Where the address comes from.
    pub to: To,
    /// The port.
    pub port: Part<u16>,
}

/// The address that a packet gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum To {
    /// `DNAT`.
    Destination(Part<IpAddr>),
    /// `SNAT`.
    Source(Part<IpAddr>),
    /// `REDIRECT`: the host's own address on the device that the packet came in by.
    Redirect,
    /// `MASQUERADE`: the host's own address on the device that it leaves by.
    Masquerade,
    /// `NETMAP` and the like: not modelled.
    Either,
}

/// One part of a rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part<T> {
    /// Stays.
    Keep,
    /// Becomes this.
    To(T),
    /// Becomes one of several.
    OneOf,
}

impl<T: Copy> Part<T> {
    /// What a value becomes, if that is known.
    pub(super) fn apply(self, before: Option<T>) -> Option<T> {
        match self {
            Part::Keep => before,
            Part::To(value) => Some(value),
            Part::OneOf => None,
        }
    }
}

impl Rewrite {
    /// Reads the arguments of a target as `iptables-save` prints them.
    pub(super) fn parse(name: &str, arguments: &[Cow<'_, str>]) -> Self {
        let value = |option: &str| {
            let at = arguments.iter().position(|word| word == option)?;
            arguments.get(at + 1).map(AsRef::as_ref)
        };
        let ends = |text: Option<&str>| text.map_or((Part::OneOf, Part::OneOf), target);
        let alone = |text: Option<&str>| text.map_or(Part::Keep, one);
        match name {
            "DNAT" => {
                let (address, port) = ends(value("--to-destination"));
                Rewrite { to: To::Destination(address), port }
            }
            "SNAT" => {
                let (address, port) = ends(value("--to-source"));
                Rewrite { to: To::Source(address), port }
            }
            "REDIRECT" => Rewrite { to: To::Redirect, port: alone(value("--to-ports")) },
            "MASQUERADE" => Rewrite { to: To::Masquerade, port: alone(value("--to-ports")) },
            _ => Rewrite { to: To::Either, port: Part::OneOf },
        }
    }

    /// Whether it keeps the address, and the port, of a destination.
    pub(super) fn keeps(&self) -> (bool, bool) {
        (self.to == To::Destination(Part::Keep), self.port == Part::Keep)
    }

    /// Whether it may make this the destination of a packet that had another.
    pub(super) fn may_lead_to(&self, address: IpAddr, port: u16) -> bool {
        let there = match self.to {
            To::Destination(Part::To(to)) => to == address,
            To::Destination(_) | To::Redirect | To::Either => true,
            To::Source(_) | To::Masquerade => false,
        };
        // A redirect that keeps the port changes the address at most.
        there && !matches!(self.port, Part::To(to) if to != port)
    }

    /// The end that it makes of the destination of a packet; `own` is the host's own address on the
    /// device in question.
    pub(super) fn destination(&self, packet: &Packet, own: Option<IpAddr>) -> End {
        let address = match self.to {
            To::Destination(address) => address.apply(packet.dst),
            To::Redirect => own,
            _ => None,
        };
        End { address, port: self.port.apply(packet.dport) }
    }

    /// The end that it makes of the source of a packet. A port may change for no other reason than
    /// that another connection has it already, so it is known only where it is set.
    pub(super) fn source(&self, packet: &Packet, own: Option<IpAddr>) -> End {
        let address = match self.to {
            To::Source(address) => address.apply(packet.src),
            To::Masquerade => own,
            _ => None,
        };
        End { address, port: self.port.apply(None) }
    }
}

/// `10.0.0.1`, `10.0.0.1-10.0.0.9:80-90`, `[2001:db8::1]:80`, `:80`.
fn target(text: &str) -> (Part<IpAddr>, Part<u16>) {
    let (addresses, ports) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((addresses, ports)) => (addresses, ports.strip_prefix(':')),
        None if text.matches(':').count() == 1 => match text.split_once(':') {
            Some((addresses, ports)) => (addresses, Some(ports)),
            None => (text, None),
        },
        None => (text, None),
    };
    let address = if addresses.is_empty() { Part::Keep } else { one(addresses) };
    (address, ports.map_or(Part::Keep, one))
}

/// One value or a range of several.
fn one<T: std::str::FromStr + PartialEq>(text: &str) -> Part<T> {
    match text.split_once('-') {
        Some((from, to)) => match (from.parse::<T>(), to.parse::<T>()) {
            (Ok(from), Ok(to)) if from == to => Part::To(from),
            _ => Part::OneOf,
        },
        None => text.parse().map_or(Part::OneOf, Part::To),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let read = |name: &str, text: &str| {
            let words: Vec<Cow<'_, str>> = text.split(' ').map(Cow::Borrowed).collect();
            Rewrite::parse(name, &words)
        };
        let v4 = |text: &str| Part::To(text.parse().unwrap());
        for (name, text, to, port) in [
            ("DNAT", "--to-destination 10.0.0.1", To::Destination(v4("10.0.0.1")), Part::Keep),
            ("DNAT", "--to-destination 10.0.0.1:80 --random", To::Destination(v4("10.0.0.1")), Part::To(80)),
            ("DNAT", "--to-destination [2001:db8::1]:80", To::Destination(v4("2001:db8::1")), Part::To(80)),
            ("DNAT", "--to-destination 2001:db8::1", To::Destination(v4("2001:db8::1")), Part::Keep),
            ("DNAT", "--to-destination :80", To::Destination(Part::Keep), Part::To(80)),
            ("DNAT", "--to-destination 10.0.0.1-10.0.0.2:80-90", To::Destination(Part::OneOf), Part::OneOf),
            ("SNAT", "--to-source 10.0.0.1", To::Source(v4("10.0.0.1")), Part::Keep),
            ("REDIRECT", "--to-ports 3128", To::Redirect, Part::To(3128)),
            ("MASQUERADE", "", To::Masquerade, Part::Keep),
            ("NETMAP", "--to 10.0.0.0/24", To::Either, Part::OneOf),
        ] {
            assert_eq!(read(name, text), Rewrite { to, port }, "{name} {text}");
        }
    }
}
