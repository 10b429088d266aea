//! Do two rulesets treat every packet alike?
//!
//! A proof, not a sample: chains are laid out as what a packet meets one after the other. Where both
//! rulesets have the same there, in the same order, every packet meets the same. Where the order differs, each two
//! that changed places have to come to the same, or must not both be met by one packet. What cannot be shown so is a
//! [`Difference`], with a packet as evidence where one is found.

use super::disjoint::{disjoint, included};
use super::packet::{Device, Packet, States, protocol};
use super::rule::{Rule, Target};
use super::ruleset::Ruleset;
use super::walk::walk_chain;
use super::{Match, Test, Verdict};
use crate::resource::iptables::save::{takes_value, tokens};
use crate::resource::iptables::{Family, TABLES};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// How many items a chain may lay out to, and how many pairs are compared; beyond that nothing is proven.
const ITEMS: usize = 20_000;
const PAIRS: usize = 20_000_000;
const DEPTH: usize = 32;

/// Why two rulesets may treat a packet differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The built-in chain.
    pub chain: String,
    /// What is different, a sentence without a stop.
    pub what: String,
    /// A packet that is treated otherwise, and how.
    pub evidence: Option<String>,
    packet: Option<Box<Packet>>,
}

impl Difference {
    /// Whether a third ruleset, too, treats the packet of the evidence otherwise than the first.
    pub fn also_in(&self, before: &Ruleset, third: &Ruleset) -> bool {
        let verdict =
            |rules| Some(walk_chain(rules, &self.table, &self.chain, self.packet.as_deref()?).verdict);
        verdict(before) != verdict(third)
    }
}

/// Whether one rule decides about every packet that another one matches, and as that would.
pub fn covers(wide: &str, narrow: &str) -> bool {
    let (wide, narrow) = (Rule::parse(wide), Rule::parse(narrow));
    // What counts or remembers has to see its packets itself.
    let mut all = wide.matches.iter().chain(&narrow.matches);
    let sure = !all.any(|one| matches!(one.test, Test::Unknown(_) | Test::Mark { .. }));
    sure && matches!(wide.target, Target::Accept | Target::Drop)
        && target_text(&wide) == target_text(&narrow)
        && included(&narrow.matches, &wide.matches)
}

/// Something that a packet meets in a chain.
#[derive(Clone, Debug, PartialEq)]
struct Item<'a> {
    matches: &'a [Match],
    body: Body<'a>,
    text: &'a str,
}

#[derive(Clone, Debug, PartialEq)]
enum Body<'a> {
    /// The target with its options, as it is written.
    Target(&'a Target, String),
    /// A chain that is entered and may come back; with `goto`, past the one it came from.
    Chain { items: Vec<Item<'a>>, goto: bool },
}

impl Item<'_> {
    /// Same conditions, same outcome; how the chains are called does not count, nor do comments.
    fn is_like(&self, other: &Self) -> bool {
        self.matches == other.matches
            && match (&self.body, &other.body) {
                (Body::Target(_, one), Body::Target(_, two)) => one == two,
                (Body::Chain { items: a, goto: x }, Body::Chain { items: b, goto: y }) => {
                    x == y && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_like(b))
                }
                _ => false,
            }
    }

    /// Whether a final one behind it is met by no packet.
    fn decides_about(&self, later: &Self) -> bool {
        self.is_like(later) || self.is_final() && included(later.matches, self.matches)
    }

    /// Whether the same once more behind it meets no packet.
    fn is_final(&self) -> bool {
        let sure = !self.matches.iter().any(|m| matches!(m.test, Test::Unknown(_)));
        sure && matches!(&self.body, Body::Target(Target::Accept | Target::Drop | Target::Return, _))
    }
}

