//! Links and addresses, from what `ip -j` prints.

use super::{FixedNeighbour, NextHop, ObserveError, PolicyRule, PortVlans, StaticRoute, TableRoute};
use crate::resource::bridge::LinkAddress;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The links of a host by name, and its routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostLinks {
    /// Links by name.
    pub by_name: BTreeMap<String, HostLink>,
    /// Routes of all tables and both families, in an order in which they can be made: what is on the link
    /// comes before what goes by a gateway.
    pub routes: Vec<StaticRoute>,
    /// All of them, also those of the kernel and those that lead nowhere, as a lookup sees them.
    pub table: Vec<TableRoute>,
    /// Rules of policy routing, of both families.
    pub rules: Vec<PolicyRule>,
    /// Neighbours that somebody wrote down, of both families.
    pub neighbours: Vec<FixedNeighbour>,
    /// Objects that routes may name in place of a gateway.
    pub next_hops: Vec<NextHop>,
    /// VLANs of bridges and of their ports, where a bridge filters by them or is to; one that is not among
    /// them has none.
    pub vlans: Option<BTreeMap<String, PortVlans>>,
}

/// One link.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct HostLink {
    /// Name.
    #[serde(rename = "ifname", default)]
    pub name: String,
    /// Its number.
    #[serde(rename = "ifindex", default)]
    pub index: u32,
    /// The bridge or bond it is a port of.
    #[serde(default)]
    pub master: Option<String>,
    /// The link that it stands on, as a VLAN does.
    #[serde(rename = "link", default)]
    pub parent: Option<String>,
    /// MTU in bytes.
    #[serde(default)]
    pub mtu: u32,
    /// MAC. A bridge whose last port has gone has one of zeros, which nothing can be given.
    #[serde(rename = "address", default, deserialize_with = "mac")]
    pub mac: Option<String>,
    /// A program of XDP sees its packets first.
    #[serde(default)]
    pub xdp: Option<Value>,
    /// Flags, `UP` among them.
    #[serde(default)]
    pub flags: Vec<String>,
    /// Addresses.
    #[serde(rename = "addr_info", default)]
    pub addresses: Vec<ObservedAddress>,
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
    /// Attributes of the port that it is: `state`, `isolated`, `hairpin`, …
    #[serde(rename = "info_slave_data", default)]
    pub port: BTreeMap<String, Value>,
}

/// One address of a link.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ObservedAddress {
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
    /// The address at the other end of the link.
    #[serde(rename = "address", default)]
    pub peer: Option<String>,
    /// Its own name, of IPv4: that of the link, or `eth0:1`.
    #[serde(default)]
    pub label: Option<String>,
    /// The metric of the route to its network.
    #[serde(default)]
    pub metric: Option<u64>,
    /// Who made it, by number or name.
    #[serde(default)]
    pub protocol: Option<String>,
    /// Seconds for which it is the source of new connections; as good as for ever where it is the largest number.
    #[serde(rename = "preferred_life_time", default)]
    pub preferred: Option<u64>,
    /// It is the source of no new connection.
    #[serde(default)]
    pub deprecated: bool,
    /// The kernel made it, and makes another one tomorrow.
    #[serde(default)]
    pub temporary: bool,
    /// Nobody was asked whether it is there twice.
    #[serde(default)]
    pub nodad: bool,
    /// A mobile node's own.
    #[serde(default)]
    pub home: bool,
    /// The kernel makes temporary ones beside it.
    #[serde(default)]
    pub mngtmpaddr: bool,
    /// It joins multicast groups.
    #[serde(default)]
    pub autojoin: bool,
    /// It makes no route to its network.
    #[serde(default)]
    pub noprefixroute: bool,
    /// It came by DHCP or router advertisement.
    #[serde(default)]
    pub dynamic: bool,
    /// `global`, `link`, …
    #[serde(default)]
    pub scope: String,
}

impl ObservedAddress {
    /// What tells it from all other addresses of its link.
    pub fn identity(&self) -> Option<LinkAddress> {
        match &self.peer {
            Some(peer) => format!("{} peer {peer}/{}", self.local, self.prefix).parse().ok(),
            None => format!("{}/{}", self.local, self.prefix).parse().ok(),
        }
    }

