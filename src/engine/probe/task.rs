//! The task that probes one host. It can go on while other hosts are changed.

use crate::engine::client::HostClient;
use crate::engine::failures::internal;
use crate::engine::outcome::{HostOutcome, HostStatus};
use crate::jump_hosts::HostEndpoints;
use crate::plan::HostPlan;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot::{self, Receiver, error::TryRecvError};
use tokio::task::{AbortHandle, JoinSet};

/// Idle timeout for the last 10 % of probes. It is shorter than the timeout of a single probe because every other host
/// is waiting.
pub(in crate::engine) const TAIL_PROBE_TIMEOUT: Duration = Duration::from_secs(20);

/// Minimum time to wait for a straggler before the rollout may start without it.
pub(in crate::engine) const STRAGGLER_GRACE: Duration = Duration::from_secs(1);

/// Reason of a host that had not answered when the rollout started.
pub const STRAGGLER: &str = "straggler";

/// Whether so few of all probes remain that [`TAIL_PROBE_TIMEOUT`] applies.
pub(super) fn is_tail(remaining: usize, total: usize) -> bool {
    remaining < total && remaining <= total.div_ceil(10)
}

/// Result of one probe.
pub(in crate::engine) struct ProbeResult {
    /// The plan, or the outcome of a host without one.
    pub plan: Result<Box<HostPlan>, HostOutcome>,
    /// Both ends of the connection that probed the host.
    pub endpoints: Option<HostEndpoints>,
    /// The connection, if it is kept for the apply.
    pub client: Option<HostClient>,
}

impl ProbeResult {
    pub(super) fn failed(outcome: HostOutcome) -> Self {
        Self { plan: Err(outcome), endpoints: None, client: None }
    }
}

/// A probe in progress. Dropping it aborts the probe.
pub(in crate::engine) struct ProbeTask {
    host: String,
    result: Receiver<ProbeResult>,
    task: AbortHandle,
    /// Whether the user has been told that other hosts wait for this one.
    pub announced: bool,
}

impl ProbeTask {
    /// Spawns a probe in `tasks`, which gets the second part of its value. It goes on when `tasks` are detached.
    pub(super) fn spawn<T: Send + 'static>(
        tasks: &mut JoinSet<T>,
        host: &str,
        probe: impl Future<Output = (ProbeResult, T)> + Send + 'static,
    ) -> Self {
        let (sender, result) = oneshot::channel();
        let task = tasks.spawn(async move {
            let (result, summary) = probe.await;
            // The receiver is gone if the run ended meanwhile.
            drop(sender.send(result));
            summary
        });
        Self { host: host.to_owned(), result, task, announced: false }
    }

    /// The result, if the probe has ended.
    pub(in crate::engine) fn try_result(&mut self) -> Option<ProbeResult> {
        match self.result.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(task_panicked(&self.host)),
        }
    }

    /// Polls for the result.
    pub(in crate::engine) fn poll_result(&mut self, context: &mut Context<'_>) -> Poll<ProbeResult> {
        let result = Pin::new(&mut self.result).poll(context);
        result.map(|result| result.unwrap_or_else(|_| task_panicked(&self.host)))
    }
}

impl Drop for ProbeTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A panic is a bug of kvmfw. The host has to be in the result all the same.
fn task_panicked(host: &str) -> ProbeResult {
    ProbeResult::failed(internal(host, "kvmfw itself failed while it probed this host"))
}

/// Outcome of a host that exceeded [`TAIL_PROBE_TIMEOUT`].
pub(in crate::engine) fn probe_timeout_outcome(host: &str) -> HostOutcome {
    let seconds = TAIL_PROBE_TIMEOUT.as_secs();
    HostOutcome::new(host, HostStatus::Unreachable)
        .reason("lost")
        .message(format!("timed out: none of the remaining hosts answered for {seconds}s"))
        .hint(format!("retry with `--limit {host}`: a host alone has 60s to answer"))
}

/// Placeholder for the plan of a straggler.
pub(super) fn straggler_outcome(host: &str) -> HostOutcome {
    HostOutcome::new(host, HostStatus::Unreachable)
        .reason(STRAGGLER)
        .message("no answer yet: the rollout starts without this host and comes back to it")
}

/// Outcome of a straggler that had not answered when the run ended.
pub(in crate::engine) fn unanswered_outcome(host: &str) -> HostOutcome {
    HostOutcome::new(host, HostStatus::Unreachable)
        .reason(STRAGGLER)
        .message("no answer before the run ended")
}
