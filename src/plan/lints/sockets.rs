//! The host's own connections: which of them the new rules would cut.

use super::{FamilyView, say};
use crate::host_state::{HostSocket, Observed};
use crate::impact::{OpenConnection, services};
use crate::netfilter::{
    ConntrackStates, HostContext, Packet, PacketDevice, PacketPath, PacketVerdict, Ruleset, TcpFlags,
    TraceStep, simulate,
};
use crate::plan::HostPlan;
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::iptables::IpFamily;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Most rules that are evaluated for all sockets together: a long ruleset gets fewer simulations.
const WORK: usize = 400_000;

/// So many things are named in a warning.
const NAMED: usize = 8;

/// Ports that clients take; a UDP socket there waits for an answer and serves nobody.
const CLIENT_PORTS: u16 = 32_768;

/// What is cut, by the step that cuts it.
type CutFlows = BTreeMap<String, (TraceStep, BTreeSet<String>)>;

impl FamilyView<'_> {
    /// Connections that are open and would be cut, and listeners that nobody would reach any more.
    pub(super) fn sockets(&self, plan: &mut HostPlan) {
        let Some(observed) = self.observed else { return };
        if !self.changes_verdicts() {
            return;
        }
        let mut budget = (WORK / (self.before.len() + self.after.len() + 1)).clamp(16, 512);
        let listening: BTreeSet<(u16, bool)> =
            observed.sockets.iter().filter(|s| s.peer.is_none()).map(|s| (s.port, s.tcp)).collect();
        let mut open = CutFlows::new();
        let mut closed = CutFlows::new();
        let mut flows: Vec<OpenConnection> =
            observed.sockets.iter().filter_map(|s| self.open_connection(s, observed, &listening)).collect();
        // What is known by name first, should there be too many.
        flows.sort_by_key(|flow| (services::name(flow.service).is_none(), *flow));
        flows.dedup();
        for flow in &flows {
            if budget == 0 {
                break;
            }
            budget -= 1;
            if let Some(step) = self.newly_dropped(|set| cut_open(set, &self.context, self.family, flow)) {
                add(&mut open, step, shown(flow));
            } else if flow.serves
                && let Some(step) = self.newly_dropped(|set| {
                    cut_new(set, &self.context, self.family, Some(flow.peer), flow.service, flow.tcp)
                })
            {
                let what =
                    format!("{} for {}, connected now", services::shown(flow.service, flow.tcp), flow.peer);
                add(&mut closed, step, what);
            }
        }
        for (port, tcp) in self.served(observed) {
            if budget == 0 {
                break;
            }
            budget -= 1;
            if let Some(step) =
                self.newly_dropped(|set| cut_new(set, &self.context, self.family, None, port, tcp))
            {
                add(&mut closed, step, services::shown(port, tcp));
            }
        }
        for (step, what) in open.into_values() {
            let message = WarningMessage::new(format!("open connections will be cut: {}", list(&what)))
                .cause(say(&step))
                .fix("accept ESTABLISHED before that rule");
            plan.warnings.push(Warning::new(LintCode::ConnectionsCut, message, self.origin_of(&step)));
        }
        for (step, what) in closed.into_values() {
            let message = WarningMessage::new(format!(
                "{}: new connections to listening ports of the host will be cut: {}",
                self.family,
                list(&what)
            ))
            .cause(say(&step))
            .fix("accept these ports before that rule, or stop the services");
            plan.warnings.push(Warning::new(LintCode::PortsClosed, message, self.origin_of(&step)));
        }
    }

    /// A connection of this family with somebody else, other than the one that asks.
    pub(super) fn open_connection(
        &self,
        socket: &HostSocket,
        observed: &Observed,
        listening: &BTreeSet<(u16, bool)>,
    ) -> Option<OpenConnection> {
        let (peer, peer_port) = socket.peer?;
        let v4 = self.family == IpFamily::V4;
        // Between addresses of its own the host talks by the loopback.
        if peer.is_ipv4() != v4 || peer == socket.local || self.context.is_local(peer) == Some(true) {
            return None;
        }
        if observed.facts.ssh.as_ref().is_some_and(|ssh| ssh.client == peer && ssh.server_port == socket.port)
        {
            return None;
        }
        let serves = listening.contains(&(socket.port, socket.tcp));
        let service = if serves { socket.port } else { peer_port };
        Some(OpenConnection { local: socket.local, peer, service, tcp: socket.tcp, serves })
    }

    /// Ports that something listens on for others, SSH's left out: that is said elsewhere.
    pub(super) fn served(&self, observed: &Observed) -> BTreeSet<(u16, bool)> {
        let ssh = observed.facts.ssh.as_ref().map(|ssh| ssh.server_port);
        let mine = |socket: &&HostSocket| {
            let any_v6 = socket.local.is_ipv6() && socket.local.is_unspecified();
            let family = socket.local.is_ipv4() == (self.family == IpFamily::V4) || any_v6;
            // A DHCP client reads its answers before netfilter does.
            let client = !socket.tcp && (socket.port >= CLIENT_PORTS || socket.port == 68);
            family && !client && socket.peer.is_none() && !socket.local.is_loopback()
        };
        let ports = observed.sockets.iter().filter(mine).filter(|s| Some(s.port) != ssh || !s.tcp);
        ports.map(|s| (s.port, s.tcp)).collect()
    }

    /// What drops it after the change, where nothing did before.
    fn newly_dropped(&self, drops: impl Fn(&Ruleset) -> Option<TraceStep>) -> Option<TraceStep> {
        let step = drops(&self.after)?;
        drops(&self.before).is_none().then_some(step)
    }
}

