//! Looks at all hosts, in parallel, and plans each.

use super::Event;
use super::facade::Engine;
use super::late::{self, A_MOMENT, LAST_FEW, Look, Looked};
use super::look::observe_host;
use super::outcome::{HostOutcome, Status};
use super::ways::Ways;
use crate::desired::Desired;
use crate::jump_hosts::HostEndpoints;
use crate::plan::{self, HostPlan, HostVerdict, PlanOptions};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Of so many hosts, those first in turn, the plan's connections stay open for the apply: an idle one is an
/// ssh process here and one there.
const KEPT: usize = 256;

/// A host with its plan, or why there is none.
#[derive(Debug)]
pub struct Planned {
    /// What is desired.
    pub desired: Arc<Desired>,
    /// What the user allowed for it.
    pub options: PlanOptions,
    /// The plan, or the outcome that stands in its place.
    pub result: Result<Box<HostPlan>, HostOutcome>,
}

/// What becomes of plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// They are shown.
    Show,
    /// They are shown, and applied once somebody has agreed.
    Ask,
    /// They are applied at once.
    Go,
}

/// What is told of a look that is over.
struct Told {
    host: String,
    error: Option<String>,
    took: Duration,
    away: bool,
    changes: bool,
}

impl Told {
    fn of(host: &str, result: &Result<Box<HostPlan>, HostOutcome>, took: Duration) -> Self {
        let outcome = result.as_ref().err();
        Self {
            host: host.to_owned(),
            error: outcome.and_then(|outcome| outcome.message.clone()),
            took,
            away: outcome.is_some_and(|outcome| outcome.status == Status::Unreachable),
            changes: result.as_ref().is_ok_and(|plan| plan.verdict == HostVerdict::Changes),
        }
    }
}

/// The looks that are over.
#[derive(Default)]
struct Tally {
    away: usize,
    changes: bool,
    /// What the slowest took of those that answered.
    slowest: Duration,
}

impl Tally {
    fn count(&mut self, told: &Told) {
        self.changes |= told.changes;
        if told.away {
            self.away += 1;
        } else {
            self.slowest = self.slowest.max(told.took);
        }
    }

    /// Whether hosts may be changed now, whatever becomes of those that have not answered.
    fn suffices(&self, silent: usize, may_be_away: usize) -> bool {
        self.changes && self.away + silent <= may_be_away
    }
}

impl Engine {
    /// Observes hosts in one round trip each and plans them. Where they are applied next, connections stay open. Where
    /// nobody reads the plans before that, a few hosts that have not answered need not have: their looks go on, and
    /// the apply comes back to them.
    pub async fn plan(&mut self, hosts: Vec<(Desired, PlanOptions)>, purpose: Purpose) -> Vec<Planned> {
        let total = hosts.len();
        self.events.emit(Event::Observing(total));
        let ways = match hosts.first() {
            Some((desired, _)) => Ways::look_up(&desired.jump_hosts),
            None => Arc::default(),
        };
        let mut tasks = JoinSet::new();
        let mut looks = Vec::with_capacity(total);
        for (index, (desired, options)) in hosts.into_iter().enumerate() {
            let desired = Arc::new(desired);
            let work = self.look_at(index, desired.clone(), options.clone(), ways.clone(), purpose);
            looks.push((Look::begin(&mut tasks, &desired.host, work), desired, options));
        }
        let may_be_away = self.settings.max_unreachable.of(total);
        let mut tally = Tally::default();
        let mut told = BTreeSet::new();
        let mut begin = false;
        while !tasks.is_empty() {
            let all_run = tasks.len() <= self.settings.parallel;
            begin = all_run && purpose == Purpose::Go && tally.suffices(tasks.len(), may_be_away);
            let limit = match begin {
                true => tally.slowest.max(A_MOMENT),
                false if all_run && late::are_last_few(tasks.len(), total) => LAST_FEW,
                false => Duration::MAX,
            };
            let Ok(joined) = timeout(limit, tasks.join_next()).await else { break };
            if let Some(Ok((index, told_of))) = joined {
                told.insert(index);
                tally.count(&told_of);
                self.events.emit(Event::Observed(told_of.host, told_of.error));
            }
        }
        let mut done = Vec::with_capacity(total);
        for (index, (mut look, desired, options)) in looks.into_iter().enumerate() {
            let looked = look.over();
            let host = desired.host.clone();
            let Looked { result, ends, session } = match looked {
                Some(looked) => looked,
                None if begin => {
                    self.late.insert(host.clone(), look);
                    Looked::failed(late::to_come(&host))
                }
                None => Looked::failed(late::silent(&host)),
            };
            if !told.contains(&index) {
                let error = result.as_ref().err().and_then(|outcome| outcome.message.clone());
                self.events.emit(Event::Observed(host.clone(), error));
            }
            if let Some(session) = session {
                self.sessions.insert(host.clone(), session);
            }
            if let Some(ends) = ends.filter(|_| !options.drift) {
                self.routes.insert(index, &host, desired.scheduling.jump_depth, ends);
            }
            done.push(Planned { desired, options, result });
        }
        tasks.detach_all();
        for (position, role) in self.routes.roles() {
            if let Some(Planned { result: Ok(plan), .. }) = done.get_mut(position) {
                plan.mark_jump_host(&role);
            }
        }
        done
    }

