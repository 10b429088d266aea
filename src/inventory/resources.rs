//! What a group, a host and a module can state alike: sysctl, rules, sets, bridges, checks, foreign chains.

use super::ConfirmCheck;
use super::reader::{InventoryReader, Spanned};
use super::rules::{self, ChainStatement};
use super::sets::{self, SetStatement};
use super::{checks, expectations};
use crate::expectation::Expectation;
use crate::problem::{LintCode, Origin, Place, Warning};
use crate::resource::bridge::{LinkAddress, PORT_ATTRIBUTES, PortVlan, check_link_name};
use crate::resource::iptables::IpFamily;
use crate::resource::iptables::address::is_mac;
use crate::resource::sysctl;
use crate::yaml::{Node, Pair, Value};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// The keys of [`DeclaredResources`].
pub const KEYS: [&str; 9] = [
    "sysctl",
    "iptables",
    "ip6tables",
    "ipset",
    "bridges",
    "checks",
    "expect",
    "unmanaged_chains",
    "extensions",
];

/// What one group, host or module states.
#[derive(Clone, Debug, Default)]
pub struct DeclaredResources {
    /// Files in sysctl.d.
    pub sysctl: Vec<SysctlStatement>,
    /// Chains of both families.
    pub chains: Vec<ChainStatement>,
    /// Sets.
    pub sets: Vec<SetStatement>,
    /// Bridges.
    pub bridges: Vec<BridgeStatement>,
    /// Checks.
    pub checks: Vec<ConfirmCheck>,
    /// What packets are expected to do.
    pub expectations: Vec<Expectation>,
    /// Chains of others to which rules may jump.
    pub unmanaged_chains: Vec<Spanned<String>>,
    /// Matches and targets of the hosts that kvmfw does not know.
    pub extensions: Vec<Spanned<String>>,
    /// Lints of these texts.
    pub warnings: Vec<Warning>,
    /// Rules that a comment allows to cause a warning.
    pub allowed_rules: Vec<(Origin, LintCode)>,
}

/// A file in sysctl.d.
#[derive(Clone, Debug)]
pub struct SysctlStatement {
    /// Its name without `.conf`.
    pub name: Spanned<String>,
    /// Its keys.
    pub entries: Vec<(sysctl::SysctlKey, Spanned<String>)>,
}

/// A bridge; what is not stated is `None`.
#[derive(Clone, Debug)]
pub struct BridgeStatement {
    /// Its name.
    pub name: Spanned<String>,
    /// `manage`.
    pub manage: Option<Spanned<bool>>,
    /// `take_addresses`.
    pub take_addresses: Option<Spanned<bool>>,
    /// `ports`.
    pub ports: Option<Spanned<Vec<PortStatement>>>,
    /// `addresses`.
    pub addresses: Option<Spanned<Vec<LinkAddress>>>,
    /// `gateways`.
    pub gateways: Option<Spanned<Vec<IpAddr>>>,
    /// `mtu`, `forward_delay`, `ageing` and the like by key.
    pub numbers: Vec<(&'static str, Spanned<u32>)>,
    /// `stp`, `vlan_filtering`, `nf_call_*` and the like by key.
    pub flags: Vec<(&'static str, Spanned<bool>)>,
    /// `mac`.
    pub mac: Option<Spanned<String>>,
    /// `vlans`.
    pub vlans: Option<Spanned<Vec<PortVlan>>>,
}

/// A port of a bridge with what is stated of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStatement {
    /// Its name.
    pub name: String,
    /// Attributes by key; switches are 0 and 1.
    pub attributes: BTreeMap<&'static str, u32>,
}

impl std::fmt::Display for PortStatement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        let all: Vec<String> = self.attributes.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        if all.is_empty() { Ok(()) } else { write!(f, " {{ {} }}", all.join(", ")) }
    }
}

