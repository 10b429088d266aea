//! The promises of a rollout, over random fleets.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn plain(hosts: usize) -> Vec<SchedulingConstraints> {
    vec![SchedulingConstraints::default(); hosts]
}

/// The sizes of the batches when nothing fails.
fn sizes(hosts: &[SchedulingConstraints], batches: &str) -> Vec<usize> {
    let mut rollout = Rollout::new(hosts, &parse_batches(batches).unwrap(), Budget::Hosts(1), 0, hosts.len());
    let mut sizes = Vec::new();
    loop {
        let started: Vec<usize> = std::iter::from_fn(|| rollout.start()).collect();
        if started.is_empty() {
            return sizes;
        }
        sizes.push(started.len());
        started.into_iter().for_each(|host| rollout.ended(host, Status::Changed));
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
    hosts[0].jump_depth = 2;
    hosts[3].jump_depth = 1;
    assert_eq!(sizes(&hosts, "100%"), [3, 1, 1]);
    let mut rollout = Rollout::new(&hosts, &[Budget::Percent(100)], Budget::Hosts(1), 0, 8);
    let first: BTreeSet<usize> = std::iter::from_fn(|| rollout.start()).collect();
    assert_eq!(first, BTreeSet::from([1, 2, 4]));
    first.into_iter().for_each(|host| rollout.ended(host, Status::Changed));
    assert_eq!(rollout.start(), Some(3), "host 3 is reached through host 0, which so comes after it");
    assert_eq!(rollout.start(), None);
    rollout.ended(3, Status::Changed);
    assert_eq!(rollout.start(), Some(0));
}

#[test]
fn two_nodes_of_one_cluster_never_change_together() {
    let node = |group: &str| SchedulingConstraints {
        max_in_flight: vec![(group.into(), 1)],
        ..SchedulingConstraints::default()
    };
    let hosts = [node("ceph"), node("ceph"), node("gluster"), SchedulingConstraints::default()];
    let mut rollout = Rollout::new(&hosts, &[Budget::Percent(100)], Budget::Hosts(2), 0, 8);
    let started: Vec<usize> = std::iter::from_fn(|| rollout.start()).collect();
    assert_eq!(started, [0, 2, 3], "the second node of ceph waits, and nobody waits for it");
    rollout.ended(2, Status::Changed);
    assert_eq!(rollout.start(), None);
    rollout.ended(0, Status::RolledBack);
    assert_eq!(rollout.start(), Some(1));
}

/// Its guard may put it back at any moment, or its change may still be there.
#[test]
fn a_node_that_is_unknown_holds_its_sisters_and_nobody_else() {
    let node = |group: &str| SchedulingConstraints {
        max_in_flight: vec![(group.into(), 1)],
        ..SchedulingConstraints::default()
    };
    let hosts = [
        node("ceph"),
        node("ceph"),
        node("gluster"),
        node("ceph"),
        SchedulingConstraints { jump_depth: 1, ..node("ceph") },
    ];
    let mut rollout = Rollout::new(&hosts, &parse_batches("2").unwrap(), Budget::Hosts(9), 0, 8);
    assert_eq!((rollout.start(), rollout.start()), (Some(0), None));
    rollout.ended(0, Status::Unknown);
    assert_eq!((rollout.start(), rollout.start()), (Some(2), None), "the next batch has its turn");
    rollout.ended(2, Status::Changed);
    assert_eq!(rollout.start(), None);
    assert_eq!([1, 2, 3, 4].map(|host| rollout.held(host)), [Some("ceph"), None, Some("ceph"), Some("ceph")]);
}

#[test]
fn hosts_that_fall_away_meanwhile_stop_it_too() {
    let mut rollout = Rollout::new(&plain(9), &parse_batches("9").unwrap(), Budget::Hosts(1), 1, 2);
    assert_eq!((rollout.start(), rollout.start()), (Some(0), Some(1)));
    rollout.ended(0, Status::Unreachable);
    assert_eq!(rollout.start(), Some(2), "one may be away");
    rollout.ended(1, Status::Unreachable);
    assert_eq!(rollout.start(), None);
    assert!(rollout.too_many_away());
}

#[test]
fn who_is_late_holds_up_jump_hosts_only() {
    let mut hosts = plain(9);
    hosts[0].straggler = true;
    hosts[5].straggler = true;
    hosts[8].straggler = true;
    hosts[3].jump_depth = 2;
    let mut rollout = Rollout::new(&hosts, &parse_batches("1,3,100%").unwrap(), Budget::Hosts(2), 0, 9);
    let go_on = |rollout: &mut Rollout| {
        let started: Vec<usize> = std::iter::from_fn(|| rollout.start()).collect();
        assert!(started.is_empty() || !rollout.waits());
        started.iter().for_each(|host| rollout.ended(*host, Status::Changed));
        started
    };
    assert!(!rollout.waits());
    assert_eq!([(); 4].map(|()| go_on(&mut rollout)), [vec![1], vec![2, 4, 6], vec![7], vec![]]);
    assert!(rollout.waits());
    assert_eq!(rollout.batch(), (3, 5));

    // Host 5 is the way to host 0, which has not answered, and is reached through host 3.
    rollout.leads(5, 1);
    rollout.answered(&BTreeSet::from([5]));
    assert_eq!((go_on(&mut rollout), rollout.waits()), (vec![], true));
    rollout.settled(8, Status::Failed);
    assert!(rollout.waits());
    rollout.answered(&BTreeSet::from([0]));
    assert_eq!([(); 4].map(|()| go_on(&mut rollout)), [vec![0], vec![5], vec![3], vec![]]);
    assert!(!rollout.waits());
    assert_eq!((rollout.batch(), rollout.budget()), ((6, 6), (1, 2)));
}

/// They are of no other kind because they are slow: nobody wants all of them at once who wants one after the other, or
/// who wants to see first how one fares.
#[test]
fn who_is_late_comes_in_batches_too() {
    let sizes = |before: usize, late: usize, batches: &str| {
        let mut hosts = plain(before + late);
        hosts[before..].iter_mut().for_each(|host| host.straggler = true);
        let mut rollout =
            Rollout::new(&hosts, &parse_batches(batches).unwrap(), Budget::Hosts(1), 0, hosts.len());
        let mut sizes = Vec::new();
        loop {
            let started: Vec<usize> = std::iter::from_fn(|| rollout.start()).collect();
            if started.is_empty() && !rollout.waits() {
                return sizes;
            }
            match started.len() {
                0 => rollout.answered(&(before..before + late).collect()),
                size => sizes.push(size),
            }
            started.into_iter().for_each(|host| rollout.ended(host, Status::Changed));
        }
    };
    assert_eq!(sizes(20, 2, "1,10%,100%"), [1, 3, 16, 2]);
    assert_eq!(sizes(0, 3, "1,100%"), [1, 2]);
    assert_eq!(sizes(3, 3, "1"), [1; 6]);
    assert_eq!(sizes(1, 3, "1,2"), [1, 2, 1]);
}

/// A fleet: for each host how many jumps lead on from it, which groups limit it, whether it is late, and how it will end.
fn fleet() -> impl Strategy<Value = Vec<(usize, BTreeSet<u8>, bool, Status)>> {
    let leads = prop_oneof![9 => Just(0usize), 1 => 1usize..4];
    let end = prop_oneof![
        16 => Just(Status::Changed),
        2 => Just(Status::RolledBack),
        1 => Just(Status::Unknown),
        1 => Just(Status::Unreachable),
    ];
    let host = (leads, prop::collection::btree_set(0u8..4, 0..3), prop::bool::weighted(0.1), end);
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
        may_be_away in 0usize..20,
        parallel in 1usize..12,
        order in any::<u64>(),
    ) {
        let limit = |group: u8| usize::from(group) + 1;
        let hosts: Vec<SchedulingConstraints> = fleet.iter().map(|(leads, groups, late, _)| SchedulingConstraints {
            max_in_flight: groups.iter().map(|g| (g.to_string(), limit(*g))).collect(),
            jump_depth: *leads,
            straggler: *late,
        }).collect();
        let allowed = max_fail.of(hosts.len()).max(1);
        let mut rollout = Rollout::new(&hosts, &batches, max_fail, may_be_away, parallel);
        let (mut flying, mut unknown): (Vec<usize>, Vec<usize>) = Default::default();
        let (mut seen, mut failed, mut away, mut last) = (BTreeSet::new(), 0, 0, (0, false));
        let mut silent: Vec<usize> = (0..hosts.len()).filter(|host| fleet[*host].2).collect();
        let mut random = order;
        let mut any = |of: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize % of
        };
        loop {
            while let Some(host) = rollout.start() {
                prop_assert!(!silent.contains(&host), "host {host} has not answered");
                prop_assert!(failed < allowed, "started a host after {failed} failures of {allowed}");
                prop_assert!(away <= may_be_away, "started a host when {away} were away, of {may_be_away}");
                prop_assert!(seen.insert(host), "host {host} twice");
                flying.push(host);
                prop_assert!(flying.len() <= parallel);
                for group in 0u8..4 {
                    let open = flying.iter().chain(&unknown);
                    let of_group = open.filter(|h| fleet[**h].1.contains(&group)).count();
                    prop_assert!(of_group <= limit(group), "{of_group} of group {group} at once");
                }
                let leads = fleet[host].0;
                if leads > 0 {
                    prop_assert_eq!(flying.len(), 1, "a jump host is not alone");
                }
                let turn = (leads, leads > 0 || fleet[host].2);
                prop_assert!(turn >= last, "{turn:?} came after {last:?}");
                last = turn;
            }
            prop_assert!(!rollout.waits() || flying.is_empty());
            let late = rollout.waits().then(|| silent.swap_remove(any(silent.len())));
            if let Some(host) = late.filter(|_| any(3) > 0) {
                rollout.answered(&BTreeSet::from([host]));
                continue;
            }
            if late.is_none() && flying.is_empty() {
                break;
            }
            let host = late.unwrap_or_else(|| flying.swap_remove(any(flying.len())));
            let end = fleet[host].3;
            failed += usize::from(end.is_failure());
            away += usize::from(end == Status::Unreachable);
            match late {
                Some(host) => {
                    // What is looked at only is never unknown.
                    let end = if end == Status::Unknown { Status::Failed } else { end };
                    seen.insert(host);
                    rollout.settled(host, end);
                }
                None => {
                    if end == Status::Unknown {
                        unknown.push(host);
                    }
                    rollout.ended(host, end);
                }
            }
        }
        prop_assert!(failed < allowed + parallel, "{failed} failures with a budget of {allowed}");
        let stopped = failed >= allowed || away > may_be_away;
        for host in 0..hosts.len() {
            let held = fleet[host].1.iter().any(|group| {
                unknown.iter().filter(|other| fleet[**other].1.contains(group)).count() >= limit(*group)
            });
            prop_assert!(stopped || held || seen.contains(&host), "host {host} never had its turn");
            prop_assert_eq!(held, rollout.held(host).is_some());
        }
    }
}
