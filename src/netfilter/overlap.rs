//! Conditions that no packet meets together, and such that others follow from.

use super::matches::{ConntrackTest, DevicePattern, MaskedNetwork, MatchTest, PortRange, RuleMatch};

/// Whether no packet meets both lists of conditions; `false` where that is not certain.
pub(super) fn are_disjoint(one: &[&RuleMatch], two: &[&RuleMatch]) -> bool {
    one.iter().any(|a| two.iter().any(|b| contradict(a, b)))
}

/// Whether every packet that meets the first conditions meets the second, too; `false` where that is not certain.
pub(super) fn is_included(one: &[RuleMatch], two: &[RuleMatch]) -> bool {
    two.iter().all(|b| one.iter().any(|a| follows(a, b)))
}

/// Whether `b` holds wherever `a` does.
fn follows(a: &RuleMatch, b: &RuleMatch) -> bool {
    match (a.negated, b.negated) {
        (false, false) => within(&a.test, &b.test),
        (true, true) => within(&b.test, &a.test),
        (false, true) => apart(&a.test, &b.test) && same_header(&a.test, &b.test),
        (true, false) => false,
    }
}

/// A condition on ports, flags or types asks for their header also with `!`, and so has to follow from one that does.
fn same_header(a: &MatchTest, b: &MatchTest) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

fn contradict(a: &RuleMatch, b: &RuleMatch) -> bool {
    match (a.negated, b.negated) {
        (false, false) => apart(&a.test, &b.test),
        (true, false) => within(&b.test, &a.test),
        (false, true) => within(&a.test, &b.test),
        (true, true) => false,
    }
}

/// Whether no packet meets both tests.
fn apart(a: &MatchTest, b: &MatchTest) -> bool {
    match (a, b) {
        (MatchTest::Protocol(a), MatchTest::Protocol(b)) => a != b,
        (MatchTest::Source(a), MatchTest::Source(b))
        | (MatchTest::Destination(a), MatchTest::Destination(b)) => !a.meets(b),
        (MatchTest::In(a), MatchTest::In(b))
        | (MatchTest::Out(a), MatchTest::Out(b))
        | (MatchTest::PhysIn(a), MatchTest::PhysIn(b))
        | (MatchTest::PhysOut(a), MatchTest::PhysOut(b)) => !devices_meet(a, b),
        (MatchTest::SourcePorts(a), MatchTest::SourcePorts(b))
        | (MatchTest::DestinationPorts(a), MatchTest::DestinationPorts(b)) => !ports_meet(a, b),
        (MatchTest::Icmp { kind: Some(a), .. }, MatchTest::Icmp { kind: Some(b), .. }) => a.0 != b.0,
        (MatchTest::Mark { value: a, mask: x }, MatchTest::Mark { value: b, mask: y }) => x == y && a != b,
        (MatchTest::Length(a, x), MatchTest::Length(b, y)) => x < b || y < a,
        (MatchTest::Conntrack(a), MatchTest::Conntrack(b)) => match (plain_states(a), plain_states(b)) {
            (Some(a), Some(b)) => !a.meets(b),
            _ => false,
        },
        _ => false,
    }
}

/// Whether every packet that meets the first test meets the second, too.
fn within(a: &MatchTest, b: &MatchTest) -> bool {
    match (a, b) {
        (MatchTest::Unknown(_), _) => false,
        (MatchTest::Source(a), MatchTest::Source(b))
        | (MatchTest::Destination(a), MatchTest::Destination(b)) => a.within(b),
        (MatchTest::In(a), MatchTest::In(b))
        | (MatchTest::Out(a), MatchTest::Out(b))
        | (MatchTest::PhysIn(a), MatchTest::PhysIn(b))
        | (MatchTest::PhysOut(a), MatchTest::PhysOut(b)) => match a.0.strip_suffix('+') {
            Some(prefix) => b.0.strip_suffix('+').is_some_and(|b| prefix.starts_with(b)),
            None => b.fits(&a.0),
        },
        (MatchTest::SourcePorts(a), MatchTest::SourcePorts(b))
        | (MatchTest::DestinationPorts(a), MatchTest::DestinationPorts(b))
        | (MatchTest::AnyPorts(a), MatchTest::AnyPorts(b)) => {
            a.iter().all(|a| b.iter().any(|b| b.0 <= a.0 && a.1 <= b.1))
        }
        (MatchTest::TcpFlags { mask: a, set: x }, MatchTest::TcpFlags { mask: b, set: y }) => {
            a & b == *b && x & b == *y
        }
        (MatchTest::Length(a, x), MatchTest::Length(b, y)) => b <= a && x <= y,
        (MatchTest::Icmp { protocol: a, kind: x }, MatchTest::Icmp { protocol: b, kind: y }) => {
            a == b
                && match (x, y) {
                    (_, None) => true,
                    (Some((x, code)), Some((y, asked))) => x == y && (asked.is_none() || code == asked),
                    (None, Some(_)) => false,
                }
        }
        (MatchTest::Conntrack(a), MatchTest::Conntrack(b)) if b.direction.is_none() && b.other.is_none() => {
            match (plain_states(a), plain_states(b)) {
                (Some(a), Some(b)) => a.within(b),
                _ => a.states == b.states,
            }
        }
        _ => a == b,
    }
}

/// States that are asked for alone.
fn plain_states(asked: &ConntrackTest) -> Option<super::ConntrackStates> {
    let list = asked.states.filter(|list| !list.negated && !list.snat && !list.dnat)?;
    Some(list.states)
}

fn devices_meet(a: &DevicePattern, b: &DevicePattern) -> bool {
    match (a.0.strip_suffix('+'), b.0.strip_suffix('+')) {
        (Some(a), Some(b)) => a.starts_with(b) || b.starts_with(a),
        (None, _) => b.fits(&a.0),
        (_, None) => a.fits(&b.0),
    }
}

fn ports_meet(a: &[PortRange], b: &[PortRange]) -> bool {
    a.iter().any(|a| b.iter().any(|b| a.0 <= b.1 && b.0 <= a.1))
}

impl MaskedNetwork {
    /// Whether an address lies in both.
    fn meets(&self, other: &MaskedNetwork) -> bool {
        let (v6, address, mask) = self.parts();
        let (other_v6, other_address, other_mask) = other.parts();
        v6 == other_v6 && (address ^ other_address) & mask & other_mask == 0
    }

    /// Whether all of it lies in the other.
    fn within(&self, other: &MaskedNetwork) -> bool {
        let (.., mask) = self.parts();
        let (.., other_mask) = other.parts();
        self.meets(other) && mask & other_mask == other_mask
    }
}
