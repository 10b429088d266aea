//! What came of a host: read from the host's own words, never guessed.

use crate::characters::shortened;
use crate::observe::Sections;
use crate::plan::HostPlan;
use crate::protocol;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How it ended for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As desired already.
    Unchanged,
    /// Changed and confirmed (in a plan: there are changes).
    Changed,
    /// Changed, and put back.
    RolledBack,
    /// It failed before anything was touched, or the failure was put right.
    Failed,
    /// It could not be reached before anything was touched.
    Unreachable,
    /// Nobody knows: the host has not told.
    Unknown,
    /// The run stopped before its turn.
    Skipped,
    /// Left alone on purpose.
    Refused,
}

impl Status {
    /// All, in the order of the summary.
    pub const ALL: [Status; 8] = [
        Status::Unchanged,
        Status::Changed,
        Status::RolledBack,
        Status::Failed,
        Status::Unreachable,
        Status::Unknown,
        Status::Skipped,
        Status::Refused,
    ];

    /// The JSON value.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Unchanged => "unchanged",
            Status::Changed => "changed",
            Status::RolledBack => "rolled-back",
            Status::Failed => "failed",
            Status::Unreachable => "unreachable",
            Status::Unknown => "unknown",
            Status::Skipped => "skipped",
            Status::Refused => "refused",
        }
    }

    /// What a person reads.
    pub fn words(self) -> &'static str {
        match self {
            Status::RolledBack => "rolled back",
            other => other.as_str(),
        }
    }

    /// Whether it counts against `--max-fail`.
    pub fn is_failure(self) -> bool {
        matches!(self, Status::RolledBack | Status::Failed | Status::Unknown)
    }
}

/// What came of one host.
#[derive(Clone, Debug)]
pub struct HostOutcome {
    /// The host.
    pub host: String,
    /// How it ended.
    pub status: Status,
    /// A stable word for why, where the status alone does not say it.
    pub reason: Option<String>,
    /// The sentence for the user.
    pub message: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// What was planned for it.
    pub plan: Option<Box<HostPlan>>,
    /// A rollback was tried and did not succeed yet.
    pub rollback_failed: bool,
}

impl HostOutcome {
    /// An outcome with nothing more to say.
    pub fn new(host: impl Into<String>, status: Status) -> Self {
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

    /// The same with a sentence.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(shortened(message.into()));
        self
    }

    /// The same with a reason.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(shortened(reason.into()));
        self
    }

    /// The same with the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What a host says about a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionState {
    /// It knows no such transaction.
    None,
    /// Prepared, nothing touched.
    Staged,
    /// The change is under way; its step.
    Applying(String),
    /// Changed, waiting for the decision.
    Applied,
    /// Decided, being carried out.
    Deciding,
    /// It lasts.
    Committed,
    /// It was put back; why.
    RolledBack(String),
    /// Putting it back has not succeeded so far; the last error.
    RollbackFailed(String),
    /// Ended without touching anything; why.
    Released(String),
}

impl TransactionState {
    /// Reads the section `outcome`; `None` if the answer has none.
    pub fn read(sections: &Sections<'_>) -> Option<Self> {
        let state = sections.value(protocol::OUTCOME, "state")?;
        let reason = || {
            let mut reason = sections.value(protocol::OUTCOME, "reason").unwrap_or("").to_owned();
            // What the tool said is worth more than that it failed.
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
            "rollback failed" => Self::RollbackFailed(reason()),
            "released" => Self::Released(reason()),
            _ => Self::None,
        })
    }

    /// What a person reads.
    pub fn words(&self) -> String {
        let with =
            |what: &str, why: &str| if why.is_empty() { what.to_owned() } else { format!("{what} ({why})") };
        match self {
            Self::None => "nothing is open".to_owned(),
            Self::Staged => "prepared, nothing touched yet; it ends by itself".to_owned(),
            Self::Applying(step) => with("the change is still under way", step),
            Self::Applied => "changed, and waiting for the decision; its guard rolls back".to_owned(),
            Self::Deciding => "decided, and being carried out; look again with kvmfw status".to_owned(),
            Self::Committed => "was decided already, and lasts".to_owned(),
            Self::RolledBack(reason) => with("rolled back", reason),
            Self::RollbackFailed(error) => with(
                "the rollback has not succeeded, the host keeps trying; look at its console: /var/lib/kvmfw/kvmfw.sh status",
                error,
            ),
            Self::Released(_) => "released; nothing had been touched".to_owned(),
        }
    }

    /// Whether nothing more will happen.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Committed | Self::RolledBack(_) | Self::Released(_) | Self::None)
    }
}
