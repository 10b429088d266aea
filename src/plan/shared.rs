//! What is equal on many hosts is kept once.

use super::{DiffLine, HostPlan};
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

/// Lines and files of the plans so far.
#[derive(Debug, Default)]
pub struct Shared {
    lines: Mutex<HashSet<Arc<Vec<DiffLine>>>>,
    files: Mutex<HashSet<Arc<str>>>,
}

impl Shared {
    /// Lets a plan use what an equal plan before it has; it says the same afterwards.
    pub fn share(&self, plan: &mut HostPlan) {
        for change in &mut plan.changes {
            one(&self.lines, &mut change.diff.lines);
        }
        for (_, text) in &mut plan.bundle.files {
            one(&self.files, text);
        }
    }
}

fn one<T: ?Sized + Hash + Eq>(known: &Mutex<HashSet<Arc<T>>>, value: &mut Arc<T>) {
    // A poisoned lock only means that another thread died while it held a whole set.
    let mut known = known.lock().unwrap_or_else(|e| e.into_inner());
    match known.get(value) {
        Some(same) => *value = same.clone(),
        None => {
            known.insert(value.clone());
        }
    }
}
