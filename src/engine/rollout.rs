//! In what order hosts change, how many at once, and when to stop. Pure.

use super::outcome::Status;
use crate::desired::SchedulingConstraints;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::str::FromStr;

/// A number of hosts, or a share of those selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So many.
    Hosts(usize),
    /// So many in a hundred, rounded up.
    Percent(u8),
}

impl Budget {
    /// How many hosts that is of so many.
    pub fn of(self, hosts: usize) -> usize {
        match self {
            Budget::Hosts(n) => n,
            Budget::Percent(p) => (hosts * usize::from(p)).div_ceil(100),
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is neither a number of hosts nor a percentage like `10%`");
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse::<u8>() {
                Ok(p @ 0..=100) => Ok(Budget::Percent(p)),
                _ => Err(bad()),
            },
            None => text.parse().map(Budget::Hosts).map_err(|_| bad()),
        }
    }
}

/// Reads `1,10%,100%`.
pub fn parse_batches(text: &str) -> Result<Vec<Budget>, String> {
    let batches: Vec<Budget> = text.split(',').map(|b| b.trim().parse()).collect::<Result<_, _>>()?;
    if batches.iter().any(|b| matches!(b, Budget::Hosts(0) | Budget::Percent(0))) {
        return Err("a batch of no hosts would never end".to_owned());
    }
    Ok(batches)
}

/// Hands out hosts batch by batch, until all have had their turn or too many have failed.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// Batches that have not begun; the hosts of each.
    batches: VecDeque<Vec<usize>>,
    /// Sizes of the batches that are not made yet; the last one repeats.
    sizes: VecDeque<usize>,
    /// Hosts that have not answered: they get batches when they have.
    late: BTreeSet<usize>,
    /// Hosts through which others are reached.
    ways: BTreeSet<usize>,
    /// How many jumps lead on from each host.
    leads: Vec<usize>,
    /// Hosts of the batch that has begun, by the groups that limit them, each queue in the order of turn.
    waiting: BTreeMap<Vec<usize>, VecDeque<usize>>,
    /// The limiting groups of each host.
    groups: Vec<Vec<usize>>,
    /// The limiting groups by name, and how many more hosts of each may start.
    room: Vec<(String, usize)>,
    begun: usize,
    in_flight: usize,
    parallel: usize,
    max_fail: usize,
    failed: usize,
    /// How many more hosts may turn out to be unreachable.
    may_be_away: usize,
    away: usize,
}

impl Rollout {
    /// A rollout over these hosts, at most `parallel` at once. The last batch size repeats until all
    /// have had their turn. Hosts that are `late` come after those, as they answer; jump hosts after all others,
    /// each a batch of its own, and after those that are reached through them. More unreachable hosts than
    /// `may_be_away` stop it.
    pub fn new(
        hosts: &[SchedulingConstraints],
        batches: &[Budget],
        max_fail: Budget,
        may_be_away: usize,
        parallel: usize,
    ) -> Self {
        let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
        let mut room: Vec<(String, usize)> = Vec::new();
        let mut groups = Vec::with_capacity(hosts.len());
        for host in hosts {
            let of_host = host.max_in_flight.iter().map(|(name, limit)| {
                *ids.entry(name).or_insert_with(|| {
                    room.push((name.clone(), (*limit).max(1)));
                    room.len() - 1
                })
            });
            groups.push(of_host.collect());
        }
        let (late, others): (BTreeSet<usize>, BTreeSet<usize>) =
            (0..hosts.len()).partition(|host| hosts[*host].straggler);
        let mut rollout = Self {
            batches: VecDeque::new(),
            sizes: batches.iter().map(|size| size.of(hosts.len()).max(1)).collect(),
            late,
            ways: BTreeSet::new(),
            leads: hosts.iter().map(|host| host.jump_depth).collect(),
            waiting: BTreeMap::new(),
            groups,
            room,
            begun: 0,
            in_flight: 0,
            parallel: parallel.max(1),
            max_fail: max_fail.of(hosts.len()).max(1),
            failed: 0,
            may_be_away,
            away: 0,
        };
        rollout.queue(&others);
        rollout
    }

    /// Gives hosts their batches.
    fn queue(&mut self, hosts: &BTreeSet<usize>) {
        let (ways, others): (Vec<usize>, Vec<usize>) = hosts.iter().partition(|host| self.leads[**host] > 0);
        self.ways.extend(ways);
        let mut left = others.as_slice();
        while !left.is_empty() {
            let size = match self.sizes.len() {
                0 | 1 => self.sizes.front().copied(),
                _ => self.sizes.pop_front(),
            };
            let (batch, rest) = left.split_at(size.unwrap_or(1).min(left.len()));
            self.batches.push_back(batch.to_vec());
            left = rest;
        }
    }

