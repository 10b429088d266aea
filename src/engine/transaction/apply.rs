//! The steps of a transaction.

use super::checks::{CheckResults, failed_check, read_checks, run_controller_checks, total_timeout};
use super::guard::{GuardHandle, GuardReport};
use super::verdict::{outcome_of, unknown_outcome};
use crate::engine::client::{CALL_TIMEOUT, HostClient, PROBE_TIMEOUT, ROLLBACK_GRACE, Response};
use crate::engine::context::EngineContext;
use crate::engine::events::EngineEvent;
use crate::engine::failures::{internal, observed_or_failed, transport_failed};
use crate::engine::outcome::{HostOutcome, HostStatus, TransactionState};
use crate::engine::probe::packets_document;
use crate::engine::proof::Confirmation;
use crate::explain;
use crate::host::{self, Nonce};
use crate::plan::{self, HostPlan, HostVerdict, PlanOptions};
use crate::problem::LintCode;
use crate::protocol;
use crate::resolve::Desired;
use crate::resource::ResourceKind;
use crate::ssh::{AnswerLength, TransportError};
use std::time::Duration;
use tokio::time::Instant;

/// Pause between two runs of a check that fails.
const CHECK_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Longest pause between two reports while a change soaks, so that a rollback meanwhile is noticed.
const MAX_SOAK_PAUSE: Duration = Duration::from_secs(30);

/// Limit of the command that applies the change. A connection that the change cut off may stay open without an answer;
/// then a new connection asks.
const MAX_START_TIMEOUT: Duration = Duration::from_secs(10);

/// Pauses between connections that find the change still being applied. They grow: each connection is a login, and many
/// logins look like an attack.
const FIRST_POLL_PAUSE: Duration = Duration::from_millis(300);
const MAX_POLL_PAUSE: Duration = Duration::from_secs(3);

/// Carries out the plan of one host. `client` is the connection of the probe.
pub(in crate::engine) async fn apply_host(
    context: &EngineContext,
    desired: &Desired,
    options: &PlanOptions,
    plan: Box<HostPlan>,
    client: Option<HostClient>,
) -> HostOutcome {
    let token = match host::random_hex(16) {
        Ok(token) => token,
        Err(error) => return internal(&desired.host, &error.to_string()),
    };
    // After a bridge has changed, neighbours are learned again and its ports may not forward at once. For any other
    // change the first result of a check counts.
    let has_bridges = plan.changes.iter().any(|change| change.kind == ResourceKind::Bridge);
    let check_patience = if has_bridges { context.settings.confirm_timeout / 2 } else { Duration::ZERO };
    let mut transaction = Transaction {
        context,
        guard: GuardHandle { settings: &context.settings, token },
        desired,
        options,
        check_patience,
        commit_sent: false,
        confirmation: None,
        latent_lockout: None,
    };
    let mut outcome = transaction.carry_out(&plan, client).await;
    if outcome.status == HostStatus::Changed && transaction.confirmation == Some(Confirmation::Unproven) {
        outcome.message = Some("committed without proof: no new login succeeded meanwhile".to_owned());
        outcome.hint = Some("log in again before you leave; `kvmfw undo` reverts the change".to_owned());
    }
    if outcome.status == HostStatus::RolledBack
        && let Some(lockout) = plan.warnings.iter().find(|warning| warning.code == LintCode::Lockout)
    {
        let origin = lockout.origin.as_ref().map_or_else(String::new, |origin| format!(" ({origin})"));
        outcome.hint = Some(format!("the plan warned: {}{origin}", lockout.message));
    }
    outcome.plan = Some(plan);
    outcome
}

/// One host's transaction.
struct Transaction<'a> {
    context: &'a EngineContext,
    guard: GuardHandle<'a>,
    desired: &'a Desired,
    options: &'a PlanOptions,
    /// How long a check may fail before its failure counts.
    check_patience: Duration,
    /// A commit was sent. It need not have arrived.
    commit_sent: bool,
    /// How the operator confirmed, if a login proof was needed.
    confirmation: Option<Confirmation>,
    /// Lockout of the staged plan that a new connection cannot disprove.
    latent_lockout: Option<String>,
}

