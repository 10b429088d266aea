//! Taking bridges out of netfilter: where that is wrong, and where it will not last.

use super::{FamilyView, mark};
use crate::host_state::Observed;
use crate::netfilter::{DevicePattern, MatchTest, ParsedRule, RuleTarget, Ruleset};
use crate::plan::forecast::{declared_global, global_knob, own_knob};
use crate::plan::{ChangeRisk, HostPlan};
use crate::problem::{LintCode, Origin, Warning, WarningMessage};
use crate::resolve::Desired;
use crate::resource::ResourceKind;
use crate::resource::iptables::IpFamily;
use crate::resource::iptables::save::SavedTables;
use std::collections::BTreeSet;

/// Chains by the start of their name, and who filters guests in them.
const FILTERS: [(&str, &str); 9] = [
    ("neutron-", "OpenStack neutron: security groups of its guests"),
    ("PVEFW-", "pve-firewall: the rules of its guests"),
    ("FI-", "libvirt's nwfilter: IP rules of a guest"),
    ("FO-", "libvirt's nwfilter: IP rules of a guest"),
    ("libvirt-host-in", "libvirt's nwfilter: IP rules of a guest"),
    ("KUBE-FIREWALL", "Kubernetes: services and policies of pods behind a bridge"),
    ("KUBE-SERVICES", "Kubernetes: services and policies of pods behind a bridge"),
    ("cali-", "Calico: policies of pods"),
    ("WEAVE-", "Weave: policies of pods"),
];

/// The bypass where somebody filters bridged frames on this host, with what shows it.
pub(super) fn wrong(
    desired: &Desired,
    observed: &Observed,
    predicted: [&SavedTables; 2],
    plan: &mut HostPlan,
) {
    let Some(origin) = declared(desired) else { return };
    let mut evidence = programs(observed);
    for (family, save) in IpFamily::ALL.into_iter().zip(predicted) {
        evidence.extend(dead_filters(family, save, observed));
    }
    if evidence.is_empty() {
        return;
    }
    let message = WarningMessage::new(
        "the bypass is wrong on this host: with bridge-nf-call-iptables at 0 \
         its filters of bridged frames see no frames",
    )
    .cause(evidence.into_iter().collect::<Vec<_>>().join("; "))
    .fix("use bridge-accept-each or bridge-accept-physdev instead of bridge-bypass");
    plan.warnings.push(Warning::new(LintCode::BypassWrong, message, Some(origin)));
    mark(plan, ChangeRisk::BypassWrong, |change| {
        change.kind == ResourceKind::Sysctl && change.diff.text().contains("net.bridge.bridge-nf-call-")
    });
}

/// Who will bring bridged frames back into netfilter.
pub(super) fn undone(desired: &Desired, observed: &Observed, warnings: &mut Vec<Warning>) {
    let Some(origin) = declared(desired) else { return };
    warnings.extend(
        writers(observed)
            .into_iter()
            .map(|message| Warning::new(LintCode::BypassUndone, message, Some(origin.clone()))),
    );
}

/// Who brings bridged frames back into netfilter on this host.
pub fn writers(observed: &Observed) -> Vec<WarningMessage> {
    let mut found = Vec::new();
    let chain = |name: &str| observed.rules.values().any(|r| r.live.chain("filter", name).is_some());
    if chain("DOCKER") || chain("DOCKER-USER") || observed.links.by_name.contains_key("docker0") {
        found.push(
            WarningMessage::new("Docker sets bridge-nf-call-iptables to 1 when it starts")
                .cause(
                    "the daemon does so before 27.3 always, later with icc=false or \
                     userland-proxy=false, and the udev rule covers only the loading of \
                     br_netfilter",
                )
                .fix("use bridge-accept-physdev on this host, or run kvmfw plan again after Docker starts"),
        );
    }
    for (what, file) in &observed.other_filters.evidence {
        match what.as_str() {
            "writer" => {
                found.push(
                    WarningMessage::new(format!(
                        "{file} also writes bridge-nf-call keys and may set them back"
                    ))
                    .fix(format!("remove those lines from {file}")),
                );
            }
            "pve" => found.push(WarningMessage::new(
                "pve-firewall sets bridge-nf-call-iptables to 1 whenever it starts (this is a Proxmox host)",
            )),
            _ => {}
        }
    }
    found
}

