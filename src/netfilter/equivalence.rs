//! Do two rulesets treat every packet alike?
//!
//! A proof, not a sample: chains are laid out as what a packet meets one after the other. Where both
//! rulesets have the same there, in the same order, every packet meets the same. Where the order differs, each two
//! that changed places have to come to the same, or must not both be met by one packet. What cannot be shown so is a
//! [`VerdictDifference`], with a packet as evidence where one is found.

use super::overlap::{are_disjoint, is_included};
use super::packet::{ConntrackStates, Packet, PacketDevice, protocol};
use super::rule::{ParsedRule, RuleTarget};
use super::ruleset::Ruleset;
use super::simulate::simulate_chain;
use super::{MatchTest, PacketVerdict, RuleMatch};
use crate::resource::iptables::save::{takes_value, tokens};
use crate::resource::iptables::{IpFamily, TABLES};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// How many items a chain may lay out to, and how many pairs are compared; beyond that nothing is proven.
const ITEMS: usize = 20_000;
const PAIRS: usize = 20_000_000;
const DEPTH: usize = 32;

/// Why two rulesets may treat a packet differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictDifference {
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

impl VerdictDifference {
    /// Whether a third ruleset, too, treats the packet of the evidence otherwise than the first.
    pub fn also_in(&self, before: &Ruleset, third: &Ruleset) -> bool {
        let verdict =
            |rules| Some(simulate_chain(rules, &self.table, &self.chain, self.packet.as_deref()?).verdict);
        verdict(before) != verdict(third)
    }
}

/// Whether one rule decides about every packet that another one matches, and as that would.
pub fn covers(wide: &str, narrow: &str) -> bool {
    let (wide, narrow) = (ParsedRule::parse(wide), ParsedRule::parse(narrow));
    // What counts or remembers has to see its packets itself.
    let mut all = wide.matches.iter().chain(&narrow.matches);
    let sure = !all.any(|one| matches!(one.test, MatchTest::Unknown(_) | MatchTest::Mark { .. }));
    sure && matches!(wide.target, RuleTarget::Accept | RuleTarget::Drop)
        && target_text(&wide) == target_text(&narrow)
        && is_included(&narrow.matches, &wide.matches)
}

/// Something that a packet meets in a chain.
#[derive(Clone, Debug, PartialEq)]
struct ChainItem<'a> {
    matches: &'a [RuleMatch],
    body: ItemBody<'a>,
    text: &'a str,
}

#[derive(Clone, Debug, PartialEq)]
enum ItemBody<'a> {
    /// The target with its options, as it is written.
    Target(&'a RuleTarget, String),
    /// A chain that is entered and may come back; with `goto`, past the one it came from.
    Chain { items: Vec<ChainItem<'a>>, goto: bool },
}

impl ChainItem<'_> {
    /// Same conditions, same outcome; how the chains are called does not count, nor do comments.
    fn is_like(&self, other: &Self) -> bool {
        self.matches == other.matches
            && match (&self.body, &other.body) {
                (ItemBody::Target(_, one), ItemBody::Target(_, two)) => one == two,
                (ItemBody::Chain { items: a, goto: x }, ItemBody::Chain { items: b, goto: y }) => {
                    x == y && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_like(b))
                }
                _ => false,
            }
    }

    /// Whether a final one behind it is met by no packet.
    fn decides_about(&self, later: &Self) -> bool {
        self.is_like(later) || self.is_final() && is_included(later.matches, self.matches)
    }

    /// Whether the same once more behind it meets no packet.
    fn is_final(&self) -> bool {
        let sure = !self.matches.iter().any(|m| matches!(m.test, MatchTest::Unknown(_)));
        sure && matches!(
            &self.body,
            ItemBody::Target(RuleTarget::Accept | RuleTarget::Drop | RuleTarget::Return, _)
        )
    }
}

