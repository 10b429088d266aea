//! The simulation of a packet in all tables, hook by hook.

use super::chain::{ChainEvaluator, ChainOutcome};
use super::host_context::{HostContext, IptablesBackend, NetfilterHook, OtherTable, TableEffect};
use super::nat_hypothesis::{self, NatHypothesis};
use super::outcome::{PacketVerdict, TraceStep};
use super::packet::{Packet, PacketDevice};
use super::rule::RuleTarget;
use super::ruleset::Ruleset;
use super::trace::{MatchedRule, SkipReason, TraceStage};
use std::borrow::Cow;

/// Where a packet goes: the built-in chain of the filter table that it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PacketPath {
    /// To the host.
    Input,
    /// Through the host, routed or bridged.
    Forward,
    /// From the host.
    Output,
}

/// Result of one simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketTrace {
    /// What becomes of the packet.
    pub verdict: PacketVerdict,
    /// The rule or policy that says so; for *unknown*, the first rule that cannot be answered.
    /// `None` only where no rule and no policy was met.
    pub decided_by: Option<TraceStep>,
    /// Every hook and rule in order. Where a NAT rewrite is undecided, the stages of each hypothesis
    /// follow one after the other.
    pub stages: Vec<TraceStage>,
    /// The packet as it leaves the tables, where that is known: rewritten by NAT, with its mark and
    /// state, and `base` for where it ended.
    pub final_packet: Option<(PacketPath, Packet)>,
}

impl PacketTrace {
    /// The rules that matched, surely or maybe, in the order in which they were met.
    pub fn matched_rules(&self) -> impl Iterator<Item = &MatchedRule> {
        self.stages.iter().flat_map(|stage| &stage.matched)
    }

    /// Those that have no sure answer: why a verdict is unknown.
    pub fn unanswered_rules(&self) -> impl Iterator<Item = &MatchedRule> {
        self.matched_rules().filter(|met| met.is_unknown())
    }

    /// The first rule that rewrites an address, or may.
    pub fn first_rewrite(&self) -> Option<&MatchedRule> {
        self.matched_rules().find(|met| matches!(met.target, RuleTarget::Rewrite(_)))
    }
}

/// Simulates a packet in all tables.
pub fn simulate(rules: &Ruleset, context: &HostContext, base: PacketPath, packet: &Packet) -> PacketTrace {
    let mut evaluation = Evaluation { rules, context, trace: Vec::new(), passed: None, doubt: None };
    let start = NatHypothesis::start(rules, context, base, packet);
    let mut first = start.clone();
    let (hook, chain) = match base {
        PacketPath::Output => (NetfilterHook::Output, "OUTPUT"),
        PacketPath::Input | PacketPath::Forward => (NetfilterHook::Prerouting, "PREROUTING"),
    };
    for table in ["raw", "mangle"] {
        if let Some(drop) = evaluation.stage(&mut first, table, chain, hook) {
            return evaluation.finish(PacketVerdict::Drop, Some(drop), None);
        }
    }
    let hypotheses = evaluation.nat(&first, chain, hook);
    let common = (evaluation.passed.take(), evaluation.doubt.take());
    let mut ends = Vec::new();
    for hypothesis in hypotheses {
        (evaluation.passed, evaluation.doubt) = common.clone();
        ends.push(evaluation.rest(hypothesis));
    }
    evaluation.together(ends)
}

/// Simulates a packet in one chain of one table, and in the chains that it calls.
pub fn simulate_chain(rules: &Ruleset, table: &str, chain: &str, packet: &Packet) -> PacketTrace {
    let mut evaluator = ChainEvaluator::new(rules, packet);
    let mut passed = evaluator.builtin(table, chain);
    let (verdict, decided_by) = passed.outcomes.verdict();
    let trace =
        vec![stage(table.to_owned().into(), chain.to_owned().into(), packet.clone(), &mut passed, None)];
    PacketTrace { verdict, decided_by, stages: trace, final_packet: None }
}

/// Where the security table of INPUT is asked.
#[derive(PartialEq, Eq)]
enum SecurityOrder {
    BeforeNat,
    BehindNat,
}

