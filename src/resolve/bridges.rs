//! Bridges of a host, merged.

use super::merge::{CompileReport, MergeSlot};
use crate::inventory::{BridgeStatement, DeclaredResources, PortStatement};
use crate::problem::{Place, Problem};
use crate::resource::bridge::{BRIDGE_ATTRIBUTES, DeclaredBridge, LinkAddress, PortVlan};
use std::collections::BTreeMap;
use std::net::IpAddr;

#[derive(Default)]
struct BridgeMerge {
    place: Option<Place>,
    manage: MergeSlot<bool>,
    take_addresses: MergeSlot<bool>,
    ports: MergeSlot<Vec<PortStatement>>,
    addresses: MergeSlot<Vec<LinkAddress>>,
    gateways: MergeSlot<Vec<IpAddr>>,
    mac: MergeSlot<String>,
    vlans: MergeSlot<Vec<PortVlan>>,
    numbers: BTreeMap<&'static str, MergeSlot<u32>>,
    flags: BTreeMap<&'static str, MergeSlot<bool>>,
}

impl BridgeMerge {
    fn offer(&mut self, rank: u32, text: &BridgeStatement) {
        self.place.get_or_insert_with(|| text.name.place.clone());
        macro_rules! offer {
            ($($field:ident)*) => {$(
                if let Some(stated) = &text.$field {
                    self.$field.offer(rank, stated.value.clone(), &stated.place);
                }
            )*};
        }
        offer!(manage take_addresses ports addresses gateways mac vlans);
        for (key, stated) in &text.numbers {
            self.numbers.entry(key).or_default().offer(rank, stated.value, &stated.place);
        }
        for (key, stated) in &text.flags {
            self.flags.entry(key).or_default().offer(rank, stated.value, &stated.place);
        }
    }
}

/// Merges the bridges attribute by attribute.
pub fn bridges(
    sources: &[(u32, &DeclaredResources)],
    out: &mut CompileReport,
) -> BTreeMap<String, DeclaredBridge> {
    let mut merged: BTreeMap<&str, BridgeMerge> = BTreeMap::new();
    for (rank, resources) in sources {
        for text in &resources.bridges {
            merged.entry(&text.name.value).or_default().offer(*rank, text);
        }
    }
    let mut bridges = BTreeMap::new();
    for (name, merge) in merged {
        if let Some(bridge) = finish(name, merge, out) {
            bridges.insert(name.to_owned(), bridge);
        }
    }
    shared_ports(&bridges, out);
    bridges
}