impl DeclaredResources {
    /// Reads one entry if it is of a resource; `params` are the names that rules may use.
    pub fn read(&mut self, pair: &Pair, params: &[&str], reader: &mut InventoryReader<'_>) {
        let value = &pair.value;
        match pair.key.as_str() {
            "sysctl" => self.sysctl = sysctl_files(value, reader),
            "iptables" => self.chains.extend(rules::chains(value, IpFamily::V4, params, reader)),
            "ip6tables" => self.chains.extend(rules::chains(value, IpFamily::V6, params, reader)),
            "ipset" => {
                let of_params = std::mem::take(&mut reader.sets_of_params);
                self.sets = sets::sets(value, &of_params, reader);
            }
            "bridges" => self.bridges = bridges(value, reader),
            "checks" => self.checks = checks::checks(value, reader),
            "expect" => self.expectations = expectations::expectations(value, reader),
            "unmanaged_chains" => {
                self.unmanaged_chains = reader.names(value, "chain", "._-");
            }
            "extensions" => self.extensions = reader.names(value, "extension", "_-"),
            _ => {}
        }
        self.allowed_rules.append(&mut reader.allowed_rules);
    }
}

pub(super) fn sysctl_files(node: &Node, reader: &mut InventoryReader<'_>) -> Vec<SysctlStatement> {
    let mut files = Vec::new();
    for pair in reader.short_map(node, "files of /etc/sysctl.d by name") {
        let right = file_name(&pair.key, &pair.key_place, reader);
        let mut entries: Vec<(sysctl::SysctlKey, Spanned<String>)> = Vec::new();
        if let Value::Str(_) | Value::Int(_) | Value::Bool(_) = pair.value.value {
            let message = format!("expected the keys of file `{}`, found a value", pair.key);
            reader.wrong_help(
                "wrong-type",
                &pair.key_place,
                message,
                format!("write `60-name: {{ {}: … }}`", pair.key),
            );
            continue;
        }
        for entry in reader.short_map(&pair.value, "keys and values of the file") {
            let key = match sysctl::SysctlKey::parse(&entry.key) {
                Ok(key) => key,
                Err(why) => {
                    reader.wrong(
                        "bad-sysctl-key",
                        &entry.key_place,
                        format!("`{}`: {why}", entry.key.escape_debug()),
                    );
                    continue;
                }
            };
            if let Some((first, value)) = entries.iter().find(|(k, _)| *k == key) {
                let message = format!("`{first}` is defined twice in one file");
                let help = format!("the first definition is in line {}", value.place.line);
                reader.wrong_help("duplicate-key", &entry.key_place, message, help);
                continue;
            }
            let Some(value) = sysctl_value(&entry.value, reader) else { continue };
            entries.push((key, Spanned::new(value, &entry.value.place)));
        }
        if right {
            files.push(SysctlStatement { name: Spanned::new(pair.key.clone(), &pair.key_place), entries });
        }
    }
    files
}

fn file_name(name: &str, place: &Place, reader: &mut InventoryReader<'_>) -> bool {
    if name.contains('/') || name.contains("..") {
        reader.wrong_help(
            "path-traversal",
            place,
            format!("file name `{name}` leaves /etc/sysctl.d"),
            "write only the file's name without `.conf`",
        );
        return false;
    }
    if name.is_empty() || name.len() > 200 || name.starts_with('.') {
        reader.wrong("bad-name", place, "a file name has 1 to 200 characters and does not start with a dot");
        return false;
    }
    if let Some(plain) = name.strip_suffix(".conf") {
        reader.wrong_help(
            "bad-name",
            place,
            format!("file name `{name}` ends with `.conf`"),
            format!("write `{plain}`: kvmfw adds `.conf`"),
        );
        return false;
    }
    reader.is_word(name, place, "file name", "_.-+")
}

