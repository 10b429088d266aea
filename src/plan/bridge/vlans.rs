//! VLANs of ports, and of the bridge itself, which is where the host's own frames pass. Who is named in
//! `vlans` has exactly those; all others, taps of guests among them, keep what they have.

use super::RefusalCause;
use super::planner::BridgePlanner;
use crate::host_state::{HostLink, HostLinks, PortVlans, VlanFlags, vlan_range};
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::bridge::{DEFAULT_PVID, DeclaredBridge};
use std::collections::BTreeMap;

impl DeclaredBridge {
    /// The VLANs that are stated, by port.
    pub(in crate::plan) fn vlans_by_port(&self) -> BTreeMap<&str, PortVlans> {
        let mut by_port: BTreeMap<&str, PortVlans> = BTreeMap::new();
        for vlan in &self.vlans {
            let flags = VlanFlags { pvid: vlan.pvid, untagged: vlan.untagged };
            by_port.entry(&vlan.port).or_default().0.insert(vlan.vid, flags);
        }
        by_port
    }
}

impl BridgePlanner<'_> {
    pub(super) fn vlans(&mut self, there: Option<&HostLink>) -> Result<(), RefusalCause> {
        let bridge = self.bridge;
        if !bridge.vlans.is_empty()
            || bridge.vlan_filtering == Some(true)
            || bridge.attributes.contains_key(DEFAULT_PVID)
        {
            self.kernel_filters(there)?;
        }
        let wanted = bridge.vlans_by_port();
        for (device, vlans) in &wanted {
            self.vlans_of(device, vlans, there);
        }
        let before = std::mem::take(&mut self.owned.vlans);
        for (device, vlans) in before {
            if wanted.contains_key(device.as_str()) {
                self.owned.vlans.insert(device, vlans);
            } else if self.stays(&device) {
                self.vlans_as_before(&device, &vlans);
            }
        }
        // A port that goes loses its VLANs, and gets them again on the way back.
        let gone = self.owned.ports.iter().filter(|port| !bridge.ports.contains(port));
        for port in gone.filter(|port| is_port(self.links, port, &bridge.name)) {
            let live = self.live_or_fresh(port);
            self.back.extend(lines(&bridge.name, port, &self.fresh(), &live));
        }
        self.told(&wanted, there);
        Ok(())
    }

    /// The VLANs of a port that has just joined this bridge.
    fn fresh(&self) -> PortVlans {
        let stated = self.bridge.attributes.get(DEFAULT_PVID).and_then(|vid| u16::try_from(*vid).ok());
        stated.map_or_else(|| fresh(self.links, &self.bridge.name), PortVlans::fresh)
    }

    /// The VLANs of a port or of the bridge itself; of a port that has not joined yet, those it will have then.
    fn live_or_fresh(&self, device: &str) -> PortVlans {
        live(self.links, device).unwrap_or_else(|| self.fresh())
    }

    /// Whether it is there and stays a port, or is the bridge itself.
    fn stays(&self, device: &str) -> bool {
        let goes = self.owned.ports.contains(device) && !self.bridge.ports.iter().any(|p| p == device);
        !goes && (device == self.bridge.name || is_port(self.links, device, &self.bridge.name))
    }

    /// A kernel that does not filter VLANs shows no default VLAN of any bridge.
    fn kernel_filters(&self, there: Option<&HostLink>) -> Result<(), RefusalCause> {
        let one = there.or_else(|| self.links.bridges().next());
        if one.is_none_or(|bridge| bridge.number("vlan_default_pvid").is_some()) {
            return Ok(());
        }
        Err((
            "unsupported",
            format!(
                "bridge {}: the host's kernel cannot filter VLANs (built without BRIDGE_VLAN_FILTERING); \
                 remove `vlans`, `vlan_filtering` and `vlan_default_pvid`, or boot another kernel",
                self.bridge.name
            ),
        ))
    }

    fn vlans_of(&mut self, device: &str, wanted: &PortVlans, there: Option<&HostLink>) {
        let (links, name) = (self.links, &self.bridge.name);
        let on_it = if device == name { there.is_some() } else { is_port(links, device, name) };
        let live = self.live_or_fresh(device);
        if on_it {
            self.old.push(format!("{device} vlans {live}"));
        }
        // A port that comes from another bridge leaves its VLANs there.
        let joined = if on_it { live.clone() } else { self.fresh() };
        self.plan.forward.extend(lines(name, device, &joined, wanted));
        if live != *wanted {
            self.owned.vlans.entry(device.to_owned()).or_insert_with(|| live.clone());
            let elsewhere = links.by_name.get(device).and_then(|l| l.master.as_deref());
            if let Some(master) = elsewhere.filter(|_| device != name) {
                self.back.extend(lines(name, device, &union(wanted, &fresh(links, master)), &live));
            } else if on_it {
                self.back.extend(lines(name, device, wanted, &live));
            }
        }
        // At boot it has what it had before us.
        let before = union(&self.fresh(), &self.owned.vlans.get(device).cloned().unwrap_or_default());
        self.plan.boot.extend(lines(name, device, &PortVlans::default(), wanted));
        self.plan.boot.extend(removals(name, device, &before, wanted));
        self.wanted(format!("{device} vlans {wanted}"));
    }

    fn vlans_as_before(&mut self, device: &str, before: &PortVlans) {
        let name = &self.bridge.name;
        let live = self.live_or_fresh(device);
        if live == *before {
            return;
        }
        self.plan.forward.extend(lines(name, device, &live, before));
        self.back.extend(lines(name, device, before, &live));
        self.old.push(format!("{device} vlans {live}"));
        self.new.push((format!("{device} vlans {before}   (as before)"), None));
    }

    /// What a filtering bridge cuts apart, and VLANs that nobody looks at.
    fn told(&mut self, wanted: &BTreeMap<&str, PortVlans>, there: Option<&HostLink>) {
        let (bridge, links) = (self.bridge, self.links);
        let filters = there.and_then(|link| link.number("vlan_filtering")) == Some(1);
        if !bridge.vlan_filtering.unwrap_or(filters) {
            if !wanted.is_empty() {
                self.warn(
                    LintCode::VlansIdle,
                    WarningMessage::new(format!(
                        "bridge {}: `vlans` has no effect, because the bridge does not filter VLANs",
                        bridge.name
                    ))
                    .fix("set `vlan_filtering: true`"),
                );
            }
            return;
        }
        let joined = self.fresh();
        let of = |device: &str| {
            let now = || live(links, device).unwrap_or_else(|| joined.clone());
            wanted.get(device).cloned().unwrap_or_else(now)
        };
        let named: Vec<(&String, PortVlans)> = bridge.ports.iter().map(|port| (port, of(port))).collect();
        let others = links.ports(&bridge.name).filter(|port| !bridge.ports.contains(&port.name));
        let others: Vec<(&String, PortVlans)> = others.map(|port| (&port.name, of(&port.name))).collect();
        let meets = |vlans: &PortVlans| {
            named.is_empty() || named.iter().any(|(_, other)| other.0.keys().any(|v| vlans.0.contains_key(v)))
        };
        let list = |ports: &[(&String, PortVlans)]| {
            let each: Vec<String> = ports.iter().map(|(port, vlans)| format!("{port} ({vlans})")).collect();
            each.join(", ")
        };
        for port in others.iter().filter(|(_, vlans)| !meets(vlans)) {
            self.warn(
                LintCode::VlanApart,
                WarningMessage::new(format!(
                    "bridge {}: {} has no VLAN in common with {}, so the guest behind it is cut off there",
                    bridge.name,
                    list(std::slice::from_ref(port)),
                    list(&named)
                ))
                .fix("set the VLAN where the guest is defined"),
            );
        }
        let own = of(&bridge.name);
        let ports = || named.iter().chain(&others);
        let heard = own.pvid().is_some_and(|vid| ports().any(|(_, vlans)| vlans.0.contains_key(&vid)));
        if self.carries_ssh() && !heard {
            self.warn(
                LintCode::Lockout,
                format!(
                    "bridge {}: SSH arrives at the bridge itself, whose VLANs are {own}, and no port has the \
                     VLAN of its untagged frames (pvid): {}; set the VLANs of the bridge in `vlans: {{ {}: … \
                     }}`",
                    bridge.name,
                    list(&named),
                    bridge.name
                ),
            );
        }
    }

    pub(super) fn warn(&mut self, code: LintCode, message: impl Into<WarningMessage>) {
        self.plan.warnings.push(Warning::new(code, message, Some(self.bridge.origin.clone())));
    }
}

