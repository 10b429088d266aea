//! Routes, from the words that `ip -o route` prints. Those words are what `ip route` takes, also those
//! that this program knows nothing about: so a route can be moved without losing any of them. (The JSON
//! of `ip` leaves some out, the lock of an mtu for one.)

use super::ObservedAddress;
use ipnet::IpNet;
use std::fmt::Write as _;
use std::net::IpAddr;

/// A route that somebody made: what the kernel makes for an address by itself is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// `local` and the like; a usual route has none.
    pub kind: String,
    /// The network, as `ip` takes it back: the default of IPv6 is `::/0`.
    pub dst: String,
    /// All that is said beside the hops: `proto static`, `metric 50`, `mtu lock 1400`, …
    pub words: Vec<String>,
    /// It stands for the network of an address that makes no route itself (`noprefixroute`), as
    /// NetworkManager has it: elsewhere the address gets one from the kernel.
    pub of_address: bool,
    /// The object that stands for where it goes.
    pub next_hop: Option<String>,
    /// A router announced it, for some time.
    pub expires: bool,
    /// Where it goes; more than one is a multipath route.
    pub hops: Vec<RouteHop>,
}

/// One way that a route goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteHop {
    /// The gateway, `inet6 fe80::1` where it is one of the other family.
    pub via: Option<String>,
    /// The link.
    pub dev: String,
    /// Its share, in a multipath route.
    pub weight: Option<String>,
    /// The gateway is on the link whatever the addresses say.
    pub onlink: bool,
}

/// What the kernel says about the moment; no part of a route.
pub(super) const STATES: [&str; 7] =
    ["linkdown", "dead", "offload", "trap", "pervasive", "rt_offload", "rt_trap"];

impl StaticRoute {
    /// Reads one line of `ip -o route show table all`. `None`: a route of the kernel's own, one of a kind
    /// that goes nowhere, or nothing that looks like a route.
    pub fn parse(line: &str, v6: bool) -> Option<Self> {
        let mut parts = line.split("nexthop ");
        let mut words = parts.next()?.split(['\\', ' ', '\t']).filter(|w| !w.is_empty()).peekable();
        // What is not a network is a kind; routes of others than these go nowhere.
        let kind = words.next_if(|w| ["local", "broadcast", "anycast", "multicast", "unicast"].contains(w));
        let kind = kind.unwrap_or_default().to_owned();
        let dst =
            words.next().filter(|w| *w == "default" || w.contains([':', '.']) || w.parse::<u8>().is_ok())?;
        let dst = if dst == "default" && v6 { "::/0" } else { dst }.to_owned();
        let mut route = Self {
            kind,
            dst,
            words: Vec::new(),
            of_address: false,
            next_hop: None,
            expires: false,
            hops: Vec::new(),
        };
        let mut rest = Vec::new();
        let hop = RouteHop::parse(words, &mut rest);
        route.hops.extend((!hop.dev.is_empty()).then_some(hop));
        let mut ignored = Vec::new();
        route.hops.extend(parts.map(|part| {
            RouteHop::parse(part.split(['\\', ' ', '\t']).filter(|w| !w.is_empty()), &mut ignored)
        }));
        route.words = kept(&rest);
        route.next_hop = rest.windows(2).find(|pair| pair[0] == "nhid").map(|pair| pair[1].to_owned());
        route.expires = rest.contains(&"expires");
        // The kernel gives its own no gateway: ifupdown2 marks its default route `proto kernel`, and nobody makes that
        // one again. In the table `local` older ones name no protocol.
        route.of_address = route.has("proto", "kernel")
            && route.hops.iter().all(|hop| hop.via.is_none())
            && route.next_hop.is_none();
        let kernels = route.has("table", "local")
            && ["kernel", "none", "unspec"].iter().any(|protocol| route.has("proto", protocol));
        (!kernels && !route.hops.is_empty()).then_some(route)
    }

    /// Whether the kernel made it for an address of its link. One that others made for an address that makes none
    /// (`noprefixroute`) stays marked; any other is a route like all.
    pub(super) fn is_of_kernel(&mut self, addresses: &[ObservedAddress]) -> bool {
        if !self.of_address {
            return false;
        }
        let metric = self.metric().map(str::to_owned);
        let metric = metric.as_deref();
        let v6 = self.dst.contains(':');
        let usual = metric.is_none() || v6 && metric == Some("256");
        // Each link has these, and those that routers announce come and go with what they say.
        if v6 && usual && (self.dst.starts_with("fe80:") || self.dst.starts_with("ff00:")) || self.expires {
            return true;
        }
        let dst = self.dst.parse::<IpNet>().or_else(|_| self.dst.parse::<IpAddr>().map(IpNet::from)).ok();
        let mut of = addresses.iter().filter(|a| {
            let network = a.identity().map(|address| address.network());
            // Also the address itself, where its peer has the network.
            let own = a.identity().map(|address| IpNet::from(address.local()));
            dst.is_some() && (network == dst || own == dst)
        });
        let same = |a: &&ObservedAddress| {
            !a.noprefixroute && (usual || a.metric.map(|m| m.to_string()).as_deref() == metric)
        };
        if of.clone().any(|a| same(&a)) {
            return true;
        }
        self.of_address = !usual && of.any(|a| a.noprefixroute);
        false
    }

