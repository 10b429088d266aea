//! Settings of bridges and ports that are not those of a new one: stated, or named as what is left out.

use crate::host_state::HostLink;
use crate::inventory::quoted;
use crate::plan::OTHER_PORT_SWITCHES;
use crate::resource::bridge::{BRIDGE_ATTRIBUTES, BridgeAttribute, PORT_ATTRIBUTES};

/// What the kernel chooses as the cost of a port by the speed of its link.
const USUAL_COSTS: [u32; 6] = [1, 2, 4, 5, 19, 100];

/// Settings of a bridge that no inventory states, with what a new bridge has.
const OTHERS: [(&str, i64); 11] = [
    ("vlan_stats_enabled", 0),
    ("vlan_stats_per_port", 0),
    ("no_linklocal_learn", 0),
    ("mcast_vlan_snooping", 0),
    ("mcast_router", 1),
    ("mcast_query_use_ifaddr", 0),
    ("mcast_last_member_count", 2),
    ("mcast_startup_query_count", 2),
    ("mcast_stats_enabled", 0),
    ("mcast_igmp_version", 2),
    ("mcast_mld_version", 1),
];

/// The fields of a bridge.
pub(super) fn stated(link: &HostLink, ports: &[&HostLink]) -> Vec<String> {
    let mut fields = Vec::new();
    let stp = link.number("stp_state").is_some_and(|on| on != 0);
    if stp {
        fields.push("stp: true".to_owned());
    }
    let mut seconds = |key: &str, word: &str, default: i64, asked: bool| {
        let value = link.number(word).map(|value| value / 100).filter(|value| asked && *value != default);
        fields.extend(value.map(|value| format!("{key}: {value}")));
    };
    seconds("forward_delay", "forward_delay", 15, stp);
    // What is shown while the spanning tree changes is not what is set.
    seconds("ageing", "ageing_time", 300, link.number("topology_change") != Some(1));
    for attribute in &BRIDGE_ATTRIBUTES {
        let scale = i64::from(attribute.scale);
        let value = link.number(attribute.word).filter(|value| value % scale == 0);
        let value = value.map(|value| value / scale).filter(|value| is_other(attribute, *value));
        fields.extend(value.map(|value| field(attribute, value)));
    }
    for key in ["vlan_filtering", "nf_call_iptables", "nf_call_ip6tables", "nf_call_arptables"] {
        if link.number(key).is_some_and(|on| on != 0) {
            fields.push(format!("{key}: true"));
        }
    }
    if link.mtu != 1500 && ports.iter().all(|port| port.mtu == link.mtu) {
        fields.push(format!("mtu: {}", link.mtu));
    }
    fields
}

/// The ports as a map, where one of them has more than a name.
pub(super) fn ports(ports: &[&HostLink]) -> Option<String> {
    let of = |port: &&HostLink| -> Vec<String> {
        let other = |attribute: &BridgeAttribute| {
            let value = port.port_number(attribute.word).filter(|value| is_other(attribute, *value))?;
            Some(field(attribute, value))
        };
        PORT_ATTRIBUTES.iter().filter_map(other).collect()
    };
    let all: Vec<(String, Vec<String>)> = ports.iter().map(|port| (quoted(&port.name), of(port))).collect();
    if all.iter().all(|(_, attributes)| attributes.is_empty()) {
        return None;
    }
    let shown = all.iter().map(|(name, attributes)| match attributes.is_empty() {
        true => format!("{name}: {{ }}"),
        false => format!("{name}: {{ {} }}", attributes.join(", ")),
    });
    Some(format!("{{ {} }}", shown.collect::<Vec<_>>().join(", ")))
}

/// What is not as on a new bridge and cannot be stated.
pub(super) fn left_out(link: &HostLink, ports: &[&HostLink]) -> Vec<String> {
    let other = |(word, default): &(&'static str, i64)| {
        let value = link.number(word).filter(|value| value != default)?;
        Some(format!("{word} {value}"))
    };
    let mut left: Vec<String> = OTHERS.iter().filter_map(other).collect();
    if link.mtu != 1500 && ports.iter().any(|port| port.mtu != link.mtu) {
        left.push(format!("mtu {}, which not all ports have", link.mtu));
    }
    if link.number("vlan_filtering").is_some_and(|on| on != 0) {
        left.push("the VLANs of its ports".to_owned());
    }
    for port in ports {
        let others = OTHER_PORT_SWITCHES.iter().filter_map(|(word, default)| {
            let value = port.port_number(word).filter(|value| value != default)?;
            Some(format!("{} {word} {}", port.name, if value == 0 { "off" } else { "on" }))
        });
        left.extend(others);
    }
    left
}

fn is_other(attribute: &BridgeAttribute, value: i64) -> bool {
    match attribute.default {
        Some(default) => i64::from(default) != value,
        None => !USUAL_COSTS.iter().any(|usual| i64::from(*usual) == value),
    }
}

fn field(attribute: &BridgeAttribute, value: i64) -> String {
    match attribute.switch {
        true => format!("{}: {}", attribute.key, value != 0),
        false => format!("{}: {value}", attribute.key),
    }
}
