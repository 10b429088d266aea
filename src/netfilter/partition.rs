//! Values that stand for all others: one of each range that no rule divides.
//!
//! What holds for each of them holds for the whole network, or for every port, because rules compare with bounds alone.
//! A mask that is not a prefix is no bound: where a rule has one, nothing stands for the others.

use super::matches::{MaskedNetwork, MatchTest, PortRange};
use super::ruleset::Ruleset;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// First and last value of a range.
pub(super) type ValueRange<T> = (T, T);

impl Ruleset {
    /// One address of each range of a network that neither a rule nor one of `others` divides; `None` where there are
    /// more than `limit` ranges.
    pub fn distinct_addresses(&self, network: IpNet, others: &[IpNet], limit: usize) -> Option<Vec<IpAddr>> {
        let v6 = network.addr().is_ipv6();
        let (first, last) = (number(network.network()), number(network.broadcast()));
        let mut starts = BTreeSet::from([first]);
        let mut divide = |(from, to): ValueRange<u128>| {
            let inside = |start: &u128| (first..=last).contains(start);
            starts.extend([Some(from), to.checked_add(1)].into_iter().flatten().filter(inside));
            starts.len() <= limit
        };
        let others = others.iter().filter(|other| other.addr().is_ipv6() == v6);
        for other in others {
            if !divide((number(other.network()), number(other.broadcast()))) {
                return None;
            }
        }
        for one in self.all_rules().flat_map(|rule| &rule.matches) {
            if !addresses(&one.test, v6).into_iter().flatten().all(&mut divide) {
                return None;
            }
        }
        let ends = starts.iter().skip(1).map(|start| start - 1).chain([last]);
        // The first address of a range may be that of a network, and the last one its broadcast address.
        let of = |(start, end): (&u128, u128)| if end - start >= 2 { start + 1 } else { *start };
        Some(starts.iter().zip(ends).map(of).map(|value| address(value, v6)).collect())
    }

    /// One port of each range that no rule divides; `None` where there are more than `limit` ranges.
    pub fn distinct_ports(&self, limit: usize) -> Option<Vec<u16>> {
        let mut starts = BTreeSet::from([1]);
        for rule in self.all_rules() {
            for PortRange(from, to) in rule.matches.iter().flat_map(|one| ports(&one.test)) {
                starts.extend([Some(from), to.checked_add(1)].into_iter().flatten().filter(|port| *port > 0));
            }
            if starts.len() > limit {
                return None;
            }
        }
        Some(starts.into_iter().collect())
    }
}

/// The ranges of addresses of a family with which a condition compares.
fn addresses(test: &MatchTest, v6: bool) -> Option<Vec<ValueRange<u128>>> {
    let of = |from: IpAddr, to: IpAddr| (from.is_ipv6() == v6).then(|| (number(from), number(to)));
    Some(match test {
        MatchTest::Source(network) | MatchTest::Destination(network) => {
            bounds(network, v6).into_iter().collect()
        }
        MatchTest::SourceRange(from, to) | MatchTest::DestinationRange(from, to) => {
            of(*from, *to).into_iter().collect()
        }
        MatchTest::InSet(set) => set
            .networks()
            .into_iter()
            .filter_map(|(address, length)| {
                let network = IpNet::new(address, length).ok()?;
                of(network.network(), network.broadcast())
            })
            .collect(),
        _ => return None,
    })
}

/// The ranges of destination ports with which a condition compares.
fn ports(test: &MatchTest) -> Vec<PortRange> {
    match test {
        MatchTest::DestinationPorts(list) | MatchTest::AnyPorts(list) => list.clone(),
        MatchTest::InSet(set) => set.ports().into_iter().map(|port| PortRange(port, port)).collect(),
        _ => Vec::new(),
    }
}

/// First and last address; `None` of the other family, and where the mask is not a prefix.
fn bounds(network: &MaskedNetwork, v6: bool) -> Option<ValueRange<u128>> {
    let (of_v6, address, mask) = network.parts();
    let bits = if v6 { 128 } else { 32 };
    let free = !mask & (u128::MAX >> (128 - bits));
    (of_v6 == v6 && free & free.wrapping_add(1) == 0).then_some((address, address | free))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(value: u128, v6: bool) -> IpAddr {
    if v6 {
        return Ipv6Addr::from(value).into();
    }
    Ipv4Addr::from(u32::try_from(value).unwrap_or(u32::MAX)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::iptables::save::SavedTables;

    fn rules(text: &str) -> Ruleset {
        let head = "*filter\n:INPUT ACCEPT [0:0]\n";
        Ruleset::new(&SavedTables::parse(&format!("{head}{text}COMMIT\n")).unwrap())
    }

    #[test]
    fn each_range_that_no_rule_divides_has_one_address() {
        let rules = rules(
            "-A INPUT -s 10.0.0.0/24 -j ACCEPT\n-A INPUT -s 10.0.0.7/32 -j DROP\n-A INPUT -d 192.0.2.1/32 -j DROP\n\
             -A INPUT -m iprange --src-range 10.0.0.100-10.0.1.5 -j DROP\n",
        );
        let others = ["172.16.5.0/24".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let of = |network: &str| {
            let found = rules.distinct_addresses(network.parse().unwrap(), &others, 99).unwrap();
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        // Up to .6, .7, up to .99, the rest of the /24, up to 10.0.1.5, and the rest.
        assert_eq!(of("10.0.0.0/16"), "10.0.0.1 10.0.0.7 10.0.0.9 10.0.0.101 10.0.1.1 10.0.1.7");
        assert_eq!(of("10.0.0.7/32"), "10.0.0.7");
        assert_eq!(of("172.16.0.0/12"), "172.16.0.1 172.16.5.1 172.16.6.1");
        assert_eq!(of("0.0.0.0/0").split(' ').count(), 11);
        assert_eq!(of("2001:db8::/32"), "2001:db8::1");
        assert_eq!(rules.distinct_addresses("0.0.0.0/0".parse().unwrap(), &others, 10), None);
    }

    #[test]
    fn each_range_that_no_rule_divides_has_one_port() {
        let rules = rules(
            "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p tcp -m multiport --dports 80,5900:5999 -j DROP\n\
             -A INPUT -p udp -m udp --dport 65535 -j ACCEPT\n-A INPUT -p udp -m udp --sport 7 -j ACCEPT\n",
        );
        assert_eq!(rules.distinct_ports(99).unwrap(), [1, 22, 23, 80, 81, 5900, 6000, 65535]);
    }
}
