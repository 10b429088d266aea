//! A packet in the chains of one table.

use super::nat::Rewrite;
use super::outcome::{Outcomes, Step, Verdict};
use super::packet::{Device, Packet, States};
use super::rule::{Rule, Target};
use super::ruleset::{End, Ruleset};
use super::test::Answer;
use super::trace::{self, Met};
use crate::resource::iptables::Policy;

/// How many rules one walk looks at before it gives up; a ruleset of 10 000 rules that is walked
/// through in several tables stays far below it.
const BUDGET: usize = 400_000;

/// How deep chains may call each other. The kernel refuses loops, a damaged save does not.
const DEPTH: usize = 64;

/// How many rules that match are told.
const TOLD: usize = 1024;

/// Walks chains; carries what a packet gets on its way.
pub(super) struct Walker<'a> {
    pub(super) rules: &'a Ruleset,
    /// As it has become in the chain that is walked.
    pub(super) packet: Packet,
    outcomes: Outcomes,
    met: Vec<Met>,
    budget: usize,
    told: usize,
}

/// Where a chain is walked: how deep, and whether the packet surely comes here.
#[derive(Clone, Copy)]
struct Frame {
    depth: usize,
    sure: bool,
}

/// What one built-in chain came to.
pub(super) struct Passed {
    /// What its branches came to.
    pub(super) outcomes: Outcomes,
    /// The rules that match.
    pub(super) met: Vec<Met>,
    /// How many were asked.
    pub(super) asked: usize,
}

impl<'a> Walker<'a> {
    pub(super) fn new(rules: &'a Ruleset, packet: &Packet) -> Self {
        let outcomes = Outcomes::default();
        Self { rules, packet: packet.clone(), outcomes, met: Vec::new(), budget: BUDGET, told: TOLD }
    }

    /// Walks one built-in chain of one table; the packet is then as it leaves it.
    pub(super) fn builtin(&mut self, table: &str, chain: &str) -> Passed {
        let before = self.budget;
        let state = self.packet.state;
        if table == "raw" {
            self.packet.state = seen_by_raw(&self.packet);
        }
        let shown = self.packet.state;
        match self.rules.chain(table, chain) {
            None => self.outcomes.untouched = true,
            Some(_) => {
                if self.chain(table, chain, Frame { depth: 0, sure: true }) {
                    self.policy(table, chain);
                }
            }
        }
        if table == "raw" {
            // What NOTRACK added to the placeholder it adds to the state.
            self.packet.state = match self.packet.state {
                States::UNTRACKED => States::UNTRACKED,
                after if after == shown => state,
                _ => state | States::UNTRACKED,
            };
        }
        let (outcomes, met) = (std::mem::take(&mut self.outcomes), std::mem::take(&mut self.met));
        self.told -= met.len();
        Passed { outcomes, met, asked: before - self.budget }
    }

    fn policy(&mut self, table: &str, chain: &str) {
        let end = self.rules.chain(table, chain).map_or(End::Odd, |chain| chain.end);
        let step =
            |text: &str| Step { table: table.into(), chain: chain.into(), index: None, text: text.into() };
        match end {
            End::Policy(policy) => {
                let verdict = match policy {
                    Policy::Accept => Verdict::Accept,
                    Policy::Drop => Verdict::Drop,
                };
                self.outcomes.note(verdict, step(&format!("policy {policy}")));
            }
            End::Back => self.outcomes.note(Verdict::Accept, step("end of the chain")),
            End::Odd => self.outcomes.note(Verdict::Unknown, step("policy that is not understood")),
        }
    }

