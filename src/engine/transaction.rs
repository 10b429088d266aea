//! One host's transaction as the controller leads it: stage, go, come back over a new connection,
//! decide. The host's guard is the one who knows; what is not read from it is unknown.

use super::checks::{read_checks, run_here};
use super::dial::Dialer;
use super::event::Shown;
use super::look::{PROBE_LIMIT, internal, read_observation, unreachable};
use super::outcome::{HostOutcome, Status, TransactionState};
use super::own_words::own_words;
use super::settings::Settings;
use super::{Event, Events, Kept};
use crate::desired::Desired;
use crate::inventory::CheckFrom;
use crate::observe::{ObserveError, Sections};
use crate::plan::{self, HostPlan, HostVerdict, PlanOptions};
use crate::protocol;
use crate::remote::{self, Nonce};
use crate::resource::ResourceKind;
use crate::transport::{Answer, Session, TransportError};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// What one short command of a transaction may take at most.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(30);
/// A connection that was heard of so lately needs not be asked whether it lives.
const FRESH: Duration = Duration::from_secs(5);
/// Between two looks at a check that fails.
const CHECK_PAUSE: Duration = Duration::from_millis(500);
/// While a change soaks, between two looks: what is rolled back meanwhile is told then.
const SOAK_LOOK: Duration = Duration::from_secs(30);
/// How long after its deadline a host may still be busy rolling back.
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// One host's transaction as the controller leads it.
struct Transaction<'a> {
    dialer: &'a Dialer,
    settings: &'a Settings,
    events: &'a Events,
    desired: &'a Desired,
    options: &'a PlanOptions,
    token: String,
    /// How long a check may fail before that decides.
    patience: Duration,
    /// The commit was sent; whether it arrived is another question.
    commit_sent: AtomicBool,
    /// The operator kept it, and nobody was seen to get in.
    unproven: AtomicBool,
    /// The staged plan's lockout that a confirm cannot disprove.
    latent_lockout: OnceLock<String>,
}

/// What a host says of a transaction.
struct Told {
    state: TransactionState,
    checks: BTreeMap<usize, bool>,
    /// Until the guard decides by itself.
    left: Duration,
}