    /// Whether it only goes on when hosts that are late have answered.
    pub fn waits(&self) -> bool {
        !self.stopped() && self.in_flight == 0 && self.batches.is_empty() && !self.late.is_empty()
    }

    /// Hosts that were late have answered, and have to be changed.
    pub fn answered(&mut self, hosts: &BTreeSet<usize>) {
        self.late.retain(|host| !hosts.contains(host));
        self.queue(hosts);
    }

    /// A host that was late needs no turn; how it ended.
    pub fn settled(&mut self, host: usize, status: Status) {
        self.late.remove(&host);
        self.count(status);
    }

    /// So many jumps lead on from a host, as was seen when another one answered.
    pub fn leads(&mut self, host: usize, leads: usize) {
        self.leads[host] = leads;
    }

    /// The next host that may start now, which then counts as in flight. `None`: none may, before one
    /// in flight has ended, or ever.
    pub fn start(&mut self) -> Option<usize> {
        if self.stopped() || self.in_flight >= self.parallel {
            return None;
        }
        let key = loop {
            if let Some(key) = self.ready() {
                break key;
            }
            if self.in_flight > 0 || !self.begin() {
                return None;
            }
        };
        let hosts = self.waiting.get_mut(&key)?;
        let host = hosts.pop_front()?;
        if hosts.is_empty() {
            self.waiting.remove(&key);
        }
        key.iter().for_each(|group| self.room[*group].1 -= 1);
        self.in_flight += 1;
        Some(host)
    }

    /// The groups of the host that is first among those that may start.
    fn ready(&self) -> Option<Vec<usize>> {
        let free = |groups: &[usize]| groups.iter().all(|group| self.room[*group].1 > 0);
        let ready = self.waiting.iter().filter(|(groups, _)| free(groups));
        ready.min_by_key(|(_, hosts)| hosts.front().copied()).map(|(groups, _)| groups.clone())
    }

    /// Lets the next batch wait, if there is one. Who waits still waits for a host that is unknown, and
    /// has no turn in this run.
    fn begin(&mut self) -> bool {
        let Some(batch) = self.batches.pop_front().or_else(|| self.way()) else { return false };
        self.begun += 1;
        self.waiting.clear();
        for host in batch {
            self.waiting.entry(self.groups[host].clone()).or_default().push_back(host);
        }
        true
    }

    /// The jump host that is next, when all others have had their turn.
    fn way(&mut self) -> Option<Vec<usize>> {
        let first = self.ways.iter().copied().min_by_key(|host| self.leads[*host]);
        let first = first.filter(|_| self.late.is_empty())?;
        self.ways.remove(&first);
        Some(vec![first])
    }

    /// A host that was started has ended, and how. One that is unknown may still be changed, or be put back:
    /// for its groups it stays in flight.
    pub fn ended(&mut self, host: usize, status: Status) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.count(status);
        if status != Status::Unknown {
            for group in &self.groups[host] {
                self.room[*group].1 += 1;
            }
        }
    }

    fn count(&mut self, status: Status) {
        self.failed += usize::from(status.is_failure());
        self.away += usize::from(status == Status::Unreachable);
    }

    /// The group of a host that never had its turn, of which as many are unknown as may be in flight.
    pub fn held(&self, host: usize) -> Option<&str> {
        let full = self.groups[host].iter().map(|group| &self.room[*group]).find(|(_, room)| *room == 0);
        full.map(|(name, _)| name.as_str())
    }

    /// Whether no new host may start.
    pub fn stopped(&self) -> bool {
        self.failed >= self.max_fail || self.too_many_away()
    }

    /// Whether more hosts turned out to be unreachable than may be.
    pub fn too_many_away(&self) -> bool {
        self.away > self.may_be_away
    }

    /// How many failed, of how many that stop the run.
    pub fn budget(&self) -> (usize, usize) {
        (self.failed, self.max_fail)
    }

    /// The number of the batch that has begun, counted from 1, and how many there are: those who are late are
    /// taken for one.
    pub fn batch(&self) -> (usize, usize) {
        let late = usize::from(!self.late.is_empty());
        (self.begun, self.begun + self.batches.len() + late + self.ways.len())
    }
}

#[cfg(test)]
mod tests;
