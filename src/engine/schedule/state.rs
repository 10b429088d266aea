//! State of a running rollout.

use super::batches::{BatchQueue, QueueIndex};
use super::host_task::{HostIndex, HostTask, Straggler};
use crate::engine::events::{EngineEvent, EventSender};
use crate::engine::outcome::HostOutcome;
use std::collections::BTreeMap;

/// Every host is in one place: in the queue, among the stragglers, in flight, or among the outcomes.
pub(super) struct RolloutState {
    pub queue: BatchQueue<HostTask>,
    pub stragglers: BTreeMap<QueueIndex, Straggler>,
    pub outcomes: BTreeMap<HostIndex, HostOutcome>,
}

impl RolloutState {
    /// Records and reports the outcome of a host.
    pub(super) fn record(&mut self, index: HostIndex, events: &EventSender, outcome: HostOutcome) {
        events.emit(EngineEvent::Done(outcome.clone()));
        self.outcomes.insert(index, outcome);
    }

    /// Records the outcome of a straggler that needs no transaction.
    pub(super) fn finish_straggler(
        &mut self,
        queued: QueueIndex,
        index: HostIndex,
        events: &EventSender,
        outcome: HostOutcome,
    ) {
        self.queue.finish_straggler(queued, outcome.status);
        self.record(index, events, outcome);
    }
}
