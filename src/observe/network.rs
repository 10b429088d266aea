//! Who else makes or configures links on a host.

use std::collections::BTreeMap;

/// What the network files of a host tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Bridges that libvirt makes for its networks, with the file that defines the network.
    pub libvirt: BTreeMap<String, String>,
}

impl Network {
    /// Reads the section of the probe.
    pub fn parse(text: &str) -> Self {
        let mut network = Self::default();
        for line in text.lines() {
            if let Some((bridge, file)) = line.strip_prefix("libvirt=").and_then(|l| l.split_once(' ')) {
                network.libvirt.insert(bridge.to_owned(), file.to_owned());
            }
        }
        network
    }
}
