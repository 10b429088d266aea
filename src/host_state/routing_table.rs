//! All routes of a host, also those that the kernel made and those that lead nowhere: what a lookup asks.

use ipnet::IpNet;
use std::net::IpAddr;

/// What becomes of a packet that a route is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// It goes on by a device.
    Unicast,
    /// It is for the host.
    Local,
    /// It is for all of a network, the host among them.
    Broadcast,
    /// It is for a group.
    Multicast,
    /// It is dropped: `blackhole`, `unreachable`, `prohibit`.
    Refused(DropKind),
    /// The lookup goes on with the next policy rule.
    Throw,
    /// Not modelled.
    Other,
}

/// A route that drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropKind {
    /// In silence.
    Blackhole,
    /// With an ICMP error.
    Unreachable,
    /// With an ICMP error of another code.
    Prohibit,
}

impl DropKind {
    /// As `ip route` writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            DropKind::Blackhole => "blackhole",
            DropKind::Unreachable => "unreachable",
            DropKind::Prohibit => "prohibit",
        }
    }
}

/// One route of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRoute {
    /// What it does.
    pub kind: RouteKind,
    /// The destinations.
    pub dst: IpNet,
    /// The sources, where it asks for them.
    pub src: Option<IpNet>,
    /// The table, as `ip` calls it.
    pub table: String,
    /// The metric; the lowest is chosen.
    pub metric: u32,
    /// It asks for a type of service.
    pub tos: bool,
    /// The devices of its hops.
    pub devices: Vec<String>,
    /// As it was printed, for people.
    pub text: String,
}

impl TableRoute {
    /// Reads one line of `ip -o route show table all`. `None`: it is something else.
    pub fn parse(line: &str, v6: bool) -> Option<Self> {
        let words: Vec<&str> = line.split(['\\', ' ', '\t']).filter(|word| !word.is_empty()).collect();
        let mut at = 0;
        let first = *words.first()?;
        let kind = match first {
            "local" => RouteKind::Local,
            "broadcast" => RouteKind::Broadcast,
            "multicast" => RouteKind::Multicast,
            "blackhole" => RouteKind::Refused(DropKind::Blackhole),
            "unreachable" => RouteKind::Refused(DropKind::Unreachable),
            "prohibit" => RouteKind::Refused(DropKind::Prohibit),
            "throw" => RouteKind::Throw,
            "unicast" => RouteKind::Unicast,
            "anycast" => RouteKind::Local,
            "nat" | "xresolve" | "cache" => RouteKind::Other,
            _ => {
                at = 1;
                RouteKind::Unicast
            }
        };
        let dst = network(words.get(1 - at)?, v6)?;
        let mut route = Self {
            kind,
            dst,
            src: None,
            table: "main".to_owned(),
            metric: 0,
            tos: false,
            devices: Vec::new(),
            text: words.join(" "),
        };
        let mut rest = words.iter().skip(2 - at);
        while let Some(word) = rest.next() {
            match *word {
                "dev" => route.devices.extend(rest.next().map(|device| (*device).to_owned())),
                "table" => (*rest.next()?).clone_into(&mut route.table),
                "metric" => route.metric = rest.next()?.parse().ok()?,
                "from" => route.src = network(rest.next()?, v6),
                "tos" | "dsfield" => {
                    rest.next();
                    route.tos = true;
                }
                _ => {}
            }
        }
        Some(route)
    }
}

/// A destination, as `ip` prints it.
fn network(text: &str, v6: bool) -> Option<IpNet> {
    match text {
        "default" | "all" if v6 => "::/0".parse().ok(),
        "default" | "all" => "0.0.0.0/0".parse().ok(),
        text => text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_every_kind() {
        for (line, v6, kind, dst, table, device) in [
            ("default via 10.0.0.1 dev a proto static", false, RouteKind::Unicast, "0.0.0.0/0", "main", "a"),
            (
                "local 10.0.0.2 dev a table local scope host",
                false,
                RouteKind::Local,
                "10.0.0.2/32",
                "local",
                "a",
            ),
            (
                "blackhole 192.0.2.0/24 ",
                false,
                RouteKind::Refused(DropKind::Blackhole),
                "192.0.2.0/24",
                "main",
                "",
            ),
            (
                "unreachable default dev lo metric 4294967295 error -101",
                true,
                RouteKind::Refused(DropKind::Unreachable),
                "::/0",
                "main",
                "lo",
            ),
            ("throw 10.0.0.0/8 table 77", false, RouteKind::Throw, "10.0.0.0/8", "77", ""),
            (
                "10.1.0.0/16 metric 5 \\\tnexthop via 10.0.0.1 dev a weight 1 ",
                false,
                RouteKind::Unicast,
                "10.1.0.0/16",
                "main",
                "a",
            ),
        ] {
            let route = TableRoute::parse(line, v6).unwrap();
            let told = (route.kind, route.dst.to_string(), route.table.as_str());
            assert_eq!(told, (kind, dst.to_owned(), table), "{line}");
            assert_eq!(route.devices.first().map_or("", String::as_str), device, "{line}");
        }
        assert_eq!(TableRoute::parse("0:\tfrom all lookup local", false), None);
    }
}
