//! What the rules will do to people, said before they do it.

mod arp;
mod bridged_nat;
mod bypass;
mod essentials;
mod expiring;
mod first_conntrack;
mod guests_unreachable;
mod impact;
mod lockout;
mod missing_accepts;
mod other_tables;
mod ports;
mod routed;
mod routes;
mod rule_order;
mod sockets;
mod tunnel;
mod unknown_bridge;
mod unlimited_log;
mod unmanaged_filters;

pub use bypass::{evidence as bypass_evidence, writers as bypass_writers};
pub(super) use expiring::answers_by_advertisement;

use super::rules::{RulesPlan, as_written, origins};
use super::{ChangeRisk, GenerationManifest, HostAfter, HostPlan, PlanOptions, forecast};
use crate::host_state::{Observed, PredictedRules};
use crate::impact::FlowChange;
use crate::netfilter::{
    HostContext, Packet, PacketDevice, PacketPath, PacketVerdict, Ruleset, TraceStep, simulate,
};
use crate::problem::{Origin, Warning};
use crate::resolve::Desired;
use crate::resource::iptables::save::SavedTables;
use crate::resource::iptables::{IpFamily, PREFIX};

/// Warns and marks risks.
pub(super) fn judge(
    desired: &Desired,
    observed: &Observed,
    (record, options): (&GenerationManifest, &PlanOptions),
    rules: &[RulesPlan; 2],
    plan: &mut HostPlan,
) {
    let (is, will_be) = (HostAfter::live(observed), HostAfter::planned(desired, observed, record));
    for (family, planned) in IpFamily::ALL.into_iter().zip(rules) {
        let Some(there) = observed.rules.get(&family) else { continue };
        // No rules of the plan are known then: the live ones would be judged in their place.
        if matches!(there.predicted, PredictedRules::CannotClone(_)) {
            continue;
        }
        let view = FamilyView::new(
            family,
            desired,
            Some(observed),
            [&there.live, &planned.predicted],
            [&is, &will_be],
        );
        view.guests(plan);
        view.routed_guests(plan);
        view.bridged_nat(&mut plan.warnings);
        let ssh = view.lockout(plan);
        view.tunnel(plan);
        view.expiring(plan);
        view.sockets(plan);
        view.dead_rules(&mut plan.warnings);
        view.starved(&mut plan.warnings);
        view.unfiltered(&mut plan.warnings);
        view.outranked(&mut plan.warnings);
        view.missing_established(&mut plan.warnings);
        view.first_conntrack(&mut plan.warnings);
        if observed.facts.ssh.is_none() {
            view.missing_ssh_accept(&mut plan.warnings);
        }
        view.neighbour_discovery(&mut plan.warnings);
        view.loopback(&mut plan.warnings);
        view.wrong_family(&mut plan.warnings);
        view.unlimited_log(&mut plan.warnings);
        view.ports(&mut plan.warnings);
        view.bypass_overridden(&mut plan.warnings);
        plan.impact.extend(view.impact(ssh.as_ref(), options.all_flows));
    }
    let predicted = [&rules[0].predicted, &rules[1].predicted];
    bypass::wrong(desired, observed, predicted, plan);
    bypass::undone(desired, observed, &mut plan.warnings);
    arp::unanswered(desired, observed, plan);
    unknown_bridge::unknown(desired, observed, &mut plan.warnings);
    routes::lost(desired, observed, &will_be, &mut plan.warnings);
    other_tables::dropped_elsewhere(desired, observed, &mut plan.warnings);
}

/// Every flow of a host before and after its plan, also those to which nothing happens. The impact is made of them;
/// tests compare them with the host once the plan is applied.
pub fn flows(desired: &Desired, observed: &Observed) -> Vec<(IpFamily, FlowChange)> {
    let record = observed.state.record.as_deref().and_then(|text| GenerationManifest::parse(text).ok());
    let record = record.unwrap_or_default();
    let (is, will_be) = (HostAfter::live(observed), HostAfter::planned(desired, observed, &record));
    let mut flows = Vec::new();
    for (family, there) in &observed.rules {
        let predicted = forecast::rules_after(*family, desired, observed);
        let saves = [&there.live, &predicted];
        let view = FamilyView::new(*family, desired, Some(observed), saves, [&is, &will_be]);
        let ssh = view.ssh_verdict();
        flows.extend(view.flows(ssh.as_ref(), true).into_iter().map(|flow| (*family, flow)));
    }
    flows
}

/// Warns of what has changed since the last apply: from the host as it was applied to the host as it is.
pub(super) fn judge_drift(
    applied: &Desired,
    observed: &Observed,
    (record, options): (&GenerationManifest, &PlanOptions),
    rules: &[RulesPlan; 2],
    plan: &mut HostPlan,
) {
    let (was, is) = (HostAfter::planned(applied, observed, record), HostAfter::live(observed));
    for (family, planned) in IpFamily::ALL.into_iter().zip(rules) {
        let Some(there) = observed.rules.get(&family) else { continue };
        let saves = [&planned.predicted, &there.live];
        let view = FamilyView {
            drift: true,
            ..FamilyView::new(family, applied, Some(observed), saves, [&was, &is])
        };
        view.guests(plan);
        view.routed_guests(plan);
        let ssh = view.ssh_verdict();
        plan.impact.extend(view.impact(ssh.as_ref(), options.all_flows));
    }
}