/// Proves that every packet has the same verdict in every chain, and is rewritten alike.
pub fn same_verdicts(before: &Ruleset, after: &Ruleset, family: Family) -> Result<(), Difference> {
    for (table, chains) in TABLES {
        for chain in chains {
            let differs = |what: String, packet: Option<Packet>| Difference {
                table: table.to_owned(),
                chain: (*chain).to_owned(),
                what,
                evidence: packet.as_ref().and_then(|p| evidence(before, after, table, chain, p)),
                packet: packet.map(Box::new),
            };
            let (Some(old), Some(new)) = (laid_out(before, table, chain), laid_out(after, table, chain))
            else {
                return Err(differs("it has more rules than can be compared".to_owned(), None));
            };
            if let Err(Pair { first, second }) = alike(&old, &new) {
                let packet = second.map(|second| packet(family, chain, first, second));
                let what = match second {
                    Some(second) => {
                        format!(
                            "`{}` would come before `{}`, and one packet can meet both",
                            first.text, second.text
                        )
                    }
                    None => format!("`{}` is in one and not in the other", first.text),
                };
                return Err(differs(what, packet));
            }
        }
    }
    Ok(())
}

/// What is not shown to be alike: two whose order changed, or one that the other does not have.
struct Pair<'i, 'a> {
    first: &'i Item<'a>,
    second: Option<&'i Item<'a>>,
}

/// What a packet meets in a built-in chain; `None` where that is too much.
fn laid_out<'a>(rules: &'a Ruleset, table: &str, chain: &str) -> Option<Vec<Item<'a>>> {
    let mut budget = ITEMS;
    let mut items = chain_items(rules, table, chain, 0, &mut budget)?;
    let mut kept: Vec<Item<'a>> = Vec::new();
    let mut changes = false;
    for item in items.drain(..) {
        if kept.last().is_some_and(|last: &Item<'_>| last.is_final() && last.matches.is_empty()) {
            break;
        }
        // Where a mark was set in between, the same condition may hold the second time.
        let dead = item.is_final() && !changes && kept.iter().any(|one| one.decides_about(&item));
        changes |= !ends(&item, &mut BTreeSet::new());
        if !dead {
            kept.push(item);
        }
    }
    Some(kept)
}

fn chain_items<'a>(
    rules: &'a Ruleset,
    table: &str,
    chain: &str,
    depth: usize,
    budget: &mut usize,
) -> Option<Vec<Item<'a>>> {
    let mut items = Vec::new();
    if depth > DEPTH {
        return None;
    }
    for rule in rules.rules(table, chain).unwrap_or_default() {
        *budget = budget.checked_sub(1)?;
        let (matches, text) = (rule.matches.as_slice(), &*rule.text);
        match &rule.target {
            Target::Jump(to) | Target::Goto(to) if rules.rules(table, to).is_some() => {
                let goto = matches!(rule.target, Target::Goto(_));
                let body = chain_items(rules, table, to, depth + 1, budget)?;
                let returns = |item: &Item<'_>| match &item.body {
                    Body::Target(target, _) => **target == Target::Return,
                    Body::Chain { goto, .. } => *goto,
                };
                if matches.is_empty() && !goto && !body.iter().any(returns) {
                    items.extend(body);
                } else if !body.is_empty() || goto {
                    items.push(Item { matches, body: Body::Chain { items: body, goto }, text });
                }
            }
            target => {
                let words = target_text(rule);
                let only_tells = *target == Target::Continue
                    && ["", "LOG", "NFLOG", "ULOG"].contains(&words.split(' ').next().unwrap_or_default());
                if !only_tells {
                    items.push(Item { matches, body: Body::Target(target, words), text });
                }
            }
        }
    }
    Some(items)
}

/// The target of a rule with its options.
fn target_text(rule: &Rule) -> String {
    let words = tokens(&rule.text).unwrap_or_else(|_| vec![(&*rule.text).into()]);
    let mut at = 0;
    while let Some(word) = words.get(at) {
        match &**word {
            "-j" | "-g" => return words.get(at + 1..).unwrap_or_default().join(" "),
            option if takes_value(option) => at += 2,
            _ => at += 1,
        }
    }
    String::new()
}

