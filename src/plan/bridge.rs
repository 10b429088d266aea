//! Bridges: what is declared is ensured, what we added and is declared no more goes, everything
//! else stays. A bridge that exists is never taken down or made anew: guests' taps would lose it.

use super::diff::Wanted;
use super::{Action, Change, Diff, Record, Risk};
use crate::desired::Desired;
use crate::observe::{Link, Links, Observed};
use crate::problem::Warning;
use crate::resource::Kind;
use crate::resource::bridge::Bridge;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What kvmfw added to a bridge, and what stood there before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// We made the bridge.
    pub created: bool,
    /// Ports we enslaved.
    pub ports: BTreeSet<String>,
    /// Addresses we added, with the port they were taken from.
    pub addresses: BTreeMap<IpNet, Option<String>>,
    /// Gateways we added.
    pub gateways: BTreeSet<IpAddr>,
    /// Routes that we moved from a port to the bridge, as lines for `ip -batch`: at boot they have to
    /// move again.
    #[serde(default)]
    pub routes: BTreeSet<String>,
    /// Attributes we set, with the value before: `mtu` → `1500`, `eth1 mtu` → `1500`.
    pub attributes: BTreeMap<String, String>,
}

/// What a plan does about bridges. The three texts are for `ip -batch`.
#[derive(Default)]
pub(super) struct BridgePlan {
    pub changes: Vec<Change>,
    pub warnings: Vec<Warning>,
    /// To the desired state, step by step.
    pub forward: Vec<String>,
    /// Back to what was observed, from wherever the way forward stopped.
    pub back: Vec<String>,
    /// To the desired state at boot, from wherever the distribution left it.
    pub boot: Vec<String>,
    pub owned: BTreeMap<String, Owned>,
    /// Links that are touched.
    pub devices: BTreeSet<String>,
    /// Why it cannot be done: reason and sentence.
    pub refusal: Option<(&'static str, String)>,
}

pub(super) fn plan(desired: &Desired, observed: &Observed, record: &Record) -> BridgePlan {
    let mut plan = BridgePlan::default();
    for bridge in desired.bridges.values().filter(|b| b.manage) {
        let owned = record.owned.get(&bridge.name).cloned().unwrap_or_default();
        let mut work = Work { bridge, links: &observed.links, observed, plan: &mut plan, owned };
        if let Err(refusal) = work.declared() {
            plan.refusal.get_or_insert(refusal);
        }
    }
    for (name, owned) in &record.owned {
        if !desired.bridges.get(name).is_some_and(|b| b.manage) {
            removed(name, owned, observed, &mut plan);
        }
    }
    for lines in [&mut plan.forward, &mut plan.back, &mut plan.boot] {
        stp_in_order(lines);
    }
    plan
}

/// The kernel takes a forward delay below 2 s only while STP is off: so off comes before the delay,
/// and on after it.
fn stp_in_order(lines: &mut Vec<String>) {
    for at in 0..lines.len() {
        let Some((bridge, state)) = lines[at].split_once(" stp_state ") else { continue };
        let delay = format!("{bridge} forward_delay ");
        let to = match state {
            "0" => lines[..at].iter().position(|l| l.starts_with(&delay)),
            _ => lines[at..].iter().rposition(|l| l.starts_with(&delay)).map(|after| at + after),
        };
        if let Some(to) = to {
            let line = lines.remove(at);
            lines.insert(to, line);
        }
    }
}

struct Work<'a> {
    bridge: &'a Bridge,
    links: &'a Links,
    observed: &'a Observed,
    plan: &'a mut BridgePlan,
    owned: Owned,
}

