//! The engine: talks to hosts, in parallel, and leads each through its transaction.

use super::event::Shown;
use super::look::{self, connect, internal, observe_host, unreachable};
use super::outcome::{HostOutcome, Status};
use super::rollout::Budget;
use super::transaction::{CALL_LIMIT, GRACE};
use super::ways::Ways;
use super::{Event, Events, Proof};
use crate::desired::Desired;
use crate::inventory::Connection;
use crate::observe::{Observed, Sections};
use crate::plan::{self, HostPlan, Options};
use crate::remote::Nonce;
use crate::transport::{Session, Via};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Of so many hosts, those first in turn, the plan's connections stay open for the apply: an idle one is an
/// ssh process here and one there.
const KEPT: usize = 256;

/// How long nothing may come from the last few hosts that are looked at: one that is silent after its login does not
/// hold up all others for as long as it might if it were asked alone.
const LAST_FEW: Duration = Duration::from_secs(20);

/// How a run is carried out.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How hosts are reached.
    pub via: Via,
    /// How many at once.
    pub parallel: usize,
    /// Sizes of batches.
    pub batches: Vec<Budget>,
    /// So many failures stop the run.
    pub max_fail: Budget,
    /// So many unreachable hosts stop it before it starts.
    pub max_unreachable: Budget,
    /// Armed → applied.
    pub apply_timeout: Duration,
    /// Applied → decision.
    pub confirm_timeout: Duration,
    /// How long after the first confirm a second one follows; zero for none.
    pub soak: Duration,
    /// What else has to be proven before a commit.
    pub proof: Option<Proof>,
    /// Who does this: `user@controller`.
    pub owner: String,
    /// The run's name, the transaction's name on every host.
    pub run: String,
}

/// A host with its plan, or why there is none.
#[derive(Debug)]
pub struct Planned {
    /// What is desired.
    pub desired: Arc<Desired>,
    /// What the user allowed for it.
    pub options: Options,
    /// The plan, or the outcome that stands in its place.
    pub result: Result<Box<HostPlan>, HostOutcome>,
}

/// How far an interrupt may go: shared with whoever hears the signals.
#[derive(Debug, Default)]
pub struct Interrupt {
    applying: AtomicBool,
    stop: AtomicBool,
}

impl Interrupt {
    /// Asks to end. `true`: hosts in flight are decided first; `false`: end now, either because
    /// nothing is being changed or because this is the second time.
    pub fn ask(&self) -> bool {
        !self.stop.swap(true, Ordering::SeqCst) && self.applying.load(Ordering::SeqCst)
    }

    /// Whether somebody asked to end.
    pub fn asked(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// From now on hosts are being changed.
    pub(super) fn change(&self) {
        self.applying.store(true, Ordering::SeqCst);
    }

    /// Whether hosts are being changed.
    pub fn applying(&self) -> bool {
        self.applying.load(Ordering::SeqCst)
    }
}

/// Talks to hosts.
pub struct Engine {
    pub(super) interrupt: Arc<Interrupt>,
    pub(super) settings: Arc<Settings>,
    pub(super) events: Events,
    gate: Arc<Semaphore>,
    shared: Arc<plan::Shared>,
    /// Connections of the plan, to be used again by the apply.
    pub(super) sessions: BTreeMap<String, Session>,
}

impl Engine {
    /// An engine that tells its events to `events`.
    pub fn new(settings: Settings, events: Events, interrupt: Arc<Interrupt>) -> Self {
        let gate = Arc::new(Semaphore::new(settings.parallel.max(1)));
        let (settings, shared) = (Arc::new(settings), Arc::default());
        Self { interrupt, settings, events, gate, shared, sessions: BTreeMap::new() }
    }

