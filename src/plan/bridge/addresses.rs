//! Addresses of a bridge: declared ones, and those taken over from its ports. One that moves stays what it was: its label,
//! metric, lifetimes, flags and place among the others are those that it had on the port.

use super::MovedAddress;
use super::planner::BridgePlanner;
use crate::host_state::{HostLink, ObservedAddress};
use crate::resource::bridge::LinkAddress;
use std::collections::BTreeSet;

impl BridgePlanner<'_> {
    pub(super) fn addresses(&mut self, there: Option<&HostLink>) {
        let name = self.bridge.name.clone();
        let live: BTreeSet<LinkAddress> = there.into_iter().flat_map(addresses).collect();
        let wanted = self.wanted_addresses(there);
        self.routes_left_behind(&wanted);
        self.take(&wanted);
        for (address, _) in &wanted {
            let holds = live.contains(address);
            let tail =
                self.owned.taken.get(address).map_or_else(|| tail(address), |taken| taken.here.clone());
            for line in lines("add", address, &name, &tail) {
                self.step(line, holds);
            }
            if holds {
                self.old.push(format!("address {address}"));
            } else {
                self.back.insert(0, format!("addr del {address} dev {name}"));
            }
            let label = if holds { String::new() } else { self.label_here(address) };
            self.wanted(format!("address {address}{label}"));
        }
        for (address, from) in wanted.iter().filter(|(address, _)| !live.contains(address)) {
            self.owned.addresses.insert(*address, from.clone());
        }
        self.routes_of_ports();
        if !self.bridge.take_addresses && wanted.iter().all(|(_, from)| from.is_none()) {
            self.owned.routes.clear();
            self.owned.routes_there.clear();
        }
        self.plan.boot.extend(self.owned.routes.iter().cloned());
        let gone: Vec<LinkAddress> =
            self.owned.addresses.keys().filter(|a| !wanted.iter().any(|(w, _)| w == *a)).copied().collect();
        self.give_back(&gone, there, &live);
    }

    /// Addresses leave their ports, the last one first: a secondary address would go with its primary one, and then
    /// there would be nothing to take away.
    fn take(&mut self, wanted: &[(LinkAddress, Option<String>)]) {
        for (place, (address, from)) in wanted.iter().enumerate() {
            let Some(port) = from else { continue };
            let carried = self.links.by_name.get(port).and_then(|link| find(link, address));
            if let Some(carried) = carried {
                self.back.extend(lines("replace", address, port, &attributes(carried, port)));
                let taken = self.taken(carried, port, place);
                self.owned.taken.insert(*address, taken);
            }
        }
        for (address, from) in wanted.iter().rev() {
            let Some(port) = from else { continue };
            let on_port = self.links.by_name.get(port).is_some_and(|link| find(link, address).is_some());
            self.step(format!("addr del {address} dev {port}"), !on_port);
        }
    }

    fn taken(&self, carried: &ObservedAddress, port: &str, place: usize) -> MovedAddress {
        let bridge = &self.bridge.name;
        // A label begins with the name of its link, and has 15 characters at most.
        let label = carried.own_label(port).map(|label| match label.strip_prefix(port) {
            Some(rest) => format!("{bridge}{rest}"),
            None => label.to_owned(),
        });
        let label = label.filter(|label| label.len() <= 15);
        // One of NetworkManager's has a route that NetworkManager made, which is the kernel's on the bridge.
        let of_address = self.links.routes.iter().any(|route| {
            route.of_address && route.by(port) && route.dst.contains(':') == (carried.family == "inet6")
        });
        let carried_here =
            ObservedAddress { noprefixroute: carried.noprefixroute && !of_address, ..carried.clone() };
        MovedAddress {
            place,
            here: carried_here.attributes(label.as_deref()),
            there: attributes(carried, port),
        }
    }

    /// How the plan shows the label of an address that had another one on its port.
    fn label_here(&self, address: &LinkAddress) -> String {
        let Some(taken) = self.owned.taken.get(address) else { return String::new() };
        let label = |text: &str| {
            text.split_once(" label ").map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned())
        };
        match (label(&taken.here), label(&taken.there)) {
            (here, there) if here == there => String::new(),
            (Some(here), Some(there)) => format!("   (label {here}, which was {there})"),
            (_, there) => format!(
                "   (without its label {}, which is too long for a bridge of this name)",
                there.unwrap_or_default()
            ),
        }
    }

    /// What we added and is wanted no more goes, or goes back to its port, as it was there.
    fn give_back(&mut self, gone: &[LinkAddress], there: Option<&HostLink>, live: &BTreeSet<LinkAddress>) {
        let name = self.bridge.name.clone();
        let mut gone: Vec<(LinkAddress, Option<String>, Option<MovedAddress>)> = gone
            .iter()
            .map(|address| {
                let from = self.owned.addresses.remove(address).flatten();
                (*address, from, self.owned.taken.remove(address))
            })
            .filter(|(address, ..)| live.contains(address))
            .collect();
        gone.sort_by_key(|(_, _, taken)| taken.as_ref().map(|taken| taken.place));
        for (address, ..) in gone.iter().rev() {
            self.plan.forward.push(format!("addr del {address} dev {name}"));
            self.old.push(format!("address {address}"));
        }
        for (address, from, taken) in &gone {
            if let Some(port) = from {
                let tail = taken.as_ref().map_or_else(|| tail(address), |taken| taken.there.clone());
                self.plan.forward.extend(lines("replace", address, port, &tail));
            }
            self.back.extend(restore_address(there, address, &name));
        }
    }

    /// The addresses that the bridge is to have, with the port they are or were taken from, in the order in which they
    /// are made. The first of a network is the one that the host sends from.
    pub(super) fn wanted_addresses(&self, there: Option<&HostLink>) -> Vec<(LinkAddress, Option<String>)> {
        let mut wanted: Vec<(LinkAddress, Option<String>)> =
            self.bridge.addresses.iter().map(|a| (*a, self.carrier(a))).collect();
        if self.bridge.take_addresses {
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
        }
        let made = |link: Option<&HostLink>, address: &LinkAddress| {
            let all: Vec<LinkAddress> = link.into_iter().flat_map(addresses).collect();
            let at = all.iter().position(|a| a == address)?;
            // The latest address of IPv6 is shown first.
            Some(if address.is_ipv6() { all.len() - at } else { at })
        };
        let mut order: Vec<_> = wanted.into_iter().enumerate().collect();
        order.sort_by_key(|(stated, (address, from))| {
            let port = from.as_ref().and_then(|port| self.links.by_name.get(port));
            match (made(there, address), made(port, address)) {
                (Some(at), _) => (0, at),
                (None, Some(at)) => (1, at),
                (None, None) => (2, *stated),
            }
        });
        order.into_iter().map(|(_, one)| one).collect()
    }

    /// The named port that carries an address now, or did before we took it: at boot it may have it again.
    fn carrier(&self, address: &LinkAddress) -> Option<String> {
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
pub(super) fn tail(address: &LinkAddress) -> String {
    match address.is_ipv6() {
        true => " nodad".to_owned(),
        // A network of one or two has no address to spare for it.
        false if address.prefix() > 30 => String::new(),
        false => " brd +".to_owned(),
    }
}

/// The lines that make an address with these attributes. One of IPv6 is there at once, and forgets afterwards that
/// nobody was asked for it.
pub(super) fn lines(verb: &str, address: &LinkAddress, device: &str, attributes: &str) -> Vec<String> {
    let asks = address.is_ipv6() && !attributes.contains(" nodad");
    let nodad = if asks { " nodad" } else { "" };
    let mut lines = vec![format!("addr {verb} {address} dev {device}{nodad}{attributes}")];
    if asks {
        lines.push(format!("addr change {address} dev {device}{attributes}"));
    }
    // The kernel makes the route to an IPv6 peer a moment later, and routes by the peer follow right now.
    if address.is_ipv6() && address.peer().is_some() && !attributes.contains(" noprefixroute") {
        let metric = attributes
            .split_once(" metric ")
            .map_or("256", |(_, rest)| rest.split(' ').next().unwrap_or("256"));
        lines.push(format!("route replace {} dev {device} proto kernel metric {metric}", address.network()));
    }
    lines
}

/// What an address has on its link.
fn attributes(address: &ObservedAddress, link: &str) -> String {
    address.attributes(address.own_label(link))
}

fn find<'a>(link: &'a HostLink, address: &LinkAddress) -> Option<&'a ObservedAddress> {
    link.addresses.iter().find(|a| a.identity().as_ref() == Some(address))
}

/// The lines that put an address back as it is on a link now.
pub(super) fn restore_address(link: Option<&HostLink>, address: &LinkAddress, device: &str) -> Vec<String> {
    let live = link.and_then(|link| find(link, address));
    lines("replace", address, device, &live.map_or_else(|| tail(address), |live| attributes(live, device)))
}

/// Addresses that are somebody's: not link-local ones and not those that come by themselves.
pub(super) fn addresses(link: &HostLink) -> impl Iterator<Item = LinkAddress> + '_ {
    let link_local =
        |a: &ObservedAddress| a.scope == "link" && (a.family == "inet6" || a.local.starts_with("169.254."));
    let somebodys = move |a: &&ObservedAddress| !link_local(a) && !a.dynamic && !a.temporary;
    link.addresses.iter().filter(somebodys).filter_map(ObservedAddress::identity)
}
