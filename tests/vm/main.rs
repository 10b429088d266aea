//! Machines that really boot, with a systemd, an own disk and real reboots. In containers where systemd and
//! its logins are what counts; in a virtual machine, all emulated, where it takes a kernel with modules, a
//! clock or a disk that loses what was not synced. One boot of the latter is among all tests, the rest is for
//! the night: KVMFW_VM=1.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod boot;
mod boots;
mod clock;
#[path = "../common/mod.rs"]
mod common;
mod machine;
mod modules;
mod power;
mod session;
mod vlans;
mod window;
