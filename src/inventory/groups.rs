//! The order of groups: parents before children.

use super::project::{GroupLineage, HostGroup, RANK_ALL, RANK_GROUP};
use crate::problem::Problem;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What is wrong with groups that are their own parents, directly or in a round.
pub fn cycles(groups: &BTreeMap<String, Arc<HostGroup>>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut done: HashMap<String, bool> = HashMap::new();
    let names: Vec<String> = groups.keys().cloned().collect();
    for name in names {
        let mut path: Vec<String> = Vec::new();
        let mut stack: Vec<(String, usize)> = vec![(name, 0)];
        while let Some((name, next)) = stack.pop() {
            if next == 0 {
                if done.contains_key(&name) {
                    continue;
                }
                done.insert(name.clone(), false);
                path.push(name.clone());
            }
            let parent = groups.get(&name).and_then(|g| g.entry.groups.as_ref()?.get(next).cloned());
            let Some(parent) = parent else {
                done.insert(name, true);
                path.pop();
                continue;
            };
            stack.push((name, next + 1));
            match done.get(&parent.value) {
                Some(true) => {}
                None => stack.push((parent.value.clone(), 0)),
                Some(false) => {
                    let start = path.iter().position(|p| *p == parent.value).unwrap_or_default();
                    let mut round: Vec<&str> = path[start..].iter().map(String::as_str).collect();
                    round.push(&parent.value);
                    let message = format!("cycle of groups: {}", round.join(" → "));
                    problems.push(Problem::new("group-cycle", message).at_place(&parent.place));
                }
            }
        }
    }
    problems
}

/// All groups of a host, parents before children, ties in the order in which they are named.
pub fn lineage(names: &[String], groups: &BTreeMap<String, Arc<HostGroup>>) -> GroupLineage {
    let parents = |name: &str| -> Vec<String> {
        let entry = groups.get(name).and_then(|group| group.entry.groups.as_ref());
        entry.into_iter().flatten().map(|parent| parent.value.clone()).filter(|p| p != "all").collect()
    };
    let mut order: Vec<String> = Vec::new();
    let mut stack: Vec<(String, bool)> =
        names.iter().rev().filter(|n| *n != "all").map(|n| (n.clone(), false)).collect();
    while let Some((name, visited)) = stack.pop() {
        if order.contains(&name) {
            continue;
        }
        if visited {
            order.push(name);
            continue;
        }
        let above = parents(&name);
        stack.push((name, true));
        stack.extend(above.into_iter().rev().map(|parent| (parent, false)));
    }
    // How far a group is from the host, by the longest way: its children come after it in the order.
    let mut steps: HashMap<String, u32> = HashMap::new();
    for name in order.iter().rev() {
        let step = *steps.entry(name.clone()).or_insert(0);
        for parent in parents(name) {
            let above = steps.entry(parent).or_insert(0);
            *above = (*above).max(step + 1);
        }
    }
    let all = groups.get("all").map(|all| (RANK_ALL, all.clone()));
    let others = order.iter().filter_map(|name| {
        let rank = RANK_GROUP - steps.get(name).copied().unwrap_or_default();
        groups.get(name).map(|group| (rank, group.clone()))
    });
    all.into_iter().chain(others).collect()
}
