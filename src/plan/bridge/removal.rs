//! A bridge that is declared no more: what we added goes, the bridge itself only if we made it and
//! nobody else uses it.

use super::addresses::{addresses, lines as address_lines, restore_address, tail};
use super::attributes::ages_fast;
use super::port_moves::PortMoves;
use super::routes::displaced_by;
use super::vlans::{fresh, is_port, lines, live_or_fresh};
use super::{BridgeOwnership, BridgePlan, port_attributes};
use crate::host_state::{HostLink, HostLinks, Observed, StaticRoute};
use crate::plan::{Change, ChangeAction, Diff};
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::ResourceKind;
use crate::resource::bridge::{BridgeAttribute, LinkAddress};
use std::collections::BTreeSet;

/// What a bridge that is made again has to have as it had it.
const ATTRIBUTES: [&str; 14] = [
    "stp_state",
    "forward_delay",
    "ageing_time",
    "vlan_default_pvid",
    "vlan_filtering",
    "mcast_snooping",
    "mcast_querier",
    "hello_time",
    "max_age",
    "priority",
    "group_fwd_mask",
    "nf_call_iptables",
    "nf_call_ip6tables",
    "nf_call_arptables",
];

/// The lines of one bridge's removal.
struct BridgeRemoval<'a> {
    name: &'a str,
    link: &'a HostLink,
    owned: &'a BridgeOwnership,
    plan: &'a mut BridgePlan,
    old: Vec<String>,
    back: Vec<String>,
}

pub(super) fn plan(
    name: &str,
    owned: &BridgeOwnership,
    observed: &Observed,
    port_moves: &PortMoves<'_>,
    plan: &mut BridgePlan,
) {
    // Also where the bridge is gone already: what boots has to change.
    let gone = HostLink { name: name.to_owned(), ..HostLink::default() };
    let there = observed.links.by_name.get(name);
    let link = there.unwrap_or(&gone);
    let (mut old, back) = (Vec::new(), Vec::new());
    old.extend(owned.files.keys().map(|path| format!("file {path}")));
    if there.is_none() && old.is_empty() {
        return;
    }
    let mut removal = BridgeRemoval { name, link, owned, plan, old, back };
    if there.is_some() {
        removal.addresses_and_ports(observed, port_moves);
        removal.attributes(&observed.links);
        removal.vlans(&observed.links);
        removal.bridge(observed);
    }
    let BridgeRemoval { old, back, plan, .. } = removal;
    if old.is_empty() {
        return;
    }
    plan.back.extend(back);
    plan.devices.insert(name.to_owned());
    plan.devices.extend(owned.ports.iter().cloned());
    plan.changes.push(Change {
        kind: ResourceKind::Bridge,
        resource: name.to_owned(),
        action: ChangeAction::Remove,
        diff: Diff::compute(&old, &[]),
        origin: Vec::new(),
        risks: Vec::new(),
    });
}

