//! A host as it is explained: live, or as it will be.

use crate::host_state::{
    BootFiles, HostLink, LinkInfo, Observed, ObservedAddress, ObservedRules, PredictedRules,
};
use crate::netfilter::{BridgeSwitches, BridgeView, HostContext, Ruleset, TraceStep};
use crate::plan::{GenerationManifest, HostAfter, forecast, origins_of, other_tables};
use crate::problem::Origin;
use crate::resolve::Desired;
use crate::resource::iptables::chain_writers::chain_writer;
use crate::resource::iptables::save::SavedTables;
use crate::resource::iptables::{DeclaredRules, IpFamily, PREFIX};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

/// One host, its rules, and what else decides about its packets.
pub struct ExplainContext<'a> {
    /// The host's name in the inventory.
    pub host: String,
    /// What was observed.
    pub observed: &'a Observed,
    /// What is desired, where that is looked at instead of what is live.
    pub desired: Option<&'a Desired>,
    pub(super) saves: BTreeMap<IpFamily, SavedTables>,
    pub(super) sets: BTreeMap<IpFamily, Ruleset>,
    host_after: HostAfter<'a>,
    around: [HostContext; 2],
    declared: BTreeMap<IpFamily, DeclaredRules>,
    files: &'a BootFiles,
    offline: bool,
}

/// A rule, with whose it is and where it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RulePlace {
    /// The table.
    pub table: String,
    /// The chain as it is called on the host.
    pub chain: String,
    /// The place of the rule, counted from 1; `None` is the policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// The rule less `-A CHAIN`, or `policy DROP`.
    pub text: String,
    /// `kvmfw`, `Docker`, `libvirt`, …, or `others`.
    pub owner: &'static str,
    /// `file:line` where it was written, of the inventory or of the host.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub origin: Option<Origin>,
}

/// Writes a place as people read it.
fn as_text<S: Serializer>(origin: &Option<Origin>, serializer: S) -> Result<S::Ok, S::Error> {
    match origin {
        Some(origin) => serializer.collect_str(origin),
        None => serializer.serialize_none(),
    }
}

impl<'a> ExplainContext<'a> {
    /// The host as it is; with `desired`, as it will be.
    pub fn new(host: &str, observed: &'a Observed, desired: Option<&'a Desired>) -> Self {
        let record = observed.state.record.as_deref().and_then(|text| GenerationManifest::parse(text).ok());
        let record = record.unwrap_or_default();
        let host_after = match desired {
            Some(desired) => HostAfter::planned(desired, observed, &record),
            None => HostAfter::live(observed),
        };
        let declared = match desired {
            Some(desired) => desired.rules.clone(),
            None => record.rules,
        };
        let saves: BTreeMap<IpFamily, SavedTables> = observed
            .rules
            .iter()
            .map(|(family, rules)| {
                let save = match desired {
                    Some(desired) => forecast::rules_after(*family, desired, observed),
                    None => rules.live.clone(),
                };
                (*family, save)
            })
            .collect();
        let known = host_after.sets();
        let sets = saves.iter().map(|(family, save)| (*family, Ruleset::with_sets(save, &known))).collect();
        let around = IpFamily::ALL.map(|family| HostContext {
            other_tables: other_tables(&observed.other_filters, family),
            ..forecast::host_context(observed)
        });
        Self {
            host: host.to_owned(),
            observed,
            desired,
            saves,
            sets,
            host_after,
            around,
            declared,
            files: &observed.boot_files,
            offline: false,
        }
    }

    /// A host of which nothing is known but what its inventory declares. `host` is that of
    /// [`offline_host`](Self::offline_host).
    pub fn offline(desired: &'a Desired, host: &'a Observed) -> Self {
        let scene = Self::new(&desired.host, host, Some(desired));
        Self { host_after: HostAfter::offline(desired), offline: true, ..scene }
    }

    /// What an inventory declares of a host, as if it were observed: bridges with ports and addresses, and rules.
    pub fn offline_host(desired: &Desired) -> Observed {
        let mut host = Observed::default();
        for family in IpFamily::ALL {
            host.rules.insert(
                family,
                ObservedRules {
                    backend: String::new(),
                    version: String::new(),
                    live: SavedTables::default(),
                    predicted: PredictedRules::Same,
                },
            );
        }
        forecast::as_if_dry_run(desired, &mut host);
        let by_name = &mut host.links.by_name;
        for bridge in desired.bridges.values() {
            for port in &bridge.ports {
                let master = Some(bridge.name.clone());
                by_name.insert(port.clone(), HostLink { name: port.clone(), master, ..HostLink::default() });
            }
            let addresses = bridge.addresses.iter().map(|address| ObservedAddress {
                family: if address.is_ipv6() { "inet6" } else { "inet" }.to_owned(),
                local: address.local().to_string(),
                prefix: address.prefix(),
                scope: "global".to_owned(),
                ..ObservedAddress::default()
            });
            let linkinfo = LinkInfo { kind: Some("bridge".to_owned()), ..LinkInfo::default() };
            let (name, addresses) = (bridge.name.clone(), addresses.collect());
            by_name.insert(name.clone(), HostLink { name, addresses, linkinfo, ..HostLink::default() });
        }
        host
    }

