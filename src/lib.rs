//! kvmfw plans and applies three things on fleets of KVM hosts: files in sysctl.d, iptables rules
//! and bridges. The source reads in the order of the story:
//!
//! `inventory` WHO → `desired` WHAT → `observe` IS → `plan` CHANGES → `engine` DO and UNDO.

#![forbid(unsafe_code)]

pub mod characters;
pub mod cli;
pub mod desired;
pub mod engine;
pub mod explain;
mod files;
pub mod import;
pub mod inventory;
mod kept;
pub mod netfilter;
pub mod observe;
pub mod plan;
pub mod problem;
pub mod protocol;
pub mod remote;
pub mod report;
pub mod resource;
pub mod transport;
pub mod yaml;
