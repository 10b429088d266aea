//! NetworkManager: what it says of a device, and the profiles that it has on disk.

use super::{ConfigFile, LinkManager, LinkOwner, LinkSetting, NetworkConfig};
use crate::host_state::HostLink;

impl NetworkConfig {
    pub(super) fn by_network_manager(&self, link: &HostLink) -> Option<LinkOwner> {
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
        Some(LinkOwner {
            manager: LinkManager::NetworkManager,
            netplan: profile.is_some_and(|f| f.name().starts_with("netplan-")),
            file: profile.map(|f| f.path.clone()),
            gives: Vec::new(),
            settings: self.profile_settings(profile),
            unread: match profile {
                Some(_) => None,
                None => state.value("connection-uuid").map(str::to_owned),
            },
        })
    }

    /// The profile in effect on a link, else the one that is made for it by its name.
    fn profile(&self, link: &HostLink) -> Option<&ConfigFile> {
        let state = format!("/run/NetworkManager/devices/{}", link.index);
        let active = self.files.iter().find(|f| f.path == state)?.value("connection-uuid");
        let by_uuid = self.profiles().find(|f| active.is_some() && f.value("uuid") == active);
        by_uuid.or_else(|| self.profiles().find(|f| f.value("interface-name") == Some(link.name.as_str())))
    }

    fn profiles(&self) -> impl Iterator<Item = &ConfigFile> {
        self.files.iter().filter(|f| f.path.contains("/system-connections/"))
    }

    /// Settings of a profile, and lines of other profiles that refer to it by its UUID.
    fn profile_settings(&self, profile: Option<&ConfigFile>) -> Vec<LinkSetting> {
        let Some(profile) = profile else { return Vec::new() };
        let mut block = 0;
        let mut settings = profile.settings(&mut block);
        // One that only mirrors what others have set up says nothing of its own.
        if settings.iter().any(|setting| setting.key == "nm-generated") {
            return Vec::new();
        }
        if let Some(uuid) = profile.value("uuid") {
            let others = self.profiles().filter(|other| other.path != profile.path);
            let needs = others.flat_map(|other| other.settings(&mut block)).filter(|setting| {
                setting.value == uuid && matches!(setting.key.as_str(), "parent" | "master" | "controller")
            });
            settings.extend(needs.map(|setting| LinkSetting { section: NEEDS.to_owned(), ..setting }));
        }
        settings
    }
}

/// The section that lines of other profiles are told under.
pub const NEEDS: &str = "(other profiles)";
