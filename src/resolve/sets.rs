//! Sets of a host, merged, and whether rules and sets fit together.

use super::merge::{CompileReport, MergeSlot};
use crate::inventory::{DeclaredResources, EntriesStatement, EntryList, SetStatement};
use crate::problem::{LintCode, Origin, Place, Problem, Warning, did_you_mean};
use crate::resource::ipset::{self, DeclaredSet, MAX_MEMBERS, MemberPart, SetShape, SetType, family_word};
use crate::resource::iptables::save::tokens;
use crate::resource::iptables::targets::is_set_option;
use crate::resource::iptables::{DeclaredRules, IpFamily, PREFIX};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

/// The members that a list stands for in a set of a shape: hosts whose lists are the same share them.
#[derive(Default)]
pub struct SharedMembers(Mutex<MembersByList>);

/// What was meant by a list of one word.
const NOT_A_LIST: &str =
    "write `entries: unmanaged`, without brackets, where another program adds the members";

/// Members by their list, as it lies in memory, and the shape of their set.
type MembersByList = HashMap<(usize, SetShape), Arc<Vec<String>>>;

/// So many entries of a set are shown as effective values.
const MAX_SHOWN: usize = 1000;

#[derive(Default)]
struct SetMerge {
    place: Option<Place>,
    kind: MergeSlot<SetType>,
    family: MergeSlot<IpFamily>,
    entries: MergeSlot<EntriesStatement>,
    range: MergeSlot<String>,
    numbers: BTreeMap<&'static str, MergeSlot<u32>>,
    flags: BTreeMap<&'static str, MergeSlot<bool>>,
}

impl SetMerge {
    fn offer(&mut self, rank: u32, text: &SetStatement) {
        self.place.get_or_insert_with(|| text.name.place.clone());
        if let Some(stated) = &text.kind {
            self.kind.offer(rank, stated.value, &stated.place);
        }
        if let Some(stated) = &text.family {
            self.family.offer(rank, stated.value, &stated.place);
        }
        if let Some(stated) = &text.entries {
            self.entries.offer(rank, stated.value.clone(), &stated.place);
        }
        if let Some(stated) = &text.range {
            self.range.offer(rank, stated.value.clone(), &stated.place);
        }
        for (key, stated) in &text.numbers {
            self.numbers.entry(key).or_default().offer(rank, stated.value, &stated.place);
        }
        for (key, stated) in &text.flags {
            self.flags.entry(key).or_default().offer(rank, stated.value, &stated.place);
        }
    }
}

/// Merges the sets option by option; entries are replaced whole.
pub fn sets(
    sources: &[(u32, &DeclaredResources)],
    known: &SharedMembers,
    out: &mut CompileReport,
) -> BTreeMap<String, DeclaredSet> {
    let mut merged: BTreeMap<&str, SetMerge> = BTreeMap::new();
    for (rank, resources) in sources {
        for text in &resources.sets {
            merged.entry(&text.name.value).or_default().offer(*rank, text);
        }
    }
    let names: BTreeSet<&str> = merged.keys().copied().collect();
    let mut sets = BTreeMap::new();
    for (name, merge) in merged {
        if let Some(set) = finish(name, merge, &names, known, out) {
            sets.insert(name.to_owned(), set);
        }
    }
    lists(&sets, out);
    let total: usize = sets.values().flat_map(|set| &set.entries).map(|entries| entries.len()).sum();
    if let Some(last) = sets.values().next_back().filter(|_| total > MAX_MEMBERS) {
        let message = format!("the sets of this host have {total} declared members, more than {MAX_MEMBERS}");
        let problem = Problem::new("too-large", message).at(&last.origin.file, last.origin.line, 1, 1);
        out.problems.push(
            problem.help("use networks of type `hash:net`, or `entries: unmanaged` and another program"),
        );
    }
    sets
}

