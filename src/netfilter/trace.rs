//! The record of a simulation, hook by hook and rule by rule.

use super::answer::Tristate;
use super::matches::{MatchTest, RuleMatch};
use super::outcome::{PacketVerdict, TraceStep};
use super::packet::Packet;
use super::rule::RuleTarget;
use std::borrow::Cow;

/// One built-in chain of one table on the way of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStage {
    /// The table.
    pub table: Cow<'static, str>,
    /// The built-in chain.
    pub chain: Cow<'static, str>,
    /// The packet as it comes here: with its mark, and rewritten by NAT before.
    pub packet: Packet,
    /// Why no rule was asked, where none was.
    pub skipped: Option<SkipReason>,
    /// What the chain does to it. *Accept* is: it goes on to the next stage.
    pub verdict: PacketVerdict,
    /// The rule or policy that says so; for *unknown* the first that cannot be answered.
    pub decided_by: Option<TraceStep>,
    /// How many rules were asked; those that are not in `met` do not match.
    pub asked: usize,
    /// The rules that match, surely or maybe, in the order in which they were met.
    pub matched: Vec<MatchedRule>,
    /// The stage is met only if this rule before it has rewritten the packet, or has not (`false`).
    /// `None` where there is no doubt.
    pub assuming: Option<(TraceStep, bool)>,
}

/// Why the rules of a stage were not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// There are none.
    NoRules,
    /// nat looks at the first packet of a connection only; later ones are rewritten as that was.
    LaterPacket,
}

/// A rule that matches, surely or maybe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchedRule {
    /// The rule.
    pub step: TraceStep,
    /// How deep in user chains it stands; 0 is the built-in chain.
    pub depth: usize,
    /// `Yes` or `Unknown`.
    pub answer: Tristate,
    /// For *unknown*: the facts that are missing, as the rule or the packet has them:
    /// `source address`, `-m limit --limit 5/min`.
    pub missing: Vec<String>,
    /// What it does to a packet that matches.
    pub target: RuleTarget,
}

impl MatchedRule {
    /// Whether a sure answer was not possible: by its conditions or by its target.
    pub fn is_unknown(&self) -> bool {
        self.answer == Tristate::Unknown || matches!(self.target, RuleTarget::Unknown(_))
    }
}

/// The facts that a rule asks for and that are not known of a packet.
pub(super) fn missing(matches: &[RuleMatch], packet: &Packet) -> Vec<String> {
    let unknown = |one: &&RuleMatch| one.answer(packet) == Tristate::Unknown;
    matches.iter().filter(unknown).map(|one| fact(&one.test)).collect()
}

fn fact(test: &MatchTest) -> String {
    match test {
        MatchTest::Source(_) | MatchTest::SourceRange(..) => "source address",
        MatchTest::Destination(_) | MatchTest::DestinationRange(..) => "destination address",
        MatchTest::In(_) => "device it comes in by",
        MatchTest::Out(_) => "device it leaves by",
        MatchTest::Protocol(_) => "protocol",
        MatchTest::Fragment => "whether it is a fragment",
        MatchTest::SourcePorts(_) => "source port",
        MatchTest::DestinationPorts(_) => "destination port",
        MatchTest::AnyPorts(_) => "ports",
        MatchTest::TcpFlags { .. } => "TCP flags",
        MatchTest::Icmp { .. } => "ICMP type",
        MatchTest::Conntrack(asked) => match &asked.other {
            Some(other) => return format!("-m conntrack {other}"),
            None => "connection state",
        },
        MatchTest::PhysIn(_) | MatchTest::PhysIsIn => "bridge port it comes in by",
        MatchTest::PhysOut(_) | MatchTest::PhysIsOut => "bridge port it leaves by",
        MatchTest::PhysIsBridged => "whether it is bridged",
        MatchTest::Mark { .. } => "mark",
        MatchTest::Length(..) => "length of the packet",
        MatchTest::SourceKind(_) => "kind of the source address",
        MatchTest::DestinationKind(_) => "kind of the destination address",
        MatchTest::InSet(set) => return set.to_string(),
        MatchTest::Unknown(text) => text,
    }
    .to_owned()
}
