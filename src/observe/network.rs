//! Who else makes or configures links on a host, from its network files and what its daemons say.

mod ifupdown;
mod network_manager;
mod networkd;

use super::Link;
use std::collections::BTreeMap;

/// What the network files of a host tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Bridges that libvirt makes for its networks, with the file that defines the network.
    pub libvirt: BTreeMap<String, String>,
    /// `/etc/network/interfaces` reads the files of `interfaces.d`, and ifupdown knows bridges.
    pub ifupdown_bridges: bool,
    /// The files of others by path; ours are not among them.
    files: Vec<File>,
}

/// A file, as far as it has to do with links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct File {
    path: String,
    /// Lines with their numbers.
    lines: Vec<(u32, String)>,
}

/// A line of a host's network file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLine {
    /// The file.
    pub path: String,
    /// Its number, from 1.
    pub line: u32,
    /// What it says.
    pub text: String,
}

/// Who configures a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// `/etc/network/interfaces`.
    Ifupdown,
    /// systemd-networkd.
    Networkd,
    /// NetworkManager.
    NetworkManager,
}

impl Manager {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Manager::Ifupdown => "ifupdown",
            Manager::Networkd => "systemd-networkd",
            Manager::NetworkManager => "NetworkManager",
        }
    }

    /// The keys in its files that a bridge needs as well that takes the place of a link.
    pub fn carried(self) -> &'static [&'static str] {
        match self {
            Manager::Ifupdown => &[],
            Manager::Networkd => {
                &["DNS", "Domains", "NTP", "DNSDefaultRoute", "LLMNR", "MulticastDNS", "DNSSEC"]
            }
            Manager::NetworkManager => &["dns", "dns-search"],
        }
    }
}

/// A link's owner, and what it has for the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Who.
    pub manager: Manager,
    /// netplan writes the manager's files for this link.
    pub netplan: bool,
    /// The file that configures the link, where there is exactly one.
    pub file: Option<String>,
    /// Lines that give the link an address, a lease, a gateway or a master.
    pub gives: Vec<FileLine>,
    /// Lines that a bridge in the link's place needs as well: name servers, search domains.
    pub carries: Vec<String>,
}

impl Network {
    /// Reads the section of the probe: `key=value` lines, then `>PATH` before the lines of each file.
    pub fn parse(text: &str) -> Self {
        let mut network = Self::default();
        for line in text.lines() {
            if let Some(path) = line.strip_prefix('>') {
                network.files.push(File { path: path.to_owned(), lines: Vec::new() });
            } else if let Some(file) = network.files.last_mut() {
                if let Some((number, text)) = line.split_once(':') {
                    file.lines.push((number.parse().unwrap_or(0), text.trim().to_owned()));
                }
            } else if let Some((bridge, file)) = line.strip_prefix("libvirt=").and_then(|l| l.split_once(' '))
            {
                network.libvirt.insert(bridge.to_owned(), file.to_owned());
            } else if line == "bridge-utils=yes" {
                network.ifupdown_bridges = true;
            }
        }
        network.ifupdown_bridges &= network.sources_interfaces_d();
        network
    }

    /// Who configures a link; nobody, if none of those that we know.
    pub fn owner(&self, link: &Link) -> Option<Owner> {
        self.by_networkd(link).or_else(|| self.by_network_manager(link)).or_else(|| self.by_ifupdown(link))
    }
}

impl File {
    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The value of the first line `key=value`.
    fn value(&self, key: &str) -> Option<&str> {
        self.lines.iter().find_map(|(_, line)| {
            let (name, value) = line.split_once('=')?;
            (name.trim_end() == key).then_some(value.trim_start())
        })
    }

    /// Lines whose key is one of these.
    fn with_keys(&self, keys: &[&str]) -> impl Iterator<Item = &(u32, String)> {
        self.lines.iter().filter(move |(_, line)| {
            line.split_once('=').is_some_and(|(name, _)| keys.contains(&name.trim_end()))
        })
    }

    fn line(&self, (line, text): &(u32, String)) -> FileLine {
        FileLine { path: self.path.clone(), line: *line, text: text.clone() }
    }
}

#[cfg(test)]
mod tests;
