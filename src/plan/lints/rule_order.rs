//! Rules that never match, and rules that decide before others.

use super::{FamilyView, plain};
use crate::netfilter::shadowed_rules;
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::iptables::chain_writers::chain_writer;
use crate::resource::iptables::{JUMP_COMMENT, JumpPosition};

impl FamilyView<'_> {
    /// Rules of ours that no packet reaches.
    pub(super) fn dead_rules(&self, warnings: &mut Vec<Warning>) {
        for (table, chain) in self.predicted.managed_chains() {
            for dead in shadowed_rules(&self.after, table, &chain.name) {
                let (Some(rule), Some(wall)) =
                    (chain.rules.get(dead.index - 1), chain.rules.get(dead.shadowed_by - 1))
                else {
                    continue;
                };
                let origin = self.rule_origin(table, &chain.name, dead.index);
                warnings.push(Warning::new(
                    LintCode::DeadRule,
                    WarningMessage::new(format!(
                        "{} {table}/{} rule {}: `{rule}` is never reached",
                        self.family,
                        plain(&chain.name),
                        dead.index
                    ))
                    .cause(format!("rule {} before it matches the same packets: `{wall}`", dead.shadowed_by))
                    .fix("move the rule up, into `first` for example, or remove it"),
                    origin,
                ));
            }
        }
    }

    /// Foreign rules that our hook leaves nothing for.
    pub(super) fn starved(&self, warnings: &mut Vec<Warning>) {
        for hook in self.predicted.jump_rules() {
            let Some(chain) = self.predicted.chain(hook.table, hook.chain) else { continue };
            let starved: Vec<&str> = shadowed_rules(&self.after, hook.table, hook.chain)
                .iter()
                .filter(|d| d.shadowed_by == hook.position)
                .filter_map(|d| chain.rules.get(d.index - 1))
                .map(String::as_str)
                // At the end of a chain that is not built-in it says nothing: Docker ends DOCKER-USER so.
                .filter(|rule| *rule != "-j RETURN")
                .collect();
            if let Some(first) = starved.first() {
                let more = match starved.len() {
                    1 => String::new(),
                    n => format!(" and {} more", n - 1),
                };
                warnings.push(Warning::new(
                    LintCode::ShadowsUnmanaged,
                    WarningMessage::new(format!(
                        "{} {}/{}: kvmfw's chain decides every packet, so the unmanaged rules \
                         after it are unreachable: `{first}`{more}",
                        self.family, hook.table, hook.chain
                    ))
                    .fix("end with a narrower rule, or set `jump: last`"),
                    self.chain_origin(hook.table, &hook.target),
                ));
            }
        }
    }

    /// Unmanaged rules that stand before our jump rule and decide.
    pub(super) fn outranked(&self, warnings: &mut Vec<Warning>) {
        for hook in self.predicted.jump_rules() {
            let Some(chain) = self.predicted.chain(hook.table, hook.chain) else { continue };
            // Where the hook is to be last that is meant, but not behind the RETURN with which Docker ends its chain.
            let last = self.wanted_hook(hook.table, &hook.target) == Some(JumpPosition::Last);
            if last && !chain.rules.iter().take(hook.position - 1).any(|rule| rule == "-j RETURN") {
                continue;
            }
            let before = chain.rules.iter().take(hook.position - 1);
            let decides: Vec<&String> =
                before.filter(|r| !r.contains(JUMP_COMMENT) && may_decide(r)).collect();
            if let Some(first) = decides.first() {
                warnings.push(Warning::new(
                    LintCode::JumpOutranked,
                    WarningMessage::new(format!(
                        "{} {}/{}: {} is before kvmfw's jump rule and decides first: `{first}`",
                        self.family,
                        hook.table,
                        hook.chain,
                        crate::resource::iptables::save::jump(first)
                            .and_then(|jump| chain_writer(&jump.target))
                            .unwrap_or("an unmanaged rule")
                    ))
                    .fix("if kvmfw's rules must come first, set `jump: first`"),
                    self.chain_origin(hook.table, &hook.target),
                ));
            }
        }
    }
}

impl FamilyView<'_> {
    /// Where the inventory wants the jump rule of a chain of ours.
    fn wanted_hook(&self, table: &str, chain: &str) -> Option<JumpPosition> {
        let table = self.desired.rules.get(&self.family)?.tables.get(table)?;
        Some(table.chains.get(chain)?.jump.as_ref()?.1)
    }
}

/// Whether an unmanaged rule can decide: anything but the targets that let the packet go on.
fn may_decide(rule: &str) -> bool {
    let target = crate::resource::iptables::save::jump(rule).map(|j| j.target);
    target.is_some_and(|t| !matches!(&*t, "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "CLASSIFY"))
}
