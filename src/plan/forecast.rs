//! How a host is and will be as far as packets are concerned, for the lints and for `explain`.

use super::{GenerationManifest, rules};
use crate::host_state::{Observed, PredictedRules};
use crate::netfilter::{HostContext, IptablesBackend};
use crate::resolve::Desired;
use crate::resource::iptables::IpFamily;
use crate::resource::iptables::save::SavedTables;
use ipnet::IpNet;
use std::net::IpAddr;

/// All rules of a family as they will be once the desired ones are in place.
pub fn rules_after(family: IpFamily, desired: &Desired, observed: &Observed) -> SavedTables {
    let record = observed.state.record.as_deref().and_then(|text| GenerationManifest::parse(text).ok());
    rules::plan(family, desired, observed, &record.unwrap_or_default()).predicted
}

/// Puts the rules as they are written in the place of a dry run's answer, where there is none: good for
/// rules that are written as iptables prints them.
pub fn as_if_dry_run(desired: &Desired, observed: &mut Observed) {
    for (family, rules) in &desired.rules {
        if let Some(there) = observed.rules.get_mut(family)
            && there.predicted == PredictedRules::Same
        {
            there.predicted = PredictedRules::Rules(rules::as_written(&there.live, rules));
        }
    }
}

/// The switch for frames with a VLAN tag; it is the only one that is off by itself.
pub(super) const TAGGED: &str = "net/bridge/bridge-nf-filter-vlan-tagged";

/// What the simulation needs of the host beside its rules: addresses and routes. Other tables are left
/// out: who is connected has passed them, and a plan does not change them.
pub fn host_context(observed: &Observed) -> HostContext {
    let links = &observed.links;
    let mut addresses = Vec::new();
    for link in links.by_name.values() {
        let nets =
            link.addresses.iter().filter_map(|a| format!("{}/{}", a.local, a.prefix).parse::<IpNet>().ok());
        addresses.extend(nets.map(|net| (link.name.clone(), net)));
    }
    // The kernel's own routes stand in no list: they follow from the addresses.
    let mut routes: Vec<(IpNet, String)> = Vec::new();
    for link in links.by_name.values() {
        let networks = link.addresses.iter().filter_map(|a| Some(a.identity()?.network()));
        routes.extend(networks.map(|network| (network, link.name.clone())));
    }
    for route in links.routes.iter().filter(|route| route.kind.is_empty()) {
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
    HostContext { addresses, routes, backend, ..HostContext::default() }
}

/// A backend, as the probe calls it.
fn backend(word: &str) -> Option<IptablesBackend> {
    match word {
        "nft" => Some(IptablesBackend::Nft),
        "legacy" => Some(IptablesBackend::Legacy),
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
pub fn own_knob(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "nf_call_iptables",
        IpFamily::V6 => "nf_call_ip6tables",
    }
}

/// The switch for all bridges, as a path below `/proc/sys`.
pub fn global_knob(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "net/bridge/bridge-nf-call-iptables",
        IpFamily::V6 => "net/bridge/bridge-nf-call-ip6tables",
    }
}

/// Whether the switch for all bridges is declared, and on.
pub fn declared_global(key: &str, desired: &Desired) -> Option<bool> {
    let entries = desired.sysctl.values().flat_map(|file| &file.entries);
    let mut of_key = entries.filter(|entry| entry.key.path() == key);
    of_key.next().map(|entry| entry.value.trim() != "0")
}

/// Whether a declared rule loads br_netfilter.
pub(super) fn loads_br_netfilter(desired: &Desired) -> bool {
    let tables = desired.rules.values().flat_map(|rules| rules.tables.values());
    let mut rules = tables.flat_map(|table| table.chains.values()).flat_map(|chain| chain.rules.iter());
    rules.any(|rule| rule.module == Some("br_netfilter"))
}
