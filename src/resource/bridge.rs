//! Bridges as they are declared. Ports, addresses and gateways are *at least*: what else is there
//! belongs to others and stays.

use crate::problem::Origin;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A declared bridge; an attribute that is `None` is not managed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredBridge {
    /// The link's name, at most 15 characters.
    pub name: String,
    /// `manage: false`: others make it; it only stands in `$bridges`.
    pub manage: bool,
    /// Ports that must be enslaved.
    pub ports: Vec<String>,
    /// Addresses that must be there.
    pub addresses: Vec<LinkAddress>,
    /// Default gateways, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Take addresses and routes over from a named port.
    pub take_addresses: bool,
    /// MTU in bytes, of the bridge and of its named ports.
    pub mtu: Option<u32>,
    /// The bridge's own MAC, lower case; pinned when given.
    pub mac: Option<String>,
    /// Spanning tree.
    pub stp: Option<bool>,
    /// Seconds.
    pub forward_delay: Option<u32>,
    /// Seconds.
    pub ageing: Option<u32>,
    /// VLAN filtering.
    pub vlan_filtering: Option<bool>,
    /// VLANs of named ports.
    pub vlans: Vec<PortVlan>,
    /// Per-bridge `nf_call_iptables`.
    pub nf_call_iptables: Option<bool>,
    /// Per-bridge `nf_call_ip6tables`.
    pub nf_call_ip6tables: Option<bool>,
    /// Per-bridge `nf_call_arptables`.
    pub nf_call_arptables: Option<bool>,
    /// Attributes of [`BRIDGE_ATTRIBUTES`] by key; switches are 0 and 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, u32>,
    /// Attributes of [`PORT_ATTRIBUTES`] by port and key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub port_attributes: BTreeMap<String, BTreeMap<String, u32>>,
    /// Where it was first declared.
    pub origin: Origin,
}

/// An attribute of a bridge or a port that the kernel keeps as one number.
#[derive(Clone, Copy, Debug)]
pub struct BridgeAttribute {
    /// The key in an inventory.
    pub key: &'static str,
    /// What `ip` calls it.
    pub word: &'static str,
    /// What a new bridge or port has, as an inventory states it; `None` where that depends on the link.
    pub default: Option<u32>,
    /// The least and the largest value, as an inventory states it.
    pub bounds: (u32, u32),
    /// How many units of the kernel one of an inventory has: it counts hundredths of a second.
    pub scale: u32,
    /// It is on or off.
    pub switch: bool,
}

const fn number(key: &'static str, default: Option<u32>, bounds: (u32, u32), scale: u32) -> BridgeAttribute {
    BridgeAttribute { key, word: key, default, bounds, scale, switch: false }
}

const fn switch(key: &'static str, word: &'static str, default: u32) -> BridgeAttribute {
    BridgeAttribute { key, word, default: Some(default), bounds: (0, 1), scale: 1, switch: true }
}

/// The VLAN of untagged frames that a port gets when it joins; 0 is none.
pub const DEFAULT_PVID: &str = "vlan_default_pvid";

/// Attributes of a bridge beside those that depend on others (`stp` and `forward_delay`, `ageing`, `vlan_filtering`).
pub const BRIDGE_ATTRIBUTES: [BridgeAttribute; 7] = [
    number("hello_time", Some(2), (1, 10), 100),
    number("max_age", Some(20), (6, 40), 100),
    number("priority", Some(32768), (0, 65535), 1),
    number("group_fwd_mask", Some(0), (0, 0xfff8), 1),
    // Before the ports join, which get it.
    number(DEFAULT_PVID, Some(1), (0, 4094), 1),
    switch("multicast_snooping", "mcast_snooping", 1),
    switch("multicast_querier", "mcast_querier", 0),
];

/// Attributes of a port.
pub const PORT_ATTRIBUTES: [BridgeAttribute; 4] = [
    switch("isolated", "isolated", 0),
    switch("hairpin", "hairpin", 0),
    number("cost", None, (1, 65535), 1),
    number("priority", Some(32), (0, 63), 1),
];