fn shown(flow: &OpenConnection) -> String {
    let service = services::shown(flow.service, flow.tcp);
    if flow.serves { format!("{service} for {}", flow.peer) } else { format!("to {} {service}", flow.peer) }
}

/// What drops packets of an open connection, either way. Conntrack knows it: an apply sees to that
/// before the first rule that asks.
fn cut_open(
    set: &Ruleset,
    around: &HostContext,
    family: IpFamily,
    flow: &OpenConnection,
) -> Option<TraceStep> {
    let [inward, outward] = flow.packets(family);
    dropped(set, around, PacketPath::Input, &inward)
        .or_else(|| dropped(set, around, PacketPath::Output, &outward))
}

/// What drops the first packet to a port of the host.
fn cut_new(
    set: &Ruleset,
    around: &HostContext,
    family: IpFamily,
    from: Option<IpAddr>,
    port: u16,
    tcp: bool,
) -> Option<TraceStep> {
    let packet = if tcp { Packet::tcp(family, 0, port, TcpFlags::SYN) } else { Packet::udp(family, 0, port) };
    let packet = to_host(Packet { src: from, sport: None, state: ConntrackStates::NEW, ..packet });
    dropped(set, around, PacketPath::Input, &packet)
}

fn to_host(packet: Packet) -> Packet {
    Packet {
        dst_local: Some(true),
        in_iface: PacketDevice::Outside,
        out_iface: PacketDevice::Absent,
        physout: PacketDevice::Absent,
        ..packet
    }
}

fn dropped(set: &Ruleset, around: &HostContext, base: PacketPath, packet: &Packet) -> Option<TraceStep> {
    let found = simulate(set, around, base, packet);
    found.decided_by.filter(|_| found.verdict == PacketVerdict::Drop)
}

fn add(cut: &mut CutFlows, step: TraceStep, what: String) {
    cut.entry(step.to_string()).or_insert_with(|| (step, BTreeSet::new())).1.insert(what);
}

fn list(what: &BTreeSet<String>) -> String {
    let mut text = what.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if what.len() > NAMED {
        text.push_str(&format!(" and {} more", what.len() - NAMED));
    }
    text
}
