//! A run over the hosts: who starts when is for the rollout to say, here it is done.

use super::Event;
use super::engine::{Engine, Planned};
use super::outcome::{HostOutcome, Status};
use super::rollout::Rollout;
use super::transaction::apply_host;
use crate::desired::{Desired, Turn};
use crate::plan::{HostPlan, Options, Verdict};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::task::{Id, JoinError, JoinSet};

/// A host that is to be changed.
struct Job {
    /// Its place in the answer.
    index: usize,
    desired: Arc<Desired>,
    options: Options,
    plan: Box<HostPlan>,
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
        let (mut outcomes, jobs) = sort_out(planned);
        let unreachable = outcomes.values().filter(|o| o.status == Status::Unreachable).count();
        let may_be = self.settings.max_unreachable.of(total);
        let too_many = unreachable > may_be;
        if too_many && !jobs.is_empty() {
            self.events.emit(Event::Note(format!(
                "{unreachable} of {total} hosts cannot be reached, more than --max-unreachable allows: nothing is changed"
            )));
        }
        let turn = |job: &Job| {
            let turn = &job.desired.turn;
            Turn { leads: turn.leads.max(job.plan.leads), ..turn.clone() }
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
            outcomes.insert(job.index, skipped(job, &stop));
        }
        self.close().await;
        outcomes.into_values().collect()
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
                let task = tasks.spawn(async move {
                    apply_host(&settings, &events, &job.desired, &job.options, job.plan, session).await
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

/// Hosts that need no transaction, with their outcomes; and the others.
fn sort_out(planned: Vec<Planned>) -> (BTreeMap<usize, HostOutcome>, Vec<Job>) {
    let mut outcomes = BTreeMap::new();
    let mut jobs = Vec::new();
    for (index, planned) in planned.into_iter().enumerate() {
        match planned.result {
            Err(outcome) => {
                outcomes.insert(index, outcome);
            }
            Ok(plan) => match settled(&plan) {
                Some(mut outcome) => {
                    outcome.plan = Some(plan);
                    outcomes.insert(index, outcome);
                }
                None => jobs.push(Job { index, desired: planned.desired, options: planned.options, plan }),
            },
        }
    }
    (outcomes, jobs)
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

fn skipped(job: Job, stop: &Stop) -> HostOutcome {
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
    let mut outcome = HostOutcome::new(&job.desired.host, Status::Skipped).reason(reason).message(message);
    outcome.plan = Some(job.plan);
    outcome
}
