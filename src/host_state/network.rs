//! Who else makes or configures links on a host, from its network files and what its daemons say.

mod ifupdown;
mod network_manager;
mod networkd;

pub use network_manager::NEEDS as NEEDS_PROFILE;

use super::HostLink;
use std::collections::BTreeMap;

/// What the network files of a host tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Bridges that libvirt makes for its networks, with the file that defines the network.
    pub libvirt: BTreeMap<String, String>,
    /// `/etc/network/interfaces` reads the files of `interfaces.d`, and ifupdown knows bridges.
    pub ifupdown_bridges: bool,
    /// The files of others by path; ours are not among them.
    files: Vec<ConfigFile>,
}

/// A file, as far as it has to do with links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ConfigFile {
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
pub enum LinkManager {
    /// `/etc/network/interfaces`.
    Ifupdown,
    /// systemd-networkd.
    Networkd,
    /// NetworkManager.
    NetworkManager,
}

impl LinkManager {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            LinkManager::Ifupdown => "ifupdown",
            LinkManager::Networkd => "systemd-networkd",
            LinkManager::NetworkManager => "NetworkManager",
        }
    }
}

/// A link's owner, and what it has for the link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkOwner {
    /// Who.
    pub manager: LinkManager,
    /// netplan writes the manager's files for this link.
    pub netplan: bool,
    /// The file that configures the link, where there is exactly one.
    pub file: Option<String>,
    /// Lines that give the link an address, a lease, a gateway or a master.
    pub gives: Vec<FileLine>,
    /// All that its file and the drop-ins of that set, in the order in which the manager reads them.
    pub settings: Vec<LinkSetting>,
    /// What the manager says configures the link, where that is in none of the files that were read.
    pub unread: Option<String>,
}

/// One assignment in a file that configures a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSetting {
    /// Its section, without the brackets.
    pub section: String,
    /// The number of that section among all sections read: some kinds stand once for each route or address.
    pub block: usize,
    /// The key.
    pub key: String,
    /// The value; empty where it was not read because it may hold a secret.
    pub value: String,
    /// Where it stands.
    pub place: FileLine,
}

impl NetworkConfig {
    /// Reads the section of the probe: `key=value` lines, then `>PATH` before the lines of each file.
    pub fn parse(text: &str) -> Self {
        let mut network = Self::default();
        for line in text.lines() {
            if let Some(path) = line.strip_prefix('>') {
                network.files.push(ConfigFile { path: path.to_owned(), lines: Vec::new() });
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
    pub fn owner(&self, link: &HostLink) -> Option<LinkOwner> {
        self.by_networkd(link).or_else(|| self.by_network_manager(link)).or_else(|| self.by_ifupdown(link))
    }
}

impl ConfigFile {
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

    /// Whether this is a drop-in of the file.
    fn drops_into(&self, file: &ConfigFile) -> bool {
        self.path.rsplit('/').nth(1).and_then(|folder| folder.strip_suffix(".d")) == Some(file.name())
    }

    /// Lines whose key is one of these.
    fn with_keys(&self, keys: &[&str]) -> impl Iterator<Item = &(u32, String)> {
        self.lines.iter().filter(move |(_, line)| {
            line.split_once('=').is_some_and(|(name, _)| keys.contains(&name.trim_end()))
        })
    }

    /// Its assignments; sections are counted on from `block`.
    fn settings(&self, block: &mut usize) -> Vec<LinkSetting> {
        let (mut section, mut settings) = (String::new(), Vec::<LinkSetting>::new());
        let mut continues = false;
        for numbered in &self.lines {
            let text = numbered.1.as_str();
            let (open, part) = text.strip_suffix('\\').map_or((false, text), |part| (true, part));
            if continues {
                if let Some(last) = settings.last_mut() {
                    last.value = format!("{} {}", last.value, part.trim()).trim().to_owned();
                }
            } else if let Some(name) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.clone_into(&mut section);
                *block += 1;
            } else if let Some((key, value)) = part.split_once('=') {
                let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
                let place = self.line(numbered);
                settings.push(LinkSetting { section: section.clone(), block: *block, key, value, place });
            }
            continues = open;
        }
        settings
    }

    fn line(&self, (line, text): &(u32, String)) -> FileLine {
        FileLine { path: self.path.clone(), line: *line, text: text.clone() }
    }
}

#[cfg(test)]
mod tests;