pub(super) async fn apply_host(
    dialer: &Dialer,
    settings: &Settings,
    events: &Events,
    desired: &Desired,
    options: &PlanOptions,
    plan: Box<HostPlan>,
    session: Option<Session>,
) -> HostOutcome {
    let token = match remote::random_hex(16) {
        Ok(token) => token,
        Err(error) => return internal(&desired.host, &error.to_string()),
    };
    // Behind a bridge that changed, neighbours are learned anew and ports may listen before they
    // forward; of everything else the first answer counts.
    let bridged = plan.changes.iter().any(|change| change.kind == ResourceKind::Bridge);
    let patience = if bridged { settings.confirm_timeout / 2 } else { Duration::ZERO };
    let commit_sent = AtomicBool::new(false);
    let unproven = AtomicBool::new(false);
    let latent_lockout = OnceLock::new();
    let transaction = Transaction {
        dialer,
        settings,
        events,
        desired,
        options,
        token,
        patience,
        commit_sent,
        unproven,
        latent_lockout,
    };
    let mut outcome = transaction.carry_out(&plan, session).await;
    if outcome.status == Status::Changed && transaction.unproven.load(Ordering::Relaxed) {
        outcome.message = Some("kept unproven: no new connection came in while it was asked".to_owned());
        outcome.hint = Some("log in anew before you leave; undo takes it back".to_owned());
    }
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
        self.step("applying", Some(self.settings.apply_timeout));
        let started = Instant::now();
        // A channel that the change cut may never say so; a new connection can ask as well.
        let limit = self.settings.apply_timeout.min(Duration::from_secs(10)) + Duration::from_secs(2);
        let state = self.call(&session, "go", limit).await;
        let outcome = match state {
            Ok(state) if state.is_final() || matches!(state, TransactionState::RollbackFailed(_)) => {
                self.outcome_of(&state, None)
            }
            // Applied, or the channel died: rightly so if the rules cut it. A new connection tells.
            told => self.confirm(&before, started, matches!(told, Ok(TransactionState::Applied))).await,
        };
        // Its connection may be dead; the farewell must not hold the run up.
        session.close().await;
        outcome
    }

    fn step(&self, step: &'static str, guard: Option<Duration>) {
        self.events.emit(Event::Step(self.desired.host.clone(), step, guard));
    }

    /// The plan's connection if it still lives, else a new one.
    async fn open(&self, session: Option<Session>) -> Result<Session, TransportError> {
        if let Some(session) = session {
            if session.silence() < FRESH || session.call("echo alive\n", Duration::from_secs(5)).await.is_ok()
            {
                return Ok(session);
            }
            session.close().await;
        }
        self.dialer.connect(&self.desired.host, &self.desired.connection).await
    }

    /// Uploads, locks, looks again, snapshots; then compares with what was planned. Returns which
    /// checks pass before anything is touched.
    async fn stage(&self, plan: &HostPlan, session: &Session) -> Result<BTreeMap<usize, bool>, HostOutcome> {
        let host = &self.desired.host;
        self.step("staging", None);
        let nonce = Nonce::fresh().map_err(|e| internal(host, &e.to_string()))?;
        let mut files = plan.bundle.files.clone();
        files.push(("owner".into(), format!("{}\n", self.settings.owner).into()));
        files.push(("plan".into(), format!("{}\n", plan.bundle.hash()).into()));
        files.push(("token".into(), format!("{}\n", self.token).into()));
        files.push(("limits".into(), self.limits().into()));
        let document = remote::stage(&nonce, &self.settings.run, &files, plan::asks_vlans(self.desired));
        let answer = match session.run(&document, PROBE_LIMIT + self.checks_limit()).await {
            Ok(answer) => answer,
            Err(error) => {
                self.abort_anew().await;
                return Err(unreachable(host, &error));
            }
        };
        let (again, mut passed) = match self.staged(answer, &nonce) {
            Ok(staged) => staged,
            Err(outcome) => {
                // What is open there under this run's name is not of this host's doing.
                if outcome.reason.as_deref() != Some("same-host") {
                    self.abort(session).await;
                }
                return Err(outcome);
            }
        };
        if again.fingerprint() != plan.fingerprint() || again.verdict != HostVerdict::Changes {
            self.abort(session).await;
            let (reason, message) = match again.verdict {
                HostVerdict::Refused(refusal) => (refusal.reason, refusal.message),
                _ => ("stale".into(), "the host has changed since the plan was made; plan again".into()),
            };
            return Err(HostOutcome::new(host, Status::Refused).reason(reason).message(message));
        }
        if let Some(lockout) = again.latent_lockout {
            self.latent_lockout.get_or_init(|| lockout);
        }
        passed.extend(self.controller_checks().await);
        Ok(passed)
    }

    /// The plan by what a staged host says of itself, and which of its checks pass. The answer is gone afterwards: it can
    /// be long, and the transaction goes on for minutes.
    fn staged(
        &self,
        answer: Answer,
        nonce: &Nonce,
    ) -> Result<(HostPlan, BTreeMap<usize, bool>), HostOutcome> {
        let host = &self.desired.host;
        let observed = read_observation(host, &answer, nonce)?;
        let text = String::from_utf8_lossy(&answer.stdout);
        let sections = Sections::split(&text, nonce.as_str());
        if sections.get(protocol::STAGED).is_none() {
            let tail = answer.stderr.lines().last().unwrap_or("it did not say why").to_owned();
            return Err(HostOutcome::new(host, Status::Failed).reason("stage").message(tail));
        }
        Ok((plan::host(self.desired, &observed, self.options), read_checks(&sections)))
    }

    fn limits(&self) -> String {
        let seconds = |d: Duration| d.as_secs().max(1);
        format!(
            "stage={}\napply={}\nconfirm={}\n",
            120 + seconds(self.checks_limit()),
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
        self.call_sections(session, command, limit).await.map(|told| told.state)
    }

    async fn call_sections(
        &self,
        session: &Session,
        command: &str,
        limit: Duration,
    ) -> Result<Told, TransportError> {
        let nonce = Nonce::fresh().map_err(|e| TransportError::Here(e.to_string()))?;
        let document = remote::call(&nonce, command, &self.settings.run, &self.token);
        let answer = session.call(&document, limit).await?;
        let text = String::from_utf8_lossy(&answer.stdout);
        let sections = Sections::split(&text, nonce.as_str());
        match TransactionState::read(&sections) {
            Some(state) => {
                let left = sections.value(protocol::OUTCOME, "left").and_then(|left| left.parse().ok());
                let left = left.map_or(self.settings.confirm_timeout, Duration::from_secs);
                Ok(Told { state, checks: read_checks(&sections), left })
            }
            None => {
                let error = ObserveError::Incomplete(own_words(&answer, nonce.as_str()));
                Err(TransportError::Lost(error.to_string()))
            }
        }
    }

    /// How long all checks together may take.
    fn checks_limit(&self) -> Duration {
        self.desired.checks.iter().map(|c| c.timeout + Duration::from_secs(1)).sum()
    }

    /// Releases the host over a connection of its own, when the first one fell silent.
    async fn abort_anew(&self) {
        if let Ok(session) = self.dialer.connect(&self.desired.host, &self.desired.connection).await {
            self.abort(&session).await;
            session.close().await;
        }
    }

    async fn abort(&self, session: &Session) {
        // If it does not arrive, the guard gives the lock back at its own deadline.
        let _ = self.call(session, "abort", CALL_LIMIT).await;
    }

    /// Comes back over new connections until the host says how it ended, or time is up. `applied`: it has said that
    /// the change is made.
    async fn confirm(
        &self,
        before: &BTreeMap<usize, bool>,
        started: Instant,
        mut applied: bool,
    ) -> HostOutcome {
        self.step("confirming", Some(self.settings.confirm_timeout + self.settings.soak));
        let deadline = started
            + self.settings.apply_timeout
            + self.settings.confirm_timeout
            + self.settings.soak
            + GRACE;
        let mut trouble = None;
        let mut first_confirm = None;
        let mut pause = Duration::from_millis(300);
        loop {
            if Instant::now() >= deadline {
                return self.unknown(trouble);
            }
            let session = match self.connect_before(deadline).await {
                Some(Ok(session)) => session,
                Some(Err(error)) => {
                    trouble = Some(format!("no new SSH connection: {error}"));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    continue;
                }
                None => {
                    // An attempt that the deadline cut short says less than one that failed before.
                    let in_time = || "no new SSH connection: it did not come up in time".to_owned();
                    return self.unknown(Some(trouble.unwrap_or_else(in_time)));
                }
            };
            let state = if applied {
                self.settle(&session, before, &mut first_confirm).await
            } else {
                let limit = CALL_LIMIT + self.checks_limit();
                self.call(&session, "probe-confirm", limit).await.map(|state| (state, None))
            };
            session.close().await;
            match state {
                // This connection may have come up before the rules were loaded, and lives on under rules that let no
                // new one in: only one that is begun from now on proves anything.
                Ok((TransactionState::Applied, _)) if !applied => applied = true,
                Ok((TransactionState::Applied, Some(wait))) => tokio::time::sleep(wait.min(SOAK_LOOK)).await,
                Ok((state, _)) if state.is_final() => return self.outcome_of(&state, trouble.as_deref()),
                Ok((state @ TransactionState::RollbackFailed(_), _)) => {
                    trouble = Some("the rollback has not succeeded so far".into());
                    if Instant::now() + Duration::from_secs(5) >= deadline {
                        return self.outcome_of(&state, None);
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok(_) => {
                    // Every look is a login; a long apply must not look like an attack.
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(3));
                }
                Err(error) => {
                    trouble = Some(error.to_string());
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }
    }

    /// A new session, or `None` at the deadline.
    async fn connect_before(&self, deadline: Instant) -> Option<Result<Session, TransportError>> {
        let connect = self.dialer.connect(&self.desired.host, &self.desired.connection);
        tokio::time::timeout_at(deadline, connect).await.ok()
    }

    /// Over one new connection: looks, checks, and decides if all is well. A duration asks to come
    /// back after that long.
    async fn settle(
        &self,
        session: &Session,
        before: &BTreeMap<usize, bool>,
        first_confirm: &mut Option<Instant>,
    ) -> Result<(TransactionState, Option<Duration>), TransportError> {
        if let Some(lockout) = self.latent_lockout.get() {
            // This connection rests on state older than the change.
            return self
                .roll_back(session, &format!("a new connection is not a proof here: {lockout}"))
                .await;
        }
        if self.desired.checks.is_empty() && self.settings.soak.is_zero() && self.settings.proof.is_none() {
            // That this connection came up is all there is to prove.
            return Ok((self.commit(session).await?, None));
        }
        let patient = Instant::now() + self.patience;
        let (failed, left) = loop {
            let Told { state, checks: mut after, left } =
                self.call_sections(session, "probe-confirm", CALL_LIMIT + self.checks_limit()).await?;
            if state != TransactionState::Applied {
                return Ok((state, None));
            }
            after.extend(self.controller_checks().await);
            let failed = self.failed_check(before, &after);
            if failed.is_none() || Instant::now() >= patient {
                break (failed, left);
            }
            tokio::time::sleep(CHECK_PAUSE).await;
        };
        if let Some(failed) = failed {
            self.events.emit(Event::Note(format!("{}: check failed: {failed}", self.desired.host)));
            return self.roll_back(session, &format!("a check failed: {failed}")).await;
        }
        if !self.settings.soak.is_zero() {
            let first = *first_confirm.get_or_insert_with(Instant::now);
            let left = (first + self.settings.soak).saturating_duration_since(Instant::now());
            if !left.is_zero() {
                self.step("soaking", Some(self.settings.confirm_timeout + left));
                return Ok((TransactionState::Applied, Some(left)));
            }
        }
        if let Some(proof) = &self.settings.proof {
            // Whoever is asked must see the question, and is through before the guard is: its word would
            // not say why.
            drained(self.events).await;
            let left = left.saturating_sub(Duration::from_secs(1));
            match proof.ask(left).await {
                Ok(kept) => self.unproven.store(kept == Kept::Unproven, Ordering::Relaxed),
                Err(reason) => return self.roll_back(session, &reason).await,
            }
        }
        Ok((self.commit(session).await?, None))
    }

    async fn commit(&self, session: &Session) -> Result<TransactionState, TransportError> {
        self.commit_sent.store(true, Ordering::Relaxed);
        self.call(session, "commit", CALL_LIMIT * 2).await
    }

    /// Does not wait for the guard's deadline.
    async fn roll_back(
        &self,
        session: &Session,
        reason: &str,
    ) -> Result<(TransactionState, Option<Duration>), TransportError> {
        let nonce = Nonce::fresh().map_err(|e| TransportError::Here(e.to_string()))?;
        let document = remote::console(&nonce, &format!("rollback {}", self.settings.run), reason);
        let answer = session.call(&document, CALL_LIMIT + GRACE).await?;
        let text = String::from_utf8_lossy(&answer.stdout);
        let state = TransactionState::read(&Sections::split(&text, nonce.as_str()));
        Ok((state.unwrap_or(TransactionState::Deciding), None))
    }

    /// The first check that passed before, or has to pass anyway, and does not now.
    fn failed_check(&self, before: &BTreeMap<usize, bool>, after: &BTreeMap<usize, bool>) -> Option<String> {
        self.desired.checks.iter().enumerate().find_map(|(number, check)| {
            let passed = after.get(&number).copied().unwrap_or(false);
            let decides = check.required || before.get(&number).copied().unwrap_or(false);
            (!passed && decides).then(|| format!("{} ({})", check.probe, check.origin))
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
            // Back at the original nothing is left that could tell; a rollback would have stayed.
            TransactionState::None if self.options.purge && self.commit_sent.load(Ordering::Relaxed) => {
                HostOutcome::new(host, Status::Changed)
            }
            TransactionState::RolledBack(reason) => {
                let mut message = if reason.is_empty() { "rolled back".to_owned() } else { reason.clone() };
                if let Some(trouble) = trouble {
                    message.push_str("; ");
                    message.push_str(trouble);
                }
                HostOutcome::new(host, Status::RolledBack)
                    .reason("rolled-back")
                    .message(message)
                    .hint("the host is as it was; the next plan shows the change again")
            }
            TransactionState::Released(reason) => {
                HostOutcome::new(host, Status::Failed).reason("released").message(reason.clone())
            }
            TransactionState::RollbackFailed(error) => HostOutcome {
                rollback_failed: true,
                ..HostOutcome::new(host, Status::Unknown)
                    .reason("rollback-failed")
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
            .reason("no-answer")
            .message(message)
            .hint("kvmfw status, or at its console /var/lib/kvmfw/kvmfw.sh status")
    }
}

/// Waits until everything so far has been shown.
pub(super) async fn drained(events: &Events) {
    let (token, shown) = tokio::sync::oneshot::channel::<()>();
    events.emit(Event::Drain(Shown::new(token)));
    let _ = shown.await;
}