    /// Observes hosts in one round trip each and plans them. `keep` leaves connections open for an
    /// apply that follows.
    pub async fn plan(&mut self, hosts: Vec<(Desired, Options)>, keep: bool) -> Vec<Planned> {
        self.events.emit(Event::Observing(hosts.len()));
        let ways = match hosts.first() {
            Some((desired, _)) => Ways::look_up(&desired.ways),
            None => Arc::default(),
        };
        let mut tasks = JoinSet::new();
        // A panic in a task is a bug of ours; the host is told of all the same.
        let mut names = BTreeMap::new();
        for (index, (desired, options)) in hosts.into_iter().enumerate() {
            let (settings, events, gate) = (self.settings.clone(), self.events.clone(), self.gate.clone());
            let (desired, shared, ways) = (Arc::new(desired), self.shared.clone(), ways.clone());
            let known = (index, desired.clone(), options.clone());
            let handle = tasks.spawn(async move {
                let _permit = gate.acquire_owned().await;
                // A plan changes nothing; an apply first ends what was left open and nobody watches.
                let (observed, session) =
                    observe_host(&settings, &events, &desired, &options, &ways, keep).await;
                // Planned here and now: what was observed of a host is a lot, and not needed afterwards.
                let ends = observed.as_ref().ok().map(|observed| plan::ways::Ends::of(observed));
                let result = observed.map(|observed| {
                    let mut plan = plan::of(&desired, &observed, &options);
                    shared.share(&mut plan);
                    Box::new(plan)
                });
                let error = result.as_ref().err().and_then(|o| o.message.clone());
                events.emit(Event::Observed(desired.host.clone(), error));
                let session = match session {
                    Some(session) if keep && index < KEPT => Some(session),
                    Some(session) => {
                        session.close().await;
                        None
                    }
                    None => None,
                };
                (index, Planned { desired, options, result }, ends, session)
            });
            names.insert(handle.id(), known);
        }
        let mut done = BTreeMap::new();
        let total = tasks.len();
        while !tasks.is_empty() {
            // A tenth of them, and none that still waits for its turn.
            let few = tasks.len() * 10 <= total && tasks.len() <= self.settings.parallel;
            let limit = if few { LAST_FEW } else { Duration::MAX };
            let Ok(joined) = timeout(limit, tasks.join_next_with_id()).await else {
                tasks.abort_all();
                continue;
            };
            let Some(joined) = joined else { break };
            let (index, planned, ends, session) = match joined {
                Ok((_, done)) => done,
                Err(error) => {
                    let Some((index, desired, options)) = names.remove(&error.id()) else { continue };
                    let result = Err(if error.is_cancelled() {
                        let outcome = silent(&desired.host);
                        self.events.emit(Event::Observed(desired.host.clone(), outcome.message.clone()));
                        outcome
                    } else {
                        internal(&desired.host, "kvmfw itself failed while it looked at this host")
                    });
                    (index, Planned { desired, options, result }, None, None)
                }
            };
            if let Some(session) = session {
                self.sessions.insert(planned.desired.host.clone(), session);
            }
            done.insert(index, (planned, ends));
        }
        let mut done: Vec<(Planned, Option<plan::ways::Ends>)> = done.into_values().collect();
        mark_ways(&mut done);
        done.into_iter().map(|(planned, _)| planned).collect()
    }

    /// Looks at one host, and plans nothing. What went wrong is for the caller to tell, once.
    pub async fn look(&self, desired: &Desired) -> Result<Box<Observed>, HostOutcome> {
        self.events.emit(Event::Observing(1));
        let (observed, session) =
            observe_host(&self.settings, &self.events, desired, &Options::default(), &Ways::default(), false)
                .await;
        self.events.emit(Event::Observed(desired.host.clone(), None));
        if let Some(session) = session {
            session.close().await;
        }
        observed
    }

    /// Waits until everything so far has been shown: a prompt must not be drawn over.
    pub async fn drained(&self) {
        drained(&self.events).await;
    }