fn finish(
    name: &str,
    merge: SetMerge,
    names: &BTreeSet<&str>,
    known: &SharedMembers,
    out: &mut CompileReport,
) -> Option<DeclaredSet> {
    let place = merge.place?;
    let kind = merge.kind.take(|| format!("`ipset.{name}.type`"), out);
    let entries = merge.entries.take(|| format!("`ipset.{name}.entries`"), out);
    let (Some((kind, kind_place)), Some((entries, entries_place))) = (kind, entries) else {
        let message = format!("set `{name}` needs both `type` and `entries`");
        let help = "write `{ type: 'hash:net', entries: [ … ] }`, or `entries: unmanaged` where another program adds members";
        out.problems.push(Problem::new("missing-key", message).at_place(&place).help(help));
        return None;
    };
    out.fact(|| format!("ipset.{name}.type"), || kind.as_str().to_owned(), &kind_place);
    let family = merge.family.take(|| format!("`ipset.{name}.family`"), out);
    let mut shape = SetShape::new(kind, family.as_ref().map_or(IpFamily::V4, |(family, _)| *family));
    if let Some((family, place)) = &family {
        out.fact(|| format!("ipset.{name}.family"), || family_word(*family).to_owned(), place);
    }
    let stated = options(name, merge.range, merge.numbers, merge.flags, &mut shape, out);
    if !options_fit(name, &shape, &stated, &place, out) {
        return None;
    }
    let entries = match entries {
        EntriesStatement::Unmanaged => {
            out.fact(|| format!("ipset.{name}.entries"), || "unmanaged".to_owned(), &entries_place);
            None
        }
        EntriesStatement::List(list) => {
            let members = members(name, &shape, &list, names, &entries_place, known, out);
            shown(name, &shape, &list, &members, &entries_place, out);
            Some(members)
        }
    };
    Some(DeclaredSet { name: name.to_owned(), shape, entries, origin: place.origin() })
}

fn counted(members: usize) -> String {
    if members == 1 { "1 member".to_owned() } else { format!("{members} members") }
}

/// The members of a list as effective values, and a warning where there are none.
fn shown(
    name: &str,
    shape: &SetShape,
    list: &EntryList,
    all: &[String],
    place: &Place,
    out: &mut CompileReport,
) {
    let items = || list.items.iter().filter(|(text, _)| !list.of_param || of_family(text, shape));
    out.fact(|| format!("ipset.{name}.entries"), || counted(all.len()), place);
    if out.facts.is_some() {
        for (at, (text, place)) in items().take(MAX_SHOWN).enumerate() {
            out.fact(|| format!("ipset.{name}.entries[{}]", at + 1), || text.clone(), place);
        }
        let more = items().count().saturating_sub(MAX_SHOWN);
        if more > 0 {
            out.fact(|| format!("ipset.{name}.entries[…]"), || format!("and {more} more"), place);
        }
    }
    // A list of which each entry is wrong is a problem already.
    if items().next().is_none() {
        let why = match list.items.is_empty() {
            true => "its `entries` are empty".to_owned(),
            false => format!("no entry of its list is of family {}", family_word(shape.family)),
        };
        let message = format!("set `{name}` has no members: {why}, so no packet is ever found in it");
        out.warnings.push(Warning::new(LintCode::EmptyList, message, Some(place.origin())));
    }
}

