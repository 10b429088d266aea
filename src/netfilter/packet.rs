//! What is known of a packet.

use crate::resource::iptables::IpFamily;
use std::net::IpAddr;
use std::ops::BitOr;
use std::sync::Arc;

/// A packet, abstract: `None` is *not known*, and a rule that asks for it gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// iptables or ip6tables.
    pub family: IpFamily,
    /// Source address.
    pub src: Option<IpAddr>,
    /// Where the source is not known: addresses of which it is one. None is: nothing is known.
    pub src_among: Vec<IpAddr>,
    /// Destination address.
    pub dst: Option<IpAddr>,
    /// Whether the source is an address of this host.
    pub src_local: Option<bool>,
    /// Whether the destination is an address of this host.
    pub dst_local: Option<bool>,
    /// Whether the destination is the broadcast address of a network of this host.
    pub dst_broadcast: Option<bool>,
    /// The number of the protocol.
    pub protocol: Option<u8>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// TCP flags.
    pub tcp_flags: TcpFlags,
    /// Type and code of ICMP or ICMPv6.
    pub icmp: Option<(u8, u8)>,
    /// `-i`.
    pub in_iface: PacketDevice,
    /// `-o`.
    pub out_iface: PacketDevice,
    /// The bridge port it came in by.
    pub physin: PacketDevice,
    /// The bridge port it goes out by.
    pub physout: PacketDevice,
    /// A frame that is bridged: it enters and leaves by ports of one bridge.
    pub bridged: bool,
    /// What conntrack may say of it.
    pub state: ConntrackStates,
    /// Which way it goes in its connection. A NEW packet is one of the original direction.
    pub direction: Option<FlowDirection>,
    /// Whether its connection has a destination that was rewritten (`--ctstate DNAT`).
    pub dnat: Option<bool>,
    /// Whether its connection has a source that was rewritten (`--ctstate SNAT`).
    pub snat: Option<bool>,
    /// What NAT does to the packets of its connection that go its way.
    pub translation: ConnectionNat,
    /// Whether it is a piece of a packet.
    pub fragment: FragmentPart,
    /// The firewall mark it has when it comes in.
    pub mark: Option<u32>,
}

/// A packet, or a piece of one. Once a rule of the host asks for a state, connection tracking joins the pieces
/// before any rule sees them, those of bridges too: then rules see whole packets alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FragmentPart {
    /// No piece, or all pieces joined.
    #[default]
    Whole,
    /// The first piece, with the header that ports and the like stand in.
    First,
    /// A later piece, without it.
    Later,
}

/// The two ways of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowDirection {
    /// That of its first packet.
    Original,
    /// That of the answer.
    Reply,
}

/// What NAT does to the packets that go one way of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionNat {
    /// Not known: for the first packet of a connection the rules tell; of later ones they tell only
    /// whether anything can have been rewritten.
    #[default]
    ByRules,
    /// Known, from the simulation of the first packet or from conntrack. The path, `out_iface`, `physout` and
    /// `bridged` of such a packet are those that it has when it is rewritten.
    Known {
        /// Where it really goes to, from nat PREROUTING or OUTPUT on.
        destination: Option<NatEndpoint>,
        /// Where it seems to come from, behind nat POSTROUTING or INPUT.
        source: Option<NatEndpoint>,
    },
}

impl ConnectionNat {
    /// Nothing is rewritten.
    pub const NONE: ConnectionNat = ConnectionNat::Known { destination: None, source: None };
}

/// An address and a port after NAT; `None` is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NatEndpoint {
    /// The address.
    pub address: Option<IpAddr>,
    /// The port, where the protocol has one.
    pub port: Option<u16>,
}

/// The protocol numbers that the simulation needs by name.
pub(super) mod protocol {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    /// Protocols with ports.
    pub const PORTS: [u8; 5] = [TCP, UDP, 33, 132, 136];
}

impl Packet {
    /// A packet of which nothing is known but its family and that no mark is set.
    pub fn new(family: IpFamily) -> Self {
        Self {
            family,
            src: None,
            src_among: Vec::new(),
            dst: None,
            src_local: None,
            dst_local: None,
            dst_broadcast: None,
            protocol: None,
            sport: None,
            dport: None,
            tcp_flags: TcpFlags::default(),
            icmp: None,
            in_iface: PacketDevice::Unknown,
            out_iface: PacketDevice::Unknown,
            physin: PacketDevice::Unknown,
            physout: PacketDevice::Unknown,
            bridged: false,
            state: ConntrackStates::ALL,
            direction: None,
            dnat: None,
            snat: None,
            translation: ConnectionNat::ByRules,
            fragment: FragmentPart::Whole,
            mark: Some(0),
        }
    }

