//! A prediction, and the differences between it and the host.

use super::HOST;
use crate::common::Lab;
use kvmfw::host_state::Observed;
use kvmfw::impact::{FlowDecider, FlowEnds, FlowKind, FlowVerdict, PacketFlow};
use kvmfw::netfilter::BridgeView;
use kvmfw::plan::{
    self, GenerationManifest, HostAfter, HostPlan, HostVerdict, PlanOptions, ResourceKind, forecast,
};
use kvmfw::problem::{LintCode, Warning};
use kvmfw::resolve::Desired;
use kvmfw::resource::iptables::IpFamily;
use kvmfw::resource::iptables::save::SavedTables;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

/// Lints about a change, which say nothing once it is done.
const OF_CHANGES: [LintCode; 3] = [
    // Connections that the kernel did not track before: it tracks them now.
    LintCode::FirstConntrack,
    // The connection that reads the plan, which is judged only where the plan changes rules or its link.
    LintCode::SessionDies,
    LintCode::LockoutUnknown,
];

/// Verdict and decider by flow.
type Flows = BTreeMap<(IpFamily, PacketFlow), (FlowVerdict, Option<FlowDecider>)>;

/// What a plan says of the host that it leaves.
pub struct Prediction<'a> {
    desired: &'a Desired,
    before: &'a Observed,
    plan: &'a HostPlan,
    host: HostAfter<'a>,
    rules: BTreeMap<IpFamily, SavedTables>,
    flows: Flows,
}

impl<'a> Prediction<'a> {
    pub fn new(desired: &'a Desired, before: &'a Observed, plan: &'a HostPlan) -> Self {
        let record = before.state.record.as_deref().map(|text| GenerationManifest::parse(text).unwrap());
        let rules = IpFamily::ALL.map(|family| (family, forecast::rules_after(family, desired, before)));
        Self {
            desired,
            before,
            plan,
            host: HostAfter::planned(desired, before, &record.unwrap_or_default()),
            rules: rules.into(),
            flows: flows(desired, before),
        }
    }

    /// The differences from the host as it is now.
    pub fn compare(&self, lab: &Lab, after: &Observed, options: &PlanOptions) -> Vec<String> {
        let mut wrong = Vec::new();
        self.compare_state(&self.host, lab, after, &mut wrong);
        let live = HostAfter::live(after);
        differ("sets", self.host.sets(), live.sets(), &mut wrong);
        if !self.plan.changes.iter().any(|change| change.kind == ResourceKind::Bridge) {
            let [was, is] = [self.before, after].map(|observed| {
                let context = forecast::host_context(observed);
                (context.addresses, context.routes)
            });
            differ("addresses and routes", was, is, &mut wrong);
        }
        self.compare_flows(lab, after, &mut wrong);
        self.compare_plans(after, options, &mut wrong);
        wrong
    }

    /// The differences from the host after a reboot.
    pub fn compare_booted(&self, lab: &Lab, booted: &Observed, wrong: &mut Vec<String>) {
        let mut differences = Vec::new();
        self.compare_state(&self.host.at_boot(), lab, booted, &mut differences);
        wrong.extend(differences.iter().map(|text| format!("booted: {text}")));
    }

    /// Rules, bridges and keys.
    fn compare_state(&self, host: &HostAfter<'_>, lab: &Lab, after: &Observed, wrong: &mut Vec<String>) {
        let live = HostAfter::live(after);
        for family in IpFamily::ALL {
            let there = &after.rules[&family].live;
            differ_entries(&format!("{family} rules"), chains(&self.rules[&family]), chains(there), wrong);
            for name in live.bridges() {
                let view = |side: &HostAfter<'_>| {
                    let mut view: BridgeView = side.bridge_view(family, &name);
                    view.ports.sort();
                    view
                };
                differ(&format!("{family} {name}"), view(host), view(&live), wrong);
            }
            for device in
                after.links.by_name.keys().filter(|device| self.before.links.by_name.contains_key(*device))
            {
                let forwards = |side: &HostAfter<'_>| side.forwards(family, device).map(|(on, _)| on);
                differ(&format!("{family} forwarding of {device}"), forwards(host), forwards(&live), wrong);
            }
        }
        differ("bridges", host.bridges(), live.bridges(), wrong);
        for path in self.before.sysctl.keys() {
            let predicted = host.key(path).map(|(value, _)| value);
            differ(path, predicted, read(lab, path), wrong);
        }
    }

    fn compare_flows(&self, lab: &Lab, after: &Observed, wrong: &mut Vec<String>) {
        for (flow, is) in flows(self.desired, after) {
            match self.flows.get(&flow) {
                Some(predicted) => differ(&format!("{flow:?}"), predicted.clone(), is, wrong),
                None if self.before.links.by_name.len() == after.links.by_name.len() => {
                    wrong.push(format!("{flow:?} was not predicted"));
                }
                None => {}
            }
        }
        let verdict = |kind| {
            let ends = FlowEnds::BetweenGuests("br123".to_owned());
            let flow = PacketFlow { ends, kind, at_boot: false };
            self.flows.get(&(IpFamily::V4, flow)).map(|(verdict, _)| *verdict)
        };
        let expected = match (verdict(FlowKind::Ping), verdict(FlowKind::Established)) {
            (Some(FlowVerdict::Open | FlowVerdict::Rewritten), Some(FlowVerdict::Open)) => Some(true),
            (Some(FlowVerdict::Blocked), _) => Some(false),
            _ => None,
        };
        if let Some(expected) = expected {
            differ("a ping from guest to guest", expected, lab.guest_ping(HOST, "g0", "192.168.1.2"), wrong);
        }
    }

    /// The plan once more: there is nothing left to do, and the lints find the same.
    fn compare_plans(&self, after: &Observed, options: &PlanOptions, wrong: &mut Vec<String>) {
        let again = plan::compute(self.desired, after, options);
        if !options.purge && again.verdict != HostVerdict::Unchanged {
            wrong.push(format!("the next plan is not empty: {:?} {:#?}", again.verdict, again.changes));
        }
        differ_entries("lints", found(&self.plan.warnings), found(&again.warnings), wrong);
    }
}

