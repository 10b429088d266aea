//! A bridge that is declared no more: what we added goes, the bridge itself only if we made it and
//! nobody else uses it.

use super::addresses::{addresses, restore_address, tail};
use super::{BridgePlan, Owned};
use crate::observe::{Link, Observed, Route};
use crate::plan::{Action, Change, Diff};
use crate::problem::Warning;
use crate::resource::Kind;
use ipnet::IpNet;
use std::collections::BTreeSet;

/// The lines of one bridge's removal.
struct Removal<'a> {
    name: &'a str,
    link: &'a Link,
    owned: &'a Owned,
    plan: &'a mut BridgePlan,
    old: Vec<String>,
    back: Vec<String>,
}

pub(super) fn plan(name: &str, owned: &Owned, observed: &Observed, plan: &mut BridgePlan) {
    // Also where the bridge is gone already: what boots has to change.
    let gone = Link { name: name.to_owned(), ..Link::default() };
    let there = observed.links.by_name.get(name);
    let link = there.unwrap_or(&gone);
    let (mut old, back) = (Vec::new(), Vec::new());
    old.extend(owned.files.keys().map(|path| format!("file {path}")));
    if there.is_none() && old.is_empty() {
        return;
    }
    let mut removal = Removal { name, link, owned, plan, old, back };
    if there.is_some() {
        removal.addresses_and_ports(observed);
        removal.attributes();
        removal.bridge(observed);
    }
    let Removal { old, back, plan, .. } = removal;
    if old.is_empty() {
        return;
    }
    plan.back.extend(back);
    plan.devices.insert(name.to_owned());
    plan.devices.extend(owned.ports.iter().cloned());
    plan.changes.push(Change {
        kind: Kind::Bridge,
        resource: name.to_owned(),
        action: Action::Remove,
        diff: Diff::of(&old, &[]),
        origin: Vec::new(),
        risks: Vec::new(),
    });
}

impl Removal<'_> {
    fn addresses_and_ports(&mut self, observed: &Observed) {
        let (name, owned, links) = (self.name, self.owned, &observed.links);
        let live: BTreeSet<IpNet> = addresses(self.link).collect();
        let routes: Vec<&Route> = links.routes.iter().filter(|r| r.by(name)).collect();
        for gateway in &owned.gateways {
            self.plan.forward.push(format!("route del default via {gateway} dev {name}"));
            self.old.push(format!("gateway {gateway}"));
        }
        for address in owned.addresses.keys().filter(|a| live.contains(a)) {
            self.plan.forward.push(format!("addr del {address} dev {name}"));
            self.old.push(format!("address {address}"));
            self.back.push(restore_address(Some(self.link), address, name));
        }
        for port in &owned.ports {
            if links.by_name.get(port).is_some_and(|l| l.master.as_deref() == Some(name)) {
                self.plan.forward.push(format!("link set dev {port} nomaster"));
                self.old.push(format!("port {port}"));
                self.back.push(format!("link set dev {port} master {name}"));
            }
        }
        for (address, from) in owned.addresses.iter().filter(|(a, _)| live.contains(a)) {
            if let Some(port) = from {
                self.plan.forward.push(format!("addr replace {address} dev {port}{}", tail(address)));
                self.back.insert(0, format!("addr del {address} dev {port}"));
            }
        }
        // Routes go back to the port that gives its addresses back.
        if let Some(port) = owned.addresses.values().flatten().next() {
            let to_port = |dev| if dev == name { port.as_str() } else { dev };
            self.plan.forward.extend(routes.iter().map(|route| route.line(to_port)));
        }
        self.back.extend(routes.iter().map(|route| route.line(|dev| dev)));
    }

    fn attributes(&mut self) {
        let (name, owned) = (self.name, self.owned);
        for (attribute, value) in &owned.attributes {
            let line = match attribute.split_once(' ') {
                Some((port, "mtu")) => format!("link set dev {port} mtu {value}"),
                Some(_) => continue,
                None => match attribute.as_str() {
                    "mtu" => format!("link set dev {name} mtu {value}"),
                    "mac" => format!("link set dev {name} address {value}"),
                    other => format!("link set dev {name} type bridge {other} {value}"),
                },
            };
            if !owned.created || attribute.contains(' ') {
                self.plan.forward.push(line);
                self.old.push(attribute.clone());
            }
        }
    }

    fn bridge(&mut self, observed: &Observed) {
        let (name, owned) = (self.name, self.owned);
        let ports = observed.links.ports(name).map(|p| p.name.as_str());
        let foreign: Vec<&str> = ports.filter(|p| !owned.ports.contains(*p)).collect();
        if owned.created && foreign.is_empty() {
            self.plan.forward.push(format!("link del dev {name}"));
            self.old.push("the bridge itself".to_owned());
            let mac = self.link.mac.clone().unwrap_or_default();
            self.back.insert(0, format!("link set dev {name} up"));
            self.back.insert(0, format!("link set dev {name} address {mac}"));
            self.back.insert(0, format!("link add name {name} type bridge stp_state 0 forward_delay 0"));
        } else if owned.created {
            self.plan.warnings.push(Warning {
                code: "bridge-in-use",
                message: format!("bridge {name} stays, because {} hangs on it", foreign.join(", ")),
                origin: None,
            });
        }
    }
}