fn sysctl_value(node: &Node, reader: &mut InventoryReader<'_>) -> Option<String> {
    match &node.value {
        Value::Int(number) => Some(number.to_string()),
        Value::Bool(value) => {
            let help = format!("write `{}`", u8::from(*value));
            reader.wrong_help(
                "wrong-type",
                &node.place,
                format!("`{value}` is not a valid value of a sysctl key"),
                help,
            );
            None
        }
        Value::Str(text) => {
            // `sysctl -a` prints the parts of a value with tabs between them.
            let text = &text.replace('\t', " ");
            if !reader.clean(text, &node.place, "the value") {
                return None;
            }
            if !text.chars().all(|c| (' '..='~').contains(&c)) || text.len() > 1000 {
                reader.wrong(
                    "bad-sysctl-value",
                    &node.place,
                    "a value has only ASCII characters, and not too many",
                );
                return None;
            }
            Some(sysctl::normal(text))
        }
        _ => {
            reader.expected(node, "a number or a text");
            None
        }
    }
}

/// Numbers of a bridge and their bounds.
pub(super) const NUMBERS: [(&str, i128, i128); 8] = [
    ("mtu", 68, 65535),
    ("forward_delay", 0, 30),
    ("ageing", 0, 1_000_000),
    ("hello_time", 1, 10),
    ("max_age", 6, 40),
    ("priority", 0, 65535),
    ("group_fwd_mask", 0, 0xfff8),
    ("vlan_default_pvid", 0, LAST_VLAN as i128),
];

/// Truths of a bridge.
pub(super) const FLAGS: [&str; 7] = [
    "stp",
    "vlan_filtering",
    "nf_call_iptables",
    "nf_call_ip6tables",
    "nf_call_arptables",
    "multicast_snooping",
    "multicast_querier",
];

/// What other programs call the keys of a bridge.
const BRIDGE_WORDS: [(&str, &str); 21] = [
    ("mcast_snooping", "multicast_snooping"),
    ("mcast_querier", "multicast_querier"),
    ("igmp_snooping", "multicast_snooping"),
    ("stp_state", "stp"),
    ("bridge_stp", "stp"),
    ("ageing_time", "ageing"),
    ("bridge_ageing", "ageing"),
    ("bridge_ports", "ports"),
    ("interfaces", "ports"),
    ("fd", "forward_delay"),
    ("bridge_fd", "forward_delay"),
    ("hello", "hello_time"),
    ("maxage", "max_age"),
    ("address", "addresses"),
    ("gateway", "gateways"),
    ("macaddress", "mac"),
    ("vlan_aware", "vlan_filtering"),
    ("group_forward_mask", "group_fwd_mask"),
    ("bridgeprio", "priority"),
    ("default_pvid", "vlan_default_pvid"),
    ("bridge_pvid", "vlan_default_pvid"),
];

/// What other programs call the keys of a port.
const PORT_WORDS: [(&str, &str); 4] = [
    ("hairpin_mode", "hairpin"),
    ("path_cost", "cost"),
    ("port_priority", "priority"),
    ("isolation", "isolated"),
];

/// The last VLAN; 4095 is reserved.
pub(super) const LAST_VLAN: u16 = 4094;

/// The keys of a VLAN of a port.
pub(super) const VLAN_KEYS: [&str; 3] = ["vid", "pvid", "untagged"];

/// The keys of a bridge.
pub(super) fn bridge_keys() -> Vec<&'static str> {
    let mut keys = vec!["manage", "ports", "addresses", "gateways", "take_addresses", "mac", "vlans"];
    keys.extend(NUMBERS.map(|(key, ..)| key));
    keys.extend(FLAGS);
    keys
}

fn bridges(node: &Node, reader: &mut InventoryReader<'_>) -> Vec<BridgeStatement> {
    let mut bridges = Vec::new();
    for pair in reader.short_map(node, "bridges by name") {
        if let Err(why) = check_link_name(&pair.key) {
            reader.wrong("bad-name", &pair.key_place, format!("`{}` {why}", pair.key.escape_debug()));
        }
        bridges.push(bridge(pair, reader));
    }
    bridges
}

