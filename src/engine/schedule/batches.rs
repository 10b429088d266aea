//! Order and concurrency of a rollout, and when it stops. Pure.

use crate::engine::budget::Budget;
use crate::engine::outcome::HostStatus;
use crate::resolve::SchedulingConstraints;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Position of a host in the queue of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct QueueIndex(pub usize);

/// A host in the queue with its task.
type Queued<T> = (QueueIndex, T);

/// Limits of a rollout.
pub(super) struct RolloutLimits<'a> {
    /// Sizes of batches; the last one repeats.
    pub batches: &'a [Budget],
    /// Number of failures that stops the rollout.
    pub max_fail: Budget,
    /// Number of hosts that may still turn out to be unreachable.
    pub max_unreachable: usize,
    /// Number of hosts in flight.
    pub parallel: usize,
}

/// Hands out the tasks `T` of hosts batch by batch, until none is left or too many hosts have failed.
///
/// A host that is queued has a task, and a straggler has none: only hosts with a task can start.
#[derive(Clone, Debug)]
pub(super) struct BatchQueue<T> {
    /// Batches that have not started.
    batches: VecDeque<Vec<Queued<T>>>,
    /// Sizes of further batches; the last one repeats.
    sizes: VecDeque<usize>,
    stragglers: BTreeSet<QueueIndex>,
    /// They start one by one, after all others and after the hosts that are reached through them.
    jump_hosts: BTreeMap<QueueIndex, T>,
    jump_depths: Vec<usize>,
    /// Hosts of the current batch, by the groups that limit them, in the order of the queue.
    waiting: BTreeMap<Vec<usize>, VecDeque<Queued<T>>>,
    /// Hosts of earlier batches whose groups had no slot left. They are skipped.
    blocked: Vec<Queued<T>>,
    /// The limiting groups of each host, as positions in `slots`.
    groups: Vec<Vec<usize>>,
    /// The limiting groups, and how many more hosts of each may start.
    slots: Vec<(String, usize)>,
    started_batches: usize,
    in_flight: usize,
    parallel: usize,
    max_fail: usize,
    failed: usize,
    max_unreachable: usize,
    unreachable: usize,
}

impl<T> BatchQueue<T> {
    /// Queues hosts. One without a task is a straggler: it can be queued when it has answered.
    pub(super) fn new(hosts: Vec<(SchedulingConstraints, Option<T>)>, limits: &RolloutLimits<'_>) -> Self {
        let total = hosts.len();
        let mut queue = Self {
            batches: VecDeque::new(),
            sizes: limits.batches.iter().map(|size| size.of(total).max(1)).collect(),
            stragglers: BTreeSet::new(),
            jump_hosts: BTreeMap::new(),
            jump_depths: Vec::with_capacity(total),
            waiting: BTreeMap::new(),
            blocked: Vec::new(),
            groups: Vec::with_capacity(total),
            slots: Vec::new(),
            started_batches: 0,
            in_flight: 0,
            parallel: limits.parallel.max(1),
            max_fail: limits.max_fail.of(total).max(1),
            failed: 0,
            max_unreachable: limits.max_unreachable,
            unreachable: 0,
        };
        let mut group_ids: BTreeMap<String, usize> = BTreeMap::new();
        let mut ready = Vec::with_capacity(total);
        for (index, (constraints, task)) in hosts.into_iter().enumerate() {
            let index = QueueIndex(index);
            let mut groups = Vec::with_capacity(constraints.max_in_flight.len());
            for (name, limit) in constraints.max_in_flight {
                groups.push(*group_ids.entry(name).or_insert_with_key(|name| {
                    queue.slots.push((name.clone(), limit.max(1)));
                    queue.slots.len() - 1
                }));
            }
            queue.groups.push(groups);
            queue.jump_depths.push(constraints.jump_depth);
            match task {
                Some(task) => ready.push((index, task)),
                None => drop(queue.stragglers.insert(index)),
            }
        }
        queue.enqueue(ready);
        queue
    }

    /// Assigns hosts to batches.
    fn enqueue(&mut self, hosts: Vec<Queued<T>>) {
        let (jump_hosts, others): (Vec<_>, Vec<_>) =
            hosts.into_iter().partition(|(index, _)| self.jump_depths[index.0] > 0);
        self.jump_hosts.extend(jump_hosts);
        let mut others = others.into_iter().peekable();
        while others.peek().is_some() {
            let size = match self.sizes.len() {
                0 | 1 => self.sizes.front().copied(),
                _ => self.sizes.pop_front(),
            };
            self.batches.push_back(others.by_ref().take(size.unwrap_or(1)).collect());
        }
    }

    /// Whether nothing can start before stragglers have answered.
    pub(super) fn awaits_stragglers(&self) -> bool {
        !self.is_stopped() && self.in_flight == 0 && self.batches.is_empty() && !self.stragglers.is_empty()
    }

    /// Queues stragglers that have answered, in the order of their index.
    pub(super) fn enqueue_stragglers(&mut self, mut hosts: Vec<Queued<T>>) {
        hosts.sort_by_key(|(index, _)| *index);
        for (index, _) in &hosts {
            self.stragglers.remove(index);
        }
        self.enqueue(hosts);
    }