    /// A TCP segment between two ports.
    pub fn tcp(family: IpFamily, sport: u16, dport: u16, tcp_flags: TcpFlags) -> Self {
        Self {
            protocol: Some(protocol::TCP),
            sport: Some(sport),
            dport: Some(dport),
            tcp_flags,
            ..Self::new(family)
        }
    }

    /// A UDP datagram between two ports.
    pub fn udp(family: IpFamily, sport: u16, dport: u16) -> Self {
        Self { protocol: Some(protocol::UDP), sport: Some(sport), dport: Some(dport), ..Self::new(family) }
    }

    /// An ICMP or ICMPv6 message.
    pub fn icmp(family: IpFamily, kind: u8, code: u8) -> Self {
        let protocol = match family {
            IpFamily::V4 => protocol::ICMP,
            IpFamily::V6 => protocol::ICMPV6,
        };
        Self { protocol: Some(protocol), icmp: Some((kind, code)), ..Self::new(family) }
    }
}

/// A network device of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PacketDevice {
    /// Not known, not even whether there is one.
    Unknown,
    /// There is none: a packet to the host itself has no `-o`.
    Absent,
    /// There is one whose name is not known.
    Some,
    /// The same, but it is not the loopback: what comes in by it comes from elsewhere, so its addresses are
    /// none of the loopback either (the kernel drops such packets).
    Outside,
    /// The one of this name.
    Named(Arc<str>),
}

impl PacketDevice {
    /// The device of this name.
    pub fn named(name: impl AsRef<str>) -> Self {
        PacketDevice::Named(name.as_ref().into())
    }
}

/// The states that conntrack may give a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConntrackStates(u8);

impl ConntrackStates {
    /// The first packet of a connection, or one that conntrack picks up.
    pub const NEW: ConntrackStates = ConntrackStates(1);
    /// Of a connection that has seen packets both ways.
    pub const ESTABLISHED: ConntrackStates = ConntrackStates(2);
    /// The first of a connection that another one expects, or an ICMP error.
    pub const RELATED: ConntrackStates = ConntrackStates(4);
    /// Fits no connection.
    pub const INVALID: ConntrackStates = ConntrackStates(8);
    /// Taken out of conntrack, by NOTRACK or because it is neighbour discovery.
    pub const UNTRACKED: ConntrackStates = ConntrackStates(16);
    /// Nothing is known.
    pub const ALL: ConntrackStates = ConntrackStates(31);
    /// No state, the start of a list.
    pub const NONE: ConntrackStates = ConntrackStates(0);

    /// The state of a name as `--state` and `--ctstate` print it.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "NEW" => Self::NEW,
            "ESTABLISHED" => Self::ESTABLISHED,
            "RELATED" => Self::RELATED,
            "INVALID" => Self::INVALID,
            "UNTRACKED" => Self::UNTRACKED,
            _ => return None,
        })
    }

    /// Those of these states that conntrack has an entry for.
    pub const TRACKED: ConntrackStates = ConntrackStates(7);

    /// The states one by one.
    pub fn each(self) -> impl Iterator<Item = ConntrackStates> {
        (0..5).map(|bit| ConntrackStates(1 << bit)).filter(move |state| self.meets(*state))
    }

    /// Whether all of these states are among the others.
    pub fn within(self, others: ConntrackStates) -> bool {
        self.0 & !others.0 == 0
    }

    /// Whether a state is in both.
    pub fn meets(self, others: ConntrackStates) -> bool {
        self.0 & others.0 != 0
    }
}

impl BitOr for ConntrackStates {
    type Output = ConntrackStates;

    fn bitor(self, other: ConntrackStates) -> ConntrackStates {
        ConntrackStates(self.0 | other.0)
    }
}

/// TCP flags, as far as known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags {
    /// The flags that are known.
    pub known: u8,
    /// Those of them that are set.
    pub set: u8,
}

impl TcpFlags {
    /// The names in the order of their bits.
    const NAMES: [&'static str; 6] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];

    /// The first segment of a connection.
    pub const SYN: TcpFlags = TcpFlags { known: 63, set: 2 };
    /// A segment of an open connection: ACK, neither SYN nor RST nor FIN.
    pub const ACK: TcpFlags = TcpFlags { known: 0b10111, set: 0b10000 };
    /// A segment of a server's side: ACK, with SYN in the first.
    pub const REPLY: TcpFlags = TcpFlags { known: 0b10101, set: 0b10000 };

    /// The bits of a list such as `FIN,SYN`, `NONE` or `ALL`.
    pub(super) fn bits(list: &str) -> Option<u8> {
        match list {
            "NONE" => return Some(0),
            "ALL" => return Some(63),
            _ => {}
        }
        list.split(',').try_fold(0, |bits, name| {
            let bit = Self::NAMES.iter().position(|known| *known == name)?;
            Some(bits | 1 << bit)
        })
    }
}
