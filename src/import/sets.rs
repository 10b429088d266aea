//! Sets of ipset of a host.

use super::comment;
use crate::host_state::Observed;
use crate::inventory::quoted;
use crate::resource::ipset::{LiveSet, MAX_NAME, MemberPart, SetShape, TEMPORARY, TYPES, family_word};
use crate::resource::iptables::IpFamily;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Programs that make their sets again themselves, by how the names begin.
const WRITERS: [(&str, &str); 7] = [
    ("f2b-", "fail2ban"),
    ("fail2ban-", "fail2ban"),
    ("KUBE-", "kube-proxy"),
    ("cali", "Calico"),
    ("felix-", "Calico"),
    ("NIPv", "neutron"),
    ("weave-", "Weave"),
];

/// The sets that are stated: those that kvmfw does not have yet, and that nobody known makes again.
pub(super) fn stated(observed: &Observed) -> impl Iterator<Item = (&String, &LiveSet, SetShape)> {
    let sets =
        observed.sets.live.iter().filter(|(name, _)| why_not(name).is_none() && !is_ours(name, observed));
    sets.filter_map(|(name, live)| Some((name, live, live.shape()?)))
}

fn is_ours(name: &str, observed: &Observed) -> bool {
    let record =
        observed.state.record.as_deref().and_then(|text| crate::plan::GenerationManifest::parse(text).ok());
    record.is_some_and(|record| record.sets.contains_key(name))
}

/// Why a set is left out.
fn why_not(name: &str) -> Option<String> {
    if let Some((_, who)) = WRITERS.iter().find(|(start, _)| name.starts_with(start)) {
        return Some(format!("{who} makes it"));
    }
    let plain = name.len() <= MAX_NAME
        && !name.starts_with('-')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.:-".contains(c));
    if name.starts_with(TEMPORARY) || !plain {
        return Some("an inventory cannot state its name".to_owned());
    }
    None
}

/// `ipset:`.
pub(super) fn write(observed: &Observed, text: &mut String) {
    let mut body = String::new();
    let names: BTreeSet<&str> = stated(observed).map(|(name, ..)| name.as_str()).collect();
    for (name, live, shape) in stated(observed) {
        let fields = fields(live, &shape, &names);
        let _ = writeln!(body, "      {}: {{ {fields} }}", quoted(name));
    }
    if !body.is_empty() {
        if body.contains("entries: [") {
            comment(4, "Write `entries: unmanaged` for a set whose members another program adds.", text);
        }
        let _ = write!(text, "    ipset:\n{body}");
    }
    let mut left = Vec::new();
    for (name, live) in observed.sets.live.iter().filter(|(name, _)| !is_ours(name, observed)) {
        let kind = || format!("its type or an option of it cannot be stated: {}", live.options);
        if let Some(why) = why_not(name).or_else(|| live.shape().is_none().then(kind)) {
            left.push(format!("set {name}: {why}"));
        }
    }
    if !left.is_empty() {
        comment(4, "Left out of ipset, and left alone on the host:", text);
    }
    left.iter().for_each(|line| comment(4, &format!("  {line}"), text));
}

fn fields(live: &LiveSet, shape: &SetShape, names: &BTreeSet<&str>) -> String {
    let kind = TYPES.iter().find(|(name, _)| *name == live.kind).map_or("", |(name, _)| name);
    let mut fields = vec![format!("type: '{kind}'")];
    if shape.family == IpFamily::V6 {
        fields.push(format!("family: {}", family_word(shape.family)));
    }
    let numbers = [("maxelem", shape.maxelem), ("timeout", shape.timeout), ("size", shape.size)];
    fields.extend(numbers.iter().filter_map(|(key, number)| Some(format!("{key}: {}", (*number)?))));
    fields.extend(shape.netmask.iter().map(|bits| format!("netmask: {bits}")));
    fields.extend(shape.range.iter().map(|range| format!("range: {range}")));
    let flags = [("counters", shape.counters), ("comment", shape.comment), ("forceadd", shape.forceadd)];
    fields.extend(flags.iter().filter(|(_, set)| *set).map(|(key, _)| format!("{key}: true")));
    fields.push(match entries(live, shape, names) {
        Some(entries) => format!("entries: [{}]", entries.join(", ")),
        None => "entries: unmanaged".to_owned(),
    });
    fields.join(", ")
}

/// The members, where they can be stated: another program adds those that go after a time, and those of a set that is
/// empty now; of very many nobody wrote the list.
fn entries(live: &LiveSet, shape: &SetShape, names: &BTreeSet<&str>) -> Option<Vec<String>> {
    let members = live.members.as_ref().filter(|members| !live.has_timeouts && !members.is_empty())?;
    let is_list = shape.kind.parts() == [MemberPart::Set];
    let entry = |member: &String| {
        // A set that is left out cannot be in a list: it would be one that nobody declares.
        if is_list && !names.contains(member.split(' ').next().unwrap_or(member)) {
            return None;
        }
        // What is not read back as this one member would not be what is there.
        let same = shape.members(member).ok()?;
        (same == [member.clone()]).then(|| format!("'{}'", member.replace('\'', "''")))
    };
    members.iter().map(entry).collect()
}
