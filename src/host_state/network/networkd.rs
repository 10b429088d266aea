//! systemd-networkd: the first file by name that matches a link is the one that configures it.

use super::{ConfigFile, LinkManager, LinkOwner, NetworkConfig};
use crate::host_state::HostLink;
use globset::Glob;

impl NetworkConfig {
    pub(super) fn by_networkd(&self, link: &HostLink) -> Option<LinkOwner> {
        let state = format!("/run/systemd/netif/links/{}", link.index);
        let state = self.files.iter().find(|f| f.path == state)?;
        if state.value("ADMIN_STATE").is_none_or(|state| state == "unmanaged") {
            return None;
        }
        let named = state.value("NETWORK_FILE").unwrap_or_default();
        // With a file of ours in effect: the one that would be, if ours were not there.
        let file = self.files.iter().find(|f| f.path == named).or_else(|| self.matching(link));
        let parts = file.map_or_else(Vec::new, |file| self.with_drop_ins(file));
        let mut block = 0;
        Some(LinkOwner {
            manager: LinkManager::Networkd,
            netplan: file.is_some_and(|f| f.name().starts_with("10-netplan-")),
            file: file.map(|f| f.path.clone()),
            gives: parts.iter().flat_map(|part| part.gives()).collect(),
            settings: parts.iter().flat_map(|part| part.settings(&mut block)).collect(),
            unread: (file.is_none() && !named.is_empty()).then(|| named.to_owned()),
        })
    }

    /// A file and its drop-ins, in the order in which they are read; of two with one name the first folder's counts.
    fn with_drop_ins<'a>(&'a self, file: &'a ConfigFile) -> Vec<&'a ConfigFile> {
        let mut drop_ins: Vec<&ConfigFile> = self.files.iter().filter(|f| f.drops_into(file)).collect();
        drop_ins.sort_by_key(|f| f.name());
        drop_ins.dedup_by_key(|f| f.name());
        std::iter::once(file).chain(drop_ins).collect()
    }

    fn matching(&self, link: &HostLink) -> Option<&ConfigFile> {
        let files = self.files.iter().filter(|f| f.name().ends_with(".network") && f.matches(link));
        files.min_by_key(|f| f.name())
    }
}

impl ConfigFile {
    fn gives(&self) -> impl Iterator<Item = super::FileLine> + '_ {
        let lines = self.with_keys(&["Address", "Gateway", "DHCP", "Bridge", "Bond"]);
        lines.filter(|(_, line)| !line.ends_with("=no")).map(|line| self.line(line))
    }

    /// Whether its `[Match]` is one of those that can be judged from here, and fits.
    fn matches(&self, link: &HostLink) -> bool {
        let mut section = "";
        let mut fits = None;
        for (_, line) in &self.lines {
            if line.starts_with('[') {
                section = line;
            } else if section == "[Match]" {
                let Some((key, values)) = line.split_once('=') else { continue };
                let one_is = |is: &dyn Fn(&str) -> bool| values.split_whitespace().any(is);
                let fit = match key.trim_end() {
                    "Name" => one_is(&|name| {
                        Glob::new(name).is_ok_and(|glob| glob.compile_matcher().is_match(&link.name))
                    }),
                    "MACAddress" | "PermanentMACAddress" => {
                        one_is(&|mac| link.mac.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(mac)))
                    }
                    "Type" => one_is(&|kind| kind == "ether"),
                    _ => false,
                };
                fits = Some(fits.unwrap_or(true) && fit);
            }
        }
        fits == Some(true)
    }
}
