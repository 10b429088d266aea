//! The lint levels of a host.

use super::merge::{CompileReport, MergeSlot};
use crate::inventory::{InventoryEntry, LintStatement, RANK_MODULE};
use crate::problem::{LintCode, LintLevel, LintPolicy};
use std::collections::BTreeMap;

/// Puts the levels together: an inventory's own are the most general.
pub(super) fn policy(
    of_inventory: &[LintStatement],
    entries: &[(u32, &InventoryEntry)],
    out: &mut CompileReport,
) -> LintPolicy {
    let mut slots: BTreeMap<LintCode, MergeSlot<LintLevel>> = BTreeMap::new();
    let general = of_inventory.iter().map(|statement| (RANK_MODULE, statement));
    let special = entries.iter().flat_map(|(rank, entry)| entry.lints.iter().map(|lint| (*rank, lint)));
    for (rank, lint) in general.chain(special) {
        slots.entry(lint.code.value).or_default().offer(rank, lint.level, &lint.code.place);
    }
    let mut policy = LintPolicy::default();
    for (code, slot) in slots {
        let Some((level, place)) = slot.take(|| format!("`lints.{code}`"), out) else { continue };
        out.fact(|| format!("lints.{code}"), || level.as_str().to_owned(), &place);
        policy.levels.insert(code, level);
    }
    policy
}
