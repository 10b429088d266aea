//! A packet on its way through the tables.

use super::chain::{Passed, Walker};
use super::outcome::{Step, Verdict};
use super::packet::{Device, Packet};
use super::rule::Target;
use super::ruleset::Ruleset;
use super::surroundings::{Backend, Bystander, Effect, Hook, Surroundings};
use super::trace::{Met, Skipped, Stage};
use super::translate::{self, World};
use std::borrow::Cow;

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
    /// The way of the packet, hook by hook and rule by rule. Where NAT is in doubt the ways that
    /// follow stand one after the other, each under its assumption.
    pub trace: Vec<Stage>,
    /// The packet as it leaves the tables, where that is known: rewritten by NAT, with its mark and
    /// state, and `base` for where it ended.
    pub left: Option<(Base, Packet)>,
}

impl Walk {
    /// The rules that matched, surely or maybe, in the order in which they were met.
    pub fn met(&self) -> impl Iterator<Item = &Met> {
        self.trace.iter().flat_map(|stage| &stage.met)
    }

    /// Those that have no sure answer: why a verdict is unknown.
    pub fn unknowns(&self) -> impl Iterator<Item = &Met> {
        self.met().filter(|met| met.is_unknown())
    }

    /// The first rule that rewrites an address, or may.
    pub fn rewriter(&self) -> Option<&Met> {
        self.met().find(|met| matches!(met.target, Target::Rewrite(_)))
    }
}

/// Walks a packet through all tables.
pub fn walk(rules: &Ruleset, around: &Surroundings, base: Base, packet: &Packet) -> Walk {
    let mut way = Way { rules, around, trace: Vec::new(), passed: None, doubt: None };
    let start = World::start(rules, around, base, packet);
    let mut first = start.clone();
    let (hook, chain) = match base {
        Base::Output => (Hook::Output, "OUTPUT"),
        Base::Input | Base::Forward => (Hook::Prerouting, "PREROUTING"),
    };
    for table in ["raw", "mangle"] {
        if let Some(drop) = way.stage(&mut first, table, chain, hook) {
            return way.finish(Verdict::Drop, Some(drop), None);
        }
    }
    let worlds = way.nat(&first, chain, hook);
    let common = (way.passed.take(), way.doubt.take());
    let mut ends = Vec::new();
    for world in worlds {
        (way.passed, way.doubt) = common.clone();
        ends.push(way.rest(world));
    }
    way.together(ends)
}

/// Walks a packet through one chain of one table, and what it calls.
pub fn walk_chain(rules: &Ruleset, table: &str, chain: &str, packet: &Packet) -> Walk {
    let mut walker = Walker::new(rules, packet);
    let mut passed = walker.builtin(table, chain);
    let (verdict, decided_by) = passed.outcomes.verdict();
    let trace =
        vec![stage(table.to_owned().into(), chain.to_owned().into(), packet.clone(), &mut passed, None)];
    Walk { verdict, decided_by, trace, left: None }
}

/// Where the security table of INPUT is asked.
#[derive(PartialEq, Eq)]
enum Security {
    BeforeNat,
    BehindNat,
}

/// What one world came to.
struct End {
    verdict: Verdict,
    step: Option<Step>,
    left: (Base, Packet),
    assuming: Option<(Step, bool)>,
}

struct Way<'a> {
    rules: &'a Ruleset,
    around: &'a Surroundings,
    trace: Vec<Stage>,
    /// What lets the packet pass.
    passed: Option<Step>,
    /// The first rule that makes it unknown.
    doubt: Option<Step>,
}

