//! DO and UNDO: plans carried out inside the guarded transaction of each host, in batches.

mod checks;
mod engine;
mod event;
mod look;
mod outcome;
mod proof;
mod rollout;
mod run;
mod transaction;
mod ways;

pub use engine::{Engine, Interrupt, Planned, Settings};
pub use event::{Event, Events};
pub use outcome::{HostOutcome, Status, TransactionState};
pub use proof::{Kept, Proof};
pub use rollout::{Budget, Rollout, parse_batches};
