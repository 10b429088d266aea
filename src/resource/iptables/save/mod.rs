//! What `iptables-save` and `ip6tables-save` print, both backends, 1.8.
//!
//! Nothing is guessed: output that was cut off, or that has a line which is not understood, is an
//! error and not a smaller ruleset.

mod parse;
mod tokens;

pub use tokens::{RuleJump, RuleWords, TokenError, jump, quote, takes_value, tokens};

use super::{ChainPolicy, PREFIX, is_entered};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// The tables of one family of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedTables {
    /// Tables by name. An absent table has no rules and accepts.
    pub tables: BTreeMap<String, SaveTable>,
    /// Tables that hold native nft rules: what stands in `tables` for them is not what is live.
    pub incompatible: Vec<String>,
}

/// One table: its chains in the order in which they are printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SaveTable {
    chains: Vec<SaveChain>,
    by_name: HashMap<String, usize>,
}

/// One chain as it is on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SaveChain {
    /// Its name.
    pub name: String,
    /// Its policy; user chains have none.
    pub policy: Option<ChainPolicy>,
    /// A word in the place of the policy that is none of `ACCEPT`, `DROP` and `-`.
    pub odd_policy: Option<String>,
    /// The rules: the text after `-A NAME `, without counters.
    pub rules: Vec<String>,
}

/// A line of the output that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the saved rules: {message}")]
pub struct SaveError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it, a lowercase fragment.
    pub message: String,
}

/// A rule of a built-in chain, or of one of the administrator, that enters a chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundJump<'a> {
    /// The table.
    pub table: &'a str,
    /// The chain that holds the rule.
    pub chain: &'a str,
    /// The place of the rule in the chain, counted from 1.
    pub position: usize,
    /// The chain of ours that it enters.
    pub target: Cow<'a, str>,
    /// The text of the rule.
    pub rule: &'a str,
}

impl SavedTables {
    /// Reads the output of `iptables-save`, with or without counters and comments.
    pub fn parse(text: &str) -> Result<SavedTables, SaveError> {
        parse::parse(text)
    }

    /// The text that `parse` reads back to the same value, counters at zero.
    pub fn render(&self) -> String {
        self.to_string()
    }

    /// A chain by table and name.
    pub fn chain(&self, table: &str, chain: &str) -> Option<&SaveChain> {
        self.tables.get(table)?.chain(chain)
    }

    /// The chains of ours, with their table.
    pub fn managed_chains(&self) -> impl Iterator<Item = (&str, &SaveChain)> {
        self.tables.iter().flat_map(|(name, table)| {
            table.chains.iter().filter(|chain| chain.is_managed()).map(move |chain| (name.as_str(), chain))
        })
    }

    /// Every rule of a built-in chain or one of the administrator that enters a chain of ours, whatever its comment says.
    pub fn jump_rules(&self) -> Vec<FoundJump<'_>> {
        let mut hooks = Vec::new();
        for (table, chain) in self.entered_chains() {
            for (index, rule) in chain.rules.iter().enumerate() {
                if let Some(target) = own_target(rule) {
                    let (chain, position) = (chain.name.as_str(), index + 1);
                    hooks.push(FoundJump { table, chain, position, target, rule });
                }
            }
        }
        hooks
    }

    /// How many rules are neither in a managed chain nor a jump rule.
    pub fn unmanaged_rules(&self) -> usize {
        let all: usize = self
            .tables
            .values()
            .flat_map(|table| &table.chains)
            .filter(|chain| !chain.is_managed())
            .map(|chain| chain.rules.len())
            .sum();
        let hooks = self
            .entered_chains()
            .flat_map(|(_, chain)| &chain.rules)
            .filter(|rule| own_target(rule).is_some())
            .count();
        all - hooks
    }

    fn entered_chains(&self) -> impl Iterator<Item = (&str, &SaveChain)> {
        self.tables.iter().flat_map(|(name, table)| {
            let entered = |chain: &&SaveChain| is_entered(name, &chain.name);
            table.chains.iter().filter(entered).map(move |chain| (name.as_str(), chain))
        })
    }
}

/// The chain of ours that a rule enters.
fn own_target(rule: &str) -> Option<Cow<'_, str>> {
    // Most rules of a host are foreign: look at the words only of those that can be meant.
    if !rule.contains(PREFIX) {
        return None;
    }
    jump(rule).map(|jump| jump.target).filter(|target| target.starts_with(PREFIX))
}

impl SaveTable {
    /// The chains in order.
    pub fn chains(&self) -> &[SaveChain] {
        &self.chains
    }

    /// A chain by name.
    pub fn chain(&self, name: &str) -> Option<&SaveChain> {
        self.chains.get(*self.by_name.get(name)?)
    }

    /// Adds a chain at the end, or replaces the one of that name, which is handed back.
    pub fn insert(&mut self, chain: SaveChain) -> Option<SaveChain> {
        if let Some(old) = self.by_name.get(&chain.name).and_then(|index| self.chains.get_mut(*index)) {
            return Some(std::mem::replace(old, chain));
        }
        self.by_name.insert(chain.name.clone(), self.chains.len());
        self.chains.push(chain);
        None
    }

    /// Takes a chain out.
    pub fn remove(&mut self, name: &str) -> Option<SaveChain> {
        let index = self.by_name.remove(name)?;
        for later in self.by_name.values_mut().filter(|later| **later > index) {
            *later -= 1;
        }
        Some(self.chains.remove(index))
    }

    /// The rules of a chain, to be changed.
    pub fn rules_mut(&mut self, name: &str) -> Option<&mut Vec<String>> {
        let index = *self.by_name.get(name)?;
        self.chains.get_mut(index).map(|chain| &mut chain.rules)
    }
}

impl FromIterator<SaveChain> for SaveTable {
    fn from_iter<I: IntoIterator<Item = SaveChain>>(chains: I) -> Self {
        let mut table = SaveTable::default();
        for chain in chains {
            table.insert(chain);
        }
        table
    }
}

impl SaveChain {
    /// Whether it is a chain of ours.
    pub fn is_managed(&self) -> bool {
        self.name.starts_with(PREFIX)
    }
}

impl fmt::Display for SavedTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.incompatible {
            writeln!(f, "# Table `{table}' is incompatible, use 'nft' tool.")?;
        }
        for (name, table) in &self.tables {
            writeln!(f, "*{name}\n{table}COMMIT")?;
        }
        Ok(())
    }
}

impl fmt::Display for SaveTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chain in &self.chains {
            write!(f, ":{} ", chain.name)?;
            match (&chain.odd_policy, chain.policy) {
                (Some(word), _) => f.write_str(word)?,
                (None, Some(policy)) => policy.fmt(f)?,
                (None, None) => f.write_str("-")?,
            }
            f.write_str(" [0:0]\n")?;
        }
        for chain in &self.chains {
            for rule in &chain.rules {
                let gap = if rule.is_empty() { "" } else { " " };
                writeln!(f, "-A {}{gap}{rule}", chain.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