    /// The work of looking at one host, once it is its turn.
    fn look_at(
        &self,
        index: usize,
        desired: Arc<Desired>,
        options: PlanOptions,
        ways: Arc<Ways>,
        purpose: Purpose,
    ) -> impl Future<Output = (Looked, (usize, Told))> + Send + use<> {
        let (dialer, events, gate) = (self.dialer.clone(), self.events.clone(), self.gate.clone());
        let (shared, check) = (self.shared.clone(), self.check.clone());
        let keep = purpose != Purpose::Show;
        async move {
            let _permit = gate.acquire_owned().await;
            let start = Instant::now();
            // A plan changes nothing; an apply first ends what was left open and nobody watches.
            let (observed, session) = observe_host(&dialer, &events, &desired, &options, &ways, keep).await;
            // Planned here and now: what was observed of a host is a lot, and not needed afterwards.
            let ends = observed.as_ref().ok().map(|(observed, _)| HostEndpoints::from(&**observed));
            let result = observed.and_then(|(observed, _room)| {
                let mut plan = plan::of(&desired, &observed, &options);
                match check.and_then(|check| check(&plan)) {
                    Some(outcome) => Err(outcome),
                    None => {
                        shared.share(&mut plan);
                        Ok(Box::new(plan))
                    }
                }
            });
            let session = match session {
                Some(session) if keep && index < KEPT => Some(session),
                Some(session) => {
                    session.close().await;
                    None
                }
                None => None,
            };
            let told = Told::of(&desired.host, &result, start.elapsed());
            (Looked { result, ends, session }, (index, told))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_counts_as_away_until_he_answers() {
        let (changed, away) = (Some(HostVerdict::Changes), None);
        let tally = |verdicts: &[Option<HostVerdict>]| {
            let mut tally = Tally::default();
            for (verdict, seconds) in verdicts.iter().zip(1..) {
                tally.count(&Told {
                    host: String::new(),
                    error: None,
                    took: Duration::from_secs(if verdict.is_some() { seconds } else { 60 }),
                    away: verdict.is_none(),
                    changes: *verdict == Some(HostVerdict::Changes),
                });
            }
            tally
        };
        let nine = tally(&[changed.clone(), away, changed.clone()]);
        assert!(nine.suffices(1, 2) && !nine.suffices(2, 2) && !nine.suffices(0, 0));
        assert_eq!(nine.slowest, Duration::from_secs(3), "nobody is waited for as long as for a dead host");
        assert!(!tally(&[Some(HostVerdict::Unchanged)]).suffices(1, 9), "there is nothing to begin with");
    }
}
