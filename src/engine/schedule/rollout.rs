//! Runs the transactions of a rollout, in the order of its queue.

use super::batches::{BatchQueue, QueueIndex, RolloutLimits};
use super::host_task::{HostIndex, HostTask, Straggler, outcome_without_changes};
use super::state::RolloutState;
use super::stragglers::await_stragglers;
use crate::engine::context::EngineContext;
use crate::engine::events::EngineEvent;
use crate::engine::outcome::{HostOutcome, HostStatus};
use crate::engine::probe::{FleetPlan, Planned, ProbeResult, unanswered_outcome};
use crate::engine::transaction::apply_host;
use crate::plan::HostPlan;
use std::collections::{BTreeMap, HashMap};
use tokio::task::{Id, JoinError, JoinSet};

/// Carries plans out. Outcomes are in the order of the plans.
pub(in crate::engine) async fn apply_fleet(
    context: &EngineContext,
    fleet: &mut FleetPlan,
    planned: Vec<Planned>,
) -> Vec<HostOutcome> {
    let total = planned.len();
    let (outcomes, hosts) = partition_unchanged(planned, fleet);
    let unreachable = outcomes.values().filter(|outcome| outcome.status == HostStatus::Unreachable).count();
    let max_unreachable = context.settings.max_unreachable.of(total);
    let too_many_unreachable = unreachable > max_unreachable;
    if too_many_unreachable && !hosts.is_empty() {
        context.events.emit(EngineEvent::Note(format!(
            "{unreachable} of {total} hosts are unreachable, more than --max-unreachable allows: no host is changed"
        )));
    }
    let limits = RolloutLimits {
        batches: &context.settings.batches,
        max_fail: context.settings.max_fail,
        max_unreachable: max_unreachable.saturating_sub(unreachable),
        parallel: context.settings.parallel,
    };
    let number = hosts.len();
    let (queue, stragglers) = enqueue(hosts, &limits);
    context.events.emit(EngineEvent::Applying { hosts: number, max_fail: queue.failures().1 });
    context.interrupt.start_changing();
    let mut state = RolloutState { queue, stragglers, outcomes };
    if !too_many_unreachable {
        run_queue(context, fleet, &mut state).await;
    }
    skip_pending(context, fleet, &mut state, too_many_unreachable);
    state.outcomes.into_values().collect()
}

/// A host that a rollout has to deal with.
enum Candidate {
    Ready(HostTask),
    Straggling(Straggler),
}

/// Splits off the hosts that need no transaction, with their outcomes.
fn partition_unchanged(
    planned: Vec<Planned>,
    fleet: &mut FleetPlan,
) -> (BTreeMap<HostIndex, HostOutcome>, Vec<Candidate>) {
    let mut outcomes = BTreeMap::new();
    let mut hosts = Vec::new();
    for (index, Planned { desired, options, result }) in planned.into_iter().enumerate() {
        let index = HostIndex(index);
        match (result, fleet.stragglers.remove(&desired.host)) {
            (_, Some(probe)) => {
                hosts.push(Candidate::Straggling(Straggler { index, desired, options, probe }));
            }
            (Ok(plan), None) => match outcome_without_changes(&plan) {
                Some(outcome) => {
                    outcomes.insert(index, HostOutcome { plan: Some(plan), ..outcome });
                }
                None => hosts.push(Candidate::Ready(HostTask { index, desired, options, plan })),
            },
            (Err(outcome), None) => {
                outcomes.insert(index, outcome);
            }
        }
    }
    (outcomes, hosts)
}

fn enqueue(
    hosts: Vec<Candidate>,
    limits: &RolloutLimits<'_>,
) -> (BatchQueue<HostTask>, BTreeMap<QueueIndex, Straggler>) {
    let mut stragglers = BTreeMap::new();
    let queued = hosts.into_iter().enumerate().map(|(index, host)| match host {
        Candidate::Ready(task) => (task.constraints(), Some(task)),
        Candidate::Straggling(straggler) => {
            let constraints = straggler.desired.scheduling.clone();
            stragglers.insert(QueueIndex(index), straggler);
            (constraints, None)
        }
    });
    let queue = BatchQueue::new(queued.collect(), limits);
    (queue, stragglers)
}

/// A host whose transaction runs.
struct InFlight {
    queued: QueueIndex,
    index: HostIndex,
    host: String,
}