/// Takes the options of a set over into its shape; the keys that are stated, with their places.
fn options(
    name: &str,
    range: MergeSlot<String>,
    numbers: BTreeMap<&'static str, MergeSlot<u32>>,
    flags: BTreeMap<&'static str, MergeSlot<bool>>,
    shape: &mut SetShape,
    out: &mut CompileReport,
) -> Vec<(&'static str, Place)> {
    let mut stated: Vec<(&'static str, Place)> = Vec::new();
    if let Some((text, place)) = range.take(|| format!("`ipset.{name}.range`"), out) {
        match ipset::range(shape.kind, &text) {
            Ok(range) => shape.range = Some(range),
            Err(trouble) if shape.kind.method() == "bitmap" => out.problems.push(problem(trouble, &place)),
            Err(_) => {}
        }
        out.fact(|| format!("ipset.{name}.range"), || text, &place);
        stated.push(("range", place));
    }
    for (key, slot) in numbers {
        let Some((value, place)) = slot.take(|| format!("`ipset.{name}.{key}`"), out) else { continue };
        out.fact(|| format!("ipset.{name}.{key}"), || value.to_string(), &place);
        match key {
            "hashsize" => shape.hashsize = Some(value),
            "maxelem" => shape.maxelem = Some(value),
            "netmask" => shape.netmask = u8::try_from(value).ok(),
            "timeout" => shape.timeout = Some(value),
            _ => shape.size = Some(value),
        }
        stated.push((key, place));
    }
    for (key, slot) in flags {
        let Some((value, place)) = slot.take(|| format!("`ipset.{name}.{key}`"), out) else { continue };
        out.fact(|| format!("ipset.{name}.{key}"), || value.to_string(), &place);
        match key {
            "counters" => shape.counters = value,
            "comment" => shape.comment = value,
            _ => shape.forceadd = value,
        }
        stated.push((key, place));
    }
    stated
}

/// Whether a set of its type can have the options that are stated, and has those that it needs.
fn options_fit(
    name: &str,
    shape: &SetShape,
    stated: &[(&str, Place)],
    place: &Place,
    out: &mut CompileReport,
) -> bool {
    let (before, kind) = (out.problems.len(), shape.kind);
    for (key, place) in stated.iter().filter(|(key, _)| !kind.options().contains(key)) {
        let message = format!("set `{name}` of type {} cannot have `{key}`", kind.as_str());
        let problem = Problem::new("bad-set-option", message).at_place(place);
        out.problems.push(problem.help(format!("it can have {}", kind.options().join(", "))));
    }
    if kind.method() == "bitmap" && shape.range.is_none() && before == out.problems.len() {
        let help = if kind.parts() == [MemberPart::Ip] { "range: 192.0.2.0/24" } else { "range: 0-1023" };
        let message = format!("set `{name}` of type {} needs a `range`", kind.as_str());
        out.problems.push(Problem::new("missing-key", message).at_place(place).help(format!("add `{help}`")));
    }
    if kind.method() == "bitmap" && shape.family == IpFamily::V6 && kind.has_family() {
        let message = format!("set `{name}` of type {} takes no IPv6 addresses", kind.as_str());
        out.problems.push(Problem::new("wrong-family", message).at_place(place).help("use type `hash:ip`"));
    }
    let bits = if shape.family == IpFamily::V4 { 32 } else { 128 };
    if shape.netmask.is_some_and(|netmask| netmask > bits) {
        let message = format!("set `{name}` has a netmask of more than {bits} bits");
        out.problems.push(Problem::new("out-of-range", message).at_place(place));
    }
    before == out.problems.len()
}

fn problem((message, help): ipset::MemberProblem, place: &Place) -> Problem {
    let problem = Problem::new("bad-set-entry", message).at_place(place);
    match help {
        Some(help) => problem.help(help),
        None => problem,
    }
}

/// The members of a list as the kernel prints them, in order.
fn members(
    name: &str,
    shape: &SetShape,
    list: &EntryList,
    names: &BTreeSet<&str>,
    place: &Place,
    known: &SharedMembers,
    out: &mut CompileReport,
) -> Arc<Vec<String>> {
    let key = (Arc::as_ptr(&list.items) as usize, shape.clone());
    // A poisoned lock only means that another thread died while it held a whole map.
    let found = known.0.lock().unwrap_or_else(|e| e.into_inner()).get(&key).cloned();
    if let Some(found) = found {
        return found;
    }
    let before = out.problems.len();
    let mut all: Vec<String> = Vec::with_capacity(list.items.len());
    let mut seen: HashMap<String, &Place> = HashMap::with_capacity(list.items.len());
    for (text, place) in list.items.iter().filter(|(text, _)| !list.of_param || of_family(text, shape)) {
        let members = match shape.members(text) {
            Ok(members) => members,
            Err((message, help)) => {
                let help = if text == "unmanaged" { Some(NOT_A_LIST.to_owned()) } else { help };
                out.problems.push(problem((message, help), place));
                continue;
            }
        };
        for member in members {
            let element = member.split(' ').next().unwrap_or(&member).to_owned();
            if shape.kind.parts() == [MemberPart::Set] && !names.contains(element.as_str()) {
                let problem = unknown(&element, names.iter().copied(), place);
                out.problems.push(if text == "unmanaged" { problem.help(NOT_A_LIST) } else { problem });
                continue;
            }
            if let Some(first) = seen.insert(element, place) {
                let problem =
                    Problem::new("duplicate", format!("entry `{text}` is listed twice in set `{name}`"));
                out.problems
                    .push(problem.at_place(place).help(format!("the first definition is at {first}")));
                break;
            }
            all.push(member);
        }
    }
    if all.len() > shape.capacity() {
        let option = if shape.kind.method() == "list" { "size" } else { "maxelem" };
        let message = format!("set `{name}` has {} members and room for {}", all.len(), shape.capacity());
        let problem = Problem::new("too-large", message).at_place(place);
        out.problems.push(problem.help(format!("add `{option}: {}` or more", all.len())));
    }
    ipset::sort(&mut all);
    let all = Arc::new(all);
    // Whether the sets of a list exist is another question on each host.
    if before == out.problems.len() && shape.kind.parts() != [MemberPart::Set] {
        known.0.lock().unwrap_or_else(|e| e.into_inner()).insert(key, all.clone());
    }
    all
}

/// Whether an element of a list param is of the family of a set, as far as it can be told.
fn of_family(text: &str, shape: &SetShape) -> bool {
    let v6 = text.split([',', ' ']).next().is_some_and(|first| first.matches(':').count() > 1);
    !shape.kind.has_family() || v6 == (shape.family == IpFamily::V6)
}

fn unknown<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone, place: &Place) -> Problem {
    let help =
        did_you_mean(name, names).unwrap_or_else(|| format!("declare it under `ipset:`, `{name}: {{ … }}`"));
    Problem::new("unknown-set", format!("unknown set `{name}`")).at_place(place).help(help)
}

