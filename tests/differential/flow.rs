//! Connections between the nodes of the world, packet by packet, and what conntrack makes of each.

use crate::random::Random;
use kvmfw::netfilter::{
    BridgeFrame, BridgeSwitches, ConnectionNat, ConntrackStates, FlowDirection, FramePayload, HostContext,
    IptablesBackend, NatEndpoint, Packet, PacketDevice, PacketPath, TcpFlags,
};
use kvmfw::resource::iptables::IpFamily;
use serde_json::{Value, json};
use std::net::IpAddr;

/// The VLAN of frames that are sent with a tag.
pub const VLAN: u16 = 7;

/// Where a packet starts or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    G0,
    G1,
    Net,
    Host,
}

impl Node {
    pub fn name(self) -> &'static str {
        match self {
            Node::G0 => "g0",
            Node::G1 => "g1",
            Node::Net => "net",
            Node::Host => "host",
        }
    }

    pub fn named(name: &str) -> Self {
        [Node::G0, Node::G1, Node::Net].into_iter().find(|node| node.name() == name).unwrap_or(Node::Host)
    }

    fn addresses(self, family: IpFamily) -> &'static [&'static str] {
        match (self, family) {
            (Node::G0, IpFamily::V4) => &["10.0.0.1"],
            (Node::G1, IpFamily::V4) => &["10.0.0.2"],
            (Node::Net, IpFamily::V4) => &["10.1.0.1"],
            (Node::Host, IpFamily::V4) => &["10.0.0.254", "10.1.0.254"],
            (Node::G0, IpFamily::V6) => &["fd00::1"],
            (Node::G1, IpFamily::V6) => &["fd00::2"],
            (Node::Net, IpFamily::V6) => &["fd01::1"],
            (Node::Host, IpFamily::V6) => &["fd00::fe", "fd01::fe"],
        }
    }

    /// Who gets what goes to an address: its owner, or whoever the default route leads to.
    pub fn of(address: IpAddr) -> Option<Self> {
        if address.is_loopback() {
            return Some(Node::Host);
        }
        let family = if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 };
        let owner = [Node::G0, Node::G1, Node::Net, Node::Host]
            .into_iter()
            .find(|node| node.addresses(family).iter().any(|own| own.parse() == Ok(address)));
        let near = surroundings(family, IptablesBackend::Nft)
            .addresses
            .iter()
            .any(|(_, net)| net.contains(&address));
        owner.or((!near).then_some(Node::Net))
    }

    fn port(self) -> Option<&'static str> {
        match self {
            Node::G0 => Some("vnet0"),
            Node::G1 => Some("vnet1"),
            _ => None,
        }
    }

    fn device(self) -> PacketDevice {
        match self {
            Node::G0 | Node::G1 => PacketDevice::named("br0"),
            Node::Net => PacketDevice::named("eth0"),
            Node::Host => PacketDevice::Absent,
        }
    }
}

/// The sort of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Udp,
    Ping,
    /// Neighbour discovery, which conntrack leaves alone; IPv6 only.
    Discovery,
    /// A protocol without ports.
    Other,
}

/// What packets should be sent so that the rules are met.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Ports that rules name.
    pub ports: Vec<u16>,
    /// Addresses that nobody has and that nat rewrites.
    pub addresses: Vec<IpAddr>,
}

/// One packet as it is put on the wire.
#[derive(Clone, Debug)]
pub struct Sent {
    pub family: IpFamily,
    pub at: Node,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub sport: u16,
    pub dport: u16,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub icmp: (u8, u8),
    pub echo: u16,
    pub state: ConntrackStates,
    pub direction: Option<FlowDirection>,
    pub translation: ConnectionNat,
    pub dnat: Option<bool>,
    pub snat: Option<bool>,
    /// Where NAT sends it, if it is known to rewrite it.
    pub really_to: Option<IpAddr>,
    /// Which frames of the bridge rules see.
    pub switches: BridgeSwitches,
    /// Sent with a VLAN tag, from one port of the bridge to another.
    pub tagged: bool,
    /// Sent in two pieces.
    pub split: bool,
    /// The packet that it is an error about.
    pub about: Option<Box<Value>>,
}

