//! Neighbours that somebody wrote down, and the objects by which routes name their next hop: both are of a link, and have to
//! move with what moves from it. From the words that `ip` prints, which it takes back.

/// A neighbour that is known for good, or answered for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedNeighbour {
    /// Its address.
    pub address: String,
    /// The link.
    pub dev: String,
    /// The host answers for it.
    pub proxy: bool,
    /// What is said beside that: `lladdr 02:00:00:00:00:01`, `router`.
    words: String,
}

impl FixedNeighbour {
    /// Reads one line of `ip neighbour show nud permanent` or `… proxy`.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let proxy = match words.pop()? {
            "PERMANENT" => false,
            "proxy" => true,
            _ => return None,
        };
        let at = words.iter().position(|word| *word == "dev")?;
        let dev = (*words.get(at + 1)?).to_owned();
        words.drain(at..=at + 1);
        let address = words.first()?.parse::<std::net::IpAddr>().ok()?.to_string();
        Some(Self { address, dev, proxy, words: words[1..].join(" ") })
    }

    /// Whether it is one of IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.address.contains(':')
    }

    /// What makes it on a link, as a line for `ip -batch`.
    pub fn line(&self, dev: &str) -> String {
        let (address, words) = (&self.address, &self.words);
        let space = if words.is_empty() { "" } else { " " };
        if self.proxy {
            return format!("neigh replace proxy {address} dev {dev}{space}{words}");
        }
        format!("neigh replace {address} dev {dev}{space}{words} nud permanent")
    }

    /// What takes it away from a link.
    pub fn gone(&self, dev: &str) -> String {
        format!("neigh del {}{} dev {dev}", if self.proxy { "proxy " } else { "" }, self.address)
    }
}

/// An object that stands for the next hop of routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Its number.
    pub id: String,
    /// The link.
    pub dev: String,
    words: Vec<String>,
}

impl NextHop {
    /// Reads one line of `ip nexthop show`; groups and those of no link move with nothing.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("id ")?.split_whitespace();
        let id = words.next()?.to_owned();
        let mut hop = Self { id, dev: String::new(), words: Vec::new() };
        while let Some(word) = words.next() {
            match word {
                "dev" => hop.dev = words.next()?.to_owned(),
                // Not taken back.
                "scope" => drop(words.next()),
                word if super::routes::STATES.contains(&word) => {}
                word => hop.words.push(word.to_owned()),
            }
        }
        (!hop.dev.is_empty()).then_some(hop)
    }

    /// The same, whatever addresses the link has. A bridge without a port has no carrier, and the kernel takes its next hops
    /// away by that, with their groups and routes: they leave it first, to where their gateway is in no network yet.
    pub fn onlink_line(&self, dev: &str) -> String {
        let line = self.line(dev);
        let direct = !self.words.iter().any(|word| word == "via");
        if direct || line.ends_with(" onlink") { line } else { format!("{line} onlink") }
    }

    /// What makes it on a link, as a line for `ip -batch`.
    pub fn line(&self, dev: &str) -> String {
        let mut words = self.words.iter().map(String::as_str).peekable();
        let mut line = format!("nexthop replace id {}", self.id);
        // `via ADDRESS` comes first, as it is printed.
        if words.next_if_eq(&"via").is_some() {
            line = format!("{line} via {}", words.next().unwrap_or_default());
        }
        line = format!("{line} dev {dev}");
        words.for_each(|word| line = format!("{line} {word}"));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_back() {
        let of = |line: &str| FixedNeighbour::parse(line).map(|n| (n.line("br0"), n.gone("br0")));
        let (line, gone) = of("10.0.0.77 dev eth0 lladdr 02:00:00:00:00:01 PERMANENT ").unwrap();
        assert_eq!(line, "neigh replace 10.0.0.77 dev br0 lladdr 02:00:00:00:00:01 nud permanent");
        assert_eq!(gone, "neigh del 10.0.0.77 dev br0");
        let (line, gone) = of("fd00::7 dev eth0 proxy ").unwrap();
        assert_eq!(
            (&*line, &*gone),
            ("neigh replace proxy fd00::7 dev br0", "neigh del proxy fd00::7 dev br0")
        );
        assert_eq!(of("10.0.0.77 dev eth0 lladdr 02:00:00:00:00:01 REACHABLE"), None);
        assert_eq!(of("10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.2"), None);
        let hop = NextHop::parse("id 5 via 10.0.0.8 dev eth0 scope link proto static onlink ").unwrap();
        assert_eq!(
            (&*hop.dev, &*hop.line("br0")),
            ("eth0", "nexthop replace id 5 via 10.0.0.8 dev br0 proto static onlink")
        );
        assert_eq!(NextHop::parse("id 10 group 5,3/6 "), None);
    }
}
