//! The engine: talks to hosts, in parallel, and leads each through its transaction.

use super::outcome::{HostOutcome, Status, TransactionState};
use super::rollout::{Budget, Rollout};
use super::{Event, Events};
use crate::desired::Desired;
use crate::inventory::{CheckFrom, CheckProbe, Connection};
use crate::observe::{ObserveError, Observed, Sections, observe};
use crate::plan::{self, HostPlan, Options, Verdict};
use crate::remote::{self, Nonce, Question};
use crate::transport::{self, Answer, Session, TransportError, Via};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What a plan's one round trip may take at most, once the connection stands.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// What one short command of a transaction may take at most.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How long after its deadline a host may still be busy rolling back.
const GRACE: Duration = Duration::from_secs(20);

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
    /// The plan and what it was made from, or the outcome that stands in its place.
    pub result: Result<(Box<HostPlan>, Box<Observed>), HostOutcome>,
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

    /// Whether hosts are being changed.
    pub fn applying(&self) -> bool {
        self.applying.load(Ordering::SeqCst)
    }
}

/// Talks to hosts.
pub struct Engine {
    interrupt: Arc<Interrupt>,
    settings: Arc<Settings>,
    events: Events,
    gate: Arc<Semaphore>,
    /// Connections of the plan, to be used again by the apply.
    sessions: BTreeMap<String, Session>,
}

impl Engine {
    /// An engine that tells its events to `events`.
    pub fn new(settings: Settings, events: Events, interrupt: Arc<Interrupt>) -> Self {
        let gate = Arc::new(Semaphore::new(settings.parallel.max(1)));
        Self { interrupt, settings: Arc::new(settings), events, gate, sessions: BTreeMap::new() }
    }

