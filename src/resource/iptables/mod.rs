//! iptables rules: the text of a rule, what `iptables-save` prints, and the part of it that is ours.

pub mod address;
pub mod chain_writers;
pub mod expand;
pub mod extensions;
pub mod loaded;
pub mod managed_text;
mod options;
pub mod protocols;
pub mod rule;
pub mod save;
pub mod targets;
pub mod text;

use crate::problem::Origin;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Every chain of ours starts with this.
pub const PREFIX: &str = "KVMFW-";

/// The comment on the one rule by which a built-in chain enters ours.
pub const JUMP_COMMENT: &str = "kvmfw:hook";

/// iptables or ip6tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// iptables.
    #[serde(rename = "ipv4")]
    V4,
    /// ip6tables.
    #[serde(rename = "ipv6")]
    V6,
}

impl IpFamily {
    /// Both, in the order in which they are shown.
    pub const ALL: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

    /// The YAML key: `iptables` or `ip6tables`.
    pub fn key(self) -> &'static str {
        match self {
            IpFamily::V4 => "iptables",
            IpFamily::V6 => "ip6tables",
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// The tables there are, with their built-in chains.
pub const TABLES: [(&str, &[&str]); 5] = [
    ("raw", &["PREROUTING", "OUTPUT"]),
    ("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("security", &["INPUT", "FORWARD", "OUTPUT"]),
];

/// The built-in chains of a table, `None` if there is no such table.
pub fn builtin_chains(table: &str) -> Option<&'static [&'static str]> {
    TABLES.iter().find(|(name, _)| *name == table).map(|(_, chains)| *chains)
}

/// Whether a chain is a built-in one of a table.
pub fn is_builtin(table: &str, chain: &str) -> bool {
    builtin_chains(table).is_some_and(|chains| chains.contains(&chain))
}

/// Chains of `filter` that other programs make for rules of the administrator.
pub const ADMINISTRATORS: [&str; 2] = ["DOCKER-USER", "CNI-ADMIN"];

/// Whether a chain is made by another program for rules of the administrator. Its rules of ours stand in a chain of ours,
/// entered by one jump rule, as those of a built-in chain do; it may be missing until that program makes it.
pub fn is_administrators(table: &str, chain: &str) -> bool {
    maker_of_administrators(table, chain).is_some()
}

/// The program that makes a chain of the administrator.
pub fn maker_of_administrators(table: &str, chain: &str) -> Option<&'static str> {
    match (table, chain) {
        ("filter", "DOCKER-USER") => Some("Docker"),
        ("filter", "CNI-ADMIN") => Some("the firewall plugin of CNI"),
        _ => None,
    }
}

/// Whether one jump rule in this chain enters a chain of ours: it is a built-in one or one of the administrator.
pub fn is_entered(table: &str, chain: &str) -> bool {
    is_builtin(table, chain) || is_administrators(table, chain)
}

/// The policy of a built-in chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ChainPolicy {
    /// Packets that no rule decides pass.
    Accept,
    /// Packets that no rule decides are dropped.
    Drop,
}

impl fmt::Display for ChainPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChainPolicy::Accept => "ACCEPT",
            ChainPolicy::Drop => "DROP",
        })
    }
}

/// Where the jump rule of a chain has to stand in its built-in chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JumpPosition {
    /// Put at position 1 when it is missing, then left where it is.
    #[default]
    Any,
    /// Always at position 1.
    First,
    /// Always the last rule.
    Last,
}

/// The rules declared for one family of one host: table → chain, by the names on the host
/// (`FORWARD` has become `KVMFW-FORWARD`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredRules {
    /// Tables by name, chains by name.
    pub tables: BTreeMap<String, TableRules>,
}

/// What is declared in one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRules {
    /// Declared policies of built-in chains.
    pub policies: BTreeMap<String, (ChainPolicy, Origin)>,
    /// Our chains by their full name, `KVMFW-…`.
    pub chains: BTreeMap<String, DeclaredChain>,
}

/// One chain of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredChain {
    /// The chain that enters it, a built-in one or one of the administrator, and where the jump rule stands; `None` for a user
    /// chain.
    #[serde(rename = "hook")]
    pub jump: Option<(String, JumpPosition)>,
    /// The rules in order; hosts with the same share them.
    pub rules: Arc<Vec<DeclaredRule>>,
    /// Where the chain was first declared.
    pub origin: Origin,
}

/// One declared rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeclaredRule {
    /// The rule as written, less `-A CHAIN`, params put in and chain names made ours. One line.
    pub text: String,
    /// Where it was declared.
    pub origin: Origin,
    /// The module that loading this rule pulls in, and that may not be loaded by a plan.
    #[serde(skip)]
    pub module: Option<&'static str>,
}

/// The module that loading a rule pulls in and that may not be loaded by a plan: `physdev` loads
/// br_netfilter, and with it bridged frames start to pass the host's FORWARD chain.
pub fn module_of(rule: &str) -> Option<&'static str> {
    let physdev = rule.split_ascii_whitespace().zip(rule.split_ascii_whitespace().skip(1));
    physdev
        .into_iter()
        .any(|(option, value)| matches!(option, "-m" | "--match") && value == "physdev")
        .then_some("br_netfilter")
}
