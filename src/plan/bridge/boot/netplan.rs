//! A file of netplan. It adds to what other files say and cannot take an address away from a port: where
//! one has an address there, the files of systemd-networkd take its place instead, which netplan
//! writes for and never touches. So it is with bridges that filter VLANs, and with addresses that have a peer or a label, for which
//! netplan has no words.

use super::{AddressAtBoot, BootContext, HEADER, is_ethernet};
use crate::host_state::{HostLink, LinkOwner};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Whether netplan has these ports, and nothing that is in the way.
pub(super) fn can_say(owners: &[(&HostLink, LinkOwner)], at_boot: &BootContext<'_>) -> bool {
    let bridge = at_boot.bridge;
    // After a boot the line that makes it our port is there too.
    let ours = format!("Bridge={}", bridge.name);
    let filters = bridge.vlan_filtering.is_some() || !bridge.vlans.is_empty();
    // It has no words for multicast, forwarded groups, and isolated ports or hairpins.
    let others = !bridge.attributes.is_empty() || !bridge.port_attributes.is_empty();
    !filters
        && !others
        && at_boot.addresses.iter().all(AddressAtBoot::is_plain)
        && owners.iter().all(|(link, owner)| {
            owner.netplan && is_ethernet(link) && owner.gives.iter().all(|line| line.text == ours)
        })
}

pub(super) fn make(at_boot: &BootContext<'_>) -> BTreeMap<String, String> {
    let (bridge, name) = (at_boot.bridge, at_boot.name());
    let mut text = format!("{HEADER}network:\n  version: 2\n  ethernets:\n");
    for port in &bridge.ports {
        let _ = match bridge.mtu {
            Some(mtu) => writeln!(text, "    {port}: {{ mtu: {mtu} }}"),
            None => writeln!(text, "    {port}: {{ }}"),
        };
    }
    let _ = writeln!(text, "  bridges:\n    {name}:\n      interfaces: [{}]", bridge.ports.join(", "));
    let mut line = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "      {key}: {value}");
        }
    };
    line("macaddress", at_boot.mac.as_ref().map(|mac| format!("'{mac}'")));
    line("mtu", bridge.mtu.map(|m| m.to_string()));
    let addresses: Vec<String> = at_boot.addresses.iter().map(|a| format!("'{}'", a.address)).collect();
    line("addresses", (!addresses.is_empty()).then(|| format!("[{}]", addresses.join(", "))));
    let routes: Vec<String> = at_boot
        .gateways
        .iter()
        .map(|g| {
            let onlink = if g.onlink { ", on-link: true" } else { "" };
            format!("{{ to: default, via: '{}'{onlink} }}", g.address)
        })
        .collect();
    line("routes", (!routes.is_empty()).then(|| format!("[{}]", routes.join(", "))));
    let stp = bridge.stp == Some(true);
    let mut parameters = vec![format!("stp: {stp}")];
    parameters.extend(at_boot.delay().map(|d| format!("forward-delay: {d}")));
    parameters.extend(bridge.ageing.map(|a| format!("ageing-time: {a}")));
    line("parameters", Some(format!("{{ {} }}", parameters.join(", "))));
    BTreeMap::from([(format!("/etc/netplan/90-kvmfw-{name}.yaml"), text)])
}
