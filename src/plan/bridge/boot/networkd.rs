//! Files of systemd-networkd. The first file by name that matches a link configures it, so that ours,
//! `00-kvmfw-…`, take the place of those that the port had.

use super::carried::CarriedSettings;
use super::{AddressAtBoot, BootConfig, BootContext, HEADER, networkd_settings};
use crate::host_state::{HostLink, LinkOwner, Observed, vlan_range};
use crate::plan::bridge::RefusalCause;
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::bridge::{DEFAULT_PVID, DeclaredBridge};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const FOLDER: &str = "/etc/systemd/network";

/// The path of our file for a link.
fn path(link: &str, kind: &str) -> String {
    format!("{FOLDER}/00-kvmfw-{link}.{kind}")
}

/// A bridge that we make, with its ports.
pub(super) fn make(
    at_boot: &BootContext<'_>,
    owners: &[(&HostLink, LinkOwner)],
) -> Result<BootConfig, RefusalCause> {
    let carried = carried(at_boot, owners)?;
    let mut files = BTreeMap::new();
    files.insert(path(at_boot.name(), "netdev"), netdev(at_boot));
    files.insert(path(at_boot.name(), "network"), network_of(at_boot, &carried));
    for port in &at_boot.ports {
        files.insert(path(port, "network"), port_of(at_boot, port, carried.port(port)));
    }
    let window =
        files.iter().map(|(path, text)| (path.replacen("/etc/", "/run/", 1), text.clone())).collect();
    Ok(BootConfig { files, window, warning: dropped(at_boot, &carried) })
}

fn carried(
    at_boot: &BootContext<'_>,
    owners: &[(&HostLink, LinkOwner)],
) -> Result<CarriedSettings, RefusalCause> {
    CarriedSettings::from_ports(at_boot, owners, |link| path(link, "network"), networkd_settings::home)
}

/// A client that asks for addresses has no place on a port.
fn dropped(at_boot: &BootContext<'_>, carried: &CarriedSettings) -> Option<Warning> {
    let first = carried.dropped.first()?;
    Some(Warning::new(
        LintCode::PortAsksNoMore,
        WarningMessage::new(format!(
            "bridge {}: {first} loses its effect, because a port of a bridge requests no addresses",
            at_boot.name()
        ))
        .fix("configure DHCP for the bridge in a separate file"),
        Some(at_boot.bridge.origin.clone()),
    ))
}

/// What we add to a bridge that networkd makes: a drop-in of its file, and the files of further ports.
pub(super) fn add(
    at_boot: &BootContext<'_>,
    owner: &LinkOwner,
    ports: &[&HostLink],
    observed: &Observed,
) -> Result<BootConfig, RefusalCause> {
    let mut kept = BootConfig::default();
    let Some(file) = &owner.file else { return Ok(kept) };
    // Ports that it makes ports itself need nothing of ours.
    let bridge = at_boot.bridge;
    let own = format!("Bridge={}", bridge.name);
    let further: Vec<(&HostLink, LinkOwner)> = ports
        .iter()
        .filter_map(|link| Some((*link, observed.network.owner(link)?)))
        .filter(|(_, owner)| !owner.gives.iter().any(|line| line.text.replace(' ', "") == own))
        .collect();
    not_before_ours(bridge, &further)?;
    let carried = carried(at_boot, &further)?;
    let (added, sections) = (above(at_boot, &carried), sections(at_boot, &carried));
    if !added.is_empty() || !carried.bridge.is_empty() || !sections.is_empty() {
        let name = file.rsplit('/').next().unwrap_or_default();
        let text = format!("{HEADER}[Network]\n{added}{}{sections}", carried.bridge);
        kept.files.insert(format!("{FOLDER}/{name}.d/90-kvmfw.conf"), text);
    }
    for (link, _) in further {
        let text = port_of(at_boot, &link.name, carried.port(&link.name));
        let path = path(&link.name, "network");
        kept.window.insert(path.replacen("/etc/", "/run/", 1), text.clone());
        kept.files.insert(path, text);
    }
    kept.warning = dropped(at_boot, &carried);
    Ok(kept)
}

