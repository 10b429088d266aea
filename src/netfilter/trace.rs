//! What a walk met on its way, hook by hook and rule by rule.

use super::matches::{Match, Test};
use super::outcome::{Step, Verdict};
use super::packet::Packet;
use super::rule::Target;
use super::test::Answer;
use std::borrow::Cow;

/// One built-in chain of one table on the way of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The table.
    pub table: Cow<'static, str>,
    /// The built-in chain.
    pub chain: Cow<'static, str>,
    /// The packet as it comes here: with its mark, and rewritten by NAT before.
    pub packet: Packet,
    /// Why no rule was asked, where none was.
    pub skipped: Option<Skipped>,
    /// What the chain does to it. *Accept* is: it goes on to the next stage.
    pub verdict: Verdict,
    /// The rule or policy that says so; for *unknown* the first that cannot be answered.
    pub decided_by: Option<Step>,
    /// How many rules were asked; those that are not in `met` do not match.
    pub asked: usize,
    /// The rules that match, surely or maybe, in the order in which they were met.
    pub met: Vec<Met>,
    /// The stage is met only if this rule before it has rewritten the packet, or has not (`false`).
    /// `None` where there is no doubt.
    pub assuming: Option<(Step, bool)>,
}

/// Why the rules of a stage were not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skipped {
    /// There are none.
    NoRules,
    /// nat looks at the first packet of a connection only; later ones are rewritten as that was.
    LaterPacket,
}

/// A rule that matches, surely or maybe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// The rule.
    pub step: Step,
    /// How deep in user chains it stands; 0 is the built-in chain.
    pub depth: usize,
    /// `Yes` or `Unknown`.
    pub answer: Answer,
    /// For *unknown*: the facts that are missing, as the rule or the packet has them:
    /// `source address`, `-m limit --limit 5/min`.
    pub missing: Vec<String>,
    /// What it does to a packet that matches.
    pub target: Target,
}

impl Met {
    /// Whether a sure answer was not possible: by its conditions or by its target.
    pub fn is_unknown(&self) -> bool {
        self.answer == Answer::Unknown || matches!(self.target, Target::Unknown(_))
    }
}

/// The facts that a rule asks for and that are not known of a packet.
pub(super) fn missing(matches: &[Match], packet: &Packet) -> Vec<String> {
    let unknown = |one: &&Match| one.answer(packet) == Answer::Unknown;
    matches.iter().filter(unknown).map(|one| fact(&one.test)).collect()
}

fn fact(test: &Test) -> String {
    match test {
        Test::Source(_) | Test::SourceRange(..) => "source address",
        Test::Destination(_) | Test::DestinationRange(..) => "destination address",
        Test::In(_) => "device it comes in by",
        Test::Out(_) => "device it leaves by",
        Test::Protocol(_) => "protocol",
        Test::Fragment => "whether it is a fragment",
        Test::SourcePorts(_) => "source port",
        Test::DestinationPorts(_) => "destination port",
        Test::AnyPorts(_) => "ports",
        Test::TcpFlags { .. } => "TCP flags",
        Test::Icmp { .. } => "ICMP type",
        Test::Conntrack(asked) => match &asked.other {
            Some(other) => return format!("-m conntrack {other}"),
            None => "connection state",
        },
        Test::PhysIn(_) | Test::PhysIsIn => "bridge port it comes in by",
        Test::PhysOut(_) | Test::PhysIsOut => "bridge port it leaves by",
        Test::PhysIsBridged => "whether it is bridged",
        Test::Mark { .. } => "mark",
        Test::SourceKind(_) => "kind of the source address",
        Test::DestinationKind(_) => "kind of the destination address",
        Test::InSet(set) => return set.to_string(),
        Test::Unknown(text) => text,
    }
    .to_owned()
}
