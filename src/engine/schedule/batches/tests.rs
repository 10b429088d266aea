//! Properties of a rollout over random fleets.

use super::*;
use crate::engine::budget::parse_batches;
use proptest::prelude::*;

type Queue = BatchQueue<()>;

fn plain(hosts: usize) -> Vec<SchedulingConstraints> {
    vec![SchedulingConstraints::default(); hosts]
}

/// A queue in which every host but the stragglers has answered.
fn queue(
    hosts: &[SchedulingConstraints],
    stragglers: &[usize],
    batches: &[Budget],
    max_fail: Budget,
    max_unreachable: usize,
    parallel: usize,
) -> Queue {
    let hosts = hosts.iter().cloned().enumerate();
    let hosts = hosts.map(|(host, constraints)| (constraints, (!stragglers.contains(&host)).then_some(())));
    BatchQueue::new(hosts.collect(), &RolloutLimits { batches, max_fail, max_unreachable, parallel })
}

fn start(queue: &mut Queue) -> Option<usize> {
    queue.start().map(|(index, ())| index.0)
}

/// Starts every host that may start.
fn start_all(queue: &mut Queue) -> Vec<usize> {
    std::iter::from_fn(|| start(queue)).collect()
}

fn finish(queue: &mut Queue, host: usize, status: HostStatus) {
    queue.finish(QueueIndex(host), status);
}

fn answer(queue: &mut Queue, hosts: impl IntoIterator<Item = usize>) {
    queue.enqueue_stragglers(hosts.into_iter().map(|host| (QueueIndex(host), ())).collect());
}

fn blocking_group(queue: &Queue, host: usize) -> Option<&str> {
    queue.blocking_group(QueueIndex(host))
}

