//! Bridges: what is declared is ensured, what we added and is declared no more goes, everything
//! else stays. A bridge that exists is never taken down or made anew: guests' taps would lose it.

mod addresses;
mod attributes;
mod boot;
mod planner;
mod port_attributes;
mod port_moves;
mod ports;
mod removal;
mod routes;
mod stp;
mod unmanaged;
mod vlans;

pub use port_attributes::OTHER_PORT_SWITCHES;
pub use unmanaged::maker;

use self::port_moves::PortMoves;
use super::{Change, GenerationManifest};
use crate::host_state::{Observed, PortVlans};
use crate::problem::Warning;
use crate::resolve::Desired;
use crate::resource::bridge::LinkAddress;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What kvmfw added to a bridge, and what stood there before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeOwnership {
    /// We made the bridge.
    pub created: bool,
    /// Ports we enslaved.
    pub ports: BTreeSet<String>,
    /// Bridges of others that ports were taken from, by port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub masters: BTreeMap<String, String>,
    /// The VLANs that those ports had there, where they were not those of every new port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vlans_there: BTreeMap<String, PortVlans>,
    /// The attributes that those ports had there, where they were not those of every new port, as lines for `ip -batch`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes_there: BTreeMap<String, Vec<String>>,
    /// Addresses we added, with the port they were taken from.
    pub addresses: BTreeMap<LinkAddress, Option<String>>,
    /// What those that were taken had there and have here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub taken: BTreeMap<LinkAddress, MovedAddress>,
    /// Gateways we added.
    pub gateways: BTreeSet<IpAddr>,
    /// Routes that we moved from a port to the bridge, as lines for `ip -batch`, in an order in which
    /// they can be made: at boot they have to move again.
    #[serde(default)]
    pub routes: Vec<String>,
    /// The same routes, one by one, as they were before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes_there: Vec<String>,
    /// Default routes by other links that a gateway of ours took the place of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub displaced: Vec<String>,
    /// Attributes we set, with the value before: `mtu` → `1500`, `eth1 mtu` → `1500`.
    pub attributes: BTreeMap<String, String>,
    /// Ports whose VLANs we set, with those that they had before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub vlans: BTreeMap<String, PortVlans>,
    /// Network files by path, in the format of whoever owns the bridge.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// What our unit does about it at boot, as lines for `ip -batch`.
    #[serde(default)]
    pub boot: Vec<String>,
}

/// An address that was taken from a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedAddress {
    /// Its place among all that were taken with it.
    pub place: usize,
    /// Its attributes on the bridge, as `ip` takes them.
    pub here: String,
    /// Its attributes on the port.
    pub there: String,
}

/// What a plan does about bridges. The three texts are for `ip -batch`, lines
/// `vlan …` for `bridge -batch`.
#[derive(Default)]
pub(super) struct BridgePlan {
    pub changes: Vec<Change>,
    pub warnings: Vec<Warning>,
    /// To the desired state, step by step.
    pub forward: Vec<String>,
    /// Back to what was observed, from wherever the way forward stopped.
    pub back: Vec<String>,
    /// To the desired state at boot, from wherever the distribution left it.
    pub boot: Vec<String>,
    /// Files by path that make it so at boot, and those below `/run` that say so until then.
    pub files: BTreeMap<String, String>,
    pub window: BTreeMap<String, String>,
    pub owned: BTreeMap<String, BridgeOwnership>,
    /// Links that are touched.
    pub devices: BTreeSet<String>,
    /// Why it cannot be done: reason and sentence.
    pub refusal: Option<RefusalCause>,
}

type RefusalCause = (&'static str, String);

pub(super) fn plan(desired: &Desired, observed: &Observed, record: &GenerationManifest) -> BridgePlan {
    let mut plan = BridgePlan::default();
    let port_moves = PortMoves::new(desired, observed, record);
    for bridge in desired.bridges.values().filter(|b| b.manage) {
        let owned = record.owned.get(&bridge.name).cloned().unwrap_or_default();
        if let Err(refusal) = planner::plan(bridge, &desired.host, owned, observed, &port_moves, &mut plan) {
            plan.refusal.get_or_insert(refusal);
        }
    }
    for (name, owned) in &record.owned {
        if !desired.bridges.get(name).is_some_and(|b| b.manage) {
            removal::plan(name, owned, observed, &port_moves, &mut plan);
        }
    }
    for lines in [&mut plan.forward, &mut plan.back, &mut plan.boot] {
        stp::in_order(lines);
        vlans::in_order(lines);
    }
    port_moves.order_leaves_first(&mut plan.forward);
    // A port that moves between two bridges of ours is put back by both; what is gone cannot go again.
    let mut told = BTreeSet::new();
    plan.back.retain(|line| !line.starts_with("vlan ") || told.insert(line.clone()));
    // `ip -batch` ends at a line that names a bridge which is not there, also with -force.
    plan.back.sort_by_key(|line| !line.starts_with("link add name "));
    plan
}
