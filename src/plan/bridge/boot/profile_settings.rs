//! Which settings of a NetworkManager profile are about a link itself, and which about the addresses and routes on it.

use super::carried::{CarriedPort, SettingDestination};
use crate::host_state::{LinkSetting, NEEDS_PROFILE};

/// Keys of `[connection]` that our profiles have of their own, or that say when and for whom the port's was in effect.
const OURS: [&str; 18] = [
    "id",
    "uuid",
    "type",
    "interface-name",
    "autoconnect",
    "autoconnect-priority",
    "autoconnect-retries",
    "timestamp",
    "master",
    "controller",
    "slave-type",
    "port-type",
    "multi-connect",
    "read-only",
    "autoconnect-slaves",
    "autoconnect-ports",
    "down-on-poweroff",
    "auth-retries",
];

/// Keys of `[connection]` that are about what is above the link.
const ABOVE: [&str; 9] = [
    "zone",
    "llmnr",
    "mdns",
    "dns-over-tls",
    "metered",
    "stable-id",
    "mud-url",
    "mptcp-flags",
    "gateway-ping-timeout",
];

/// Keys of `[connection]` that are about the link.
const OF_LINK: [&str; 3] = ["lldp", "wait-device-timeout", "wait-activation-delay"];

pub(super) fn home(port: &CarriedPort<'_>, setting: &LinkSetting) -> SettingDestination {
    let key = setting.key.as_str();
    match setting.section.as_str() {
        "connection" if OURS.contains(&key) => SettingDestination::Replaced,
        "connection" if ABOVE.contains(&key) => SettingDestination::Bridge,
        "connection" if OF_LINK.contains(&key) => SettingDestination::Port,
        "connection" if key == "permissions" && setting.value.is_empty() => SettingDestination::Replaced,
        // What the profile was chosen by: ours is chosen by the name of the link.
        "match" | ".nmmeta" | "user" => SettingDestination::Replaced,
        "ethernet" | "802-3-ethernet" if key == "mtu" && port.at_boot.bridge.mtu.is_some() => {
            SettingDestination::Replaced
        }
        "ethernet" | "802-3-ethernet" | "ethtool" | "link" | "bridge-port" => SettingDestination::Port,
        "ipv4" => of_family(port, setting, false),
        "ipv6" => of_family(port, setting, true),
        NEEDS_PROFILE => SettingDestination::Lost(
            "it needs the port's own profile, by its UUID; the name of the link would do as well",
        ),
        _ => SettingDestination::Lost("kvmfw does not know it, or it may hold a secret"),
    }
}

fn of_family(port: &CarriedPort<'_>, setting: &LinkSetting, v6: bool) -> SettingDestination {
    let key = setting.key.as_str();
    let has = port.at_boot.addresses(v6).next().is_some();
    let numbered =
        |word: &str| key.strip_prefix(word).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
    match key {
        "address" | "addresses" | "gateway" => SettingDestination::Replaced,
        _ if numbered("address") => kept_address(port, setting),
        // As networks that a router announces: they come to the bridge as they came to the port.
        "method" if setting.value == "auto" && port.moves => SettingDestination::Bridge,
        "method" if setting.value == "auto" && !v6 => SettingDestination::Dropped,
        "method" => SettingDestination::Replaced,
        _ if port.moves && has => SettingDestination::Bridge,
        _ if key.starts_with("route") || key.starts_with("routing-rule") => {
            SettingDestination::Lost("it needs an address on the port, and the bridge takes none from it")
        }
        _ => SettingDestination::Replaced,
    }
}

/// `ADDRESS/PREFIX[,GATEWAY]`: the bridge's own list has it, or nobody does.
fn kept_address(port: &CarriedPort<'_>, setting: &LinkSetting) -> SettingDestination {
    let address = setting.value.split(',').next().unwrap_or_default();
    let known = address.parse().is_ok_and(|net| port.at_boot.has(net));
    if known || !port.first {
        SettingDestination::Replaced
    } else {
        SettingDestination::Lost("the link does not have this address now, so the bridge does not get it")
    }
}
