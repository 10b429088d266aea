//! Links, addresses and routes, from what `ip -j` prints.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The key that marks a route of [`Links::routes6`]; `ip -j` names no family.
pub const V6: &str = "kvmfw.v6";

/// The links of a host by name, and its routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Links {
    /// Links by name.
    pub by_name: BTreeMap<String, Link>,
    /// IPv4 routes of all tables as `ip -j` prints them.
    pub routes4: Vec<Value>,
    /// IPv6 routes of all tables.
    pub routes6: Vec<Value>,
}

/// One link.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Link {
    /// Name.
    #[serde(rename = "ifname", default)]
    pub name: String,
    /// The bridge or bond it is a port of.
    #[serde(default)]
    pub master: Option<String>,
    /// MTU in bytes.
    #[serde(default)]
    pub mtu: u32,
    /// MAC.
    #[serde(rename = "address", default)]
    pub mac: Option<String>,
    /// Flags, `UP` among them.
    #[serde(default)]
    pub flags: Vec<String>,
    /// Addresses.
    #[serde(rename = "addr_info", default)]
    pub addresses: Vec<Address>,
    /// What kind of link it is, with its attributes.
    #[serde(default)]
    pub linkinfo: LinkInfo,
}

/// The kind of a link.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LinkInfo {
    /// `bridge`, `veth`, `tun`, …
    #[serde(rename = "info_kind", default)]
    pub kind: Option<String>,
    /// Attributes of that kind.
    #[serde(rename = "info_data", default)]
    pub data: BTreeMap<String, Value>,
}

/// One address of a link.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Address {
    /// `inet` or `inet6`.
    #[serde(default)]
    pub family: String,
    /// The address.
    #[serde(default)]
    pub local: String,
    /// The broadcast address, where it has one.
    #[serde(default)]
    pub broadcast: Option<String>,
    /// Prefix length.
    #[serde(rename = "prefixlen", default)]
    pub prefix: u8,
    /// It came by DHCP or router advertisement.
    #[serde(default)]
    pub dynamic: bool,
    /// `global`, `link`, …
    #[serde(default)]
    pub scope: String,
}

impl Links {
    /// Reads the three sections. What is no JSON gives no links; a host without `ip` is refused
    /// elsewhere, by the tool that is missing.
    pub fn parse(links: &str, routes4: &str, routes6: &str) -> Self {
        let links: Vec<Link> = serde_json::from_str(links).unwrap_or_default();
        // A gateway has to be there before the routes that go by it, also when they are made again in this
        // order: what is on the link comes first.
        let routes = |text: &str| {
            let mut routes: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
            routes.sort_by_key(|route| route.get("gateway").is_some());
            routes
        };
        let mut routes6 = routes(routes6);
        for route in routes6.iter_mut().filter_map(Value::as_object_mut) {
            route.insert(V6.to_owned(), Value::Bool(true));
        }
        Self {
            by_name: links.into_iter().map(|l| (l.name.clone(), l)).collect(),
            routes4: routes(routes4),
            routes6,
        }
    }

    /// The bridges.
    pub fn bridges(&self) -> impl Iterator<Item = &Link> {
        self.by_name.values().filter(|l| l.is_bridge())
    }

    /// The ports of a bridge.
    pub fn ports<'a>(&'a self, bridge: &'a str) -> impl Iterator<Item = &'a Link> {
        self.by_name.values().filter(move |l| l.master.as_deref() == Some(bridge))
    }
}

impl Link {
    /// Whether it is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.linkinfo.kind.as_deref() == Some("bridge")
    }

    /// A numeric attribute of its kind.
    pub fn number(&self, attribute: &str) -> Option<i64> {
        self.linkinfo.data.get(attribute).and_then(Value::as_i64)
    }
}
