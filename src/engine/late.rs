//! Looks at hosts, and those of them that go on while others are changed already.

use super::look::internal;
use super::outcome::{HostOutcome, Status};
use crate::jump_hosts::HostEndpoints;
use crate::plan::HostPlan;
use crate::transport::Session;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot::{self, Receiver, error::TryRecvError};
use tokio::task::{AbortHandle, JoinSet};

/// How long nothing may come from the last hosts that are looked at, once all others wait for them: one that is
/// silent after its login does not hold them up for as long as it might if it were asked alone.
pub(super) const LAST_FEW: Duration = Duration::from_secs(20);

/// Who is slower than this and than all before it is not waited for where the others can begin.
pub(super) const A_MOMENT: Duration = Duration::from_secs(1);

/// Whether so many are the last of all, and others wait for them.
pub(super) fn are_last_few(left: usize, total: usize) -> bool {
    left < total && left <= total.div_ceil(10)
}

/// The reason of a host that had not answered when the others began.
pub const LATE: &str = "straggler";

/// What a look at a host came to.
pub(super) struct Looked {
    /// Its plan, or the outcome that stands in its place.
    pub result: Result<Box<HostPlan>, HostOutcome>,
    /// Both ends of the connection that probed it.
    pub ends: Option<HostEndpoints>,
    /// The connection, where it is wanted for more.
    pub session: Option<Session>,
}

impl Looked {
    /// One that came to no plan.
    pub(super) fn failed(outcome: HostOutcome) -> Self {
        Self { result: Err(outcome), ends: None, session: None }
    }
}

/// A look at a host. It is broken off when nobody waits for it any more.
pub(super) struct Look {
    host: String,
    answer: Receiver<Looked>,
    task: AbortHandle,
    /// It was told that others wait for it.
    pub(super) shown: bool,
}

impl Look {
    /// Begins one. It goes on outside of `tasks` when those are detached.
    pub(super) fn begin<T: Send + 'static>(
        tasks: &mut JoinSet<T>,
        host: &str,
        work: impl Future<Output = (Looked, T)> + Send + 'static,
    ) -> Self {
        let (sender, answer) = oneshot::channel();
        let task = tasks.spawn(async move {
            let (looked, told) = work.await;
            // Nobody may want to know any more.
            drop(sender.send(looked));
            told
        });
        Self { host: host.to_owned(), answer, task, shown: false }
    }

    /// What it came to, if it is over.
    pub(super) fn over(&mut self) -> Option<Looked> {
        match self.answer.try_recv() {
            Ok(looked) => Some(looked),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Closed) => Some(broken(&self.host)),
        }
    }

    /// The same, and wakes who waits for it when it is.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Looked> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or_else(|_| broken(&self.host)))
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A panic in a task is a bug of ours; the host is told of all the same.
fn broken(host: &str) -> Looked {
    Looked::failed(internal(host, "kvmfw itself failed while it looked at this host"))
}

/// The outcome of a host that all others would have had to wait for.
pub(super) fn silent(host: &str) -> HostOutcome {
    let seconds = LAST_FEW.as_secs();
    HostOutcome::new(host, Status::Unreachable)
        .reason("lost")
        .message(format!("no answer, and for {seconds}s none of the others that were still to come"))
        .hint("alone (--limit) it is given a minute")
}

/// What stands in the place of its plan where the others begin without it.
pub(super) fn to_come(host: &str) -> HostOutcome {
    HostOutcome::new(host, Status::Unreachable)
        .reason(LATE)
        .message("no answer yet: the others begin, and its turn comes after theirs")
}

/// The outcome of one that had not answered when the run was over for all others.
pub(super) fn unanswered(host: &str) -> HostOutcome {
    HostOutcome::new(host, Status::Unreachable).reason(LATE).message("no answer before the run stopped")
}