impl FamilyView<'_> {
    /// A bridge whose own switch is on stays in netfilter, whatever the one for all says.
    pub(super) fn bypass_overridden(&self, warnings: &mut Vec<Warning>) {
        if declared_global(global_knob(self.family), self.desired) != Some(false) {
            return;
        }
        let knob = own_knob(self.family);
        for name in self.will_be.bridges().iter().filter(|name| self.will_be.own_switch(name, knob)) {
            let declared = self.desired.bridges.get(name).and_then(|bridge| match self.family {
                IpFamily::V4 => bridge.nf_call_iptables,
                IpFamily::V6 => bridge.nf_call_ip6tables,
            });
            if declared.is_some() {
                continue;
            }
            let message = WarningMessage::new(format!("{name} stays in netfilter"))
                .cause(format!("its own {knob} is 1, and either switch is enough"))
                .fix(format!("declare `{knob}: false` for that bridge"));
            let origin = self.desired.bridges.get(name).map(|bridge| bridge.origin.clone());
            warnings.push(Warning::new(LintCode::BypassOverridden, message, origin));
        }
    }
}

/// Where the bypass is declared.
fn declared(desired: &Desired) -> Option<Origin> {
    let keys = IpFamily::ALL.map(global_knob);
    let mut entries = desired.sysctl.values().flat_map(|file| &file.entries);
    let entry = entries.find(|e| keys.contains(&e.key.path()) && e.value.trim() == "0")?;
    Some(entry.origin.clone())
}

/// Who filters bridged frames on a host as it is, with what shows it.
pub fn evidence(observed: &Observed) -> BTreeSet<String> {
    let mut found = programs(observed);
    for (family, rules) in &observed.rules {
        found.extend(dead_filters(*family, &rules.live, observed));
    }
    found
}

/// Programs that filter guests there, by their chains, links and files.
fn programs(observed: &Observed) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rules in observed.rules.values() {
        for chain in rules.live.tables.values().flat_map(|table| table.chains()) {
            if let Some((_, who)) = FILTERS.iter().find(|(start, _)| chain.name.starts_with(start)) {
                found.insert(format!("{who} (chain {})", shortened(&chain.name)));
            }
        }
    }
    for name in observed.links.by_name.keys() {
        if name.starts_with("qbr") || name.starts_with("brq") {
            found.insert(format!(
                "OpenStack neutron: security groups of its guests (bridge {})",
                shortened(name)
            ));
        }
    }
    for (what, file) in &observed.other_filters.evidence {
        let who = match what.as_str() {
            "docker-icc" => "Docker with icc=false: containers kept apart",
            "docker-proxy" => "Docker with userland-proxy=false: published ports within one bridge",
            "kubernetes" => "Kubernetes: services and policies of pods behind a bridge",
            _ => continue,
        };
        found.insert(format!("{who} ({file})"));
    }
    found
}

/// One guest's chain or bridge stands for all of its kind.
fn shortened(name: &str) -> String {
    match name.find('-').filter(|_| !name.starts_with("KUBE")) {
        Some(at) => format!("{}…", &name[..=at]),
        None if name.starts_with("qbr") || name.starts_with("brq") => format!("{}…", &name[..3]),
        None => name.to_owned(),
    }
}

/// Rules that drop bridged frames and would see none any more.
fn dead_filters(family: IpFamily, save: &SavedTables, observed: &Observed) -> BTreeSet<String> {
    let set = Ruleset::new(save);
    let mut dead = Vec::new();
    for (table, chains) in &save.tables {
        for chain in chains.chains() {
            if FILTERS.iter().any(|(start, _)| chain.name.starts_with(start)) {
                continue;
            }
            let rules = set.rules(table, &chain.name).unwrap_or_default();
            let drops =
                rules.iter().filter(|rule| rule.target == RuleTarget::Drop && is_bridged(rule, observed));
            dead.extend(drops.map(|rule| format!("{}/{} `{}`", table, super::plain(&chain.name), rule.text)));
        }
    }
    let Some(first) = dead.first() else { return BTreeSet::new() };
    let more = if dead.len() > 1 { format!(" and {} more", dead.len() - 1) } else { String::new() };
    [format!("{family} rules that would see no frames: {first}{more}")].into()
}

/// Whether only bridged frames can meet a rule: it asks for a port, or comes and goes by one bridge.
pub(super) fn is_bridged(rule: &ParsedRule, observed: &Observed) -> bool {
    let tests = || rule.matches.iter().filter(|one| !one.negated).map(|one| &one.test);
    let by_port = |test: &MatchTest| {
        matches!(
            test,
            MatchTest::PhysIn(_)
                | MatchTest::PhysOut(_)
                | MatchTest::PhysIsIn
                | MatchTest::PhysIsOut
                | MatchTest::PhysIsBridged
        )
    };
    let bridge =
        |DevicePattern(name): &DevicePattern| observed.links.by_name.get(name).is_some_and(|l| l.is_bridge());
    let within =
        |name: &DevicePattern| tests().any(|other| matches!(other, MatchTest::Out(out) if out == name));
    tests().any(by_port)
        || tests().any(|test| matches!(test, MatchTest::In(name) if bridge(name) && within(name)))
}