    /// Whether it has a word with this value.
    fn has(&self, word: &str, value: &str) -> bool {
        self.words.windows(2).any(|pair| pair == [word, value])
    }

    /// Whether it is the default route of the main table.
    pub fn is_default(&self) -> bool {
        matches!(self.dst.as_str(), "default" | "::/0")
            && self.kind.is_empty()
            && !self.words.iter().any(|w| w == "table")
    }

    /// The address that the host sends from by it.
    pub fn source(&self) -> Option<&str> {
        self.value("src")
    }

    /// Its metric, where one is said.
    pub fn metric(&self) -> Option<&str> {
        self.value("metric")
    }

    /// The metric that a line for `ip -batch` says.
    pub fn metric_of(line: &str) -> Option<&str> {
        let mut words = line.split(' ');
        words.find(|word| *word == "metric")?;
        words.next()
    }

    fn value(&self, word: &str) -> Option<&str> {
        self.words.windows(2).find(|pair| pair[0] == word).map(|pair| pair[1].as_str())
    }

    /// Whether it goes by this link.
    pub fn by(&self, dev: &str) -> bool {
        self.hops.iter().any(|hop| hop.dev == dev)
    }

    /// What makes it anew, as a line for `ip -batch`, by the links that `to` has in place of its own.
    pub fn line<'a>(&'a self, to: impl Fn(&'a str) -> &'a str) -> String {
        let mut line = String::from("route replace ");
        if !self.kind.is_empty() {
            let _ = write!(line, "{} ", self.kind);
        }
        line.push_str(&self.dst);
        match (&self.next_hop, &self.hops[..]) {
            (Some(id), _) => drop(write!(line, " nhid {id}")),
            (None, [hop]) => hop.write(&mut line, to(&hop.dev)),
            _ => {}
        }
        for word in &self.words {
            line.push(' ');
            line.push_str(word);
        }
        if self.hops.len() > 1 && self.next_hop.is_none() {
            for hop in &self.hops {
                line.push_str(" nexthop");
                hop.write(&mut line, to(&hop.dev));
            }
        }
        line
    }
}

impl RouteHop {
    /// Takes what belongs to a hop; the rest goes on `rest`.
    fn parse<'a>(mut words: impl Iterator<Item = &'a str>, rest: &mut Vec<&'a str>) -> Self {
        let mut hop = Self::default();
        while let Some(word) = words.next() {
            match word {
                "via" => {
                    let via = words.next().unwrap_or_default();
                    hop.via = Some(match via {
                        "inet" | "inet6" => format!("{via} {}", words.next().unwrap_or_default()),
                        via => via.to_owned(),
                    });
                }
                "dev" => hop.dev = words.next().unwrap_or_default().to_owned(),
                "weight" => hop.weight = words.next().map(str::to_owned),
                "onlink" => hop.onlink = true,
                word if STATES.contains(&word) => {}
                word => rest.push(word),
            }
        }
        hop
    }

    fn write(&self, line: &mut String, dev: &str) {
        if let Some(via) = &self.via {
            let _ = write!(line, " via {via}");
        }
        let _ = write!(line, " dev {dev}");
        if let Some(weight) = &self.weight {
            let _ = write!(line, " weight {weight}");
        }
        if self.onlink {
            line.push_str(" onlink");
        }
    }
}

