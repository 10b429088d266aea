//! Settings of a run.

use super::budget::Budget;
use super::proof::LoginProof;
use crate::ssh::Via;
use std::time::Duration;

/// How a run is carried out.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// How hosts are reached.
    pub via: Via,
    /// Number of hosts that are probed or changed at the same time.
    pub parallel: usize,
    /// Sizes of batches; the last one repeats.
    pub batches: Vec<Budget>,
    /// Number of failures that stops the run.
    pub max_fail: Budget,
    /// Number of unreachable hosts that may not be exceeded.
    pub max_unreachable: Budget,
    /// From armed to applied.
    pub apply_timeout: Duration,
    /// From applied to the decision.
    pub confirm_timeout: Duration,
    /// Time between the first and the second confirm; zero if there is only one.
    pub soak: Duration,
    /// Further proof that is needed before a commit.
    pub proof: Option<LoginProof>,
    /// `user@controller`.
    pub owner: String,
    /// Identity of the run, and of its transaction on every host.
    pub run: String,
}
