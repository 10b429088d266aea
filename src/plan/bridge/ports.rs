//! Which links become ports, and which must not.

use super::addresses::addresses;
use super::planner::BridgePlanner;
use super::vlans::{fresh, lines, live_or_fresh};
use super::{RefusalCause, port_attributes, unmanaged};
use crate::host_state::{HostLink, PolicyRule};
use crate::problem::{LintCode, Warning, WarningMessage};

impl BridgePlanner<'_> {
    pub(super) fn check_ports(&self) -> Result<(), RefusalCause> {
        let name = &self.bridge.name;
        for port in &self.bridge.ports {
            let Some(link) = self.links.by_name.get(port) else {
                return Err(("no-such-link", self.no_such_link(port)));
            };
            if link.is_bridge() || port == "lo" {
                return Err((
                    "unsupported",
                    format!(
                        "bridge {name}: {port} cannot be a port of a bridge; list only links that can be ports"
                    ),
                ));
            }
            let master = link.master.as_ref().filter(|master| *master != name);
            if let Some((master, who)) = master.and_then(|m| Some((m, unmanaged::maker(m, self.observed)?))) {
                return Err((
                    "unmanaged-owner",
                    format!(
                        "bridge {name}: {port} is a port of {master}, which {who} manages; remove it from \
                         `ports`, or move it with {who}"
                    ),
                ));
            }
            let is_port = link.master.as_ref() == Some(name);
            if !is_port && let Some(address) = self.leased(link) {
                return Err((
                    "unmanaged-owner",
                    format!(
                        "bridge {name}: as a port {port} would lose {address}, which came by DHCP or router \
                         advertisement; request it on the bridge in the host's network files, or make it \
                         static first"
                    ),
                ));
            }
            if self.bridge.take_addresses {
                continue;
            }
            if let Some(master) = master {
                return Err((
                    "unmanaged-owner",
                    format!(
                        "bridge {name}: {port} is a port of {master}; to move it, set `take_addresses: true`"
                    ),
                ));
            }
            let carried = addresses(link).find(|a| !self.bridge.addresses.contains(a));
            if let Some(address) = carried {
                return Err((
                    "unmanaged-owner",
                    format!(
                        "bridge {name}: as a port {port} would lose {address}; declare the address on the \
                         bridge, or set `take_addresses: true`"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn no_such_link(&self, port: &str) -> String {
        let links: Vec<_> =
            self.links.by_name.keys().filter(|name| *name != "lo").map(String::as_str).collect();
        format!(
            "bridge {}: the host has no link {port} ({}); links of the host: {}",
            self.bridge.name,
            self.bridge.origin,
            if links.len() > 12 { format!("{}, …", links[..12].join(", ")) } else { links.join(", ") }
        )
    }

    /// An address of a link that somebody keeps asking for: one by DHCP, or the one SSH comes by. Those
    /// that router advertisements give to every link on the way are no reason to keep off it.
    fn leased<'a>(&self, link: &'a HostLink) -> Option<&'a str> {
        let ssh = self.observed.facts.ssh.as_ref().map(|ssh| ssh.server.to_string());
        let mut dynamic = link.addresses.iter().filter(|a| a.dynamic && a.scope != "link");
        dynamic.find(|a| a.family == "inet" || Some(&a.local) == ssh.as_ref()).map(|a| a.local.as_str())
    }

    /// A port leaves the bridge it is on, and loses its VLANs by that: on the way back it has them again.
    fn leaves(&mut self, port: &str, master: String) {
        let (new, mut live) = (fresh(self.links, &master), live_or_fresh(self.links, port, &master));
        let filters = |bridge: &String| self.links.by_name.get(bridge)?.number("vlan_default_pvid");
        if filters(&master).is_none() {
            // A kernel without VLANs shows none.
            live.clone_from(&new);
        }
        // Those of a port whose VLANs are stated come back by what states them.
        if !self.bridge.vlans.iter().any(|vlan| vlan.port == *port) {
            self.back.extend(lines(&master, port, &new, &live));
        }
        if self.port_moves.is_unmanaged(&master) {
            self.old.push(format!("port {port} of {master}"));
            let attributes = self.links.by_name.get(port).map(port_attributes::lines).unwrap_or_default();
            if !attributes.is_empty() {
                self.owned.attributes_there.entry(port.to_owned()).or_insert(attributes);
            }
            if live != new {
                self.owned.vlans_there.entry(port.to_owned()).or_insert(live);
            }
            self.owned.masters.entry(port.to_owned()).or_insert(master);
        }
    }

    /// A bridge of ours that was made without ports has the MAC that the kernel gave it, and would change it for that
    /// of its first port. Who knows it by its address goes on to know it, now and after a boot.
    fn pin_mac(&mut self) {
        let (bridge, links) = (self.bridge, self.links);
        let pinned = bridge.mac.is_some() || self.owned.boot.iter().any(|line| line.contains(" address "));
        let mac = links.by_name.get(&bridge.name).and_then(|link| link.mac.as_ref());
        let Some(mac) = mac.filter(|_| self.owned.created && !pinned) else { return };
        let joins =
            |port: &String| links.by_name.get(port).is_some_and(|l| l.master.as_ref() != Some(&bridge.name));
        if bridge.ports.iter().any(joins) {
            self.plan.forward.push(format!("link set dev {} address {mac}", bridge.name));
            self.wanted(format!("mac {mac}   (as observed: it would change to that of the port)"));
        }
    }

    /// Rules of policy routing that ask for a port: what comes in by it comes in by the bridge.
    pub(super) fn rules_by_port(&mut self) {
        let (bridge, links) = (self.bridge, self.links);
        for port in &bridge.ports {
            let beside = |rule: &&PolicyRule| {
                let same = rule.for_link(port, &bridge.name);
                links.rules.iter().any(|other| {
                    other.comes_in_by(&bridge.name) && other.for_link(port, &bridge.name) == same
                })
            };
            let by_port = links.rules.iter().filter(|rule| rule.comes_in_by(port));
            let rules = by_port.filter(|rule| !beside(rule)).map(|rule| {
                Warning::new(
                    LintCode::RuleByPort,
                    WarningMessage::new(format!(
                        "bridge {}: the policy rule {} `{}` matches packets that arrive on \
                         {port}, which as a port arrive on {}",
                        bridge.name,
                        rule.preference,
                        rule.words.join(" "),
                        bridge.name
                    ))
                    .fix(format!(
                        "before the apply, add `{}` on the host and in its network files",
                        rule.for_link(port, &bridge.name)
                    )),
                    Some(bridge.origin.clone()),
                )
            });
            self.plan.warnings.extend(rules);
        }
    }

    pub(super) fn ports(&mut self) {
        let name = self.bridge.name.clone();
        self.pin_mac();
        for port in &self.bridge.ports {
            let link = self.links.by_name.get(port);
            let master = link.and_then(|l| l.master.clone());
            let holds = master.as_deref() == Some(&name);
            self.step(format!("link set dev {port} master {name}"), holds);
            self.step(format!("link set dev {port} up"), link.is_some_and(HostLink::is_up));
            if holds {
                self.old.push(format!("port {port}"));
            } else {
                self.back.push(master.as_ref().map_or_else(
                    || format!("link set dev {port} nomaster"),
                    |m| format!("link set dev {port} master {m}"),
                ));
                if let Some(master) = master {
                    self.leaves(port, master);
                }
                self.owned.ports.insert(port.clone());
            }
            self.wanted(format!("port {port}"));
        }
        let gone: Vec<String> =
            self.owned.ports.iter().filter(|p| !self.bridge.ports.contains(p)).cloned().collect();
        for port in gone {
            self.owned.ports.remove(&port);
            if self.links.by_name.get(&port).is_some_and(|l| l.master.as_deref() == Some(&name)) {
                self.plan.forward.extend(self.port_moves.leave_lines(&port, &self.owned));
                self.back.push(format!("link set dev {port} master {name}"));
                self.old.push(format!("port {port}"));
            }
            self.owned.masters.remove(&port);
            self.owned.vlans_there.remove(&port);
            self.owned.attributes_there.remove(&port);
        }
    }
}
