//! Outcomes of hosts. They are read from what the host reports, never guessed.

use crate::characters::shortened;
use crate::host_state::ProbeSections;
use crate::plan::HostPlan;
use crate::protocol;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Status of a host after a run or a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "Status")]
pub enum HostStatus {
    /// The host was already in the desired state.
    Unchanged,
    /// Changed and confirmed (in a plan: there are changes).
    Changed,
    /// Changed, then rolled back.
    RolledBack,
    /// The change failed before it started, or the failure was repaired.
    Failed,
    /// The host could not be reached before the change started.
    Unreachable,
    /// The host has not reported a decision.
    Unknown,
    /// The run stopped before this host was started.
    Skipped,
    /// The host was left alone on purpose.
    Refused,
}

impl HostStatus {
    /// All statuses, in the order of the summary.
    pub const ALL: [HostStatus; 8] = [
        HostStatus::Unchanged,
        HostStatus::Changed,
        HostStatus::RolledBack,
        HostStatus::Failed,
        HostStatus::Unreachable,
        HostStatus::Unknown,
        HostStatus::Skipped,
        HostStatus::Refused,
    ];

    /// The JSON value.
    pub fn as_str(self) -> &'static str {
        match self {
            HostStatus::Unchanged => "unchanged",
            HostStatus::Changed => "changed",
            HostStatus::RolledBack => "rolled-back",
            HostStatus::Failed => "failed",
            HostStatus::Unreachable => "unreachable",
            HostStatus::Unknown => "unknown",
            HostStatus::Skipped => "skipped",
            HostStatus::Refused => "refused",
        }
    }

    /// Text for people.
    pub fn words(self) -> &'static str {
        match self {
            HostStatus::RolledBack => "rolled back",
            other => other.as_str(),
        }
    }

    /// Whether it counts against `--max-fail`.
    pub fn is_failure(self) -> bool {
        matches!(self, HostStatus::RolledBack | HostStatus::Failed | HostStatus::Unknown)
    }
}

/// Outcome of one host.
#[derive(Clone, Debug)]
pub struct HostOutcome {
    /// The host.
    pub host: String,
    /// Its status.
    pub status: HostStatus,
    /// Stable code of the reason, unless the status says it all.
    pub reason: Option<String>,
    /// Message for the user.
    pub message: Option<String>,
    /// Next step for the user.
    pub hint: Option<String>,
    /// Its plan, if there is one.
    pub plan: Option<Box<HostPlan>>,
    /// A rollback has been tried and has not succeeded yet.
    pub rollback_failed: bool,
}

impl HostOutcome {
    /// An outcome with a status only.
    pub fn new(host: impl Into<String>, status: HostStatus) -> Self {
        Self {
            host: host.into(),
            status,
            reason: None,
            message: None,
            hint: None,
            plan: None,
            rollback_failed: false,
        }
    }

    /// Sets the message.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(shortened(message.into()));
        self
    }

    /// Sets the reason.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(shortened(reason.into()));
        self
    }

    /// Sets the hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// State of a transaction, as its host reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionState {
    /// The host has no such transaction.
    None,
    /// Staged, not started.
    Staged,
    /// The change is being applied; the current step.
    Applying(String),
    /// Applied, waiting for the decision.
    Applied,
    /// Decided; the decision is being carried out.
    Deciding,
    /// The change stays.
    Committed,
    /// Rolled back; the reason.
    RolledBack(String),
    /// The rollback has not succeeded so far; the last error.
    RollbackFailed(String),
    /// Ended before the change started; the reason.
    Released(String),
}

impl TransactionState {
    /// Reads the section `outcome`; `None` if the answer has none.
    pub fn read(sections: &ProbeSections<'_>) -> Option<Self> {
        let state = sections.value(protocol::OUTCOME, "state")?;
        let reason = || {
            let mut reason = sections.value(protocol::OUTCOME, "reason").unwrap_or("").to_owned();
            // A reason that ends with a colon lacks the error message of the tool.
            if reason.trim_end().ends_with(':')
                && let Some(error) = sections.values(protocol::OUTCOME, "error").last()
            {
                reason.push_str(error);
            }
            shortened(reason)
        };
        Some(match state {
            "staged" => Self::Staged,
            "applying" => Self::Applying(sections.value(protocol::OUTCOME, "step").unwrap_or("").to_owned()),
            "applied" => Self::Applied,
            "deciding" => Self::Deciding,
            "committed" => Self::Committed,
            "rolled-back" => Self::RolledBack(reason()),
            "rollback-failed" => Self::RollbackFailed(reason()),
            "released" => Self::Released(reason()),
            _ => Self::None,
        })
    }

    /// Text for people.
    pub fn words(&self) -> String {
        let with =
            |what: &str, why: &str| if why.is_empty() { what.to_owned() } else { format!("{what} ({why})") };
        match self {
            Self::None => "no transaction is open".to_owned(),
            Self::Staged => "staged, not started; it ends by itself".to_owned(),
            Self::Applying(step) => with("the change is still being applied", step),
            Self::Applied => "applied, and waiting for the decision; the guard rolls back".to_owned(),
            Self::Deciding => "decided, and being carried out; run `kvmfw status` again".to_owned(),
            Self::Committed => "committed already; the change stays".to_owned(),
            Self::RolledBack(reason) => with("rolled back", reason),
            Self::RollbackFailed(error) => with(
                "the rollback has not succeeded so far, the host keeps trying; run `/var/lib/kvmfw/kvmfw.sh status` at its console",
                error,
            ),
            Self::Released(_) => "released before the change started".to_owned(),
        }
    }

    /// Whether the transaction has ended.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Committed | Self::RolledBack(_) | Self::Released(_) | Self::None)
    }
}
