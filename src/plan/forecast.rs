//! How a host is and will be as far as packets are concerned, for the lints and for `explain`.

use super::{Record, rules};
use crate::desired::Desired;
use crate::netfilter::{Backend, BridgeView, Frame, Payload, Surroundings, Switches};
use crate::observe::{Live, Observed, Predicted};
use crate::resource::bridge::Bridge;
use crate::resource::iptables::Family;
use crate::resource::iptables::save::Save;
use ipnet::IpNet;
use std::net::IpAddr;

/// All rules of a family as they will be once the desired ones are in place.
pub fn rules_after(family: Family, desired: &Desired, observed: &Observed) -> Save {
    let record = observed.state.record.as_deref().and_then(|text| Record::parse(text).ok());
    rules::plan(family, desired, observed, &record.unwrap_or_default()).predicted
}

/// Puts the rules as they are written in the place of a dry run's answer, where there is none: good for
/// rules that are written as iptables prints them.
pub fn as_if_dry_run(desired: &Desired, observed: &mut Observed) {
    for (family, rules) in &desired.rules {
        if let Some(there) = observed.rules.get_mut(family)
            && there.predicted == Predicted::Same
        {
            there.predicted = Predicted::Rules(rules::as_written(&there.live, rules));
        }
    }
}

/// A bridge as it is, or, with what is desired, as it will be.
pub fn bridge_view(
    family: Family,
    name: &str,
    observed: Option<&Observed>,
    desired: Option<&Desired>,
) -> BridgeView {
    let links = observed.map(|o| &o.links);
    let declared = desired.and_then(|d| d.bridges.get(name));
    let mut ports: Vec<String> =
        links.map_or_else(Vec::new, |links| links.ports(name).map(|port| port.name.clone()).collect());
    for port in declared.into_iter().flat_map(|bridge| &bridge.ports) {
        if !ports.contains(port) {
            ports.push(port.clone());
        }
    }
    let switches = switches(name, observed, desired);
    let plain = Frame { payload: Payload::Ip(family), tagged: false };
    let filters = declared.and_then(|bridge| bridge.vlan_filtering).unwrap_or_else(|| {
        links.and_then(|l| l.by_name.get(name)?.number("vlan_filtering")).is_some_and(|on| on != 0)
    });
    let untagged = (filters && !switches.tagged).then(|| {
        let vlan = |port: &String| Some((port.clone(), untagged(port, observed, declared)?));
        ports.iter().filter_map(vlan).collect()
    });
    BridgeView { name: name.to_owned(), ports, nf_call: switches.rules(plain).is_some(), untagged }
}

/// The VLAN by which untagged frames come in by a port and leave, where that is known.
fn untagged(port: &str, observed: Option<&Observed>, declared: Option<&Bridge>) -> Option<u16> {
    let stated = declared.map(Bridge::vlans_by_port).unwrap_or_default();
    let live = || observed?.links.vlans.as_ref()?.get(port).cloned();
    let vlans = stated.get(port).cloned().or_else(live)?;
    let vlan = vlans.pvid()?;
    vlans.0.get(&vlan).is_some_and(|flags| flags.untagged).then_some(vlan)
}

/// Which frames of a bridge meet rules, as it is or will be.
pub fn switches(name: &str, observed: Option<&Observed>, desired: Option<&Desired>) -> Switches {
    let link = observed.and_then(|o| o.links.by_name.get(name));
    let declared = desired.and_then(|d| d.bridges.get(name));
    let either = |knob: &str, stated: Option<bool>, key: &str| {
        let live = || link.and_then(|link| link.number(knob)).is_some_and(|on| on != 0);
        stated.unwrap_or_else(live) || global(key, observed, desired)
    };
    Switches {
        iptables: either(
            own_knob(Family::V4),
            declared.and_then(|bridge| bridge.nf_call_iptables),
            global_knob(Family::V4),
        ),
        ip6tables: either(
            own_knob(Family::V6),
            declared.and_then(|bridge| bridge.nf_call_ip6tables),
            global_knob(Family::V6),
        ),
        arptables: either(
            "nf_call_arptables",
            declared.and_then(|bridge| bridge.nf_call_arptables),
            "net/bridge/bridge-nf-call-arptables",
        ),
        tagged: global(TAGGED, observed, desired),
    }
}

