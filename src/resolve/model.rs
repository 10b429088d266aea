//! The desired state of one host, complete: nothing downstream looks at YAML again.

use super::SchedulingConstraints;
use crate::expectation::Expectation;
use crate::inventory::{ConfirmCheck, HostConnection, HostStanza};
use crate::jump_hosts::JumpHost;
use crate::problem::{LintPolicy, Warning};
use crate::resource::iptables::{DeclaredRules, IpFamily};
use crate::resource::{bridge::DeclaredBridge, ipset, sysctl};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that is declared for one host.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The host's name in the inventory.
    pub host: String,
    /// The name under which this inventory manages hosts; recorded on the host.
    pub inventory: String,
    /// How to reach it.
    pub connection: HostConnection,
    /// Files of ours in sysctl.d, by name without `.conf`.
    pub sysctl: BTreeMap<String, sysctl::SysctlFile>,
    /// Rules, by family. A family without an entry has nothing declared.
    pub rules: BTreeMap<IpFamily, DeclaredRules>,
    /// Sets of ipset by name.
    pub sets: BTreeMap<String, ipset::DeclaredSet>,
    /// Bridges by name, also those with `manage: false`.
    pub bridges: BTreeMap<String, DeclaredBridge>,
    /// What must pass before an apply is confirmed.
    pub checks: Vec<ConfirmCheck>,
    /// What packets are expected to do.
    pub expectations: Vec<Expectation>,
    /// What the bootstraps of this host asked for, where this is one.
    pub stanza: Option<HostStanza>,
    /// Which hosts may change at the same time, and in which order.
    pub scheduling: SchedulingConstraints,
    /// All jump hosts of the inventory. One of them may be a guest of this host.
    pub jump_hosts: Arc<[JumpHost]>,
    /// Which lints are shown, and which refuse the host.
    pub lints: Arc<LintPolicy>,
    /// Lints about this host's input.
    pub warnings: Vec<Warning>,
}
