//! What many hosts have in common, said once: in the order of first mention.

use super::document::{ChangeEntry, Document, HostEntry, WarningEntry};
use std::collections::BTreeMap;

/// A thing and the hosts that have it.
pub(super) type Group<'a, T> = (&'a T, Vec<&'a str>);

fn group<'a, T: Ord>(items: impl Iterator<Item = (&'a T, &'a str)>) -> Vec<Group<'a, T>> {
    let mut order: Vec<Group<'a, T>> = Vec::new();
    let mut index: BTreeMap<&T, usize> = BTreeMap::new();
    for (item, host) in items {
        let at = *index.entry(item).or_insert_with(|| {
            order.push((item, Vec::new()));
            order.len() - 1
        });
        order[at].1.push(host);
    }
    order
}

/// Equal changes with their hosts.
pub(super) fn changes(document: &Document) -> Vec<Group<'_, ChangeEntry>> {
    group(document.hosts.iter().flat_map(|h| h.changes.iter().map(|c| (c, h.name.as_str()))))
}

/// Equal warnings with their hosts.
pub(super) fn warnings(document: &Document) -> Vec<Group<'_, WarningEntry>> {
    group(document.hosts.iter().flat_map(|h| h.warnings.iter().map(|w| (w, h.name.as_str()))))
}

/// Hosts with something to say about themselves, equal words together; the first of each stands for all.
pub(super) fn messages(document: &Document) -> Vec<Group<'_, HostEntry>> {
    let mut groups: Vec<Group<'_, HostEntry>> = Vec::new();
    let mut index = BTreeMap::new();
    for host in document.hosts.iter().filter(|h| h.message.is_some()) {
        let at = *index.entry((host.status, &host.message, &host.hint)).or_insert_with(|| {
            groups.push((host, Vec::new()));
            groups.len() - 1
        });
        groups[at].1.push(&host.name);
    }
    groups
}