    /// What `ip address add` takes beside that, for the same address on a link of this name; how `label` reads there.
    pub fn attributes(&self, label: Option<&str>) -> String {
        let mut text = String::new();
        if let Some(broadcast) = &self.broadcast {
            let _ = write!(text, " brd {broadcast}");
        }
        if !matches!(self.scope.as_str(), "" | "global") {
            let _ = write!(text, " scope {}", self.scope);
        }
        if let Some(label) = label {
            let _ = write!(text, " label {label}");
        }
        if let Some(metric) = self.metric {
            let _ = write!(text, " metric {metric}");
        }
        if let Some(protocol) = &self.protocol {
            let _ = write!(text, " proto {protocol}");
        }
        for (word, is) in [
            ("nodad", self.nodad),
            ("home", self.home),
            ("mngtmpaddr", self.mngtmpaddr),
            ("noprefixroute", self.noprefixroute),
            ("autojoin", self.autojoin),
        ] {
            if is {
                let _ = write!(text, " {word}");
            }
        }
        let forever = u64::from(u32::MAX);
        if self.deprecated {
            text.push_str(" preferred_lft 0");
        } else if let Some(seconds) = self.preferred.filter(|seconds| *seconds < forever) {
            let _ = write!(text, " preferred_lft {seconds}");
        }
        text
    }

    /// Its own name, where that is not the link's.
    pub fn own_label(&self, link: &str) -> Option<&str> {
        self.label.as_deref().filter(|label| *label != link)
    }
}

impl HostLinks {
    /// Reads the sections; those of the routes have the rules of policy routing too. What cannot be read is an error and not
    /// a host without links: a bridge that is there would be made again, and go with the rollback of that.
    pub fn parse(links: &str, routes4: &str, routes6: &str, vlans: &str) -> Result<Self, ObserveError> {
        let links: Vec<HostLink> = json(links).map_err(ObserveError::Links)?;
        let mut all = Self {
            by_name: links.into_iter().map(|l| (l.name.clone(), l)).collect(),
            vlans: PortVlans::parse(vlans)?,
            ..Self::default()
        };
        for (text, v6) in [(routes4, false), (routes6, true)] {
            for line in text.lines() {
                if let Some(rule) = PolicyRule::parse(line, v6) {
                    all.rules.push(rule);
                } else if let Some(neighbour) = FixedNeighbour::parse(line) {
                    all.neighbours.push(neighbour);
                } else if let Some(hop) = NextHop::parse(line) {
                    all.next_hops.push(hop);
                } else {
                    all.routes.extend(StaticRoute::parse(line, v6));
                    all.table.extend(TableRoute::parse(line, v6));
                }
            }
        }
        let addresses = |route: &StaticRoute| {
            let link = route.hops.first().and_then(|hop| all.by_name.get(&hop.dev));
            link.map_or(&[][..], |link| &link.addresses)
        };
        let mut routes = std::mem::take(&mut all.routes);
        routes.retain_mut(|route| {
            let addresses = addresses(route);
            !route.is_of_kernel(addresses)
        });
        all.routes = routes;
        all.routes.sort_by_key(|route| route.hops.iter().any(|hop| hop.via.is_some()));
        Ok(all)
    }

    /// The bridges.
    pub fn bridges(&self) -> impl Iterator<Item = &HostLink> {
        self.by_name.values().filter(|l| l.is_bridge())
    }

    /// The ports of a bridge.
    pub fn ports<'a>(&'a self, bridge: &'a str) -> impl Iterator<Item = &'a HostLink> {
        self.by_name.values().filter(move |l| l.master.as_deref() == Some(bridge))
    }
}

impl HostLink {
    /// Whether it is a bridge.
    pub fn is_bridge(&self) -> bool {
        self.linkinfo.kind.as_deref() == Some("bridge")
    }

    /// Whether it is the port of a guest: a tap, or named like one.
    pub fn is_of_guest(&self) -> bool {
        const NAMES: [&str; 6] = ["vnet", "tap", "fwpr", "fwln", "veth", "macvtap"];
        self.linkinfo.kind.as_deref() == Some("tun") || NAMES.iter().any(|start| self.name.starts_with(start))
    }

    /// Whether it is switched on.
    pub fn is_up(&self) -> bool {
        self.flags.iter().any(|f| f == "UP")
    }