fn differ<T: PartialEq + Debug>(what: &str, predicted: T, is: T, wrong: &mut Vec<String>) {
    if predicted != is {
        wrong.push(format!("{what}:\n  predicted {predicted:?}\n  is        {is:?}"));
    }
}

/// The entries that only one of two sorted collections has.
fn differ_entries<T: Ord + Debug>(
    what: &str,
    predicted: impl IntoIterator<Item = T>,
    is: impl IntoIterator<Item = T>,
    wrong: &mut Vec<String>,
) {
    let (predicted, is): (BTreeSet<T>, BTreeSet<T>) =
        (predicted.into_iter().collect(), is.into_iter().collect());
    let only = |one: &BTreeSet<T>, other: &BTreeSet<T>| {
        one.difference(other).map(|entry| format!("{entry:?}")).collect::<Vec<_>>().join(", ")
    };
    differ(what, only(&predicted, &is), only(&is, &predicted), wrong);
}

/// Policy and rules by table and chain, without built-in chains that do nothing.
fn chains(save: &SavedTables) -> BTreeMap<(&str, &str), (String, &[String])> {
    let mut all = BTreeMap::new();
    for (table, chains) in &save.tables {
        for chain in chains.chains() {
            let policy = chain.policy.map_or_else(|| "-".to_owned(), |policy| policy.to_string());
            if policy != "ACCEPT" || !chain.rules.is_empty() {
                all.insert((table.as_str(), chain.name.as_str()), (policy, &chain.rules[..]));
            }
        }
    }
    all
}

fn flows(desired: &Desired, observed: &Observed) -> Flows {
    let mut flows = Flows::new();
    for (family, change) in plan::flows(desired, observed).into_iter().filter(|(_, c)| !c.flow.at_boot) {
        // Of ports that end alike any may stand for all, and with it what decides about it.
        let of_ports = matches!(
            change.flow.ends,
            FlowEnds::BetweenGuests(_) | FlowEnds::ToUplink(_) | FlowEnds::FromUplink(_)
        );
        let by = match change.by {
            _ if of_ports => None,
            // A table without rules may be absent.
            FlowDecider::Rule(step) if step.index.is_none() && &*step.text == "policy ACCEPT" => {
                Some(FlowDecider::Nothing)
            }
            by => Some(by),
        };
        let flow = flows.entry((family, change.flow)).or_insert((change.after, by.clone()));
        if change.after > flow.0 {
            *flow = (change.after, by);
        }
    }
    flows
}

/// Whether a finding is about a change: it says nothing once that is done.
fn is_of_change(warning: &Warning) -> bool {
    // A host that never forwarded is no finding: only a plan that ends it is.
    let of_routed = "that have the host as their gateway";
    OF_CHANGES.contains(&warning.code)
        || warning.code == LintCode::GuestsUnreachable && warning.message.finding.contains(of_routed)
}

/// Codes with their places and findings.
fn found(warnings: &[Warning]) -> BTreeSet<(&'static str, String, String)> {
    let of_state = warnings.iter().filter(|warning| !is_of_change(warning));
    of_state
        .map(|warning| {
            let origin = warning.origin.as_ref().map(ToString::to_string);
            let finding = warning.message.finding.replace(" will be ", " are ");
            (warning.code.as_str(), origin.unwrap_or_default(), finding)
        })
        .collect()
}

/// The value of a key on the host.
fn read(lab: &Lab, path: &str) -> Option<String> {
    let output = lab.host(HOST, &["cat", &format!("/proc/sys/{path}")]);
    output.success().then(|| output.stdout.trim().to_owned())
}
