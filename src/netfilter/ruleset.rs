//! The rules of a host, parsed once for many simulations.

use super::rule::ParsedRule;
use super::sets::KnownSets;
use crate::resource::iptables::ChainPolicy;
use crate::resource::iptables::save::SavedTables;
use std::collections::HashMap;
use std::sync::Arc;

/// The parsed tables of one family of a host.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    tables: HashMap<String, HashMap<String, ParsedChain>>,
    incompatible: Vec<String>,
    rules: usize,
}

/// One chain, read.
#[derive(Clone, Debug)]
pub(super) struct ParsedChain {
    /// The table and its name, for every step that is told of it.
    pub(super) table: Arc<str>,
    /// Its name.
    pub(super) name: Arc<str>,
    /// Its rules in order.
    pub(super) rules: Vec<ParsedRule>,
    /// What decides at its end.
    pub(super) end: ChainEnd,
}

/// What happens at the end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainEnd {
    /// A user chain: back to where the packet came from.
    Back,
    /// A built-in chain.
    Policy(ChainPolicy),
    /// A policy word that is not understood.
    Odd,
}

impl Ruleset {
    /// Reads the rules of a save, of which no set is known.
    pub fn new(save: &SavedTables) -> Self {
        Self::with_sets(save, &KnownSets::default())
    }

    /// Reads the rules of a save that may ask these sets.
    pub fn with_sets(save: &SavedTables, sets: &KnownSets) -> Self {
        let mut set = Ruleset { incompatible: save.incompatible.clone(), ..Ruleset::default() };
        for (name, table) in &save.tables {
            let chains = set.tables.entry(name.clone()).or_default();
            let of: Arc<str> = name.as_str().into();
            for chain in table.chains() {
                let is_chain = |name: &str| table.chain(name).is_some();
                let mut rules: Vec<ParsedRule> =
                    chain.rules.iter().map(|rule| ParsedRule::parse_among(rule, is_chain)).collect();
                rules.iter_mut().flat_map(|rule| &mut rule.matches).for_each(|one| sets.resolve(one));
                set.rules += rules.len();
                let end = match (&chain.odd_policy, chain.policy) {
                    (Some(_), _) => ChainEnd::Odd,
                    (None, Some(policy)) => ChainEnd::Policy(policy),
                    (None, None) => ChainEnd::Back,
                };
                let (table, name) = (of.clone(), chain.name.as_str().into());
                chains.insert(chain.name.clone(), ParsedChain { table, name, rules, end });
            }
        }
        set
    }

    /// The rules of a chain.
    pub fn rules(&self, table: &str, chain: &str) -> Option<&[ParsedRule]> {
        self.chain(table, chain).map(|chain| chain.rules.as_slice())
    }

    /// Every rule, in no order.
    pub fn all_rules(&self) -> impl Iterator<Item = &ParsedRule> {
        self.tables.values().flat_map(|table| table.values()).flat_map(|chain| &chain.rules)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.rules == 0
    }

    /// Whether a table holds native nft rules, so that nothing can be said of it.
    pub fn is_incompatible(&self, table: &str) -> bool {
        self.incompatible.iter().any(|name| name == table)
    }

    pub(super) fn chain(&self, table: &str, chain: &str) -> Option<&ParsedChain> {
        self.tables.get(table)?.get(chain)
    }
}