impl BridgeAttribute {
    /// A value of an inventory as `ip` takes it for a port.
    pub fn of_port(&self, value: i64) -> String {
        match (self.switch, value) {
            (true, 0) => "off".to_owned(),
            (true, _) => "on".to_owned(),
            (false, _) => value.to_string(),
        }
    }
}

/// An address of a link, as `ip address` writes it: `192.0.2.7/24`, or `192.0.2.7 peer 192.0.2.1/32`, where the network
/// that is reached over the link is not that of the address itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkAddress {
    local: IpAddr,
    /// The peer with the prefix length; without a peer the address itself.
    far: IpNet,
}

impl LinkAddress {
    /// The address itself.
    pub fn local(&self) -> IpAddr {
        self.local
    }

    /// Whether it is one of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.local.is_ipv6()
    }

    /// The length of the prefix.
    pub fn prefix(&self) -> u8 {
        self.far.prefix_len()
    }

    /// The address at the other end of the link, where one is stated.
    pub fn peer(&self) -> Option<IpAddr> {
        Some(self.far.addr()).filter(|far| *far != self.local)
    }

    /// The network that is reached over the link by this address.
    pub fn network(&self) -> IpNet {
        self.far.trunc()
    }
}

impl From<IpNet> for LinkAddress {
    fn from(net: IpNet) -> Self {
        Self { local: net.addr(), far: net }
    }
}

impl From<LinkAddress> for String {
    fn from(address: LinkAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for LinkAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer() {
            Some(_) => write!(f, "{} peer {}", self.local, self.far),
            None => self.far.fmt(f),
        }
    }
}

impl FromStr for LinkAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not an address with a prefix length");
        let Some((local, far)) = text.split_once(" peer ") else {
            return text.parse::<IpNet>().map(Self::from).map_err(|_| bad());
        };
        let local: IpAddr = local.parse().map_err(|_| bad())?;
        let far: IpNet =
            far.parse().or_else(|_| far.parse::<IpAddr>().map(IpNet::from)).map_err(|_| bad())?;
        if local.is_ipv6() != far.addr().is_ipv6() {
            return Err(format!("`{text}` has an address of one family and a peer of the other"));
        }
        if local == far.addr() {
            return Err(format!("`{text}` is its own peer"));
        }
        Ok(Self { local, far })
    }
}

/// A VLAN on a named port of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortVlan {
    /// The port.
    pub port: String,
    /// 1 to 4094.
    pub vid: u16,
    /// Untagged frames that come in belong to it.
    pub pvid: bool,
    /// Frames leave without a tag.
    pub untagged: bool,
}

/// Whether the kernel would take this as a link name; the reason if not.
pub fn check_link_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name == "." || name == ".." {
        return Err("is not a valid interface name".into());
    }
    if name.len() > 15 {
        return Err("is longer than the 15 characters an interface name may have".into());
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-@".contains(c)) || name.starts_with('-') {
        return Err("contains a character that is not valid in an interface name".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_ip_writes_them() {
        for text in
            ["192.0.2.7/24", "2001:db8::7/64", "192.0.2.7 peer 198.51.100.1/32", "fd00::6 peer fd00::7/128"]
        {
            assert_eq!(text.parse::<LinkAddress>().unwrap().to_string(), text);
        }
        let short: LinkAddress = "192.0.2.7 peer 192.0.2.1".parse().unwrap();
        assert_eq!(short.to_string(), "192.0.2.7 peer 192.0.2.1/32");
        assert_eq!((short.peer(), short.prefix()), (Some("192.0.2.1".parse().unwrap()), 32));
        for text in
            ["192.0.2.7", "192.0.2.7/33", "192.0.2.7/24 peer 192.0.2.1", "192.0.2.7 peer fd00::1", "x"]
        {
            assert!(text.parse::<LinkAddress>().is_err(), "{text}");
        }
    }
}