fn alike<'i, 'a>(old: &'i [Item<'a>], new: &'i [Item<'a>]) -> Result<(), Pair<'i, 'a>> {
    // What is not there may only be dead, behind one that decides about everything: that one comes first now.
    let alone = |item: &'i Item<'a>, others: &'i [Item<'a>], is_new: bool| {
        let wall = others.last().filter(|last| last.is_final() && last.matches.is_empty());
        Err(match (wall, is_new) {
            (Some(wall), false) => Pair { first: wall, second: Some(item) },
            (wall, _) => Pair { first: item, second: wall },
        })
    };
    // Which old one each new one is; the order is asked for afterwards.
    let mut free: Vec<bool> = vec![true; old.len()];
    let mut places = Vec::with_capacity(new.len());
    for (at, item) in new.iter().enumerate() {
        let likely = Some(at).filter(|at| free.get(*at) == Some(&true) && old[*at].is_like(item));
        let found = likely.or_else(|| (0..old.len()).find(|i| free[*i] && old[*i].is_like(item)));
        let Some(place) = found else { return alone(item, old, true) };
        free[place] = false;
        places.push(place);
    }
    if let Some(left) = free.iter().position(|free| *free) {
        return alone(&old[left], new, false);
    }
    if places.is_sorted() {
        return Ok(());
    }
    let mut pairs = PAIRS;
    for (at, place) in places.iter().enumerate() {
        // Those that stand behind it now and stood before it.
        for (later, _) in places.iter().enumerate().skip(at + 1).filter(|(_, other)| *other < place) {
            pairs = pairs.saturating_sub(1);
            let (first, second) = (&new[at], &new[later]);
            if pairs == 0 || !commute(first, second, &[], &[]) {
                return Err(Pair { first, second: Some(second) });
            }
        }
    }
    Ok(())
}

