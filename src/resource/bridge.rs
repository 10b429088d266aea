//! Bridges as they are declared. Ports, addresses and gateways are *at least*: what else is there
//! belongs to others and stays.

use crate::problem::Origin;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// A declared bridge; an attribute that is `None` is not managed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// The link's name, at most 15 characters.
    pub name: String,
    /// `manage: false`: others make it; it only stands in `$bridges`.
    pub manage: bool,
    /// Ports that must be enslaved.
    pub ports: Vec<String>,
    /// Addresses that must be there, with prefix length.
    pub addresses: Vec<IpNet>,
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
    /// Where it was first declared.
    pub origin: Origin,
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
        return Err("is no interface name".into());
    }
    if name.len() > 15 {
        return Err("is longer than the 15 characters an interface name may have".into());
    }
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-@".contains(c)) || name.starts_with('-') {
        return Err("has a character that no interface name should have".into());
    }
    Ok(())
}
