//! `kvmfw repair`: a guarded apply of what the last apply left. The inventory only says which hosts are meant.

use super::apply::RolloutArgs;
use super::undo::{Return, go_back};
use super::{CliResult, Common, HostsArgs};
use crate::engine::Budget;
use clap::Args;

/// Arguments of `repair`.
#[derive(Debug, Args)]
pub(super) struct RepairArgs {
    #[command(flatten)]
    pub(super) hosts: HostsArgs,
    #[command(flatten)]
    rollout: RolloutArgs,
}

pub(super) fn run(common: &Common, args: &RepairArgs) -> CliResult {
    let back = Return {
        command: "repair",
        name: String::new(),
        to: "current".to_owned(),
        max_fail: Budget::Hosts(1),
    };
    go_back(common, &args.rollout, args.rollout.accept.set(), back)
}
