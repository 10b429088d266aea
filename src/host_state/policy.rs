//! Rules of policy routing, from the words that `ip rule show` prints.

/// A rule that decides which table of routes a packet asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Of IPv6.
    pub v6: bool,
    /// Its preference: those with lower ones are asked first.
    pub preference: u32,
    /// What it says, as `ip rule add` takes it back: `from`, `all`, `iif`, `eth0`, `lookup`, `77`.
    pub words: Vec<String>,
}

impl PolicyRule {
    /// Reads one line of `ip rule show`: a number and a colon, then words. `None`: it is something else.
    pub fn parse(line: &str, v6: bool) -> Option<Self> {
        let (number, rest) = line.split_once(':')?;
        let words = rest.strip_prefix('\t')?.split_whitespace().filter(|word| !word.starts_with('['));
        Some(Self { v6, preference: number.parse().ok()?, words: words.map(str::to_owned).collect() })
    }

    /// Whether it asks by which link a packet came in, and that is this one.
    pub fn comes_in_by(&self, link: &str) -> bool {
        self.words.windows(2).any(|pair| pair == ["iif", link])
    }

    /// What makes the same rule for packets that come in by another link.
    pub fn for_link(&self, from: &str, to: &str) -> String {
        let mut before = "";
        let mut text = format!("ip{} rule add pref {}", if self.v6 { " -6" } else { "" }, self.preference);
        for word in &self.words {
            text.push(' ');
            text.push_str(if before == "iif" && word == from { to } else { word });
            before = word;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_what_looks_like_them() {
        let rule = PolicyRule::parse("100:\tfrom all iif eth0 [detached] lookup 77 ", true).unwrap();
        assert!(rule.comes_in_by("eth0") && !rule.comes_in_by("eth1"));
        assert_eq!(rule.for_link("eth0", "br9"), "ip -6 rule add pref 100 from all iif br9 lookup 77");
        for route in ["2001:: dev a proto static", "::/0 dev a", "default dev a", "10.0.0.0/24 dev a"] {
            assert_eq!(PolicyRule::parse(route, true), None, "{route}");
        }
    }
}
