//! Targets that rewrite an address or a port.

use super::packet::{NatEndpoint, Packet};
use std::borrow::Cow;
use std::net::IpAddr;

/// What a rewriting target does to one end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatRewrite {
    /// Where the address comes from.
    pub to: RewriteAddress,
    /// The port.
    pub port: RewritePart<u16>,
}

/// The address that a packet gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RewriteAddress {
    /// `DNAT`.
    Destination(RewritePart<IpAddr>),
    /// `SNAT`.
    Source(RewritePart<IpAddr>),
    /// `REDIRECT`: the host's own address on the device that the packet came in by.
    Redirect,
    /// `MASQUERADE`: the host's own address on the device that it leaves by.
    Masquerade,
    /// `NETMAP` and the like: not modelled.
    Either,
}

/// One part of a rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RewritePart<T> {
    /// Stays.
    Keep,
    /// Becomes this.
    To(T),
    /// Becomes one of several.
    OneOf,
}

impl<T: Copy> RewritePart<T> {
    /// What a value becomes, if that is known.
    pub(super) fn apply(self, before: Option<T>) -> Option<T> {
        match self {
            RewritePart::Keep => before,
            RewritePart::To(value) => Some(value),
            RewritePart::OneOf => None,
        }
    }
}

impl NatRewrite {
    /// Reads the arguments of a target as `iptables-save` prints them.
    pub(super) fn parse(name: &str, arguments: &[Cow<'_, str>]) -> Self {
        let value = |option: &str| {
            let at = arguments.iter().position(|word| word == option)?;
            arguments.get(at + 1).map(AsRef::as_ref)
        };
        let ends = |text: Option<&str>| text.map_or((RewritePart::OneOf, RewritePart::OneOf), target);
        let alone = |text: Option<&str>| text.map_or(RewritePart::Keep, one);
        match name {
            "DNAT" => {
                let (address, port) = ends(value("--to-destination"));
                NatRewrite { to: RewriteAddress::Destination(address), port }
            }
            "SNAT" => {
                let (address, port) = ends(value("--to-source"));
                NatRewrite { to: RewriteAddress::Source(address), port }
            }
            "REDIRECT" => NatRewrite { to: RewriteAddress::Redirect, port: alone(value("--to-ports")) },
            "MASQUERADE" => NatRewrite { to: RewriteAddress::Masquerade, port: alone(value("--to-ports")) },
            _ => NatRewrite { to: RewriteAddress::Either, port: RewritePart::OneOf },
        }
    }

    /// Whether it keeps the address, and the port, of a destination.
    pub(super) fn keeps(&self) -> (bool, bool) {
        (self.to == RewriteAddress::Destination(RewritePart::Keep), self.port == RewritePart::Keep)
    }

    /// Whether it may make this the destination of a packet that had another.
    pub(super) fn may_redirect_to(&self, address: IpAddr, port: u16) -> bool {
        let there = match self.to {
            RewriteAddress::Destination(RewritePart::To(to)) => to == address,
            RewriteAddress::Destination(_) | RewriteAddress::Redirect | RewriteAddress::Either => true,
            RewriteAddress::Source(_) | RewriteAddress::Masquerade => false,
        };
        // A redirect that keeps the port changes the address at most.
        there && !matches!(self.port, RewritePart::To(to) if to != port)
    }

    /// The end that it makes of the destination of a packet; `own` is the host's own address on the
    /// device in question.
    pub(super) fn destination(&self, packet: &Packet, own: Option<IpAddr>) -> NatEndpoint {
        let address = match self.to {
            RewriteAddress::Destination(address) => address.apply(packet.dst),
            RewriteAddress::Redirect => own,
            _ => None,
        };
        NatEndpoint { address, port: self.port.apply(packet.dport) }
    }

    /// The end that it makes of the source of a packet. A port may change for no other reason than
    /// that another connection has it already, so it is known only where it is set.
    pub(super) fn source(&self, packet: &Packet, own: Option<IpAddr>) -> NatEndpoint {
        let address = match self.to {
            RewriteAddress::Source(address) => address.apply(packet.src),
            RewriteAddress::Masquerade => own,
            _ => None,
        };
        NatEndpoint { address, port: self.port.apply(None) }
    }
}

/// `10.0.0.1`, `10.0.0.1-10.0.0.9:80-90`, `[2001:db8::1]:80`, `:80`.
fn target(text: &str) -> (RewritePart<IpAddr>, RewritePart<u16>) {
    let (addresses, ports) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((addresses, ports)) => (addresses, ports.strip_prefix(':')),
        None if text.matches(':').count() == 1 => match text.split_once(':') {
            Some((addresses, ports)) => (addresses, Some(ports)),
            None => (text, None),
        },
        None => (text, None),
    };
    let address = if addresses.is_empty() { RewritePart::Keep } else { one(addresses) };
    (address, ports.map_or(RewritePart::Keep, one))
}

/// One value or a range of several.
fn one<T: std::str::FromStr + PartialEq>(text: &str) -> RewritePart<T> {
    match text.split_once('-') {
        Some((from, to)) => match (from.parse::<T>(), to.parse::<T>()) {
            (Ok(from), Ok(to)) if from == to => RewritePart::To(from),
            _ => RewritePart::OneOf,
        },
        None => text.parse().map_or(RewritePart::OneOf, RewritePart::To),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read() {
        let read = |name: &str, text: &str| {
            let words: Vec<Cow<'_, str>> = text.split(' ').map(Cow::Borrowed).collect();
            NatRewrite::parse(name, &words)
        };
        let v4 = |text: &str| RewritePart::To(text.parse().unwrap());
        for (name, text, to, port) in [
            (
                "DNAT",
                "--to-destination 10.0.0.1",
                RewriteAddress::Destination(v4("10.0.0.1")),
                RewritePart::Keep,
            ),
            (
                "DNAT",
                "--to-destination 10.0.0.1:80 --random",
                RewriteAddress::Destination(v4("10.0.0.1")),
                RewritePart::To(80),
            ),
            (
                "DNAT",
                "--to-destination [2001:db8::1]:80",
                RewriteAddress::Destination(v4("2001:db8::1")),
                RewritePart::To(80),
            ),
            (
                "DNAT",
                "--to-destination 2001:db8::1",
                RewriteAddress::Destination(v4("2001:db8::1")),
                RewritePart::Keep,
            ),
            (
                "DNAT",
                "--to-destination :80",
                RewriteAddress::Destination(RewritePart::Keep),
                RewritePart::To(80),
            ),
            (
                "DNAT",
                "--to-destination 10.0.0.1-10.0.0.2:80-90",
                RewriteAddress::Destination(RewritePart::OneOf),
                RewritePart::OneOf,
            ),
            ("SNAT", "--to-source 10.0.0.1", RewriteAddress::Source(v4("10.0.0.1")), RewritePart::Keep),
            ("REDIRECT", "--to-ports 3128", RewriteAddress::Redirect, RewritePart::To(3128)),
            ("MASQUERADE", "", RewriteAddress::Masquerade, RewritePart::Keep),
            ("NETMAP", "--to 10.0.0.0/24", RewriteAddress::Either, RewritePart::OneOf),
        ] {
            assert_eq!(read(name, text), NatRewrite { to, port }, "{name} {text}");
        }
    }
}
