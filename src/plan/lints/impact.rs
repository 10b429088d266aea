//! What packets gain and lose by the plan: the host's two sides, as the room of the impact needs them.

use super::{FamilyView, plain};
use crate::host_state::{HostLink, HostSocket, Observed};
use crate::impact::{
    self, FlowChange, FlowDecider, FlowDigest, HostSide, HostTopology, ImpactLine, OpenConnection,
    RoutedNetwork,
};
use crate::netfilter::{HostContext, Ruleset, SshPath, SshSummary, SshVerdict, ssh_lockout};
use crate::plan::forecast::{global_knob, own_knob};
use crate::plan::{HostAfter, other_tables};
use crate::problem::Origin;
use crate::resource::iptables::IpFamily;
use crate::resource::iptables::save::SavedTables;
use crate::resource::sysctl::SysctlKey;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

impl FamilyView<'_> {
    /// The lines of the impact for this family. `ssh` is how the plan ends for the connection that reads it; with
    /// `all`, flows to which nothing happens are lines too.
    pub(super) fn impact(&self, ssh: Option<&(SshPath, SshVerdict)>, all: bool) -> Vec<ImpactLine> {
        let changes = self.flows(ssh, all);
        impact::lines(self.family, &changes, |decider| self.place(decider))
    }

    /// The flows of the impact for this family, each by itself.
    pub(super) fn flows(&self, ssh: Option<&(SshPath, SshVerdict)>, all: bool) -> Vec<FlowChange> {
        let Some(observed) = self.observed else { return Vec::new() };
        let topology = self.topology(observed);
        let [was, is] = [(self.was, &self.before), (self.will_be, &self.after)]
            .map(|(host, rules)| self.side(host, rules, &topology));
        let context = HostContext {
            other_tables: other_tables(&observed.other_filters, self.family),
            ..self.context.clone()
        };
        let alike = !self.changes_verdicts() && (&was.bridges, &was.forwards) == (&is.bridges, &is.forwards);
        let mut changes = Vec::new();
        // SSH works now, so there is nothing to gain; what is not safe afterwards is compared.
        let compared = |(_, after): &&(SshPath, SshVerdict)| all || after.summary() != SshSummary::Safe;
        if let Some((path, after)) = ssh.filter(|_| !alike || all).filter(compared) {
            let before = ssh_lockout(&self.before, &self.context, path);
            changes.extend(impact::changed_ssh((path.src, path.dport), [&before, after], all));
        }
        if !alike || all {
            changes.extend(self.remembered_flows(&context, &topology, [&was, &is], all));
            let connections = self.connections(observed);
            let open = impact::changed_connections((self.family, &context), &connections, [&was, &is], all);
            changes.extend(open);
        }
        changes.extend(self.flows_at_boot(&context, &topology, [&was, &is]));
        changes
    }

    /// The flows of guests and to listening ports. Hosts that are alike share them.
    fn remembered_flows(
        &self,
        context: &HostContext,
        topology: &HostTopology,
        sides: [&HostSide<'_>; 2],
        all: bool,
    ) -> Vec<FlowChange> {
        let compute = || impact::changed_flows((self.family, context), topology, sides, all);
        // Members of sets are no part of the digest.
        if self.knows_sets {
            return compute();
        }
        let mut digest = FlowDigest::default();
        digest.add(&(self.family, topology, &context.other_tables, all));
        for (side, save) in sides.into_iter().zip([self.live, self.predicted]) {
            digest.add(&(&side.bridges, &side.forwards, &save.incompatible));
            for (name, table) in &save.tables {
                digest.add(&(name, table.chains()));
            }
        }
        // Packets of these flows have no address of the host; only NAT asks for those.
        let has_nat = |save: &SavedTables| {
            save.tables.get("nat").is_some_and(|nat| nat.chains().iter().any(|c| !c.rules.is_empty()))
        };
        if has_nat(self.live) || has_nat(self.predicted) {
            digest.add(&(&context.addresses, &context.routes));
        }
        digest.add(&context.backend);
        impact::remembered(&digest, compute).to_vec()
    }

    /// Flows that the next boot changes, and that the plan leaves as they are until then.
    fn flows_at_boot(
        &self,
        context: &HostContext,
        topology: &HostTopology,
        [was, is]: [&HostSide<'_>; 2],
    ) -> Vec<FlowChange> {
        let boot = self.side(&self.will_be.at_boot(), &self.after, topology);
        if self.drift || (&boot.bridges, &boot.forwards) == (&is.bridges, &is.forwards) {
            return Vec::new();
        }
        let flows = |side| impact::changed_flows((self.family, context), topology, [was, side], false);
        let now = flows(is);
        let later = flows(&boot).into_iter().filter(|change| !now.contains(change));
        later
            .map(|mut change| {
                change.flow.at_boot = true;
                change
            })
            .collect()
    }

    fn side<'r>(&self, host: &HostAfter<'_>, rules: &'r Ruleset, topology: &HostTopology) -> HostSide<'r> {
        let bridges = host.bridges();
        let devices = topology.routed.iter().flat_map(|network| [&network.device, &network.uplink]);
        let devices: BTreeSet<&String> = devices.chain(&bridges).collect();
        let forwards: BTreeMap<String, (bool, String)> = devices
            .into_iter()
            .filter_map(|device| Some((device.clone(), host.forwards(self.family, device)?)))
            .collect();
        // Flows across a bridge are those of its guests, and a view of a bridge costs a look at all ports.
        let with_guests = self.bridges_with_guests(topology);
        let bridges = bridges.iter().filter(|name| with_guests.contains(name.as_str()));
        let bridges = bridges.map(|name| host.bridge_view(self.family, name)).collect();
        HostSide { rules, bridges, forwards }
    }

    /// Bridges that have ports of guests, or get them.
    fn bridges_with_guests(&self, topology: &HostTopology) -> BTreeSet<&str> {
        let links = self.observed.into_iter().flat_map(|observed| observed.links.by_name.values());
        let live = links.filter(|link| link.is_of_guest()).filter_map(|link| link.master.as_deref());
        let gets = |ports: &[String]| ports.iter().any(|port| topology.guests.contains(port));
        let declared = self.desired.bridges.values().filter(|bridge| gets(&bridge.ports));
        live.chain(declared.map(|bridge| bridge.name.as_str())).collect()
    }

    fn topology(&self, observed: &Observed) -> HostTopology {
        let links = &observed.links;
        let guests = links.by_name.values().filter(|link| link.master.is_some() && link.is_of_guest());
        let with_address = links.bridges().filter(|link| !self.networks(link).is_empty());
        HostTopology {
            guests: guests.map(|link| link.name.clone()).collect(),
            with_address: with_address.map(|link| link.name.clone()).collect(),
            routed: self.routed_networks(observed),
            listening: self.served(observed),
        }
    }

    /// The networks in which the host has an address on a link that other machines can use.
    fn networks(&self, link: &HostLink) -> Vec<IpNet> {
        let wanted = if self.family == IpFamily::V4 { "inet" } else { "inet6" };
        let own =
            link.addresses.iter().filter(|a| a.family == wanted && a.scope != "link" && a.scope != "host");
        own.filter_map(|a| format!("{}/{}", a.local, a.prefix).parse().ok()).collect()
    }

    /// Networks with no ports but those of guests: nothing but the host can route for them.
    fn routed_networks(&self, observed: &Observed) -> Vec<RoutedNetwork> {
        let links = &observed.links;
        let v6 = self.family == IpFamily::V6;
        let mut default =
            links.routes.iter().filter(|route| route.is_default() && (route.dst == "::/0") == v6);
        let Some(uplink) = default.find_map(|route| route.hops.first()).map(|hop| hop.dev.clone()) else {
            return Vec::new();
        };
        let routed = |link: &&HostLink| {
            let tap = link.linkinfo.kind.as_deref() == Some("tun") && link.master.is_none();
            (link.is_bridge() && links.ports(&link.name).all(HostLink::is_of_guest) || tap)
                && link.name != uplink
        };
        let networks = links.by_name.values().filter(routed).filter_map(|link| {
            let network = self.networks(link).first().copied()?;
            let guest = network.hosts().find(|address| *address != network.addr())?;
            Some(RoutedNetwork { device: link.name.clone(), uplink: uplink.clone(), guest })
        });
        networks.collect()
    }

    /// Open connections with other machines, SSH of the controller left out.
    fn connections(&self, observed: &Observed) -> BTreeSet<OpenConnection> {
        let listening: BTreeSet<(u16, bool)> =
            observed.sockets.iter().filter(|s| s.peer.is_none()).map(|s| (s.port, s.tcp)).collect();
        let open = |socket: &HostSocket| self.open_connection(socket, observed, &listening);
        observed.sockets.iter().filter_map(open).collect()
    }

    /// What decides, in the words of the inventory, and where it was declared.
    fn place(&self, decider: &FlowDecider) -> (Option<String>, Option<Origin>) {
        let key = |path: &str| {
            let value = self.will_be.key(path).map(|(value, _)| value);
            let name = SysctlKey::parse(path).map_or_else(|_| path.to_owned(), |key| key.to_string());
            let text = match value {
                Some(value) => format!("{name} = {value}"),
                None => format!("{name}, which is absent"),
            };
            (Some(text), self.key_origin(path))
        };
        match decider {
            FlowDecider::Nothing => (None, None),
            FlowDecider::Forwarding(path) => key(path),
            FlowDecider::Bypass(bridge) => match self.will_be.key(global_knob(self.family)) {
                Some(_) => key(global_knob(self.family)),
                None => (Some(format!("{} of {bridge} is 0", own_knob(self.family))), None),
            },
            FlowDecider::Rule(step) => {
                let text = match step.index {
                    _ if step.chain.is_empty() => step.to_string(),
                    Some(index) => format!("{}/{} rule {index}", step.table, plain(&step.chain)),
                    None => format!("{}/{} {}", step.table, plain(&step.chain), step.text),
                };
                (Some(text), self.origin_of(step))
            }
        }
    }
}
