//! The promises of a rollout, over random fleets.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn plain(hosts: usize) -> Vec<Turn> {
    vec![Turn::default(); hosts]
}

/// The sizes of the batches when nothing fails.
fn sizes(hosts: &[Turn], batches: &str) -> Vec<usize> {
    let mut rollout = Rollout::new(hosts, &parse_batches(batches).unwrap(), Budget::Hosts(1), hosts.len());
    let mut sizes = Vec::new();
    loop {
        let started: Vec<usize> = std::iter::from_fn(|| rollout.start()).collect();
        if started.is_empty() {
            return sizes;
        }
        sizes.push(started.len());
        started.into_iter().for_each(|host| rollout.ended(host, false));
    }
}

#[test]
fn canary_then_tenth_then_all() {
    assert_eq!(sizes(&plain(100), "1,10%,100%"), [1, 10, 89]);
    assert_eq!(sizes(&plain(1), "1,10%,100%"), [1]);
    assert_eq!(sizes(&plain(3), "1,10%,100%"), [1, 1, 1]);
    assert_eq!(sizes(&plain(7), "2"), [2, 2, 2, 1]);
    assert!(parse_batches("0").is_err() && parse_batches("x").is_err() && parse_batches("101%").is_err());
}

#[test]
fn jump_hosts_change_alone_and_last() {
    let mut hosts = plain(5);
    hosts[0].jump_host = true;
    hosts[3].jump_host = true;
    assert_eq!(sizes(&hosts, "100%"), [3, 1, 1]);
    let mut rollout = Rollout::new(&hosts, &[Budget::Percent(100)], Budget::Hosts(1), 8);
    let first: BTreeSet<usize> = std::iter::from_fn(|| rollout.start()).collect();
    assert_eq!(first, BTreeSet::from([1, 2, 4]));
}

#[test]
fn two_nodes_of_one_cluster_never_change_together() {
    let node = |group: &str| Turn { max_in_flight: vec![(group.into(), 1)], jump_host: false };
    let hosts = [node("ceph"), node("ceph"), node("gluster"), Turn::default()];
    let mut rollout = Rollout::new(&hosts, &[Budget::Percent(100)], Budget::Hosts(1), 8);
    let started: Vec<usize> = std::iter::from_fn(|| rollout.start()).collect();
    assert_eq!(started, [0, 2, 3], "the second node of ceph waits, and nobody waits for it");
    rollout.ended(2, false);
    assert_eq!(rollout.start(), None);
    rollout.ended(0, false);
    assert_eq!(rollout.start(), Some(1));
}

/// A fleet: for each host whether it is a jump host, which groups limit it, and whether it will fail.
fn fleet() -> impl Strategy<Value = Vec<(bool, BTreeSet<u8>, bool)>> {
    let host =
        (prop::bool::weighted(0.1), prop::collection::btree_set(0u8..4, 0..3), prop::bool::weighted(0.2));
    prop::collection::vec(host, 0..60)
}

fn budget() -> impl Strategy<Value = Budget> {
    prop_oneof![(1usize..20).prop_map(Budget::Hosts), (1u8..=100).prop_map(Budget::Percent)]
}

proptest! {
    #[test]
    fn no_limit_is_ever_exceeded(
        fleet in fleet(),
        batches in prop::collection::vec(budget(), 1..4),
        max_fail in budget(),
        parallel in 1usize..12,
        order in any::<u64>(),
    ) {
        let limit = |group: u8| usize::from(group) + 1;
        let hosts: Vec<Turn> = fleet.iter().map(|(jump, groups, _)| Turn {
            max_in_flight: groups.iter().map(|g| (g.to_string(), limit(*g))).collect(),
            jump_host: *jump,
        }).collect();
        let allowed = max_fail.of(hosts.len()).max(1);
        let mut rollout = Rollout::new(&hosts, &batches, max_fail, parallel);
        let (mut flying, mut seen, mut failed): (Vec<usize>, BTreeSet<usize>, usize) = Default::default();
        let mut random = order;
        loop {
            while let Some(host) = rollout.start() {
                prop_assert!(failed < allowed, "started a host after {failed} failures of {allowed}");
                prop_assert!(seen.insert(host), "host {host} twice");
                flying.push(host);
                prop_assert!(flying.len() <= parallel);
                for group in 0u8..4 {
                    let of_group = flying.iter().filter(|h| fleet[**h].1.contains(&group)).count();
                    prop_assert!(of_group <= limit(group), "{of_group} of group {group} at once");
                }
                if fleet[host].0 {
                    prop_assert_eq!(flying.len(), 1, "a jump host is not alone");
                }
                let jump_before = seen.iter().any(|h| fleet[*h].0);
                prop_assert!(fleet[host].0 || !jump_before, "a jump host was not last");
            }
            if flying.is_empty() {
                break;
            }
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (random >> 33) as usize % flying.len();
            let host = flying.swap_remove(at);
            failed += usize::from(fleet[host].2);
            rollout.ended(host, fleet[host].2);
        }
        prop_assert!(failed < allowed + parallel, "{failed} failures with a budget of {allowed}");
        prop_assert!(failed >= allowed || seen.len() == hosts.len(), "a host never had its turn");
    }
}
