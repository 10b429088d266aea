//! Events of a run. They decouple the engine from the renderers.

use super::outcome::HostOutcome;
use crate::plan::HostPlan;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Progress of a run.
#[derive(Clone, Debug)]
pub enum EngineEvent {
    /// This number of hosts is about to be probed.
    Observing(usize),
    /// The probe of a host ended, with an error if it failed.
    Observed(String, Option<String>),
    /// Plans of stragglers.
    Planned(Vec<HostPlan>),
    /// The rollout starts.
    Applying {
        /// Number of hosts to change.
        hosts: usize,
        /// Number of failures that stops it.
        max_fail: usize,
    },
    /// A batch starts.
    Batch {
        /// Counted from 1.
        number: usize,
        /// Number of batches that are known so far.
        of: usize,
    },
    /// A host enters a step. The duration is the time until its guard rolls back, if nothing else happens.
    Step(String, &'static str, Option<Duration>),
    /// A host has its outcome.
    Done(HostOutcome),
    /// A message for the user.
    Note(String),
    /// A message for `-v`.
    Detail(String),
    /// Every earlier event has to be on the screen before the listener drops the token.
    Drain(DrainToken),
}

/// Signals by its drop that a listener has shown every earlier event.
#[derive(Clone)]
pub struct DrainToken(
    #[expect(dead_code, reason = "only its drop matters")] Arc<dyn std::any::Any + Send + Sync>,
);

impl DrainToken {
    /// A token that drops `marker` with it.
    pub fn new(marker: impl std::any::Any + Send + Sync) -> Self {
        Self(Arc::new(marker))
    }
}

impl fmt::Debug for DrainToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DrainToken")
    }
}

/// Sends events to a listener, if there is one.
#[derive(Clone, Default)]
pub struct EventSender(Option<Arc<dyn Fn(EngineEvent) + Send + Sync>>);

impl EventSender {
    /// Events for a listener, which must not block.
    pub fn to(listener: impl Fn(EngineEvent) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Sends an event.
    pub fn emit(&self, event: EngineEvent) {
        if let Some(listener) = &self.0 {
            listener(event);
        }
    }
}

impl fmt::Debug for EventSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Events(listener)" } else { "Events(none)" })
    }
}
