//! Attributes of ports: each only where it is stated. A port that leaves its bridge loses them, and one that becomes a
//! port has those of a new port.

use super::planner::BridgePlanner;
use crate::host_state::HostLink;
use crate::problem::LintCode;
use crate::resource::bridge::{BridgeAttribute, PORT_ATTRIBUTES};
use std::collections::BTreeMap;

/// The line that sets an attribute of a port.
pub(super) fn line(port: &str, attribute: &BridgeAttribute, value: i64) -> String {
    format!("link set dev {port} type bridge_slave {} {}", attribute.word, attribute.of_port(value))
}

/// The attribute of a label `eth1 isolated`, with the port.
pub(super) fn labelled(label: &str) -> Option<(&str, &'static BridgeAttribute)> {
    let (port, key) = label.split_once(' ')?;
    Some((port, PORT_ATTRIBUTES.iter().find(|attribute| attribute.key == key)?))
}

/// Further switches of a port, which no inventory states, with what a new port has.
pub const OTHER_PORT_SWITCHES: [(&str, i64); 11] = [
    ("guard", 0),
    ("root_block", 0),
    ("fastleave", 0),
    ("learning", 1),
    ("flood", 1),
    ("mcast_flood", 1),
    ("bcast_flood", 1),
    ("mcast_to_unicast", 0),
    ("neigh_suppress", 0),
    ("proxy_arp", 0),
    ("vlan_tunnel", 0),
];

/// What a port has that a new port has not, as lines that make it so.
pub(super) fn lines(port: &HostLink) -> Vec<String> {
    let others = OTHER_PORT_SWITCHES.into_iter().filter_map(|(word, default)| {
        let value = port.port_number(word).filter(|value| *value != default)?;
        let on = if value == 0 { "off" } else { "on" };
        Some(format!("link set dev {} type bridge_slave {word} {on}", port.name))
    });
    let set = |attribute: &'static BridgeAttribute| {
        let value = port.port_number(attribute.word)?;
        let default = attribute.default.map(i64::from);
        // What a cost is by default depends on the speed of the link.
        (default.is_some() && default != Some(value)).then(|| line(&port.name, attribute, value))
    };
    PORT_ATTRIBUTES.iter().filter_map(set).chain(others).collect()
}

impl BridgePlanner<'_> {
    /// After the ports have joined: only a port has them.
    pub(super) fn port_attributes(&mut self) {
        let (bridge, links) = (self.bridge, self.links);
        let nothing = BTreeMap::new();
        for port in &bridge.ports {
            let link = links.by_name.get(port);
            let on_it = link.filter(|link| link.master.as_ref() == Some(&bridge.name));
            let stated = bridge.port_attributes.get(port).unwrap_or(&nothing);
            for attribute in &PORT_ATTRIBUTES {
                let label = format!("{port} {}", attribute.key);
                let live = on_it.and_then(|link| link.port_number(attribute.word));
                let Some(wanted) = stated.get(attribute.key).map(|value| i64::from(*value)) else {
                    self.port_attribute_back(&label, port, attribute, live);
                    continue;
                };
                let holds = live == Some(wanted);
                self.step(line(port, attribute, wanted), holds);
                if let Some(live) = live {
                    self.old.push(format!("{label} {}", attribute.of_port(live)));
                    if !holds {
                        self.back.push(line(port, attribute, live));
                        self.owned.attributes.entry(label.clone()).or_insert_with(|| live.to_string());
                    }
                }
                self.wanted(format!("{label} {}", attribute.of_port(wanted)));
            }
        }
        self.warn_of_isolation();
        // Of ports that are named no more: who stays a port keeps none of ours.
        let labels: Vec<String> = self.owned.attributes.keys().cloned().collect();
        for label in labels {
            let Some((port, attribute)) = labelled(&label) else { continue };
            if bridge.ports.iter().any(|named| named == port) {
                continue;
            }
            let on_it = links.by_name.get(port).filter(|link| link.master.as_ref() == Some(&bridge.name));
            let leaves = self.owned.ports.contains(port);
            let live = on_it.filter(|_| !leaves).and_then(|link| link.port_number(attribute.word));
            self.port_attribute_back(&label, port, attribute, live);
        }
    }

    /// Isolated ports exchange no frames with each other, so an uplink that becomes one cuts off the guests that are.
    fn warn_of_isolation(&mut self) {
        let (bridge, links) = (self.bridge, self.links);
        let stated = |port: &str| bridge.port_attributes.get(port)?.get("isolated").map(|on| *on == 1);
        let live = |port: &HostLink| port.port_flag("isolated").unwrap_or(false);
        let new: Vec<&String> = bridge
            .ports
            .iter()
            .filter(|port| stated(port) == Some(true))
            .filter(|port| !links.by_name.get(*port).is_some_and(live))
            .collect();
        let there = links.ports(&bridge.name).filter(|port| stated(&port.name).unwrap_or_else(|| live(port)));
        let others: Vec<&str> =
            there.map(|port| port.name.as_str()).filter(|port| !new.iter().any(|n| n == port)).collect();
        let Some(first) = new.first().filter(|_| !others.is_empty()) else { return };
        self.warn(
            LintCode::PortsApart,
            format!(
                "bridge {}: {first} becomes isolated, and isolated ports exchange no frames: it is cut off \
                 from {}",
                bridge.name,
                others.join(", ")
            ),
        );
    }

    /// An attribute that we set once and that is stated no more.
    fn port_attribute_back(
        &mut self,
        label: &str,
        port: &str,
        attribute: &BridgeAttribute,
        live: Option<i64>,
    ) {
        let before = self.owned.attributes.remove(label).and_then(|value| value.parse::<i64>().ok());
        let (Some(before), Some(live)) = (before, live) else { return };
        if live != before {
            self.plan.forward.push(line(port, attribute, before));
            self.back.push(line(port, attribute, live));
            self.old.push(format!("{label} {}", attribute.of_port(live)));
            self.new.push((format!("{label} {}   (as before)", attribute.of_port(before)), None));
        }
    }
}
