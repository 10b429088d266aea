//! Puts flows with equal results into one line each.

use super::flow::{FlowEnds, FlowKind};
use super::judge::{FlowChange, FlowDecider};
use super::{FlowVerdict, ImpactLine, services};
use crate::problem::Origin;
use crate::resource::iptables::IpFamily;
use std::collections::BTreeSet;

/// Most bridges or ports that a line names.
const MAX_NAMED: usize = 6;

/// What decides, in words, and where it was declared.
type Place = (Option<String>, Option<Origin>);

/// The flows of one line.
#[derive(Clone, PartialEq, Eq)]
struct FlowSet {
    subject: Subject,
    /// The bridges, devices, ports or services.
    names: Vec<String>,
    kinds: BTreeSet<FlowKind>,
    some: bool,
    at_boot: bool,
    before: FlowVerdict,
    after: FlowVerdict,
    by: Option<String>,
    origin: Option<Origin>,
}

/// What the flows of a line have in common.
#[derive(Clone, PartialEq, Eq)]
enum Subject {
    Ssh(String),
    /// Guests of bridges, in these directions.
    Guests(BTreeSet<Direction>),
    Listening,
    Connections,
}

/// A direction of packets of guests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    BetweenGuests,
    ToUplink,
    FromUplink,
    ToNetworks,
    FromNetworks,
    ToHost,
}

/// The lines for the flows of one family. `place` says in words what decides, and where that was declared.
pub fn lines(
    family: IpFamily,
    changes: &[FlowChange],
    place: impl Fn(&FlowDecider) -> Place,
) -> Vec<ImpactLine> {
    // Many flows end at the same rule, whose place is asked for once.
    let mut places: Vec<(&FlowDecider, Place)> = Vec::new();
    let mut sets: Vec<FlowSet> = Vec::new();
    for change in changes {
        let known = places.iter().find(|(by, _)| *by == &change.by).map(|(_, place)| place.clone());
        let decided = known.unwrap_or_else(|| {
            let decided = place(&change.by);
            places.push((&change.by, decided.clone()));
            decided
        });
        sets.push(FlowSet::new(change, decided));
    }
    // Kinds first, then directions, then bridges: so a line never names a direction that it does not hold for.
    for merge in [FlowSet::merge_kinds, FlowSet::merge_directions, FlowSet::merge_names] {
        let mut merged: Vec<FlowSet> = Vec::new();
        for set in sets {
            if !merged.iter_mut().any(|known| merge(known, &set)) {
                merged.push(set);
            }
        }
        sets = merged;
    }
    sets.into_iter().map(|set| set.line(family)).collect()
}

impl FlowSet {
    fn new(change: &FlowChange, (by, origin): Place) -> Self {
        let guests = |direction, name: &String| (Subject::Guests([direction].into()), name.clone());
        let (subject, name) = match &change.flow.ends {
            FlowEnds::Ssh(client, port) => {
                (Subject::Ssh(format!("SSH from {client} to port {port}")), String::new())
            }
            FlowEnds::BetweenGuests(bridge) => guests(Direction::BetweenGuests, bridge),
            FlowEnds::ToUplink(bridge) => guests(Direction::ToUplink, bridge),
            FlowEnds::FromUplink(bridge) => guests(Direction::FromUplink, bridge),
            FlowEnds::ToNetworks(device) => guests(Direction::ToNetworks, device),
            FlowEnds::FromNetworks(device) => guests(Direction::FromNetworks, device),
            FlowEnds::ToHost(bridge) => guests(Direction::ToHost, bridge),
            FlowEnds::Listening(port, tcp) => (Subject::Listening, services::shown(*port, *tcp)),
            FlowEnds::Connection(port, tcp) => (Subject::Connections, services::shown(*port, *tcp)),
        };
        Self {
            subject,
            names: vec![name],
            kinds: [change.flow.kind].into(),
            some: change.some,
            at_boot: change.flow.at_boot,
            before: change.before,
            after: change.after,
            by,
            origin,
        }
    }

    /// Whether the same happens to both, by the same rule, at the same time, for all ports or for some.
    fn ends_alike(&self, other: &Self) -> bool {
        (self.some, self.at_boot, self.before, self.after, &self.by, &self.origin)
            == (other.some, other.at_boot, other.before, other.after, &other.by, &other.origin)
    }

    fn merge_kinds(&mut self, other: &Self) -> bool {
        let merges = self.ends_alike(other)
            && self.subject == other.subject
            && self.names == other.names
            && !matches!(self.subject, Subject::Listening | Subject::Connections);
        if merges {
            self.kinds.extend(&other.kinds);
        }
        merges
    }

