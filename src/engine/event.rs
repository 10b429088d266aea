//! What happens while it happens. The engine emits, renderers listen; neither knows the other.

use super::HostOutcome;
use crate::plan::HostPlan;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// So many hosts are about to be observed.
    Observing(usize),
    /// A host was observed, or could not be; the error.
    Observed(String, Option<String>),
    /// Hosts that had not answered when the others began have their plans now.
    Planned(Vec<HostPlan>),
    /// So many hosts are about to be changed, and so many failures stop that.
    Applying {
        /// How many.
        hosts: usize,
        /// How many failures stop new hosts.
        max_fail: usize,
    },
    /// A batch has begun.
    Batch {
        /// Which, counted from 1.
        number: usize,
        /// How many there are.
        of: usize,
    },
    /// A host is at a step: which, and after how long its guard rolls back if nothing more comes.
    Step(String, &'static str, Option<Duration>),
    /// A host is done with.
    Done(HostOutcome),
    /// Something worth a line, about the run.
    Note(String),
    /// Something that only `-v` shows.
    Detail(String),
    /// Everything so far has to be on the screen before the listener drops this.
    Drain(Shown),
}

/// Tells, by being dropped, that a listener has shown everything that came before it.
#[derive(Clone)]
pub struct Shown(#[expect(dead_code, reason = "only its end matters")] Arc<dyn std::any::Any + Send + Sync>);

impl Shown {
    /// `token` is dropped when everything was shown.
    pub fn new(token: impl std::any::Any + Send + Sync) -> Self {
        Self(Arc::new(token))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

/// Where events go. Nobody listening is not an error: the engine's work is what counts.
#[derive(Clone, Default)]
pub struct Events(Option<Arc<dyn Fn(Event) + Send + Sync>>);

impl Events {
    /// Events to a listener, which must not wait.
    pub fn to(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Tells what happened.
    pub fn emit(&self, event: Event) {
        if let Some(listener) = &self.0 {
            listener(event);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Events(heard)" } else { "Events(unheard)" })
    }
}
