//! The connection that reads the plan, and the next one.

use super::{FamilyView, first_conntrack, mark, say};
use crate::host_state::{HostLink, Observed, SshEnds};
use crate::netfilter::{
    PacketVerdict, SshArrival, SshCase, SshPath, SshSummary, SshVerdict, TraceStep, ssh_arrival, ssh_lockout,
};
use crate::plan::{ChangeRisk, HostPlan, ResourceKind};
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::iptables::IpFamily;
use std::net::IpAddr;

/// Whether what comes in by a link may have come from the port of a bridge: it is one, or may stand on one.
fn over_ports(link: &HostLink) -> bool {
    let kinds = ["bridge", "vlan", "macvlan", "ipvlan", "macvtap", "openvswitch"];
    link.linkinfo.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
}

/// The link that carries an address, where the client is in the network of that address.
fn near<'a>(observed: &'a Observed, ends: &SshEnds) -> Option<&'a HostLink> {
    let server = ends.server.to_string();
    let link = observed.links.by_name.values().find(|l| l.addresses.iter().any(|a| a.local == server));
    link.filter(|l| {
        l.addresses.iter().any(|a| {
            format!("{}/{}", a.local, a.prefix)
                .parse::<ipnet::IpNet>()
                .is_ok_and(|net| net.contains(&ends.client))
        })
    })
}

impl FamilyView<'_> {
    /// The connection that reads this plan, and the next one.
    pub(super) fn lockout(&self, plan: &mut HostPlan) -> Option<(SshPath, SshVerdict)> {
        let (ends, path) = self.ssh_path()?;
        let found = ssh_lockout(&self.after, &self.context, &path);
        self.report_lockout(&ends, &found, plan);
        Some((path, found))
    }

    /// What the rules of this family do to the connection that reads this plan, where the plan changes them.
    pub(super) fn ssh_verdict(&self) -> Option<(SshPath, SshVerdict)> {
        let (_, path) = self.ssh_path()?;
        let found = ssh_lockout(&self.after, &self.context, &path);
        Some((path, found))
    }

    fn report_lockout(&self, ends: &SshEnds, found: &SshVerdict, plan: &mut HostPlan) {
        latent_neighbour(found, plan);
        let (code, which, step) = match found.summary() {
            SshSummary::Safe => return,
            // New connections are made all the same, and one of those confirms.
            SshSummary::LockedOut { which: SshCase::Pickup, step } => {
                (LintCode::SessionDies, SshCase::Pickup, step)
            }
            SshSummary::LockedOut { which, step } => (LintCode::Lockout, which, step),
            SshSummary::Unknown { which, step } => (LintCode::LockoutUnknown, which, step),
        };
        let message = message(code, which, step.as_ref(), ends);
        plan.warnings.push(Warning::new(code, message, step.as_ref().and_then(|s| self.origin_of(s))));
        if code == LintCode::Lockout {
            let kinds = [ResourceKind::from(self.family), ResourceKind::Ipset];
            mark(plan, ChangeRisk::Lockout, |c| {
                kinds.contains(&c.kind) && c.risks.contains(&ChangeRisk::ManagementPath)
            });
        }
    }

    /// The connection that reads this plan, where it is of this family and the plan changes its rules or its link.
    fn ssh_path(&self) -> Option<(SshEnds, SshPath)> {
        let observed = self.observed?;
        let ends = observed.facts.ssh.as_ref()?;
        if ends.server.is_ipv4() != (self.family == IpFamily::V4) {
            return None;
        }
        let moved = |link: &HostLink| self.bridge_of(&link.name);
        let moves = |l: &HostLink| moved(l).is_some() && l.master.as_deref() != moved(l);
        if !self.changes_verdicts() && !observed.links.by_name.values().any(moves) {
            return None;
        }
        let loose = self.will_be.key("net/netfilter/nf_conntrack_tcp_loose");
        let near = near(observed, ends);
        // Where its address moves to a bridge, packets come in by the bridge.
        let device = near.map(|l| moved(l).unwrap_or(&l.name).to_owned());
        let listeners: Vec<(IpAddr, u16)> = observed
            .sockets
            .iter()
            .filter(|s| s.tcp && s.peer.is_none())
            .map(|s| (s.local, s.port))
            .collect();
        let path = SshPath {
            family: self.family,
            src: ends.client,
            dst: ends.server,
            sport: ends.client_port,
            dport: ends.server_port,
            no_port: near.is_some_and(|l| l.master.is_none() && moved(l).is_none() && !over_ports(l)),
            in_iface: device.clone(),
            out_iface: device,
            conntrack_active_before: first_conntrack::tracks(self.live),
            tcp_loose: loose.is_none_or(|(value, _)| value != "0"),
            dialled: self.dialled(),
            arrival: SshArrival::Direct,
            listeners: (!listeners.is_empty()).then_some(listeners),
        };
        let arrival = ssh_arrival(&self.before, &self.context, &path);
        Some((ends.clone(), SshPath { arrival, ..path }))
    }

    /// Where the controller, or the last jump host, connects to: known only where the inventory has all of it.
    fn dialled(&self) -> Option<(IpAddr, u16)> {
        let connection = &self.desired.connection;
        if !connection.options.is_empty() {
            return None;
        }
        Some((connection.address.parse().ok()?, connection.port?))
    }

    /// The bridge that a link is to be a port of.
    pub(super) fn bridge_of(&self, link: &str) -> Option<&str> {
        let mut bridges = self.desired.bridges.values().filter(|bridge| bridge.manage);
        let bridge = bridges.find(|bridge| bridge.ports.iter().any(|port| port == link));
        bridge.map(|bridge| bridge.name.as_str())
    }
}

/// Neighbour discovery that is dropped shows only when the neighbour entries expire.
fn latent_neighbour(found: &SshVerdict, plan: &mut HostPlan) {
    let Some(neighbour) = found.neighbour.as_ref().filter(|trace| trace.verdict == PacketVerdict::Drop)
    else {
        return;
    };
    let by = neighbour.decided_by.as_ref().map_or_else(|| "the rules".to_owned(), say);
    plan.latent_lockout = Some(format!(
        "IPv6 neighbour discovery is dropped by {by}, and SSH is cut when the neighbour entries expire"
    ));
}

fn message(code: LintCode, which: SshCase, step: Option<&TraceStep>, ends: &SshEnds) -> WarningMessage {
    let what = match which {
        SshCase::Established => "the open SSH connection",
        SshCase::Pickup => "the open SSH connection (conntrack will see it as new)",
        SshCase::New => "every new SSH connection",
        SshCase::Reply => "SSH answers of the host",
        SshCase::Neighbour => "IPv6 neighbour discovery, and with it SSH",
    };
    let by = step.map_or_else(|| "the rules".to_owned(), say);
    match code {
        LintCode::Lockout => WarningMessage::new(format!(
            "LOCKOUT: {what} from {} to port {} will be cut",
            ends.client, ends.server_port
        ))
        .cause(by),
        LintCode::SessionDies => {
            WarningMessage::new(format!("{what} will be cut; new ones are not")).cause(by)
        }
        _ => WarningMessage::new(format!("{what} may be cut: the rules cannot be simulated in full"))
            .cause(by)
            .fix("nothing, if the rule is meant; the host rolls back if it becomes unreachable"),
    }
}
