//! Will these rules cut the SSH connection that the host is managed by?

use super::chain::ChainEvaluator;
use super::host_context::HostContext;
use super::packet::{
    ConnectionNat, ConntrackStates, FlowDirection, NatEndpoint, Packet, PacketDevice, TcpFlags,
};
use super::ruleset::Ruleset;
use super::simulate::{PacketPath, PacketTrace, simulate};
use super::{PacketVerdict, TraceStep};
use crate::resource::iptables::IpFamily;
use std::net::IpAddr;

/// An SSH connection as the host sees it (`SSH_CONNECTION`), not as the controller does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshPath {
    /// iptables or ip6tables.
    pub family: IpFamily,
    /// The address the connection comes from.
    pub src: IpAddr,
    /// The address of the host.
    pub dst: IpAddr,
    /// The port it comes from. A new connection has another one, taken to be of the same sort.
    pub sport: u16,
    /// The port of sshd.
    pub dport: u16,
    /// The device it comes in by, if known.
    pub in_iface: Option<String>,
    /// Whether that is a device by which nothing comes from the port of a bridge.
    pub no_port: bool,
    /// The device that answers leave by, if known: mostly the same, but routing decides.
    pub out_iface: Option<String>,
    /// Whether conntrack knows this connection already. It does not where no rule has asked for a
    /// state so far.
    pub conntrack_active_before: bool,
    /// `net.netfilter.nf_conntrack_tcp_loose`: conntrack takes the packets of a connection whose
    /// start it has not seen as NEW, otherwise as INVALID.
    pub tcp_loose: bool,
    /// Address and port that the controller connects to, where the inventory has the address itself and the port.
    pub dialled: Option<(IpAddr, u16)>,
    /// How it comes to sshd.
    pub arrival: SshArrival,
    /// Addresses and ports that TCP listens on, if known.
    pub listeners: Option<Vec<(IpAddr, u16)>>,
}

/// How packets of a client come to sshd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SshArrival {
    /// They are sent to the address and port of sshd.
    Direct,
    /// They are sent to others, and a rule of nat leads them to sshd.
    Translated,
    /// One of the two.
    Either,
}

impl SshPath {
    /// Somebody with an address of his own comes and is answered by anything but the loopback.
    fn device(&self, name: &Option<String>) -> PacketDevice {
        match name {
            Some(name) => PacketDevice::named(name),
            None if self.src == self.dst || self.src.is_loopback() => PacketDevice::Some,
            None => PacketDevice::Outside,
        }
    }
}

/// What happens to each kind of packet that managing the host needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshVerdict {
    /// A packet of the open connection.
    pub established: PacketTrace,
    /// The first packet of the open connection that conntrack ever sees, when it was not active
    /// before: NEW, but without SYN.
    pub pickup: Option<PacketTrace>,
    /// The SYN of a new connection.
    pub new: PacketTrace,
    /// The host's answer.
    pub reply: PacketTrace,
    /// IPv6 finds nobody without neighbour discovery: the worst of asking and answering, both ways.
    pub neighbour: Option<PacketTrace>,
}

/// One of the simulations of [`SshVerdict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SshCase {
    /// A packet of the open connection.
    Established,
    /// The same, when conntrack sees the connection for the first time.
    Pickup,
    /// A new connection.
    New,
    /// The host's answer.
    Reply,
    /// IPv6 neighbour discovery.
    Neighbour,
}

/// The verdict in one word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SshSummary {
    /// The open connection lives and new ones can be made.
    Safe,
    /// It is cut for certain.
    LockedOut {
        /// What is cut first.
        which: SshCase,
        /// By what.
        step: Option<TraceStep>,
    },
    /// It may be cut.
    Unknown {
        /// What may be cut.
        which: SshCase,
        /// The rule that cannot be answered.
        step: Option<TraceStep>,
    },
}

/// Simulates every packet that an SSH connection to the host needs.
pub fn ssh_lockout(rules: &Ruleset, context: &HostContext, path: &SshPath) -> SshVerdict {
    let inbound = |sport, flags, state| arriving(rules, context, path, &inbound(path, sport, flags, state));
    let pickup = if path.tcp_loose { ConntrackStates::NEW } else { ConntrackStates::INVALID };
    let reply = Packet {
        src: Some(path.dst),
        dst: Some(path.src),
        src_local: Some(true),
        state: ConntrackStates::ESTABLISHED,
        direction: Some(FlowDirection::Reply),
        ..Packet::tcp(path.family, path.dport, path.sport, TcpFlags::REPLY)
    };
    SshVerdict {
        established: inbound(path.sport, TcpFlags::ACK, ConntrackStates::ESTABLISHED),
        pickup: (!path.conntrack_active_before).then(|| inbound(path.sport, TcpFlags::ACK, pickup)),
        new: inbound(path.sport, TcpFlags::SYN, ConntrackStates::NEW),
        reply: simulate(rules, context, PacketPath::Output, &outward(reply, path)),
        neighbour: (path.family == IpFamily::V6).then(|| neighbour(rules, context, path)),
    }
}

