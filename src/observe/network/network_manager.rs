//! NetworkManager: what it says of a device, and the profiles that it has on disk.

use super::{File, Manager, Network, Owner};
use crate::observe::Link;

impl Network {
    pub(super) fn by_network_manager(&self, link: &Link) -> Option<Owner> {
        let state = format!("/run/NetworkManager/devices/{}", link.index);
        let state = self.files.iter().find(|f| f.path == state)?;
        if state.value("managed") != Some("true") {
            return None;
        }
        let profile = self.profile(link);
        // It also looks after bridges that others make, and leaves them as they are.
        if link.is_bridge() && state.value("nm-owned") != Some("true") && profile.is_none() {
            return None;
        }
        Some(Owner {
            manager: Manager::NetworkManager,
            netplan: profile.is_some_and(|f| f.name().starts_with("netplan-")),
            file: profile.map(|f| f.path.clone()),
            gives: Vec::new(),
            carries: profile
                .into_iter()
                .flat_map(|f| f.with_keys(Manager::NetworkManager.carried()))
                .map(|(_, line)| line.clone())
                .collect(),
        })
    }

    /// The profile that is made for this link by its name.
    fn profile(&self, link: &Link) -> Option<&File> {
        self.files.iter().find(|f| {
            f.path.contains("/system-connections/") && f.value("interface-name") == Some(link.name.as_str())
        })
    }
}