impl Way<'_> {
    fn finish(self, verdict: Verdict, decided_by: Option<Step>, left: Option<(Base, Packet)>) -> Walk {
        Walk { verdict, decided_by, trace: self.trace, left }
    }

    /// Walks one built-in chain; what drops the packet for certain.
    fn stage(
        &mut self,
        world: &mut World,
        table: &'static str,
        chain: &'static str,
        hook: Hook,
    ) -> Option<Step> {
        let seen = world.at(hook);
        let mut walker = Walker::new(self.rules, &seen);
        let mut passed = walker.builtin(table, chain);
        world.packet.mark = walker.packet.mark;
        world.packet.state = walker.packet.state;
        self.note(table, chain, seen, &mut passed, world)
    }

    /// Writes down what a chain came to; what drops the packet for certain.
    fn note(
        &mut self,
        table: &'static str,
        chain: &'static str,
        seen: Packet,
        passed: &mut Passed,
        world: &World,
    ) -> Option<Step> {
        let stage = stage(table.into(), chain.into(), seen, passed, world.assuming.clone());
        let (verdict, step) = (stage.verdict, stage.decided_by.clone());
        self.trace.push(stage);
        self.native(table);
        match verdict {
            Verdict::Drop => return step,
            Verdict::Accept => {
                // The filter table is where one looks for the answer; a policy says little.
                if table == "filter" || self.passed.is_none() {
                    self.passed = step.or(self.passed.take());
                }
            }
            Verdict::Unknown => self.doubt = self.doubt.take().or(step),
        }
        None
    }

    /// What iptables-save does not show of a table may hang on any hook.
    fn native(&mut self, table: &str) {
        if self.rules.is_incompatible(table) && self.doubt.is_none() {
            self.doubt = Some(Step {
                table: format!("the native part of the nft table {table}").into(),
                chain: "".into(),
                index: None,
                text: "may drop it".into(),
            });
        }
    }

    /// nat before routing: what the packet may have become.
    fn nat(&mut self, world: &World, chain: &'static str, hook: Hook) -> Vec<World> {
        let seen = world.at(hook);
        if !translate::asks_rules(&seen) {
            self.skip("nat", chain, seen, Skipped::LaterPacket, world);
            return translate::destination(self.rules, self.around, world, None);
        }
        let mut walker = Walker::new(self.rules, &seen);
        let mut passed = walker.builtin("nat", chain);
        self.note("nat", chain, seen, &mut passed, world);
        // A mark that is set beside the rewriting is asked for after routing (kube-proxy does that).
        let mut marked = world.clone();
        marked.packet.mark = walker.packet.mark;
        translate::destination(self.rules, self.around, &marked, Some(&passed.outcomes))
    }

    /// nat after routing, which changes where the packet seems to come from and no verdict.
    fn nat_source(&mut self, world: &mut World, chain: &'static str, hook: Hook) -> Option<Step> {
        let seen = world.at(hook);
        if !translate::asks_rules(&seen) {
            self.skip("nat", chain, seen, Skipped::LaterPacket, world);
            translate::source(self.rules, self.around, world, None);
            return None;
        }
        let mut walker = Walker::new(self.rules, &seen);
        let mut passed = walker.builtin("nat", chain);
        world.packet.mark = walker.packet.mark;
        let dropped = self.note("nat", chain, seen, &mut passed, world);
        translate::source(self.rules, self.around, world, Some(&passed.outcomes)).or(dropped)
    }

    fn skip(
        &mut self,
        table: &'static str,
        chain: &'static str,
        packet: Packet,
        skipped: Skipped,
        world: &World,
    ) {
        self.native(table);
        self.trace.push(Stage {
            table: table.into(),
            chain: chain.into(),
            packet,
            skipped: Some(skipped),
            verdict: Verdict::Accept,
            decided_by: None,
            asked: 0,
            met: Vec::new(),
            assuming: world.assuming.clone(),
        });
    }

    /// From routing to the end.
    fn rest(&mut self, mut world: World) -> End {
        let assuming = world.assuming.clone();
        let hooks = world.hooks();
        let step = match world.lost.take() {
            Some(step) => Some(step),
            None => self.tables(&mut world),
        };
        let left = (world.base, world.packet);
        if let Some(step) = step {
            return End { verdict: Verdict::Drop, step: Some(step), left, assuming };
        }
        let doubt = self.doubt.take().or_else(|| self.bystander(&hooks, left.1.bridged));
        match doubt {
            Some(step) => End { verdict: Verdict::Unknown, step: Some(step), left, assuming },
            None => End { verdict: Verdict::Accept, step: self.passed.take(), left, assuming },
        }
    }

    /// What drops the packet for certain on its way from routing to the end.
    fn tables(&mut self, world: &mut World) -> Option<Step> {
        let security = self.order_of_security();
        let (tables, chain, hook): (&[&str], _, _) = match world.base {
            Base::Input if security != Ok(Security::BeforeNat) => {
                (&["mangle", "filter"], "INPUT", Hook::Input)
            }
            Base::Input => (&["mangle", "filter", "security"], "INPUT", Hook::Input),
            Base::Forward => (&["mangle", "filter", "security"], "FORWARD", Hook::Forward),
            Base::Output => (&["filter", "security"], "OUTPUT", Hook::Output),
        };
        for table in tables {
            if let Some(drop) = self.stage(world, table, chain, hook) {
                return Some(drop);
            }
        }
        if world.base == Base::Input {
            let dropped = self.nat_source(world, "INPUT", Hook::Input);
            return match security {
                Ok(Security::BehindNat) if dropped.is_none() => {
                    self.stage(world, "security", "INPUT", Hook::Input)
                }
                Ok(_) => dropped,
                Err(step) => {
                    self.doubt.get_or_insert(step);
                    dropped
                }
            };
        }
        if let Some(drop) = self.stage(world, "mangle", "POSTROUTING", Hook::Postrouting) {
            return Some(drop);
        }
        if let Some(drop) = self.nat_source(world, "POSTROUTING", Hook::Postrouting) {
            return Some(drop);
        }
        self.loopback(world)
    }

    /// iptables-nft asks security of INPUT behind nat, where the source may be another; iptables-legacy before.
    /// Where it is not known which it is, and it matters, a step that says so.
    fn order_of_security(&self) -> Result<Security, Step> {
        let rules = |table| self.rules.rules(table, "INPUT").unwrap_or_default();
        let rewrites = || rules("nat").iter().any(|rule| matches!(rule.target, Target::Rewrite(_)));
        match self.around.backend {
            Some(Backend::Nft) => Ok(Security::BehindNat),
            None if rewrites() && !rules("security").is_empty() => Err(Step {
                table: "security".into(),
                chain: "INPUT".into(),
                index: None,
                text: "which iptables-nft asks behind nat and iptables-legacy before it".into(),
            }),
            Some(Backend::Legacy) | None => Ok(Security::BeforeNat),
        }
    }

    /// What the host sends to itself comes in again, and NAT has done its part.
    fn loopback(&mut self, world: &mut World) -> Option<Step> {
        if world.base != Base::Output || world.packet.dst_local != Some(true) {
            return None;
        }
        let lo = Device::named("lo");
        world.base = Base::Input;
        world.packet = Packet { in_iface: lo, out_iface: Device::Absent, ..world.packet.clone() };
        for (table, chain, hook) in [
            ("raw", "PREROUTING", Hook::Prerouting),
            ("mangle", "PREROUTING", Hook::Prerouting),
            ("mangle", "INPUT", Hook::Input),
            ("filter", "INPUT", Hook::Input),
            ("security", "INPUT", Hook::Input),
        ] {
            if let Some(drop) = self.stage(world, table, chain, hook) {
                return Some(drop);
            }
        }
        None
    }

    /// The first bystander that may stop a packet that passes these hooks.
    fn bystander(&self, hooks: &[Hook], bridged: bool) -> Option<Step> {
        let meets = |one: &&Bystander| {
            let on_way = |hook: &Hook| hooks.contains(hook) || *hook == Hook::Bridge && bridged;
            one.effect.may_end_it() && one.hooks.iter().any(on_way)
        };
        self.around.bystanders.iter().find(meets).map(Bystander::step)
    }

    /// What all worlds agree on.
    fn together(self, ends: Vec<End>) -> Walk {
        // What is rewritten behind all rules changes the answer of none.
        let before = |hook: &Hook| match hook {
            Hook::Prerouting | Hook::Output => true,
            Hook::Input => ends.iter().any(|end| end.left.0 == Base::Input),
            Hook::Forward => ends.iter().any(|end| end.left.0 == Base::Forward),
            Hook::Bridge => ends.iter().any(|end| end.left.1.bridged),
            Hook::Postrouting | Hook::BridgeHost => false,
        };
        let mut rewriters = self.around.bystanders.iter().filter(|one| one.effect == Effect::MayRewrite);
        if let Some(one) = rewriters.find(|one| one.hooks.iter().any(before)) {
            return self.finish(Verdict::Unknown, Some(one.step()), None);
        }
        let mut ends = ends.into_iter();
        let Some(first) = ends.next() else { return self.finish(Verdict::Unknown, None, None) };
        let mut alone = true;
        let mut differs = false;
        let mut unknown: Option<Step> = None;
        for end in ends {
            alone = false;
            differs |= end.verdict != first.verdict;
            if end.verdict == Verdict::Unknown {
                unknown = unknown.or(end.step);
            }
        }
        if differs {
            let step = match (&first.assuming, first.verdict) {
                (Some((step, _)), _) => Some(step.clone()),
                (None, Verdict::Unknown) => first.step,
                (None, _) => unknown,
            };
            return self.finish(Verdict::Unknown, step, None);
        }
        let left = (alone && first.verdict != Verdict::Drop).then_some(first.left);
        self.finish(first.verdict, first.step, left)
    }
}

fn stage(
    table: Cow<'static, str>,
    chain: Cow<'static, str>,
    packet: Packet,
    passed: &mut Passed,
    assuming: Option<(Step, bool)>,
) -> Stage {
    let (verdict, decided_by) = passed.outcomes.verdict();
    Stage {
        table,
        chain,
        packet,
        skipped: passed.outcomes.untouched.then_some(Skipped::NoRules),
        verdict,
        decided_by,
        asked: passed.asked,
        met: std::mem::take(&mut passed.met),
        assuming,
    }
}

#[cfg(test)]
mod tests;
