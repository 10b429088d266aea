//! Bridges of a host, less those of programs that make them.

use super::{comment, settings};
use crate::host_state::{HostLink, Observed, StaticRoute};
use crate::inventory::quoted;
use crate::plan::{GenerationManifest, bridge_maker};
use crate::resource::bridge::check_link_name;
use std::fmt::Write as _;
use std::net::IpAddr;

/// `bridges:`.
pub(super) fn write(observed: &Observed, text: &mut String) {
    let mut body = String::new();
    let mut left = String::new();
    let record = observed.state.record.as_deref().and_then(|text| GenerationManifest::parse(text).ok());
    let stated = record.map(|record| record.bridges).unwrap_or_default();
    for link in observed.links.bridges() {
        if stated.contains_key(&link.name) {
            comment(4, &format!("Left out: bridge {}: an inventory has it already", link.name), &mut left);
        } else if let Some(who) = bridge_maker(&link.name, observed) {
            comment(4, &format!("Left out: bridge {}: {who} makes it", link.name), &mut left);
        } else if let Err(why) = check_link_name(&link.name) {
            comment(4, &format!("Left out: bridge {}: its name {why}", link.name), &mut left);
        } else {
            bridge(link, observed, &mut body);
        }
    }
    if !body.is_empty() {
        text.push_str("    bridges:\n");
    }
    text.push_str(&body);
    text.push_str(&left);
}

fn bridge(link: &HostLink, observed: &Observed, text: &mut String) {
    match observed.network.owner(link) {
        Some(owner) => {
            let file = owner.file.map_or_else(String::new, |file| format!(", {file}"));
            comment(6, &format!("made by {}{file}", owner.manager.as_str()), text);
        }
        None => comment(6, "by no network manager that kvmfw knows", text),
    }
    let list = |items: Vec<String>| items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ");
    let mut fields = Vec::new();
    let ports: Vec<String> = observed
        .links
        .ports(&link.name)
        .filter(|p| is_uplink(p))
        .map(|p| p.name.clone())
        .filter(|name| check_link_name(name).is_ok())
        .collect();
    let addresses: Vec<String> = link
        .addresses
        .iter()
        .filter(|a| a.scope == "global" && !a.dynamic)
        .filter_map(|a| a.identity().map(|address| address.to_string()))
        .collect();
    let default = |route: &&StaticRoute| route.is_default() && route.by(&link.name) && is_static(route);
    let hops = observed.links.routes.iter().filter(default).flat_map(|route| &route.hops);
    let gateways: Vec<String> =
        hops.filter_map(|hop| hop.via.clone()).filter(|via| via.parse::<IpAddr>().is_ok()).collect();
    let of_ports: Vec<&HostLink> = ports.iter().filter_map(|port| observed.links.by_name.get(port)).collect();
    if let Some(stated) = settings::ports(&of_ports) {
        fields.push(format!("ports: {stated}"));
    } else if !ports.is_empty() {
        fields.push(format!("ports: [{}]", list(ports)));
    }
    for (key, items) in [("addresses", addresses), ("gateways", gateways)] {
        if !items.is_empty() {
            fields.push(format!("{key}: [{}]", list(items)));
        }
    }
    fields.extend(settings::stated(link, &of_ports));
    let left = settings::left_out(link, &of_ports);
    if !left.is_empty() {
        let what = left.join(", ");
        comment(
            6,
            &format!("left out, because an inventory cannot have it; it stays as it is: {what}"),
            text,
        );
    }
    let _ = match fields.is_empty() {
        true => writeln!(text, "      {}: {{ manage: false }}", quoted(&link.name)),
        false => writeln!(text, "      {}: {{ {} }}", quoted(&link.name), fields.join(", ")),
    };
}

/// Not the port of a guest, which comes and goes.
fn is_uplink(port: &HostLink) -> bool {
    let guests = ["vnet", "tap", "fwpr", "fwln", "veth", "lxc", "ve-", "vb-"];
    port.linkinfo.kind.as_deref() != Some("tun") && !guests.iter().any(|start| port.name.starts_with(start))
}

/// Not from DHCP or a router's advertisement.
fn is_static(route: &StaticRoute) -> bool {
    !route.words.iter().any(|word| matches!(word.as_str(), "dhcp" | "ra" | "16" | "9"))
}
