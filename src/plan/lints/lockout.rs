//! The connection that reads the plan, and the next one.

use super::{View, flows, kind, mark, say, warn};
use crate::netfilter::{SshCase, SshPath, SshSummary, Verdict, ssh_lockout};
use crate::observe::Link;
use crate::plan::{HostPlan, Risk};
use crate::resource::iptables::Family;

/// Whether what comes in by a link may have come from the port of a bridge: it is one, or may stand on one.
fn over_ports(link: &Link) -> bool {
    let kinds = ["bridge", "vlan", "macvlan", "ipvlan", "macvtap", "openvswitch"];
    link.linkinfo.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
}

impl View<'_> {
    /// The connection that reads this plan, and the next one.
    pub(super) fn lockout(&self, plan: &mut HostPlan) {
        let Some(observed) = self.observed else { return };
        let Some(ends) = &observed.facts.ssh else { return };
        if ends.server.is_ipv4() != (self.family == Family::V4) {
            return;
        }
        let links = &observed.links.by_name;
        let moved = |link: &Link| self.bridge_of(&link.name);
        if self.live == self.predicted
            && !links.values().any(|l| moved(l).is_some() && l.master.as_deref() != moved(l))
        {
            return;
        }
        let server = ends.server.to_string();
        let link = links.values().find(|l| l.addresses.iter().any(|a| a.local == server));
        let loose = self.will_be.key("net/netfilter/nf_conntrack_tcp_loose");
        let near = link.filter(|l| {
            l.addresses.iter().any(|a| {
                format!("{}/{}", a.local, a.prefix)
                    .parse::<ipnet::IpNet>()
                    .is_ok_and(|net| net.contains(&ends.client))
            })
        });
        // Where its address moves to a bridge, packets come in by the bridge.
        let device = near.map(|l| moved(l).unwrap_or(&l.name).to_owned());
        let path = SshPath {
            family: self.family,
            src: ends.client,
            dst: ends.server,
            sport: ends.client_port,
            dport: ends.server_port,
            no_port: near.is_some_and(|l| l.master.is_none() && moved(l).is_none() && !over_ports(l)),
            in_iface: device.clone(),
            out_iface: device,
            conntrack_active_before: flows::tracks(self.live),
            tcp_loose: loose.is_none_or(|(value, _)| value != "0"),
        };
        let what = |which: SshCase| match which {
            SshCase::Established => "the open SSH connection",
            SshCase::Pickup => {
                "the open SSH connection (conntrack was not active before and will see it as new)"
            }
            SshCase::New => "every new SSH connection",
            SshCase::Reply => "what the host answers over SSH",
            SshCase::Neighbour => "IPv6 neighbour discovery, and with it SSH",
        };
        let found = ssh_lockout(&self.after, &self.around, &path);
        if let Some(neighbour) = found.neighbour.as_ref().filter(|walk| walk.verdict == Verdict::Drop) {
            let by = neighbour.decided_by.as_ref().map_or_else(|| "the rules".to_owned(), say);
            plan.latent_lockout = Some(format!(
                "IPv6 neighbour discovery is dropped by {by}, and SSH is cut when the neighbour entries expire"
            ));
        }
        let (code, which, step) = match found.summary() {
            SshSummary::Safe => return,
            // New connections are made all the same, and one of those confirms.
            SshSummary::LockedOut { which: SshCase::Pickup, step } => ("session-dies", SshCase::Pickup, step),
            SshSummary::LockedOut { which, step } => ("lockout", which, step),
            SshSummary::Unknown { which, step } => ("lockout-unknown", which, step),
        };
        let by = step.as_ref().map_or_else(|| "the rules".to_owned(), say);
        let message = if code == "lockout" {
            format!(
                "LOCKOUT: {} from {} to port {} will be cut by {by}",
                what(which),
                ends.client,
                ends.server_port
            )
        } else if code == "session-dies" {
            format!("{} will be cut by {by}; new ones are not", what(which))
        } else {
            format!("whether {} survives cannot be told: it depends on {by}", what(which))
        };
        plan.warnings.push(warn(code, message, step.as_ref().and_then(|s| self.origin_of(s))));
        if code == "lockout" {
            mark(plan, Risk::Lockout, |c| {
                c.kind == kind(self.family) && c.risks.contains(&Risk::ManagementPath)
            });
        }
    }

    /// The bridge that a link is to be a port of.
    pub(super) fn bridge_of(&self, link: &str) -> Option<&str> {
        let mut bridges = self.desired.bridges.values().filter(|bridge| bridge.manage);
        let bridge = bridges.find(|bridge| bridge.ports.iter().any(|port| port == link));
        bridge.map(|bridge| bridge.name.as_str())
    }
}
