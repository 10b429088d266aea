//! A run over the hosts: who starts when is for the rollout to say, here it is done.

use super::facade::Engine;
use super::late::{self, Look, Looked};
use super::outcome::{HostOutcome, Status};
use super::planning::Planned;
use super::rollout::Rollout;
use super::transaction::apply_host;
use super::{Event, Events};
use crate::desired::{Desired, SchedulingConstraints};
use crate::jump_hosts::ObservedRoutes;
use crate::plan::{HostPlan, HostVerdict, PlanOptions};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::task::{Id, JoinError, JoinSet};

/// A host that is to be changed.
pub(super) struct Job {
    /// Its place in the answer.
    pub index: usize,
    pub desired: Arc<Desired>,
    options: PlanOptions,
    pub work: Work,
}

impl Job {
    /// How its turn is found, by what is known now.
    fn turn(&self) -> SchedulingConstraints {
        let turn = self.desired.scheduling.clone();
        match &self.work {
            Work::Plan(plan) => {
                SchedulingConstraints { jump_depth: turn.jump_depth.max(plan.jump_depth), ..turn }
            }
            Work::Look(_) => SchedulingConstraints { straggler: true, ..turn },
        }
    }
}

pub(super) enum Work {
    /// Its plan, to be carried out.
    Plan(Box<HostPlan>),
    /// The look that brings the plan.
    Look(Look),
}

/// A run on its way over the hosts.
pub(super) struct Course {
    pub rollout: Rollout,
    /// By turn; whose turn has come is gone.
    pub jobs: Vec<Option<Job>>,
    outcomes: BTreeMap<usize, HostOutcome>,
}

impl Course {
    /// The turns of those that have not answered.
    pub(super) fn silent(&self) -> impl Iterator<Item = usize> {
        let job = |(turn, job): (usize, &Option<Job>)| match job {
            Some(Job { work: Work::Look(_), .. }) => Some(turn),
            _ => None,
        };
        self.jobs.iter().enumerate().filter_map(job)
    }

    /// A host that was late needs no turn.
    pub(super) fn settle(&mut self, turn: usize, events: &Events, how: impl FnOnce(&Job) -> HostOutcome) {
        let Some(job) = self.jobs[turn].take() else { return };
        let outcome = how(&job);
        self.rollout.settled(turn, outcome.status);
        self.ended(job.index, events, outcome);
    }

    fn ended(&mut self, index: usize, events: &Events, outcome: HostOutcome) {
        events.emit(Event::Done(outcome.clone()));
        self.outcomes.insert(index, outcome);
    }

    /// Marks the jump hosts among the plans by the routes that probes observed.
    pub(super) fn mark_jump_hosts(&mut self, routes: &ObservedRoutes) {
        let roles = routes.roles();
        for job in self.jobs.iter_mut().flatten() {
            if let (Work::Plan(plan), Some(role)) = (&mut job.work, roles.get(&job.index)) {
                plan.mark_jump_host(role);
            }
        }
        for (turn, job) in self.jobs.iter().enumerate() {
            if let Some(job) = job {
                self.rollout.leads(turn, job.turn().jump_depth);
            }
        }
    }
}

/// Why a host never had its turn.
enum Stop {
    Interrupted,
    /// More hosts cannot be reached than is allowed.
    Unreachable,
    /// Others of this group are unknown, and count as in flight.
    Group(String),
    /// So many failed, of so many that stop the run.
    Budget(usize, usize),
}

impl Engine {
    /// Carries plans out, batch by batch. Outcomes come in the order of the plans.
    pub async fn apply(&mut self, planned: Vec<Planned>) -> Vec<HostOutcome> {
        let total = planned.len();
        let (outcomes, jobs) = self.sort_out(planned);
        let unreachable = outcomes.values().filter(|o| o.status == Status::Unreachable).count();
        let may_be = self.settings.max_unreachable.of(total);
        let too_many = unreachable > may_be;
        if too_many && !jobs.is_empty() {
            self.events.emit(Event::Note(format!(
                "{unreachable} of {total} hosts cannot be reached, more than --max-unreachable allows: nothing is changed"
            )));
        }
        let turns: Vec<SchedulingConstraints> = jobs.iter().map(Job::turn).collect();
        let settings = self.settings.clone();
        let may_be_away = may_be.saturating_sub(unreachable);
        let rollout =
            Rollout::new(&turns, &settings.batches, settings.max_fail, may_be_away, settings.parallel);
        self.events.emit(Event::Applying { hosts: jobs.len(), max_fail: rollout.budget().1 });
        self.interrupt.change();
        let mut course = Course { rollout, jobs: jobs.into_iter().map(Some).collect(), outcomes };
        if !too_many {
            self.roll_out(&mut course).await;
        }
        let Course { rollout, jobs, mut outcomes } = course;
        for (turn, job) in jobs.into_iter().enumerate() {
            let Some(job) = job else { continue };
            let (failed, budget) = rollout.budget();
            let stop = if self.interrupt.asked() {
                Stop::Interrupted
            } else if too_many || rollout.too_many_away() {
                Stop::Unreachable
            } else if let Some(group) = rollout.held(turn).filter(|_| failed < budget) {
                Stop::Group(group.to_owned())
            } else {
                Stop::Budget(failed, budget)
            };
            outcomes.insert(job.index, left_out(job, &stop).await);
        }
        self.close().await;
        outcomes.into_values().collect()
    }