/// Sizes of the batches when nothing fails.
fn sizes(hosts: &[SchedulingConstraints], batches: &str) -> Vec<usize> {
    let batches = parse_batches(batches).unwrap();
    let mut queue = queue(hosts, &[], &batches, Budget::Hosts(1), 0, hosts.len());
    let mut sizes = Vec::new();
    loop {
        let started = start_all(&mut queue);
        if started.is_empty() {
            return sizes;
        }
        sizes.push(started.len());
        started.into_iter().for_each(|host| finish(&mut queue, host, HostStatus::Changed));
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
    let mut queue = queue(&hosts, &[], &[Budget::Percent(100)], Budget::Hosts(1), 0, 8);
    let first: BTreeSet<usize> = start_all(&mut queue).into_iter().collect();
    assert_eq!(first, BTreeSet::from([1, 2, 4]));
    first.into_iter().for_each(|host| finish(&mut queue, host, HostStatus::Changed));
    assert_eq!(start(&mut queue), Some(3), "host 3 is reached through host 0, which comes after it");
    assert_eq!(start(&mut queue), None);
    finish(&mut queue, 3, HostStatus::Changed);
    assert_eq!(start(&mut queue), Some(0));
}

fn of_group(group: &str) -> SchedulingConstraints {
    SchedulingConstraints { max_in_flight: vec![(group.into(), 1)], ..SchedulingConstraints::default() }
}

#[test]
fn two_nodes_of_one_cluster_never_change_together() {
    let hosts = [of_group("ceph"), of_group("ceph"), of_group("gluster"), SchedulingConstraints::default()];
    let mut queue = queue(&hosts, &[], &[Budget::Percent(100)], Budget::Hosts(2), 0, 8);
    assert_eq!(start_all(&mut queue), [0, 2, 3], "only the second node of ceph waits");
    finish(&mut queue, 2, HostStatus::Changed);
    assert_eq!(start(&mut queue), None);
    finish(&mut queue, 0, HostStatus::RolledBack);
    assert_eq!(start(&mut queue), Some(1));
}

/// Its guard may still roll it back, or its change may stay.
#[test]
fn an_unknown_node_blocks_only_its_group() {
    let hosts = [
        of_group("ceph"),
        of_group("ceph"),
        of_group("gluster"),
        of_group("ceph"),
        SchedulingConstraints { jump_depth: 1, ..of_group("ceph") },
    ];
    let mut queue = queue(&hosts, &[], &parse_batches("2").unwrap(), Budget::Hosts(9), 0, 8);
    assert_eq!((start(&mut queue), start(&mut queue)), (Some(0), None));
    finish(&mut queue, 0, HostStatus::Unknown);
    assert_eq!((start(&mut queue), start(&mut queue)), (Some(2), None), "the next batch starts");
    finish(&mut queue, 2, HostStatus::Changed);
    assert_eq!(start(&mut queue), None);
    assert_eq!(
        [1, 2, 3, 4].map(|host| blocking_group(&queue, host)),
        [Some("ceph"), None, Some("ceph"), Some("ceph")]
    );
    let mut pending: Vec<usize> = queue.take_pending().into_iter().map(|(index, ())| index.0).collect();
    pending.sort_unstable();
    assert_eq!(pending, [1, 3, 4], "blocked hosts are not lost");
}

#[test]
fn hosts_that_become_unreachable_stop_it_too() {
    let mut queue = queue(&plain(9), &[], &parse_batches("9").unwrap(), Budget::Hosts(1), 1, 2);
    assert_eq!((start(&mut queue), start(&mut queue)), (Some(0), Some(1)));
    finish(&mut queue, 0, HostStatus::Unreachable);
    assert_eq!(start(&mut queue), Some(2), "one may be unreachable");
    finish(&mut queue, 1, HostStatus::Unreachable);
    assert_eq!(start(&mut queue), None);
    assert!(queue.too_many_unreachable());
}

#[test]
fn stragglers_delay_jump_hosts_only() {
    let mut hosts = plain(9);
    hosts[3].jump_depth = 2;
    let batches = parse_batches("1,3,100%").unwrap();
    let mut queue = queue(&hosts, &[0, 5, 8], &batches, Budget::Hosts(2), 0, 9);
    let run_batch = |queue: &mut Queue| {
        let started = start_all(queue);
        assert!(started.is_empty() || !queue.awaits_stragglers());
        started.iter().for_each(|host| finish(queue, *host, HostStatus::Changed));
        started
    };
    assert!(!queue.awaits_stragglers());
    assert_eq!([(); 4].map(|()| run_batch(&mut queue)), [vec![1], vec![2, 4, 6], vec![7], vec![]]);
    assert!(queue.awaits_stragglers());
    assert_eq!(queue.batch(), (3, 5));

    // Host 5 is the jump host of host 0, which has not answered, and is reached through host 3.
    queue.set_jump_depth(QueueIndex(5), 1);
    answer(&mut queue, [5]);
    assert_eq!((run_batch(&mut queue), queue.awaits_stragglers()), (vec![], true));
    queue.finish_straggler(QueueIndex(8), HostStatus::Failed);
    assert!(queue.awaits_stragglers());
    answer(&mut queue, [0]);
    assert_eq!([(); 4].map(|()| run_batch(&mut queue)), [vec![0], vec![5], vec![3], vec![]]);
    assert!(!queue.awaits_stragglers());
    assert_eq!((queue.batch(), queue.failures()), ((6, 6), (1, 2)));
}

/// The user who wants small batches, or a canary first, wants that for stragglers as well.
#[test]
fn stragglers_change_in_batches_too() {
    let sizes = |before: usize, late: usize, batches: &str| {
        let hosts = plain(before + late);
        let stragglers: Vec<usize> = (before..before + late).collect();
        let batches = parse_batches(batches).unwrap();
        let mut queue = queue(&hosts, &stragglers, &batches, Budget::Hosts(1), 0, hosts.len());
        let mut sizes = Vec::new();
        loop {
            let started = start_all(&mut queue);
            if started.is_empty() && !queue.awaits_stragglers() {
                return sizes;
            }
            match started.len() {
                0 => answer(&mut queue, stragglers.iter().copied()),
                size => sizes.push(size),
            }
            started.into_iter().for_each(|host| finish(&mut queue, host, HostStatus::Changed));
        }
    };
    assert_eq!(sizes(20, 2, "1,10%,100%"), [1, 3, 16, 2]);
    assert_eq!(sizes(0, 3, "1,100%"), [1, 2]);
    assert_eq!(sizes(3, 3, "1"), [1; 6]);
    assert_eq!(sizes(1, 3, "1,2"), [1, 2, 1]);
}

/// For each host: jump depth, limiting groups, whether it is a straggler, and its outcome.
type Fleet = Vec<(usize, BTreeSet<u8>, bool, HostStatus)>;

fn fleet() -> impl Strategy<Value = Fleet> {
    let jump_depth = prop_oneof![9 => Just(0usize), 1 => 1usize..4];
    let status = prop_oneof![
        16 => Just(HostStatus::Changed),
        2 => Just(HostStatus::RolledBack),
        1 => Just(HostStatus::Unknown),
        1 => Just(HostStatus::Unreachable),
    ];
    let host = (jump_depth, prop::collection::btree_set(0u8..4, 0..3), prop::bool::weighted(0.1), status);
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
        max_unreachable in 0usize..20,
        parallel in 1usize..12,
        order in any::<u64>(),
    ) {
        let limit = |group: u8| usize::from(group) + 1;
        let hosts: Vec<SchedulingConstraints> = fleet
            .iter()
            .map(|(jump_depth, groups, ..)| SchedulingConstraints {
                max_in_flight: groups.iter().map(|g| (g.to_string(), limit(*g))).collect(),
                jump_depth: *jump_depth,
            })
            .collect();
        let mut silent: Vec<usize> = (0..hosts.len()).filter(|host| fleet[*host].2).collect();
        let allowed = max_fail.of(hosts.len()).max(1);
        let mut queue = queue(&hosts, &silent, &batches, max_fail, max_unreachable, parallel);
        let (mut in_flight, mut unknown): (Vec<usize>, Vec<usize>) = Default::default();
        let (mut seen, mut failed, mut unreachable) = (BTreeSet::new(), 0, 0);
        let mut last = (0, false);
        let mut random = order;
        let mut any = |of: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize % of
        };
        loop {
            while let Some(host) = start(&mut queue) {
                prop_assert!(!silent.contains(&host), "host {host} has not answered");
                prop_assert!(failed < allowed, "started a host after {failed} failures of {allowed}");
                prop_assert!(
                    unreachable <= max_unreachable,
                    "started a host when {unreachable} were unreachable, of {max_unreachable}"
                );
                prop_assert!(seen.insert(host), "host {host} twice");
                in_flight.push(host);
                prop_assert!(in_flight.len() <= parallel);
                for group in 0u8..4 {
                    let open = in_flight.iter().chain(&unknown);
                    let of_group = open.filter(|h| fleet[**h].1.contains(&group)).count();
                    prop_assert!(of_group <= limit(group), "{of_group} of group {group} at once");
                }
                let depth = fleet[host].0;
                if depth > 0 {
                    prop_assert_eq!(in_flight.len(), 1, "a jump host is not alone");
                }
                let position = (depth, depth > 0 || fleet[host].2);
                prop_assert!(position >= last, "{position:?} came after {last:?}");
                last = position;
            }
            prop_assert!(!queue.awaits_stragglers() || in_flight.is_empty());
            let straggler = queue.awaits_stragglers().then(|| silent.swap_remove(any(silent.len())));
            if let Some(host) = straggler.filter(|_| any(3) > 0) {
                answer(&mut queue, [host]);
                continue;
            }
            if straggler.is_none() && in_flight.is_empty() {
                break;
            }
            let host = straggler.unwrap_or_else(|| in_flight.swap_remove(any(in_flight.len())));
            let status = fleet[host].3;
            failed += usize::from(status.is_failure());
            unreachable += usize::from(status == HostStatus::Unreachable);
            match straggler {
                Some(host) => {
                    // A host that was only probed is never unknown.
                    let status = if status == HostStatus::Unknown { HostStatus::Failed } else { status };
                    seen.insert(host);
                    queue.finish_straggler(QueueIndex(host), status);
                }
                None => {
                    if status == HostStatus::Unknown {
                        unknown.push(host);
                    }
                    finish(&mut queue, host, status);
                }
            }
        }
        prop_assert!(failed < allowed + parallel, "{failed} failures with a budget of {allowed}");
        let stopped = failed >= allowed || unreachable > max_unreachable;
        for host in 0..hosts.len() {
            let blocked = fleet[host].1.iter().any(|group| {
                unknown.iter().filter(|other| fleet[**other].1.contains(group)).count() >= limit(*group)
            });
            prop_assert!(stopped || blocked || seen.contains(&host), "host {host} was never started");
            prop_assert_eq!(blocked, blocking_group(&queue, host).is_some());
        }
        let pending: BTreeSet<usize> = queue.take_pending().into_iter().map(|(index, ())| index.0).collect();
        for host in 0..hosts.len() {
            let lost = !seen.contains(&host) && !pending.contains(&host) && !silent.contains(&host);
            prop_assert!(!lost, "host {host} is lost");
        }
    }
}