    /// Whether packets go through it: it is switched on, and not known to have no carrier.
    pub fn carries(&self) -> bool {
        self.is_up() && !self.flags.iter().any(|f| f == "NO-CARRIER")
    }

    /// A switch of the port that it is.
    pub fn port_flag(&self, attribute: &str) -> Option<bool> {
        self.linkinfo.port.get(attribute).and_then(Value::as_bool)
    }

    /// A numeric attribute of its kind.
    pub fn number(&self, attribute: &str) -> Option<i64> {
        self.linkinfo.data.get(attribute).and_then(whole)
    }

    /// A numeric attribute of the port that it is; a switch is 0 or 1.
    pub fn port_number(&self, attribute: &str) -> Option<i64> {
        self.linkinfo.port.get(attribute).and_then(whole)
    }
}

/// A number, also one that is printed as text (`0x18`) or a truth.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Bool(on) => Some(i64::from(*on)),
        Value::String(text) => i64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok(),
        other => other.as_i64(),
    }
}

/// So many objects and lists are read of one host: some 25,000 links. What each becomes takes up a hundred times the two
/// characters that an empty one takes in the text.
const PARTS: usize = 200_000;

/// The same for what lists and objects have in them.
const VALUES: usize = 2_000_000;

/// Reads what iproute2 prints: it leaves the control characters that names and aliases may have as they are, which JSON
/// does not take.
pub(super) fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let count = |signs: &[u8]| text.bytes().filter(|byte| signs.contains(byte)).count();
    if count(b"{[") > PARTS || count(b",") > VALUES {
        return Err(format!("it has more than {PARTS} objects or {VALUES} values"));
    }
    let strange = |c: char| c.is_ascii_control() && !matches!(c, '\n' | '\r' | '\t');
    let mut escaped = String::new();
    let text = if text.contains(strange) {
        for c in text.chars() {
            if strange(c) {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            } else {
                escaped.push(c);
            }
        }
        &escaped
    } else {
        text
    };
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// A MAC that is one.
fn mac<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    let mac = Option::<String>::deserialize(value)?;
    Ok(mac.filter(|mac| mac.chars().any(|c| !matches!(c, '0' | ':'))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_no_host_without_links() {
        let error = |links: &str, vlans: &str| HostLinks::parse(links, "", "", vlans).unwrap_err();
        // Nothing at all, another program's answer, and one that was cut off.
        for text in ["", "1: lo: <LOOPBACK,UP>\n", r#"[{"ifindex":1,"ifname":"lo"},{"ifin"#] {
            assert!(matches!(error(text, ""), ObserveError::Links(_)), "{text}");
        }
        for text in ["Option \"-json\" is unknown", r#"{"eth1":[{"vlan":1}]}"#] {
            assert!(matches!(error("[]", text), ObserveError::Vlans(_)), "{text}");
        }
        assert_eq!(HostLinks::parse("[]", "", "", ""), Ok(HostLinks::default()));
    }

    #[test]
    fn an_answer_of_many_empty_links_is_refused_before_it_takes_up_memory() {
        let text = format!("[{}{{}}]", "{},".repeat(PARTS));
        assert!(matches!(HostLinks::parse(&text, "", "", ""), Err(ObserveError::Links(_))));
        let text = format!("[{{\"xdp\":[{}1]}}]", "1,".repeat(VALUES + 1));
        assert!(matches!(HostLinks::parse(&text, "", "", ""), Err(ObserveError::Links(_))));
    }

    #[test]
    fn control_characters_of_names_cost_no_link() {
        let text = "[{\"ifindex\":1,\"ifname\":\"lo\"},\n{\"ifindex\":7,\"ifname\":\"a\u{1b}[31mx\",\"ifalias\":\"it's \\\"\u{1}\u{7f}\"}]";
        let links =
            HostLinks::parse(text, "", "", "[{\"ifname\":\"a\u{1b}[31mx\",\"vlans\":[{\"vlan\":7}]}]")
                .unwrap();
        assert_eq!(links.by_name.keys().collect::<Vec<_>>(), ["a\u{1b}[31mx", "lo"]);
        assert_eq!(links.vlans.unwrap()["a\u{1b}[31mx"].to_string(), "7");
    }
}
