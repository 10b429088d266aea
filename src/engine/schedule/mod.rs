//! Decides which host changes when, and runs the transactions.

mod batches;
mod host_task;
mod rollout;
mod state;
mod stragglers;

pub(super) use rollout::apply_fleet;