    /// Walks a chain; says whether the packet may come out at its end.
    fn chain(&mut self, table: &str, name: &str, frame: Frame) -> bool {
        let rules = self.rules;
        let Some(chain) = rules.chain(table, name) else { return true };
        let mut may_return = false;
        for (index, rule) in chain.rules.iter().enumerate() {
            let step = || Step {
                table: chain.table.clone(),
                chain: chain.name.clone(),
                index: Some(index + 1),
                text: rule.text.clone(),
            };
            if self.budget == 0 {
                self.outcomes.note(Verdict::Unknown, step());
                return false;
            }
            self.budget -= 1;
            let sure = match rule.matches(&self.packet) {
                Answer::No => continue,
                Answer::Yes => true,
                Answer::Unknown => false,
            };
            self.tell(rule, sure, frame.depth, step);
            let noted = self.outcomes.noted;
            let inner = Frame { depth: frame.depth + 1, sure: frame.sure && sure && !may_return };
            // Whether a packet that surely matches goes on with the next rule.
            let goes_on = match &rule.target {
                Target::Accept => {
                    self.outcomes.note(Verdict::Accept, step());
                    false
                }
                Target::Drop => {
                    self.outcomes.note(Verdict::Drop, step());
                    false
                }
                Target::Return => {
                    may_return = true;
                    if !sure {
                        self.outcomes.doubtful_return.get_or_insert_with(step);
                    }
                    false
                }
                Target::Jump(chain) => self.enter(table, chain, inner, step),
                Target::Goto(chain) => {
                    may_return |= self.enter(table, chain, inner, step);
                    false
                }
                Target::Rewrite(rewrite) => {
                    self.rewrite(*rewrite, step());
                    false
                }
                Target::Unknown(_) => {
                    self.outcomes.note(Verdict::Unknown, step());
                    // It may as well let the packet go on.
                    true
                }
                change => {
                    let alone = self.outcomes.accept.is_none() && self.outcomes.rewritten.is_empty();
                    self.change(change, inner.sure && alone);
                    true
                }
            };
            if !sure && self.outcomes.noted > noted {
                self.outcomes.doubt.get_or_insert_with(step);
            }
            if sure && !goes_on {
                return may_return;
            }
        }
        true
    }

    fn tell(&mut self, rule: &Rule, sure: bool, depth: usize, step: impl Fn() -> Step) {
        if self.met.len() >= self.told {
            return;
        }
        let (answer, missing) = match sure {
            true => (Answer::Yes, Vec::new()),
            false => (Answer::Unknown, trace::missing(&rule.matches, &self.packet)),
        };
        self.met.push(Met { step: step(), depth, answer, missing, target: rule.target.clone() });
    }

    /// Enters a chain; says whether the packet may come back.
    fn enter(&mut self, table: &str, chain: &str, frame: Frame, step: impl Fn() -> Step) -> bool {
        if frame.depth >= DEPTH || self.rules.chain(table, chain).is_none() {
            self.outcomes.note(Verdict::Unknown, step());
            return true;
        }
        self.chain(table, chain, frame)
    }

    /// What a rewriting target does is the same for all of its branches that have it.
    fn rewrite(&mut self, rewrite: Rewrite, step: Step) {
        self.outcomes.noted += 1;
        self.outcomes.rewritten.push((rewrite, step));
    }

    /// What a target does to the packet itself.
    fn change(&mut self, target: &Target, sure: bool) {
        match target {
            Target::Mark { value, mask } => {
                let after = self.packet.mark.map(|mark| (mark & !mask) ^ value);
                if sure || after == self.packet.mark {
                    self.packet.mark = after;
                } else {
                    self.packet.mark = None;
                }
            }
            Target::AnyMark => self.packet.mark = None,
            Target::Untrack if sure => self.packet.state = States::UNTRACKED,
            Target::Untrack => self.packet.state = self.packet.state | States::UNTRACKED,
            _ => {}
        }
    }
}

/// Conntrack comes after raw; xt_conntrack calls what it has not seen INVALID, also what conntrack will
/// leave alone. Only what comes by the loopback has its state already from when it was sent.
fn seen_by_raw(packet: &Packet) -> States {
    match &packet.in_iface {
        Device::Named(name) if **name == *"lo" => packet.state,
        Device::Named(_) | Device::Outside | Device::Absent => States::INVALID,
        Device::Some | Device::Unknown => packet.state | States::INVALID,
    }
}