fn finish(name: &str, merge: BridgeMerge, out: &mut CompileReport) -> Option<DeclaredBridge> {
    let place = merge.place?;
    let mut stated: Vec<(&'static str, Place)> = Vec::new();
    macro_rules! take {
        ($slot:expr, $key:expr, $show:expr) => {{
            let key = $key;
            $slot.take(|| format!("`bridges.{name}.{key}`"), out).map(|(value, place)| {
                out.fact(|| format!("bridges.{name}.{key}"), || $show(&value), &place);
                stated.push((key, place));
                value
            })
        }};
    }
    fn list<T: ToString>(items: &[T]) -> String {
        format!("[{}]", items.iter().map(T::to_string).collect::<Vec<_>>().join(", "))
    }
    let ports = take!(merge.ports, "ports", |v: &Vec<PortStatement>| list(v)).unwrap_or_default();
    let of_port = |port: &PortStatement| {
        let attributes = port.attributes.iter().map(|(key, value)| ((*key).to_owned(), *value));
        (port.name.clone(), attributes.collect::<BTreeMap<_, _>>())
    };
    let port_attributes = ports.iter().filter(|port| !port.attributes.is_empty()).map(of_port).collect();
    let ports: Vec<String> = ports.into_iter().map(|port| port.name).collect();
    let addresses = take!(merge.addresses, "addresses", |v: &Vec<LinkAddress>| list(v)).unwrap_or_default();
    let gateways = take!(merge.gateways, "gateways", |v: &Vec<IpAddr>| list(v)).unwrap_or_default();
    let mac = take!(merge.mac, "mac", String::clone);
    let vlans = take!(merge.vlans, "vlans", |v: &Vec<PortVlan>| {
        list(&v.iter().map(|v| format!("{} {}", v.port, v.vid)).collect::<Vec<_>>())
    })
    .unwrap_or_default();
    let take_addresses = take!(merge.take_addresses, "take_addresses", bool::to_string).unwrap_or_default();
    let mut numbers = BTreeMap::new();
    for (key, slot) in merge.numbers {
        numbers.extend(take!(slot, key, u32::to_string).map(|value| (key, value)));
    }
    let mut flags = BTreeMap::new();
    for (key, slot) in merge.flags {
        flags.extend(take!(slot, key, bool::to_string).map(|value| (key, value)));
    }
    let manage = merge.manage.take(|| format!("`bridges.{name}.manage`"), out);
    if let Some((manage, place)) = &manage {
        out.fact(|| format!("bridges.{name}.manage"), || manage.to_string(), place);
    }
    if let Some((false, unmanaged)) = &manage
        && let Some((key, place)) = stated.first()
    {
        out.problems.push(
            Problem::new(
                "unmanaged-bridge",
                format!("`{key}` has no effect: bridge `{name}` is not managed"),
            )
            .at_place(place)
            .help(format!("`manage: false` is at {unmanaged}")),
        );
    }
    let delay = numbers.get("forward_delay").copied();
    if flags.get("stp") == Some(&true) && delay.is_some_and(|delay| delay < 2) {
        let problem =
            Problem::new("out-of-range", format!("bridge `{name}`: stp needs a forward_delay of 2 to 30"));
        out.problems.push(problem.at_place(&place));
    }
    if addresses.iter().any(LinkAddress::is_ipv6) && numbers.get("mtu").is_some_and(|mtu| *mtu < 1280) {
        let problem = Problem::new(
            "out-of-range",
            format!("bridge `{name}`: an IPv6 address needs an mtu of at least 1280"),
        );
        out.problems.push(problem.at_place(&place));
    }
    for vlan in &vlans {
        if vlan.port != name && !ports.contains(&vlan.port) {
            let message = format!("`{}` has VLANs but is not a port of bridge `{name}`", vlan.port);
            let problem = Problem::new("unknown-port", message)
                .help("add it to `ports`; for the VLANs of the bridge itself, use the name of the bridge");
            out.problems.push(problem.at_place(&place));
            break;
        }
    }
    if manage.is_none() {
        out.fact(|| format!("bridges.{name}.manage"), || "true".to_owned(), &place);
    }
    let further = BRIDGE_ATTRIBUTES.iter().filter_map(|attribute| {
        let switch = || flags.get(attribute.key).map(|on| u32::from(*on));
        let value = numbers.get(attribute.key).copied().or_else(switch)?;
        Some((attribute.key.to_owned(), value))
    });
    Some(DeclaredBridge {
        attributes: further.collect(),
        port_attributes,
        name: name.to_owned(),
        manage: manage.is_none_or(|(manage, _)| manage),
        ports,
        addresses,
        gateways,
        take_addresses,
        mtu: numbers.get("mtu").copied(),
        mac,
        stp: flags.get("stp").copied(),
        forward_delay: delay,
        ageing: numbers.get("ageing").copied(),
        vlan_filtering: flags.get("vlan_filtering").copied(),
        vlans,
        nf_call_iptables: flags.get("nf_call_iptables").copied(),
        nf_call_ip6tables: flags.get("nf_call_ip6tables").copied(),
        nf_call_arptables: flags.get("nf_call_arptables").copied(),
        origin: place.origin(),
    })
}

/// A link has one master.
fn shared_ports(bridges: &BTreeMap<String, DeclaredBridge>, out: &mut CompileReport) {
    let mut owners: BTreeMap<&str, &DeclaredBridge> = BTreeMap::new();
    for bridge in bridges.values() {
        for port in &bridge.ports {
            if let Some(first) = owners.insert(port, bridge) {
                let message =
                    format!("`{port}` is a port of two bridges, `{}` and `{}`", first.name, bridge.name);
                let problem =
                    Problem::new("shared-port", message).at(&bridge.origin.file, bridge.origin.line, 1, 1);
                out.problems.push(problem.help(format!("the other definition is at {}", first.origin)));
            }
        }
    }
}
