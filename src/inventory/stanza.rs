//! What a bootstrap put on a host, as the piece of inventory that says the same.

use super::{BaseType, Module};
use crate::characters::is_harmless;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

/// The name under which bootstraps manage a host until an inventory takes it.
pub const BOOTSTRAP: &str = "bootstrap";

/// Modules, params and bridges of one host. Kept on the host, so that a second bootstrap adds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStanza {
    /// Modules in the order in which they came.
    pub modules: Vec<String>,
    /// Values as they were given, by module and param.
    pub params: BTreeMap<String, BTreeMap<String, String>>,
    /// Bridges that somebody else makes.
    pub bridges: BTreeSet<String>,
}

/// How a host is reached, as its inventory says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshTarget {
    /// The host's name in the inventory.
    pub name: String,
    /// Where ssh goes.
    pub address: String,
    /// Who logs in.
    pub user: Option<String>,
    /// The port of sshd.
    pub port: Option<u16>,
    /// Key file and known hosts.
    pub files: Vec<(&'static str, String)>,
}

impl HostStanza {
    /// Adds what another bootstrap wants; its values win.
    pub fn add(&mut self, more: HostStanza) {
        for module in more.modules {
            if !self.modules.contains(&module) {
                self.modules.push(module);
            }
        }
        for (module, params) in more.params {
            self.params.entry(module).or_default().extend(params);
        }
        self.bridges.extend(more.bridges);
    }

    /// The inventory: the host, how it is reached, and this. Types come from the modules.
    pub fn yaml(&self, reach: &SshTarget, modules: &BTreeMap<String, Arc<Module>>) -> String {
        let mut text = format!("hosts:\n  {}:\n", quoted(&reach.name));
        if reach.address != reach.name {
            let _ = writeln!(text, "    address: {}", quoted(&reach.address));
        }
        let mut ssh = Vec::new();
        ssh.extend(reach.user.iter().map(|user| format!("user: {}", quoted(user))));
        if reach.user.as_deref().is_some_and(|user| user != "root") {
            ssh.push("become: sudo".to_owned());
        }
        ssh.extend(reach.port.iter().map(|port| format!("port: {port}")));
        ssh.extend(reach.files.iter().map(|(key, path)| format!("{key}: {}", quoted(path))));
        if !ssh.is_empty() {
            let _ = writeln!(text, "    ssh: {{ {} }}", ssh.join(", "));
        }
        if !self.modules.is_empty() {
            let names: Vec<String> = self.modules.iter().map(|m| quoted(m)).collect();
            let _ = writeln!(text, "    modules: [{}]", names.join(", "));
        }
        if !self.params.is_empty() {
            text.push_str("    params:\n");
        }
        for (module, params) in &self.params {
            let all: Vec<String> = params
                .iter()
                .map(|(name, value)| format!("{}: {}", quoted(name), typed(modules.get(module), name, value)))
                .collect();
            let _ = writeln!(text, "      {}: {{ {} }}", quoted(module), all.join(", "));
        }
        if !self.bridges.is_empty() {
            let all: Vec<String> =
                self.bridges.iter().map(|b| format!("{}: {{ manage: false }}", quoted(b))).collect();
            let _ = writeln!(text, "    bridges: {{ {} }}", all.join(", "));
        }
        // A host must be a map, also where nothing is said of it.
        if text.ends_with(":\n") && text.lines().count() == 2 {
            text.truncate(text.len() - 1);
            text.push_str(" { }\n");
        }
        text
    }
}

/// A value as its param's type has it: what is a number or a truth by its type is written bare, and
/// the reader tells what does not fit.
fn typed(module: Option<&Arc<Module>>, name: &str, value: &str) -> String {
    let declared = module.and_then(|m| m.param(name));
    let base = declared.map(|param| &param.kind.base);
    let one = |text: &str| match base {
        Some(BaseType::Int(..) | BaseType::Port) if text.parse::<i128>().is_ok() => text.to_owned(),
        Some(BaseType::Bool) if matches!(text, "true" | "false") => text.to_owned(),
        _ => quoted(text),
    };
    if declared.is_some_and(|param| param.kind.list) {
        let items: Vec<String> =
            value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(one).collect();
        return format!("[{}]", items.join(", "));
    }
    one(value)
}

/// A YAML scalar that is this text and nothing else: bare where that is sure, else in double
/// quotes.
pub fn quoted(text: &str) -> String {
    let bare = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        && !["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if bare {
        return text.to_owned();
    }
    let mut quoted = String::new();
    for c in serde_json::Value::from(text).to_string().chars() {
        match is_harmless(c) {
            true => quoted.push(c),
            // JSON has no such escape; this is YAML.
            false => quoted.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_bootstrap_adds_and_its_values_win() {
        let stanza = |module: &str, value: &str, bridge: &str| HostStanza {
            modules: vec![module.to_owned()],
            params: [(module.to_owned(), [("p".to_owned(), value.to_owned())].into())].into(),
            bridges: [bridge.to_owned()].into(),
        };
        let mut all = stanza("a", "1", "br0");
        all.add(stanza("b", "2", "br1"));
        all.add(stanza("a", "3", "br0"));
        assert_eq!(all.modules, ["a", "b"]);
        assert_eq!((all.params["a"]["p"].as_str(), all.params["b"]["p"].as_str()), ("3", "2"));
        assert_eq!(all.bridges.len(), 2);
    }

    #[test]
    fn only_what_is_surely_a_string_stands_bare() {
        for (text, yaml) in [
            ("br123", "br123"),
            ("kvm1.dc1", "kvm1.dc1"),
            ("no", "\"no\""),
            ("192.0.2.1", "\"192.0.2.1\""),
            ("a: b", "\"a: b\""),
            ("x\"y", "\"x\\\"y\""),
            ("", "\"\""),
            ("a\u{202e}\u{7f}", "\"a\\U0000202e\\U0000007f\""),
        ] {
            assert_eq!(quoted(text), yaml);
        }
    }
}
