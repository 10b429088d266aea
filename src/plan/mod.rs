//! CHANGES: desired × observed. Pure: the same two always give the same plan.

mod adopt;
mod boot;
mod bridge;
mod canonicalize;
mod diff;
mod diff_interner;
mod drift;
mod fingerprint;
pub mod forecast;
mod history_diff;
mod host;
mod host_after;
mod key_effects;
mod lints;
mod loaders;
mod manifest;
mod module_test;
mod other_tables;
mod packages;
mod refusal;
mod rules;
mod sets;
mod sysctl;
mod transaction_files;

pub use crate::resource::ResourceKind;
pub use adopt::{AdoptedRule, AdoptionDelta, RestoreTarget};
pub use bridge::{BridgeOwnership, OTHER_PORT_SWITCHES, maker as bridge_maker};
pub use diff::{Diff, DiffLine};
pub use diff_interner::DiffInterner;
pub use drift::drift;
pub use fingerprint::digest;
pub use host::{
    AcceptableRisk, HostPlan, HostVerdict, PlanOptions, check, host, needs_vlans, probe_request, set_headers,
};
pub use host_after::{HostAfter, ValueSource, forwarding_keys};
pub use lints::{bypass_evidence, bypass_writers, flows};
pub use manifest::GenerationManifest;
pub use module_test::module_test;
pub use other_tables::other_tables;
pub use refusal::Refusal;
pub use rules::origins as origins_of;
pub use transaction_files::TransactionFiles;

use crate::host_state::Observed;
use crate::problem::Origin;
use crate::resolve::Desired;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is to be done on a host, or what has drifted there.
pub fn compute(desired: &Desired, observed: &Observed, options: &PlanOptions) -> HostPlan {
    if !options.drift {
        return host(desired, observed, options);
    }
    let mut plan = drift(desired, observed, options);
    desired.lints.drop_allowed(&mut plan.warnings);
    plan
}

/// One change of one resource on one host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    /// Kind of the resource.
    pub kind: ResourceKind,
    /// Name of the resource: `filter/FORWARD`, `60-arp`, `br123`.
    pub resource: String,
    /// Effect on the resource.
    pub action: ChangeAction,
    /// The lines.
    pub diff: Diff,
    /// Declarations of the desired state.
    pub origin: Vec<Origin>,
    /// Risks of the change.
    pub risks: Vec<ChangeRisk>,
}

/// Effect of a change on its resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeAction {
    /// The resource does not exist yet.
    Add,
    /// The resource exists and differs.
    Change,
    /// The resource is no longer desired.
    Remove,
}

/// Risk of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeRisk {
    /// It affects the SSH path.
    ManagementPath,
    /// The simulation of the rules shows that SSH will be cut.
    Lockout,
    /// It cuts off guests of a bridge.
    GuestsUnreachable,
    /// A rollback cannot restore a part of it.
    OneWay,
    /// It removes all managed resources of its kind from the host.
    RemovesAll,
    /// It hides bridged frames from another program that filters them.
    BypassWrong,
}

impl ChangeRisk {
    /// The JSON value.
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeRisk::ManagementPath => "management-path",
            ChangeRisk::Lockout => "lockout",
            ChangeRisk::GuestsUnreachable => "guests-unreachable",
            ChangeRisk::OneWay => "one-way",
            ChangeRisk::RemovesAll => "removes-all",
            ChangeRisk::BypassWrong => "bypass-wrong",
        }
    }
}
