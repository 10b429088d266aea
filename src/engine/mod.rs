//! DO and UNDO: probes hosts, plans them, and carries the plans out in guarded transactions, batch by batch.

mod budget;
mod client;
mod context;
mod dialer;
mod events;
mod facade;
mod failures;
mod interrupt;
mod outcome;
mod probe;
mod proof;
mod schedule;
mod settings;
mod transaction;
mod unparsed;

pub use budget::{Budget, parse_batches};
pub use context::PlanCheck;
pub use events::{EngineEvent, EventSender};
pub use facade::Engine;
pub use interrupt::Interrupt;
pub use outcome::{HostOutcome, HostStatus, TransactionState};
pub use probe::{PlanMode, Planned, STRAGGLER};
pub use proof::{Confirmation, LoginProof};
pub use settings::EngineSettings;
