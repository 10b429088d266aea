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
    /// Everything so far has to be on the screen before this is dropped.
    Drain(tokio::sync::mpsc::Sender<()>),
}

/// Where events go. Nobody listening is not an error: the engine's work is what counts.
#[derive(Clone, Default)]
pub struct Events(Option<Arc<dyn Fn(Event) + Send + Sync>>);

impl Events {
    /// Events to a listener, which must not wait.
    pub fn to(listener: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Waits until the listener has shown everything so far: a prompt must not be drawn over.
    pub async fn drained(&self) {
        let (sender, mut shown) = tokio::sync::mpsc::channel(1);
        self.emit(Event::Drain(sender));
        let _ = shown.recv().await;
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
