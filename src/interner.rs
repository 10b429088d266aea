//! Shares equal values of many hosts.

use foldhash::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

/// The distinct values of one type so far.
#[derive(Debug)]
pub(crate) struct Interner<T: ?Sized>(Mutex<HashSet<Arc<T>>>);

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: ?Sized + Hash + Eq> Interner<T> {
    /// Replaces `value` by an equal one from before, or remembers it for later ones.
    pub(crate) fn intern(&self, value: &mut Arc<T>) {
        // A poisoned lock only means that another thread panicked. The set is whole between two insertions.
        let mut known = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match known.get(value) {
            Some(same) => *value = same.clone(),
            None => {
                known.insert(value.clone());
            }
        }
    }
}