    /// Whether nothing is known of the host but what its inventory declares.
    pub(super) fn is_offline(&self) -> bool {
        self.offline
    }

    /// Whether the inventory states that frames of a bridge meet the rules of a family.
    pub(super) fn declares_filtering(&self, family: IpFamily, bridge: &str) -> bool {
        let declared = self.desired.and_then(|desired| desired.bridges.get(bridge));
        let own = declared.and_then(|bridge| match family {
            IpFamily::V4 => bridge.nf_call_iptables,
            IpFamily::V6 => bridge.nf_call_ip6tables,
        });
        let of_all = self.host_after.key(forecast::global_knob(family));
        own == Some(true) || of_all.is_some_and(|(value, _)| value != "0")
    }

    /// `live` or `desired`.
    pub fn state(&self) -> &'static str {
        if self.desired.is_some() { "desired" } else { "live" }
    }

    /// Other tables that packets pass.
    pub fn other_tables(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.around.iter().flat_map(|a| &a.other_tables).map(|b| b.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Names of the host's bridges, declared ones too where what is desired is looked at.
    pub fn bridges(&self) -> Vec<String> {
        self.host_after.bridges().into_iter().collect()
    }

    /// The host beside its rules, live or as it will be.
    pub(super) fn host_after(&self) -> &HostAfter<'a> {
        &self.host_after
    }

    /// A bridge as the rules of a family see it.
    pub(super) fn bridge(&self, family: IpFamily, name: &str) -> BridgeView {
        self.host_after.bridge_view(family, name)
    }

    /// Which frames of a bridge meet rules.
    pub(super) fn switches(&self, name: &str) -> BridgeSwitches {
        self.host_after.switches(name)
    }

    /// What decides about packets of a family beside its rules.
    pub(super) fn host_context(&self, family: IpFamily) -> &HostContext {
        let [v4, v6] = &self.around;
        if family == IpFamily::V4 { v4 } else { v6 }
    }

    /// The link of a name.
    pub(super) fn link(&self, name: &str) -> Option<&HostLink> {
        self.observed.links.by_name.get(name)
    }

    /// Where a step stands, and whose it is.
    pub(super) fn place(&self, family: IpFamily, step: &TraceStep) -> RulePlace {
        RulePlace {
            table: step.table.to_string(),
            chain: step.chain.to_string(),
            rule: step.index,
            text: step.text.to_string(),
            owner: owner(step),
            origin: self.origin(family, step),
        }
    }

    fn origin(&self, family: IpFamily, step: &TraceStep) -> Option<Origin> {
        let declared = self.declared.get(&family).and_then(|rules| rules.tables.get(&*step.table));
        let Some(index) = step.index else {
            return declared?.policies.get(&*step.chain).map(|(_, origin)| origin.clone());
        };
        if let Some(chain) = declared.and_then(|table| table.chains.get(&*step.chain)) {
            let count = self.saves.get(&family)?.chain(&step.table, &step.chain)?.rules.len();
            return origins_of(chain, count).into_iter().nth(index.checked_sub(1)?)?;
        }
        let line = self.files.places(family, &step.table, &step.chain, &step.text).next()?;
        Some(Origin::new(line.path.as_str(), line.line))
    }
}

/// Whose a rule is, by the chain it stands in or enters.
fn owner(step: &TraceStep) -> &'static str {
    if step.chain.starts_with(PREFIX) || step.text.contains(PREFIX) {
        return "kvmfw";
    }
    chain_writer(&step.chain)
        .or_else(|| chain_writer(step.text.rsplit("-j ").next().unwrap_or_default()))
        .unwrap_or("others")
}

impl RulePlace {
    /// `filter/FORWARD rule 4`, `the policy of filter/FORWARD`, or `nft table inet filter`.
    pub fn name(&self) -> String {
        match self.rule {
            _ if self.chain.is_empty() => self.table.clone(),
            Some(rule) => format!("{}/{} rule {rule}", self.table, self.chain),
            None => format!("the policy of {}/{}", self.table, self.chain),
        }
    }
}
