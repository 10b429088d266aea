//! A run over the hosts: who starts when is for the rollout to say, here it is done.

use super::engine::Engine;
use super::interrupt::Interrupt;
use super::late::{self, Look, Looked};
use super::outcome::{HostOutcome, Status};
use super::planning::Planned;
use super::rollout::Rollout;
use super::transaction::apply_host;
use super::{Event, Events};
use crate::desired::{Desired, Turn};
use crate::plan::{HostPlan, Options, Verdict};
use crate::transport::Session;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::task::{Id, JoinError, JoinSet};

/// A host that is to be changed.
struct Job {
    /// Its place in the answer.
    index: usize,
    desired: Arc<Desired>,
    options: Options,
    work: Work,
}

enum Work {
    /// Its plan, to be carried out.
    Plan(Box<HostPlan>),
    /// The look that brings the plan.
    Look(Look),
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
        let (mut outcomes, jobs) = self.sort_out(planned);
        let unreachable = outcomes.values().filter(|o| o.status == Status::Unreachable).count();
        let may_be = self.settings.max_unreachable.of(total);
        let too_many = unreachable > may_be;
        if too_many && !jobs.is_empty() {
            self.events.emit(Event::Note(format!(
                "{unreachable} of {total} hosts cannot be reached, more than --max-unreachable allows: nothing is changed"
            )));
        }
        let turn = |job: &Job| {
            let turn = job.desired.turn.clone();
            match &job.work {
                Work::Plan(plan) => Turn { leads: turn.leads.max(plan.leads), ..turn },
                Work::Look(_) => Turn { late: true, ..turn },
            }
        };
        let turns: Vec<Turn> = jobs.iter().map(turn).collect();
        let settings = self.settings.clone();
        let may_be_away = may_be.saturating_sub(unreachable);
        let mut rollout =
            Rollout::new(&turns, &settings.batches, settings.max_fail, may_be_away, settings.parallel);
        self.events.emit(Event::Applying { hosts: jobs.len(), max_fail: rollout.budget().1 });
        self.interrupt.change();
        let mut jobs: Vec<Option<Job>> = jobs.into_iter().map(Some).collect();
        if !too_many {
            self.roll_out(&mut rollout, &mut jobs, &mut outcomes).await;
        }
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
    async fn roll_out(
        &mut self,
        rollout: &mut Rollout,
        jobs: &mut [Option<Job>],
        outcomes: &mut BTreeMap<usize, HostOutcome>,
    ) {
        let mut tasks = JoinSet::new();
        let mut flying: HashMap<Id, (usize, usize, String)> = HashMap::new();
        let mut batch = 0;
        loop {
            while !self.interrupt.asked()
                && let Some(turn) = rollout.start()
                && let Some(job) = jobs[turn].take()
            {
                let (begun, of) = rollout.batch();
                if begun != batch {
                    batch = begun;
                    self.events.emit(Event::Batch { number: begun, of });
                }
                let known = (turn, job.index, job.desired.host.clone());
                let session = self.sessions.remove(&job.desired.host);
                let (settings, events) = (self.settings.clone(), self.events.clone());
                let interrupt = self.interrupt.clone();
                let task = tasks.spawn(async move {
                    let (plan, session) = match job.work {
                        Work::Plan(plan) => (plan, session),
                        Work::Look(look) => match plan_late(look, &events, &interrupt, &job.desired).await {
                            Ok(planned) => planned,
                            Err(outcome) => return outcome,
                        },
                    };
                    apply_host(&settings, &events, &job.desired, &job.options, plan, session).await
                });
                flying.insert(task.id(), known);
            }
            let Some(joined) = tasks.join_next_with_id().await else { return };
            let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
            let Some((turn, index, host)) = flying.remove(&id) else { continue };
            let outcome = joined.map_or_else(|_| lost_sight(&host), |(_, outcome)| outcome);
            rollout.ended(turn, outcome.status);
            self.events.emit(Event::Done(outcome.clone()));
            outcomes.insert(index, outcome);
        }
    }
}

/// The plan of a host whose answer was still to come; or its outcome, where there is nothing to carry out.
async fn plan_late(
    look: Look,
    events: &Events,
    interrupt: &Interrupt,
    desired: &Desired,
) -> Result<(Box<HostPlan>, Option<Session>), HostOutcome> {
    events.emit(Event::Step(desired.host.clone(), "looking", None));
    let Looked { result, session, .. } = look.end(interrupt).await;
    let outcome = match result {
        Err(outcome) => outcome,
        Ok(plan) => {
            events.emit(Event::Planned(plan.clone()));
            match settled(&plan)
                .or_else(|| interrupt.asked().then(|| skipped(&plan.host, &Stop::Interrupted)))
            {
                None => return Ok((plan, session)),
                Some(outcome) => HostOutcome { plan: Some(plan), ..outcome },
            }
        }
    };
    if let Some(session) = session {
        session.close().await;
    }
    Err(outcome)
}

/// A bug of ours: the host's guard decides, and the user is told that we do not know.
fn lost_sight(host: &str) -> HostOutcome {
    HostOutcome::new(host, Status::Unknown)
        .reason("internal")
        .message("kvmfw itself failed while it changed this host; its guard decides")
        .hint("kvmfw status")
}

/// The outcome of a host that needs no transaction.
fn settled(plan: &HostPlan) -> Option<HostOutcome> {
    match &plan.verdict {
        Verdict::Changes => None,
        Verdict::Unchanged => Some(match &plan.open {
            None => HostOutcome::new(&plan.host, Status::Unchanged),
            Some(id) => HostOutcome::new(&plan.host, Status::Refused)
                .reason("locked")
                .message(format!(
                    "what is there is that of transaction {id}, which is not decided: it may be put back"
                ))
                .hint("wait for it, or look with kvmfw status"),
        }),
        Verdict::Refused(refusal) => {
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
        Stop::Unreachable => ("max_unreachable", "too many hosts cannot be reached".to_owned()),
        Stop::Group(group) => (
            "max_in_flight",
            format!(
                "a host of group `{group}` is unknown, and in flight for all that is known (max_in_flight)"
            ),
        ),
        Stop::Budget(failed, budget) => ("budget", format!("{failed} failed, and --max-fail is {budget}")),
    };
    HostOutcome::new(host, Status::Skipped).reason(reason).message(message)
}
