//! DO and UNDO: plans carried out inside the guarded transaction of each host, in batches.

mod checks;
mod dial;
mod event;
mod facade;
mod interrupt;
mod late;
mod latecomers;
mod look;
mod outcome;
mod own_words;
mod planning;
mod proof;
mod rollout;
mod run;
mod settings;
mod transaction;
mod ways;

pub use event::{Event, Events};
pub use facade::{Check, Engine};
pub use interrupt::Interrupt;
pub use late::LATE;
pub use outcome::{HostOutcome, Status, TransactionState};
pub use planning::{Planned, Purpose};
pub use proof::{Kept, Proof};
pub use rollout::{Budget, Rollout, parse_batches};
pub use settings::Settings;