/// The host as the walk is told of it.
pub fn surroundings(family: IpFamily, backend: IptablesBackend) -> HostContext {
    let net = |text: &str| text.parse().unwrap();
    let (own, routes) = match family {
        IpFamily::V4 => (["10.0.0.254/24", "10.1.0.254/24"], ["10.0.0.0/24", "10.1.0.0/24", "0.0.0.0/0"]),
        IpFamily::V6 => (["fd00::fe/64", "fd01::fe/64"], ["fd00::/64", "fd01::/64", "::/0"]),
    };
    let devices = ["br0", "eth0", "eth0"];
    HostContext {
        addresses: devices.iter().zip(own).map(|(device, own)| ((*device).to_owned(), net(own))).collect(),
        routes: devices.iter().zip(routes).map(|(device, to)| (net(to), (*device).to_owned())).collect(),
        other_tables: Vec::new(),
        backend: Some(backend),
    }
}

/// What conntrack calls a segment in the middle of a connection that it does not know.
pub fn picked_up(loose: bool) -> ConntrackStates {
    if loose { ConntrackStates::NEW } else { ConntrackStates::INVALID }
}

/// The flags of TCP that are sent.
pub mod flags {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

impl Sent {
    /// The first packet of a random connection.
    pub fn first(
        random: &mut Random,
        family: IpFamily,
        number: u16,
        loose: bool,
        switches: BridgeSwitches,
        hints: &Hints,
    ) -> (Kind, Self) {
        use Node::{G0, G1, Host, Net};
        let (at, to) = random.of_these(&[
            (G0, G1),
            (G1, G0),
            (G0, G1),
            (G0, Net),
            (Net, G1),
            (G0, Host),
            (Net, Host),
            (Net, Host),
            (Host, G1),
            (Host, Net),
        ]);
        let mut address = |node: Node| random.of_these(node.addresses(family)).parse().unwrap();
        let (src, mut dst) = (address(at), address(to));
        let known = [22, 22, 53, 80, 443, 8080];
        let mut dport = random.of_these(&known);
        if !hints.ports.is_empty() && !random.one_in(4) {
            dport = random.of_these(&hints.ports);
        }
        if !hints.addresses.is_empty() && random.one_in(4) {
            dst = random.of_these(&hints.addresses);
        }
        let kinds =
            [Kind::Tcp, Kind::Tcp, Kind::Tcp, Kind::Udp, Kind::Udp, Kind::Ping, Kind::Ping, Kind::Other];
        let mut kind = random.of_these(&kinds);
        if family == IpFamily::V6 && random.one_in(12) {
            kind = Kind::Discovery;
        }
        let v4 = family == IpFamily::V4;
        let mut sent = Sent {
            family,
            at,
            src,
            dst,
            protocol: match kind {
                Kind::Tcp => 6,
                Kind::Udp => 17,
                Kind::Ping | Kind::Discovery => {
                    if v4 {
                        1
                    } else {
                        58
                    }
                }
                Kind::Other => 254,
            },
            // Each connection has a port or number of its own: no old entry of conntrack fits.
            sport: number,
            dport,
            flags: 0,
            seq: 1000,
            ack: 0,
            icmp: if v4 { (8, 0) } else { (128, 0) },
            echo: number,
            state: ConntrackStates::NEW,
            direction: None,
            translation: ConnectionNat::ByRules,
            dnat: None,
            snat: None,
            really_to: None,
            switches,
            tagged: false,
            split: false,
            about: None,
        };
        sent.tagged = sent.between_ports() && random.one_in(4);
        match kind {
            Kind::Tcp => sent.open(random, loose),
            Kind::Discovery => {
                sent.icmp = (random.of_these(&[135, 136]), 0);
                sent.state = ConntrackStates::UNTRACKED;
            }
            // An answer that nobody asked for.
            Kind::Ping if random.one_in(8) => {
                sent.icmp = if v4 { (0, 0) } else { (129, 0) };
                sent.state = ConntrackStates::INVALID;
            }
            _ => {}
        }
        (kind, sent)
    }

