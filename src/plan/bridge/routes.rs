//! Routes that move with an address, and default gateways.

use super::addresses::addresses;
use super::declared::Work;
use crate::observe::Manager;
use std::net::IpAddr;

impl Work<'_> {
    /// Routes of IPv6 that NetworkManager made for the addresses of a port: they would outlive those, and
    /// beat the bridge's. (Those of IPv4 go with their address.)
    pub(super) fn routes_left_behind(&mut self) {
        let links = self.links;
        let wanted = self.wanted_addresses();
        let loses =
            |port: &String| wanted.iter().any(|(a, from)| from.as_ref() == Some(port) && a.addr().is_ipv6());
        for port in self.bridge.ports.iter().filter(|port| loses(port)) {
            let carries =
                links.by_name.get(port).is_some_and(|link| addresses(link).any(|a| a.addr().is_ipv6()));
            let left = links.routes.iter().filter(|r| {
                carries && r.of_address && r.by(port) && r.dst.contains(':') && !r.dst.starts_with("fe80:")
            });
            let lines = left.map(|route| route.line(|dev| dev).replacen("route replace", "route del", 1));
            self.plan.forward.extend(lines);
        }
    }

    /// Routes by a port that loses its addresses become routes by the bridge.
    pub(super) fn routes_of_ports(&mut self) {
        let (links, bridge) = (self.links, self.bridge);
        let loses = |dev: &str| {
            bridge.ports.iter().any(|p| p == dev)
                && (bridge.take_addresses
                    || links.by_name.get(dev).is_some_and(|l| addresses(l).next().is_some()))
        };
        for route in links.routes.iter().filter(|r| !r.of_address && r.hops.iter().any(|hop| loses(&hop.dev)))
        {
            let line = route.line(|dev| if loses(dev) { &bridge.name } else { dev });
            self.plan.forward.push(line.clone());
            if !self.owned.routes.contains(&line) {
                self.owned.routes.push(line);
            }
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
    pub(super) fn gateways_at_boot(&self) -> Vec<IpAddr> {
        let declared = &self.bridge.gateways;
        let ours = declared.iter().filter(|g| self.owned.created || self.owned.gateways.contains(*g));
        let mut gateways: Vec<IpAddr> = ours.copied().collect();
        for route in &self.owned.routes {
            let mut words = route.split(' ').skip(2);
            let to = words.next().unwrap_or_default();
            let via = words.nth(1).and_then(|word| word.parse::<IpAddr>().ok());
            let (Some(via), true) = (via, matches!(to, "default" | "::/0")) else { continue };
            if !declared.iter().chain(&gateways).any(|g| g.is_ipv6() == via.is_ipv6())
                && !route.contains(" table ")
            {
                gateways.push(via);
            }
        }
        gateways
    }

    /// What a default route gets beside its gateway: networkd marks its own so, and makes a second one
    /// beside one that is not.
    fn protocol(&self) -> &'static str {
        let mut links = std::iter::once(&self.bridge.name).chain(&self.bridge.ports);
        let owner = links.find_map(|l| self.observed.network.owner(self.links.by_name.get(l)?));
        if owner.is_some_and(|owner| owner.manager == Manager::Networkd) { " proto static" } else { "" }
    }

    pub(super) fn gateways(&mut self) {
        let name = self.bridge.name.clone();
        let links = self.links;
        let protocol = self.protocol();
        for gateway in &self.bridge.gateways {
            let text = gateway.to_string();
            let family = |dst: &str| (dst == "::/0") == gateway.is_ipv6();
            let defaults = || links.routes.iter().filter(|r| r.is_default() && family(&r.dst));
            let holds =
                defaults().any(|r| r.hops.iter().any(|h| h.via.as_deref() == Some(&text) && h.dev == name));
            self.step(format!("route replace default via {gateway} dev {name}{protocol}"), holds);
            if holds {
                self.old.push(format!("gateway {gateway}"));
            } else {
                self.owned.gateways.insert(*gateway);
                self.back.insert(0, format!("route del default via {gateway} dev {name}"));
                // What `replace` pushes out comes back with the way back.
                self.back.extend(defaults().map(|r| r.line(|dev| dev)));
            }
            self.wanted(format!("gateway {gateway}"));
        }
        let gone: Vec<IpAddr> =
            self.owned.gateways.iter().filter(|g| !self.bridge.gateways.contains(g)).copied().collect();
        for gateway in gone {
            self.owned.gateways.remove(&gateway);
            self.plan.forward.push(format!("route del default via {gateway} dev {name}"));
            self.back.push(format!("route replace default via {gateway} dev {name}"));
            self.old.push(format!("gateway {gateway}"));
        }
    }
}
