//! What many hosts have in common, said once: in the order of first mention.

use super::document::{ChangeEntry, Document, HostEntry, WarningEntry};
use super::severity::severity;
use std::borrow::Cow;
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

/// Equal warnings with their hosts, errors first.
pub(super) fn warnings(document: &Document) -> Vec<Group<'_, WarningEntry>> {
    let mut all = group(document.hosts.iter().flat_map(|h| h.warnings.iter().map(|w| (w, h.name.as_str()))));
    all.sort_by_key(|(warning, _)| severity(&warning.code));
    all
}

/// What hosts have to say about themselves, and which.
pub(super) struct Said<'a> {
    /// The first of them; status and hint are those of all.
    pub host: &'a HostEntry,
    /// The sentence.
    pub message: Cow<'a, str>,
    /// All of them.
    pub names: Vec<&'a str>,
}

/// Hosts with something to say about themselves, equal words together.
pub(super) fn messages(document: &Document) -> Vec<Said<'_>> {
    let mut groups: Vec<Said<'_>> = Vec::new();
    let mut index = BTreeMap::new();
    for host in &document.hosts {
        let Some(message) = host.message.as_deref() else { continue };
        let shared = without_address(message);
        let at = *index.entry((host.status, shared.clone(), &host.hint)).or_insert_with(|| {
            groups.push(Said { host, message: message.into(), names: Vec::new() });
            groups.len() - 1
        });
        if groups[at].message != message {
            groups[at].message = shared;
        }
        groups[at].names.push(&host.name);
    }
    groups
}

/// Ssh names the address of a host that it cannot connect to: a rack that is off would else be as many causes as it
/// has hosts.
fn without_address(message: &str) -> Cow<'_, str> {
    const BEFORE: &str = "connect to host ";
    let address = message.split_once(BEFORE).and_then(|(_, rest)| rest.split(' ').next());
    match address {
        Some(address) if !address.is_empty() => {
            message.replacen(&format!("{BEFORE}{address} "), &format!("{BEFORE}… "), 1).into()
        }
        _ => message.into(),
    }
}
