//! Packets that stand for all that an end means: each guest of a bridge, each address of a network, each port.

use super::context::ExplainContext;
use crate::expectation::PacketEndpoint;
use crate::host_state::HostLink;
use crate::netfilter::{DevicePattern, MatchTest, Ruleset};
use crate::resource::iptables::IpFamily;
use crate::resource::iptables::address::is_mac;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Most ranges into which rules may divide a network, or the ports, for all of them to be simulated.
pub(super) const MAX_RANGES: usize = 512;

/// Networks whose addresses no machine has: this network, loopback, multicast and reserved ones.
const SPECIAL: [&str; 6] = ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/128", "::1/128", "ff00::/8"];

/// Ports of bridges that the rules do not tell apart: so many of them are simulated.
const MAX_ALIKE: usize = 2;

/// Most ports of one bridge that are simulated.
const MAX_PORTS: usize = 32;

/// The ends that stand for all that an end means.
///
/// Errors: the host does not have it, or it is more than can be simulated.
pub(super) fn endpoints(
    scene: &ExplainContext<'_>,
    family: IpFamily,
    end: &PacketEndpoint,
) -> Result<Vec<PacketEndpoint>, String> {
    match end {
        PacketEndpoint::Host | PacketEndpoint::Address(_) => Ok(vec![end.clone()]),
        PacketEndpoint::Network(network) => {
            let addresses = addresses(scene, family, *network).ok_or_else(|| {
                format!("rules and routes divide {network} into more than {MAX_RANGES} ranges")
            })?;
            Ok(addresses.into_iter().map(PacketEndpoint::Address).collect())
        }
        PacketEndpoint::Guest(bridge) => on_bridge(scene, family, bridge, true),
        PacketEndpoint::Uplink(bridge) => on_bridge(scene, family, bridge, false),
        PacketEndpoint::Name(name) => Ok(named_ports(scene, name)),
    }
}

/// One address of each range of a network that neither rules nor routes tell apart, of those that another machine can
/// have.
fn addresses(scene: &ExplainContext<'_>, family: IpFamily, network: IpNet) -> Option<Vec<IpAddr>> {
    let context = scene.host_context(family);
    let special: Vec<IpNet> = SPECIAL.iter().filter_map(|net| net.parse().ok()).collect();
    let mut others: Vec<IpNet> = context.addresses.iter().map(|(_, own)| IpNet::from(own.addr())).collect();
    others.extend(context.addresses.iter().map(|(_, own)| own.trunc()));
    others.extend(scene.observed.links.table.iter().map(|route| route.dst));
    others.extend(&special);
    let nothing = Ruleset::default();
    let rules = scene.sets.get(&family).unwrap_or(&nothing);
    let found = rules.distinct_addresses(network, &others, MAX_RANGES)?;
    let is_ordinary = |address: &IpAddr| {
        let special = special.iter().any(|net| net.contains(address) && !net.contains(&network));
        !special && context.is_local(*address) != Some(true) && context.is_broadcast(*address) != Some(true)
    };
    Some(found.into_iter().filter(is_ordinary).collect())
}

/// The ports of a bridge that are those of guests, or that are not.
fn on_bridge(
    scene: &ExplainContext<'_>,
    family: IpFamily,
    bridge: &str,
    guests: bool,
) -> Result<Vec<PacketEndpoint>, String> {
    if !scene.bridges().iter().any(|known| known == bridge) {
        return Err(format!("{} has no bridge {bridge}", scene.host));
    }
    let of_guest = |port: &String| {
        scene.observed.guests.contains_key(port) || scene.link(port).is_some_and(HostLink::is_of_guest)
    };
    let ports = scene.host_after().ports(bridge).into_iter().filter(|port| of_guest(port) == guests);
    let ports = match scene.sets.get(&family) {
        Some(rules) => distinct_ports(rules, ports),
        None => ports.take(MAX_ALIKE).collect(),
    };
    let names = ports.into_iter().map(PacketEndpoint::Name);
    Ok(match names.collect::<Vec<_>>() {
        // A guest, or an uplink, that is not there yet.
        none if none.is_empty() && guests => vec![PacketEndpoint::Guest(bridge.to_owned())],
        none if none.is_empty() => vec![PacketEndpoint::Uplink(bridge.to_owned())],
        some => some,
    })
}

