//! Commands to the guard of a host, and its reports.

use super::checks::{CheckResults, read_checks};
use crate::engine::client::{CALL_TIMEOUT, HostClient, ROLLBACK_GRACE};
use crate::engine::outcome::TransactionState;
use crate::engine::settings::EngineSettings;
use crate::host::{self, Nonce};
use crate::host_state::ProbeSections;
use crate::protocol;
use crate::ssh::{AnswerLength, TransportError};
use std::time::Duration;

/// Report of a guard.
pub(super) struct GuardReport {
    pub state: TransactionState,
    pub checks: CheckResults,
    /// Time until the guard decides by itself.
    pub time_left: Duration,
}

/// Names one transaction to its host.
pub(super) struct GuardHandle<'a> {
    pub settings: &'a EngineSettings,
    /// Proves to the host that a command comes from the process that staged the transaction.
    pub token: String,
}

impl GuardHandle<'_> {
    /// Runs a command of the transaction.
    pub(super) async fn report(
        &self,
        client: &HostClient,
        command: &str,
        timeout: Duration,
    ) -> Result<GuardReport, TransportError> {
        let document = |nonce: &Nonce| host::call(nonce, command, &self.settings.run, &self.token);
        let response = client.request(document, timeout, AnswerLength::Short).await?;
        self.read_report(&response.sections())
            .ok_or_else(|| TransportError::Lost(response.incomplete().to_string()))
    }

    /// [`Self::report`], where only the state matters.
    pub(super) async fn state(
        &self,
        client: &HostClient,
        command: &str,
        timeout: Duration,
    ) -> Result<TransactionState, TransportError> {
        self.report(client, command, timeout).await.map(|report| report.state)
    }

    /// Releases the lock of a staged transaction.
    pub(super) async fn abort(&self, client: &HostClient) {
        // If this fails, the guard releases the lock at its own deadline.
        let _ = self.state(client, "abort", CALL_TIMEOUT).await;
    }

    /// Rolls back now, without waiting for the guard's deadline.
    pub(super) async fn roll_back(
        &self,
        client: &HostClient,
        reason: &str,
    ) -> Result<TransactionState, TransportError> {
        let command = format!("rollback {}", self.settings.run);
        let document = |nonce: &Nonce| host::console(nonce, &command, reason);
        let response = client.request(document, CALL_TIMEOUT + ROLLBACK_GRACE, AnswerLength::Short).await?;
        Ok(TransactionState::read(&response.sections()).unwrap_or(TransactionState::Deciding))
    }

    fn read_report(&self, sections: &ProbeSections<'_>) -> Option<GuardReport> {
        let state = TransactionState::read(sections)?;
        let seconds = sections.value(protocol::OUTCOME, "left").and_then(|left| left.parse().ok());
        let time_left = seconds.map_or(self.settings.confirm_timeout, Duration::from_secs);
        Some(GuardReport { state, checks: read_checks(sections), time_left })
    }
}