pub(super) fn is_port(links: &HostLinks, device: &str, bridge: &str) -> bool {
    links.by_name.get(device).is_some_and(|link| link.master.as_deref() == Some(bridge))
}

/// What a new port of a bridge has.
pub(super) fn fresh(links: &HostLinks, bridge: &str) -> PortVlans {
    let default = links.by_name.get(bridge).and_then(|link| link.number("vlan_default_pvid"));
    PortVlans::fresh(default.and_then(|vid| u16::try_from(vid).ok()).unwrap_or(1))
}

/// The VLANs of a port or of the bridge itself; of what is none yet, those it will have once it is.
pub(super) fn live_or_fresh(links: &HostLinks, device: &str, bridge: &str) -> PortVlans {
    live(links, device).unwrap_or_else(|| fresh(links, bridge))
}

/// The VLANs of a port or a bridge that is there.
fn live(links: &HostLinks, device: &str) -> Option<PortVlans> {
    let there = links.by_name.get(device).is_some_and(|link| link.is_bridge() || link.master.is_some());
    let all = links.vlans.as_ref().filter(|_| there)?;
    Some(all.get(device).cloned().unwrap_or_default())
}

fn union(one: &PortVlans, other: &PortVlans) -> PortVlans {
    PortVlans(one.0.iter().chain(&other.0).map(|(vid, flags)| (*vid, *flags)).collect())
}

