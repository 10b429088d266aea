//! A packet on its way through the tables.

use super::outcome::{Outcomes, Step, Verdict};
use super::packet::{Device, Packet, States};
use super::rule::Target;
use super::ruleset::{End, Ruleset};
use super::test::Answer;
use crate::resource::iptables::Policy;

/// How many rules one walk looks at before it gives up; a ruleset of 10 000 rules that is walked
/// through in several tables stays far below it.
const BUDGET: usize = 400_000;

/// How deep chains may call each other. The kernel refuses loops, a damaged save does not.
const DEPTH: usize = 64;

/// How many steps are told.
const PATH: usize = 256;

/// Where a packet goes: the built-in chain of the filter table that it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// To the host.
    Input,
    /// Through the host, routed or bridged.
    Forward,
    /// From the host.
    Output,
}

/// What a walk found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// The rule or policy that says so; for *unknown*, the first rule that cannot be answered.
    /// `None` only where no rule and no policy was met.
    pub decided_by: Option<Step>,
    /// The rules met on the way, the first of them at least, surely or maybe.
    pub path: Vec<Step>,
}

/// Which devices a packet has when it meets a chain.
#[derive(Clone, Copy)]
enum Place {
    Pre,
    Middle,
    Post,
}

impl Base {
    /// The tables and built-in chains in the order of the kernel.
    fn stages(self) -> &'static [(&'static str, &'static str, Place)] {
        use Place::{Middle, Post, Pre};
        match self {
            Base::Input => &[
                ("raw", "PREROUTING", Pre),
                ("mangle", "PREROUTING", Pre),
                ("nat", "PREROUTING", Pre),
                ("mangle", "INPUT", Middle),
                ("filter", "INPUT", Middle),
                ("security", "INPUT", Middle),
                ("nat", "INPUT", Middle),
            ],
            Base::Forward => &[
                ("raw", "PREROUTING", Pre),
                ("mangle", "PREROUTING", Pre),
                ("nat", "PREROUTING", Pre),
                ("mangle", "FORWARD", Middle),
                ("filter", "FORWARD", Middle),
                ("security", "FORWARD", Middle),
                ("mangle", "POSTROUTING", Post),
                ("nat", "POSTROUTING", Post),
            ],
            Base::Output => &[
                ("raw", "OUTPUT", Middle),
                ("mangle", "OUTPUT", Middle),
                ("nat", "OUTPUT", Middle),
                ("filter", "OUTPUT", Middle),
                ("security", "OUTPUT", Middle),
                ("mangle", "POSTROUTING", Post),
                ("nat", "POSTROUTING", Post),
            ],
        }
    }
}

/// Walks a packet through all tables.
pub fn walk(rules: &Ruleset, base: Base, packet: &Packet) -> Walk {
    let mut walker = Walker::new(rules, packet);
    let mut passed: Option<Step> = None;
    let mut doubt: Option<Step> = None;
    for (table, chain, place) in base.stages() {
        if rules.is_incompatible(table) && doubt.is_none() {
            doubt = Some(Step {
                table: (*table).to_owned(),
                chain: (*chain).to_owned(),
                index: None,
                text: "native nft rules, which iptables-save does not show".to_owned(),
            });
        }
        // NAT looks only at the first packet of a connection.
        if *table == "nat" && !walker.packet.state.meets(States::NEW | States::RELATED) {
            continue;
        }
        let seen = walker.packet_at(packet, table, *place);
        let stage = walker.stage(table, chain, seen);
        match stage.verdict() {
            (Verdict::Drop, step) if !stage.rewritten => return walker.finish(Verdict::Drop, step),
            (Verdict::Accept, step) => {
                // The filter table is where one looks for the answer; a policy says little.
                if *table == "filter" || passed.is_none() {
                    passed = step.or(passed);
                }
            }
            (_, step) => doubt = doubt.or(step),
        }
        // Behind NAT it is another packet, and none that is known here.
        if stage.rewritten {
            break;
        }
    }
    match doubt {
        Some(step) => walker.finish(Verdict::Unknown, Some(step)),
        None => walker.finish(Verdict::Accept, passed),
    }
}

/// Walks a packet through one chain of one table, and what it calls.
pub fn walk_chain(rules: &Ruleset, table: &str, chain: &str, packet: &Packet) -> Walk {
    let mut walker = Walker::new(rules, packet);
    let (verdict, step) = walker.stage(table, chain, packet.clone()).verdict();
    walker.finish(verdict, step)
}

