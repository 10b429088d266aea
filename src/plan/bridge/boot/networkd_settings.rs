//! Which settings of systemd.network(5) are about a link itself, and which about the addresses and routes on it.

use super::carried::{CarriedPort, SettingDestination, is_any};
use crate::host_state::LinkSetting;
use ipnet::IpNet;
use std::net::IpAddr;

/// Keys of `[Network]` that are about the link.
const OF_LINK: [&str; 7] =
    ["VLAN", "LLDP", "EmitLLDP", "Description", "ActiveSlave", "PrimarySlave", "BindCarrier"];

/// Devices that take the frames of a link for themselves, as a bridge does; a link has one such taker.
const TAKERS: [&str; 7] = ["MACVLAN", "MACVTAP", "IPVLAN", "IPVTAP", "MACsec", "BatmanAdvanced", "VRF"];

/// Tunnels that are bound to a link, and reach their other end by the addresses that it has.
const TUNNELS: [&str; 4] = ["Tunnel", "VXLAN", "Xfrm", "L2TP"];

/// Keys of `[Network]` that our own files set, or that mean nothing without addresses.
const OURS: [&str; 4] = ["Bridge", "Bond", "ConfigureWithoutCarrier", "KeepConfiguration"];

/// Keys of `[Network]` that are about what is above the link.
const ABOVE: [&str; 43] = [
    "DNS",
    "Domains",
    "NTP",
    "DNSDefaultRoute",
    "LLMNR",
    "MulticastDNS",
    "DNSSEC",
    "DNSOverTLS",
    "DNSSECNegativeTrustAnchors",
    "UseDomains",
    "IPForward",
    "IPv4Forwarding",
    "IPv6Forwarding",
    "IPMasquerade",
    "IPv4ReversePathFilter",
    "IPv4AcceptLocal",
    "IPv4RouteLocalnet",
    "IPv4ProxyARP",
    "IPv4ProxyARPPrivateVLAN",
    "IPv4LLRoute",
    "IPv4LLStartAddress",
    "IPv4DuplicateAddressDetectionTimeoutSec",
    "IPv6ProxyNDP",
    "IPv6ProxyNDPAddress",
    "IPv6PrivacyExtensions",
    "IPv6DuplicateAddressDetection",
    "IPv6HopLimit",
    "IPv6MTUBytes",
    "IPv6RetransmissionTimeSec",
    "IPv6LinkLocalAddressGenerationMode",
    "IPv6StableSecretAddress",
    "IPv6SendRA",
    "IPv6PrefixDelegation",
    "DHCPServer",
    "DHCPPrefixDelegation",
    "DHCPv6PrefixDelegation",
    "DefaultRouteOnDevice",
    "IgnoreCarrierLoss",
    "RequiredForOnline",
    "MulticastIGMPVersion",
    "MPLSRouting",
    "KeepMaster",
    "IPServiceType",
];

/// Sections that are about the link.
const LINK_SECTIONS: [&str; 26] = [
    "SR-IOV",
    "LLDP",
    "CAN",
    "IPoIB",
    "Bridge",
    "BridgeFDB",
    "BridgeMDB",
    "BridgeVLAN",
    "QDisc",
    "NetworkEmulator",
    "TokenBucketFilter",
    "PIE",
    "FlowQueuePIE",
    "StochasticFairBlue",
    "StochasticFairnessQueueing",
    "BFIFO",
    "PFIFO",
    "PFIFOHeadDrop",
    "PFIFOFast",
    "CAKE",
    "ControlledDelay",
    "FairQueueing",
    "FairQueueingControlledDelay",
    "DeficitRoundRobinScheduler",
    "GenericRandomEarlyDetection",
    "TrivialLinkEqualizer",
];

/// More of them, with classes.
const CLASSES: [&str; 8] = [
    "EnhancedTransmissionSelection",
    "HierarchyTokenBucket",
    "HierarchyTokenBucketClass",
    "HeavyHitterFilter",
    "QuickFairQueueing",
    "QuickFairQueueingClass",
    "DeficitRoundRobinSchedulerClass",
    "BandMultiQueueing",
];

/// Sections that say how a client asks for addresses.
const CLIENTS: [&str; 5] = ["DHCP", "DHCPv4", "DHCPv6", "IPv6AcceptRA", "DHCPPrefixDelegation"];

/// Sections with addresses, routes and what serves others on the link.
const SERVED: [&str; 13] = [
    "Neighbor",
    "IPv6AddressLabel",
    "RoutingPolicyRule",
    "NextHop",
    "DHCPServer",
    "DHCPServerStaticLease",
    "IPv6SendRA",
    "IPv6Prefix",
    "IPv6RoutePrefix",
    "IPv6PREF64Prefix",
    "IPv6PrefixDelegation",
    "MobileNetwork",
    "DHCPv6PrefixDelegation",
];

const TAKEN: &str = "a port of a bridge cannot have this setting";
const UNMOVED: &str = "it needs an address on the port, and the bridge takes none from it";
const UNKNOWN: &str = "kvmfw does not know it";