/// Whether a carried section states this with all that belongs to it.
fn said(carried: &CarriedSettings, value: &dyn std::fmt::Display) -> bool {
    carried.said.contains(&value.to_string())
}

fn said_address(carried: &CarriedSettings, one: &AddressAtBoot) -> bool {
    // Its peer stands in a line of its own there.
    let own = ipnet::IpNet::from(one.address.local());
    said(carried, &one.address) || one.address.peer().is_some() && said(carried, &own)
}

/// Addresses and gateways of the bridge that need no section of their own, but those that a carried section states.
fn above(at_boot: &BootContext<'_>, carried: &CarriedSettings) -> String {
    let mut text = String::new();
    for one in at_boot.addresses.iter().filter(|a| a.is_plain() && !said_address(carried, a)) {
        let _ = writeln!(text, "Address={}", one.address);
    }
    for gateway in at_boot.gateways.iter().filter(|g| !g.onlink && !said(carried, &g.address)) {
        let _ = writeln!(text, "Gateway={}", gateway.address);
    }
    text
}

/// Refuses ports whose file networkd would read before ours.
pub(super) fn not_before_ours(
    bridge: &DeclaredBridge,
    owners: &[(&HostLink, LinkOwner)],
) -> Result<(), RefusalCause> {
    for (link, owner) in owners {
        if let Some(file) = owner.unread.as_ref().filter(|file| !file.contains("/00-kvmfw-")) {
            return Err((
                "port-settings-lost",
                format!(
                    "bridge {}: {file}, which configures {}, is in none of the folders of systemd-networkd, and what it says \
                     cannot be kept; move it to {FOLDER}",
                    bridge.name, link.name
                ),
            ));
        }
        let Some(file) = &owner.file else { continue };
        let name = file.rsplit('/').next().unwrap_or_default();
        let ours = format!("00-kvmfw-{}.network", link.name);
        if name < ours.as_str() {
            return Err((
                "unmanaged-owner",
                format!(
                    "bridge {}: {file} configures {} and sorts before {ours}, so that systemd-networkd would never read \
                     ours; rename it to begin with 10-",
                    bridge.name, link.name
                ),
            ));
        }
    }
    Ok(())
}

fn netdev(at_boot: &BootContext<'_>) -> String {
    let bridge = at_boot.bridge;
    let mut text = format!("{HEADER}[NetDev]\nName={}\nKind=bridge\n", bridge.name);
    let mut line = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{key}={value}");
        }
    };
    line("MACAddress", at_boot.mac.clone());
    line("MTUBytes", bridge.mtu.map(|m| m.to_string()));
    line("\n[Bridge]\nSTP", Some(yes(bridge.stp == Some(true)).to_owned()));
    line("ForwardDelaySec", at_boot.delay().map(|d| d.to_string()));
    line("AgeingTimeSec", bridge.ageing.map(|a| a.to_string()));
    for (key, name) in [
        ("HelloTimeSec", "hello_time"),
        ("MaxAgeSec", "max_age"),
        ("Priority", "priority"),
        ("GroupForwardMask", "group_fwd_mask"),
    ] {
        line(key, at_boot.number(name).map(|value| value.to_string()));
    }
    for (key, name) in
        [("MulticastSnooping", "multicast_snooping"), ("MulticastQuerier", "multicast_querier")]
    {
        line(key, at_boot.switch(name).map(|on| yes(on).to_owned()));
    }
    let pvid = at_boot.number(DEFAULT_PVID);
    line("DefaultPVID", pvid.map(|vid| if vid == 0 { "none".to_owned() } else { vid.to_string() }));
    line("VLANFiltering", bridge.vlan_filtering.map(|v| yes(v).to_owned()));
    text
}

