//! Probes hosts and plans them.

mod fleet;
mod host;
mod jump_addresses;
mod request;
mod task;

pub(super) use fleet::{FleetPlan, plan_fleet};
pub use fleet::{PlanMode, Planned};
pub(super) use host::{packets_document, probe_host};
pub(super) use jump_addresses::JumpAddresses;
pub(super) use request::request_fleet;
pub use task::STRAGGLER;
pub(super) use task::{
    ProbeResult, ProbeTask, STRAGGLER_GRACE, TAIL_PROBE_TIMEOUT, probe_timeout_outcome, unanswered_outcome,
};