/// Result under one NAT hypothesis.
struct HypothesisResult {
    verdict: PacketVerdict,
    step: Option<TraceStep>,
    left: (PacketPath, Packet),
    assuming: Option<(TraceStep, bool)>,
}

struct Evaluation<'a> {
    rules: &'a Ruleset,
    context: &'a HostContext,
    trace: Vec<TraceStage>,
    /// What lets the packet pass.
    passed: Option<TraceStep>,
    /// The first rule that makes it unknown.
    doubt: Option<TraceStep>,
}

impl Evaluation<'_> {
    fn finish(
        self,
        verdict: PacketVerdict,
        decided_by: Option<TraceStep>,
        left: Option<(PacketPath, Packet)>,
    ) -> PacketTrace {
        PacketTrace { verdict, decided_by, stages: self.trace, final_packet: left }
    }

    /// Evaluates one built-in chain. Returns the step that certainly drops the packet.
    fn stage(
        &mut self,
        hypothesis: &mut NatHypothesis,
        table: &'static str,
        chain: &'static str,
        hook: NetfilterHook,
    ) -> Option<TraceStep> {
        let seen = hypothesis.at(hook);
        let mut evaluator = ChainEvaluator::new(self.rules, &seen);
        let mut passed = evaluator.builtin(table, chain);
        hypothesis.packet.mark = evaluator.packet.mark;
        hypothesis.packet.state = evaluator.packet.state;
        self.note(table, chain, seen, &mut passed, hypothesis)
    }

    /// Writes down what a chain came to; what drops the packet for certain.
    fn note(
        &mut self,
        table: &'static str,
        chain: &'static str,
        seen: Packet,
        passed: &mut ChainOutcome,
        hypothesis: &NatHypothesis,
    ) -> Option<TraceStep> {
        let stage = stage(table.into(), chain.into(), seen, passed, hypothesis.assuming.clone());
        let (verdict, step) = (stage.verdict, stage.decided_by.clone());
        self.trace.push(stage);
        self.native(table);
        match verdict {
            PacketVerdict::Drop => return step,
            PacketVerdict::Accept => {
                // The filter table is where one looks for the answer; a policy says little.
                if table == "filter" || self.passed.is_none() {
                    self.passed = step.or(self.passed.take());
                }
            }
            PacketVerdict::Unknown => self.doubt = self.doubt.take().or(step),
        }
        None
    }

    /// What iptables-save does not show of a table may hang on any hook.
    fn native(&mut self, table: &str) {
        if self.rules.is_incompatible(table) && self.doubt.is_none() {
            self.doubt = Some(TraceStep {
                table: format!("the native part of the nft table {table}").into(),
                chain: "".into(),
                index: None,
                text: "may drop it".into(),
            });
        }
    }

    /// nat before routing: what the packet may have become.
    fn nat(
        &mut self,
        hypothesis: &NatHypothesis,
        chain: &'static str,
        hook: NetfilterHook,
    ) -> Vec<NatHypothesis> {
        let seen = hypothesis.at(hook);
        if !nat_hypothesis::asks_rules(&seen) {
            self.skip("nat", chain, seen, SkipReason::LaterPacket, hypothesis);
            return nat_hypothesis::destination(self.rules, self.context, hypothesis, None);
        }
        let mut evaluator = ChainEvaluator::new(self.rules, &seen);
        let mut passed = evaluator.builtin("nat", chain);
        self.note("nat", chain, seen, &mut passed, hypothesis);
        // A mark that is set beside the rewriting is asked for after routing (kube-proxy does that).
        let mut marked = hypothesis.clone();
        marked.packet.mark = evaluator.packet.mark;
        nat_hypothesis::destination(self.rules, self.context, &marked, Some(&passed.outcomes))
    }

    /// nat after routing, which changes where the packet seems to come from and no verdict.
    fn nat_source(
        &mut self,
        hypothesis: &mut NatHypothesis,
        chain: &'static str,
        hook: NetfilterHook,
    ) -> Option<TraceStep> {
        let seen = hypothesis.at(hook);
        if !nat_hypothesis::asks_rules(&seen) {
            self.skip("nat", chain, seen, SkipReason::LaterPacket, hypothesis);
            nat_hypothesis::source(self.rules, self.context, hypothesis, None);
            return None;
        }
        let mut evaluator = ChainEvaluator::new(self.rules, &seen);
        let mut passed = evaluator.builtin("nat", chain);
        hypothesis.packet.mark = evaluator.packet.mark;
        let dropped = self.note("nat", chain, seen, &mut passed, hypothesis);
        nat_hypothesis::source(self.rules, self.context, hypothesis, Some(&passed.outcomes)).or(dropped)
    }

    fn skip(
        &mut self,
        table: &'static str,
        chain: &'static str,
        packet: Packet,
        skipped: SkipReason,
        hypothesis: &NatHypothesis,
    ) {
        self.native(table);
        self.trace.push(TraceStage {
            table: table.into(),
            chain: chain.into(),
            packet,
            skipped: Some(skipped),
            verdict: PacketVerdict::Accept,
            decided_by: None,
            asked: 0,
            matched: Vec::new(),
            assuming: hypothesis.assuming.clone(),
        });
    }

    /// From routing to the end.
    fn rest(&mut self, mut hypothesis: NatHypothesis) -> HypothesisResult {
        let assuming = hypothesis.assuming.clone();
        let hooks = hypothesis.hooks();
        let step = match hypothesis.lost.take() {
            Some(step) => Some(step),
            None => self.tables(&mut hypothesis),
        };
        let left = (hypothesis.base, hypothesis.packet);
        if let Some(step) = step {
            return HypothesisResult { verdict: PacketVerdict::Drop, step: Some(step), left, assuming };
        }
        let doubt = self.doubt.take().or_else(|| self.other_table(&hooks, left.1.bridged));
        match doubt {
            Some(step) => {
                HypothesisResult { verdict: PacketVerdict::Unknown, step: Some(step), left, assuming }
            }
            None => {
                HypothesisResult { verdict: PacketVerdict::Accept, step: self.passed.take(), left, assuming }
            }
        }
    }

    /// The step after routing that certainly drops the packet.
    fn tables(&mut self, hypothesis: &mut NatHypothesis) -> Option<TraceStep> {
        let security = self.order_of_security();
        let (tables, chain, hook): (&[&str], _, _) = match hypothesis.base {
            PacketPath::Input if security != Ok(SecurityOrder::BeforeNat) => {
                (&["mangle", "filter"], "INPUT", NetfilterHook::Input)
            }
            PacketPath::Input => (&["mangle", "filter", "security"], "INPUT", NetfilterHook::Input),
            PacketPath::Forward => (&["mangle", "filter", "security"], "FORWARD", NetfilterHook::Forward),
            PacketPath::Output => (&["filter", "security"], "OUTPUT", NetfilterHook::Output),
        };
        for table in tables {
            if let Some(drop) = self.stage(hypothesis, table, chain, hook) {
                return Some(drop);
            }
        }
        if hypothesis.base == PacketPath::Input {
            let dropped = self.nat_source(hypothesis, "INPUT", NetfilterHook::Input);
            return match security {
                Ok(SecurityOrder::BehindNat) if dropped.is_none() => {
                    self.stage(hypothesis, "security", "INPUT", NetfilterHook::Input)
                }
                Ok(_) => dropped,
                Err(step) => {
                    self.doubt.get_or_insert(step);
                    dropped
                }
            };
        }
        if let Some(drop) = self.stage(hypothesis, "mangle", "POSTROUTING", NetfilterHook::Postrouting) {
            return Some(drop);
        }
        if let Some(drop) = self.nat_source(hypothesis, "POSTROUTING", NetfilterHook::Postrouting) {
            return Some(drop);
        }
        self.loopback(hypothesis)
    }

    /// iptables-nft asks security of INPUT behind nat, where the source may be another; iptables-legacy before.
    /// Where it is not known which it is, and it matters, a step that says so.
    fn order_of_security(&self) -> Result<SecurityOrder, TraceStep> {
        let rules = |table| self.rules.rules(table, "INPUT").unwrap_or_default();
        let rewrites = || rules("nat").iter().any(|rule| matches!(rule.target, RuleTarget::Rewrite(_)));
        match self.context.backend {
            Some(IptablesBackend::Nft) => Ok(SecurityOrder::BehindNat),
            None if rewrites() && !rules("security").is_empty() => Err(TraceStep {
                table: "security".into(),
                chain: "INPUT".into(),
                index: None,
                text: "which iptables-nft asks behind nat and iptables-legacy before it".into(),
            }),
            Some(IptablesBackend::Legacy) | None => Ok(SecurityOrder::BeforeNat),
        }
    }

    /// What the host sends to itself comes in again, and NAT has done its part.
    fn loopback(&mut self, hypothesis: &mut NatHypothesis) -> Option<TraceStep> {
        if hypothesis.base != PacketPath::Output || hypothesis.packet.dst_local != Some(true) {
            return None;
        }
        let lo = PacketDevice::named("lo");
        hypothesis.base = PacketPath::Input;
        hypothesis.packet =
            Packet { in_iface: lo, out_iface: PacketDevice::Absent, ..hypothesis.packet.clone() };
        for (table, chain, hook) in [
            ("raw", "PREROUTING", NetfilterHook::Prerouting),
            ("mangle", "PREROUTING", NetfilterHook::Prerouting),
            ("mangle", "INPUT", NetfilterHook::Input),
            ("filter", "INPUT", NetfilterHook::Input),
            ("security", "INPUT", NetfilterHook::Input),
        ] {
            if let Some(drop) = self.stage(hypothesis, table, chain, hook) {
                return Some(drop);
            }
        }
        None
    }

    /// The first other table that may drop a packet that passes these hooks.
    fn other_table(&self, hooks: &[NetfilterHook], bridged: bool) -> Option<TraceStep> {
        let meets = |one: &&OtherTable| {
            let on_path =
                |hook: &NetfilterHook| hooks.contains(hook) || *hook == NetfilterHook::Bridge && bridged;
            one.effect.may_drop() && one.hooks.iter().any(on_path)
        };
        self.context.other_tables.iter().find(meets).map(OtherTable::step)
    }

    /// What all hypotheses agree on.
    fn together(self, ends: Vec<HypothesisResult>) -> PacketTrace {
        // What is rewritten behind all rules changes the answer of none.
        let before = |hook: &NetfilterHook| match hook {
            NetfilterHook::Prerouting | NetfilterHook::Output => true,
            NetfilterHook::Input => ends.iter().any(|end| end.left.0 == PacketPath::Input),
            NetfilterHook::Forward => ends.iter().any(|end| end.left.0 == PacketPath::Forward),
            NetfilterHook::Bridge => ends.iter().any(|end| end.left.1.bridged),
            NetfilterHook::Postrouting | NetfilterHook::BridgeHost => false,
        };
        let mut rewriters =
            self.context.other_tables.iter().filter(|one| one.effect == TableEffect::MayRewrite);
        if let Some(one) = rewriters.find(|one| one.hooks.iter().any(before)) {
            return self.finish(PacketVerdict::Unknown, Some(one.step()), None);
        }
        let mut ends = ends.into_iter();
        let Some(first) = ends.next() else { return self.finish(PacketVerdict::Unknown, None, None) };
        let mut alone = true;
        let mut differs = false;
        let mut unknown: Option<TraceStep> = None;
        for end in ends {
            alone = false;
            differs |= end.verdict != first.verdict;
            if end.verdict == PacketVerdict::Unknown {
                unknown = unknown.or(end.step);
            }
        }
        if differs {
            let step = match (&first.assuming, first.verdict) {
                (Some((step, _)), _) => Some(step.clone()),
                (None, PacketVerdict::Unknown) => first.step,
                (None, _) => unknown,
            };
            return self.finish(PacketVerdict::Unknown, step, None);
        }
        let left = (alone && first.verdict != PacketVerdict::Drop).then_some(first.left);
        self.finish(first.verdict, first.step, left)
    }
}

fn stage(
    table: Cow<'static, str>,
    chain: Cow<'static, str>,
    packet: Packet,
    passed: &mut ChainOutcome,
    assuming: Option<(TraceStep, bool)>,
) -> TraceStage {
    let (verdict, decided_by) = passed.outcomes.verdict();
    TraceStage {
        table,
        chain,
        packet,
        skipped: passed.outcomes.untouched.then_some(SkipReason::NoRules),
        verdict,
        decided_by,
        asked: passed.asked,
        matched: std::mem::take(&mut passed.met),
        assuming,
    }
}

#[cfg(test)]
mod tests;