/// The kernel takes no list in a list.
fn lists(sets: &BTreeMap<String, DeclaredSet>, out: &mut CompileReport) {
    let is_list = |set: &DeclaredSet| set.shape.kind.parts() == [MemberPart::Set];
    for set in sets.values().filter(|set| is_list(set)) {
        for member in set.entries.iter().flat_map(|entries| entries.iter()) {
            let name = member.split(' ').next().unwrap_or(member);
            if sets.get(name).is_some_and(is_list) {
                let message = format!("set `{}` contains set `{name}`, and both are lists", set.name);
                let problem = Problem::new("bad-set-entry", message);
                out.problems.push(problem.at(&set.origin.file, set.origin.line, 1, 1));
            }
        }
    }
}

/// Whether the rules of a host and its sets fit together: what never matches is refused, what nobody declares is told.
pub fn link(
    families: &BTreeMap<IpFamily, DeclaredRules>,
    sets: &BTreeMap<String, DeclaredSet>,
    out: &mut CompileReport,
) {
    for (family, rules) in families {
        for (table, rules) in &rules.tables {
            for (chain, rules) in &rules.chains {
                for rule in rules.rules.iter().filter(|rule| rule.text.contains("-set ")) {
                    let chain = chain.trim_start_matches(PREFIX);
                    let what = || format!("{family} {table}/{chain}: `{}`", rule.text);
                    rule_fits(*family, &rule.text, &rule.origin, sets, what, out);
                }
            }
        }
    }
}

