//! Files of systemd-networkd. The first file by name that matches a link configures it, so that ours,
//! `00-kvmfw-…`, take the place of those that the port had.

use super::{AtBoot, HEADER, Kept};
use crate::observe::{Link, Observed, Owner, vlan_range};
use crate::plan::bridge::Refused;
use crate::resource::bridge::Bridge;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const FOLDER: &str = "/etc/systemd/network";

/// The path of our file for a link.
fn path(link: &str, kind: &str) -> String {
    format!("{FOLDER}/00-kvmfw-{link}.{kind}")
}

/// A bridge that we make, with its ports.
pub(super) fn make(at_boot: &AtBoot<'_>, owners: &[(&Link, Owner)]) -> Kept {
    let mut files = BTreeMap::new();
    files.insert(path(at_boot.name(), "netdev"), netdev(at_boot));
    let network = path(at_boot.name(), "network");
    let carried = at_boot.carried(owners, &network);
    files.insert(network, network_of(at_boot, &carried));
    for port in &at_boot.ports {
        files.insert(path(port, "network"), port_of(at_boot, port));
    }
    let window =
        files.iter().map(|(path, text)| (path.replacen("/etc/", "/run/", 1), text.clone())).collect();
    Kept { files, window, warning: None }
}

/// What we add to a bridge that networkd makes: a drop-in of its file, and the files of further ports.
pub(super) fn add(
    at_boot: &AtBoot<'_>,
    owner: &Owner,
    ports: &[&Link],
    observed: &Observed,
) -> Result<Kept, Refused> {
    let mut kept = Kept::default();
    let Some(file) = &owner.file else { return Ok(kept) };
    let added: Vec<String> = at_boot
        .addresses
        .iter()
        .map(|a| format!("Address={a}\n"))
        .chain(at_boot.gateways.iter().map(|g| format!("Gateway={g}\n")))
        .collect();
    if !added.is_empty() {
        let name = file.rsplit('/').next().unwrap_or_default();
        let text = format!("{HEADER}[Network]\n{}", added.concat());
        kept.files.insert(format!("{FOLDER}/{name}.d/90-kvmfw.conf"), text);
    }
    // Ports that it makes ports itself need nothing of ours.
    let bridge = at_boot.bridge;
    let own = format!("Bridge={}", bridge.name);
    let further: Vec<(&Link, Owner)> = ports
        .iter()
        .filter_map(|link| Some((*link, observed.network.owner(link)?)))
        .filter(|(_, owner)| !owner.gives.iter().any(|line| line.text.replace(' ', "") == own))
        .collect();
    not_before_ours(bridge, &further)?;
    for (link, _) in further {
        let text = port_of(at_boot, &link.name);
        let path = path(&link.name, "network");
        kept.window.insert(path.replacen("/etc/", "/run/", 1), text.clone());
        kept.files.insert(path, text);
    }
    Ok(kept)
}

/// Refuses ports whose file networkd would read before ours.
pub(super) fn not_before_ours(bridge: &Bridge, owners: &[(&Link, Owner)]) -> Result<(), Refused> {
    for (link, owner) in owners {
        let Some(file) = &owner.file else { continue };
        let name = file.rsplit('/').next().unwrap_or_default();
        let ours = format!("00-kvmfw-{}.network", link.name);
        if name < ours.as_str() {
            return Err((
                "foreign_owner",
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

fn netdev(at_boot: &AtBoot<'_>) -> String {
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
    line("VLANFiltering", bridge.vlan_filtering.map(|v| yes(v).to_owned()));
    text
}

fn network_of(at_boot: &AtBoot<'_>, carried: &[String]) -> String {
    // What others add to the bridge stays when networkd looks at it again.
    let mut text = format!(
        "{HEADER}[Match]\nName={}\n\n[Network]\nConfigureWithoutCarrier=yes\nKeepConfiguration=yes\n",
        at_boot.name()
    );
    for address in &at_boot.addresses {
        let _ = writeln!(text, "Address={address}");
    }
    for gateway in &at_boot.gateways {
        let _ = writeln!(text, "Gateway={gateway}");
    }
    for line in carried {
        let _ = writeln!(text, "{line}");
    }
    vlans(&mut text, at_boot, at_boot.name());
    text
}

/// The VLANs of a port, or of the bridge itself.
fn vlans(text: &mut String, at_boot: &AtBoot<'_>, device: &str) {
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

fn port_of(at_boot: &AtBoot<'_>, port: &str) -> String {
    let bridge = at_boot.bridge;
    let mtu = bridge.mtu.map_or_else(String::new, |mtu| format!("[Link]\nMTUBytes={mtu}\n\n"));
    let mut text = format!(
        "{HEADER}[Match]\nName={port}\n\n{mtu}[Network]\nBridge={}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
        bridge.name
    );
    vlans(&mut text, at_boot, port);
    text
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
