//! IMPACT: what packets gain and lose by a change. Pure: from a host before and after it, by the simulator.
//!
//! A [`PacketFlow`] is a kind of packet that operators care about: SSH, guests of a bridge, listening ports, open
//! connections. [`changed_flows`] simulates each on both sides, and [`lines`] puts equal results into one line.

mod digest;
mod flow;
mod judge;
mod lines;
pub mod services;

pub use digest::{FlowDigest, remembered};
pub use flow::{FlowEnds, FlowKind, HostSide, HostTopology, OpenConnection, PacketFlow, RoutedNetwork};
pub use judge::{FlowChange, FlowDecider, changed_connections, changed_flows, changed_ssh};
pub use lines::lines;

use crate::problem::Origin;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of the packets of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FlowVerdict {
    /// They pass.
    Open,
    /// They pass, and NAT rewrites them.
    Rewritten,
    /// It depends on something that is not known.
    Unknown,
    /// They are dropped or rejected.
    Blocked,
}

impl FlowVerdict {
    /// The JSON value.
    pub fn as_str(self) -> &'static str {
        match self {
            FlowVerdict::Open => "open",
            FlowVerdict::Rewritten => "rewritten",
            FlowVerdict::Unknown => "unknown",
            FlowVerdict::Blocked => "blocked",
        }
    }
}

/// One line of the impact: flows to which the same happens by the same rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImpactLine {
    /// The packets: `guests on br123, new TCP, IPv4`.
    pub flow: String,
    /// What becomes of them before the change.
    pub before: FlowVerdict,
    /// What becomes of them after it.
    pub after: FlowVerdict,
    /// The rule, policy or sysctl key that decides afterwards; `None` where no rule is met.
    pub by: Option<String>,
    /// Where that was declared.
    pub origin: Option<Origin>,
}

#[cfg(test)]
mod tests;
