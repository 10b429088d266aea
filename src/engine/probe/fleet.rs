//! Probes all hosts in parallel and plans each.

use super::host::probe_host;
use super::jump_addresses::JumpAddresses;
use super::task::{
    ProbeResult, ProbeTask, STRAGGLER_GRACE, TAIL_PROBE_TIMEOUT, is_tail, probe_timeout_outcome,
    straggler_outcome,
};
use crate::engine::client::HostClient;
use crate::engine::context::EngineContext;
use crate::engine::events::EngineEvent;
use crate::engine::outcome::{HostOutcome, HostStatus};
use crate::explain;
use crate::jump_hosts::{HostEndpoints, ObservedRoutes};
use crate::plan::{self, HostPlan, HostVerdict, PlanOptions};
use crate::resolve::Desired;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Number of hosts whose connections stay open for the apply, first in order. Each costs an ssh process here and one on
/// the host.
const MAX_REUSED_CLIENTS: usize = 256;

/// A host with its plan, or the reason why it has none.
#[derive(Debug)]
pub struct Planned {
    /// Its desired state.
    pub desired: Arc<Desired>,
    /// What the user allows for it.
    pub options: PlanOptions,
    /// The plan, or the outcome of a host without one.
    pub result: Result<Box<HostPlan>, HostOutcome>,
}

/// What happens to plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanMode {
    /// They are shown only.
    DryRun,
    /// They are shown, and applied after the user agreed.
    Interactive,
    /// They are applied at once.
    Unattended,
}

/// What the probes leave for the apply.
#[derive(Default)]
pub(in crate::engine) struct FleetPlan {
    /// Open connections, by host.
    pub clients: BTreeMap<String, HostClient>,
    /// Probes that had not ended when the plans were due, by host.
    pub stragglers: BTreeMap<String, ProbeTask>,
    /// Routes of the hosts that have answered.
    pub routes: ObservedRoutes,
}

/// Summary of a probe that has ended.
struct ProbeSummary {
    host: String,
    error: Option<String>,
    duration: Duration,
    unreachable: bool,
    has_changes: bool,
}

impl ProbeSummary {
    fn new(host: &str, result: &Result<Box<HostPlan>, HostOutcome>, duration: Duration) -> Self {
        let outcome = result.as_ref().err();
        Self {
            host: host.to_owned(),
            error: outcome.and_then(|outcome| outcome.message.clone()),
            duration,
            unreachable: outcome.is_some_and(|outcome| outcome.status == HostStatus::Unreachable),
            has_changes: result.as_ref().is_ok_and(|plan| plan.verdict == HostVerdict::Changes),
        }
    }
}

/// Counts of the probes that have ended.
#[derive(Default)]
struct ProbeTally {
    unreachable: usize,
    has_changes: bool,
    /// Longest duration among the hosts that answered.
    slowest: Duration,
}

impl ProbeTally {
    fn count(&mut self, summary: &ProbeSummary) {
        self.has_changes |= summary.has_changes;
        if summary.unreachable {
            self.unreachable += 1;
        } else {
            self.slowest = self.slowest.max(summary.duration);
        }
    }

    /// Whether the rollout may start, even if none of the `pending` hosts answers.
    fn allows_start(&self, pending: usize, max_unreachable: usize) -> bool {
        self.has_changes && self.unreachable + pending <= max_unreachable
    }
}

/// Observes every host with one request and plans it. Unless it is a dry run, connections stay open for the apply. If
/// nobody reads the plans before the apply, it need not wait for a few stragglers: their probes go on.
pub(in crate::engine) async fn plan_fleet(
    context: &EngineContext,
    hosts: Vec<(Desired, PlanOptions)>,
    mode: PlanMode,
) -> (Vec<Planned>, FleetPlan) {
    let total = hosts.len();
    context.events.emit(EngineEvent::Observing(total));
    let addresses = match hosts.first() {
        Some((desired, _)) => JumpAddresses::resolve(&desired.jump_hosts),
        None => Arc::default(),
    };
    let mut tasks = JoinSet::new();
    let mut probes = Vec::with_capacity(total);
    for (index, (desired, options)) in hosts.into_iter().enumerate() {
        let desired = Arc::new(desired);
        let probe = probe_and_plan(
            context.clone(),
            index,
            desired.clone(),
            options.clone(),
            addresses.clone(),
            mode != PlanMode::DryRun,
        );
        probes.push((ProbeTask::spawn(&mut tasks, &desired.host, probe), desired, options));
    }
    let (reported, started) = await_probes(context, &mut tasks, mode).await;
    let mut planned = Vec::with_capacity(total);
    let mut fleet = FleetPlan::default();
    for (index, (mut probe, desired, options)) in probes.into_iter().enumerate() {
        let host = desired.host.clone();
        let ProbeResult { plan: result, endpoints, client } = match probe.try_result() {
            Some(result) => result,
            None if started => {
                fleet.stragglers.insert(host.clone(), probe);
                ProbeResult::failed(straggler_outcome(&host))
            }
            None => ProbeResult::failed(probe_timeout_outcome(&host)),
        };
        if !reported.contains(&index) {
            let error = result.as_ref().err().and_then(|outcome| outcome.message.clone());
            context.events.emit(EngineEvent::Observed(host.clone(), error));
        }
        if let Some(client) = client {
            fleet.clients.insert(host.clone(), client);
        }
        if let Some(endpoints) = endpoints.filter(|_| !options.drift) {
            fleet.routes.insert(index, &host, desired.scheduling.jump_depth, endpoints);
        }
        planned.push(Planned { desired, options, result });
    }
    tasks.detach_all();
    for (position, role) in fleet.routes.roles() {
        if let Some(Planned { result: Ok(plan), .. }) = planned.get_mut(position) {
            plan.mark_jump_host(&role);
        }
    }
    (planned, fleet)
}

