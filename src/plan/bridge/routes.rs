//! Routes that move with an address, and default gateways.

use super::addresses::addresses;
use super::boot::GatewayAtBoot;
use super::planner::BridgePlanner;
use crate::host_state::{HostLink, LinkManager};
use crate::resource::bridge::LinkAddress;
use std::net::IpAddr;

impl BridgePlanner<'_> {
    /// Routes of IPv6 that NetworkManager made for the addresses of a port: they would outlive those, and
    /// beat the bridge's. (Those of IPv4 go with their address.)
    pub(super) fn routes_left_behind(&mut self, wanted: &[(LinkAddress, Option<String>)]) {
        let links = self.links;
        let loses = |port: &String| wanted.iter().any(|(a, from)| from.as_ref() == Some(port) && a.is_ipv6());
        for port in self.bridge.ports.iter().filter(|port| loses(port)) {
            let carries = links.by_name.get(port).is_some_and(|link| addresses(link).any(|a| a.is_ipv6()));
            let left = links.routes.iter().filter(|r| {
                carries && r.of_address && r.by(port) && r.dst.contains(':') && !r.dst.starts_with("fe80:")
            });
            let lines = left.map(|route| route.line(|dev| dev).replacen("route replace", "route del", 1));
            self.plan.forward.extend(lines);
        }
    }

    /// Routes by a port that loses its addresses become routes by the bridge, and so do next hops and neighbours that
    /// somebody wrote down. Routes that send from such an address go with it, whatever link they are by.
    pub(super) fn routes_of_ports(&mut self) {
        let (links, bridge) = (self.links, self.bridge);
        let loses = |dev: &str| {
            bridge.ports.iter().any(|p| p == dev)
                && (bridge.take_addresses
                    || links.by_name.get(dev).is_some_and(|l| addresses(l).next().is_some()))
        };
        let to = |dev| if loses(dev) { bridge.name.as_str() } else { dev };
        for hop in links.next_hops.iter().filter(|hop| loses(&hop.dev)) {
            self.moves(hop.line(&bridge.name), hop.line(&hop.dev));
        }
        let carried: Vec<String> = bridge
            .ports
            .iter()
            .filter(|port| loses(port))
            .filter_map(|port| links.by_name.get(port))
            .flat_map(|link| addresses(link).map(|address| address.local().to_string()))
            .collect();
        for route in links.routes.iter().filter(|r| !r.of_address) {
            let moves = route.next_hop.is_none() && route.hops.iter().any(|hop| loses(&hop.dev));
            let sends = route.source().is_some_and(|source| carried.iter().any(|address| address == source));
            if moves || sends {
                self.moves(route.line(to), route.line(|dev| dev));
            }
        }
        for neighbour in links.neighbours.iter().filter(|n| loses(&n.dev)) {
            // It stays at the port as well, where the kernel may forget it with the last address: `ip -batch` would end
            // at a neighbour that is not there.
            let (line, before) = (neighbour.line(&bridge.name), neighbour.line(&neighbour.dev));
            if !links
                .neighbours
                .iter()
                .any(|other| other.dev == bridge.name && other.line(&bridge.name) == line)
            {
                self.moves(line, before);
            }
        }
        for hop in links.next_hops.iter().filter(|hop| loses(&hop.dev)) {
            // Before the bridge loses its carrier, see NextHop::onlink_line.
            self.back.insert(0, hop.onlink_line(&hop.dev));
            self.back.push(hop.line(&hop.dev));
        }
    }

    /// Has a line done, now and at boot, in place of the one that made it so before.
    fn moves(&mut self, line: String, before: String) {
        self.plan.forward.push(line.clone());
        if !self.owned.routes.contains(&line) {
            // Those of a record without them stay without.
            if self.owned.routes_there.len() == self.owned.routes.len() {
                self.owned.routes_there.push(before);
            }
            self.owned.routes.push(line);
        }
    }

    /// Routes by the bridge and its ports as they are, for the way back.
    pub(super) fn routes_back(&mut self) {
        let bridge = self.bridge;
        let devices = || std::iter::once(&bridge.name).chain(&bridge.ports);
        let routes = self.links.routes.iter().filter(|route| devices().any(|dev| route.by(dev)));
        self.back.extend(routes.map(|route| route.line(|dev| dev)));
    }

    /// The gateways that a boot has to make: declared ones, else the defaults that moved with an address.
    pub(super) fn gateways_at_boot(&self, wanted: &[(LinkAddress, Option<String>)]) -> Vec<GatewayAtBoot> {
        let declared = &self.bridge.gateways;
        let ours = declared.iter().filter(|g| self.owned.created || self.owned.gateways.contains(*g));
        let mut gateways: Vec<GatewayAtBoot> =
            ours.map(|g| GatewayAtBoot { address: *g, onlink: self.is_onlink(g, wanted) }).collect();
        for route in &self.owned.routes {
            if !route.starts_with("route replace ") {
                continue;
            }
            let mut words = route.split(' ').skip(2);
            let to = words.next().unwrap_or_default();
            let via = words.nth(1).and_then(|word| word.parse::<IpAddr>().ok());
            let (Some(via), true) = (via, matches!(to, "default" | "::/0")) else { continue };
            let stated = declared.iter().chain(gateways.iter().map(|g| &g.address));
            if !stated.into_iter().any(|g| g.is_ipv6() == via.is_ipv6()) && !route.contains(" table ") {
                let onlink = route.ends_with(" onlink") || route.contains(" onlink ");
                gateways.push(GatewayAtBoot { address: via, onlink });
            }
        }
        gateways
    }

    /// What a default route gets beside its gateway: networkd marks its own so, and makes a second one
    /// beside one that is not.
    fn protocol(&self) -> &'static str {
        let mut links = std::iter::once(&self.bridge.name).chain(&self.bridge.ports);
        let owner = links.find_map(|l| self.observed.network.owner(self.links.by_name.get(l)?));
        if owner.is_some_and(|owner| owner.manager == LinkManager::Networkd) { " proto static" } else { "" }
    }

    /// Whether no address of the bridge has this gateway in its network: then it is on the link because we say so.
    fn is_onlink(&self, gateway: &IpAddr, wanted: &[(LinkAddress, Option<String>)]) -> bool {
        let link_local = matches!(gateway, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let live = self.links.by_name.get(&self.bridge.name).into_iter().flat_map(addresses);
        let mut all = wanted.iter().map(|(address, _)| *address).chain(live);
        !link_local && !all.any(|address| address.network().contains(gateway))
    }

    pub(super) fn gateways(&mut self, there: Option<&HostLink>) {
        let name = self.bridge.name.clone();
        let links = self.links;
        let protocol = self.protocol();
        let wanted = self.wanted_addresses(there);
        for gateway in &self.bridge.gateways {
            let text = gateway.to_string();
            let family = |dst: &str| (dst == "::/0") == gateway.is_ipv6();
            let defaults = || links.routes.iter().filter(|r| r.is_default() && family(&r.dst));
            let holds =
                defaults().any(|r| r.hops.iter().any(|h| h.via.as_deref() == Some(&text) && h.dev == name));
            let onlink = if self.is_onlink(gateway, &wanted) { " onlink" } else { "" };
            self.step(format!("route replace default via {gateway} dev {name}{onlink}{protocol}"), holds);
            if holds {
                self.old.push(format!("gateway {gateway}"));
            } else {
                if self.owned.gateways.insert(*gateway) {
                    // One of another metric stays beside it.
                    let usual = if gateway.is_ipv6() { "1024" } else { "0" };
                    let pushed = defaults().filter(|r| r.metric().unwrap_or(usual) == usual);
                    let pushed =
                        pushed.filter(|r| !r.by(&name) && !self.bridge.ports.iter().any(|port| r.by(port)));
                    self.owned.displaced.extend(pushed.map(|r| r.line(|dev| dev)));
                }
                self.back.insert(0, format!("route del default via {gateway} dev {name}"));
                // What `replace` pushes out comes back with the way back.
                self.back.extend(defaults().map(|r| r.line(|dev| dev)));
            }
            let said = if holds || onlink.is_empty() {
                ""
            } else {
                "   (on the link, in the network of no address)"
            };
            self.wanted(format!("gateway {gateway}{said}"));
        }
        let gone: Vec<IpAddr> =
            self.owned.gateways.iter().filter(|g| !self.bridge.gateways.contains(g)).copied().collect();
        for gateway in gone {
            self.owned.gateways.remove(&gateway);
            self.plan.forward.push(format!("route del default via {gateway} dev {name}"));
            let onlink = if self.is_onlink(&gateway, &wanted) { " onlink" } else { "" };
            self.back.push(format!("route replace default via {gateway} dev {name}{onlink}"));
            self.old.push(format!("gateway {gateway}"));
            self.plan.forward.extend(displaced_by(&mut self.owned.displaced, &gateway));
        }
    }
}

/// The default routes of a gateway's family that it took the place of.
pub(super) fn displaced_by(displaced: &mut Vec<String>, gateway: &IpAddr) -> Vec<String> {
    let (mine, rest) = displaced.drain(..).partition(|line| line.contains(" ::/0 ") == gateway.is_ipv6());
    *displaced = rest;
    mine
}
