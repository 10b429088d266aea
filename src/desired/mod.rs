//! WHAT: the desired state of each host, compiled from inventory and modules.

mod bridges;
mod compile;
mod connection;
mod merge;
mod model;
mod rules;
mod sets;
mod sysctl;
mod turn;

pub use compile::{compile, explain_host};
pub use merge::EffectiveValue;
pub use model::*;
pub use turn::{Turn, Way, first_and_more, jumps, warning as jump_warning};