fn rule_fits(
    family: IpFamily,
    text: &str,
    origin: &Origin,
    sets: &BTreeMap<String, DeclaredSet>,
    what: impl Fn() -> String,
    out: &mut CompileReport,
) {
    let words = tokens(text).unwrap_or_default();
    for (at, three) in words.windows(3).enumerate().filter(|(_, three)| is_set_option(&three[0])) {
        let (option, name, flags) = (&three[0], &three[1], &three[2]);
        let Some(set) = sets.get(&**name) else {
            let help = did_you_mean(name, sets.keys().map(String::as_str));
            let help = help.unwrap_or_else(|| {
                format!("if another program makes it, that is right; else declare it under `ipset:` (`{name}: {{ … }}`)")
            });
            let message =
                format!("{} names the set `{name}`, which the inventory does not declare: {help}", what());
            out.warnings.push(Warning::new(LintCode::UnknownSet, message, Some(origin.clone())));
            continue;
        };
        let effect = match (option.as_ref(), at > 0 && words[at - 1] == "!") {
            ("--match-set", false) => "can never match",
            ("--match-set", true) => "holds for every packet",
            _ => "never changes a set",
        };
        let Some((code, message, help)) = misfit(family, option, effect, flags, set, sets) else { continue };
        let problem = Problem::new(code, format!("{} {message}", what())).help(help);
        out.problems.push(match out.set_rules.get(origin) {
            Some(place) => problem.at_place(place),
            None => problem.at(&origin.file, origin.line, 1, 1),
        });
    }
}

/// Why a set decides nothing in a rule, or would be spoilt by it.
fn misfit(
    family: IpFamily,
    option: &str,
    effect: &str,
    flags: &str,
    set: &DeclaredSet,
    sets: &BTreeMap<String, DeclaredSet>,
) -> Option<(&'static str, String, String)> {
    let name = &set.name;
    if option != "--match-set" && set.entries.is_some() {
        let message = format!("changes the members of set `{name}`, whose entries are declared");
        return Some(("managed-set", message, format!("write `entries: unmanaged` for `{name}`")));
    }
    let wants = family_word(family);
    let help = || {
        format!(
            "state a second set with `family: {wants}`, or a `list:set` of both for the rules of both families"
        )
    };
    if !can_hold(set, family) {
        let is = family_word(set.shape.family);
        return Some(("wrong-family", format!("{effect}: set `{name}` has family {is}"), help()));
    }
    let needed = match (set.shape.kind.parts(), &set.entries) {
        ([MemberPart::Set], Some(entries)) if !entries.is_empty() => {
            let of_list = entries.iter().map(|member| sets.get(member.split(' ').next().unwrap_or(member)));
            let asked: Vec<Option<&DeclaredSet>> =
                of_list.filter(|set| set.is_none_or(|set| can_hold(set, family))).collect();
            if asked.is_empty() {
                let message = format!("{effect}: no set of the list `{name}` has family {wants}");
                return Some(("wrong-family", message, help()));
            }
            // A set of the list that wants more parts is passed over, and the others are asked.
            asked.iter().map(|set| set.map_or(1, |set| set.shape.kind.parts().len())).min().unwrap_or(1)
        }
        (parts, _) => parts.len(),
    };
    let given = flags.split(',').count();
    (given < needed).then(|| {
        let example = vec!["src"; needed].join(",");
        let message = format!("{effect}: a member of set `{name}` has {needed} parts, and it gives {given}");
        ("set-parts", message, format!("write `{option} {name} {example}`, each `src` or `dst`"))
    })
}

/// Whether the kernel asks a set at all for packets of a family.
fn can_hold(set: &DeclaredSet, family: IpFamily) -> bool {
    match (set.shape.kind.has_family(), set.shape.kind.method()) {
        (false, _) => true,
        (true, "bitmap") => family == IpFamily::V4,
        (true, _) => set.shape.family == family,
    }
}
