//! What is equal on many hosts is kept once.

use foldhash::HashSet;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

/// The values of a sort so far.
#[derive(Debug)]
pub(crate) struct Interner<T: ?Sized>(Mutex<HashSet<Arc<T>>>);

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: ?Sized + Hash + Eq> Interner<T> {
    /// Puts the value that was equal before in the place of this one, or keeps this one for those to come.
    pub(crate) fn keep(&self, value: &mut Arc<T>) {
        // A poisoned lock only means that another thread died while it held a whole set.
        let mut known = self.0.lock().unwrap_or_else(|e| e.into_inner());
        match known.get(value) {
            Some(same) => *value = same.clone(),
            None => {
                known.insert(value.clone());
            }
        }
    }
}