/// How the packets of the open connection come to sshd: judged by the rules that are live, because it works
/// under those. A new connection is made the same way.
pub fn ssh_arrival(live: &Ruleset, context: &HostContext, path: &SshPath) -> SshArrival {
    if path.dialled == Some((path.dst, path.dport)) || !may_redirect_to_sshd(live, path) {
        return SshArrival::Direct;
    }
    let syn = inbound(path, path.sport, TcpFlags::SYN, ConntrackStates::NEW);
    match reaches_sshd(&simulate(live, context, PacketPath::Input, &syn), path) {
        Some(false) => SshArrival::Translated,
        Some(true) | None => SshArrival::Either,
    }
}

/// A packet of the client as it would come if no rule of nat rewrote it.
fn inbound(path: &SshPath, sport: u16, flags: TcpFlags, state: ConntrackStates) -> Packet {
    let packet = Packet {
        src: Some(path.src),
        dst: Some(path.dst),
        dst_local: Some(true),
        state,
        direction: Some(FlowDirection::Original),
        // The open connection is known to reach sshd.
        translation: if state == ConntrackStates::ESTABLISHED {
            ConnectionNat::NONE
        } else {
            ConnectionNat::ByRules
        },
        ..Packet::tcp(path.family, sport, path.dport, flags)
    };
    inward(packet, path)
}

/// Simulates a packet that reaches sshd. Where a rule of nat brings it to sshd's address or port it has come with
/// others, and raw and mangle have seen those.
fn arriving(rules: &Ruleset, context: &HostContext, path: &SshPath, packet: &Packet) -> PacketTrace {
    if path.arrival == SshArrival::Direct {
        return direct(rules, context, path, packet);
    }
    let mut through_nat = translated(rules, context, path, packet);
    if packet.translation == ConnectionNat::ByRules && !may_redirect_to_sshd(rules, path) {
        // The rule that brings new ones there goes, and what becomes of them is not known.
        through_nat = PacketTrace { verdict: PacketVerdict::Unknown, final_packet: None, ..through_nat };
    }
    if path.arrival == SshArrival::Translated {
        return through_nat;
    }
    let direct = direct(rules, context, path, packet);
    if through_nat.verdict == direct.verdict {
        return through_nat;
    }
    let unknown = if direct.verdict == PacketVerdict::Accept { through_nat } else { direct };
    PacketTrace { verdict: PacketVerdict::Unknown, final_packet: None, ..unknown }
}

/// Simulates a packet that goes to sshd's address and port. Where nat sends it elsewhere, it is lost.
fn direct(rules: &Ruleset, context: &HostContext, path: &SshPath, packet: &Packet) -> PacketTrace {
    let mut direct = simulate(rules, context, PacketPath::Input, packet);
    let reaches = reaches_sshd(&direct, path);
    if direct.verdict == PacketVerdict::Accept && reaches != Some(true) {
        direct.verdict = if reaches == Some(false) { PacketVerdict::Drop } else { PacketVerdict::Unknown };
        let nat = direct.stages.iter().find(|stage| stage.table == "nat");
        direct.decided_by = nat.and_then(|stage| stage.decided_by.clone());
    }
    direct
}

/// Simulates a packet that went elsewhere until nat sent it to sshd.
fn translated(rules: &Ruleset, context: &HostContext, path: &SshPath, packet: &Packet) -> PacketTrace {
    let destination = Some(NatEndpoint { address: Some(path.dst), port: Some(path.dport) });
    let translation = ConnectionNat::Known { destination, source: None };
    let packet = Packet { dst: None, dport: None, dnat: Some(true), translation, ..packet.clone() };
    simulate(rules, context, PacketPath::Input, &packet)
}

/// Whether sshd receives the packet of a simulation that does not drop it; `None` where that is not known.
fn reaches_sshd(trace: &PacketTrace, path: &SshPath) -> Option<bool> {
    let Some((base, left)) = &trace.final_packet else {
        // In several ways at once, and by none of them to the host.
        let forwarded = trace.stages.iter().any(|stage| stage.chain == "FORWARD");
        let stays = trace.stages.iter().any(|stage| stage.chain == "INPUT");
        return (forwarded && !stays).then_some(false);
    };
    if *base != PacketPath::Input {
        return Some(false);
    }
    if (left.dst, left.dport) == (Some(path.dst), Some(path.dport)) {
        return Some(true);
    }
    let (listeners, port) = (path.listeners.as_ref()?, left.dport?);
    let on_port = || listeners.iter().filter(|(_, listens)| *listens == port).map(|(address, _)| *address);
    let any = on_port().any(|address| address.is_unspecified());
    let heard = match left.dst {
        Some(dst) => any || on_port().any(|address| address == dst),
        None if any => true,
        None => return None,
    };
    // One listener on all addresses is the sshd that the open connection has reached; another one may be anything.
    match (heard, port == path.dport && on_port().count() == 1) {
        (false, _) => Some(false),
        (true, true) if any => Some(true),
        (true, _) => None,
    }
}