    /// Records the outcome of a straggler that needs no transaction.
    pub(super) fn finish_straggler(&mut self, index: QueueIndex, status: HostStatus) {
        self.stragglers.remove(&index);
        self.count(status);
    }

    /// Updates the jump depth of a host that has not started.
    pub(super) fn set_jump_depth(&mut self, index: QueueIndex, depth: usize) {
        self.jump_depths[index.0] = depth;
    }

    /// The tasks that have not started.
    pub(super) fn pending_mut(&mut self) -> impl Iterator<Item = (QueueIndex, &mut T)> {
        let batches = self.batches.iter_mut().flatten();
        let waiting = self.waiting.values_mut().flatten();
        let queued = batches.chain(waiting).chain(&mut self.blocked);
        let queued = queued.map(|(index, task)| (*index, task));
        queued.chain(self.jump_hosts.iter_mut().map(|(index, task)| (*index, task)))
    }

    /// Removes the tasks that have not started.
    pub(super) fn take_pending(&mut self) -> Vec<Queued<T>> {
        let batches = std::mem::take(&mut self.batches).into_iter().flatten();
        let waiting = std::mem::take(&mut self.waiting).into_values().flatten();
        let queued = batches.chain(waiting).chain(std::mem::take(&mut self.blocked));
        queued.chain(std::mem::take(&mut self.jump_hosts)).collect()
    }

    /// Starts the next host, which then counts as in flight. `None`: no host can start before one in flight has ended, or
    /// none is left.
    pub(super) fn start(&mut self) -> Option<Queued<T>> {
        if self.is_stopped() || self.in_flight >= self.parallel {
            return None;
        }
        let groups = loop {
            if let Some(groups) = self.next_ready() {
                break groups;
            }
            if self.in_flight > 0 || !self.start_batch() {
                return None;
            }
        };
        let hosts = self.waiting.get_mut(&groups)?;
        let started = hosts.pop_front()?;
        if hosts.is_empty() {
            self.waiting.remove(&groups);
        }
        groups.iter().for_each(|group| self.slots[*group].1 -= 1);
        self.in_flight += 1;
        Some(started)
    }

    /// The groups of the first waiting host for which all groups have a slot.
    fn next_ready(&self) -> Option<Vec<usize>> {
        let is_free = |groups: &[usize]| groups.iter().all(|group| self.slots[*group].1 > 0);
        let ready = self.waiting.iter().filter(|(groups, _)| is_free(groups));
        ready
            .min_by_key(|(_, hosts)| hosts.front().map(|(index, _)| *index))
            .map(|(groups, _)| groups.clone())
    }

    /// Starts the next batch, if any. Hosts still waiting are blocked by a host in state `Unknown` and will be skipped.
    fn start_batch(&mut self) -> bool {
        let Some(batch) = self.batches.pop_front().or_else(|| self.next_jump_host()) else { return false };
        self.started_batches += 1;
        self.blocked.extend(std::mem::take(&mut self.waiting).into_values().flatten());
        for (index, task) in batch {
            self.waiting.entry(self.groups[index.0].clone()).or_default().push_back((index, task));
        }
        true
    }

    /// The jump host with the smallest depth, once no straggler may be behind it.
    fn next_jump_host(&mut self) -> Option<Vec<Queued<T>>> {
        if !self.stragglers.is_empty() {
            return None;
        }
        let next = self.jump_hosts.keys().copied().min_by_key(|index| self.jump_depths[index.0])?;
        Some(vec![(next, self.jump_hosts.remove(&next)?)])
    }

    /// Records the outcome of a host that was started. A host in state `Unknown` may still be changed or roll back, so it
    /// keeps the slots of its groups.
    pub(super) fn finish(&mut self, index: QueueIndex, status: HostStatus) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.count(status);
        if status != HostStatus::Unknown {
            for group in &self.groups[index.0] {
                self.slots[*group].1 += 1;
            }
        }
    }

    fn count(&mut self, status: HostStatus) {
        self.failed += usize::from(status.is_failure());
        self.unreachable += usize::from(status == HostStatus::Unreachable);
    }

    /// The group without a slot that keeps a host from starting.
    pub(super) fn blocking_group(&self, index: QueueIndex) -> Option<&str> {
        let full = self.groups[index.0].iter().map(|group| &self.slots[*group]).find(|(_, free)| *free == 0);
        full.map(|(name, _)| name.as_str())
    }

    /// Whether no further host may start.
    fn is_stopped(&self) -> bool {
        self.failed >= self.max_fail || self.too_many_unreachable()
    }

    /// Whether more hosts turned out to be unreachable than allowed.
    pub(super) fn too_many_unreachable(&self) -> bool {
        self.unreachable > self.max_unreachable
    }

    /// Number of failures, and the number that stops the rollout.
    pub(super) fn failures(&self) -> (usize, usize) {
        (self.failed, self.max_fail)
    }

    /// Number of the current batch, counted from 1, and of all batches. Stragglers count as one batch.
    pub(super) fn batch(&self) -> (usize, usize) {
        let stragglers = usize::from(!self.stragglers.is_empty());
        let remaining = self.batches.len() + stragglers + self.jump_hosts.len();
        (self.started_batches, self.started_batches + remaining)
    }
}

#[cfg(test)]
mod tests;
