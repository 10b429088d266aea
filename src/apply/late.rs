//! Looks at hosts, and those of them that go on while others are changed already.

use super::Event;
use super::engine::Engine;
use super::look::internal;
use super::outcome::{HostOutcome, Status};
use super::planning::A_MOMENT;
use super::run::{Course, Job, Work, settled};
use crate::plan::HostPlan;
use crate::plan::ways::Ends;
use crate::transport::Session;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot::{self, Receiver, error::TryRecvError};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// How long nothing may come from the last hosts that are looked at, once all others wait for them: one that is
/// silent after its login does not hold them up for as long as it might if it were asked alone.
pub(super) const LAST_FEW: Duration = Duration::from_secs(20);

/// Whether so many are the last of all, and others wait for them.
pub(super) fn are_last_few(left: usize, total: usize) -> bool {
    left < total && left <= total.div_ceil(10)
}

/// The reason of a host that had not answered when the others began.
pub const LATE: &str = "late";

/// What a look at a host came to.
pub(super) struct Looked {
    /// Its plan, or the outcome that stands in its place.
    pub result: Result<Box<HostPlan>, HostOutcome>,
    /// Who asked it, and where it is.
    pub ends: Option<Ends>,
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
    shown: bool,
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
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Looked> {
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or_else(|_| broken(&self.host)))
    }
}

/// What the first of these looks that is over came to, and whose turn it was.
async fn next(jobs: &mut [Option<Job>]) -> (usize, Looked) {
    poll_fn(|context| {
        for (turn, job) in jobs.iter_mut().enumerate() {
            if let Some(Job { work: Work::Look(look), .. }) = job
                && let Poll::Ready(looked) = look.poll(context)
            {
                return Poll::Ready((turn, looked));
            }
        }
        Poll::Pending
    })
    .await
}

impl Engine {
    /// Waits for hosts that are late, now that all others have had their turns but those through which one reaches them:
    /// for the first that answers, and for more as long as they come close upon each other. What all that is known by
    /// then says of who is the way to whom decides about their turns.
    pub(super) async fn hear_late(&mut self, course: &mut Course) {
        let mut planned = BTreeSet::new();
        let mut limit = LAST_FEW;
        self.show_looks(&mut course.jobs);
        while course.silent().next().is_some() {
            let answer = tokio::select! {
                answer = timeout(limit, next(&mut course.jobs)) => answer,
                () = self.interrupt.heard() => break,
            };
            let Ok((turn, Looked { result, ends, session })) = answer else {
                if limit == LAST_FEW {
                    let given_up: Vec<usize> = course.silent().collect();
                    given_up
                        .into_iter()
                        .for_each(|turn| course.settle(turn, &self.events, |job| silent(&job.desired.host)));
                }
                break;
            };
            limit = A_MOMENT;
            let Some(job) = &mut course.jobs[turn] else { continue };
            if let Some(ends) = ends {
                self.seen.add(job.index, &job.desired.host, job.desired.turn.leads, ends);
            }
            if let Some(session) = session {
                self.sessions.insert(job.desired.host.clone(), session);
            }
            match result {
                Ok(plan) => {
                    job.work = Work::Plan(plan);
                    planned.insert(turn);
                }
                Err(outcome) => course.settle(turn, &self.events, |_| outcome),
            }
        }
        course.mark_ways(&self.seen);
        planned.retain(|turn| {
            let Some(Job { work: Work::Plan(plan), .. }) = &course.jobs[*turn] else { return false };
            self.events.emit(Event::Planned(plan.clone()));
            let Some(outcome) = settled(plan) else { return true };
            let outcome = HostOutcome { plan: Some(plan.clone()), ..outcome };
            course.settle(*turn, &self.events, |_| outcome);
            false
        });
        course.rollout.answered(&planned);
    }

    fn show_looks(&self, jobs: &mut [Option<Job>]) {
        for job in jobs.iter_mut().flatten() {
            if let Work::Look(look) = &mut job.work
                && !std::mem::replace(&mut look.shown, true)
            {
                self.events.emit(Event::Step(job.desired.host.clone(), "looking", None));
            }
        }
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