pub(super) fn home(port: &CarriedPort<'_>, setting: &LinkSetting) -> SettingDestination {
    let key = setting.key.as_str();
    match setting.section.as_str() {
        "Match" => SettingDestination::Replaced,
        section if section.starts_with("X-") => SettingDestination::Replaced,
        "Link" => of_link(port, key, &setting.value),
        "Network" => of_network(port, key, &setting.value),
        "BridgeVLAN" if port.at_boot.vlans.contains_key(port.name) => SettingDestination::Replaced,
        section if LINK_SECTIONS.contains(&section) || CLASSES.contains(&section) => SettingDestination::Port,
        "Address" => of_address(port, setting),
        "Route" => of_route(port, setting),
        section if CLIENTS.contains(&section) => {
            if port.moves {
                SettingDestination::Bridge
            } else {
                SettingDestination::Replaced
            }
        }
        section if SERVED.contains(&section) => {
            if port.moves {
                SettingDestination::Bridge
            } else {
                SettingDestination::Lost(UNMOVED)
            }
        }
        _ => SettingDestination::Lost(UNKNOWN),
    }
}

fn of_link(port: &CarriedPort<'_>, key: &str, value: &str) -> SettingDestination {
    match key {
        "MTUBytes" if port.at_boot.bridge.mtu.is_some() => SettingDestination::Replaced,
        "RequiredForOnline" | "RequiredFamilyForOnline" if is_no(value) => SettingDestination::Both,
        // A port has no address, so that who waits for one on it would wait in vain.
        "RequiredForOnline" | "RequiredFamilyForOnline" if port.moves => SettingDestination::Bridge,
        "RequiredForOnline" | "RequiredFamilyForOnline" => SettingDestination::Replaced,
        _ => SettingDestination::Port,
    }
}

fn of_network(port: &CarriedPort<'_>, key: &str, value: &str) -> SettingDestination {
    let moves = port.moves;
    match key {
        _ if OURS.contains(&key) => SettingDestination::Replaced,
        _ if OF_LINK.contains(&key) => SettingDestination::Port,
        _ if TAKERS.contains(&key) => SettingDestination::Lost(TAKEN),
        _ if TUNNELS.contains(&key) && moves => {
            SettingDestination::Lost("the tunnel is bound to the port, whose addresses the bridge gets")
        }
        _ if TUNNELS.contains(&key) => SettingDestination::Port,
        "Address" => kept_address(port, value),
        "Gateway" => kept_gateway(port, value),
        "DHCP" if is_no(value) => SettingDestination::Replaced,
        // One with a lease is refused before; a client beside static addresses goes with these.
        "DHCP" => {
            if moves {
                SettingDestination::Bridge
            } else {
                SettingDestination::Dropped
            }
        }
        "LinkLocalAddressing" | "IPv6AcceptRA" | "IPv6Token" => {
            if moves {
                SettingDestination::Bridge
            } else {
                SettingDestination::Replaced
            }
        }
        _ if ABOVE.contains(&key) => SettingDestination::Bridge,
        _ => SettingDestination::Lost(UNKNOWN),
    }
}

fn is_no(value: &str) -> bool {
    ["no", "false", "off", "0", "n", "f", "none"].contains(&value.to_ascii_lowercase().as_str())
}

/// An address as networkd reads it: without a prefix it is one of a single host.
fn net(value: &str) -> Option<IpNet> {
    value.parse().ok().or_else(|| Some(IpNet::from(value.parse::<IpAddr>().ok()?)))
}

/// The bridge's own list has it; what nothing has yet must not get lost.
fn kept_address(port: &CarriedPort<'_>, value: &str) -> SettingDestination {
    let known = value.is_empty() || net(value).is_some_and(|net| port.at_boot.has(net));
    if known || !port.first {
        SettingDestination::Replaced
    } else {
        SettingDestination::Lost("the link does not have this address now, so the bridge does not get it")
    }
}

fn kept_gateway(port: &CarriedPort<'_>, value: &str) -> SettingDestination {
    let Ok(gateway) = value.parse::<IpAddr>() else { return SettingDestination::Replaced };
    let known = port.at_boot.gateway(gateway.is_ipv6()).is_some();
    if known || !port.first {
        SettingDestination::Replaced
    } else {
        SettingDestination::Lost("the link does not have this route now, so the bridge does not get it")
    }
}

/// What the section of a setting sets `key` to.
fn beside<'a>(port: &CarriedPort<'a>, setting: &LinkSetting, key: &str) -> Option<&'a str> {
    let mut same = port.settings.iter().filter(|other| other.block == setting.block && other.key == key);
    same.next().map(|other| other.value.as_str())
}

fn of_address(port: &CarriedPort<'_>, setting: &LinkSetting) -> SettingDestination {
    let Some(value) = beside(port, setting, "Address") else { return SettingDestination::Replaced };
    match kept_address(port, value) {
        SettingDestination::Replaced if net(value).is_some_and(|net| port.at_boot.has(net)) => {
            match setting.key.as_str() {
                // The label of an address begins with the name of its link.
                "Label" => SettingDestination::Lost("a label names the port, and the bridge has the address"),
                _ => SettingDestination::Bridge,
            }
        }
        other => other,
    }
}

fn of_route(port: &CarriedPort<'_>, setting: &LinkSetting) -> SettingDestination {
    if !port.moves {
        return SettingDestination::Lost(UNMOVED);
    }
    let gateway = beside(port, setting, "Gateway").and_then(|value| value.parse::<IpAddr>().ok());
    let to = beside(port, setting, "Destination");
    let default = to.is_none_or(is_any);
    let declared = gateway.filter(|gateway| {
        let mut declared = port.at_boot.bridge.gateways.iter();
        default && declared.any(|other| other.is_ipv6() == gateway.is_ipv6() && other != gateway)
    });
    // A gateway that is declared takes its place.
    if declared.is_some() { SettingDestination::Replaced } else { SettingDestination::Bridge }
}
