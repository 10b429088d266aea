//! Values with where they come from, in columns as wide as they fit.

use super::{Style, printable};
use std::fmt::Write as _;

/// A value of a host: its path, the value, `file:line`.
pub type Fact = (String, String, String);

/// The line below, four in.
const BELOW: &str = "\n    ";

/// A line for each fact where there is no terminal. On one that is too narrow, what does not fit beside
/// stands below.
pub fn facts_text(facts: &[Fact], style: Style) -> String {
    let length = |text: &str| text.chars().count();
    let longest = facts.iter().map(|(path, ..)| length(path)).max().unwrap_or(0);
    let column = style.width.map_or(longest, |width| longest.min(width / 2));
    let mut out = String::new();
    for (path, value, origin) in facts {
        let (path, value) = (printable(path), printable(value));
        let origin = format!("# {}", printable(origin));
        let fits = |columns: usize| style.width.is_none_or(|width| columns <= width);
        let beside = length(&path) <= column && fits(column + 2 + length(&value));
        let (gap, begin) = match beside {
            true => (" ".repeat(column + 2 - length(&path)), column + 2),
            false => (BELOW.to_owned(), BELOW.len() - 1),
        };
        let end = if fits(begin + length(&value) + 3 + length(&origin)) {
            "   ".to_owned()
        } else {
            format!("\n{:begin$}", "")
        };
        let _ = writeln!(out, "{}{gap}{value}{end}{}", style.strong(&path), style.faint(&origin));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_do_not_push_values_about() {
        let fact =
            |path: &str, value: &str, origin: &str| (path.to_owned(), value.to_owned(), origin.to_owned());
        let facts = [
            fact("address", "192.0.2.11", "inventories/prod.yaml:3"),
            fact("sysctl.99-zz-kvmfw-bridge-bypass.net.bridge.bridge-nf-call-ip6tables", "0", "kvmfw:b:9"),
            fact("iptables.filter.INPUT[1]", "-m state --state ESTABLISHED,RELATED -j ACCEPT", "kvmfw:b:17"),
        ];
        let narrow = Style { width: Some(80), ..Style::default() };
        insta::assert_snapshot!(facts_text(&facts, narrow), @r"
        address                                   192.0.2.11   # inventories/prod.yaml:3
        sysctl.99-zz-kvmfw-bridge-bypass.net.bridge.bridge-nf-call-ip6tables
            0   # kvmfw:b:9
        iptables.filter.INPUT[1]
            -m state --state ESTABLISHED,RELATED -j ACCEPT   # kvmfw:b:17
        ");
        let piped = facts_text(&facts, Style::default());
        assert_eq!(piped.lines().count(), 3, "a line each, for grep: {piped}");
        assert!(piped.lines().all(|line| line.contains("   # ")), "{piped}");
    }
}
