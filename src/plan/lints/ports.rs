//! Rules that name the port of a bridge: packets come in by the bridge, never by its port.

use super::{FamilyView, plain};
use crate::netfilter::{DevicePattern, MatchTest, ParsedRule};
use crate::problem::{LintCode, Warning, WarningMessage};
use std::collections::BTreeMap;

/// So many rules of others are named in a warning.
const NAMED: usize = 3;

/// Since when a link is a port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PortSince {
    /// It is one.
    Now,
    /// The change makes it one.
    Soon,
}

impl FamilyView<'_> {
    /// Rules with `-i` or `-o` of what is, or will be, a port of a bridge: ours, and those of others that the move makes
    /// dead.
    pub(super) fn ports(&self, warnings: &mut Vec<Warning>) {
        for (table, chain) in self.predicted.managed_chains() {
            let rules = self.after.rules(table, &chain.name).unwrap_or_default();
            for (index, rule) in rules.iter().enumerate() {
                let Some((option, port, bridge, since)) = self.dead_port(rule) else { continue };
                let (can, is) = match since {
                    PortSince::Now => ("can", "is"),
                    PortSince::Soon => ("will", "becomes"),
                };
                let message = WarningMessage::new(format!(
                    "{} {table}/{} rule {}: `{}` {can} never match",
                    self.family,
                    plain(&chain.name),
                    index + 1,
                    rule.text
                ))
                .cause(format!("{port} {is} a port of {bridge}, so packets arrive and leave on {bridge}"))
                .fix(format!("write `{option} {bridge}`, or `-m physdev` for the port"));
                warnings.push(Warning::new(
                    LintCode::PortRule,
                    message,
                    self.rule_origin(table, &chain.name, index + 1),
                ));
            }
        }
        self.ports_of_others(warnings);
    }

    /// Rules of others that match now and will not.
    fn ports_of_others(&self, warnings: &mut Vec<Warning>) {
        let mut dead: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
        for (table, chains) in &self.predicted.tables {
            for chain in chains.chains().iter().filter(|chain| !chain.is_managed()) {
                for rule in self.after.rules(table, &chain.name).unwrap_or_default() {
                    if let Some((_, port, bridge, PortSince::Soon)) = self.dead_port(rule) {
                        dead.entry((port, bridge))
                            .or_default()
                            .push(format!("{table}/{} `{}`", chain.name, rule.text));
                    }
                }
            }
        }
        for ((port, bridge), rules) in dead {
            let more = match rules.len().checked_sub(NAMED) {
                Some(more @ 1..) => format!(" and {more} more"),
                _ => String::new(),
            };
            let named = rules.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            let message = WarningMessage::new(format!(
                "{}: unmanaged rules will never match: {named}{more}",
                self.family
            ))
            .cause(format!("{port} becomes a port of {bridge}, so packets arrive and leave on {bridge}"))
            .fix(format!("use {bridge} in these rules"));
            let origin = self.desired.bridges.get(&bridge).map(|bridge| bridge.origin.clone());
            warnings.push(Warning::new(LintCode::PortRule, message, origin));
        }
    }

    /// What makes a rule dead: the option, the port it names, the bridge, and since when.
    fn dead_port<'r>(&self, rule: &'r ParsedRule) -> Option<(&'static str, &'r str, String, PortSince)> {
        named_ports(rule).find_map(|(option, port)| {
            let (bridge, since) = self.enslaved(port)?;
            Some((option, port, bridge, since))
        })
    }

    /// The bridge that a link is a port of, and since when.
    fn enslaved(&self, link: &str) -> Option<(String, PortSince)> {
        let now = self.observed.and_then(|o| o.links.by_name.get(link)?.master.clone());
        let is_bridge = |name: &String| {
            self.desired.bridges.contains_key(name)
                || self.observed.and_then(|o| o.links.by_name.get(name)).is_some_and(|l| l.is_bridge())
        };
        if let Some(bridge) = now.filter(is_bridge) {
            return Some((bridge, PortSince::Now));
        }
        self.bridge_of(link).map(|bridge| (bridge.to_owned(), PortSince::Soon))
    }
}

/// The links that a rule names in full, with the options that name them.
fn named_ports(rule: &ParsedRule) -> impl Iterator<Item = (&'static str, &str)> {
    rule.matches.iter().filter(|one| !one.negated).filter_map(|one| match &one.test {
        MatchTest::In(DevicePattern(name)) => Some(("-i", name.as_str())),
        MatchTest::Out(DevicePattern(name)) => Some(("-o", name.as_str())),
        _ => None,
    })
}
