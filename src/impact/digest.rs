//! Remembers the flows of hosts that are alike, so that a fleet costs hardly more than one host.

use super::judge::FlowChange;
use foldhash::quality::{FoldHasher, RandomState};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex};

/// Most results that are remembered; more of them means that hosts are not alike.
const MAX_REMEMBERED: usize = 4096;

/// Results by digest.
type Results = HashMap<(u64, u64), Arc<[FlowChange]>>;

/// The results so far.
static KNOWN: LazyLock<Mutex<Results>> = LazyLock::new(Mutex::default);

/// Two keys that no host knows, so that none can make its digest that of another.
static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::default(), RandomState::default()]);

/// A digest of everything that the flows of a host depend on.
pub struct FlowDigest([FoldHasher<'static>; 2]);

impl Default for FlowDigest {
    fn default() -> Self {
        Self([KEYS[0].build_hasher(), KEYS[1].build_hasher()])
    }
}

impl FlowDigest {
    /// Adds something that the flows depend on.
    pub fn add(&mut self, value: &impl Hash) {
        self.0.iter_mut().for_each(|hasher| value.hash(hasher));
    }
}

/// The flows of a host with this digest, computed once.
pub fn remembered(digest: &FlowDigest, compute: impl FnOnce() -> Vec<FlowChange>) -> Arc<[FlowChange]> {
    let key = (digest.0[0].finish(), digest.0[1].finish());
    // A poisoned lock only means that another thread panicked. The map is whole between two insertions.
    let known = || KNOWN.lock().unwrap_or_else(|error| error.into_inner());
    if let Some(changes) = known().get(&key) {
        return changes.clone();
    }
    let changes: Arc<[FlowChange]> = compute().into();
    let mut known = known();
    if known.len() >= MAX_REMEMBERED {
        known.clear();
    }
    known.insert(key, changes.clone());
    changes
}
