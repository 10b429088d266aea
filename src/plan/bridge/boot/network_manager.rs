//! Profiles of NetworkManager. Of all profiles that fit a device it takes the one of the highest
//! priority at boot: ours take the place of the port's own, which stays as it is.

use super::carried::CarriedSettings;
use super::{BootConfig, BootContext, HEADER, profile_settings};
use crate::host_state::{HostLink, LinkOwner};
use crate::plan::bridge::RefusalCause;
use crate::plan::fingerprint::digest;
use crate::resource::bridge::DEFAULT_PVID;
use std::fmt::Write as _;

const FOLDER: &str = "/etc/NetworkManager/system-connections";

pub(super) fn make(
    at_boot: &BootContext<'_>,
    owners: &[(&HostLink, LinkOwner)],
) -> Result<BootConfig, RefusalCause> {
    let mut kept = BootConfig::default();
    let name = at_boot.name();
    let path = |link: &str| {
        let own = if link == name { String::new() } else { format!("-{link}") };
        format!("{FOLDER}/kvmfw-{name}{own}.nmconnection")
    };
    not_unread(at_boot, owners, path)?;
    let carried = CarriedSettings::from_ports(at_boot, owners, path, profile_settings::home)?;
    kept.files.insert(path(name), bridge(at_boot, &carried.bridge));
    for port in &at_boot.ports {
        let mut text = connection(&id_of(name, port), "ethernet", port);
        let _ = write!(text, "master={name}\nslave-type=bridge\n\n[ethernet]\n");
        mtu(&mut text, at_boot);
        text.push_str("\n[bridge-port]\n");
        for (key, name, switch) in
            [("hairpin-mode", "hairpin", true), ("path-cost", "cost", false), ("priority", "priority", false)]
        {
            let _ = match at_boot.of_port(port, name) {
                Some(value) if switch => writeln!(text, "{key}={}", value != 0),
                Some(value) => writeln!(text, "{key}={value}"),
                None => Ok(()),
            };
        }
        vlans(&mut text, at_boot, port);
        text.push_str(carried.port(port));
        kept.files.insert(path(port), text);
    }
    Ok(kept)
}

fn id_of(bridge: &str, port: &str) -> String {
    format!("kvmfw-{bridge}-{port}")
}

/// Refuses a port whose profile in effect is in none of the files that were read: nobody knows what it carries.
fn not_unread(
    at_boot: &BootContext<'_>,
    owners: &[(&HostLink, LinkOwner)],
    path: impl Fn(&str) -> String,
) -> Result<(), RefusalCause> {
    for (link, owner) in owners {
        let Some(profile) = &owner.unread else { continue };
        let ours = at_boot.files_before.contains_key(&path(&link.name));
        if !ours && *profile != uuid(&id_of(at_boot.name(), &link.name)) {
            return Err((
                "port-settings-lost",
                format!(
                    "bridge {}: the profile of NetworkManager that is in effect on {}, {profile}, is in no file of \
                     system-connections, and what it says cannot be kept; move it there (`nmcli connection migrate {profile}`)",
                    at_boot.name(),
                    link.name
                ),
            ));
        }
    }
    Ok(())
}

fn connection(id: &str, kind: &str, link: &str) -> String {
    format!(
        "{HEADER}[connection]\nid={id}\nuuid={}\ntype={kind}\ninterface-name={link}\nautoconnect-priority=999\n",
        uuid(id)
    )
}

/// Always the same for the same profile.
fn uuid(id: &str) -> String {
    let hex = digest([id]);
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    // Marked as one that is made of a hash.
    format!("{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}

fn mtu(text: &mut String, at_boot: &BootContext<'_>) {
    if let Some(mtu) = at_boot.bridge.mtu {
        let _ = writeln!(text, "mtu={mtu}");
    }
}

/// The VLANs of a port, or of the bridge itself: `10 pvid untagged, 20-29`.
fn vlans(text: &mut String, at_boot: &BootContext<'_>, device: &str) {
    if let Some(vlans) = at_boot.vlans.get(device).filter(|vlans| !vlans.0.is_empty()) {
        let _ = writeln!(text, "vlans={vlans}");
    }
}

fn bridge(at_boot: &BootContext<'_>, carried: &str) -> String {
    let bridge = at_boot.bridge;
    let mut text = connection(&format!("kvmfw-{}", bridge.name), "bridge", &bridge.name);
    text.push_str("\n[ethernet]\n");
    mtu(&mut text, at_boot);
    text.push_str("\n[bridge]\n");
    let mut line = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(text, "{key}={value}");
        }
    };
    line("mac-address", at_boot.mac.clone());
    // Its own default is STP with 15 s of silence.
    line("stp", Some((bridge.stp == Some(true)).to_string()));
    line("forward-delay", at_boot.delay().map(|d| d.to_string()));
    line("ageing-time", bridge.ageing.map(|a| a.to_string()));
    for (key, name) in [
        ("hello-time", "hello_time"),
        ("max-age", "max_age"),
        ("priority", "priority"),
        ("group-forward-mask", "group_fwd_mask"),
    ] {
        line(key, at_boot.number(name).map(|value| value.to_string()));
    }
    for (key, name) in
        [("multicast-snooping", "multicast_snooping"), ("multicast-querier", "multicast_querier")]
    {
        line(key, at_boot.switch(name).map(|on| on.to_string()));
    }
    line("vlan-default-pvid", at_boot.number(DEFAULT_PVID).map(|vid| vid.to_string()));
    line("vlan-filtering", bridge.vlan_filtering.map(|v| v.to_string()));
    vlans(&mut text, at_boot, &bridge.name);
    for v6 in [false, true] {
        let _ = writeln!(text, "\n[{}]", if v6 { "ipv6" } else { "ipv4" });
        let mut number = 0;
        for address in at_boot.addresses(v6) {
            number += 1;
            let _ = writeln!(text, "address{number}={}", address.address);
        }
        if number > 0 {
            text.push_str("method=manual\n");
            if let Some(gateway) = at_boot.gateway(v6) {
                let _ = match gateway.onlink {
                    false => writeln!(text, "gateway={}", gateway.address),
                    true => writeln!(
                        text,
                        "route99={},{}\nroute99_options=onlink=true",
                        if v6 { "::/0" } else { "0.0.0.0/0" },
                        gateway.address
                    ),
                };
            }
        } else {
            text.push_str(if v6 { "method=link-local\n" } else { "method=disabled\n" });
        }
    }
    text.push_str(carried);
    text
}