fn bridge(pair: &Pair, reader: &mut InventoryReader<'_>) -> BridgeStatement {
    let mut bridge = BridgeStatement {
        name: Spanned::new(pair.key.clone(), &pair.key_place),
        manage: None,
        take_addresses: None,
        ports: None,
        addresses: None,
        gateways: None,
        numbers: vec![],
        flags: vec![],
        mac: None,
        vlans: None,
    };
    for field in reader.fields_in_words(&pair.value, "a bridge", &bridge_keys(), &BRIDGE_WORDS) {
        let (node, place) = (&field.value, &field.key_place);
        let spanned = |value: Option<bool>| value.map(|value| Spanned::new(value, place));
        match field.key.as_str() {
            "manage" => bridge.manage = spanned(reader.bool(node)),
            "take_addresses" => bridge.take_addresses = spanned(reader.bool(node)),
            "ports" => bridge.ports = Some(Spanned::new(ports(node, &pair.key, reader), place)),
            "addresses" => bridge.addresses = Some(Spanned::new(addresses(node, reader), place)),
            "gateways" => bridge.gateways = Some(Spanned::new(gateways(node, reader), place)),
            "mac" => bridge.mac = mac(node, reader).map(|mac| Spanned::new(mac, place)),
            "vlans" => bridge.vlans = Some(Spanned::new(vlans(node, reader), place)),
            key => {
                if let Some((name, low, high)) = NUMBERS.iter().find(|(name, ..)| *name == key) {
                    let mut number = reader.int(node, name, *low, *high).and_then(|n| u32::try_from(n).ok());
                    if *name == "group_fwd_mask" && number.is_some_and(|mask| mask & 7 != 0) {
                        let message = "bits 0 to 2 of `group_fwd_mask` (1, 2 and 4) are of frames that no bridge forwards";
                        reader.wrong_help(
                            "out-of-range",
                            &node.place,
                            message,
                            "add up the others: 8 for 802.1X, 16384 for LLDP",
                        );
                        number = None;
                    }
                    bridge.numbers.extend(number.map(|n| (*name, Spanned::new(n, place))));
                } else if let Some(name) = FLAGS.iter().find(|name| **name == key) {
                    bridge.flags.extend(reader.bool(node).map(|v| (*name, Spanned::new(v, place))));
                }
            }
        }
    }
    bridge
}

fn link<'n>(node: &'n Node, what: &str, reader: &mut InventoryReader<'_>) -> Option<&'n str> {
    let name = reader.line(node, what)?;
    if name.starts_with('-') {
        reader.is_word(name, &node.place, what, "");
        return None;
    }
    match check_link_name(name) {
        Ok(()) => Some(name),
        Err(why) => {
            reader.wrong("bad-name", &node.place, format!("`{}` {why}", name.escape_debug()));
            None
        }
    }
}

/// A list of names, or a map from names to attributes.
fn ports(node: &Node, bridge: &str, reader: &mut InventoryReader<'_>) -> Vec<PortStatement> {
    let mut ports: Vec<PortStatement> = Vec::new();
    if let Value::Map(_) = &node.value {
        for pair in reader.short_map(node, "ports by name") {
            if let Err(why) = check_link_name(&pair.key) {
                reader.wrong("bad-name", &pair.key_place, format!("`{}` {why}", pair.key.escape_debug()));
                continue;
            }
            let port =
                PortStatement { name: pair.key.clone(), attributes: port_attributes(&pair.value, reader) };
            add_port(&mut ports, port, bridge, &pair.key_place, reader);
        }
        return ports;
    }
    for item in reader.list(node, "a list of ports") {
        if let Value::Map(_) = &item.value {
            let help = "write the ports as a map: `ports: { eth1: { isolated: true }, eth2: { } }`";
            reader.wrong_help("wrong-type", &item.place, "a port in a list has no attributes", help);
            continue;
        }
        let Some(name) = link(item, "a port", reader) else { continue };
        let port = PortStatement { name: name.to_owned(), attributes: BTreeMap::new() };
        add_port(&mut ports, port, bridge, &item.place, reader);
    }
    ports
}

