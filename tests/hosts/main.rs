//! Commands against hosts of the lab: real sshd, iptables and bridges, in namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod adopt;
mod answers;
mod article;
mod boot;
mod bootstrap;
mod bridges;
mod bridges_meanwhile;
mod confirm;
mod console;
mod drift;
mod elsewhere;
mod exit_codes;
mod expectations;
mod explain;
mod explain_beside;
mod explain_doubt;
mod first_light;
mod formats;
mod history;
mod hostile;
mod impact;
mod import;
mod lab_harness;
mod late;
mod lint_levels;
mod local;
mod moving;
mod network_state;
mod nothing_silent;
mod pipelines;
mod plan_quality;
mod prediction;
mod processes;
mod promise;
mod rollout;
mod saved_plan;
mod screen;
mod sets;
mod shells;
mod ssh;
mod status;
