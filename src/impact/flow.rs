//! The flows of a host, and the two sides on which they are simulated.

use crate::netfilter::{BridgeView, ConnectionNat, ConntrackStates, Packet, PacketDevice, Ruleset, TcpFlags};
use crate::resource::iptables::IpFamily;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Port that the samples go to. Rulesets hardly name it, so it stands for any port.
const DPORT: u16 = 1021;

/// Port that the samples come from.
const SPORT: u16 = 40_000;

/// Packets between two ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketFlow {
    /// Who sends to whom.
    pub ends: FlowEnds,
    /// What they send.
    pub kind: FlowKind,
    /// At the next boot, which the simulation of the present state does not cover.
    pub at_boot: bool,
}

/// Who sends to whom. A string is a bridge, or the device of a routed network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowEnds {
    /// The controller to sshd, by the address it comes from and the port of sshd.
    Ssh(IpAddr, u16),
    /// Guests of a bridge to each other.
    BetweenGuests(String),
    /// Guests of a bridge to its other ports.
    ToUplink(String),
    /// Other ports of a bridge to its guests.
    FromUplink(String),
    /// Guests of a network that the host routes, to other networks.
    ToNetworks(String),
    /// Other networks to guests of a network that the host routes.
    FromNetworks(String),
    /// Guests of a bridge to the host.
    ToHost(String),
    /// Other machines to a port that something listens on; whether it is a TCP port.
    Listening(u16, bool),
    /// An open connection of the host, by the port of the service; whether it is a TCP port.
    Connection(u16, bool),
}

/// What packets of a flow are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowKind {
    /// The first packet of a TCP connection.
    NewTcp,
    /// The first packet of a UDP flow.
    NewUdp,
    /// A ping.
    Ping,
    /// IPv6 neighbour discovery.
    Neighbour,
    /// A packet of an open connection.
    Established,
    /// An answer of the host.
    Reply,
}

impl FlowKind {
    /// All kinds that guests send.
    pub(super) fn of_guests(family: IpFamily) -> &'static [FlowKind] {
        use FlowKind::{Established, Neighbour, NewTcp, NewUdp, Ping};
        match family {
            IpFamily::V4 => &[NewTcp, NewUdp, Ping, Established],
            IpFamily::V6 => &[NewTcp, NewUdp, Ping, Neighbour, Established],
        }
    }

    /// All kinds that are routed: neighbour discovery stays on its link.
    pub(super) fn routed() -> &'static [FlowKind] {
        &[FlowKind::NewTcp, FlowKind::NewUdp, FlowKind::Ping, FlowKind::Established]
    }

    /// A packet of this kind from a guest or to one; neither end is an address of the host.
    pub(super) fn sample(self, family: IpFamily) -> Packet {
        let new = ConntrackStates::NEW;
        let (packet, state) = match self {
            FlowKind::NewUdp => (Packet::udp(family, SPORT, DPORT), new),
            FlowKind::Ping => (Packet::icmp(family, if family == IpFamily::V4 { 8 } else { 128 }, 0), new),
            FlowKind::Neighbour => (Packet::icmp(family, 135, 0), ConntrackStates::UNTRACKED),
            FlowKind::Established | FlowKind::Reply => {
                (Packet::tcp(family, SPORT, DPORT, TcpFlags::ACK), ConntrackStates::ESTABLISHED)
            }
            FlowKind::NewTcp => (Packet::tcp(family, SPORT, DPORT, TcpFlags::SYN), new),
        };
        let open = state == ConntrackStates::ESTABLISHED;
        let translation = if open { ConnectionNat::NONE } else { ConnectionNat::ByRules };
        Packet { state, translation, src_local: Some(false), dst_local: Some(false), ..packet }
    }
}

/// One side of a change: the host before it, after it, or after the next boot.
#[derive(Clone, Debug)]
pub struct HostSide<'a> {
    /// The rules of a family.
    pub rules: &'a Ruleset,
    /// Its bridges.
    pub bridges: Vec<BridgeView>,
    /// Whether it forwards what comes in by a device, and the key that decides. Devices of which that is not known are
    /// absent.
    pub forwards: BTreeMap<String, (bool, String)>,
}

impl HostSide<'_> {
    /// A bridge by name.
    pub(super) fn bridge(&self, name: &str) -> Option<&BridgeView> {
        self.bridges.iter().find(|bridge| bridge.name == name)
    }

    /// The key by which packets that come in by a device are not forwarded.
    pub(super) fn forwarding_off(&self, device: &str) -> Option<&str> {
        self.forwards.get(device).filter(|(on, _)| !on).map(|(_, key)| key.as_str())
    }
}

/// What of a host decides which flows it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostTopology {
    /// The bridge ports of guests.
    pub guests: BTreeSet<String>,
    /// The bridges on which the host has an address.
    pub with_address: BTreeSet<String>,
    /// The networks that the host routes for guests.
    pub routed: Vec<RoutedNetwork>,
    /// Ports that something listens on for other machines; whether it is a TCP port.
    pub listening: BTreeSet<(u16, bool)>,
}

/// A network that the host routes for guests.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoutedNetwork {
    /// The device of the network.
    pub device: String,
    /// The device that leads to other networks.
    pub uplink: String,
    /// An address of the network that is not the host's.
    pub guest: IpAddr,
}

/// An open connection of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpenConnection {
    /// The host's address.
    pub local: IpAddr,
    /// The address of the peer.
    pub peer: IpAddr,
    /// The port that names the service.
    pub service: u16,
    /// TCP; UDP otherwise.
    pub tcp: bool,
    /// The service runs on the host.
    pub serves: bool,
}

impl OpenConnection {
    /// A packet of the peer to the host, and one of the host to the peer.
    pub fn packets(&self, family: IpFamily) -> [Packet; 2] {
        let (ours, theirs) =
            if self.serves { (Some(self.service), None) } else { (None, Some(self.service)) };
        let packet = |src, dst, sport, dport| {
            let segment = match self.tcp {
                true => Packet::tcp(family, 0, 0, TcpFlags::ACK),
                false => Packet::udp(family, 0, 0),
            };
            let state = ConntrackStates::ESTABLISHED;
            Packet { src: Some(src), dst: Some(dst), sport, dport, state, ..segment }
        };
        let arrives = Packet {
            dst_local: Some(true),
            in_iface: PacketDevice::Outside,
            out_iface: PacketDevice::Absent,
            physout: PacketDevice::Absent,
            ..packet(self.peer, self.local, theirs, ours)
        };
        let leaves = Packet {
            src_local: Some(true),
            in_iface: PacketDevice::Absent,
            out_iface: PacketDevice::Outside,
            physin: PacketDevice::Absent,
            physout: PacketDevice::Absent,
            ..packet(self.local, self.peer, ours, theirs)
        };
        [arrives, leaves]
    }
}

/// An address that no host has, for a machine in another network.
pub(super) fn elsewhere(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7)),
    }
}
