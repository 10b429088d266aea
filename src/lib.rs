//! kvmfw plans and applies three things on fleets of KVM hosts: files in sysctl.d, iptables rules
//! and bridges. The source reads in the order of the story:
//!
//! `inventory` WHO → `resolve` WHAT → `host_state` IS → `plan` CHANGES → `engine` DO and UNDO.
//!
//! # What the library promises
//!
//! Nothing. The crate has a library so that the binary, tests, benches and fuzz targets share it: every item may change in any release. What is
//! stable, and versioned, is outside: commands, flags and exit codes, YAML keys, and the JSON of `--format json` and `jsonl` with its
//! `version` and its schemas. `netfilter`, the simulator, does no I/O and depends on `resource::iptables` alone; it is written so that it can
//! become a library of its own, and promises nothing until then.

#![forbid(unsafe_code)]

pub mod characters;
pub mod cli;
pub mod engine;
pub mod expectation;
pub mod explain;
mod files;
pub mod host;
pub mod host_state;
pub mod impact;
pub mod import;
mod interner;
pub mod inventory;
pub mod jump_hosts;
pub mod netfilter;
pub mod plan;
pub mod problem;
pub mod protocol;
pub mod report;
pub mod resolve;
pub mod resource;
pub mod ssh;
pub mod yaml;
