//! What a user decides about a run.

use super::{Budget, Proof};
use crate::transport::Via;
use std::time::Duration;

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