fn network_of(at_boot: &BootContext<'_>, carried: &CarriedSettings) -> String {
    // What others add to the bridge stays when networkd looks at it again.
    let mut text = format!(
        "{HEADER}[Match]\nName={}\n\n[Network]\nConfigureWithoutCarrier=yes\nKeepConfiguration=yes\n{}",
        at_boot.name(),
        above(at_boot, carried)
    );
    vlans(&mut text, at_boot, at_boot.name());
    text.push_str(&carried.bridge);
    text.push_str(&sections(at_boot, carried));
    text
}

/// The sections of the others.
fn sections(at_boot: &BootContext<'_>, carried: &CarriedSettings) -> String {
    let mut text = String::new();
    for one in at_boot.addresses.iter().filter(|a| !a.is_plain() && !said_address(carried, a)) {
        let address = &one.address;
        let _ = match address.peer() {
            Some(peer) => {
                writeln!(text, "\n[Address]\nAddress={}\nPeer={peer}/{}", address.local(), address.prefix())
            }
            None => writeln!(text, "\n[Address]\nAddress={address}"),
        };
        for (key, word) in
            [("Broadcast", "brd"), ("Scope", "scope"), ("Label", "label"), ("RouteMetric", "metric")]
        {
            if let Some(value) = one.value(word) {
                let _ = writeln!(text, "{key}={value}");
            }
        }
        // It knows no number but that.
        if one.value("preferred_lft").is_some_and(|seconds| seconds == "0") {
            text.push_str("PreferredLifetime=0\n");
        }
        for (key, word) in [
            ("AddPrefixRoute=no", "noprefixroute"),
            ("HomeAddress=yes", "home"),
            ("ManageTemporaryAddress=yes", "mngtmpaddr"),
            ("AutoJoin=yes", "autojoin"),
        ] {
            if one.has(word) {
                let _ = writeln!(text, "{key}");
            }
        }
    }
    for gateway in at_boot.gateways.iter().filter(|g| g.onlink && !said(carried, &g.address)) {
        let _ = writeln!(text, "\n[Route]\nGateway={}\nGatewayOnLink=yes", gateway.address);
    }
    text
}

/// The VLANs of a port, or of the bridge itself.
fn vlans(text: &mut String, at_boot: &BootContext<'_>, device: &str) {
    let Some(vlans) = at_boot.vlans.get(device) else { return };
    for (first, last, flags) in vlans.ranges() {
        let range = vlan_range(first, last);
        let _ = writeln!(text, "\n[BridgeVLAN]\nVLAN={range}");
        if flags.pvid {
            let _ = writeln!(text, "PVID={range}");
        }
        if flags.untagged {
            let _ = writeln!(text, "EgressUntagged={range}");
        }
    }
}

fn port_of(at_boot: &BootContext<'_>, port: &str, carried: &str) -> String {
    let bridge = at_boot.bridge;
    let mtu = bridge.mtu.map_or_else(String::new, |mtu| format!("[Link]\nMTUBytes={mtu}\n\n"));
    let mut text = format!(
        "{HEADER}[Match]\nName={port}\n\n{mtu}[Network]\nBridge={}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
        bridge.name
    );
    let mut section = String::new();
    for (key, name, switch) in [
        ("Isolated", "isolated", true),
        ("HairPin", "hairpin", true),
        ("Cost", "cost", false),
        ("Priority", "priority", false),
    ] {
        let _ = match at_boot.of_port(port, name) {
            Some(value) if switch => writeln!(section, "{key}={}", yes(value != 0)),
            Some(value) => writeln!(section, "{key}={value}"),
            None => Ok(()),
        };
    }
    if !section.is_empty() {
        let _ = write!(text, "\n[Bridge]\n{section}");
    }
    vlans(&mut text, at_boot, port);
    text.push_str(carried);
    text
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
