//! SSH inside a tunnel that ends on the host. Conntrack carries the tunnel's outer packets past rules that let no new ones
//! in, until its entry expires: so those packets are judged as new ones.

use super::{FamilyView, say};
use crate::host_state::{HostLink, HostSocket, Observed};
use crate::netfilter::{
    ConntrackStates, Packet, PacketDevice, PacketPath, PacketVerdict, TcpFlags, TraceStep, simulate,
};
use crate::plan::HostPlan;
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::iptables::IpFamily;
use std::net::{IpAddr, Ipv6Addr};

/// How many links may stand one on the other.
const DEPTH: usize = 8;

/// Ports that clients take.
const CLIENT_PORTS: u16 = 32_768;

/// The ends of a tunnel's outer packets, as far as the link has them.
struct TunnelEndpoints {
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
    device: Option<String>,
}

impl FamilyView<'_> {
    /// Outer packets of the tunnel that the client comes by, where the new rules drop them.
    pub(super) fn tunnel(&self, plan: &mut HostPlan) {
        let Some(observed) = self.observed else { return };
        let Some(ssh) = &observed.facts.ssh else { return };
        if !self.changes_verdicts() {
            return;
        }
        let PacketDevice::Named(device) = self.context.device_to(ssh.client) else { return };
        let Some(link) = tunnel_under(observed, &device) else { return };
        let (verdict, step) = self.outer_verdict(observed, link);
        let Some(step) = step.filter(|_| verdict != PacketVerdict::Accept) else { return };
        let kind = link.linkinfo.kind.as_deref().unwrap_or("tunnel");
        if verdict == PacketVerdict::Drop {
            let why = format!(
                "new outer packets of the {kind} tunnel {} are dropped by {}, and SSH inside it ends with their conntrack entry",
                link.name,
                say(&step)
            );
            self.latent(&why, &step, plan);
            return;
        }
        let message = WarningMessage::new(format!(
            "SSH inside the {kind} tunnel {} may be cut: new outer packets depend \
             on a rule that cannot be simulated",
            link.name
        ))
        .cause(say(&step));
        plan.warnings.push(Warning::new(LintCode::LockoutUnknown, message, self.origin_of(&step)));
    }

    /// What becomes of the outer packets, both ways.
    fn outer_verdict(&self, observed: &Observed, link: &HostLink) -> (PacketVerdict, Option<TraceStep>) {
        if link.linkinfo.kind.as_deref() == Some("tun") {
            return self.userspace(&observed.tunnel);
        }
        if family_of(link).is_some_and(|family| family != self.family) {
            return (PacketVerdict::Accept, None);
        }
        let ends = ends_of(link);
        let alternatives = outer_packets(self.family, link, &observed.sockets);
        agreed(alternatives.into_iter().map(|packet| {
            let packet = Packet { sport: None, ..packet };
            let inward = self.verdict(&self.inward(&ends, packet.clone()));
            if inward.0 == PacketVerdict::Drop {
                return inward;
            }
            let outward = self.verdict(&self.outward(&ends, packet));
            if outward.0 == PacketVerdict::Accept { inward } else { outward }
        }))
    }

    /// What becomes of what a userspace program sends and receives by its sockets, where the probe found them.
    fn userspace(&self, sockets: &[HostSocket]) -> (PacketVerdict, Option<TraceStep>) {
        let v4 = self.family == IpFamily::V4;
        if sockets.is_empty() {
            let ends = TunnelEndpoints { local: None, remote: None, device: None };
            let found = self.verdict(&self.inward(&ends, Packet::new(self.family)));
            return found;
        }
        let met = sockets.iter().filter(|s| !s.local.is_loopback()).filter_map(|socket| {
            // A socket on all IPv6 addresses may serve both families; which one the peer uses is not known.
            let both = socket.peer.is_none() && socket.local == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            let address = socket.peer.map_or(socket.local, |(peer, _)| peer);
            if !both && address.is_ipv4() != v4 {
                return None;
            }
            let found = self.verdict(&self.of_socket(socket));
            Some(if both && found.0 == PacketVerdict::Drop {
                (PacketVerdict::Unknown, found.1)
            } else {
                found
            })
        });
        agreed(met)
    }

    /// The packet that begins the traffic of a socket: a peer's to a port that the host serves, else the host's own.
    fn of_socket(&self, socket: &HostSocket) -> (PacketPath, Packet) {
        let local = Some(socket.local).filter(|local| !local.is_unspecified());
        let ends = TunnelEndpoints { local, remote: socket.peer.map(|(peer, _)| peer), device: None };
        let packet = |dport| match socket.tcp {
            true => Packet { sport: None, ..Packet::tcp(self.family, 0, dport, TcpFlags::SYN) },
            false => Packet { sport: None, ..Packet::udp(self.family, 0, dport) },
        };
        match socket.peer {
            Some((_, port)) if socket.port >= CLIENT_PORTS => self.outward(&ends, packet(port)),
            _ => self.inward(&ends, packet(socket.port)),
        }
    }

    fn verdict(&self, (base, packet): &(PacketPath, Packet)) -> (PacketVerdict, Option<TraceStep>) {
        let found = simulate(&self.after, &self.context, *base, packet);
        (found.verdict, found.decided_by)
    }

    fn inward(&self, ends: &TunnelEndpoints, packet: Packet) -> (PacketPath, Packet) {
        let packet = Packet {
            src: ends.remote,
            dst: ends.local,
            dst_local: Some(true),
            state: ConntrackStates::NEW,
            in_iface: self.device(ends),
            out_iface: PacketDevice::Absent,
            physout: PacketDevice::Absent,
            ..packet
        };
        (PacketPath::Input, packet)
    }

    fn outward(&self, ends: &TunnelEndpoints, packet: Packet) -> (PacketPath, Packet) {
        let packet = Packet {
            src: ends.local,
            src_local: Some(true),
            dst: ends.remote,
            dst_local: ends.remote.map(|_| false),
            state: ConntrackStates::NEW,
            in_iface: PacketDevice::Absent,
            out_iface: self.device(ends),
            physin: PacketDevice::Absent,
            physout: PacketDevice::Absent,
            ..packet
        };
        (PacketPath::Output, packet)
    }

    /// The device of the outer packets, as it will be.
    fn device(&self, ends: &TunnelEndpoints) -> PacketDevice {
        let named = |name: &str| PacketDevice::named(self.bridge_of(name).unwrap_or(name));
        if let Some(device) = &ends.device {
            return named(device);
        }
        match ends.remote.map(|remote| self.context.device_to(remote)) {
            Some(PacketDevice::Named(name)) => named(&name),
            _ => PacketDevice::Outside,
        }
    }
}