/// The words that `ip` takes back: not the number of a nexthop object, which stands before them, not the time that is
/// left, and no lock where the value is always locked.
fn kept(words: &[&str]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        match *word {
            "nhid" | "expires" => {
                words.next();
            }
            "rto_min" => {
                kept.push("rto_min".to_owned());
                words.next_if(|next| **next == "lock");
            }
            word => kept.push(word.to_owned()),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line as `ip -o route` prints it, and the line that makes it anew by br0 instead of a.
    #[test]
    fn every_word_moves() {
        let cases = [
            (
                "10.0.0.0/24 dev a proto kernel scope link src 10.0.0.2 metric 100 ",
                "10.0.0.0/24 dev br0 proto kernel scope link src 10.0.0.2 metric 100",
            ),
            ("default via 10.0.0.1 dev a onlink ", "default via 10.0.0.1 dev br0 onlink"),
            // As ifupdown2 makes it.
            (
                "default via 10.0.0.1 dev a proto kernel onlink ",
                "default via 10.0.0.1 dev br0 onlink proto kernel",
            ),
            ("local 10.0.0.2 dev a table local proto kernel scope host src 10.0.0.2 ", ""),
            ("broadcast 10.0.0.255 dev a table local proto kernel scope link src 10.0.0.2 ", ""),
            ("blackhole 192.0.3.0/24 ", ""),
            ("unreachable default dev lo metric 4294967295 error -101", ""),
            (
                "203.0.113.0/24 via 10.0.0.1 dev a mtu lock 1400 rtt 20ms features ecn rto_min lock 5ms congctl reno linkdown ",
                "203.0.113.0/24 via 10.0.0.1 dev br0 mtu lock 1400 rtt 20ms features ecn rto_min 5ms congctl reno",
            ),
            (
                "198.51.101.0/24 mtu 1300 \\\tnexthop via 10.0.0.1 dev a weight 3 \\\tnexthop via 10.1.0.1 dev c weight 1 onlink ",
                "198.51.101.0/24 mtu 1300 nexthop via 10.0.0.1 dev br0 weight 3 nexthop via 10.1.0.1 dev c weight 1 onlink",
            ),
            ("192.0.2.0/24 via inet6 fe80::1 dev a ", "192.0.2.0/24 via inet6 fe80::1 dev br0"),
            ("192.0.6.0/24 nhid 5 via 10.0.0.1 dev a proto static ", "192.0.6.0/24 nhid 5 proto static"),
            (
                "local 10.5.0.0/16 dev a table local scope host ",
                "local 10.5.0.0/16 dev br0 table local scope host",
            ),
            ("192.0.4.0/24 tos 0x10 dev a scope link ", "192.0.4.0/24 dev br0 tos 0x10 scope link"),
        ];
        for (printed, expected) in cases {
            let line =
                StaticRoute::parse(printed, false).map(|r| r.line(|d| if d == "a" { "br0" } else { d }));
            let expected = (!expected.is_empty()).then(|| format!("route replace {expected}"));
            assert_eq!(line, expected, "{printed}");
        }
        let ra = "default via fe80::1 dev a proto ra metric 1024 expires 1797sec hoplimit 64 pref medium";
        let ra = StaticRoute::parse(ra, true).unwrap();
        assert!(ra.is_default() && ra.by("a"));
        assert_eq!(
            ra.line(|_| "b"),
            "route replace ::/0 via fe80::1 dev b proto ra metric 1024 hoplimit 64 pref medium"
        );
    }

    #[test]
    fn the_kernel_makes_those_of_addresses_again_and_no_others() {
        let address = |text: &str, metric, noprefixroute| {
            let (local, prefix) = text.split_once('/').unwrap();
            ObservedAddress {
                local: local.into(),
                prefix: prefix.parse().unwrap(),
                metric,
                noprefixroute,
                ..ObservedAddress::default()
            }
        };
        let addresses = [
            address("10.0.0.2/24", None, false),
            address("10.1.0.2/24", Some(50), false),
            address("fd00::2/64", Some(60), false),
            address("fd01::2/64", None, true),
        ];
        // Whether it is the kernel's, and else whether it stands for an address.
        for (line, of_kernel, of_address) in [
            ("10.0.0.0/24 dev a proto kernel scope link src 10.0.0.2 ", true, true),
            ("10.1.0.0/24 dev a proto kernel scope link src 10.1.0.2 metric 50 ", true, true),
            ("10.9.0.0/24 dev a proto kernel scope link ", false, false),
            ("default via 10.0.0.1 dev a proto kernel onlink ", false, false),
            ("fd00::/64 dev a proto kernel metric 60 pref medium", true, true),
            ("fd01::/64 dev a proto kernel metric 100 pref medium", false, true),
            ("fe80::/64 dev a proto kernel metric 256 pref medium", true, true),
            ("fd02::/64 dev a proto kernel metric 256 expires 86393sec pref medium", true, true),
            ("fd03::/64 dev a proto kernel metric 256 pref medium", false, false),
        ] {
            let mut route = StaticRoute::parse(line, line.contains("::")).unwrap();
            assert_eq!(route.is_of_kernel(&addresses), of_kernel, "{line}");
            assert_eq!(route.of_address, of_address, "{line}");
        }
    }
}