/// Proves that every packet has the same verdict in every chain, and is rewritten alike.
pub fn prove_equivalent(
    before: &Ruleset,
    after: &Ruleset,
    family: IpFamily,
) -> Result<(), VerdictDifference> {
    for (table, chains) in TABLES {
        for chain in chains {
            let differs = |what: String, packet: Option<Packet>| VerdictDifference {
                table: table.to_owned(),
                chain: (*chain).to_owned(),
                what,
                evidence: packet.as_ref().and_then(|p| evidence(before, after, table, chain, p)),
                packet: packet.map(Box::new),
            };
            let (Some(old), Some(new)) = (laid_out(before, table, chain), laid_out(after, table, chain))
            else {
                return Err(differs("too many rules to compare".to_owned(), None));
            };
            if let Err(UnprovenPair { first, second }) = alike(&old, &new) {
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
struct UnprovenPair<'i, 'a> {
    first: &'i ChainItem<'a>,
    second: Option<&'i ChainItem<'a>>,
}

/// What a packet meets in a built-in chain; `None` where that is too much.
fn laid_out<'a>(rules: &'a Ruleset, table: &str, chain: &str) -> Option<Vec<ChainItem<'a>>> {
    let mut budget = ITEMS;
    let mut items = chain_items(rules, table, chain, 0, &mut budget)?;
    let mut kept: Vec<ChainItem<'a>> = Vec::new();
    let mut changes = false;
    for item in items.drain(..) {
        if kept.last().is_some_and(|last: &ChainItem<'_>| last.is_final() && last.matches.is_empty()) {
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
) -> Option<Vec<ChainItem<'a>>> {
    let mut items = Vec::new();
    if depth > DEPTH {
        return None;
    }
    for rule in rules.rules(table, chain).unwrap_or_default() {
        *budget = budget.checked_sub(1)?;
        let (matches, text) = (rule.matches.as_slice(), &*rule.text);
        match &rule.target {
            RuleTarget::Jump(to) | RuleTarget::Goto(to) if rules.rules(table, to).is_some() => {
                let goto = matches!(rule.target, RuleTarget::Goto(_));
                let body = chain_items(rules, table, to, depth + 1, budget)?;
                let returns = |item: &ChainItem<'_>| match &item.body {
                    ItemBody::Target(target, _) => **target == RuleTarget::Return,
                    ItemBody::Chain { goto, .. } => *goto,
                };
                if matches.is_empty() && !goto && !body.iter().any(returns) {
                    items.extend(body);
                } else if !body.is_empty() || goto {
                    items.push(ChainItem { matches, body: ItemBody::Chain { items: body, goto }, text });
                }
            }
            target => {
                let words = target_text(rule);
                let only_tells = *target == RuleTarget::Continue
                    && ["", "LOG", "NFLOG", "ULOG"].contains(&words.split(' ').next().unwrap_or_default());
                if !only_tells {
                    items.push(ChainItem { matches, body: ItemBody::Target(target, words), text });
                }
            }
        }
    }
    Some(items)
}

/// The target of a rule with its options.
fn target_text(rule: &ParsedRule) -> String {
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

fn alike<'i, 'a>(old: &'i [ChainItem<'a>], new: &'i [ChainItem<'a>]) -> Result<(), UnprovenPair<'i, 'a>> {
    // What is not there may only be dead, behind one that decides about everything: that one comes first now.
    let alone = |item: &'i ChainItem<'a>, others: &'i [ChainItem<'a>], is_new: bool| {
        let wall = others.last().filter(|last| last.is_final() && last.matches.is_empty());
        Err(match (wall, is_new) {
            (Some(wall), false) => UnprovenPair { first: wall, second: Some(item) },
            (wall, _) => UnprovenPair { first: item, second: wall },
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
                return Err(UnprovenPair { first, second: Some(second) });
            }
        }
    }
    Ok(())
}

