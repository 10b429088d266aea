//! A bridge that is declared: from what is there to what is stated, and the way back.

use super::boot::{self, AddressAtBoot, BootContext};
use super::port_moves::PortMoves;
use super::{BridgeOwnership, BridgePlan, RefusalCause, unmanaged};
use crate::host_state::{HostLink, HostLinks, Observed};
use crate::plan::diff::DesiredLine;
use crate::plan::fingerprint::digest;
use crate::plan::{Change, ChangeAction, ChangeRisk, Diff, DiffLine};
use crate::problem::Origin;
use crate::resource::ResourceKind;
use crate::resource::bridge::DeclaredBridge;

/// The work on one bridge while it is being planned.
pub(super) struct BridgePlanner<'a> {
    pub bridge: &'a DeclaredBridge,
    /// The host's name in the inventory.
    pub host: &'a str,
    pub links: &'a HostLinks,
    pub observed: &'a Observed,
    pub port_moves: &'a PortMoves<'a>,
    pub plan: &'a mut BridgePlan,
    pub owned: BridgeOwnership,
    /// What the diff shows as it is, and as it will be.
    pub old: Vec<String>,
    pub new: Vec<DesiredLine>,
    /// The way back, if there is a way forward.
    pub back: Vec<String>,
}

pub(super) fn plan(
    bridge: &DeclaredBridge,
    host: &str,
    owned: BridgeOwnership,
    observed: &Observed,
    port_moves: &PortMoves<'_>,
    plan: &mut BridgePlan,
) -> Result<(), RefusalCause> {
    let (old, new, back) = Default::default();
    BridgePlanner { bridge, host, links: &observed.links, observed, port_moves, plan, owned, old, new, back }
        .all()
}

