//! Hosts that answer when others have been changed: waits for them, and finds their turns.

use super::Event;
use super::facade::Engine;
use super::late::{A_MOMENT, LAST_FEW, Looked, silent};
use super::outcome::HostOutcome;
use super::run::{Course, Job, Work, settled};
use crate::plan::HostPlan;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Poll;
use tokio::time::timeout;

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
                self.routes.insert(job.index, &job.desired.host, job.desired.scheduling.jump_depth, ends);
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
        course.mark_jump_hosts(&self.routes);
        let plan = |turn: &usize| match &course.jobs[*turn] {
            Some(Job { work: Work::Plan(plan), .. }) => Some(&**plan),
            _ => None,
        };
        let plans: Vec<HostPlan> = planned.iter().filter_map(plan).cloned().collect();
        let settled: Vec<(usize, HostOutcome)> = planned
            .iter()
            .filter_map(|turn| {
                let plan = plan(turn)?;
                Some((*turn, HostOutcome { plan: Some(Box::new(plan.clone())), ..settled(plan)? }))
            })
            .collect();
        if !plans.is_empty() {
            self.events.emit(Event::Planned(plans));
        }
        for (turn, outcome) in settled {
            planned.remove(&turn);
            course.settle(turn, &self.events, |_| outcome);
        }
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
