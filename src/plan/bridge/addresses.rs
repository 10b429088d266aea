//! Addresses of a bridge: declared ones, and those taken over from its ports.

use super::declared::Work;
use crate::observe::Link;
use ipnet::IpNet;
use std::collections::BTreeSet;

impl Work<'_> {
    pub(super) fn addresses(&mut self, there: Option<&Link>) {
        let name = self.bridge.name.clone();
        let live: BTreeSet<IpNet> = there.into_iter().flat_map(addresses).collect();
        let wanted = self.wanted_addresses();
        self.routes_left_behind();
        for (address, from) in &wanted {
            let holds = live.contains(address);
            if let Some(port) = from {
                let link = self.links.by_name.get(port);
                let on_port = link.is_some_and(|l| addresses(l).any(|a| a == *address));
                self.step(format!("addr del {address} dev {port}"), !on_port);
                if on_port {
                    self.back.push(restore_address(link, address, port));
                }
            }
            self.step(format!("addr add {address} dev {name}{}", tail(address)), holds);
            if holds {
                self.old.push(format!("address {address}"));
            } else {
                self.back.insert(0, format!("addr del {address} dev {name}"));
                self.owned.addresses.insert(*address, from.clone());
            }
            self.wanted(format!("address {address}"));
        }
        self.routes_of_ports();
        if !self.bridge.take_addresses && wanted.iter().all(|(_, from)| from.is_none()) {
            self.owned.routes.clear();
        }
        self.plan.boot.extend(self.owned.routes.iter().cloned());
        let gone: Vec<IpNet> =
            self.owned.addresses.keys().filter(|a| !wanted.iter().any(|(w, _)| w == *a)).copied().collect();
        for address in gone {
            let from = self.owned.addresses.remove(&address).flatten();
            if live.contains(&address) {
                self.plan.forward.push(format!("addr del {address} dev {name}"));
                if let Some(port) = from {
                    self.plan.forward.push(format!("addr replace {address} dev {port}{}", tail(&address)));
                }
                self.back.push(restore_address(there, &address, &name));
                self.old.push(format!("address {address}"));
            }
        }
    }

    /// The addresses that the bridge is to have, with the port they are or were taken from.
    pub(super) fn wanted_addresses(&self) -> Vec<(IpNet, Option<String>)> {
        let mut wanted: Vec<(IpNet, Option<String>)> =
            self.bridge.addresses.iter().map(|a| (*a, self.carrier(a))).collect();
        if !self.bridge.take_addresses {
            return wanted;
        }
        for port in &self.bridge.ports {
            for address in self.links.by_name.get(port).into_iter().flat_map(addresses) {
                if !wanted.iter().any(|(a, _)| *a == address) {
                    wanted.push((address, Some(port.clone())));
                }
            }
        }
        // Taken over by an earlier apply: as good as declared for as long as they are taken.
        for (address, from) in &self.owned.addresses {
            if from.is_some() && !wanted.iter().any(|(a, _)| a == address) {
                wanted.push((*address, from.clone()));
            }
        }
        wanted
    }

    /// The named port that carries an address now, or did before we took it: at boot it may have it again.
    fn carrier(&self, address: &IpNet) -> Option<String> {
        let ports = &self.bridge.ports;
        let carries = |port: &&String| {
            self.links.by_name.get(*port).is_some_and(|l| addresses(l).any(|a| a == *address))
        };
        let now = ports.iter().find(carries).cloned();
        let before = || self.owned.addresses.get(address).cloned().flatten().filter(|p| ports.contains(p));
        now.or_else(before)
    }
}

/// What an address of ours gets beside itself: no wait for duplicates, the usual broadcast.
pub(super) fn tail(address: &IpNet) -> &'static str {
    if address.addr().is_ipv6() { " nodad" } else { " brd +" }
}

/// The line that puts an address back as it is on a link now, with the broadcast that it has, or none.
pub(super) fn restore_address(link: Option<&Link>, address: &IpNet, device: &str) -> String {
    let local = address.addr().to_string();
    let mut live = link.into_iter().flat_map(|l| &l.addresses).filter(|a| a.local == local);
    let live = live.find(|a| a.prefix == address.prefix_len());
    let no_route = if live.is_some_and(|a| a.noprefixroute) { " noprefixroute" } else { "" };
    if address.addr().is_ipv6() {
        return format!("addr replace {address} dev {device} nodad{no_route}");
    }
    let broadcast = live.and_then(|a| a.broadcast.as_deref());
    let broadcast = broadcast.map_or_else(String::new, |b| format!(" brd {b}"));
    format!("addr replace {address} dev {device}{broadcast}{no_route}")
}

/// Addresses that are somebody's: not link-local ones and not those that come by themselves.
pub(super) fn addresses(link: &Link) -> impl Iterator<Item = IpNet> + '_ {
    link.addresses
        .iter()
        .filter(|a| a.scope != "link" && !a.dynamic)
        .filter_map(|a| format!("{}/{}", a.local, a.prefix).parse().ok())
}