    /// Observes hosts in one round trip each and plans them. `keep` leaves connections open for an
    /// apply that follows.
    pub async fn plan(&mut self, hosts: Vec<(Desired, Options)>, keep: bool) -> Vec<Planned> {
        self.events.emit(Event::Observing(hosts.len()));
        let mut tasks = JoinSet::new();
        let keep = keep && hosts.len() <= self.settings.parallel;
        for (index, (desired, options)) in hosts.into_iter().enumerate() {
            let (settings, events, gate) = (self.settings.clone(), self.events.clone(), self.gate.clone());
            let desired = Arc::new(desired);
            tasks.spawn(async move {
                let _permit = gate.acquire_owned().await;
                let (result, session) = observe_host(&settings, &desired).await;
                let error = result.as_ref().err().and_then(|o| o.message.clone());
                events.emit(Event::Observed(desired.host.clone(), error));
                let session = match session {
                    Some(session) if keep => Some(session),
                    Some(session) => {
                        session.close().await;
                        None
                    }
                    None => None,
                };
                (index, desired, options, result, session)
            });
        }
        let mut done = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            // A panic in a task is a bug of ours; the host's plan is missing and the run says so.
            let Ok((index, desired, options, result, session)) = joined else { continue };
            if let Some(session) = session {
                self.sessions.insert(desired.host.clone(), session);
            }
            done.push((index, desired, options, result));
        }
        done.sort_by_key(|(index, ..)| *index);
        done.into_iter()
            .map(|(_, desired, options, result)| {
                let result = result.map(|observed| {
                    let plan = plan::host(&desired, &observed, &options);
                    (Box::new(plan), observed)
                });
                Planned { desired, options, result }
            })
            .collect()
    }

    /// Ends the connections that a plan left open.
    pub async fn close(&mut self) {
        let mut tasks = JoinSet::new();
        for (_, session) in std::mem::take(&mut self.sessions) {
            tasks.spawn(session.close());
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Carries plans out, batch by batch. Outcomes come in the order of the plans.
    pub async fn apply(&mut self, planned: Vec<Planned>) -> Vec<HostOutcome> {
        let total = planned.len();
        let mut outcomes: BTreeMap<usize, HostOutcome> = BTreeMap::new();
        let mut todo = Vec::new();
        let mut unreachable = 0;
        for (index, planned) in planned.into_iter().enumerate() {
            match planned.result {
                Err(outcome) => {
                    unreachable += usize::from(outcome.status == Status::Unreachable);
                    outcomes.insert(index, outcome);
                }
                Ok((plan, _)) => match settled(&plan) {
                    Some(mut outcome) => {
                        outcome.plan = Some(plan);
                        outcomes.insert(index, outcome);
                    }
                    None => todo.push((index, planned.desired, planned.options, plan)),
                },
            }
        }
        let mut rollout = Rollout::new(todo.len(), &self.settings.batches, self.settings.max_fail);
        let too_many = unreachable > self.settings.max_unreachable.of(total);
        if too_many && !todo.is_empty() {
            self.events.emit(Event::Note(format!(
                "{unreachable} of {total} hosts cannot be reached, more than --max-unreachable allows: nothing is changed"
            )));
        }
        self.events.emit(Event::Applying(todo.len()));
        self.interrupt.applying.store(true, Ordering::SeqCst);
        let mut todo = todo.into_iter();
        for size in rollout.batches().to_vec() {
            let mut tasks = JoinSet::new();
            let mut names = BTreeMap::new();
            let mut batch: Vec<_> = todo.by_ref().take(size).collect();
            batch.reverse();
            loop {
                while tasks.len() < self.settings.parallel.max(1)
                    && !rollout.stopped()
                    && !too_many
                    && !self.interrupt.asked()
                {
                    let Some((index, desired, options, plan)) = batch.pop() else { break };
                    let session = self.sessions.remove(&desired.host);
                    let (settings, events) = (self.settings.clone(), self.events.clone());
                    let host = desired.host.clone();
                    let handle = tasks.spawn(async move {
                        let outcome = apply_host(&settings, &events, &desired, &options, plan, session).await;
                        (index, outcome)
                    });
                    names.insert(handle.id(), (index, host));
                }
                let Some(joined) = tasks.join_next_with_id().await else { break };
                let (index, outcome) = match joined {
                    Ok((_, done)) => done,
                    Err(error) => {
                        // A bug of ours: the host's guard decides, and the user is told that we do not know.
                        let (index, host) = names.remove(&error.id()).unwrap_or((usize::MAX, "?".to_owned()));
                        let outcome = HostOutcome::new(host, Status::Unknown)
                            .reason("internal")
                            .message("kvmfw itself failed while it changed this host; its guard decides")
                            .hint("kvmfw status");
                        (index, outcome)
                    }
                };
                if outcome.status.is_failure() {
                    rollout.count_failure();
                }
                self.events.emit(Event::Done(outcome.clone()));
                outcomes.insert(index, outcome);
            }
            for (index, desired, _, plan) in batch.into_iter().rev() {
                outcomes
                    .insert(index, skipped(&desired.host, plan, &rollout, too_many, self.interrupt.asked()));
            }
        }
        self.close().await;
        outcomes.into_values().collect()
    }
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
        for (index, (connection, host)) in hosts.into_iter().enumerate() {
            let (settings, events, gate) = (self.settings.clone(), self.events.clone(), self.gate.clone());
            let (document, read) = (document.clone(), read.clone());
            tasks.spawn(async move {
                let _permit = gate.acquire_owned().await;
                let answer = ask_host(&settings, &connection, &host, &*document, &*read).await;
                let error = answer.as_ref().err().and_then(|o| o.message.clone());
                events.emit(Event::Observed(host.clone(), error));
                (index, host, answer)
            });
        }
        let mut done = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            done.extend(joined);
        }
        done.sort_by_key(|(index, ..)| *index);
        done.into_iter().map(|(_, host, answer)| (host, answer)).collect()
    }
}