    /// Mostly a SYN; else a segment whose connection conntrack has not seen begin.
    fn open(&mut self, random: &mut Random, loose: bool) {
        self.flags = flags::SYN;
        if random.one_in(3) {
            self.ack = 1;
            (self.flags, self.state) = random.of_these(&[
                (flags::ACK, picked_up(loose)),
                (flags::SYN | flags::ACK, ConntrackStates::INVALID),
                (flags::RST | flags::ACK, ConntrackStates::INVALID),
                (flags::FIN | flags::ACK, ConntrackStates::INVALID),
                (flags::SYN | flags::FIN, ConntrackStates::INVALID),
                (0, ConntrackStates::INVALID),
            ]);
        }
    }

    /// What is on its way back for a packet that arrived, sent where it arrived.
    pub fn reply(&self, arrived: &Arrived) -> Self {
        let mut reply = Sent {
            at: arrived.at,
            src: arrived.dst,
            dst: arrived.src,
            sport: arrived.dport.unwrap_or(self.dport),
            dport: arrived.sport.unwrap_or(self.sport),
            echo: arrived.echo.unwrap_or(self.echo),
            icmp: match self.icmp {
                (8, _) => (0, 0),
                (128, _) => (129, 0),
                other => other,
            },
            ..self.clone()
        };
        reply.tagged &= reply.between_ports();
        if self.protocol == 6 {
            let started = u32::from(self.flags & flags::SYN != 0);
            reply.seq = if started == 1 { 9000 } else { self.ack };
            reply.ack = self.seq + 12 + started;
            reply.flags = if started == 1 { flags::SYN | flags::ACK } else { flags::ACK };
        }
        reply
    }

    /// An error that comes back about a packet that arrived: its port is closed.
    pub fn error(&self, arrived: &Arrived) -> Self {
        let about = Sent {
            src: arrived.src,
            dst: arrived.dst,
            sport: arrived.sport.unwrap_or(self.sport),
            dport: arrived.dport.unwrap_or(self.dport),
            echo: arrived.echo.unwrap_or(self.echo),
            ..self.clone()
        };
        let (protocol, icmp) = if self.family == IpFamily::V4 { (1, (3, 3)) } else { (58, (1, 4)) };
        let mut error = Sent {
            protocol,
            icmp,
            state: ConntrackStates::RELATED,
            about: Some(Box::new(about.order(0))),
            ..self.reply(arrived)
        };
        error = error.of_connection(self, arrived, FlowDirection::Reply);
        if let ConnectionNat::Known { destination, source } = &mut error.translation {
            for end in [destination, source].into_iter().flatten() {
                end.port = None;
            }
        }
        error
    }

    /// What follows in the direction of the first packet.
    pub fn next(&self, reply: &Sent) -> Self {
        let mut next = self.clone();
        if self.protocol == 6 {
            next.flags = flags::ACK;
            next.seq = reply.ack;
            next.ack = reply.seq + 12 + u32::from(reply.flags & flags::SYN != 0);
        }
        next
    }

    /// A packet of the connection that a first one has made, by what became of that: NAT does the
    /// same to all that follow.
    pub fn of_connection(self, first: &Sent, arrived: &Arrived, direction: FlowDirection) -> Self {
        let ports = matches!(first.protocol, 6 | 17);
        let (dport, sport) = (arrived.dport.unwrap_or(first.dport), arrived.sport.unwrap_or(first.sport));
        let dnat = (arrived.dst, dport) != (first.dst, first.dport);
        let snat = (arrived.src, sport) != (first.src, first.sport)
            || arrived.echo.is_some_and(|echo| echo != first.echo);
        let end = |rewritten: bool, address: IpAddr, port: u16| {
            rewritten.then_some(NatEndpoint { address: Some(address), port: ports.then_some(port) })
        };
        let (destination, source) = match direction {
            FlowDirection::Original => (end(dnat, arrived.dst, dport), end(snat, arrived.src, sport)),
            FlowDirection::Reply => (end(snat, first.src, first.sport), end(dnat, first.dst, first.dport)),
        };
        Sent {
            direction: Some(direction),
            translation: ConnectionNat::Known { destination, source },
            dnat: Some(dnat),
            snat: Some(snat),
            really_to: destination.and_then(|end| end.address),
            ..self
        }
    }

    /// Who has the address it goes to.
    pub fn to(&self) -> Option<Node> {
        Node::of(self.really_to.unwrap_or(self.dst))
    }

