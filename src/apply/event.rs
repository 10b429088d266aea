//! What happens while it happens. The engine emits, renderers listen; neither knows the other.

use super::HostOutcome;
use std::fmt;
use std::sync::Arc;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// So many hosts are about to be observed.
    Observing(usize),
    /// A host was observed, or could not be; the error.
    Observed(String, Option<String>),
    /// So many hosts are about to be changed.
    Applying(usize),
    /// A host is at a step of its transaction.
    Step(String, &'static str),
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