async fn ask_host<T>(
    settings: &Settings,
    connection: &Connection,
    host: &str,
    document: &(dyn Fn(&Nonce) -> String + Send + Sync),
    read: &(dyn Fn(&Sections<'_>) -> Option<T> + Send + Sync),
) -> Result<T, HostOutcome> {
    let session = transport::connect(settings.via, connection).await.map_err(|e| unreachable(host, &e))?;
    let nonce = Nonce::fresh().map_err(|e| internal(host, &e.to_string()))?;
    let answer = session.run(&document(&nonce), CALL_LIMIT + GRACE).await;
    session.close().await;
    let answer = answer.map_err(|e| unreachable(host, &e))?;
    let text = String::from_utf8_lossy(&answer.stdout);
    read(&Sections::split(&text, nonce.as_str())).ok_or_else(|| {
        let tail = answer.stderr.lines().last().unwrap_or("the host's answer is not complete").to_owned();
        HostOutcome::new(host, Status::Unreachable).reason("bad_answer").message(tail)
    })
}

/// The outcome of a host that needs no transaction.
fn settled(plan: &HostPlan) -> Option<HostOutcome> {
    match &plan.verdict {
        Verdict::Changes => None,
        Verdict::Unchanged => Some(HostOutcome::new(&plan.host, Status::Unchanged)),
        Verdict::Refused(refusal) => {
            let status = if refusal.is_failure() { Status::Failed } else { Status::Refused };
            let outcome =
                HostOutcome::new(&plan.host, status).reason(&refusal.reason).message(&refusal.message);
            Some(HostOutcome { hint: refusal.hint().map(str::to_owned), ..outcome })
        }
    }
}

fn skipped(
    host: &str,
    plan: Box<HostPlan>,
    rollout: &Rollout,
    too_many: bool,
    interrupted: bool,
) -> HostOutcome {
    let (failed, budget) = rollout.budget();
    let message = if interrupted {
        "interrupted before its turn".to_owned()
    } else if too_many {
        "too many hosts cannot be reached".to_owned()
    } else {
        format!("{failed} failed, and --max-fail is {budget}")
    };
    let mut outcome = HostOutcome::new(host, Status::Skipped).reason("budget").message(message);
    outcome.plan = Some(plan);
    outcome
}

type ObserveResult = Result<Box<Observed>, HostOutcome>;

async fn observe_host(settings: &Settings, desired: &Desired) -> (ObserveResult, Option<Session>) {
    let host = &desired.host;
    let session = match transport::connect(settings.via, &desired.connection).await {
        Ok(session) => session,
        Err(error) => return (Err(unreachable(host, &error)), None),
    };
    let nonce = match Nonce::fresh() {
        Ok(nonce) => nonce,
        Err(error) => return (Err(internal(host, &error.to_string())), Some(session)),
    };
    let (want, keys) = plan::question(desired);
    let document = remote::probe(&nonce, &Question { want: [&want[0], &want[1]], keys: &keys });
    let answer = match session.run(&document, PROBE_LIMIT).await {
        Ok(answer) => answer,
        Err(error) => return (Err(unreachable(host, &error)), Some(session)),
    };
    (read_observation(host, &answer, &nonce).map(Box::new), Some(session))
}

fn read_observation(host: &str, answer: &Answer, nonce: &Nonce) -> Result<Observed, HostOutcome> {
    let text = String::from_utf8_lossy(&answer.stdout);
    let sections = Sections::split(&text, nonce.as_str());
    observe(&sections, &answer.stderr).map_err(|error| match error {
        ObserveError::Refused(reason, message) => refused(host, &reason, &message),
        ObserveError::NoPrivilege => refused(host, "no_privilege", &error.to_string()),
        other => HostOutcome::new(host, Status::Unreachable).reason("bad_answer").message(other.to_string()),
    })
}

/// What a host that refuses says, as an outcome.
fn refused(host: &str, reason: &str, message: &str) -> HostOutcome {
    let outcome = HostOutcome::new(host, Status::Refused).reason(reason).message(message);
    match reason {
        "locked" => {
            HostOutcome { message: Some(format!("another transaction holds it: {message}")), ..outcome }
                .hint("wait for it, or look with kvmfw status")
        }
        "no_space" | "guard_failed" | "dry_run" => HostOutcome { status: Status::Failed, ..outcome },
        _ => outcome,
    }
}

fn unreachable(host: &str, error: &TransportError) -> HostOutcome {
    let reason = match error {
        TransportError::Privilege(_) => return refused(host, "no_privilege", &error.to_string()),
        TransportError::Connect(_) => "connect",
        TransportError::Lost(_) => "lost",
        TransportError::TooLong => "bad_answer",
        TransportError::Here(_) => "here",
    };
    HostOutcome::new(host, Status::Unreachable).reason(reason).message(error.to_string())
}

fn internal(host: &str, message: &str) -> HostOutcome {
    HostOutcome::new(host, Status::Unreachable).reason("internal").message(message)
}

/// One host's transaction as the controller leads it.
struct Transaction<'a> {
    settings: &'a Settings,
    events: &'a Events,
    desired: &'a Desired,
    options: &'a Options,
    token: String,
}

async fn apply_host(
    settings: &Settings,
    events: &Events,
    desired: &Desired,
    options: &Options,
    plan: Box<HostPlan>,
    session: Option<Session>,
) -> HostOutcome {
    let token = match remote::random_hex(16) {
        Ok(token) => token,
        Err(error) => return internal(&desired.host, &error.to_string()),
    };
    let transaction = Transaction { settings, events, desired, options, token };
    let mut outcome = transaction.carry_out(&plan, session).await;
    if outcome.status == Status::RolledBack
        && let Some(lockout) = plan.warnings.iter().find(|w| w.code == "lockout")
    {
        let origin = lockout.origin.as_ref().map_or_else(String::new, |o| format!(" ({o})"));
        outcome.hint = Some(format!("the plan had said: {}{origin}", lockout.message));
    }
    outcome.plan = Some(plan);
    outcome
}

impl Transaction<'_> {
    async fn carry_out(&self, plan: &HostPlan, session: Option<Session>) -> HostOutcome {
        let host = &self.desired.host;
        let session = match self.open(session).await {
            Ok(session) => session,
            Err(error) => return unreachable(host, &error),
        };
        let before = match self.stage(plan, &session).await {
            Ok(before) => before,
            Err(outcome) => {
                session.close().await;
                return outcome;
            }
        };
        self.step("applying");
        let started = Instant::now();
        let limit = self.settings.apply_timeout + Duration::from_secs(15);
        let state = self.call(&session, "go", limit).await;
        let outcome = match state {
            Ok(state) if state.is_final() || matches!(state, TransactionState::RollbackFailed(_)) => {
                self.outcome_of(&state, None)
            }
            // Applied, or the channel died: rightly so if the rules cut it. A new connection tells.
            _ => self.confirm(&before, started).await,
        };
        // Its connection may be dead; the farewell must not hold the run up.
        session.close().await;
        outcome
    }

    fn step(&self, step: &'static str) {
        self.events.emit(Event::Step(self.desired.host.clone(), step));
    }

    /// The plan's connection if it still lives, else a new one.
    async fn open(&self, session: Option<Session>) -> Result<Session, TransportError> {
        if let Some(session) = session {
            if session.run("echo alive\n", Duration::from_secs(5)).await.is_ok() {
                return Ok(session);
            }
            session.close().await;
        }
        transport::connect(self.settings.via, &self.desired.connection).await
    }

    /// Uploads, locks, looks again, snapshots; then compares with what was planned. Returns which
    /// checks pass before anything is touched.
    async fn stage(&self, plan: &HostPlan, session: &Session) -> Result<BTreeMap<usize, bool>, HostOutcome> {
        let host = &self.desired.host;
        self.step("staging");
        let nonce = Nonce::fresh().map_err(|e| internal(host, &e.to_string()))?;
        let mut files = plan.bundle.files.clone();
        files.push(("owner".into(), format!("{}\n", self.settings.owner)));
        files.push(("token".into(), format!("{}\n", self.token)));
        files.push(("limits".into(), self.limits()));
        let document = remote::stage(&nonce, &self.settings.run, &files);
        let answer = session.run(&document, PROBE_LIMIT).await.map_err(|e| unreachable(host, &e))?;
        let text = String::from_utf8_lossy(&answer.stdout);
        let sections = Sections::split(&text, nonce.as_str());
        let observed = read_observation(host, &answer, &nonce)?;
        if sections.get("staged").is_none() {
            let tail = answer.stderr.lines().last().unwrap_or("it did not say why").to_owned();
            self.abort(session).await;
            return Err(HostOutcome::new(host, Status::Failed).reason("stage").message(tail));
        }
        let again = plan::host(self.desired, &observed, self.options);
        let same = again.changes == plan.changes && again.verdict == Verdict::Changes;
        if !same {
            self.abort(session).await;
            let (reason, message) = match again.verdict {
                Verdict::Refused(refusal) => (refusal.reason, refusal.message),
                _ => ("stale".into(), "the host has changed since the plan was made; plan again".into()),
            };
            return Err(HostOutcome::new(host, Status::Refused).reason(reason).message(message));
        }
        let mut passed = read_checks(&sections);
        passed.extend(self.controller_checks().await);
        Ok(passed)
    }

    fn limits(&self) -> String {
        let seconds = |d: Duration| d.as_secs().max(1);
        format!(
            "stage=120\napply={}\nconfirm={}\n",
            seconds(self.settings.apply_timeout),
            seconds(self.settings.confirm_timeout + self.settings.soak)
        )
    }

    async fn call(
        &self,
        session: &Session,
        command: &str,
        limit: Duration,
    ) -> Result<TransactionState, TransportError> {
        self.call_sections(session, command, limit).await.map(|(state, _)| state)
    }

    async fn call_sections(
        &self,
        session: &Session,
        command: &str,
        limit: Duration,
    ) -> Result<(TransactionState, BTreeMap<usize, bool>), TransportError> {
        let nonce = Nonce::fresh().map_err(|e| TransportError::Here(e.to_string()))?;
        let document = remote::call(&nonce, command, &self.settings.run, &self.token);
        let answer = session.run(&document, limit).await?;
        let text = String::from_utf8_lossy(&answer.stdout);
        let sections = Sections::split(&text, nonce.as_str());
        match TransactionState::read(&sections) {
            Some(state) => Ok((state, read_checks(&sections))),
            None => Err(TransportError::Lost("the host's answer was cut off".into())),
        }
    }

    async fn abort(&self, session: &Session) {
        // If it does not arrive, the guard gives the lock back at its own deadline.
        let _ = self.call(session, "abort", CALL_LIMIT).await;
    }

    /// Comes back over new connections until the host says how it ended, or time is up.
    async fn confirm(&self, before: &BTreeMap<usize, bool>, started: Instant) -> HostOutcome {
        self.step("confirming");
        let deadline = started
            + self.settings.apply_timeout
            + self.settings.confirm_timeout
            + self.settings.soak
            + GRACE;
        let mut trouble = None;
        let mut first_confirm = None;
        loop {
            if Instant::now() >= deadline {
                return self.unknown(trouble);
            }
            let session = match self.connect_before(deadline).await {
                Ok(session) => session,
                Err(error) => {
                    trouble = Some(format!("no new SSH connection: {error}"));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    continue;
                }
            };
            let state = self.settle(&session, before, &mut first_confirm).await;
            session.close().await;
            match state {
                Ok((TransactionState::Applied, Some(wait))) => tokio::time::sleep(wait).await,
                Ok((state, _)) if state.is_final() => return self.outcome_of(&state, trouble.as_deref()),
                Ok((state @ TransactionState::RollbackFailed(_), _)) => {
                    trouble = Some("the rollback has not succeeded so far".into());
                    if Instant::now() + Duration::from_secs(5) >= deadline {
                        return self.outcome_of(&state, None);
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok(_) => tokio::time::sleep(Duration::from_millis(300)).await,
                Err(error) => {
                    trouble = Some(error.to_string());
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }
    }

    async fn connect_before(&self, deadline: Instant) -> Result<Session, TransportError> {
        match tokio::time::timeout_at(
            deadline,
            transport::connect(self.settings.via, &self.desired.connection),
        )
        .await
        {
            Ok(result) => result,
            Err(_) => Err(TransportError::Connect("it did not come up in time".into())),
        }
    }

    /// Over one new connection: looks, checks, and decides if all is well. A duration asks to come
    /// back after that long.
    async fn settle(
        &self,
        session: &Session,
        before: &BTreeMap<usize, bool>,
        first_confirm: &mut Option<Instant>,
    ) -> Result<(TransactionState, Option<Duration>), TransportError> {
        let checks_limit: Duration = self.desired.checks.iter().map(|c| c.timeout).sum();
        let (state, mut after) =
            self.call_sections(session, "probe-confirm", CALL_LIMIT + checks_limit).await?;
        if state != TransactionState::Applied {
            return Ok((state, None));
        }
        after.extend(self.controller_checks().await);
        if let Some(failed) = self.failed_check(before, &after) {
            self.events.emit(Event::Note(format!("{}: check failed: {failed}", self.desired.host)));
            let nonce = Nonce::fresh().map_err(|e| TransportError::Here(e.to_string()))?;
            let reason = format!("a check failed: {failed}");
            let document = remote::console(&nonce, &format!("rollback {}", self.settings.run), &reason);
            let answer = session.run(&document, CALL_LIMIT + GRACE).await?;
            let text = String::from_utf8_lossy(&answer.stdout);
            let state = TransactionState::read(&Sections::split(&text, nonce.as_str()));
            return Ok((state.unwrap_or(TransactionState::Deciding), None));
        }
        if !self.settings.soak.is_zero() {
            let first = *first_confirm.get_or_insert_with(Instant::now);
            let left = (first + self.settings.soak).saturating_duration_since(Instant::now());
            if !left.is_zero() {
                self.step("soaking");
                return Ok((TransactionState::Applied, Some(left)));
            }
        }
        let state = self.call(session, "commit", CALL_LIMIT * 2).await?;
        Ok((state, None))
    }

    /// The first check that passed before, or has to pass anyway, and does not now.
    fn failed_check(&self, before: &BTreeMap<usize, bool>, after: &BTreeMap<usize, bool>) -> Option<String> {
        self.desired.checks.iter().enumerate().find_map(|(number, check)| {
            let passed = after.get(&number).copied().unwrap_or(false);
            let decides = check.required || before.get(&number).copied().unwrap_or(false);
            (!passed && decides).then(|| format!("{} ({})", describe_check(&check.probe), check.origin))
        })
    }

    async fn controller_checks(&self) -> BTreeMap<usize, bool> {
        let mut results = BTreeMap::new();
        for (number, check) in self.desired.checks.iter().enumerate() {
            if check.from == CheckFrom::Controller {
                results.insert(number, run_here(&check.probe, check.timeout).await);
            }
        }
        results
    }

    fn outcome_of(&self, state: &TransactionState, trouble: Option<&str>) -> HostOutcome {
        let host = &self.desired.host;
        match state {
            TransactionState::Committed => HostOutcome::new(host, Status::Changed),
            TransactionState::RolledBack(reason) => {
                let mut message = if reason.is_empty() { "rolled back".to_owned() } else { reason.clone() };
                if let Some(trouble) = trouble {
                    message.push_str("; ");
                    message.push_str(trouble);
                }
                HostOutcome::new(host, Status::RolledBack)
                    .reason("rolled_back")
                    .message(message)
                    .hint("the host is as it was; the next plan shows the change again")
            }
            TransactionState::Released(reason) => {
                HostOutcome::new(host, Status::Failed).reason("released").message(reason.clone())
            }
            TransactionState::RollbackFailed(error) => HostOutcome {
                rollback_failed: true,
                ..HostOutcome::new(host, Status::Unknown)
                    .reason("rollback_failed")
                    .message(format!("the rollback has not succeeded, the host keeps trying: {error}"))
                    .hint("look at the console: /var/lib/kvmfw/kvmfw.sh status")
            },
            _ => self.unknown(trouble.map(str::to_owned)),
        }
    }

    fn unknown(&self, trouble: Option<String>) -> HostOutcome {
        let message = format!(
            "it has not told how it ended{}; without a confirm its guard rolls back",
            trouble.map_or_else(String::new, |t| format!(" ({t})"))
        );
        HostOutcome::new(&self.desired.host, Status::Unknown)
            .reason("no_answer")
            .message(message)
            .hint("kvmfw status, or at its console /var/lib/kvmfw/kvmfw.sh status")
    }
}

/// `number=exit when` lines of the section `checks`.
fn read_checks(sections: &Sections<'_>) -> BTreeMap<usize, bool> {
    let lines = sections.get("checks").unwrap_or("").lines();
    lines
        .filter_map(|line| {
            let (number, rest) = line.split_once('=')?;
            Some((number.parse().ok()?, rest.starts_with("0 ")))
        })
        .collect()
}

fn describe_check(probe: &CheckProbe) -> String {
    match probe {
        CheckProbe::Ping(address) => format!("ping {address}"),
        CheckProbe::Tcp(address, port) => format!("tcp {address} port {port}"),
        CheckProbe::Command(command) => format!("command `{command}`"),
    }
}

async fn run_here(probe: &CheckProbe, timeout: Duration) -> bool {
    let work = async {
        match probe {
            CheckProbe::Ping(address) => tokio::process::Command::new("ping")
                .args(["-n", "-c", "1", "-W", &timeout.as_secs().max(1).to_string(), address])
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .kill_on_drop(true)
                .status()
                .await
                .is_ok_and(|s| s.success()),
            CheckProbe::Tcp(address, port) => {
                tokio::net::TcpStream::connect((address.as_str(), *port)).await.is_ok()
            }
            CheckProbe::Command(_) => false,
        }
    };
    tokio::time::timeout(timeout, work).await.unwrap_or(false)
}