impl BridgeRemoval<'_> {
    fn addresses_and_ports(&mut self, observed: &Observed, port_moves: &PortMoves<'_>) {
        let (name, owned, links) = (self.name, self.owned, &observed.links);
        let routes: Vec<&StaticRoute> = links.routes.iter().filter(|r| r.by(name)).collect();
        // Before the kernel forgets them with the last address.
        let neighbours = links.neighbours.iter().filter(|neighbour| neighbour.dev == name && !owned.created);
        let ours = neighbours.filter(|neighbour| owned.routes.contains(&neighbour.line(name)));
        self.plan.forward.extend(ours.map(|neighbour| neighbour.gone(name)));
        let mut displaced = owned.displaced.clone();
        let mut again = Vec::new();
        for gateway in &owned.gateways {
            self.plan.forward.push(format!("route del default via {gateway} dev {name}"));
            self.old.push(format!("gateway {gateway}"));
            again.extend(displaced_by(&mut displaced, gateway));
        }
        let live: BTreeSet<LinkAddress> = addresses(self.link).collect();
        let mut ours: Vec<(&LinkAddress, &Option<String>)> =
            owned.addresses.iter().filter(|(address, _)| live.contains(address)).collect();
        ours.sort_by_key(|(address, _)| owned.taken.get(address).map(|taken| taken.place));
        // The last one first: a secondary address would go with its primary one.
        for (address, _) in ours.iter().rev() {
            self.plan.forward.push(format!("addr del {address} dev {name}"));
            self.old.push(format!("address {address}"));
        }
        for (address, _) in &ours {
            self.back.extend(restore_address(Some(self.link), address, name));
        }
        if let Some(port) = owned.addresses.values().flatten().next() {
            let hops = links.next_hops.iter().filter(|hop| hop.dev == name);
            self.plan.forward.extend(hops.map(|hop| hop.onlink_line(port)));
        }
        for port in &owned.ports {
            if links.by_name.get(port).is_some_and(|l| l.master.as_deref() == Some(name)) {
                self.plan.forward.extend(port_moves.leave_lines(port, owned));
                self.old.push(format!("port {port}"));
                self.back.push(format!("link set dev {port} master {name}"));
            }
        }
        for (address, from) in &ours {
            if let Some(port) = from {
                let taken = owned.taken.get(address);
                let tail = taken.map_or_else(|| tail(address), |taken| taken.there.clone());
                self.plan.forward.extend(address_lines("replace", address, port, &tail));
                self.back.insert(0, format!("addr del {address} dev {port}"));
                // NetworkManager may have made one of its own there, which outlives the address.
                if address.is_ipv6() {
                    self.back.push(format!("route del {} dev {port}", address.network()));
                }
            }
        }
        self.routes(&routes, links);
        self.plan.forward.extend(again);
        self.back.extend(routes.iter().map(|route| route.line(|dev| dev)));
    }

    /// Routes, next hops and neighbours go back to the port that gives its addresses back, and are there what they were.
    fn routes(&mut self, routes: &[&StaticRoute], links: &HostLinks) {
        let (name, owned) = (self.name, self.owned);
        let Some(port) = owned.addresses.values().flatten().next() else { return };
        let before: Vec<(&String, &String)> = owned.routes.iter().zip(&owned.routes_there).collect();
        let mut left = before.clone();
        for hop in links.next_hops.iter().filter(|hop| hop.dev == name) {
            self.plan.forward.push(hop.line(port));
            self.back.push(hop.line(name));
            left.retain(|(here, _)| **here != hop.line(name));
        }
        let to_port = |dev| if dev == name { port.as_str() } else { dev };
        // One that was made anew at boot may differ from ours in its words.
        let alike = |line: &str, route: &StaticRoute| {
            let start = StaticRoute { words: Vec::new(), ..route.clone() }.line(|dev| dev);
            line == route.line(|dev| dev)
                || line.replace(" onlink", "").starts_with(&start.replace(" onlink", ""))
                    && StaticRoute::metric_of(line) == route.metric()
        };
        for route in routes.iter().filter(|route| !route.of_address && route.next_hop.is_none()) {
            let known = left.iter().position(|(here, _)| alike(here, route)).map(|at| left.remove(at));
            self.plan.forward.push(known.map_or_else(|| route.line(to_port), |(_, there)| there.clone()));
        }
        // By other links, from an address that moves: the kernel drops them with it.
        let sends = left.iter().filter(|(here, there)| here == there && here.starts_with("route "));
        self.plan.forward.extend(sends.map(|(here, _)| (*here).clone()));
        for neighbour in links.neighbours.iter().filter(|neighbour| neighbour.dev == name) {
            if owned.routes.contains(&neighbour.line(name)) {
                self.plan.forward.push(neighbour.line(port));
            }
        }
    }

    fn attributes(&mut self, links: &HostLinks) {
        let (name, owned) = (self.name, self.owned);
        for (attribute, before) in &owned.attributes {
            if let Some((port, known)) = port_attributes::labelled(attribute) {
                self.port_attribute(port, known, before, links);
                continue;
            }
            let (device, word) = match attribute.split_once(' ') {
                Some((port, "mtu")) => (port, "mtu"),
                Some(_) => continue,
                None => (name, attribute.as_str()),
            };
            if owned.created && device == name {
                continue;
            }
            let line = |value: &str| match word {
                "mtu" => format!("link set dev {device} mtu {value}"),
                "mac" => format!("link set dev {device} address {value}"),
                other => format!("link set dev {device} type bridge {other} {value}"),
            };
            self.plan.forward.push(line(before));
            self.old.push(attribute.clone());
            let live = links.by_name.get(device).and_then(|link| match word {
                "mtu" => Some(link.mtu.to_string()),
                "mac" => link.mac.clone(),
                "ageing_time" if ages_fast(link) => {
                    let start = line("");
                    owned.boot.iter().find_map(|set| set.strip_prefix(&start)).map(str::to_owned)
                }
                other => link.number(other).map(|value| value.to_string()),
            });
            self.back.extend(live.map(|value| line(&value)));
        }
    }

    /// A port that stays one gets back what it had; one that leaves loses it anyway.
    fn port_attribute(&mut self, port: &str, attribute: &BridgeAttribute, before: &str, links: &HostLinks) {
        if self.owned.ports.contains(port) || self.owned.created || !is_port(links, port, self.name) {
            return;
        }
        let (Ok(before), Some(link)) = (before.parse(), links.by_name.get(port)) else { return };
        self.plan.forward.push(port_attributes::line(port, attribute, before));
        self.old.push(format!("{port} {}", attribute.key));
        let live = link.port_number(attribute.word);
        self.back.extend(live.map(|value| port_attributes::line(port, attribute, value)));
    }

    /// VLANs of ports that stay become what they were; those of all that change come back on the way back.
    fn vlans(&mut self, links: &HostLinks) {
        let (name, owned) = (self.name, self.owned);
        let goes = |device: &str| owned.ports.contains(device) || owned.created;
        for (device, before) in &owned.vlans {
            let live = live_or_fresh(links, device, name);
            if goes(device) || live == *before || device != name && !is_port(links, device, name) {
                continue;
            }
            self.plan.forward.extend(lines(name, device, &live, before));
            self.back.extend(lines(name, device, before, &live));
            self.old.push(format!("{device} vlans {live}"));
        }
        let bridge = owned.created.then_some(name);
        let ports = owned.ports.iter().map(String::as_str).filter(|port| is_port(links, port, name));
        for device in bridge.into_iter().chain(ports) {
            let live = live_or_fresh(links, device, name);
            self.back.extend(lines(name, device, &fresh(links, name), &live));
        }
    }

    fn bridge(&mut self, observed: &Observed) {
        let (name, owned) = (self.name, self.owned);
        let ports = observed.links.ports(name).map(|p| p.name.as_str());
        let unmanaged: Vec<&str> = ports.filter(|p| !owned.ports.contains(*p)).collect();
        if owned.created && unmanaged.is_empty() {
            self.plan.forward.push(format!("link del dev {name}"));
            self.old.push("the bridge itself".to_owned());
            let mac = self.link.mac.clone().unwrap_or_default();
            let set = |word: &str| {
                let value = self.link.number(word)?;
                Some(format!("link set dev {name} type bridge {word} {value}"))
            };
            self.back.splice(0..0, ATTRIBUTES.into_iter().filter_map(set));
            self.back.insert(0, format!("link set dev {name} mtu {}", self.link.mtu));
            self.back.insert(0, format!("link set dev {name} up"));
            let address = if mac.is_empty() { String::new() } else { format!(" address {mac}") };
            self.back
                .insert(0, format!("link add name {name}{address} type bridge stp_state 0 forward_delay 0"));
        } else if owned.created {
            self.plan.warnings.push(Warning::new(
                LintCode::BridgeInUse,
                WarningMessage::new(format!("bridge {name} stays"))
                    .cause(format!("{} is still attached to it", unmanaged.join(", "))),
                None,
            ));
        }
    }
}
