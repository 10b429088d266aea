//! Stanzas of ifupdown, with the options of bridge-utils. A second stanza of a link adds to the first and
//! cannot take anything away: a port that has an address in a file of the host's own is moved by our
//! unit, after ifupdown, for as long as those lines are there.

use super::{AddressAtBoot, BootConfig, BootContext, HEADER};
use crate::host_state::{HostLink, LinkOwner, Observed, PortVlans};
use crate::plan::bridge::{port_attributes, vlans};
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::bridge::{BRIDGE_ATTRIBUTES, PORT_ATTRIBUTES};
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(super) fn make(
    at_boot: &BootContext<'_>,
    owners: &[(&HostLink, LinkOwner)],
    observed: &Observed,
) -> BootConfig {
    let mut kept = BootConfig::default();
    if !observed.network.ifupdown_bridges {
        return kept;
    }
    let gives: Vec<String> =
        owners.iter().flat_map(|(_, owner)| &owner.gives).map(ToString::to_string).collect();
    if !gives.is_empty() {
        let name = at_boot.name();
        kept.warning = Some(Warning::new(
            LintCode::MovedAtBoot,
            WarningMessage::new(format!(
                "bridge {name}: at boot ifupdown still configures its port from {}, \
                 and kvmfw-bridges.service then moves that to {name}",
                gives.join(", ")
            ))
            .fix(format!(
                "replace these lines by `iface {} inet manual`, so that ifupdown creates the bridge",
                owners.first().map_or("", |(link, _)| &link.name)
            )),
            Some(at_boot.bridge.origin.clone()),
        ));
        return kept;
    }
    kept.files =
        BTreeMap::from([(format!("/etc/network/interfaces.d/kvmfw-{}", at_boot.name()), text(at_boot))]);
    kept
}

pub(super) fn text(at_boot: &BootContext<'_>) -> String {
    let (bridge, name) = (at_boot.bridge, at_boot.name());
    let mut first4 = at_boot.addresses(false).filter(|a| a.is_plain());
    let mut text = format!("{HEADER}auto {name}\n");
    stanza(&mut text, at_boot, "inet", first4.next());
    let mut option = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "    {key} {value}");
        }
    };
    option("bridge_ports", Some(bridge.ports.join(" ")));
    option("bridge_stp", Some(if bridge.stp == Some(true) { "on" } else { "off" }.to_owned()));
    option("bridge_fd", at_boot.delay().map(|d| d.to_string()));
    option("bridge_ageing", bridge.ageing.map(|a| a.to_string()));
    for (key, name) in
        [("bridge_hello", "hello_time"), ("bridge_maxage", "max_age"), ("bridge_bridgeprio", "priority")]
    {
        option(key, at_boot.number(name).map(|value| value.to_string()));
    }
    option("bridge_maxwait", Some("0".to_owned()));
    option("bridge_hw", at_boot.mac.clone());
    option("mtu", bridge.mtu.map(|m| m.to_string()));
    for attribute in
        BRIDGE_ATTRIBUTES.iter().filter(|a| !["hello_time", "max_age", "priority"].contains(&a.key))
    {
        let line = |value| format!("ip link set dev {name} type bridge {} {value}", attribute.word);
        option("up", at_boot.number(attribute.key).map(line));
    }
    for port in &at_boot.ports {
        for attribute in &PORT_ATTRIBUTES {
            let value = at_boot.of_port(port, attribute.key);
            let line = |value: u32| format!("ip {}", port_attributes::line(port, attribute, value.into()));
            option("up", value.map(line));
        }
    }
    // Its own option would have the bridge filter before the ports have their VLANs.
    for (device, vlans) in &at_boot.vlans {
        let fresh = PortVlans::fresh(at_boot.default_pvid());
        for line in vlans::lines(name, device, &fresh, vlans) {
            option("up", Some(format!("bridge {line}")));
        }
    }
    option(
        "up",
        bridge
            .vlan_filtering
            .map(|v| format!("ip link set dev {name} type bridge vlan_filtering {}", u8::from(v))),
    );
    by_hand(&mut text, at_boot, false);
    for address in first4 {
        let _ = writeln!(text, "iface {name} inet static\n    address {}", address.address);
    }
    let mut first = true;
    for address in at_boot.addresses(true).filter(|a| a.is_plain()) {
        if first {
            stanza(&mut text, at_boot, "inet6", Some(address));
        } else {
            let _ = writeln!(text, "iface {name} inet6 static\n    address {}", address.address);
        }
        let _ = writeln!(text, "    dad-attempts 0");
        if first {
            by_hand(&mut text, at_boot, true);
        }
        first = false;
    }
    if first && at_boot.addresses(true).next().is_some() {
        let _ = writeln!(text, "iface {name} inet6 manual");
        by_hand(&mut text, at_boot, true);
    }
    text
}

/// What ifupdown has no words for: addresses with a peer or a label, and the gateway where all are of that kind. (One that it
/// makes itself is always on the link.)
fn by_hand(text: &mut String, at_boot: &BootContext<'_>, v6: bool) {
    let name = at_boot.name();
    let mut plain = false;
    for one in at_boot.addresses(v6) {
        plain |= one.is_plain();
        if !one.is_plain() {
            let dad = if v6 { " nodad" } else { "" };
            let _ = writeln!(text, "    up ip addr add {} dev {name}{dad}{}", one.address, one.attributes);
        }
    }
    if let Some(gateway) = at_boot.gateway(v6).filter(|_| !plain) {
        let (six, onlink) = (if v6 { " -6" } else { "" }, if gateway.onlink { " onlink" } else { "" });
        let _ =
            writeln!(text, "    up ip{six} route replace default via {} dev {name}{onlink}", gateway.address);
    }
}

/// The first stanza of a family; it has the gateway.
fn stanza(text: &mut String, at_boot: &BootContext<'_>, family: &str, address: Option<&AddressAtBoot>) {
    let name = at_boot.name();
    let Some(address) = address else {
        let _ = writeln!(text, "iface {name} {family} manual");
        return;
    };
    let _ = writeln!(text, "iface {name} {family} static\n    address {}", address.address);
    if let Some(gateway) = at_boot.gateway(family == "inet6") {
        let _ = writeln!(text, "    gateway {}", gateway.address);
    }
}