/// The tunnel that packets of a link go through: the link itself, what a VLAN stands on, or a bridge's only way out.
fn tunnel_under<'a>(observed: &'a Observed, device: &str) -> Option<&'a HostLink> {
    let links = &observed.links;
    let mut link = links.by_name.get(device)?;
    for _ in 0..DEPTH {
        let kind = link.linkinfo.kind.as_deref().unwrap_or_default();
        if is_tunnel(kind) {
            return Some(link);
        }
        link = if kind == "bridge" {
            // Guests are behind taps and veths; where there is one port beside them, all others are behind that.
            let guests = ["tun", "veth", "macvtap"];
            let mut ports = links
                .ports(&link.name)
                .filter(|p| !guests.contains(&p.linkinfo.kind.as_deref().unwrap_or_default()));
            let only = ports.next()?;
            if ports.next().is_some() {
                return None;
            }
            only
        } else {
            links.by_name.get(link.parent.as_ref()?)?
        };
    }
    None
}

fn is_tunnel(kind: &str) -> bool {
    let kinds = [
        "vxlan",
        "geneve",
        "gre",
        "gretap",
        "erspan",
        "ip6gre",
        "ip6gretap",
        "ip6erspan",
        "ipip",
        "sit",
        "ip6tnl",
        "vti",
        "vti6",
        "xfrm",
        "wireguard",
        "tun",
        "ovpn",
        "l2tp",
        "gtp",
        "bareudp",
        "amt",
    ];
    kinds.contains(&kind)
}

