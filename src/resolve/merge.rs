//! How statements about one thing become one value: the most specific wins, equals must agree.

use crate::problem::{Origin, Place, Problem, Warning};
use std::collections::BTreeMap;

/// One value that several sources may state.
#[derive(Clone, Debug)]
pub struct MergeSlot<T> {
    best: Option<(u32, T, Place)>,
    /// Another value of the same rank.
    rival: Option<Place>,
}

impl<T> Default for MergeSlot<T> {
    fn default() -> Self {
        Self { best: None, rival: None }
    }
}

impl<T: PartialEq> MergeSlot<T> {
    /// Takes a statement into account.
    pub fn offer(&mut self, rank: u32, value: T, place: &Place) {
        match &self.best {
            Some((best, ..)) if *best > rank => {}
            Some((best, known, _)) if *best == rank => {
                if *known != value {
                    self.rival.get_or_insert_with(|| place.clone());
                }
            }
            _ => {
                self.best = Some((rank, value, place.clone()));
                self.rival = None;
            }
        }
    }

    /// The value so far, and where it was stated.
    pub fn stated(&self) -> Option<(&T, &Place)> {
        self.best.as_ref().map(|(_, value, place)| (value, place))
    }

    /// The value and where it was stated; `what` names it if two of equal rank disagree.
    pub fn take(self, what: impl FnOnce() -> String, out: &mut CompileReport) -> Option<(T, Place)> {
        let (_, value, place) = self.best?;
        if let Some(rival) = self.rival {
            out.problems.push(
                Problem::new("disagreement", format!("{} has two different values of equal rank", what()))
                    .at_place(&rival)
                    .help(format!("the other definition is at {place}; set the value once at a higher rank")),
            );
        }
        Some((value, place))
    }
}

/// What comes out of compiling one host besides its desired state.
#[derive(Debug, Default)]
pub struct CompileReport {
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Lints.
    pub warnings: Vec<Warning>,
    /// Every effective value, if somebody asked.
    pub facts: Option<Vec<EffectiveValue>>,
    /// Where the rules stand that name sets: whether both fit is decided once all of them are known.
    pub set_rules: BTreeMap<Origin, Place>,
}

/// One effective value: its path, itself, and where it was stated.
pub type EffectiveValue = (String, String, Origin);

impl CompileReport {
    /// Notes an effective value, if somebody asked.
    pub fn fact(&mut self, path: impl FnOnce() -> String, value: impl FnOnce() -> String, place: &Place) {
        if let Some(facts) = &mut self.facts {
            facts.push((path(), value(), place.origin()));
        }
    }
}