/// Whether it makes no difference which of two comes first; `a` and `b` are the conditions under which
/// they are met at all.
fn commute<'m>(one: &'m Item<'_>, two: &'m Item<'_>, a: &[&'m Match], b: &[&'m Match]) -> bool {
    let under = |outer: &[&'m Match], item: &'m Item<'_>| -> Vec<&'m Match> {
        outer.iter().copied().chain(item.matches).collect()
    };
    let (mut mine, mut theirs) = (under(a, one), under(b, two));
    let mut outcomes = BTreeSet::new();
    let decide = ends(one, &mut outcomes) && ends(two, &mut outcomes);
    if !decide {
        // What one of them changes tells the other nothing.
        for list in [&mut mine, &mut theirs] {
            list.retain(|m| !matches!(m.test, Test::Mark { .. } | Test::Conntrack(_)));
        }
    }
    if decide && outcomes.len() < 2 || disjoint(&mine, &theirs) {
        return true;
    }
    let inner = |item: &'m Item<'_>| match &item.body {
        Body::Chain { items, goto: false } if items.iter().all(stays) => Some(items),
        _ => None,
    };
    if let Some(items) = inner(one) {
        return items.iter().all(|item| commute(item, two, &mine, b));
    }
    inner(two).is_some_and(|items| items.iter().all(|item| commute(one, item, a, &theirs)))
}

/// Whether what follows in its chain is met whatever this one does, unless it decides.
fn stays(item: &Item<'_>) -> bool {
    match &item.body {
        Body::Target(target, _) => **target != Target::Return,
        Body::Chain { goto, .. } => !goto,
    }
}

/// Collects how something can end; false where it can also change the packet.
fn ends(item: &Item<'_>, outcomes: &mut BTreeSet<String>) -> bool {
    match &item.body {
        Body::Chain { items, .. } => items.iter().all(|item| ends(item, outcomes)),
        Body::Target(Target::Accept | Target::Drop | Target::Return | Target::Rewrite(_), text) => {
            outcomes.insert(text.clone());
            true
        }
        Body::Target(..) => false,
    }
}

/// A packet that meets two items, as far as their conditions say; what they do not ask for is what is common.
fn packet(family: Family, chain: &str, one: &Item<'_>, two: &Item<'_>) -> Packet {
    let device = |has: bool| if has { Device::named("eth0") } else { Device::Absent };
    let documentation: [IpAddr; 2] = match family {
        Family::V4 => [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()],
        Family::V6 => [1, 2].map(|last| [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into()),
    };
    let mut packet = Packet {
        src: Some(documentation[0]),
        dst: Some(documentation[1]),
        protocol: Some(protocol::TCP),
        sport: Some(40_000),
        dport: Some(1021),
        in_iface: device(!matches!(chain, "OUTPUT" | "POSTROUTING")),
        out_iface: device(!matches!(chain, "INPUT" | "PREROUTING")),
        physin: Device::Absent,
        physout: Device::Absent,
        state: States::NEW,
        ..Packet::new(family)
    };
    let name = |pattern: &super::Pattern| {
        Device::named(pattern.0.strip_suffix('+').map_or(pattern.0.clone(), |p| format!("{p}0")))
    };
    let mut list: Vec<&Match> = one.matches.iter().chain(two.matches).collect();
    // A chain meets what one of its rules meets.
    for item in [one, two] {
        if let Body::Chain { items, .. } = &item.body {
            list.extend(items.first().into_iter().flat_map(|item| item.matches));
        }
    }
    for one in list.iter().filter(|m| !m.negated) {
        match &one.test {
            Test::Source(network) => packet.src = Some(network.first()),
            Test::Destination(network) => packet.dst = Some(network.first()),
            Test::In(pattern) => packet.in_iface = name(pattern),
            Test::Out(pattern) => packet.out_iface = name(pattern),
            Test::Protocol(number) => packet.protocol = Some(*number),
            Test::DestinationPorts(ranges) => packet.dport = ranges.first().map(|range| range.0),
            Test::SourcePorts(ranges) => packet.sport = ranges.first().map(|range| range.0),
            Test::Conntrack(asked) => {
                packet.state =
                    asked.states.and_then(|list| list.states.each().next()).unwrap_or(packet.state);
            }
            _ => {}
        }
    }
    match packet.protocol {
        Some(protocol::TCP) => packet.tcp_flags = super::TcpFlags::SYN,
        Some(protocol::ICMP | protocol::ICMPV6) => {
            packet.icmp = Some((if family == Family::V4 { 8 } else { 128 }, 0));
            (packet.sport, packet.dport) = (None, None);
        }
        _ => {}
    }
    packet
}

fn evidence(before: &Ruleset, after: &Ruleset, table: &str, chain: &str, packet: &Packet) -> Option<String> {
    let (old, new) = (walk_chain(before, table, chain, packet), walk_chain(after, table, chain, packet));
    let word = |verdict| match verdict {
        Verdict::Accept => Some("accepted"),
        Verdict::Drop => Some("dropped"),
        Verdict::Unknown => None,
    };
    let (then, now) = (word(old.verdict)?, word(new.verdict)?);
    let by = |walk: &super::Walk| {
        walk.decided_by.as_ref().map_or_else(String::new, |s| format!(" by `{}`", s.text))
    };
    (then != now).then(|| format!("{} is {then}{} and would be {now}{}", shown(packet), by(&old), by(&new)))
}

/// A packet in words.
fn shown(packet: &Packet) -> String {
    let mut text = match packet.protocol {
        Some(protocol::TCP) => "a TCP packet".to_owned(),
        Some(protocol::UDP) => "a UDP packet".to_owned(),
        Some(protocol::ICMP | protocol::ICMPV6) => "an ICMP packet".to_owned(),
        other => format!("a packet of protocol {}", other.unwrap_or_default()),
    };
    let mut add = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!(" {what} {value}"));
        }
    };
    let device = |device: &Device| match device {
        Device::Named(name) => Some(name.to_string()),
        _ => None,
    };
    add("from", packet.src.map(|a| a.to_string()));
    add("to", packet.dst.map(|a| a.to_string()));
    add("from port", packet.sport.map(|p| p.to_string()));
    add("to port", packet.dport.map(|p| p.to_string()));
    add("in by", device(&packet.in_iface));
    add("out by", device(&packet.out_iface));
    text
}

#[cfg(test)]
mod tests;