    /// Hosts that need no transaction, with their outcomes; and the others.
    fn sort_out(&mut self, planned: Vec<Planned>) -> (BTreeMap<usize, HostOutcome>, Vec<Job>) {
        let mut outcomes = BTreeMap::new();
        let mut jobs = Vec::new();
        for (index, Planned { desired, options, result }) in planned.into_iter().enumerate() {
            let work = match (result, self.late.remove(&desired.host)) {
                (_, Some(look)) => Work::Look(look),
                (Ok(plan), None) => match settled(&plan) {
                    Some(outcome) => {
                        outcomes.insert(index, HostOutcome { plan: Some(plan), ..outcome });
                        continue;
                    }
                    None => Work::Plan(plan),
                },
                (Err(outcome), None) => {
                    outcomes.insert(index, outcome);
                    continue;
                }
            };
            jobs.push(Job { index, desired, options, work });
        }
        (outcomes, jobs)
    }

    /// Starts each host when its turn has come, until none is left that may start. What never had its
    /// turn stays in `jobs`.
    async fn roll_out(&mut self, course: &mut Course) {
        let mut tasks = JoinSet::new();
        let mut flying: HashMap<Id, (usize, usize, String)> = HashMap::new();
        let mut batch = 0;
        loop {
            while !self.interrupt.asked()
                && let Some(turn) = course.rollout.start()
                && let Some(Job { index, desired, options, work: Work::Plan(plan) }) =
                    course.jobs[turn].take()
            {
                let (begun, of) = course.rollout.batch();
                if begun != batch {
                    batch = begun;
                    self.events.emit(Event::Batch { number: begun, of });
                }
                let known = (turn, index, desired.host.clone());
                let session = self.sessions.remove(&desired.host);
                let (dialer, settings, events) =
                    (self.dialer.clone(), self.settings.clone(), self.events.clone());
                let task = tasks.spawn(async move {
                    apply_host(&dialer, &settings, &events, &desired, &options, plan, session).await
                });
                flying.insert(task.id(), known);
            }
            let Some(joined) = tasks.join_next_with_id().await else {
                if self.interrupt.asked() || !course.rollout.waits() {
                    return;
                }
                self.hear_late(course).await;
                continue;
            };
            let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
            let Some((turn, index, host)) = flying.remove(&id) else { continue };
            let outcome = joined.map_or_else(|_| lost_sight(&host), |(_, outcome)| outcome);
            course.rollout.ended(turn, outcome.status);
            course.ended(index, &self.events, outcome);
        }
    }
}

/// A bug of ours: the host's guard decides, and the user is told that we do not know.
fn lost_sight(host: &str) -> HostOutcome {
    HostOutcome::new(host, Status::Unknown)
        .reason("internal")
        .message("kvmfw itself failed while it changed this host; its guard decides")
        .hint("kvmfw status")
}

/// The outcome of a host that needs no transaction.
pub(super) fn settled(plan: &HostPlan) -> Option<HostOutcome> {
    match &plan.verdict {
        HostVerdict::Changes => None,
        HostVerdict::Unchanged => Some(match &plan.open {
            None => HostOutcome::new(&plan.host, Status::Unchanged),
            Some(id) => HostOutcome::new(&plan.host, Status::Refused)
                .reason("locked")
                .message(format!(
                    "what is there is that of transaction {id}, which is not decided: it may be put back"
                ))
                .hint("wait for it, or look with kvmfw status"),
        }),
        HostVerdict::Refused(refusal) => {
            let status = if refusal.is_failure() { Status::Failed } else { Status::Refused };
            let outcome =
                HostOutcome::new(&plan.host, status).reason(&refusal.reason).message(&refusal.message);
            Some(HostOutcome { hint: refusal.hint().map(str::to_owned), ..outcome })
        }
    }
}

/// The outcome of a host that never had its turn: what its look came to, if there is no plan of it.
async fn left_out(job: Job, stop: &Stop) -> HostOutcome {
    let host = &job.desired.host;
    let plan = match job.work {
        Work::Plan(plan) => plan,
        Work::Look(mut look) => {
            let Some(Looked { result, session, .. }) = look.over() else { return late::unanswered(host) };
            if let Some(session) = session {
                session.close().await;
            }
            match result {
                Ok(plan) => plan,
                Err(outcome) => return outcome,
            }
        }
    };
    let outcome = settled(&plan).unwrap_or_else(|| skipped(host, stop));
    HostOutcome { plan: Some(plan), ..outcome }
}

fn skipped(host: &str, stop: &Stop) -> HostOutcome {
    let (reason, message) = match stop {
        Stop::Interrupted => ("interrupted", "interrupted before its turn".to_owned()),
        Stop::Unreachable => ("max-unreachable", "too many hosts cannot be reached".to_owned()),
        Stop::Group(group) => (
            "max-in-flight",
            format!(
                "a host of group `{group}` is unknown, and in flight for all that is known (max_in_flight)"
            ),
        ),
        Stop::Budget(failed, budget) => ("budget", format!("{failed} failed, and --max-fail is {budget}")),
    };
    HostOutcome::new(host, Status::Skipped).reason(reason).message(message)
}