/// Whether a rule of nat may send a new connection of this client, made to another address or port, to sshd. What the
/// rule asks counts: one for UDP, or for other clients, leads nobody there.
fn may_redirect_to_sshd(rules: &Ruleset, path: &SshPath) -> bool {
    let redirected = |dst: Option<IpAddr>, dport: Option<u16>| {
        let packet = Packet {
            sport: None,
            dst,
            dport,
            mark: None,
            ..inbound(path, 0, TcpFlags::SYN, ConntrackStates::NEW)
        };
        let packet = Packet { dst_local: dst.map(|_| true), ..packet };
        let passed = ChainEvaluator::new(rules, &packet).builtin("nat", "PREROUTING");
        passed.outcomes.rewritten.into_iter().any(|(rewrite, _)| {
            // A part that a rule keeps was the same before, so the packet must have had it.
            rewrite.keeps() == (dst.is_some(), dport.is_some())
                && rewrite.may_redirect_to(path.dst, path.dport)
        })
    };
    redirected(None, None) || redirected(None, Some(path.dport)) || redirected(Some(path.dst), None)
}

fn inward(packet: Packet, path: &SshPath) -> Packet {
    let in_iface = path.device(&path.in_iface);
    // Where the device is a bridge the packet has a port too, where it is not there is none.
    let physin = if path.no_port { PacketDevice::Absent } else { packet.physin.clone() };
    Packet { in_iface, out_iface: PacketDevice::Absent, physin, physout: PacketDevice::Absent, ..packet }
}

fn outward(packet: Packet, path: &SshPath) -> Packet {
    Packet {
        in_iface: PacketDevice::Absent,
        out_iface: path.device(&path.out_iface),
        physin: PacketDevice::Absent,
        physout: PacketDevice::Absent,
        ..packet
    }
}

fn neighbour(rules: &Ruleset, context: &HostContext, path: &SshPath) -> PacketTrace {
    // Conntrack leaves neighbour discovery alone. Who asks is the router or the client itself, by
    // a link-local or a global address.
    let message = |kind| Packet { state: ConntrackStates::UNTRACKED, ..Packet::icmp(IpFamily::V6, kind, 0) };
    let mut worst: Option<PacketTrace> = None;
    for kind in [135, 136] {
        for found in [
            simulate(rules, context, PacketPath::Input, &inward(message(kind), path)),
            simulate(rules, context, PacketPath::Output, &outward(message(kind), path)),
        ] {
            if worst.as_ref().is_none_or(|worst| rank(found.verdict) > rank(worst.verdict)) {
                worst = Some(found);
            }
        }
    }
    worst.unwrap_or(PacketTrace {
        verdict: PacketVerdict::Unknown,
        decided_by: None,
        stages: Vec::new(),
        final_packet: None,
    })
}

fn rank(verdict: PacketVerdict) -> u8 {
    match verdict {
        PacketVerdict::Accept => 0,
        PacketVerdict::Unknown => 1,
        PacketVerdict::Drop => 2,
    }
}

impl SshVerdict {
    /// The simulations with their names. The last is the only one whose failure does not cut SSH.
    pub fn cases(&self) -> impl Iterator<Item = (SshCase, &PacketTrace)> {
        [
            (SshCase::Established, Some(&self.established)),
            (SshCase::New, Some(&self.new)),
            (SshCase::Reply, Some(&self.reply)),
            (SshCase::Neighbour, self.neighbour.as_ref()),
            (SshCase::Pickup, self.pickup.as_ref()),
        ]
        .into_iter()
        .filter_map(|(case, trace)| trace.map(|trace| (case, trace)))
    }

    /// The verdict in one word: what is cut for certain outranks what may be.
    pub fn summary(&self) -> SshSummary {
        let first = |verdict| self.cases().find(|(_, trace)| trace.verdict == verdict);
        if let Some((which, trace)) = first(PacketVerdict::Drop) {
            return SshSummary::LockedOut { which, step: trace.decided_by.clone() };
        }
        match first(PacketVerdict::Unknown) {
            Some((which, trace)) => SshSummary::Unknown { which, step: trace.decided_by.clone() },
            None => SshSummary::Safe,
        }
    }
}

#[cfg(test)]
mod tests;