/// Whether it makes no difference which of two comes first; `a` and `b` are the conditions under which
/// they are met at all.
fn commute<'m>(
    one: &'m ChainItem<'_>,
    two: &'m ChainItem<'_>,
    a: &[&'m RuleMatch],
    b: &[&'m RuleMatch],
) -> bool {
    let under = |outer: &[&'m RuleMatch], item: &'m ChainItem<'_>| -> Vec<&'m RuleMatch> {
        outer.iter().copied().chain(item.matches).collect()
    };
    let (mut mine, mut theirs) = (under(a, one), under(b, two));
    let mut outcomes = BTreeSet::new();
    let decide = ends(one, &mut outcomes) && ends(two, &mut outcomes);
    if !decide {
        // What one of them changes tells the other nothing.
        for list in [&mut mine, &mut theirs] {
            list.retain(|m| !matches!(m.test, MatchTest::Mark { .. } | MatchTest::Conntrack(_)));
        }
    }
    if decide && outcomes.len() < 2 || are_disjoint(&mine, &theirs) {
        return true;
    }
    let inner = |item: &'m ChainItem<'_>| match &item.body {
        ItemBody::Chain { items, goto: false } if items.iter().all(stays) => Some(items),
        _ => None,
    };
    if let Some(items) = inner(one) {
        return items.iter().all(|item| commute(item, two, &mine, b));
    }
    inner(two).is_some_and(|items| items.iter().all(|item| commute(one, item, a, &theirs)))
}

/// Whether what follows in its chain is met whatever this one does, unless it decides.
fn stays(item: &ChainItem<'_>) -> bool {
    match &item.body {
        ItemBody::Target(target, _) => **target != RuleTarget::Return,
        ItemBody::Chain { goto, .. } => !goto,
    }
}

/// Collects how something can end; false where it can also change the packet.
fn ends(item: &ChainItem<'_>, outcomes: &mut BTreeSet<String>) -> bool {
    match &item.body {
        ItemBody::Chain { items, .. } => items.iter().all(|item| ends(item, outcomes)),
        ItemBody::Target(
            RuleTarget::Accept | RuleTarget::Drop | RuleTarget::Return | RuleTarget::Rewrite(_),
            text,
        ) => {
            outcomes.insert(text.clone());
            true
        }
        ItemBody::Target(..) => false,
    }
}

/// A packet that meets two items, as far as their conditions say; what they do not ask for is what is common.
fn packet(family: IpFamily, chain: &str, one: &ChainItem<'_>, two: &ChainItem<'_>) -> Packet {
    let device = |has: bool| if has { PacketDevice::named("eth0") } else { PacketDevice::Absent };
    let documentation: [IpAddr; 2] = match family {
        IpFamily::V4 => [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()],
        IpFamily::V6 => [1, 2].map(|last| [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into()),
    };
    let mut packet = Packet {
        src: Some(documentation[0]),
        dst: Some(documentation[1]),
        protocol: Some(protocol::TCP),
        sport: Some(40_000),
        dport: Some(1021),
        in_iface: device(!matches!(chain, "OUTPUT" | "POSTROUTING")),
        out_iface: device(!matches!(chain, "INPUT" | "PREROUTING")),
        physin: PacketDevice::Absent,
        physout: PacketDevice::Absent,
        state: ConntrackStates::NEW,
        ..Packet::new(family)
    };
    let name = |pattern: &super::DevicePattern| {
        PacketDevice::named(pattern.0.strip_suffix('+').map_or(pattern.0.clone(), |p| format!("{p}0")))
    };
    let mut list: Vec<&RuleMatch> = one.matches.iter().chain(two.matches).collect();
    // A chain meets what one of its rules meets.
    for item in [one, two] {
        if let ItemBody::Chain { items, .. } = &item.body {
            list.extend(items.first().into_iter().flat_map(|item| item.matches));
        }
    }
    for one in list.iter().filter(|m| !m.negated) {
        match &one.test {
            MatchTest::Source(network) => packet.src = Some(network.first()),
            MatchTest::Destination(network) => packet.dst = Some(network.first()),
            MatchTest::In(pattern) => packet.in_iface = name(pattern),
            MatchTest::Out(pattern) => packet.out_iface = name(pattern),
            MatchTest::Protocol(number) => packet.protocol = Some(*number),
            MatchTest::DestinationPorts(ranges) => packet.dport = ranges.first().map(|range| range.0),
            MatchTest::SourcePorts(ranges) => packet.sport = ranges.first().map(|range| range.0),
            MatchTest::Conntrack(asked) => {
                packet.state =
                    asked.states.and_then(|list| list.states.each().next()).unwrap_or(packet.state);
            }
            _ => {}
        }
    }
    match packet.protocol {
        Some(protocol::TCP) => packet.tcp_flags = super::TcpFlags::SYN,
        Some(protocol::ICMP | protocol::ICMPV6) => {
            packet.icmp = Some((if family == IpFamily::V4 { 8 } else { 128 }, 0));
            (packet.sport, packet.dport) = (None, None);
        }
        _ => {}
    }
    packet
}

fn evidence(before: &Ruleset, after: &Ruleset, table: &str, chain: &str, packet: &Packet) -> Option<String> {
    let (old, new) =
        (simulate_chain(before, table, chain, packet), simulate_chain(after, table, chain, packet));
    let word = |verdict| match verdict {
        PacketVerdict::Accept => Some("accepted"),
        PacketVerdict::Drop => Some("dropped"),
        PacketVerdict::Unknown => None,
    };
    let (then, now) = (word(old.verdict)?, word(new.verdict)?);
    let by = |trace: &super::PacketTrace| {
        trace.decided_by.as_ref().map_or_else(String::new, |s| format!(" by `{}`", s.text))
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
    let device = |device: &PacketDevice| match device {
        PacketDevice::Named(name) => Some(name.to_string()),
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
