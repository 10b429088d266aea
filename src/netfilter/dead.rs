//! Rules that no packet can reach.

use super::disjoint::included;
use super::matches::{Match, Test};
use super::rule::{Rule, Target};
use super::ruleset::Ruleset;
use shape::Deciders;
use std::collections::HashMap;

mod shape;

/// A rule that never matches, and the one before it that takes its packets. Both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The dead rule.
    pub index: usize,
    /// The rule that shadows it.
    pub shadowed_by: usize,
}

/// The rules of a chain that are dead for certain: they stand after a rule that no packet
/// outlives, or after one that decides about all that they could match.
pub fn dead_rules(rules: &Ruleset, table: &str, chain: &str) -> Vec<Dead> {
    let mut ends = Ends { rules, table, known: HashMap::new() };
    let mut dead = Vec::new();
    let mut decided = Deciders::default();
    let mut wall: Option<usize> = None;
    for (index, rule) in rules.rules(table, chain).unwrap_or_default().iter().enumerate() {
        let index = index + 1;
        if let Some(shadowed_by) = wall {
            dead.push(Dead { index, shadowed_by });
            continue;
        }
        if let Some(shadowed_by) = decided.before(&rule.matches) {
            dead.push(Dead { index, shadowed_by });
        } else if is_steady(rule) && ends.is_last(rule, 0) {
            decided.add(&rule.matches, index);
            wall = rule.is_unconditional().then_some(index);
        }
    }
    dead
}

/// Whether a packet that a rule matches would be matched by the same rule again: nothing that
/// counts or rolls dice, and no mark, which a rule between may set.
fn is_steady(rule: &Rule) -> bool {
    rule.matches.iter().all(|one| !matches!(one.test, Test::Unknown(_) | Test::Mark { .. }))
}

struct Ends<'a> {
    rules: &'a Ruleset,
    table: &'a str,
    known: HashMap<&'a str, bool>,
}

impl<'a> Ends<'a> {
    /// Whether no packet that this rule matches goes on with the next one of the chain.
    fn is_last(&mut self, rule: &'a Rule, depth: usize) -> bool {
        match &rule.target {
            Target::Accept | Target::Drop | Target::Return => true,
            Target::Goto(chain) => self.rules.rules(self.table, chain).is_some(),
            Target::Jump(chain) => self.never_returns(chain, depth),
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
                Target::Return => break,
                Target::Goto(next) if !self.never_returns(next, depth + 1) => break,
                Target::Accept | Target::Drop | Target::Goto(_) => true,
                Target::Jump(next) => rule.is_unconditional() && self.never_returns(next, depth + 1),
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
