//! Rules that name the port of a bridge: packets come in by the bridge, never by its port.

use super::{View, plain, warn};
use crate::netfilter::{Pattern, Rule, Test};
use crate::problem::Warning;

impl View<'_> {
    /// Rules of ours with `-i` or `-o` of what is, or will be, a port of a bridge.
    pub(super) fn ports(&self, warnings: &mut Vec<Warning>) {
        for (table, chain) in self.predicted.own_chains() {
            let rules = self.after.rules(table, &chain.name).unwrap_or_default();
            for (index, rule) in rules.iter().enumerate() {
                let Some((option, port)) = named_port(rule) else { continue };
                let Some((bridge, will)) = self.enslaved(port) else { continue };
                let message = format!(
                    "{} {table}/{} rule {}: `{}` {will} never match, because {port} {} a port of {bridge}: packets come and go by \
                     {bridge}; write `{option} {bridge}`, or `-m physdev` for the port",
                    self.family,
                    plain(&chain.name),
                    index + 1,
                    rule.text,
                    if will == "can" { "is" } else { "becomes" },
                );
                warnings.push(warn("port-rule", message, self.rule_origin(table, &chain.name, index + 1)));
            }
        }
    }

    /// The bridge that a link is a port of, and how to say that it can, or will, never match.
    fn enslaved(&self, link: &str) -> Option<(String, &'static str)> {
        let now = self.observed.and_then(|o| o.links.by_name.get(link)?.master.clone());
        let is_bridge = |name: &String| {
            self.desired.bridges.contains_key(name)
                || self.observed.and_then(|o| o.links.by_name.get(name)).is_some_and(|l| l.is_bridge())
        };
        if let Some(bridge) = now.filter(is_bridge) {
            return Some((bridge, "can"));
        }
        self.bridge_of(link).map(|bridge| (bridge.to_owned(), "will"))
    }
}

/// The link that a rule names in full, with the option that names it.
fn named_port(rule: &Rule) -> Option<(&'static str, &str)> {
    rule.matches.iter().filter(|one| !one.negated).find_map(|one| match &one.test {
        Test::In(Pattern(name)) => Some(("-i", name.as_str())),
        Test::Out(Pattern(name)) => Some(("-o", name.as_str())),
        _ => None,
    })
}
