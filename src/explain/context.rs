//! A host as it is explained: live, or as it will be.

use crate::host_state::{BootFiles, HostLink, Observed, ProbeSections};
use crate::netfilter::{BridgeSwitches, BridgeView, HostContext, Ruleset, TraceStep};
use crate::plan::{GenerationManifest, HostAfter, forecast, origins_of, other_tables};
use crate::protocol;
use crate::resolve::Desired;
use crate::resource::iptables::chain_writers::chain_writer;
use crate::resource::iptables::save::SavedTables;
use crate::resource::iptables::{DeclaredRules, IpFamily, PREFIX};
use ipnet::IpNet;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Guests by the name of their bridge port.
pub type GuestsByPort = BTreeMap<String, String>;

/// Sections of the probe that only `explain` requests.
#[derive(Clone, Debug, Default)]
pub struct ExplainProbe {
    /// Which guest is behind which port.
    pub guests: GuestsByPort,
    /// What the kernel logged.
    pub log: String,
    /// What else sees packets.
    pub other_programs: OtherPrograms,
}

/// What sees packets beside netfilter.
#[derive(Clone, Debug, Default)]
pub struct OtherPrograms {
    /// Devices with a qdisc that filters what comes in or leaves.
    pub tc: BTreeSet<String>,
    /// Source and destination of IPsec policies.
    pub xfrm: Vec<(IpNet, IpNet)>,
}

impl OtherPrograms {
    fn read(text: &str) -> Self {
        let mut programs = Self::default();
        for line in text.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["tc", device] => {
                    programs.tc.insert(device.to_owned());
                }
                ["xfrm", src, dst] => {
                    programs.xfrm.extend(src.parse().ok().zip(dst.parse().ok()));
                }
                _ => {}
            }
        }
        programs
    }
}

impl ExplainProbe {
    /// Reads the sections.
    pub fn read(sections: &ProbeSections<'_>) -> Self {
        let pairs =
            sections.get(protocol::GUESTS).unwrap_or("").lines().filter_map(|line| line.split_once(' '));
        Self {
            guests: pairs.map(|(port, name)| (port.to_owned(), name.to_owned())).collect(),
            log: sections.get(protocol::LOG).unwrap_or("").to_owned(),
            other_programs: OtherPrograms::read(sections.get(protocol::BESIDE).unwrap_or("")),
        }
    }
}

/// One host, its rules, and what else decides about its packets.
pub struct ExplainContext<'a> {
    /// The host's name in the inventory.
    pub host: String,
    /// What was observed.
    pub observed: &'a Observed,
    /// What is desired, where that is looked at instead of what is live.
    pub desired: Option<&'a Desired>,
    /// Which guest is behind which port.
    pub guests: GuestsByPort,
    /// What else sees packets.
    pub(super) beside: OtherPrograms,
    pub(super) saves: BTreeMap<IpFamily, SavedTables>,
    pub(super) sets: BTreeMap<IpFamily, Ruleset>,
    host_after: HostAfter<'a>,
    around: [HostContext; 2],
    declared: BTreeMap<IpFamily, DeclaredRules>,
    files: &'a BootFiles,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
}

impl<'a> ExplainContext<'a> {
    /// The host as it is; with `desired`, as it will be.
    pub fn new(
        host: &str,
        observed: &'a Observed,
        desired: Option<&'a Desired>,
        extra: &ExplainProbe,
    ) -> Self {
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
        let (guests, files) = (extra.guests.clone(), &observed.boot_files);
        let around = IpFamily::ALL.map(|family| HostContext {
            other_tables: other_tables(&observed.other_filters, family),
            ..forecast::host_context(observed)
        });
        Self {
            host: host.to_owned(),
            observed,
            desired,
            guests,
            beside: extra.other_programs.clone(),
            saves,
            sets,
            host_after,
            around,
            declared,
            files,
        }
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

    fn origin(&self, family: IpFamily, step: &TraceStep) -> Option<String> {
        let declared = self.declared.get(&family).and_then(|rules| rules.tables.get(&*step.table));
        let Some(index) = step.index else {
            return declared?.policies.get(&*step.chain).map(|(_, origin)| origin.to_string());
        };
        if let Some(chain) = declared.and_then(|table| table.chains.get(&*step.chain)) {
            let count = self.saves.get(&family)?.chain(&step.table, &step.chain)?.rules.len();
            return origins_of(chain, count).into_iter().nth(index.checked_sub(1)?)?.map(|o| o.to_string());
        }
        self.files.find(family, &step.table, &step.chain, &step.text)
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
