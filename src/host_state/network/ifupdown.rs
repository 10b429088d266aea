//! `/etc/network/interfaces` and the files that it reads.

use super::{ConfigFile, FileLine, LinkManager, LinkOwner, NetworkConfig};
use crate::host_state::HostLink;

/// Words that begin a stanza, or stand for themselves.
const STANZAS: [&str; 7] =
    ["iface", "auto", "mapping", "source", "source-directory", "no-auto-down", "no-scripts"];

impl NetworkConfig {
    fn interfaces(&self) -> impl Iterator<Item = &ConfigFile> {
        self.files.iter().filter(|f| f.path.starts_with("/etc/network/"))
    }

    pub(super) fn sources_interfaces_d(&self) -> bool {
        let mut lines = self.interfaces().filter(|f| f.name() == "interfaces").flat_map(|f| &f.lines);
        lines.any(|(_, line)| line.starts_with("source") && line.contains("interfaces.d"))
    }

    pub(super) fn by_ifupdown(&self, link: &HostLink) -> Option<LinkOwner> {
        let mut gives = Vec::new();
        let mut found = false;
        for file in self.interfaces() {
            // The link that the stanza is of.
            let mut of = "";
            for numbered in &file.lines {
                let mut words = numbered.1.split_whitespace();
                let (word, next) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                if STANZAS.contains(&word) || word.starts_with("allow-") {
                    of = if word == "iface" { next } else { "" };
                    let method = words.nth(1).unwrap_or_default();
                    found |= of == link.name;
                    if of == link.name && !matches!(method, "manual" | "loopback" | "static") {
                        gives.push(file.line(numbered));
                    }
                } else if (of == link.name && matches!(word, "address" | "gateway"))
                    || (matches!(word, "bridge_ports" | "bridge-ports" | "slaves" | "bond-slaves")
                        && numbered.1.split_whitespace().skip(1).any(|port| port == link.name))
                {
                    gives.push(file.line(numbered));
                }
            }
        }
        (found || !gives.is_empty()).then(|| LinkOwner {
            manager: LinkManager::Ifupdown,
            netplan: false,
            file: None,
            gives,
            settings: Vec::new(),
            unread: None,
        })
    }
}

impl std::fmt::Display for FileLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} `{}`", self.path, self.line, self.text)
    }
}
