//! What one generation changed, from its record and the one before.

use super::{Change, ChangeAction, Diff, GenerationManifest, ResourceKind};
use crate::resource::bridge::DeclaredBridge;
use crate::resource::iptables::{DeclaredRules, IpFamily, PREFIX, managed_text};
use std::collections::{BTreeMap, BTreeSet};

type ResourceTexts = BTreeMap<(ResourceKind, String), Vec<String>>;

impl GenerationManifest {
    /// The changes from an older record to this one, in canonical text.
    pub fn changes_since(&self, before: &GenerationManifest) -> Vec<Change> {
        let (old, new) = (before.texts(), self.texts());
        let names: BTreeSet<&(ResourceKind, String)> = old.keys().chain(new.keys()).collect();
        let none = Vec::new();
        let own = names.into_iter().filter_map(|name| {
            let (was, is) = (old.get(name), new.get(name));
            let wanted: Vec<_> = is.unwrap_or(&none).iter().map(|l| (l.clone(), None)).collect();
            let diff = Diff::compute(was.unwrap_or(&none), &wanted);
            let action = match (was, is) {
                (None, _) => ChangeAction::Add,
                (_, None) => ChangeAction::Remove,
                _ => ChangeAction::Change,
            };
            let (kind, resource) = name.clone();
            let change = Change { kind, resource, action, diff, origin: Vec::new(), risks: Vec::new() };
            (!change.diff.is_empty() || action != ChangeAction::Change).then_some(change)
        });
        own.chain(self.adoption_since(before)).collect()
    }

    /// The lines of every resource.
    fn texts(&self) -> ResourceTexts {
        let mut texts = ResourceTexts::new();
        for file in self.sysctl.values() {
            let lines = file.entries.iter().map(|e| format!("{} = {}", e.key, e.value)).collect();
            texts.insert((ResourceKind::Sysctl, file.name.clone()), lines);
        }
        for (family, rules) in &self.rules {
            chains(*family, rules, &mut texts);
        }
        for set in self.sets.values() {
            let members = set.entries.iter().flat_map(|entries| entries.iter().cloned());
            texts.insert(
                (ResourceKind::Ipset, set.name.clone()),
                std::iter::once(set.options()).chain(members).collect(),
            );
        }
        for bridge in self.bridges.values() {
            texts.insert((ResourceKind::Bridge, bridge.name.clone()), attributes(bridge));
        }
        texts
    }
}

/// The own text of a family, taken apart by chain; policies and hooks stand with their chain.
fn chains(family: IpFamily, rules: &DeclaredRules, texts: &mut ResourceTexts) {
    let kind = ResourceKind::from(family);
    let mut table = String::new();
    for line in managed_text::render(rules).lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.clone_into(&mut table);
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let (chain, text) = match words[..] {
            [name, policy] if name.starts_with(':') => {
                let text = if policy == "-" { None } else { Some(format!("policy {policy}")) };
                (name.trim_start_matches(':'), text)
            }
            [hook, place, chain] if hook.starts_with('^') => {
                (chain, Some(format!("jump rule in {}: {place}", &hook[1..])))
            }
            _ => {
                let Some(at) = words.iter().position(|w| *w == "-A") else { continue };
                let Some(chain) = words.get(at + 1) else { continue };
                (*chain, Some(words[at + 2..].join(" ")))
            }
        };
        let name = format!("{table}/{}", chain.strip_prefix(PREFIX).unwrap_or(chain));
        texts.entry((kind, name)).or_default().extend(text);
    }
}

/// What is declared of a bridge, a line for each.
fn attributes(bridge: &DeclaredBridge) -> Vec<String> {
    let Ok(serde_json::Value::Object(all)) = serde_json::to_value(bridge) else { return Vec::new() };
    all.into_iter()
        .filter(|(key, value)| {
            let empty = value.as_array().is_some_and(Vec::is_empty);
            let usual = match key.as_str() {
                "name" | "origin" => true,
                "manage" => *value == true,
                "take_addresses" => *value == false,
                _ => value.is_null() || empty,
            };
            !usual
        })
        .map(|(key, value)| format!("{key}: {value}"))
        .collect()
}