    /// Whether it is a frame from one port of the bridge to another.
    fn between_ports(&self) -> bool {
        let on_a_port = |node: Option<Node>| node.is_some_and(|node| node.port().is_some());
        let to = Node::of(self.dst);
        // What a machine sends to itself by way of the host is routed.
        on_a_port(Some(self.at)) && on_a_port(to) && to != Some(self.at)
    }

    /// Whether rules are asked about it where it comes in by a port.
    fn seen_on_ports(&self) -> bool {
        let frame = BridgeFrame { payload: FramePayload::Ip(self.family), tagged: self.tagged };
        self.switches.rules(frame).is_some()
    }

    /// Whether it is a frame from one port of the bridge to another that no rule is asked about.
    pub fn unseen(&self) -> bool {
        !self.seen_on_ports() && self.between_ports()
    }

    /// As `wire.py` takes it.
    pub fn order(&self, id: u64) -> Value {
        let mac = match (self.at, Node::of(self.dst)) {
            (Node::Net, _) => "eth0",
            (Node::G0, Some(Node::G1)) => "g1",
            (Node::G1, Some(Node::G0)) => "g0",
            _ => "host",
        };
        let mut order = json!({
            "id": id, "at": self.at.name(), "mac": mac, "family": if self.family == IpFamily::V4 { 4 } else { 6 },
            "src": self.src, "dst": self.dst, "protocol": self.protocol, "sport": self.sport, "dport": self.dport,
            "flags": self.flags, "seq": self.seq, "ack": self.ack, "icmp": [self.icmp.0, self.icmp.1],
            "echo": self.echo,
        });
        if self.tagged {
            order["vlan"] = VLAN.into();
        }
        if self.split {
            order["split"] = true.into();
        }
        if let Some(about) = &self.about {
            order["quoted"] = (**about).clone();
        }
        order
    }

    /// As the walk takes it.
    pub fn packet(&self) -> (PacketPath, Packet) {
        let to = self.to().unwrap();
        let base = match (self.at, to) {
            (Node::Host, _) => PacketPath::Output,
            (_, Node::Host) => PacketPath::Input,
            _ => PacketPath::Forward,
        };
        // From one machine of the bridge to another the frame is bridged, or NAT makes it so.
        let seen = self.seen_on_ports();
        let routed = Node::of(self.dst) == Some(self.at);
        let bridged = seen && !routed && self.at.port().is_some() && to.port().is_some();
        let port = |node: Node| {
            let port = node.port().filter(|_| seen);
            port.map_or(PacketDevice::Absent, PacketDevice::named)
        };
        let packet = match self.protocol {
            6 => Packet::tcp(self.family, self.sport, self.dport, TcpFlags { known: 63, set: self.flags }),
            17 => Packet::udp(self.family, self.sport, self.dport),
            1 | 58 => Packet::icmp(self.family, self.icmp.0, self.icmp.1),
            other => Packet { protocol: Some(other), ..Packet::new(self.family) },
        };
        let packet = Packet {
            src: Some(self.src),
            dst: Some(self.dst),
            src_local: Some(self.at == Node::Host),
            dst_local: Some(Node::of(self.dst) == Some(Node::Host)),
            in_iface: self.at.device(),
            out_iface: to.device(),
            physin: port(self.at),
            physout: if bridged { port(to) } else { PacketDevice::Absent },
            bridged,
            state: self.state,
            direction: self.direction,
            translation: self.translation,
            dnat: self.dnat,
            snat: self.snat,
            ..packet
        };
        (base, packet)
    }
}

/// A packet as it was seen at its end.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub at: Node,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: Option<u16>,
    pub dport: Option<u16>,
    pub echo: Option<u16>,
    /// The VLAN that its tag says.
    pub vlan: Option<u16>,
    /// `whole`, or which piece of a packet it is.
    pub piece: String,
}

impl Arrived {
    pub fn read(seen: &Value) -> Self {
        let address = |key: &str| seen[key].as_str().unwrap().parse().unwrap();
        let number = |key: &str| seen[key].as_u64().map(|n| u16::try_from(n).unwrap());
        Arrived {
            at: Node::named(seen["at"].as_str().unwrap()),
            src: address("src"),
            dst: address("dst"),
            sport: number("sport"),
            dport: number("dport"),
            echo: number("echo"),
            vlan: number("vlan"),
            piece: seen["piece"].as_str().unwrap_or_default().to_owned(),
        }
    }
}
