//! Every bridge of a host: its ports, whether their frames meet iptables, and which guests are unreachable.

use super::context::{ExplainContext, RulePlace};
use super::other_filters::between_ports;
use super::settings::forwards;
use crate::host_state::HostLink;
use crate::netfilter::{NetfilterHook, blocked_between_ports, undecided_between_ports};
use crate::plan::ValueSource;
use crate::plan::forecast::{global_knob, own_knob};
use crate::resource::iptables::{ChainPolicy, IpFamily};
use serde::Serialize;

/// One bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BridgeReport {
    /// Its name.
    pub name: String,
    /// The host's own addresses on it.
    pub addresses: Vec<String>,
    /// Its ports.
    pub ports: Vec<PortReport>,
    /// What each family does with its frames.
    pub families: Vec<FamilyReport>,
    /// Whether the rules that see frames of this bridge see those with a VLAN tag too.
    pub tagged: bool,
    /// Whether ARP meets arptables; it never meets iptables.
    pub arptables: bool,
}

/// A port of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortReport {
    /// Its name.
    pub name: String,
    /// `uplink` (a device of the host), `guest`, or `declared` where it is none yet.
    pub kind: &'static str,
    /// The name of the guest behind it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
}

/// One family on one bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FamilyReport {
    /// iptables or ip6tables.
    pub family: IpFamily,
    /// Whether its rules see bridged frames.
    pub filtered: bool,
    /// Which switch says so.
    pub because: String,
    /// Chains and other tables that frames pass on their way, in its order; chains that let everything pass without a rule
    /// are left out.
    pub tables: Vec<String>,
    /// What is dropped between its ports, where something is.
    #[serde(rename = "dark", skip_serializing_if = "Option::is_none")]
    pub blocked: Option<BlockedReport>,
    /// What may be dropped between its ports, where nothing is for certain.
    #[serde(rename = "doubt", skip_serializing_if = "Option::is_none")]
    pub undecided: Option<UndecidedReport>,
}

/// Guests between which frames are dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockedReport {
    /// The first kind of frame that is dropped, and between which ports.
    pub sample: String,
    /// All kinds that are dropped.
    pub dropped: Vec<&'static str>,
    /// By what.
    pub by: RulePlace,
}

/// Guests between which frames may be dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UndecidedReport {
    /// The first kind of frame that may be dropped, and between which ports.
    pub sample: String,
    /// All kinds that may be.
    pub kinds: Vec<&'static str>,
    /// By what.
    pub by: RulePlace,
    /// What it depends on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// All bridges of a host, or the one of a name.
pub fn bridges(scene: &ExplainContext<'_>, only: Option<&str>) -> Vec<BridgeReport> {
    let names = scene.bridges().into_iter().filter(|name| only.is_none_or(|only| only == name));
    names.map(|name| bridge_report(scene, &name)).collect()
}

fn bridge_report(scene: &ExplainContext<'_>, name: &str) -> BridgeReport {
    let link = scene.link(name);
    let addresses = link.into_iter().flat_map(|link| &link.addresses).filter(|a| a.scope != "link");
    let view = scene.bridge(IpFamily::V4, name);
    let switches = scene.switches(name);
    let ports = view.ports.iter().map(|port| port_report(scene, port, name)).collect();
    BridgeReport {
        name: name.to_owned(),
        addresses: addresses.filter_map(|a| a.identity().map(|address| address.to_string())).collect(),
        ports,
        families: IpFamily::ALL.into_iter().map(|family| family_report(scene, family, name)).collect(),
        tagged: switches.tagged,
        arptables: switches.arptables,
    }
}

fn port_report(scene: &ExplainContext<'_>, name: &str, bridge: &str) -> PortReport {
    let guest = scene.observed.guests.get(name).cloned();
    let link = scene.link(name);
    let on_it = link.is_some_and(|link| link.master.as_deref() == Some(bridge));
    let kind = match () {
        () if !on_it => "declared",
        () if guest.is_some() || link.is_some_and(HostLink::is_of_guest) => "guest",
        () => "uplink",
    };
    PortReport { name: name.to_owned(), kind, guest }
}

