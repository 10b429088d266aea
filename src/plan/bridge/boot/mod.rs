//! Who makes a bridge at boot. Whoever owns the link it stands in for gets it in files of its own
//! format; what no such file can say, and bridges that nobody owns, are for our boot unit, which runs
//! after all of them and ensures the whole.

mod carried;
mod ifupdown;
mod netplan;
mod network_manager;
mod networkd;
mod networkd_settings;
mod profile_settings;

use super::MovedAddress;
use super::RefusalCause;
use crate::host_state::{HostLink, LinkManager, LinkOwner, Observed, PortVlans};
use crate::problem::Warning;
use crate::resource::bridge::{DEFAULT_PVID, DeclaredBridge, LinkAddress};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A bridge as it is to be after a boot.
pub(super) struct BootContext<'a> {
    pub bridge: &'a DeclaredBridge,
    /// We make it; else it is there without us, and we only add to it.
    pub created: bool,
    pub mac: Option<String>,
    /// The ports that are ours to make.
    pub ports: Vec<&'a String>,
    /// Declared ones and those taken over.
    pub addresses: Vec<AddressAtBoot>,
    /// Declared ones, else the default that moved with an address.
    pub gateways: Vec<GatewayAtBoot>,
    /// VLANs by port, the bridge's own by its name.
    pub vlans: BTreeMap<&'a str, PortVlans>,
    /// Ports that the addresses are, or were, taken from.
    pub moved_from: BTreeSet<String>,
    /// What its files carried before, where their source is found no more.
    pub files_before: &'a BTreeMap<String, String>,
}

/// An address, with what not every manager has a word for.
pub(super) struct AddressAtBoot {
    pub address: LinkAddress,
    /// Its attributes as `ip` takes them, where they are not those of a new address.
    pub attributes: String,
}

/// A gateway.
pub(super) struct GatewayAtBoot {
    pub address: IpAddr,
    /// It is in the network of no address.
    pub onlink: bool,
}

impl AddressAtBoot {
    pub(super) fn from_address(address: LinkAddress, taken: Option<&MovedAddress>) -> Self {
        let broadcast = match address.network() {
            IpNet::V4(net) => format!(" brd {}", net.broadcast()),
            IpNet::V6(_) => String::new(),
        };
        let attributes = taken.map_or_else(String::new, |taken| {
            let text = taken.here.replace(" nodad", "");
            text.strip_prefix(&broadcast).map(str::to_owned).unwrap_or(text)
        });
        Self { address, attributes }
    }

    /// Whether it has nothing but a prefix length.
    fn is_plain(&self) -> bool {
        self.attributes.is_empty() && self.address.peer().is_none()
    }

    /// The value of one of its attributes.
    fn value(&self, word: &str) -> Option<&str> {
        let mut words = self.attributes.split_whitespace();
        words.find(|w| *w == word)?;
        words.next()
    }

    fn has(&self, word: &str) -> bool {
        self.attributes.split_whitespace().any(|w| w == word)
    }
}

/// What keeps a bridge over a boot.
#[derive(Default)]
pub(super) struct BootConfig {
    /// Files by path.
    pub files: BTreeMap<String, String>,
    /// Files below `/run` that tell a running daemon the same while the change is not decided yet.
    pub window: BTreeMap<String, String>,
    pub warning: Option<Warning>,
}

/// The first line of our files.
const HEADER: &str = "# Managed by kvmfw: do not edit, kvmfw overwrites this file.\n";

pub(super) fn keep(at_boot: &BootContext<'_>, observed: &Observed) -> Result<BootConfig, RefusalCause> {
    let links = &observed.links.by_name;
    let bridge = at_boot.bridge;
    let ports: Vec<&HostLink> = at_boot.ports.iter().filter_map(|p| links.get(*p)).collect();
    let owner = |link: &&HostLink| observed.network.owner(link);
    if !at_boot.created {
        let owner = links.get(&bridge.name).and_then(|link| owner(&link));
        return match owner {
            Some(owner) if owner.manager == LinkManager::Networkd => {
                networkd::add(at_boot, &owner, &ports, observed)
            }
            _ => Ok(BootConfig::default()),
        };
    }
    let owners: Vec<(&HostLink, LinkOwner)> =
        ports.iter().filter_map(|link| Some((*link, owner(link)?))).collect();
    let Some((_, first)) = owners.first() else { return Ok(BootConfig::default()) };
    if let Some((link, other)) = owners.iter().find(|(_, o)| o.manager != first.manager) {
        return Err((
            "unmanaged-owner",
            format!(
                "bridge {}: {} configures {}, and {} configures {}; give its ports to one of them",
                bridge.name,
                first.manager.as_str(),
                owners.first().map_or("", |(l, _)| &l.name),
                other.manager.as_str(),
                link.name
            ),
        ));
    }
    match first.manager {
        LinkManager::Ifupdown => Ok(ifupdown::make(at_boot, &owners, observed)),
        LinkManager::Networkd => {
            networkd::not_before_ours(bridge, &owners)?;
            let mut kept = networkd::make(at_boot, &owners)?;
            if netplan::can_say(&owners, at_boot) {
                kept.files = netplan::make(at_boot);
            }
            Ok(kept)
        }
        // Its profiles are for a kind of link; those of a VLAN or a bond we leave to our unit. They have no words for
        // peers, labels and the like either.
        LinkManager::NetworkManager
            if !ports.iter().all(|link| is_ethernet(link))
                || !at_boot.addresses.iter().all(AddressAtBoot::is_plain) =>
        {
            Ok(BootConfig::default())
        }
        LinkManager::NetworkManager => network_manager::make(at_boot, &owners),
    }
}

fn is_ethernet(link: &HostLink) -> bool {
    link.linkinfo.kind.as_deref().is_none_or(|kind| kind == "veth")
}

impl BootContext<'_> {
    fn name(&self) -> &str {
        &self.bridge.name
    }

    /// Seconds. Without STP the delay is as good as none, and with it there is a least one.
    fn delay(&self) -> Option<u32> {
        self.bridge.forward_delay.or_else(|| (self.bridge.stp != Some(true)).then_some(0))
    }

    /// An attribute that is stated, as an inventory has it.
    fn number(&self, key: &str) -> Option<u32> {
        self.bridge.attributes.get(key).copied()
    }

    /// The VLAN that a port has once it has joined.
    fn default_pvid(&self) -> u16 {
        self.number(DEFAULT_PVID).and_then(|vid| u16::try_from(vid).ok()).unwrap_or(1)
    }

    /// The same of a switch.
    fn switch(&self, key: &str) -> Option<bool> {
        self.number(key).map(|value| value != 0)
    }

    /// An attribute of a port that is stated.
    fn of_port(&self, port: &str, key: &str) -> Option<u32> {
        self.bridge.port_attributes.get(port)?.get(key).copied()
    }

    fn gateway(&self, v6: bool) -> Option<&GatewayAtBoot> {
        self.gateways.iter().find(|g| g.address.is_ipv6() == v6)
    }

    /// Whether the bridge has an address, as a file of its port writes it: a peer stands elsewhere there.
    fn has(&self, net: IpNet) -> bool {
        let of_peer = |a: &LinkAddress| a.peer().is_some() && IpNet::from(a.local()) == net;
        self.addresses.iter().any(|a| a.address == LinkAddress::from(net) || of_peer(&a.address))
    }

    fn addresses(&self, v6: bool) -> impl Iterator<Item = &AddressAtBoot> {
        self.addresses.iter().filter(move |a| a.address.is_ipv6() == v6)
    }
}

#[cfg(test)]
mod tests;