struct Walker<'a> {
    rules: &'a Ruleset,
    packet: Packet,
    outcomes: Outcomes,
    path: Vec<Step>,
    budget: usize,
}

/// Where a chain is walked: how deep, and whether the packet surely comes here.
#[derive(Clone, Copy)]
struct Frame {
    depth: usize,
    sure: bool,
}

impl<'a> Walker<'a> {
    fn new(rules: &'a Ruleset, packet: &Packet) -> Self {
        let outcomes = Outcomes::default();
        Self { rules, packet: packet.clone(), outcomes, path: Vec::new(), budget: BUDGET }
    }

    fn finish(self, verdict: Verdict, decided_by: Option<Step>) -> Walk {
        Walk { verdict, decided_by, path: self.path }
    }

    /// The packet as the chains of one hook see it, with the mark and state it has got by now.
    fn packet_at(&self, first: &Packet, table: &str, place: Place) -> Packet {
        let mut packet = Packet { mark: self.packet.mark, state: self.packet.state, ..first.clone() };
        match place {
            Place::Pre => {
                packet.out_iface = Device::Absent;
                packet.physout = Device::Absent;
                packet.bridged = false;
            }
            Place::Middle => {}
            Place::Post => packet.in_iface = Device::Absent,
        }
        if table == "raw" && packet.state != States::UNTRACKED {
            // Conntrack comes after raw; xt_conntrack calls what it has not seen INVALID. Only what
            // comes by the loopback has its state already from when it was sent.
            packet.state = match &packet.in_iface {
                Device::Named(name) if name == "lo" => packet.state,
                Device::Named(_) | Device::Absent => States::INVALID,
                Device::Some | Device::Unknown => packet.state | States::INVALID,
            };
        }
        packet
    }

    /// Walks one built-in chain of one table.
    fn stage(&mut self, table: &str, chain: &str, seen: Packet) -> Outcomes {
        let state = self.packet.state;
        let shown = seen.state;
        self.packet = seen;
        self.outcomes = Outcomes::default();
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
        std::mem::take(&mut self.outcomes)
    }

    fn policy(&mut self, table: &str, chain: &str) {
        let end = self.rules.chain(table, chain).map_or(End::Odd, |chain| chain.end);
        let step =
            |text: String| Step { table: table.to_owned(), chain: chain.to_owned(), index: None, text };
        match end {
            End::Policy(policy) => {
                let verdict = match policy {
                    Policy::Accept => Verdict::Accept,
                    Policy::Drop => Verdict::Drop,
                };
                self.outcomes.note(verdict, step(format!("policy {policy}")));
            }
            End::Back => self.outcomes.note(Verdict::Accept, step("end of the chain".to_owned())),
            End::Odd => {
                self.outcomes.note(Verdict::Unknown, step("policy that is not understood".to_owned()))
            }
        }
    }

    /// Walks a chain; says whether the packet may come out at its end.
    fn chain(&mut self, table: &str, name: &str, frame: Frame) -> bool {
        let rules = self.rules;
        let Some(chain) = rules.chain(table, name) else { return true };
        let mut may_return = false;
        for (index, rule) in chain.rules.iter().enumerate() {
            let step = || Step {
                table: table.to_owned(),
                chain: name.to_owned(),
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
            if self.path.len() < PATH {
                self.path.push(step());
            }
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
                Target::Rewrite => {
                    self.outcomes.rewritten = true;
                    self.outcomes.note(Verdict::Unknown, step());
                    false
                }
                Target::Unknown(_) => {
                    self.outcomes.note(Verdict::Unknown, step());
                    // It may as well let the packet go on.
                    true
                }
                change => {
                    self.change(change, inner.sure && self.outcomes.accept.is_none());
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

    /// Enters a chain; says whether the packet may come back.
    fn enter(&mut self, table: &str, chain: &str, frame: Frame, step: impl Fn() -> Step) -> bool {
        if frame.depth >= DEPTH || self.rules.chain(table, chain).is_none() {
            self.outcomes.note(Verdict::Unknown, step());
            return true;
        }
        self.chain(table, chain, frame)
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

#[cfg(test)]
mod tests;