fn add_port(
    ports: &mut Vec<PortStatement>,
    port: PortStatement,
    bridge: &str,
    place: &Place,
    reader: &mut InventoryReader<'_>,
) {
    if port.name == bridge {
        reader.wrong("bad-name", place, format!("bridge `{bridge}` cannot be its own port"));
    } else if ports.iter().any(|other| other.name == port.name) {
        reader.wrong("duplicate", place, format!("port `{}` is defined twice", port.name));
    } else {
        ports.push(port);
    }
}

/// The keys of a port.
pub(super) fn port_keys() -> [&'static str; 4] {
    PORT_ATTRIBUTES.map(|attribute| attribute.key)
}

fn port_attributes(node: &Node, reader: &mut InventoryReader<'_>) -> BTreeMap<&'static str, u32> {
    let mut attributes = BTreeMap::new();
    for field in reader.fields_in_words(node, "a port", &port_keys(), &PORT_WORDS) {
        let Some(known) = PORT_ATTRIBUTES.iter().find(|known| known.key == field.key) else { continue };
        let value = match known.switch {
            true => reader.bool(&field.value).map(u32::from),
            false => {
                let (low, high) = known.bounds;
                let number = reader.int(&field.value, known.key, low.into(), high.into());
                number.and_then(|number| u32::try_from(number).ok())
            }
        };
        attributes.extend(value.map(|value| (known.key, value)));
    }
    attributes
}

fn addresses(node: &Node, reader: &mut InventoryReader<'_>) -> Vec<LinkAddress> {
    let mut addresses: Vec<LinkAddress> = Vec::new();
    for item in reader.list(node, "a list of addresses") {
        let Some(text) = reader.line(item, "an address") else { continue };
        if has_zone(text, "address", item, reader) {
            continue;
        }
        let address = match text.parse::<LinkAddress>() {
            Ok(address) => address,
            Err(why) => {
                match text.parse::<IpAddr>() {
                    Ok(_) => reader.wrong_help("bad-address", &item.place, why, format!("write `{text}/24`")),
                    Err(_) => reader.wrong("bad-address", &item.place, why),
                }
                continue;
            }
        };
        let edge = match address.network() {
            _ if address.peer().is_some() => false,
            IpNet::V4(v4) => {
                v4.prefix_len() < 31 && (address.local() == v4.network() || address.local() == v4.broadcast())
            }
            IpNet::V6(v6) => v6.prefix_len() < 127 && address.local() == v6.network(),
        };
        if edge || address.local().is_unspecified() || address.local().is_multicast() {
            reader.wrong(
                "bad-address",
                &item.place,
                format!("`{text}` is not an address of a host in its network"),
            );
        } else if addresses.iter().any(|a| a.local() == address.local()) {
            reader.wrong("duplicate", &item.place, format!("address `{}` is defined twice", address.local()));
        } else {
            addresses.push(address);
        }
    }
    addresses
}

/// A zone (`fe80::1%eth0`) names the link of an address; here the bridge is the link.
fn has_zone(text: &str, what: &str, item: &Node, reader: &mut InventoryReader<'_>) -> bool {
    let Some((address, zone)) = text.split_once('%') else { return false };
    let prefix = zone.split_once('/').map(|(_, prefix)| format!("/{prefix}"));
    let prefix = prefix.unwrap_or_else(|| if what == "address" { "/64".to_owned() } else { String::new() });
    reader.wrong_help(
        "bad-address",
        &item.place,
        format!("{what} `{text}` has a zone, and there are no zones in addresses here"),
        format!("write `{address}{prefix}`; the bridge is its link"),
    );
    true
}

fn gateways(node: &Node, reader: &mut InventoryReader<'_>) -> Vec<IpAddr> {
    let mut gateways: Vec<IpAddr> = Vec::new();
    for item in reader.list(node, "a list of gateways") {
        let Some(text) = reader.line(item, "a gateway") else { continue };
        if has_zone(text, "gateway", item, reader) {
            continue;
        }
        match text.parse::<IpAddr>() {
            Err(_) => reader.wrong("bad-address", &item.place, format!("gateway `{text}` is not an address")),
            Ok(ip) if gateways.iter().any(|g| g.is_ipv4() == ip.is_ipv4()) => {
                let message = format!("`{text}` is a second gateway of the same family");
                reader.wrong("bad-address", &item.place, message);
            }
            Ok(ip) => gateways.push(ip),
        }
    }
    gateways
}

fn mac(node: &Node, reader: &mut InventoryReader<'_>) -> Option<String> {
    let text = reader.line(node, "a MAC address")?.to_ascii_lowercase();
    let first = text.get(..2).and_then(|byte| u8::from_str_radix(byte, 16).ok());
    if !is_mac(&text) || text == "00:00:00:00:00:00" {
        reader.wrong("bad-address", &node.place, format!("`{text}` is not a valid MAC address"));
        return None;
    }
    if first.is_some_and(|byte| byte & 1 == 1) {
        reader.wrong(
            "bad-address",
            &node.place,
            format!("`{text}` is the MAC address of a group, not of a link"),
        );
        return None;
    }
    Some(text)
}

fn vlans(node: &Node, reader: &mut InventoryReader<'_>) -> Vec<PortVlan> {
    let mut vlans: Vec<PortVlan> = Vec::new();
    for pair in reader.short_map(node, "VLANs by port") {
        if let Err(why) = check_link_name(&pair.key) {
            reader.wrong("bad-name", &pair.key_place, format!("`{}` {why}", pair.key.escape_debug()));
            continue;
        }
        let (mut seen, mut has_pvid) = (BTreeSet::new(), false);
        for item in reader.list(&pair.value, "a list of VLANs") {
            let (mut vids, mut pvid, mut untagged) = (None, false, false);
            if matches!(item.value, Value::Map(_)) {
                for field in reader.fields(item, "a VLAN", &VLAN_KEYS) {
                    match field.key.as_str() {
                        "vid" => vids = vid_or_range(&field.value, reader),
                        "pvid" => pvid = reader.bool(&field.value).unwrap_or_default(),
                        "untagged" => untagged = reader.bool(&field.value).unwrap_or_default(),
                        _ => {}
                    }
                }
            } else {
                vids = vid_or_range(item, reader);
            }
            let Some(vids) = vids else { continue };
            if pvid && vids.start() != vids.end() {
                let (first, last) = (vids.start(), vids.end());
                let message =
                    format!("untagged frames that come in cannot belong to all of `{first}-{last}`");
                reader.wrong("out-of-range", &item.place, message);
                continue;
            }
            let twice = vids.clone().find(|vid| !seen.insert(*vid));
            if let Some(vid) = twice.or_else(|| (pvid && has_pvid).then_some(*vids.start())) {
                let message = format!("VLAN `{vid}` or a pvid is listed twice on `{}`", pair.key);
                reader.wrong("duplicate", &item.place, message);
                continue;
            }
            has_pvid |= pvid;
            vlans.extend(vids.map(|vid| PortVlan { port: pair.key.clone(), vid, pvid, untagged }));
        }
    }
    vlans
}

/// `10`, or `10-19` as `bridge vlan` has it.
fn vid_or_range(node: &Node, reader: &mut InventoryReader<'_>) -> Option<RangeInclusive<u16>> {
    let range = match &node.value {
        Value::Str(text) => text.split_once('-'),
        _ => None,
    };
    let Some((first, last)) = range else {
        let vid = reader.int(node, "a VLAN", 1, i128::from(LAST_VLAN))?;
        return u16::try_from(vid).ok().map(|vid| vid..=vid);
    };
    let vid = |text: &str| text.trim().parse().ok().filter(|vid| (1..=LAST_VLAN).contains(vid));
    match (vid(first), vid(last)) {
        (Some(first), Some(last)) if first < last => Some(first..=last),
        _ => {
            let message = format!(
                "VLANs `{}` are not a range between 1 and {LAST_VLAN}",
                format!("{first}-{last}").escape_debug()
            );
            reader.wrong("out-of-range", &node.place, message);
            None
        }
    }
}