type Refused = (&'static str, String);

impl Work<'_> {
    fn declared(&mut self) -> Result<(), Refused> {
        let name = &self.bridge.name;
        if !self.bridge.vlans.is_empty() {
            return Err((
                "unsupported",
                format!(
                    "bridge {name}: port VLANs are not applied by this version; leave them to the distribution"
                ),
            ));
        }
        let there = self.links.by_name.get(name);
        if there.is_some_and(|l| !l.is_bridge()) {
            return Err(("foreign_owner", format!("{name} exists and is no bridge")));
        }
        self.check_ports()?;
        let mut old: Vec<String> = Vec::new();
        let mut new: Vec<Wanted> = Vec::new();
        let before = self.plan.forward.len();
        let mut back = Vec::new();
        match there {
            None => self.create(),
            // It is there now and is not after a boot: every generation makes it anew.
            Some(link) if self.owned.created => self.create_at_boot(link),
            Some(_) => {}
        }
        self.attributes(there, &mut old, &mut new, &mut back);
        self.step(
            format!("link set dev {name} up"),
            there.is_some_and(|l| l.flags.iter().any(|f| f == "UP")),
        );
        self.ports(&mut old, &mut new, &mut back);
        self.addresses(there, &mut old, &mut new, &mut back);
        self.gateways(&mut old, &mut new, &mut back);
        if there.is_none() {
            back.push(format!("link del dev {name}"));
            self.owned.created = true;
        }
        back.extend(self.routes_back());
        let changes = self.plan.forward.len() > before;
        self.plan.owned.insert(name.clone(), self.owned.clone());
        if !changes {
            return Ok(());
        }
        self.plan.back.extend(back);
        self.plan.devices.insert(name.clone());
        self.plan.devices.extend(self.bridge.ports.iter().cloned());
        let mut diff = Diff::of(&old, &new);
        if diff.is_empty() {
            let line = super::DiffLine {
                sign: '+',
                text: "up".to_owned(),
                origin: Some(self.bridge.origin.clone()),
            };
            diff.lines.push(line);
        }
        let mut risks = Vec::new();
        if self.carries_ssh() {
            risks.push(Risk::ManagementPath);
        }
        if there.is_some() && (self.bridge.mac.is_some() || self.bridge.mtu.is_some()) {
            // A pinned MAC and a set MTU stay set: the bridge follows its ports no more.
            risks.push(Risk::OneWay);
        }
        self.plan.changes.push(Change {
            kind: Kind::Bridge,
            resource: name.clone(),
            action: if there.is_none() { Action::Add } else { Action::Change },
            diff,
            origin: vec![self.bridge.origin.clone()],
            risks,
        });
        Ok(())
    }

    /// A line for the way forward unless it is so already; and always one for the boot.
    fn step(&mut self, line: String, holds: bool) {
        if !holds {
            self.plan.forward.push(line.clone());
        }
        self.plan.boot.push(line);
    }

    fn check_ports(&self) -> Result<(), Refused> {
        let name = &self.bridge.name;
        for port in &self.bridge.ports {
            let Some(link) = self.links.by_name.get(port) else {
                return Err(("no_such_link", format!("bridge {name}: there is no link {port} on the host")));
            };
            if self.bridge.take_addresses {
                continue;
            }
            if let Some(master) = link.master.as_ref().filter(|m| *m != name) {
                return Err((
                    "foreign_owner",
                    format!(
                        "bridge {name}: {port} is a port of {master}; `take_addresses: true` would move it"
                    ),
                ));
            }
            let carried = addresses(link).find(|a| !self.bridge.addresses.contains(a));
            if let Some(address) = carried {
                return Err((
                    "foreign_owner",
                    format!(
                        "bridge {name}: {port} carries {address}, which as a port it would lose; declare it on the \
                         bridge, or `take_addresses: true`"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn create_at_boot(&mut self, link: &Link) {
        let name = &self.bridge.name;
        self.plan.boot.push(format!("link add name {name} type bridge stp_state 0 forward_delay 0"));
        let of_port = if self.bridge.ports.is_empty() { None } else { link.mac.clone() };
        if let Some(mac) = self.bridge.mac.clone().or(of_port) {
            self.plan.boot.push(format!("link set dev {name} address {mac}"));
        }
    }

    fn create(&mut self) {
        let name = &self.bridge.name;
        self.step(format!("link add name {name} type bridge stp_state 0 forward_delay 0"), false);
        // A bridge without a MAC of its own takes the lowest of its ports, and changes it with them.
        let of_port = self.bridge.ports.first().and_then(|p| self.links.by_name.get(p)?.mac.clone());
        if let Some(mac) = self.bridge.mac.clone().or(of_port) {
            self.step(format!("link set dev {name} address {mac}"), false);
        }
    }

    fn attributes(
        &mut self,
        there: Option<&Link>,
        old: &mut Vec<String>,
        new: &mut Vec<Wanted>,
        back: &mut Vec<String>,
    ) {
        let bridge = self.bridge;
        let flag = |value: Option<bool>| value.map(|v| i64::from(v).to_string());
        let number = |attribute: &str| there.and_then(|l| l.number(attribute));
        let list = [
            ("stp_state", flag(bridge.stp)),
            ("forward_delay", bridge.forward_delay.map(|v| (v * 100).to_string())),
            ("ageing_time", bridge.ageing.map(|v| (v * 100).to_string())),
            ("vlan_filtering", flag(bridge.vlan_filtering)),
            ("nf_call_iptables", flag(bridge.nf_call_iptables)),
            ("nf_call_ip6tables", flag(bridge.nf_call_ip6tables)),
            ("nf_call_arptables", flag(bridge.nf_call_arptables)),
        ];
        for (attribute, wanted) in list {
            let live = number(attribute).map(|v| v.to_string());
            let fresh = match attribute {
                "stp_state" | "forward_delay" => Some("0".to_owned()),
                _ => None,
            };
            let set = |value: &str| format!("link set dev {} type bridge {attribute} {value}", bridge.name);
            let Some(wanted) = wanted else {
                // STP raises a delay that is too short for it, and leaves it so.
                let raised = attribute == "forward_delay" && bridge.stp == Some(true);
                if let (true, Some(live)) = (raised, &live) {
                    if number("stp_state") == Some(0) {
                        back.push(set(live));
                        self.owned.attributes.entry(attribute.to_owned()).or_insert_with(|| live.clone());
                    }
                    continue;
                }
                self.attribute_back(attribute, attribute, live.as_ref(), &set, old, new, back);
                continue;
            };
            let now = if there.is_none() { fresh } else { live.clone() };
            let holds = now.as_ref() == Some(&wanted);
            self.step(set(&wanted), holds);
            if let Some(live) = &live {
                old.push(format!("{attribute} {live}"));
                if !holds {
                    back.push(set(live));
                    self.owned.attributes.entry(attribute.to_owned()).or_insert_with(|| live.clone());
                }
            }
            new.push((format!("{attribute} {wanted}"), Some(bridge.origin.clone())));
        }
        self.link_attribute("mtu", &bridge.name, bridge.mtu.map(|m| m.to_string()), old, new, back);
        for port in &bridge.ports {
            self.link_attribute("mtu", port, bridge.mtu.map(|m| m.to_string()), old, new, back);
        }
        if there.is_some() {
            self.link_attribute("address", &bridge.name, bridge.mac.clone(), old, new, back);
        }
    }

    /// MTU or MAC of the bridge or one of its ports.
    fn link_attribute(
        &mut self,
        attribute: &str,
        link: &str,
        wanted: Option<String>,
        old: &mut Vec<String>,
        new: &mut Vec<Wanted>,
        back: &mut Vec<String>,
    ) {
        let word = if attribute == "address" { "mac" } else { attribute };
        let label = if *link == self.bridge.name { word.to_owned() } else { format!("{link} {word}") };
        let live = self.links.by_name.get(link).and_then(|l| match attribute {
            "mtu" => Some(l.mtu.to_string()),
            _ => l.mac.clone(),
        });
        let set = |value: &str| format!("link set dev {link} {attribute} {value}");
        let Some(wanted) = wanted else {
            self.attribute_back(&label, &label, live.as_ref(), &set, old, new, back);
            return;
        };
        let holds = live.as_ref() == Some(&wanted);
        self.step(set(&wanted), holds);
        if let Some(live) = &live {
            old.push(format!("{label} {live}"));
            if !holds {
                back.push(set(live));
                self.owned.attributes.entry(label.clone()).or_insert_with(|| live.clone());
            }
        }
        new.push((format!("{label} {wanted}"), Some(self.bridge.origin.clone())));
    }

    /// An attribute that we set once and that is declared no more.
    #[expect(clippy::too_many_arguments, reason = "three lists that grow together")]
    fn attribute_back(
        &mut self,
        key: &str,
        label: &str,
        live: Option<&String>,
        set: &dyn Fn(&str) -> String,
        old: &mut Vec<String>,
        new: &mut Vec<Wanted>,
        back: &mut Vec<String>,
    ) {
        let (Some(original), Some(live)) = (self.owned.attributes.remove(key), live) else { return };
        if *live != original {
            self.plan.forward.push(set(&original));
            back.push(set(live));
            old.push(format!("{label} {live}"));
            new.push((format!("{label} {original}   (as before)"), None));
        }
    }

    fn ports(&mut self, old: &mut Vec<String>, new: &mut Vec<Wanted>, back: &mut Vec<String>) {
        let name = self.bridge.name.clone();
        for port in &self.bridge.ports {
            let link = self.links.by_name.get(port);
            let master = link.and_then(|l| l.master.clone());
            let holds = master.as_deref() == Some(&name);
            let up = link.is_some_and(|l| l.flags.iter().any(|f| f == "UP"));
            self.step(format!("link set dev {port} master {name}"), holds);
            self.step(format!("link set dev {port} up"), up);
            if holds {
                old.push(format!("port {port}"));
            } else {
                back.push(master.map_or_else(
                    || format!("link set dev {port} nomaster"),
                    |m| format!("link set dev {port} master {m}"),
                ));
                self.owned.ports.insert(port.clone());
            }
            new.push((format!("port {port}"), Some(self.bridge.origin.clone())));
        }
        let gone: Vec<String> =
            self.owned.ports.iter().filter(|p| !self.bridge.ports.contains(p)).cloned().collect();
        for port in gone {
            self.owned.ports.remove(&port);
            if self.links.by_name.get(&port).is_some_and(|l| l.master.as_deref() == Some(&name)) {
                self.plan.forward.push(format!("link set dev {port} nomaster"));
                back.push(format!("link set dev {port} master {name}"));
                old.push(format!("port {port}"));
            }
        }
    }

    fn addresses(
        &mut self,
        there: Option<&Link>,
        old: &mut Vec<String>,
        new: &mut Vec<Wanted>,
        back: &mut Vec<String>,
    ) {
        let name = self.bridge.name.clone();
        let live: BTreeSet<IpNet> = there.into_iter().flat_map(addresses).collect();
        let mut wanted: Vec<(IpNet, Option<String>)> =
            self.bridge.addresses.iter().map(|a| (*a, self.carrier(a))).collect();
        if self.bridge.take_addresses {
            for port in &self.bridge.ports {
                for address in self.links.by_name.get(port).into_iter().flat_map(addresses) {
                    if !wanted.iter().any(|(a, _)| *a == address) {
                        wanted.push((address, Some(port.clone())));
                    }
                }
            }
            // Taken over by an earlier apply: as good as declared for as long as they are taken.
            for (address, from) in &self.owned.addresses {
                if from.is_some() && !wanted.iter().any(|(a, _)| a == address) {
                    wanted.push((*address, from.clone()));
                }
            }
        }
        let moved_routes: Vec<String> = self.routes_of_ports();
        for (address, from) in &wanted {
            let holds = live.contains(address);
            let nodad = if address.addr().is_ipv6() { " nodad" } else { " brd +" };
            if let Some(port) = from {
                let on_port =
                    self.links.by_name.get(port).is_some_and(|l| addresses(l).any(|a| a == *address));
                self.step(format!("addr del {address} dev {port}"), !on_port);
                if on_port {
                    back.push(format!("addr replace {address} dev {port}{nodad}"));
                }
            }
            self.step(format!("addr add {address} dev {name}{nodad}"), holds);
            if holds {
                old.push(format!("address {address}"));
            } else {
                back.insert(0, format!("addr del {address} dev {name}"));
                self.owned.addresses.insert(*address, from.clone());
            }
            new.push((format!("address {address}"), Some(self.bridge.origin.clone())));
        }
        for route in moved_routes {
            self.plan.forward.push(route.clone());
            self.owned.routes.insert(route);
        }
        if !self.bridge.take_addresses && wanted.iter().all(|(_, from)| from.is_none()) {
            self.owned.routes.clear();
        }
        self.plan.boot.extend(self.owned.routes.iter().cloned());
        let gone: Vec<IpNet> =
            self.owned.addresses.keys().filter(|a| !wanted.iter().any(|(w, _)| w == *a)).copied().collect();
        for address in gone {
            let from = self.owned.addresses.remove(&address).flatten();
            if live.contains(&address) {
                self.plan.forward.push(format!("addr del {address} dev {name}"));
                if let Some(port) = from {
                    self.plan.forward.push(format!("addr replace {address} dev {port}"));
                }
                back.push(format!("addr replace {address} dev {name}"));
                old.push(format!("address {address}"));
            }
        }
    }

    /// The named port that carries an address now.
    fn carrier(&self, address: &IpNet) -> Option<String> {
        self.bridge
            .ports
            .iter()
            .find(|p| self.links.by_name.get(*p).is_some_and(|l| addresses(l).any(|a| a == *address)))
            .cloned()
    }

    /// Routes by a port that loses its addresses, as routes by the bridge.
    fn routes_of_ports(&self) -> Vec<String> {
        let ports = &self.bridge.ports;
        let all = self.links.routes4.iter().chain(&self.links.routes6);
        let loses = |dev: &str| {
            ports.iter().any(|p| p == dev)
                && (self.bridge.take_addresses
                    || self.links.by_name.get(dev).is_some_and(|l| addresses(l).next().is_some()))
        };
        all.filter(|r| r["dev"].as_str().is_some_and(loses))
            .filter_map(|r| route_line(r, &self.bridge.name))
            .collect()
    }

    /// Routes by the bridge and its ports as they are, for the way back.
    fn routes_back(&self) -> Vec<String> {
        let all = self.links.routes4.iter().chain(&self.links.routes6);
        all.filter_map(|route| {
            let dev = route["dev"].as_str()?;
            (dev == self.bridge.name || self.bridge.ports.iter().any(|p| p == dev))
                .then(|| route_line(route, dev))
                .flatten()
        })
        .collect()
    }

    fn gateways(&mut self, old: &mut Vec<String>, new: &mut Vec<Wanted>, back: &mut Vec<String>) {
        let name = self.bridge.name.clone();
        for gateway in &self.bridge.gateways {
            let routes = if gateway.is_ipv4() { &self.links.routes4 } else { &self.links.routes6 };
            let text = gateway.to_string();
            let holds = routes
                .iter()
                .any(|r| r["dst"] == "default" && r["gateway"] == text.as_str() && r["dev"] == name.as_str());
            self.step(format!("route replace default via {gateway} dev {name}"), holds);
            if holds {
                old.push(format!("gateway {gateway}"));
            } else {
                self.owned.gateways.insert(*gateway);
                back.insert(0, format!("route del default via {gateway} dev {name}"));
                // What `replace` pushes out comes back with the way back.
                let default = routes.iter().filter(|r| r["dst"] == "default" && r["table"].is_null());
                back.extend(default.filter_map(|r| route_line(r, r["dev"].as_str()?)));
            }
            new.push((format!("gateway {gateway}"), Some(self.bridge.origin.clone())));
        }
        let gone: Vec<IpAddr> =
            self.owned.gateways.iter().filter(|g| !self.bridge.gateways.contains(g)).copied().collect();
        for gateway in gone {
            self.owned.gateways.remove(&gateway);
            self.plan.forward.push(format!("route del default via {gateway} dev {name}"));
            back.push(format!("route replace default via {gateway} dev {name}"));
            old.push(format!("gateway {gateway}"));
        }
    }

    /// Whether the SSH connection ends on this bridge or one of its ports.
    fn carries_ssh(&self) -> bool {
        let Some(ssh) = &self.observed.facts.ssh else { return false };
        let devices = std::iter::once(&self.bridge.name).chain(&self.bridge.ports);
        devices
            .filter_map(|d| self.links.by_name.get(d))
            .any(|l| addresses(l).any(|a| a.addr() == ssh.server))
    }
}

/// A bridge that is declared no more: what we added goes, the bridge itself only if we made it and
/// nobody else uses it.
fn removed(name: &str, owned: &Owned, observed: &Observed, plan: &mut BridgePlan) {
    let links = &observed.links;
    let Some(link) = links.by_name.get(name) else { return };
    let mut old = Vec::new();
    let mut back = Vec::new();
    let live: BTreeSet<IpNet> = addresses(link).collect();
    let foreign: Vec<&str> =
        links.ports(name).map(|p| p.name.as_str()).filter(|p| !owned.ports.contains(*p)).collect();
    let all_routes = links.routes4.iter().chain(&links.routes6);
    let routes: Vec<&Value> = all_routes.filter(|r| r["dev"].as_str() == Some(name)).collect();
    for gateway in &owned.gateways {
        plan.forward.push(format!("route del default via {gateway} dev {name}"));
        old.push(format!("gateway {gateway}"));
    }
    for address in owned.addresses.keys().filter(|a| live.contains(a)) {
        plan.forward.push(format!("addr del {address} dev {name}"));
        old.push(format!("address {address}"));
        back.push(format!("addr replace {address} dev {name}"));
    }
    for port in &owned.ports {
        if links.by_name.get(port).is_some_and(|l| l.master.as_deref() == Some(name)) {
            plan.forward.push(format!("link set dev {port} nomaster"));
            old.push(format!("port {port}"));
            back.push(format!("link set dev {port} master {name}"));
        }
    }
    for (address, from) in owned.addresses.iter().filter(|(a, _)| live.contains(a)) {
        if let Some(port) = from {
            let tail = if address.addr().is_ipv6() { " nodad" } else { " brd +" };
            plan.forward.push(format!("addr replace {address} dev {port}{tail}"));
            back.insert(0, format!("addr del {address} dev {port}"));
        }
    }
    // Routes go back to the port that gives its addresses back.
    if let Some(port) = owned.addresses.values().flatten().next() {
        plan.forward
            .extend(routes.iter().filter(|r| r["protocol"] != "kernel").filter_map(|r| route_line(r, port)));
    }
    back.extend(routes.iter().filter_map(|r| route_line(r, name)));
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
            plan.forward.push(line);
            old.push(attribute.clone());
        }
    }
    if owned.created && foreign.is_empty() {
        plan.forward.push(format!("link del dev {name}"));
        old.push("the bridge itself".to_owned());
        let mac = link.mac.clone().unwrap_or_default();
        back.insert(0, format!("link set dev {name} up"));
        back.insert(0, format!("link set dev {name} address {mac}"));
        back.insert(0, format!("link add name {name} type bridge stp_state 0 forward_delay 0"));
    } else if owned.created {
        plan.warnings.push(Warning {
            code: "bridge-in-use",
            message: format!("bridge {name} stays, because {} hangs on it", foreign.join(", ")),
            origin: None,
        });
    }
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

/// Addresses that are somebody's: not link-local ones and not those that come by themselves.
fn addresses(link: &Link) -> impl Iterator<Item = IpNet> + '_ {
    link.addresses
        .iter()
        .filter(|a| a.scope != "link" && !a.dynamic)
        .filter_map(|a| format!("{}/{}", a.local, a.prefix).parse().ok())
}

/// A route as a line for `ip -batch`, by a device; those that the kernel makes itself are left out.
fn route_line(route: &Value, dev: &str) -> Option<String> {
    let text = |key: &str| route[key].as_str();
    if text("protocol") == Some("kernel") || text("table") == Some("local") || route.get("type").is_some() {
        return None;
    }
    let mut line = format!("route replace {}", text("dst")?);
    if let Some(gateway) = text("gateway") {
        line.push_str(&format!(" via {gateway}"));
    }
    line.push_str(&format!(" dev {dev}"));
    for (key, word) in [("protocol", "proto"), ("scope", "scope"), ("prefsrc", "src"), ("table", "table")] {
        if let Some(value) = text(key) {
            line.push_str(&format!(" {word} {value}"));
        }
    }
    if let Some(metric) = route["metric"].as_u64() {
        line.push_str(&format!(" metric {metric}"));
    }
    if route["flags"].as_array().is_some_and(|f| f.iter().any(|f| f == "onlink")) {
        line.push_str(" onlink");
    }
    Some(line)
}