/// What a tunnel's outer packets may be.
fn outer_packets(family: IpFamily, link: &HostLink, sockets: &[HostSocket]) -> Vec<Packet> {
    let port = |usual: u16| link.number("port").and_then(|port| u16::try_from(port).ok()).unwrap_or(usual);
    let udp = |port| Packet::udp(family, 0, port);
    let protocol = |number| Packet { protocol: Some(number), ..Packet::new(family) };
    match link.linkinfo.kind.as_deref().unwrap_or_default() {
        "vxlan" => vec![udp(port(8472))],
        "geneve" => vec![udp(port(6081))],
        "wireguard" => match wireguard_ports(sockets)[..] {
            [] => vec![Packet { dport: None, ..udp(0) }],
            ref ports => ports.iter().map(|port| udp(*port)).collect(),
        },
        "gre" | "gretap" | "erspan" | "ip6gre" | "ip6gretap" | "ip6erspan" => vec![protocol(47)],
        "ipip" => vec![protocol(4)],
        "sit" => vec![protocol(41)],
        "ip6tnl" => vec![protocol(4), protocol(41)],
        "vti" | "vti6" | "xfrm" => vec![protocol(50), udp(4500)],
        _ => vec![Packet::new(family)],
    }
}

/// Ports that may be those of WireGuard: it has one socket on all addresses of each family.
fn wireguard_ports(sockets: &[HostSocket]) -> Vec<u16> {
    let open = |v4: bool| {
        sockets.iter().filter(move |s| {
            !s.tcp && s.peer.is_none() && s.local.is_unspecified() && s.local.is_ipv4() == v4
        })
    };
    open(true).map(|s| s.port).filter(|port| open(false).any(|s| s.port == *port)).collect()
}

/// What all alternatives agree on.
fn agreed(
    mut all: impl Iterator<Item = (PacketVerdict, Option<TraceStep>)>,
) -> (PacketVerdict, Option<TraceStep>) {
    let Some(first) = all.next() else { return (PacketVerdict::Accept, None) };
    match all.find(|other| other.0 != first.0) {
        None => first,
        Some(other) => {
            (PacketVerdict::Unknown, if first.0 == PacketVerdict::Accept { other.1 } else { first.1 })
        }
    }
}

/// Addresses stand in `local`, `remote` and, for VXLAN over IPv6, `local6` and `remote6`; a group is not a peer.
fn ends_of(link: &HostLink) -> TunnelEndpoints {
    let address = |names: [&str; 2]| {
        let value =
            names.iter().find_map(|name| link.linkinfo.data.get(*name)?.as_str()?.parse::<IpAddr>().ok());
        value.filter(|address| !address.is_unspecified() && !address.is_multicast())
    };
    let device = link.linkinfo.data.get("link").and_then(|device| device.as_str()).map(str::to_owned);
    TunnelEndpoints { local: address(["local", "local6"]), remote: address(["remote", "remote6"]), device }
}

/// The family of the outer packets, where the link tells.
fn family_of(link: &HostLink) -> Option<IpFamily> {
    let ends = ends_of(link);
    let group =
        ["group", "group6"].iter().find_map(|name| link.linkinfo.data.get(*name)?.as_str()?.parse().ok());
    if let Some(address) = ends.remote.or(ends.local).or(group) {
        return Some(if address.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 });
    }
    match link.linkinfo.kind.as_deref().unwrap_or_default() {
        "gre" | "gretap" | "erspan" | "ipip" | "sit" | "vti" => Some(IpFamily::V4),
        "ip6gre" | "ip6gretap" | "ip6erspan" | "ip6tnl" | "vti6" => Some(IpFamily::V6),
        _ => None,
    }
}
