//! Results of a simulation, and the rules that decide them.

use super::rewrite::NatRewrite;
use std::fmt;
use std::sync::Arc;

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketVerdict {
    /// It passes, whatever the answers that are not known.
    Accept,
    /// It is dropped or rejected, whatever the answers that are not known.
    Drop,
    /// It depends on something that is not known.
    Unknown,
}

/// A rule or a policy that a packet meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStep {
    /// The table.
    pub table: Arc<str>,
    /// The chain; empty for a table that is not simulated ([`super::OtherTable`]).
    pub chain: Arc<str>,
    /// The place of the rule, counted from 1; `None` is the end of the chain.
    pub index: Option<usize>,
    /// The text of the rule, less `-A CHAIN`, or `policy DROP`.
    pub text: Arc<str>,
}

impl fmt::Display for TraceStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.chain.is_empty() {
            return write!(f, "{}, which {}", self.table, self.text);
        }
        write!(f, "{}/{}", self.table, self.chain)?;
        match self.index {
            Some(index) => write!(f, " rule {index}: {}", self.text),
            None => write!(f, " {}", self.text),
        }
    }
}

/// What the branches of one built-in chain came to.
#[derive(Default)]
pub(super) struct BranchOutcomes {
    /// The latest step by which a branch passes.
    pub(super) accept: Option<TraceStep>,
    /// The latest by which one is dropped.
    pub(super) drop: Option<TraceStep>,
    /// The first target that is not modelled.
    pub(super) unknown: Option<TraceStep>,
    /// The first rule without a sure answer that decided on one of its branches.
    pub(super) doubt: Option<TraceStep>,
    /// A RETURN without a sure answer: to blame when there is nothing better.
    pub(super) doubtful_return: Option<TraceStep>,
    /// What NAT makes of the packet on some branch, and by which rule. Such a branch passes.
    pub(super) rewritten: Vec<(NatRewrite, TraceStep)>,
    /// How many verdicts were noted.
    pub(super) noted: usize,
    /// No rule and no policy was met.
    pub(super) untouched: bool,
}

impl BranchOutcomes {
    /// What all branches agree on, and by which rule; or the rule to blame that they do not.
    pub(super) fn verdict(&self) -> (PacketVerdict, Option<TraceStep>) {
        let rewritten = self.rewritten.first().map(|(_, step)| step.clone());
        let accept = self.accept.clone().or(rewritten);
        match (&accept, &self.drop, &self.unknown) {
            (Some(_), None, None) => (PacketVerdict::Accept, accept),
            (None, Some(_), None) => (PacketVerdict::Drop, self.drop.clone()),
            (None, None, None) if self.untouched => (PacketVerdict::Accept, None),
            (accept, drop, unknown) => {
                let step = [&self.doubt, unknown, &self.doubtful_return, drop, accept];
                (PacketVerdict::Unknown, step.into_iter().flatten().next().cloned())
            }
        }
    }

    /// Notes what one branch came to.
    pub(super) fn note(&mut self, verdict: PacketVerdict, step: TraceStep) {
        self.noted += 1;
        match verdict {
            PacketVerdict::Accept => self.accept = Some(step),
            PacketVerdict::Drop => self.drop = Some(step),
            PacketVerdict::Unknown => {
                self.unknown.get_or_insert(step);
            }
        }
    }
}