fn family_report(scene: &ExplainContext<'_>, family: IpFamily, name: &str) -> FamilyReport {
    let view = scene.bridge(family, name);
    let (set, around) = (scene.sets.get(&family), scene.host_context(family));
    let blocked = set.and_then(|set| blocked_between_ports(set, around, family, &view));
    let doubt = set
        .filter(|_| blocked.is_none())
        .and_then(|set| undecided_between_ports(set, around, family, &view, forwards(scene, family, name)));
    let doubt = doubt.map(|doubt| UndecidedReport {
        by: scene.place(family, &doubt.step),
        sample: doubt.sample,
        kinds: doubt.kinds,
        missing: doubt.missing,
    });
    let apart = between_ports(scene, name).filter(|_| blocked.is_none() && doubt.is_none());
    let doubt = doubt.or_else(|| {
        let (text, sample) = apart?;
        let kinds = vec!["all frames"];
        let table = format!("bridge {name}");
        let by = RulePlace { table, chain: String::new(), rule: None, text, owner: "others", origin: None };
        Some(UndecidedReport { sample, kinds, by, missing: Vec::new() })
    });
    let blocked = blocked.map(|blocked| BlockedReport {
        by: scene.place(family, &blocked.step),
        sample: blocked.sample,
        dropped: blocked.dropped,
    });
    let because = because(scene, family, name, view.nf_call);
    let tables = tables(scene, family, view.nf_call);
    FamilyReport { family, filtered: view.nf_call, because, tables, blocked, undecided: doubt }
}

/// Where frames meet rules on a bridge, in the order of the kernel.
const BRIDGED_CHAINS: [(&str, &str); 8] = [
    ("raw", "PREROUTING"),
    ("mangle", "PREROUTING"),
    ("nat", "PREROUTING"),
    ("mangle", "FORWARD"),
    ("filter", "FORWARD"),
    ("security", "FORWARD"),
    ("mangle", "POSTROUTING"),
    ("nat", "POSTROUTING"),
];

/// What stands on the way of frames and could do something.
fn tables(scene: &ExplainContext<'_>, family: IpFamily, filtered: bool) -> Vec<String> {
    let save = scene.saves.get(&family).filter(|_| filtered);
    let acts = |(table, chain): &(&str, &str)| {
        if save.is_some_and(|save| save.incompatible.iter().any(|name| name == table)) {
            return true;
        }
        let chain = save.and_then(|save| save.chain(table, chain));
        chain.is_some_and(|chain| !chain.rules.is_empty() || chain.policy != Some(ChainPolicy::Accept))
    };
    let ours = BRIDGED_CHAINS.iter().filter(|at| acts(at)).map(|(table, chain)| format!("{table}/{chain}"));
    let seen = [NetfilterHook::Prerouting, NetfilterHook::Forward, NetfilterHook::Postrouting];
    let meets = |hook: &NetfilterHook| *hook == NetfilterHook::Bridge || filtered && seen.contains(hook);
    let others = scene.host_context(family).other_tables.iter().filter(|one| one.hooks.iter().any(meets));
    let mut found: Vec<String> = ours.chain(others.map(|one| one.name.clone())).collect();
    found.dedup();
    found
}

/// Which of the two switches decides.
fn because(scene: &ExplainContext<'_>, family: IpFamily, name: &str, filtered: bool) -> String {
    let knob = global_knob(family).rsplit('/').next().unwrap_or_default();
    let own = own_knob(family);
    let global = scene.host_after().key(global_knob(family)).map(|(value, source)| (value != "0", source));
    match (filtered, global) {
        (true, Some((true, ValueSource::Returned))) => scene.host_after().switch_words(family, name),
        (true, Some((true, _))) => format!("{knob} is 1"),
        (true, Some((false, _))) => format!("{own} of {name} is 1, which is enough though {knob} is 0"),
        (true, None) => "a rule loads br_netfilter, which starts with every bridge in netfilter".to_owned(),
        (false, Some(_)) => format!("{knob} and {own} of {name} are 0"),
        (false, None) => "br_netfilter is not loaded".to_owned(),
    }
}
