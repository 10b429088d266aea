//! Rules that no packet can reach.

use super::matches::{MatchTest, RuleMatch};
use super::overlap::is_included;
use super::rule::{ParsedRule, RuleTarget};
use super::ruleset::Ruleset;
use shape::DecidingRules;
use std::collections::HashMap;

mod shape;

/// A rule that never matches, and the one before it that takes its packets. Both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowedRule {
    /// The rule that never matches.
    pub index: usize,
    /// The rule that shadows it.
    pub shadowed_by: usize,
}

/// The rules of a chain that certainly never match: they stand after a rule that no packet
/// outlives, or after one that decides about all that they could match.
pub fn shadowed_rules(rules: &Ruleset, table: &str, chain: &str) -> Vec<ShadowedRule> {
    let mut ends = ChainEndings { rules, table, known: HashMap::new() };
    let mut dead = Vec::new();
    let mut decided = DecidingRules::default();
    let mut wall: Option<usize> = None;
    for (index, rule) in rules.rules(table, chain).unwrap_or_default().iter().enumerate() {
        let index = index + 1;
        if let Some(shadowed_by) = wall {
            dead.push(ShadowedRule { index, shadowed_by });
            continue;
        }
        if let Some(shadowed_by) = decided.before(&rule.matches) {
            dead.push(ShadowedRule { index, shadowed_by });
        } else if is_steady(rule) && ends.is_last(rule, 0) {
            decided.add(&rule.matches, index);
            wall = rule.is_unconditional().then_some(index);
        }
    }
    dead
}

/// Whether a packet that a rule matches would be matched by the same rule again: nothing that
/// counts or rolls dice, and no mark, which a rule between may set.
fn is_steady(rule: &ParsedRule) -> bool {
    rule.matches.iter().all(|one| !matches!(one.test, MatchTest::Unknown(_) | MatchTest::Mark { .. }))
}

struct ChainEndings<'a> {
    rules: &'a Ruleset,
    table: &'a str,
    known: HashMap<&'a str, bool>,
}

impl<'a> ChainEndings<'a> {
    /// Whether no packet that this rule matches goes on with the next one of the chain.
    fn is_last(&mut self, rule: &'a ParsedRule, depth: usize) -> bool {
        match &rule.target {
            RuleTarget::Accept | RuleTarget::Drop | RuleTarget::Return => true,
            RuleTarget::Goto(chain) => self.rules.rules(self.table, chain).is_some(),
            RuleTarget::Jump(chain) => self.never_returns(chain, depth),
            _ => false,
        }
    }

    /// Whether a chain decides about every packet that enters it.
    fn never_returns(&mut self, chain: &'a str, depth: usize) -> bool {
        if let Some(known) = self.known.get(chain) {
            return *known;
        }
        // A loop, or calls too deep to follow: nothing is certain.
        if depth >= 64 {
            return false;
        }
        // While it is being looked at it counts as one that returns, which ends any loop.
        self.known.insert(chain, false);
        let mut answer = false;
        for rule in self.rules.rules(self.table, chain).unwrap_or_default() {
            let decides = match &rule.target {
                RuleTarget::Return => break,
                RuleTarget::Goto(next) if !self.never_returns(next, depth + 1) => break,
                RuleTarget::Accept | RuleTarget::Drop | RuleTarget::Goto(_) => true,
                RuleTarget::Jump(next) => rule.is_unconditional() && self.never_returns(next, depth + 1),
                _ => false,
            };
            if decides && rule.is_unconditional() {
                answer = true;
                break;
            }
        }
        self.known.insert(chain, answer);
        answer
    }
}

#[cfg(test)]
mod tests;
