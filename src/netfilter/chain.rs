//! A packet in the chains of one table.

use super::answer::Tristate;
use super::outcome::{BranchOutcomes, PacketVerdict, TraceStep};
use super::packet::{ConntrackStates, Packet, PacketDevice};
use super::rewrite::NatRewrite;
use super::rule::{ParsedRule, RuleTarget};
use super::ruleset::{ChainEnd, Ruleset};
use super::trace::{self, MatchedRule};
use crate::resource::iptables::ChainPolicy;

/// Most rules that one simulation evaluates; a ruleset of 10 000 rules that is simulated
/// through in several tables stays far below it.
const BUDGET: usize = 400_000;

/// How deep chains may call each other. The kernel refuses loops, a damaged save does not.
const DEPTH: usize = 64;

/// How many rules that match are told.
const TOLD: usize = 1024;

/// Evaluates chains for one packet; holds the packet with the marks and states that rules give it.
pub(super) struct ChainEvaluator<'a> {
    pub(super) rules: &'a Ruleset,
    /// The packet as the rules so far have changed it.
    pub(super) packet: Packet,
    outcomes: BranchOutcomes,
    met: Vec<MatchedRule>,
    budget: usize,
    told: usize,
}

/// One call of a chain: its depth, and whether the packet certainly gets here.
#[derive(Clone, Copy)]
struct CallFrame {
    depth: usize,
    sure: bool,
}

/// What one built-in chain came to.
pub(super) struct ChainOutcome {
    /// What its branches came to.
    pub(super) outcomes: BranchOutcomes,
    /// The rules that match.
    pub(super) met: Vec<MatchedRule>,
    /// How many were asked.
    pub(super) asked: usize,
}

impl<'a> ChainEvaluator<'a> {
    pub(super) fn new(rules: &'a Ruleset, packet: &Packet) -> Self {
        let outcomes = BranchOutcomes::default();
        Self { rules, packet: packet.clone(), outcomes, met: Vec::new(), budget: BUDGET, told: TOLD }
    }

    /// Evaluates one built-in chain of one table, and leaves `packet` as the chain changes it.
    pub(super) fn builtin(&mut self, table: &str, chain: &str) -> ChainOutcome {
        let before = self.budget;
        let state = self.packet.state;
        if table == "raw" {
            self.packet.state = seen_by_raw(&self.packet);
        }
        let shown = self.packet.state;
        match self.rules.chain(table, chain) {
            None => self.outcomes.untouched = true,
            Some(_) => {
                if self.chain(table, chain, CallFrame { depth: 0, sure: true }) {
                    self.policy(table, chain);
                }
            }
        }
        if table == "raw" {
            // What NOTRACK added to the placeholder it adds to the state.
            self.packet.state = match self.packet.state {
                ConntrackStates::UNTRACKED => ConntrackStates::UNTRACKED,
                after if after == shown => state,
                _ => state | ConntrackStates::UNTRACKED,
            };
        }
        let (outcomes, met) = (std::mem::take(&mut self.outcomes), std::mem::take(&mut self.met));
        self.told -= met.len();
        ChainOutcome { outcomes, met, asked: before - self.budget }
    }

    fn policy(&mut self, table: &str, chain: &str) {
        let end = self.rules.chain(table, chain).map_or(ChainEnd::Odd, |chain| chain.end);
        let step = |text: &str| TraceStep {
            table: table.into(),
            chain: chain.into(),
            index: None,
            text: text.into(),
        };
        match end {
            ChainEnd::Policy(policy) => {
                let verdict = match policy {
                    ChainPolicy::Accept => PacketVerdict::Accept,
                    ChainPolicy::Drop => PacketVerdict::Drop,
                };
                self.outcomes.note(verdict, step(&format!("policy {policy}")));
            }
            ChainEnd::Back => self.outcomes.note(PacketVerdict::Accept, step("end of the chain")),
            ChainEnd::Odd => {
                self.outcomes.note(PacketVerdict::Unknown, step("policy that is not understood"))
            }
        }
    }

