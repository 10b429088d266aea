//! Where a port moves that leaves a managed bridge.

use super::BridgeOwnership;
use super::vlans::{fresh, lines};
use crate::host_state::{HostLinks, Observed};
use crate::plan::GenerationManifest;
use crate::resolve::Desired;
use std::collections::{BTreeMap, BTreeSet};

/// The declared ports and created bridges of a host, which decide where a port moves.
pub(super) struct PortMoves<'a> {
    /// The bridge that a port is declared on.
    declared: BTreeMap<&'a str, &'a str>,
    /// Bridges that we made.
    created: BTreeSet<&'a str>,
    links: &'a HostLinks,
}

impl<'a> PortMoves<'a> {
    pub(super) fn new(desired: &'a Desired, observed: &'a Observed, record: &'a GenerationManifest) -> Self {
        let managed = desired.bridges.values().filter(|bridge| bridge.manage);
        let ports = |bridge: &'a crate::resource::bridge::DeclaredBridge| {
            bridge.ports.iter().map(move |port| (port.as_str(), bridge.name.as_str()))
        };
        let created = record.owned.iter().filter(|(_, owned)| owned.created);
        Self {
            declared: managed.flat_map(ports).collect(),
            created: created.map(|(name, _)| name.as_str()).collect(),
            links: &observed.links,
        }
    }

    /// Whether a bridge is not one that we made.
    pub(super) fn is_unmanaged(&self, bridge: &str) -> bool {
        !self.created.contains(bridge)
    }

    /// The lines by which a port leaves: to the bridge of others that it was taken from, if that is still there and
    /// nobody declares the port. There it has its VLANs again.
    pub(super) fn leave_lines(&self, port: &str, owned: &BridgeOwnership) -> Vec<String> {
        let from = owned.masters.get(port);
        let mut way = vec![format!("link set dev {port} nomaster")];
        let there = |bridge: &&String| {
            self.is_unmanaged(bridge) && self.links.by_name.get(*bridge).is_some_and(|link| link.is_bridge())
        };
        if let Some(bridge) = from.filter(there).filter(|_| !self.declared.contains_key(port)) {
            way.push(format!("link set dev {port} master {bridge}"));
            way.extend(owned.attributes_there.get(port).into_iter().flatten().cloned());
            if let Some(vlans) = owned.vlans_there.get(port) {
                way.extend(lines(bridge, port, &fresh(self.links, bridge), vlans));
            }
        }
        way
    }

    /// A port leaves one bridge before it becomes a port of the next, whichever of them is planned first.
    pub(super) fn order_leaves_first(&self, lines: &mut Vec<String>) {
        for (port, bridge) in &self.declared {
            let (comes, leaves) =
                (format!("link set dev {port} master {bridge}"), format!("link set dev {port} nomaster"));
            let at = |line: &str| lines.iter().position(|other| other == line);
            if let (Some(comes), Some(leaves)) = (at(&comes), at(&leaves))
                && comes < leaves
            {
                let line = lines.remove(leaves);
                lines.insert(comes, line);
            }
        }
    }
}