    /// Ends the connections that a plan left open.
    pub async fn close(&mut self) {
        let mut tasks = JoinSet::new();
        for (_, session) in std::mem::take(&mut self.sessions) {
            tasks.spawn(session.close());
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// The outcome of a host that all others would have had to wait for.
fn silent(host: &str) -> HostOutcome {
    let seconds = LAST_FEW.as_secs();
    HostOutcome::new(host, Status::Unreachable)
        .reason("lost")
        .message(format!("no answer, and for {seconds}s none of the others that were still to come"))
        .hint("alone (--limit) it is given a minute")
}

fn mark_ways(done: &mut [(Planned, Option<plan::ways::Ends>)]) {
    let mut leads = Vec::new();
    let mut plans = Vec::new();
    for (planned, ends) in done {
        if planned.options.drift {
            continue;
        }
        if let (Ok(plan), Some(ends)) = (&mut planned.result, ends.take()) {
            leads.push(planned.desired.turn.leads);
            plans.push((&mut **plan, ends));
        }
    }
    plan::ways::seen(&mut plans, &leads);
}

impl Engine {
    /// Asks hosts one question each, in parallel, in one round trip; answers in the order asked.
    pub async fn ask<T: Send + 'static>(
        &self,
        hosts: Vec<(Connection, String)>,
        document: impl Fn(&Nonce) -> String + Send + Sync + 'static,
        read: impl Fn(&Sections<'_>) -> Option<T> + Send + Sync + 'static,
    ) -> Vec<(String, Result<T, HostOutcome>)> {
        self.events.emit(Event::Observing(hosts.len()));
        let (document, read) = (Arc::new(document), Arc::new(read));
        let mut tasks = JoinSet::new();
        let mut names = BTreeMap::new();
        for (index, (connection, host)) in hosts.into_iter().enumerate() {
            let (settings, events, gate) = (self.settings.clone(), self.events.clone(), self.gate.clone());
            let (document, read) = (document.clone(), read.clone());
            let known = (index, host.clone());
            let handle = tasks.spawn(async move {
                let _permit = gate.acquire_owned().await;
                let answer = ask_host(&settings, &events, &connection, &host, &*document, &*read).await;
                let error = answer.as_ref().err().and_then(|o| o.message.clone());
                events.emit(Event::Observed(host.clone(), error));
                (index, host, answer)
            });
            names.insert(handle.id(), known);
        }
        let mut done = Vec::new();
        while let Some(joined) = tasks.join_next_with_id().await {
            match joined {
                Ok((_, answer)) => done.push(answer),
                Err(error) => {
                    let Some((index, host)) = names.remove(&error.id()) else { continue };
                    let outcome = internal(&host, "kvmfw itself failed while it asked this host");
                    done.push((index, host, Err(outcome)));
                }
            }
        }
        done.sort_by_key(|(index, ..)| *index);
        done.into_iter().map(|(_, host, answer)| (host, answer)).collect()
    }
}

pub(super) async fn drained(events: &Events) {
    let (token, shown) = tokio::sync::oneshot::channel::<()>();
    events.emit(Event::Drain(Shown::new(token)));
    let _ = shown.await;
}

async fn ask_host<T>(
    settings: &Settings,
    events: &Events,
    connection: &Connection,
    host: &str,
    document: &(dyn Fn(&Nonce) -> String + Send + Sync),
    read: &(dyn Fn(&Sections<'_>) -> Option<T> + Send + Sync),
) -> Result<T, HostOutcome> {
    let session = connect(settings, events, host, connection).await.map_err(|e| unreachable(host, &e))?;
    let nonce = Nonce::fresh().map_err(|e| internal(host, &e.to_string()))?;
    let answer = look::ask(&session, events, host, &document(&nonce), CALL_LIMIT + GRACE).await;
    session.close().await;
    let answer = answer.map_err(|e| unreachable(host, &e))?;
    let text = String::from_utf8_lossy(&answer.stdout);
    read(&Sections::split(&text, nonce.as_str())).ok_or_else(|| {
        let tail = answer.stderr.lines().last().unwrap_or("the host's answer is not complete").to_owned();
        HostOutcome::new(host, Status::Unreachable).reason("bad_answer").message(tail)
    })
}
