//! Which hosts may change at the same time, and in which order.

use super::Desired;
use crate::inventory::GroupLineage;
use crate::jump_hosts::{DeclaredJumpHosts, DeclaredRoute, declared};

/// Limits on when a host may be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchedulingConstraints {
    /// Groups with a limit of hosts that change at the same time, and the limit.
    pub max_in_flight: Vec<(String, usize)>,
    /// Length of the longest chain of hosts that are reached through this one. A jump host that is cut off cuts off
    /// every host behind it, so it is changed alone, after all of them. [`usize::MAX`] is last of all.
    pub jump_depth: usize,
}

impl SchedulingConstraints {
    /// The limits of a host's groups. Jump depths need all hosts: [`mark_jump_hosts`] sets them.
    pub(super) fn new(lineage: &GroupLineage) -> Self {
        let groups = lineage.iter().map(|(_, group)| group);
        let limits = groups.filter_map(|group| {
            group.entry.max_in_flight.as_ref().map(|limit| (group.name.clone(), limit.value))
        });
        Self { max_in_flight: limits.collect(), jump_depth: 0 }
    }
}

/// Gives every host the list of jump hosts. Jump hosts get their depth and a warning.
pub(super) fn mark_jump_hosts(all: &mut [Desired]) {
    let routes = all.iter().map(|desired| DeclaredRoute {
        host: &desired.host,
        address: &desired.connection.address,
        jump: desired.connection.jump.as_deref(),
    });
    let routes: Vec<DeclaredRoute<'_>> = routes.collect();
    let DeclaredJumpHosts { all: jump_hosts, roles } = declared(&routes);
    for desired in &mut *all {
        desired.jump_hosts = jump_hosts.clone();
    }
    for (at, role) in roles {
        all[at].scheduling.jump_depth = role.depth;
        all[at].warnings.push(role.warning);
    }
}
