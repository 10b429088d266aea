//! Guests that others filter, and accepts of ours that come first.

use super::FamilyView;
use super::bypass::is_bridged;
use crate::host_state::Observed;
use crate::netfilter::{
    MatchedRule, Packet, PacketPath, PacketVerdict, RuleTarget, Ruleset, TraceStep, packets_between_ports,
    simulate,
};
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::iptables::PREFIX;
use crate::resource::iptables::chain_writers::chain_writer;
use crate::resource::iptables::save::{SaveChain, SavedTables, jump};

impl FamilyView<'_> {
    /// Bridges whose frames ours accept before rules of others that are there to filter them: security groups, the rules
    /// of nwfilter. A remedy for unreachable guests is none where it opens them to every host.
    pub(super) fn unfiltered(&self, warnings: &mut Vec<Warning>) {
        let Some(observed) = self.observed else { return };
        let Some(hook) =
            self.predicted.jump_rules().into_iter().find(|h| (h.table, h.chain) == ("filter", "FORWARD"))
        else {
            return;
        };
        let filters = |set: &Ruleset, chain: &SaveChain| {
            let rules = set.rules("filter", &chain.name).unwrap_or_default();
            !chain.is_managed()
                && rules.iter().any(|rule| sorts_out(&rule.target) && is_bridged(rule, observed))
        };
        let chains = self.predicted.tables.get("filter").into_iter().flat_map(|table| table.chains());
        if !chains.into_iter().any(|chain| filters(&self.after, chain)) {
            return;
        }
        let others = Ruleset::with_sets(&without_hook(self.predicted, hook.position), &self.will_be.sets());
        for link in observed.links.bridges() {
            let bridge = self.will_be.bridge_view(self.family, &link.name);
            if !bridge.nf_call {
                continue;
            }
            let packets = packets_between_ports(&self.after, self.family, &bridge);
            let Some(rule) = packets.iter().find_map(|packet| self.passed_over(&others, packet, observed))
            else {
                continue;
            };
            let target = || jump(&rule.text).and_then(|jump| chain_writer(&jump.target));
            let who = chain_writer(&rule.chain).or_else(target);
            let message = WarningMessage::new(format!(
                "{} filter/FORWARD: kvmfw's rules accept packets on {} before the \
                 unmanaged rule `{}`{}, which filters nothing there",
                self.family,
                link.name,
                rule.text,
                who.map_or_else(String::new, |who| format!(" of {who}"))
            ))
            .fix("set `jump: last` for FORWARD");
            warnings.push(Warning::new(
                LintCode::ShadowsUnmanaged,
                message,
                self.chain_origin("filter", &hook.target),
            ));
        }
    }

    /// The rule of others that would filter a packet, were it not for an accept of ours.
    fn passed_over(&self, others: &Ruleset, packet: &Packet, observed: &Observed) -> Option<TraceStep> {
        let found = simulate(&self.after, &self.context, PacketPath::Forward, packet);
        let ours =
            found.decided_by.is_some_and(|step| *step.table == *"filter" && step.chain.starts_with(PREFIX));
        if found.verdict != PacketVerdict::Accept || !ours {
            return None;
        }
        let filters = |met: &&MatchedRule| {
            let rule =
                || others.rules(&met.step.table, &met.step.chain)?.get(met.step.index?.checked_sub(1)?);
            *met.step.table == *"filter"
                && sorts_out(&met.target)
                && rule().is_some_and(|rule| is_bridged(rule, observed))
        };
        let without = simulate(others, &self.context, PacketPath::Forward, packet);
        without.matched_rules().find(filters).map(|met| met.step.clone())
    }
}

/// Whether a target drops, or asks a chain.
fn sorts_out(target: &RuleTarget) -> bool {
    matches!(target, RuleTarget::Drop | RuleTarget::Jump(_) | RuleTarget::Goto(_))
}

/// The rules without our jump rule in FORWARD.
fn without_hook(save: &SavedTables, position: usize) -> SavedTables {
    let mut others = save.clone();
    if let Some(table) = others.tables.get_mut("filter")
        && let Some(mut forward) = table.chain("FORWARD").cloned()
    {
        forward.rules.remove(position - 1);
        table.insert(forward);
    }
    others
}