/// Some ports of each sort that the rules tell apart.
fn distinct_ports(rules: &Ruleset, ports: impl Iterator<Item = String>) -> Vec<String> {
    let mut patterns: BTreeSet<&str> = BTreeSet::new();
    for one in rules.all_rules().flat_map(|rule| &rule.matches) {
        if let MatchTest::PhysIn(DevicePattern(name)) | MatchTest::PhysOut(DevicePattern(name)) = &one.test {
            patterns.insert(name);
        }
    }
    let patterns: Vec<DevicePattern> =
        patterns.into_iter().map(|name| DevicePattern(name.to_owned())).collect();
    let mut counts: BTreeMap<Vec<bool>, usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    for port in ports {
        let sort = patterns.iter().map(|pattern| pattern.fits(&port)).collect();
        let count = counts.entry(sort).or_default();
        *count += 1;
        if *count <= MAX_ALIKE && chosen.len() < MAX_PORTS {
            chosen.push(port);
        }
    }
    chosen
}

/// The ports of a guest, by its name or by the MAC address of one of its cards; else what has this name.
fn named_ports(scene: &ExplainContext<'_>, name: &str) -> Vec<PacketEndpoint> {
    let of_guest: Vec<String> = match is_mac(name) {
        true => {
            // libvirt gives a tap the address of the card behind it, with another first byte.
            let card = |link: &&HostLink| {
                let mac = link.mac.as_deref().unwrap_or("");
                link.is_of_guest() && mac.len() == name.len() && mac.get(2..) == name.get(2..)
            };
            scene.observed.links.by_name.values().filter(card).map(|link| link.name.clone()).collect()
        }
        false if scene.link(name).is_some() => Vec::new(),
        false => {
            let guests = scene.observed.guests.iter().filter(|(_, guest)| *guest == name);
            guests.map(|(port, _)| port.clone()).collect()
        }
    };
    match of_guest.is_empty() {
        true => vec![PacketEndpoint::Name(name.to_owned())],
        false => of_guest.into_iter().map(PacketEndpoint::Name).collect(),
    }
}

/// The addresses of the host to which a packet of a family may be sent.
pub(super) fn own_addresses(scene: &ExplainContext<'_>, family: IpFamily) -> Vec<IpAddr> {
    let own = scene.host_context(family).addresses.iter().map(|(_, own)| own.addr());
    let addresses: BTreeSet<IpAddr> =
        own.filter(|own| own.is_ipv4() == (family == IpFamily::V4) && !own.is_loopback()).collect();
    addresses.into_iter().collect()
}

/// Addresses that guests of a bridge may have, where the host has an address in their network.
pub(super) fn guest_addresses(
    scene: &ExplainContext<'_>,
    family: IpFamily,
    port: &PacketEndpoint,
) -> Vec<IpAddr> {
    let bridge = match port {
        PacketEndpoint::Guest(bridge) => Some(bridge.as_str()),
        PacketEndpoint::Name(name) => scene.link(name).and_then(|link| link.master.as_deref()),
        _ => None,
    };
    let own = &scene.host_context(family).addresses;
    let link_local = |net: &IpNet| matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
    let networks = own.iter().filter(|(device, net)| {
        Some(device.as_str()) == bridge
            && net.addr().is_ipv4() == (family == IpFamily::V4)
            && !link_local(net)
    });
    networks.flat_map(|(_, net)| addresses(scene, family, net.trunc()).unwrap_or_default()).collect()
}