impl BridgePlanner<'_> {
    fn all(mut self) -> Result<(), RefusalCause> {
        let name = &self.bridge.name;
        let there = self.links.by_name.get(name);
        if there.is_some_and(|l| !l.is_bridge()) {
            return Err(("unmanaged-owner", format!("{name} exists and is not a bridge")));
        }
        if !self.owned.created {
            unmanaged::check(name, self.observed)?;
        }
        self.check_ports()?;
        self.check_mtu(there)?;
        let (before, boot_before) = (self.plan.forward.len(), self.plan.boot.len());
        match there {
            None => self.create(),
            // It is there now and is not after a boot: every generation makes it anew.
            Some(link) if self.owned.created => self.create_at_boot(link),
            Some(_) => {}
        }
        self.attributes(there)?;
        self.step(format!("link set dev {name} up"), there.is_some_and(HostLink::is_up));
        self.rules_by_port();
        self.vlans(there)?;
        self.ports();
        self.port_attributes();
        self.addresses(there);
        self.gateways(there);
        if there.is_none() {
            self.back.push(format!("link del dev {name}"));
            self.owned.created = true;
        }
        self.routes_back();
        let mut changes = self.plan.forward.len() > before;
        changes |= self.files(there)?;
        changes |= self.boots_otherwise(boot_before);
        self.plan.owned.insert(name.clone(), self.owned.clone());
        if changes {
            self.change(there);
        }
        Ok(())
    }

    /// The files that make it so at boot; whether they are others than before.
    fn files(&mut self, there: Option<&HostLink>) -> Result<bool, RefusalCause> {
        let (bridge, created) = (self.bridge, self.owned.created);
        let before = std::mem::take(&mut self.owned.files);
        let port = bridge.ports.first().and_then(|p| self.links.by_name.get(p));
        let mac = bridge.mac.clone().or_else(|| there.or(port).and_then(|l| l.mac.clone()));
        let wanted = self.wanted_addresses(there);
        let gateways = self.gateways_at_boot(&wanted);
        let moved_from = wanted.iter().filter_map(|(_, from)| from.clone()).collect();
        let at_boot = BootContext {
            bridge,
            created,
            mac,
            ports: bridge.ports.iter().filter(|p| created || self.owned.ports.contains(*p)).collect(),
            addresses: wanted
                .into_iter()
                .map(|(a, _)| a)
                .filter(|a| created || self.owned.addresses.contains_key(a))
                .map(|address| AddressAtBoot::from_address(address, self.owned.taken.get(&address)))
                .collect(),
            gateways,
            vlans: bridge.vlans_by_port(),
            moved_from,
            files_before: &before,
        };
        let kept = boot::keep(&at_boot, self.observed)?;
        self.old.extend(before.keys().map(|path| format!("file {path}")));
        for (path, text) in &kept.files {
            let rewritten = before.get(path).is_some_and(|old| old != text);
            self.wanted(format!("file {path}{}", if rewritten { "   (rewritten)" } else { "" }));
        }
        let changes = before != kept.files;
        self.plan.files.extend(kept.files.clone());
        self.plan.window.extend(kept.window);
        self.plan.warnings.extend(kept.warning);
        self.owned.files = kept.files;
        Ok(changes)
    }

    /// Notes what our unit does at boot; whether that is not what it does so far.
    fn boots_otherwise(&mut self, from: usize) -> bool {
        let boot: Vec<String> = self.plan.boot.get(from..).unwrap_or_default().to_vec();
        let mut before = std::mem::replace(&mut self.owned.boot, boot);
        let mut after = self.owned.boot.clone();
        // Their order follows that of what is live, which others may change.
        before.sort();
        after.sort();
        !before.is_empty() && before != after
    }

    /// What the plan shows of it.
    fn change(self, there: Option<&HostLink>) {
        let bridge = self.bridge;
        let mut diff = Diff::compute(&self.old, &self.new);
        if diff.is_empty() {
            let origin = Some(bridge.origin.clone());
            diff.push(DiffLine { sign: '+', text: "as declared, and at boot".to_owned(), origin });
        }
        let mut risks = Vec::new();
        if self.carries_ssh() {
            risks.push(ChangeRisk::ManagementPath);
        }
        if there.is_some() && (bridge.mac.is_some() || bridge.mtu.is_some()) {
            // A pinned MAC and a set MTU stay set: the bridge follows its ports no more.
            risks.push(ChangeRisk::OneWay);
        }
        self.plan.back.extend(self.back);
        self.plan.devices.insert(bridge.name.clone());
        self.plan.devices.extend(bridge.ports.iter().cloned());
        self.plan.changes.push(Change {
            kind: ResourceKind::Bridge,
            resource: bridge.name.clone(),
            action: if there.is_none() { ChangeAction::Add } else { ChangeAction::Change },
            diff,
            origin: vec![bridge.origin.clone()],
            risks,
        });
    }

    /// A line for the way forward unless it is so already; and always one for the boot.
    pub(super) fn step(&mut self, line: String, holds: bool) {
        if !holds {
            self.plan.forward.push(line.clone());
        }
        self.plan.boot.push(line);
    }

    /// A line of the diff that is wanted, with its origin.
    pub(super) fn wanted(&mut self, text: String) {
        let origin: Origin = self.bridge.origin.clone();
        self.new.push((text, Some(origin)));
    }

    fn create_at_boot(&mut self, link: &HostLink) {
        let of_port = if self.bridge.ports.is_empty() { self.pinned() } else { link.mac.clone() };
        let lines = self.made(of_port);
        self.plan.boot.extend(lines);
    }

    fn create(&mut self) {
        // A bridge without a MAC of its own takes the lowest of its ports, and changes it with them.
        let of_port = self.bridge.ports.first().and_then(|p| self.links.by_name.get(p)?.mac.clone());
        let mac = of_port.or_else(|| self.bridge.ports.is_empty().then(|| self.derived_mac()));
        if let (true, None, Some(mac)) = (self.bridge.ports.is_empty(), &self.bridge.mac, &mac) {
            self.wanted(format!(
                "mac {mac}   (fixed: without ports the MAC would be that of a guest and \
                change with the guests)"
            ));
        }
        for line in self.made(mac) {
            self.step(line, false);
        }
    }

    /// The lines that make the bridge. It has its MAC from the first moment: udev gives one to every bridge
    /// that has none, whenever it comes to it.
    fn made(&self, mac: Option<String>) -> Vec<String> {
        let (name, declared) = (&self.bridge.name, &self.bridge.mac);
        let own = declared.clone().or_else(|| mac.clone());
        let address = own.map_or_else(String::new, |mac| format!(" address {mac}"));
        let mut lines =
            vec![format!("link add name {name}{address} type bridge stp_state 0 forward_delay 0")];
        // Where somebody else made it before us.
        if let (None, Some(mac)) = (declared, mac) {
            lines.push(format!("link set dev {name} address {mac}"));
        }
        lines
    }

    /// The MAC that the bridge was made with.
    pub(super) fn pinned(&self) -> Option<String> {
        let made = self.owned.boot.iter().find_map(|line| line.strip_prefix("link add name "))?;
        let mac = made.split_once(" address ")?.1.split(' ').next()?;
        Some(mac.to_owned())
    }

    /// A MAC for a bridge without ports: always the same for the same bridge of the same host, and of the range that nobody
    /// is given.
    fn derived_mac(&self) -> String {
        let hex = digest([self.host, self.bridge.name.as_str()]);
        let bytes = (0..5).filter_map(|n| hex.get(2 * n..2 * n + 2));
        bytes.fold("02".to_owned(), |mac, byte| format!("{mac}:{byte}"))
    }

    /// Whether the SSH connection ends on this bridge or one of its ports.
    pub(super) fn carries_ssh(&self) -> bool {
        let Some(ssh) = &self.observed.facts.ssh else { return false };
        let devices = std::iter::once(&self.bridge.name).chain(&self.bridge.ports);
        devices
            .filter_map(|d| self.links.by_name.get(d))
            .flat_map(|l| &l.addresses)
            .any(|a| a.local.parse() == Ok(ssh.server))
    }
}