    /// Evaluates a chain. Returns whether the packet may return from its end.
    fn chain(&mut self, table: &str, name: &str, frame: CallFrame) -> bool {
        let rules = self.rules;
        let Some(chain) = rules.chain(table, name) else { return true };
        let mut may_return = false;
        for (index, rule) in chain.rules.iter().enumerate() {
            let step = || TraceStep {
                table: chain.table.clone(),
                chain: chain.name.clone(),
                index: Some(index + 1),
                text: rule.text.clone(),
            };
            if self.budget == 0 {
                self.outcomes.note(PacketVerdict::Unknown, step());
                return false;
            }
            self.budget -= 1;
            let sure = match rule.matches(&self.packet) {
                Tristate::No => continue,
                Tristate::Yes => true,
                Tristate::Unknown => false,
            };
            self.record_match(rule, sure, frame.depth, step);
            let noted = self.outcomes.noted;
            let inner = CallFrame { depth: frame.depth + 1, sure: frame.sure && sure && !may_return };
            // Whether a packet that surely matches goes on with the next rule.
            let goes_on = match &rule.target {
                RuleTarget::Accept => {
                    self.outcomes.note(PacketVerdict::Accept, step());
                    false
                }
                RuleTarget::Drop => {
                    self.outcomes.note(PacketVerdict::Drop, step());
                    false
                }
                RuleTarget::Return => {
                    may_return = true;
                    if !sure {
                        self.outcomes.doubtful_return.get_or_insert_with(step);
                    }
                    false
                }
                RuleTarget::Jump(chain) => self.enter(table, chain, inner, step),
                RuleTarget::Goto(chain) => {
                    may_return |= self.enter(table, chain, inner, step);
                    false
                }
                RuleTarget::Rewrite(rewrite) => {
                    self.rewrite(*rewrite, step());
                    false
                }
                RuleTarget::Unknown(_) => {
                    self.outcomes.note(PacketVerdict::Unknown, step());
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

    fn record_match(&mut self, rule: &ParsedRule, sure: bool, depth: usize, step: impl Fn() -> TraceStep) {
        if self.met.len() >= self.told {
            return;
        }
        let (answer, missing) = match sure {
            true => (Tristate::Yes, Vec::new()),
            false => (Tristate::Unknown, trace::missing(&rule.matches, &self.packet)),
        };
        self.met.push(MatchedRule { step: step(), depth, answer, missing, target: rule.target.clone() });
    }

    /// Enters a chain; says whether the packet may come back.
    fn enter(&mut self, table: &str, chain: &str, frame: CallFrame, step: impl Fn() -> TraceStep) -> bool {
        if frame.depth >= DEPTH || self.rules.chain(table, chain).is_none() {
            self.outcomes.note(PacketVerdict::Unknown, step());
            return true;
        }
        self.chain(table, chain, frame)
    }

    /// What a rewriting target does is the same for all of its branches that have it.
    fn rewrite(&mut self, rewrite: NatRewrite, step: TraceStep) {
        self.outcomes.noted += 1;
        self.outcomes.rewritten.push((rewrite, step));
    }

    /// What a target does to the packet itself.
    fn change(&mut self, target: &RuleTarget, sure: bool) {
        match target {
            RuleTarget::Mark { value, mask } => {
                let after = self.packet.mark.map(|mark| (mark & !mask) ^ value);
                if sure || after == self.packet.mark {
                    self.packet.mark = after;
                } else {
                    self.packet.mark = None;
                }
            }
            RuleTarget::AnyMark => self.packet.mark = None,
            RuleTarget::Untrack if sure => self.packet.state = ConntrackStates::UNTRACKED,
            RuleTarget::Untrack => self.packet.state = self.packet.state | ConntrackStates::UNTRACKED,
            _ => {}
        }
    }
}

/// Conntrack comes after raw; xt_conntrack calls what it has not seen INVALID, also what conntrack will
/// leave alone. Only what comes by the loopback has its state already from when it was sent.
fn seen_by_raw(packet: &Packet) -> ConntrackStates {
    match &packet.in_iface {
        PacketDevice::Named(name) if **name == *"lo" => packet.state,
        PacketDevice::Named(_) | PacketDevice::Outside | PacketDevice::Absent => ConntrackStates::INVALID,
        PacketDevice::Some | PacketDevice::Unknown => packet.state | ConntrackStates::INVALID,
    }
}
