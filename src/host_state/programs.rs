//! What sees packets beside netfilter.

use ipnet::IpNet;
use std::collections::BTreeSet;

/// Guests by the name of their bridge port.
pub type GuestsByPort = std::collections::BTreeMap<String, String>;

/// What sees packets beside netfilter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherPrograms {
    /// Devices with a qdisc that filters what comes in or leaves.
    pub tc: BTreeSet<String>,
    /// Source and destination of IPsec policies.
    pub xfrm: Vec<(IpNet, IpNet)>,
}

impl OtherPrograms {
    pub(super) fn parse(text: &str) -> Self {
        let mut programs = Self::default();
        for line in text.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["tc", device] => {
                    programs.tc.insert(device.to_owned());
                }
                ["xfrm", src, dst] => {
                    programs.xfrm.extend(src.parse().ok().zip(dst.parse().ok()));
                }
                _ => {}
            }
        }
        programs
    }
}

/// Reads a port and its guest from each line.
pub(super) fn guests(text: &str) -> GuestsByPort {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(port, name)| (port.to_owned(), name.to_owned())).collect()
}
