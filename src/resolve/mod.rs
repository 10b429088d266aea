//! WHAT: the desired state of each host, compiled from inventory and modules.

mod bridges;
mod compile;
mod connection;
mod lints;
mod merge;
mod model;
mod rules;
mod scheduling;
mod sets;
mod sysctl;

pub use compile::{compile, explain_host};
pub use merge::EffectiveValue;
pub use model::*;
pub use scheduling::SchedulingConstraints;