/// Starts hosts until none is left that may start.
async fn run_queue(context: &EngineContext, fleet: &mut FleetPlan, state: &mut RolloutState) {
    let mut tasks = JoinSet::new();
    let mut in_flight: HashMap<Id, InFlight> = HashMap::new();
    let mut batch = 0;
    loop {
        while !context.interrupt.is_requested()
            && let Some((queued, HostTask { index, desired, options, plan })) = state.queue.start()
        {
            let (number, of) = state.queue.batch();
            if number != batch {
                batch = number;
                context.events.emit(EngineEvent::Batch { number, of });
            }
            let host = desired.host.clone();
            let client = fleet.clients.remove(&host);
            let context = context.clone();
            let task =
                tasks.spawn(async move { apply_host(&context, &desired, &options, plan, client).await });
            in_flight.insert(task.id(), InFlight { queued, index, host });
        }
        let Some(joined) = tasks.join_next_with_id().await else {
            if context.interrupt.is_requested() || !state.queue.awaits_stragglers() {
                return;
            }
            await_stragglers(context, fleet, state).await;
            continue;
        };
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(InFlight { queued, index, host }) = in_flight.remove(&id) else { continue };
        let outcome = joined.map_or_else(|_| task_panicked(&host), |(_, outcome)| outcome);
        state.queue.finish(queued, outcome.status);
        state.record(index, &context.events, outcome);
    }
}

/// A panic is a bug of kvmfw. The guard on the host decides, and the outcome is unknown here.
fn task_panicked(host: &str) -> HostOutcome {
    HostOutcome::new(host, HostStatus::Unknown)
        .reason("internal")
        .message("kvmfw itself failed while it changed this host; the guard of the host decides")
        .hint(format!("run `kvmfw status {host}`"))
}

/// Why hosts were not started.
enum SkipReason {
    Interrupted,
    /// More hosts are unreachable than allowed.
    Unreachable,
    /// Hosts of this group are in state `Unknown`, and count as in flight.
    Group(String),
    /// Number of failures, and the number that stops the run.
    Failures(usize, usize),
}

/// Gives an outcome to every host that was not started.
fn skip_pending(
    context: &EngineContext,
    fleet: &mut FleetPlan,
    state: &mut RolloutState,
    too_many_unreachable: bool,
) {
    let RolloutState { queue, stragglers, outcomes } = state;
    let pending = queue.take_pending();
    let reason = |queued: QueueIndex| {
        let (failed, max_fail) = queue.failures();
        if context.interrupt.is_requested() {
            SkipReason::Interrupted
        } else if too_many_unreachable || queue.too_many_unreachable() {
            SkipReason::Unreachable
        } else if let Some(group) = queue.blocking_group(queued).filter(|_| failed < max_fail) {
            SkipReason::Group(group.to_owned())
        } else {
            SkipReason::Failures(failed, max_fail)
        }
    };
    for (queued, task) in pending {
        outcomes.insert(task.index, skipped_with_plan(task.plan, &reason(queued)));
    }
    for (queued, mut straggler) in std::mem::take(stragglers) {
        let host = &straggler.desired.host;
        let outcome = match straggler.probe.try_result() {
            None => unanswered_outcome(host),
            Some(ProbeResult { plan, client, .. }) => {
                if let Some(client) = client {
                    // Closed with the others: one after the other they would take long.
                    fleet.clients.insert(host.clone(), client);
                }
                plan.map_or_else(|outcome| outcome, |plan| skipped_with_plan(plan, &reason(queued)))
            }
        };
        outcomes.insert(straggler.index, outcome);
    }
}

fn skipped_with_plan(plan: Box<HostPlan>, reason: &SkipReason) -> HostOutcome {
    let outcome = outcome_without_changes(&plan).unwrap_or_else(|| skipped_outcome(&plan.host, reason));
    HostOutcome { plan: Some(plan), ..outcome }
}

fn skipped_outcome(host: &str, reason: &SkipReason) -> HostOutcome {
    let (reason, message) = match reason {
        SkipReason::Interrupted => ("interrupted", "interrupted before this host was started".to_owned()),
        SkipReason::Unreachable => ("max-unreachable", "too many hosts are unreachable".to_owned()),
        SkipReason::Group(group) => (
            "max-in-flight",
            format!("a host of group `{group}` is in state unknown and counts as in flight (max_in_flight)"),
        ),
        SkipReason::Failures(failed, max_fail) => {
            ("budget", format!("{failed} failed, and --max-fail is {max_fail}"))
        }
    };
    HostOutcome::new(host, HostStatus::Skipped).reason(reason).message(message)
}