/// What can be said without a host: of the declared rules alone, as they are written.
pub(super) fn offline(desired: &Desired) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let nothing = SavedTables::default();
    for (family, rules) in &desired.rules {
        let written = as_written(&nothing, rules);
        let after = HostAfter::offline(desired);
        let view = FamilyView::new(*family, desired, None, [&nothing, &written], [&after, &after]);
        view.guests_where_filtered(&mut warnings);
        view.bridged_nat(&mut warnings);
        view.dead_rules(&mut warnings);
        view.missing_established(&mut warnings);
        view.missing_ssh_accept(&mut warnings);
        view.neighbour_discovery(&mut warnings);
        view.loopback(&mut warnings);
        view.wrong_family(&mut warnings);
        view.unlimited_log(&mut warnings);
        view.ports(&mut warnings);
    }
    warnings
}

/// One family of one host, as it is and as it will be.
struct FamilyView<'a> {
    family: IpFamily,
    desired: &'a Desired,
    /// `None` where only the inventory is looked at.
    observed: Option<&'a Observed>,
    live: &'a SavedTables,
    predicted: &'a SavedTables,
    before: Ruleset,
    after: Ruleset,
    /// Some set that rules may ask has other members afterwards.
    sets_change: bool,
    /// The members of some set are known, before or afterwards.
    knows_sets: bool,
    /// The host beside its rules, before and after.
    was: &'a HostAfter<'a>,
    will_be: &'a HostAfter<'a>,
    context: HostContext,
    /// What is after has happened already.
    drift: bool,
}

impl<'a> FamilyView<'a> {
    fn new(
        family: IpFamily,
        desired: &'a Desired,
        observed: Option<&'a Observed>,
        [live, predicted]: [&'a SavedTables; 2],
        [was, will_be]: [&'a HostAfter<'a>; 2],
    ) -> Self {
        let (known, wanted) = (was.sets(), will_be.sets());
        let (before, after) = (Ruleset::with_sets(live, &known), Ruleset::with_sets(predicted, &wanted));
        let context = observed.map(forecast::host_context).unwrap_or_default();
        let sets_change = known != wanted;
        let knows_sets = !known.is_empty() || !wanted.is_empty();
        let drift = false;
        Self {
            family,
            desired,
            observed,
            live,
            predicted,
            before,
            after,
            sets_change,
            knows_sets,
            was,
            will_be,
            context,
            drift,
        }
    }

    /// Whether the plan changes rules, or members that rules ask.
    fn changes_verdicts(&self) -> bool {
        self.live != self.predicted || self.sets_change
    }

    /// A packet between the host and another machine.
    fn outside(&self, base: PacketPath, packet: Packet) -> Packet {
        let (absent, physout) = (PacketDevice::Absent, PacketDevice::Absent);
        match base {
            PacketPath::Output => Packet {
                src_local: Some(true),
                in_iface: absent.clone(),
                out_iface: PacketDevice::Outside,
                physin: absent,
                physout,
                ..packet
            },
            PacketPath::Input | PacketPath::Forward => Packet {
                dst_local: Some(true),
                in_iface: PacketDevice::Outside,
                out_iface: absent,
                physout,
                ..packet
            },
        }
    }

    /// The step of ours that drops a packet for certain.
    fn ours_drops(&self, base: PacketPath, packet: &Packet) -> Option<TraceStep> {
        let found = simulate(&self.after, &self.context, base, packet);
        let step = found.decided_by.filter(|_| found.verdict == PacketVerdict::Drop)?;
        let declared = self.desired.rules.get(&self.family)?.tables.get(&*step.table)?;
        let ours = match step.index {
            Some(_) => step.chain.starts_with(PREFIX),
            None => declared.policies.contains_key(&*step.chain),
        };
        ours.then_some(step)
    }

    /// Where the step that decides was declared; of others' rules nothing is known.
    fn origin_of(&self, step: &TraceStep) -> Option<Origin> {
        match step.index {
            Some(index) => self.rule_origin(&step.table, &step.chain, index),
            None => {
                let table = self.desired.rules.get(&self.family)?.tables.get(&*step.table)?;
                table.policies.get(&*step.chain).map(|(_, origin)| origin.clone())
            }
        }
    }

    fn rule_origin(&self, table: &str, chain: &str, index: usize) -> Option<Origin> {
        let declared = self.desired.rules.get(&self.family)?.tables.get(table)?.chains.get(chain)?;
        let count = self.predicted.chain(table, chain)?.rules.len();
        origins(declared, count).into_iter().nth(index.checked_sub(1)?)?
    }

    fn chain_origin(&self, table: &str, chain: &str) -> Option<Origin> {
        Some(self.desired.rules.get(&self.family)?.tables.get(table)?.chains.get(chain)?.origin.clone())
    }
}

fn mark(plan: &mut HostPlan, risk: ChangeRisk, which: impl Fn(&super::Change) -> bool) {
    for change in plan.changes.iter_mut().filter(|c| which(c)) {
        if !change.risks.contains(&risk) {
            change.risks.push(risk);
        }
    }
}

fn plain(chain: &str) -> &str {
    chain.strip_prefix(PREFIX).unwrap_or(chain)
}

/// A step in the words of the inventory.
fn say(step: &TraceStep) -> String {
    match step.index {
        _ if step.chain.is_empty() => step.to_string(),
        Some(index) => format!("{}/{} rule {index} `{}`", step.table, plain(&step.chain), step.text),
        None => format!("the policy of {}/{} ({})", step.table, step.chain, step.text),
    }
}
