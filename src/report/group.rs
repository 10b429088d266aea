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

/// Hosts with something to say about themselves, equal words together.
pub(super) fn messages(document: &Document) -> Vec<Group<'_, HostEntry>> {
    let mut groups: Vec<Group<'_, HostEntry>> = Vec::new();
    for host in document.hosts.iter().filter(|h| h.message.is_some()) {
        let same = |(first, _): &&mut Group<'_, HostEntry>| {
            first.status == host.status && first.message == host.message && first.hint == host.hint
        };
        match groups.iter_mut().find(same) {
            Some((_, names)) => names.push(&host.name),
            None => groups.push((host, vec![&host.name])),
        }
    }
    groups
}
