//! Rules that decide, found again by what a later rule asks for, without comparing each two.

use super::{MatchTest, RuleMatch, is_included};
use foldhash::HashMap;

/// So many kinds of rules are told apart, and so many rules that one kind and the same values have are compared;
/// beyond that nothing is said.
const SHAPES: usize = 64;
const ALIKE: usize = 16;

/// Which of the conditions that can be looked up a rule has. A rule that follows from it has those, too, and the
/// values of it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
struct MatchShape {
    protocol: bool,
    /// The masks of the networks.
    source: Option<u128>,
    destination: Option<u128>,
    /// One port, not a range.
    port: bool,
    /// Named in full.
    device: bool,
}

/// The values that go with a shape.
#[derive(PartialEq, Eq, Hash)]
struct ShapeKey<'a> {
    shape: MatchShape,
    protocol: Option<u8>,
    source: Option<u128>,
    destination: Option<u128>,
    port: Option<u16>,
    device: Option<&'a str>,
}

/// The rules of a chain that decide, so far.
#[derive(Default)]
pub(super) struct DecidingRules<'a> {
    same: HashMap<&'a [RuleMatch], usize>,
    shapes: Vec<MatchShape>,
    by_key: HashMap<ShapeKey<'a>, Vec<(&'a [RuleMatch], usize)>>,
}

impl<'a> DecidingRules<'a> {
    /// Takes note of a rule that decides about what it matches.
    pub(super) fn add(&mut self, matches: &'a [RuleMatch], index: usize) {
        self.same.entry(matches).or_insert(index);
        let shape = MatchShape::from_matches(matches);
        if !self.shapes.contains(&shape) {
            if self.shapes.len() == SHAPES {
                return;
            }
            self.shapes.push(shape);
        }
        let Some(key) = shape.key(matches) else { return };
        let alike = self.by_key.entry(key).or_default();
        if alike.len() < ALIKE {
            alike.push((matches, index));
        }
    }

    /// The first one that decides about everything that meets these conditions.
    pub(super) fn before(&self, matches: &[RuleMatch]) -> Option<usize> {
        let same = self.same.get(matches).copied();
        let wider = self.shapes.iter().filter_map(|shape| {
            let alike = self.by_key.get(&shape.key(matches)?)?;
            alike.iter().find(|(wide, _)| is_included(matches, wide)).map(|(_, index)| *index)
        });
        same.into_iter().chain(wider).min()
    }
}

/// The first condition without `!` that a value can be taken from.
fn value<'m, T>(matches: &'m [RuleMatch], of: impl Fn(&'m MatchTest) -> Option<T>) -> Option<T> {
    matches.iter().filter(|one| !one.negated).find_map(|one| of(&one.test))
}

fn protocol(test: &MatchTest) -> Option<u8> {
    match test {
        MatchTest::Protocol(number) => Some(*number),
        _ => None,
    }
}

fn source(test: &MatchTest) -> Option<(u128, u128)> {
    match test {
        MatchTest::Source(network) => Some((network.parts().1, network.parts().2)),
        _ => None,
    }
}

fn destination(test: &MatchTest) -> Option<(u128, u128)> {
    match test {
        MatchTest::Destination(network) => Some((network.parts().1, network.parts().2)),
        _ => None,
    }
}

fn port(test: &MatchTest) -> Option<u16> {
    match test {
        MatchTest::DestinationPorts(ranges) => match ranges.as_slice() {
            [only] if only.0 == only.1 => Some(only.0),
            _ => None,
        },
        _ => None,
    }
}

fn device(test: &MatchTest) -> Option<&str> {
    match test {
        MatchTest::In(pattern) if !pattern.0.ends_with('+') => Some(&pattern.0),
        _ => None,
    }
}

impl MatchShape {
    fn from_matches(matches: &[RuleMatch]) -> Self {
        Self {
            protocol: value(matches, protocol).is_some(),
            source: value(matches, source).map(|(_, mask)| mask),
            destination: value(matches, destination).map(|(_, mask)| mask),
            port: value(matches, port).is_some(),
            device: value(matches, device).is_some(),
        }
    }

    /// The values of this shape that a rule with these conditions has; `None` where it lacks one, or asks for more
    /// of it than this shape does.
    fn key<'m>(self, matches: &'m [RuleMatch]) -> Option<ShapeKey<'m>> {
        let network = |mask: Option<u128>, of: fn(&MatchTest) -> Option<(u128, u128)>| match mask {
            None => Some(None),
            Some(mask) => {
                let (address, own) = value(matches, of)?;
                (own & mask == mask).then_some(Some(address & mask))
            }
        };
        Some(ShapeKey {
            shape: self,
            protocol: if self.protocol { Some(value(matches, protocol)?) } else { None },
            source: network(self.source, source)?,
            destination: network(self.destination, destination)?,
            port: if self.port { Some(value(matches, port)?) } else { None },
            device: if self.device { Some(value(matches, device)?) } else { None },
        })
    }
}