/// Waits until all probes have ended, the last ones have timed out, or the rollout may start without them. Returns the
/// positions whose end was reported, and whether the rollout may start.
async fn await_probes(
    context: &EngineContext,
    tasks: &mut JoinSet<(usize, ProbeSummary)>,
    mode: PlanMode,
) -> (BTreeSet<usize>, bool) {
    let total = tasks.len();
    let max_unreachable = context.settings.max_unreachable.of(total);
    let mut tally = ProbeTally::default();
    let mut reported = BTreeSet::new();
    let mut may_start = false;
    while !tasks.is_empty() {
        let pending = tasks.len();
        let all_running = pending <= context.settings.parallel;
        may_start =
            all_running && mode == PlanMode::Unattended && tally.allows_start(pending, max_unreachable);
        let limit = match may_start {
            true => tally.slowest.max(STRAGGLER_GRACE),
            false if all_running && is_tail(pending, total) => TAIL_PROBE_TIMEOUT,
            false => Duration::MAX,
        };
        let Ok(joined) = timeout(limit, tasks.join_next()).await else { break };
        if let Some(Ok((index, summary))) = joined {
            reported.insert(index);
            tally.count(&summary);
            context.events.emit(EngineEvent::Observed(summary.host, summary.error));
        }
    }
    (reported, may_start)
}

/// Probes one host when a slot is free. With `keep_open`, an abandoned transaction is ended first, and the connection is
/// kept for the apply.
async fn probe_and_plan(
    context: EngineContext,
    index: usize,
    desired: Arc<Desired>,
    options: PlanOptions,
    addresses: Arc<JumpAddresses>,
    keep_open: bool,
) -> (ProbeResult, (usize, ProbeSummary)) {
    let _permit = context.probe_slots.clone().acquire_owned().await;
    let start = Instant::now();
    let (observed, client) =
        probe_host(&context.dialer, &context.events, &desired, &options, &addresses, keep_open).await;
    let endpoints = observed.as_ref().ok().map(|(observed, _)| HostEndpoints::from(&**observed));
    // Planned inside the task: what was observed is large, and only the plan is needed afterwards.
    let plan = observed.and_then(|(observed, _room)| {
        let mut plan = plan::compute(&desired, &observed, &options);
        explain::judge_plan(&mut plan, &desired, &observed, &options);
        match context.plan_check.as_ref().and_then(|check| check(&plan)) {
            Some(outcome) => Err(outcome),
            None => {
                context.shared.share(&mut plan);
                Ok(Box::new(plan))
            }
        }
    });
    let client = match client {
        Some(client) if keep_open && index < MAX_REUSED_CLIENTS => Some(client),
        Some(client) => {
            client.close().await;
            None
        }
        None => None,
    };
    let summary = ProbeSummary::new(&desired.host, &plan, start.elapsed());
    (ProbeResult { plan, endpoints, client }, (index, summary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_hosts_count_as_unreachable() {
        let (changed, unreachable) = (Some(HostVerdict::Changes), None);
        let tally = |verdicts: &[Option<HostVerdict>]| {
            let mut tally = ProbeTally::default();
            for (verdict, seconds) in verdicts.iter().zip(1..) {
                tally.count(&ProbeSummary {
                    host: String::new(),
                    error: None,
                    duration: Duration::from_secs(if verdict.is_some() { seconds } else { 60 }),
                    unreachable: verdict.is_none(),
                    has_changes: *verdict == Some(HostVerdict::Changes),
                });
            }
            tally
        };
        let three = tally(&[changed.clone(), unreachable, changed.clone()]);
        assert!(three.allows_start(1, 2) && !three.allows_start(2, 2) && !three.allows_start(0, 0));
        assert_eq!(three.slowest, Duration::from_secs(3), "unreachable hosts do not count as slow");
        assert!(!tally(&[Some(HostVerdict::Unchanged)]).allows_start(1, 9), "without changes nothing starts");
    }
}
