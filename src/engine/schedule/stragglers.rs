//! Waits for hosts that had not answered when the rollout started.

use super::batches::QueueIndex;
use super::host_task::{HostTask, Straggler, outcome_without_changes};
use super::state::RolloutState;
use crate::engine::context::EngineContext;
use crate::engine::events::{EngineEvent, EventSender};
use crate::engine::outcome::HostOutcome;
use crate::engine::probe::{
    FleetPlan, ProbeResult, STRAGGLER_GRACE, TAIL_PROBE_TIMEOUT, probe_timeout_outcome,
};
use crate::jump_hosts::ObservedRoutes;
use crate::plan::HostPlan;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use tokio::time::timeout;

/// Waits for stragglers once only jump hosts remain. Returns after the first answer plus any that follow within
/// [`STRAGGLER_GRACE`], then recomputes jump depths and queues the hosts.
pub(super) async fn await_stragglers(
    context: &EngineContext,
    fleet: &mut FleetPlan,
    state: &mut RolloutState,
) {
    announce(&context.events, &mut state.stragglers);
    let mut planned = collect_plans(context, fleet, state).await;
    planned.sort_by_key(|(queued, _)| *queued);
    mark_jump_hosts(&fleet.routes, state, &mut planned);
    if !planned.is_empty() {
        let plans: Vec<HostPlan> = planned.iter().map(|(_, task)| (*task.plan).clone()).collect();
        context.events.emit(EngineEvent::Planned(plans));
    }
    let mut queued_tasks = Vec::new();
    for (queued, task) in planned {
        match outcome_without_changes(&task.plan) {
            Some(outcome) => {
                let outcome = HostOutcome { plan: Some(task.plan), ..outcome };
                state.finish_straggler(queued, task.index, &context.events, outcome);
            }
            None => queued_tasks.push((queued, task)),
        }
    }
    state.queue.enqueue_stragglers(queued_tasks);
}

/// Shows the user for which hosts the rollout waits.
fn announce(events: &EventSender, stragglers: &mut BTreeMap<QueueIndex, Straggler>) {
    for straggler in stragglers.values_mut() {
        if !std::mem::replace(&mut straggler.probe.announced, true) {
            events.emit(EngineEvent::Step(straggler.desired.host.clone(), "probing", None));
        }
    }
}

/// Waits for answers, and returns the hosts that have a plan now. Hosts without a plan get their outcome.
async fn collect_plans(
    context: &EngineContext,
    fleet: &mut FleetPlan,
    state: &mut RolloutState,
) -> Vec<(QueueIndex, HostTask)> {
    let mut planned = Vec::new();
    let mut limit = TAIL_PROBE_TIMEOUT;
    while !state.stragglers.is_empty() {
        let answer = tokio::select! {
            answer = timeout(limit, next_result(&mut state.stragglers)) => answer,
            () = context.interrupt.requested() => break,
        };
        let Ok((queued, result)) = answer else {
            if limit == TAIL_PROBE_TIMEOUT {
                for (queued, straggler) in std::mem::take(&mut state.stragglers) {
                    let outcome = probe_timeout_outcome(&straggler.desired.host);
                    state.finish_straggler(queued, straggler.index, &context.events, outcome);
                }
            }
            break;
        };
        limit = STRAGGLER_GRACE;
        let Some(straggler) = state.stragglers.remove(&queued) else { continue };
        let ProbeResult { plan, endpoints, client } = result;
        let host = &straggler.desired.host;
        if let Some(endpoints) = endpoints {
            let declared_depth = straggler.desired.scheduling.jump_depth;
            fleet.routes.insert(straggler.index.0, host, declared_depth, endpoints);
        }
        if let Some(client) = client {
            fleet.clients.insert(host.clone(), client);
        }
        match plan {
            Ok(plan) => planned.push((queued, straggler.into_task(plan))),
            Err(outcome) => state.finish_straggler(queued, straggler.index, &context.events, outcome),
        }
    }
    planned
}

/// The next probe that ends.
async fn next_result(stragglers: &mut BTreeMap<QueueIndex, Straggler>) -> (QueueIndex, ProbeResult) {
    poll_fn(|context| {
        for (queued, straggler) in stragglers.iter_mut() {
            if let Poll::Ready(result) = straggler.probe.poll_result(context) {
                return Poll::Ready((*queued, result));
            }
        }
        Poll::Pending
    })
    .await
}

/// Marks the jump hosts among the hosts that have not started, by the routes that probes observed.
fn mark_jump_hosts(
    routes: &ObservedRoutes,
    state: &mut RolloutState,
    planned: &mut [(QueueIndex, HostTask)],
) {
    let roles = routes.roles();
    let planned = planned.iter_mut().map(|(queued, task)| (*queued, task));
    let depths: Vec<(QueueIndex, usize)> = state
        .queue
        .pending_mut()
        .chain(planned)
        .map(|(queued, task)| {
            if let Some(role) = roles.get(&task.index.0) {
                task.plan.mark_jump_host(role);
            }
            (queued, task.jump_depth())
        })
        .collect();
    for (queued, depth) in depths {
        state.queue.set_jump_depth(queued, depth);
    }
}