/// Lines for `bridge -batch` that make `to` of `from`.
pub(super) fn lines(bridge: &str, device: &str, from: &PortVlans, to: &PortVlans) -> Vec<String> {
    let new = to.0.iter().filter(|(vid, flags)| from.0.get(vid) != Some(*flags));
    let new = PortVlans(new.map(|(vid, flags)| (*vid, *flags)).collect());
    let add = |(first, last, flags): (u16, u16, VlanFlags)| {
        format!("vlan add dev {device} vid {}{flags}{}", vlan_range(first, last), own(bridge, device))
    };
    let mut lines: Vec<String> = new.ranges().into_iter().map(add).collect();
    lines.extend(removals(bridge, device, from, to));
    lines
}

/// Lines that take away what `from` has and `to` has not.
fn removals(bridge: &str, device: &str, from: &PortVlans, to: &PortVlans) -> Vec<String> {
    // Alike, so that neighbours go together.
    let gone = from.0.keys().filter(|vid| !to.0.contains_key(vid));
    let gone = PortVlans(gone.map(|vid| (*vid, VlanFlags::default())).collect());
    let del = |(first, last, _)| {
        format!("vlan del dev {device} vid {}{}", vlan_range(first, last), own(bridge, device))
    };
    gone.ranges().into_iter().map(del).collect()
}

/// VLANs of a bridge that are its own, not those of it as a port of something else.
fn own(bridge: &str, device: &str) -> &'static str {
    if bridge == device { " self" } else { "" }
}

/// Links and addresses come first, then new VLANs, then those that go, and a bridge filters only once all
/// of its ports have theirs: in every other order guests or SSH would be cut off in between.
pub(super) fn in_order(lines: &mut [String]) {
    lines.sort_by_key(|line| {
        if line.starts_with("vlan add ") {
            1
        } else if line.starts_with("vlan del ") {
            2
        } else if line.ends_with(" vlan_filtering 1") {
            3
        } else {
            0
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlans(list: &[(u16, bool)]) -> PortVlans {
        PortVlans(list.iter().map(|(vid, own)| (*vid, VlanFlags { pvid: *own, untagged: *own })).collect())
    }

    #[test]
    fn what_comes_is_there_before_what_goes() {
        let (access, trunk) = (vlans(&[(1, true)]), vlans(&[(10, false), (11, false), (20, true)]));
        assert_eq!(
            lines("br0", "eth1", &access, &trunk),
            [
                "vlan add dev eth1 vid 10-11",
                "vlan add dev eth1 vid 20 pvid untagged",
                "vlan del dev eth1 vid 1"
            ]
        );
        let fewer = vlans(&[(20, false)]);
        assert_eq!(
            lines("br0", "br0", &trunk, &fewer),
            ["vlan add dev br0 vid 20 self", "vlan del dev br0 vid 10-11 self"]
        );
        let mut all: Vec<String> = [
            "link set dev br0 type bridge vlan_filtering 1",
            "vlan del dev eth1 vid 1",
            "vlan add dev eth1 vid 10",
            "link set dev eth1 master br0",
            "link set dev br1 type bridge vlan_filtering 0",
            "vlan add dev eth2 vid 10",
        ]
        .map(str::to_owned)
        .into();
        in_order(&mut all);
        assert_eq!(
            all,
            [
                "link set dev eth1 master br0",
                "link set dev br1 type bridge vlan_filtering 0",
                "vlan add dev eth1 vid 10",
                "vlan add dev eth2 vid 10",
                "vlan del dev eth1 vid 1",
                "link set dev br0 type bridge vlan_filtering 1",
            ]
        );
    }
}