/// State of a transaction after a new connection verified it.
struct Verification {
    state: TransactionState,
    /// Time after which it has to be verified again.
    recheck_after: Option<Duration>,
}

impl From<TransactionState> for Verification {
    fn from(state: TransactionState) -> Self {
        Self { state, recheck_after: None }
    }
}

impl Transaction<'_> {
    async fn carry_out(&mut self, plan: &HostPlan, client: Option<HostClient>) -> HostOutcome {
        let host = &self.desired.host;
        let client = match self.open(client).await {
            Ok(client) => client,
            Err(error) => return transport_failed(host, &error),
        };
        let before = match self.stage(plan, &client).await {
            Ok(before) => before,
            Err(outcome) => {
                client.close().await;
                return outcome;
            }
        };
        self.step("applying", Some(self.context.settings.apply_timeout));
        let started = Instant::now();
        let limit = self.context.settings.apply_timeout.min(MAX_START_TIMEOUT) + Duration::from_secs(2);
        let state = self.guard.state(&client, "start", limit).await;
        let outcome = match state {
            Ok(state) if state.is_final() || matches!(state, TransactionState::RollbackFailed(_)) => {
                self.outcome_of(&state, None)
            }
            // Applied, or the connection is dead, as it has to be if the rules cut it off. A new connection asks.
            state => self.confirm(&before, started, matches!(state, Ok(TransactionState::Applied))).await,
        };
        client.close().await;
        outcome
    }

    fn step(&self, step: &'static str, guard: Option<Duration>) {
        self.context.events.emit(EngineEvent::Step(self.desired.host.clone(), step, guard));
    }

    async fn connect(&self) -> Result<HostClient, TransportError> {
        let session = self.context.dialer.connect(&self.desired.host, &self.desired.connection).await?;
        Ok(HostClient::new(session))
    }

    /// Returns the probe's connection if it is alive, else a new one.
    async fn open(&self, client: Option<HostClient>) -> Result<HostClient, TransportError> {
        if let Some(client) = client {
            if client.is_alive().await {
                return Ok(client);
            }
            client.close().await;
        }
        self.connect().await
    }

    /// Uploads the transaction, takes the lock, observes the host again and records its state. Returns which checks pass
    /// before the change. Fails if the plan would differ now.
    async fn stage(&mut self, plan: &HostPlan, client: &HostClient) -> Result<CheckResults, HostOutcome> {
        let host = &self.desired.host;
        self.step("staging", None);
        let mut files = plan.transaction_files.files.clone();
        files.push(("owner".into(), format!("{}\n", self.context.settings.owner).into()));
        files.push(("plan".into(), format!("{}\n", plan.transaction_files.hash()).into()));
        files.push(("token".into(), format!("{}\n", self.guard.token).into()));
        files.push(("limits".into(), self.limits().into()));
        let vlans = plan::needs_vlans(self.desired);
        let document = |nonce: &Nonce| host::stage(nonce, &self.context.settings.run, &files, vlans);
        let response =
            match client.request(document, PROBE_TIMEOUT + self.checks_timeout(), AnswerLength::Long).await {
                Ok(response) => response,
                Err(error) => {
                    self.abort_over_new_connection().await;
                    return Err(transport_failed(host, &error));
                }
            };
        let (staged, mut passed) = match self.read_staged(response) {
            Ok(staged) => staged,
            Err(outcome) => {
                // With this reason, the open transaction of this run is that of another name of the same host.
                if outcome.reason.as_deref() != Some("same-host") {
                    self.guard.abort(client).await;
                }
                return Err(outcome);
            }
        };
        if staged.fingerprint() != plan.fingerprint() || staged.verdict != HostVerdict::Changes {
            self.guard.abort(client).await;
            let (reason, message) = match staged.verdict {
                HostVerdict::Refused(refusal) => (refusal.reason, refusal.message),
                _ => ("stale".into(), "the host has changed since the plan was made; plan again".into()),
            };
            return Err(HostOutcome::new(host, HostStatus::Refused).reason(reason).message(message));
        }
        self.latent_lockout = staged.latent_lockout;
        passed.extend(run_controller_checks(&self.desired.checks).await);
        Ok(passed)
    }

    /// Plans the staged host again, and returns which of its checks pass. Consumes the response: it can be long, and the
    /// transaction takes minutes.
    fn read_staged(&self, response: Response) -> Result<(HostPlan, CheckResults), HostOutcome> {
        let host = &self.desired.host;
        let observed = observed_or_failed(host, response.observed())?;
        let sections = response.sections();
        if sections.get(protocol::STAGED).is_none() {
            let message = response.last_error_line().unwrap_or("the host gave no reason").to_owned();
            return Err(HostOutcome::new(host, HostStatus::Failed).reason("stage").message(message));
        }
        Ok((plan::host(self.desired, &observed, self.options), read_checks(&sections)))
    }

    /// File `limits` of the transaction: timeouts of the guard, in seconds.
    fn limits(&self) -> String {
        let seconds = |duration: Duration| duration.as_secs().max(1);
        let settings = &self.context.settings;
        format!(
            "stage={}\napply={}\nconfirm={}\n",
            120 + seconds(self.checks_timeout()),
            seconds(settings.apply_timeout),
            seconds(settings.confirm_timeout + settings.soak)
        )
    }

    fn checks_timeout(&self) -> Duration {
        total_timeout(&self.desired.checks)
    }

    /// Releases the lock after the first connection stopped answering.
    async fn abort_over_new_connection(&self) {
        if let Ok(client) = self.connect().await {
            self.guard.abort(&client).await;
            client.close().await;
        }
    }

    /// Verifies the change over new connections until the host reports a decision or the deadline has passed. `applied`:
    /// the host has reported that the change is applied.
    async fn confirm(&mut self, before: &CheckResults, started: Instant, mut applied: bool) -> HostOutcome {
        let settings = &self.context.settings;
        self.step("confirming", Some(settings.confirm_timeout + settings.soak));
        let deadline =
            started + settings.apply_timeout + settings.confirm_timeout + settings.soak + ROLLBACK_GRACE;
        let mut trouble = None;
        let mut first_confirm = None;
        let mut pause = FIRST_POLL_PAUSE;
        loop {
            if Instant::now() >= deadline {
                return unknown_outcome(&self.desired.host, trouble.as_deref());
            }
            let client = match self.connect_before(deadline).await {
                Some(Ok(client)) => client,
                Some(Err(error)) => {
                    trouble = Some(format!("no new SSH connection: {error}"));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    continue;
                }
                None => {
                    // An attempt that the deadline cut short says less than one that failed before.
                    let trouble = trouble.as_deref().unwrap_or("no new SSH connection: timed out");
                    return unknown_outcome(&self.desired.host, Some(trouble));
                }
            };
            let result = if applied {
                self.verify_and_commit(&client, before, &mut first_confirm).await
            } else {
                let limit = CALL_TIMEOUT + self.checks_timeout();
                self.guard.state(&client, "verify", limit).await.map(Verification::from)
            };
            client.close().await;
            match result {
                // This connection may be older than the new rules, and survive although they reject new ones. Only a
                // connection that starts from now on proves anything.
                Ok(Verification { state: TransactionState::Applied, .. }) if !applied => applied = true,
                Ok(Verification { state: TransactionState::Applied, recheck_after: Some(wait) }) => {
                    tokio::time::sleep(wait.min(MAX_SOAK_PAUSE)).await;
                }
                Ok(Verification { state, .. }) if state.is_final() => {
                    return self.outcome_of(&state, trouble.as_deref());
                }
                Ok(Verification { state: state @ TransactionState::RollbackFailed(_), .. }) => {
                    trouble = Some("the rollback has not succeeded so far".into());
                    if Instant::now() + Duration::from_secs(5) >= deadline {
                        return self.outcome_of(&state, None);
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Ok(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_POLL_PAUSE);
                }
                Err(error) => {
                    trouble = Some(error.to_string());
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            }
        }
    }

    /// A new connection, or `None` at the deadline.
    async fn connect_before(&self, deadline: Instant) -> Option<Result<HostClient, TransportError>> {
        tokio::time::timeout_at(deadline, self.connect()).await.ok()
    }

    /// Runs the checks over a new connection, and commits if all is well.
    async fn verify_and_commit(
        &mut self,
        client: &HostClient,
        before: &CheckResults,
        first_confirm: &mut Option<Instant>,
    ) -> Result<Verification, TransportError> {
        if let Some(lockout) = &self.latent_lockout {
            // This connection works by state that is older than the change.
            let reason = format!("a new connection proves nothing here: {lockout}");
            return Ok(self.guard.roll_back(client, &reason).await?.into());
        }
        if let Some(broken) = self.broken_expectation(client).await? {
            self.context.events.emit(EngineEvent::Note(format!("{}: {broken}", self.desired.host)));
            return Ok(self.guard.roll_back(client, &broken).await?.into());
        }
        let settings = &self.context.settings;
        if self.desired.checks.is_empty() && settings.soak.is_zero() && settings.proof.is_none() {
            // This connection is the whole proof.
            return Ok(self.commit(client).await?.into());
        }
        let (report, failed) = self.run_checks(client, before).await?;
        if report.state != TransactionState::Applied {
            return Ok(report.state.into());
        }
        if let Some(failed) = failed {
            let note = format!("{}: check failed: {failed}", self.desired.host);
            self.context.events.emit(EngineEvent::Note(note));
            return Ok(self.guard.roll_back(client, &format!("a check failed: {failed}")).await?.into());
        }
        if !settings.soak.is_zero() {
            let first = *first_confirm.get_or_insert_with(Instant::now);
            let left = (first + settings.soak).saturating_duration_since(Instant::now());
            if !left.is_zero() {
                self.step("soaking", Some(settings.confirm_timeout + left));
                return Ok(Verification { state: TransactionState::Applied, recheck_after: Some(left) });
            }
        }
        if let Some(proof) = &settings.proof {
            // The operator has to see the question. It ends before the guard's deadline, because a rollback by the guard
            // would not have the reason.
            self.context.drain_events().await;
            match proof.obtain(report.time_left.saturating_sub(Duration::from_secs(1))).await {
                Ok(confirmation) => self.confirmation = Some(confirmation),
                Err(reason) => return Ok(self.guard.roll_back(client, &reason).await?.into()),
            }
        }
        Ok(self.commit(client).await?.into())
    }

    /// Observes the host with the change applied, and returns the first expectation that does not hold. What cannot be
    /// told was in the plan.
    async fn broken_expectation(&self, client: &HostClient) -> Result<Option<String>, TransportError> {
        // An undo is the way out of a bad state, whatever is expected.
        if self.desired.expectations.is_empty() || self.options.restore.is_some() || self.options.purge {
            return Ok(None);
        }
        let document = |nonce: &Nonce| packets_document(nonce, self.desired);
        let host = &self.desired.host;
        let response = client.timed_request(host, &self.context.events, document, PROBE_TIMEOUT).await?;
        match response.observed() {
            Ok(observed) => Ok(explain::broken_live(self.desired, &observed)),
            Err(error) => {
                let note = format!("{host}: expectations were not tested after the change: {error}");
                self.context.events.emit(EngineEvent::Note(note));
                Ok(None)
            }
        }
    }

    /// Runs all checks, repeatedly while their failure does not count yet. Returns the last report and the failed check.
    async fn run_checks(
        &self,
        client: &HostClient,
        before: &CheckResults,
    ) -> Result<(GuardReport, Option<String>), TransportError> {
        let patient_until = Instant::now() + self.check_patience;
        loop {
            let limit = CALL_TIMEOUT + self.checks_timeout();
            let mut report = self.guard.report(client, "verify", limit).await?;
            if report.state != TransactionState::Applied {
                return Ok((report, None));
            }
            report.checks.extend(run_controller_checks(&self.desired.checks).await);
            let failed = failed_check(&self.desired.checks, before, &report.checks);
            if failed.is_none() || Instant::now() >= patient_until {
                return Ok((report, failed));
            }
            tokio::time::sleep(CHECK_RETRY_PAUSE).await;
        }
    }

    async fn commit(&mut self, client: &HostClient) -> Result<TransactionState, TransportError> {
        self.commit_sent = true;
        self.guard.state(client, "commit", CALL_TIMEOUT * 2).await
    }

    fn outcome_of(&self, state: &TransactionState, trouble: Option<&str>) -> HostOutcome {
        outcome_of(&self.desired.host, state, trouble, self.options.purge && self.commit_sent)
    }
}