    fn merge_directions(&mut self, other: &Self) -> bool {
        let same = self.ends_alike(other) && self.names == other.names && self.kinds == other.kinds;
        match (&mut self.subject, &other.subject) {
            // The host is another machine than the peers of guests: it has a line of its own.
            (Subject::Guests(mine), Subject::Guests(others))
                if same && !mine.contains(&Direction::ToHost) && !others.contains(&Direction::ToHost) =>
            {
                mine.extend(others);
                true
            }
            _ => false,
        }
    }

    fn merge_names(&mut self, other: &Self) -> bool {
        let ports = matches!(self.subject, Subject::Listening | Subject::Connections);
        let merges = self.ends_alike(other)
            && self.subject == other.subject
            && (ports || self.kinds == other.kinds)
            && !matches!(self.subject, Subject::Ssh(_));
        if merges {
            self.names.extend(
                other.names.iter().filter(|name| !self.names.contains(name)).cloned().collect::<Vec<_>>(),
            );
        }
        merges
    }

    fn line(self, family: IpFamily) -> ImpactLine {
        let names = list(&self.names);
        let several = self.names.len() > 1;
        let kinds = || kinds(&self.kinds, family);
        let (subject, kinds) = match &self.subject {
            Subject::Ssh(text) => (text.clone(), Some(kinds())),
            Subject::Guests(directions) => (
                format!("{}{}", if self.some { "some " } else { "" }, guests(&names, directions)),
                Some(traffic(&self.kinds, family, directions).unwrap_or_else(kinds)),
            ),
            Subject::Listening => (format!("listening port{} {names}", if several { "s" } else { "" }), None),
            Subject::Connections => (format!("open connections of {names}"), None),
        };
        let which = if family == IpFamily::V4 { "IPv4" } else { "IPv6" };
        let boot = if self.at_boot { ", after the next boot" } else { "" };
        let kinds = kinds.map_or_else(String::new, |kinds| format!(", {kinds}"));
        ImpactLine {
            flow: format!("{subject}{kinds}, {which}{boot}"),
            before: self.before,
            after: self.after,
            by: self.by,
            origin: self.origin,
        }
    }
}

/// `guests on br123`, and to whom, unless it is everybody on the bridge.
fn guests(names: &str, directions: &BTreeSet<Direction>) -> String {
    use Direction::{BetweenGuests, FromNetworks, FromUplink, ToHost, ToNetworks, ToUplink};
    let directions: Vec<Direction> = directions.iter().copied().collect();
    let to = match directions[..] {
        [BetweenGuests, ToUplink, FromUplink, ..] => "",
        [BetweenGuests] => " to each other",
        [BetweenGuests, ToUplink] => " to each other and to the uplink",
        [BetweenGuests, FromUplink] => " from each other and from the uplink",
        [BetweenGuests, ToNetworks] => " to each other and to other networks",
        [BetweenGuests, FromNetworks] => " from each other and from other networks",
        [BetweenGuests, ToNetworks, FromNetworks] => " to each other and other networks, and back",
        [ToUplink] => " to the uplink",
        [FromUplink] => " from the uplink",
        [ToUplink, FromUplink] => " to the uplink and back",
        [ToNetworks] => " to other networks",
        [FromNetworks] => " from other networks",
        [ToNetworks, FromNetworks] => " to other networks and back",
        [ToHost] => " to the host",
        _ => " to all others",
    };
    format!("guests on {names}{to}")
}

/// `all traffic`, where it is all that guests send in these directions.
fn traffic(kinds: &BTreeSet<FlowKind>, family: IpFamily, directions: &BTreeSet<Direction>) -> Option<String> {
    let routed = directions.iter().any(|d| matches!(d, Direction::ToNetworks | Direction::FromNetworks));
    let every = if routed { FlowKind::routed() } else { FlowKind::of_guests(family) };
    every.iter().all(|kind| kinds.contains(kind)).then(|| "all traffic".to_owned())
}

fn kinds(kinds: &BTreeSet<FlowKind>, family: IpFamily) -> String {
    let words: Vec<&str> = kinds
        .iter()
        .map(|kind| match kind {
            FlowKind::NewTcp => "new TCP",
            FlowKind::NewUdp => "new UDP",
            FlowKind::Ping if family == IpFamily::V4 => "ICMP",
            FlowKind::Ping => "ICMPv6",
            FlowKind::Neighbour => "neighbour discovery",
            FlowKind::Established => "established",
            FlowKind::Reply => "replies",
        })
        .collect();
    joined(&words)
}

/// Names with `and` before the last; of many the first, and how many more.
fn list(names: &[String]) -> String {
    let words: Vec<&str> = names.iter().map(String::as_str).collect();
    if words.len() <= MAX_NAMED {
        return joined(&words);
    }
    format!("{} and {} more", words[..MAX_NAMED - 1].join(", "), words.len() + 1 - MAX_NAMED)
}

fn joined(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