/// The switch for frames with a VLAN tag; it is the only one that is off by itself.
const TAGGED: &str = "net/bridge/bridge-nf-filter-vlan-tagged";

/// What the walk has to know of the host beside its rules: addresses and routes. Other tables are left
/// out: who is connected has passed them, and a plan does not change them.
pub fn surroundings(observed: &Observed) -> Surroundings {
    let links = &observed.links;
    let mut addresses = Vec::new();
    for link in links.by_name.values() {
        let nets =
            link.addresses.iter().filter_map(|a| format!("{}/{}", a.local, a.prefix).parse::<IpNet>().ok());
        addresses.extend(nets.map(|net| (link.name.clone(), net)));
    }
    // The kernel's own routes stand in no list: they follow from the addresses.
    let mut routes: Vec<(IpNet, String)> =
        addresses.iter().map(|(link, net): &(String, IpNet)| (net.trunc(), link.clone())).collect();
    for route in &links.routes {
        let other_table = route.words.iter().any(|word| word == "table");
        let (Some(net), [hop], false) = (network(&route.dst), &route.hops[..], other_table) else {
            // Policy routing, or several ways: which one a packet takes is not known.
            routes.clear();
            break;
        };
        routes.push((net, hop.dev.clone()));
    }
    // One alternative for both families is the rule; where they differ nothing is known.
    let mut backends: Vec<_> = observed.rules.values().filter_map(|rules| backend(&rules.backend)).collect();
    backends.dedup();
    let backend = if let [one] = backends[..] { Some(one) } else { None };
    Surroundings { addresses, routes, backend, ..Surroundings::default() }
}

/// A backend, as the probe calls it.
fn backend(word: &str) -> Option<Backend> {
    match word {
        "nft" => Some(Backend::Nft),
        "legacy" => Some(Backend::Legacy),
        _ => None,
    }
}

/// A route's destination, as `ip` prints it.
fn network(dst: &str) -> Option<IpNet> {
    match dst {
        "default" => "0.0.0.0/0".parse().ok(),
        dst => dst.parse().ok().or_else(|| dst.parse::<IpAddr>().ok().map(IpNet::from)),
    }
}

/// A bridge's own switch, as `ip` calls it.
pub fn own_knob(family: Family) -> &'static str {
    match family {
        Family::V4 => "nf_call_iptables",
        Family::V6 => "nf_call_ip6tables",
    }
}

/// The switch for all bridges, as a path below `/proc/sys`.
pub fn global_knob(family: Family) -> &'static str {
    match family {
        Family::V4 => "net/bridge/bridge-nf-call-iptables",
        Family::V6 => "net/bridge/bridge-nf-call-ip6tables",
    }
}

/// Whether the switch for all bridges is declared, and on.
pub fn declared_global(key: &str, desired: &Desired) -> Option<bool> {
    let entries = desired.sysctl.values().flat_map(|file| &file.entries);
    let mut of_key = entries.filter(|entry| entry.key.path() == key);
    of_key.next().map(|entry| entry.value.trim() != "0")
}

/// Whether a switch for all bridges is on. Without br_netfilter none is; a rule that loads it brings it as the
/// kernel has it at first.
fn global(key: &str, observed: Option<&Observed>, desired: Option<&Desired>) -> bool {
    let at_first = key != TAGGED;
    let live = match observed.map(|o| o.sysctl.get(key)) {
        Some(Some(Live::Value(value))) => Some(value.trim() != "0"),
        Some(_) => None,
        // Nothing is known of the host: what the kernel has once the module is there.
        None => Some(at_first),
    };
    let Some(desired) = desired else { return live.unwrap_or(false) };
    let wanted = declared_global(key, desired);
    wanted.or(live).unwrap_or_else(|| at_first && loads_br_netfilter(desired))
}

fn loads_br_netfilter(desired: &Desired) -> bool {
    let tables = desired.rules.values().flat_map(|rules| rules.tables.values());
    let mut rules = tables.flat_map(|table| table.chains.values()).flat_map(|chain| chain.rules.iter());
    rules.any(|rule| rule.module == Some("br_netfilter"))
}
