//! What all parts of the engine share.

use super::dialer::Dialer;
use super::events::{DrainToken, EngineEvent, EventSender};
use super::interrupt::Interrupt;
use super::outcome::HostOutcome;
use super::settings::EngineSettings;
use crate::plan::{self, HostPlan};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Returns the outcome of a host whose plan must not be applied.
pub type PlanCheck = Arc<dyn Fn(&HostPlan) -> Option<HostOutcome> + Send + Sync>;

/// Cheap to clone: every task has its own.
#[derive(Clone)]
pub(super) struct EngineContext {
    pub interrupt: Arc<Interrupt>,
    pub dialer: Arc<Dialer>,
    pub settings: Arc<EngineSettings>,
    pub events: EventSender,
    /// Limits how many hosts are probed at the same time.
    pub probe_slots: Arc<Semaphore>,
    pub shared: Arc<plan::DiffInterner>,
    pub plan_check: Option<PlanCheck>,
}

impl EngineContext {
    pub(super) fn new(settings: EngineSettings, events: EventSender, interrupt: Arc<Interrupt>) -> Self {
        Self {
            interrupt,
            dialer: Arc::new(Dialer::new(settings.via, events.clone())),
            probe_slots: Arc::new(Semaphore::new(settings.parallel.max(1))),
            settings: Arc::new(settings),
            events,
            shared: Arc::default(),
            plan_check: None,
        }
    }

    /// Waits until every event so far has been shown.
    pub(super) async fn drain_events(&self) {
        let (marker, drained) = tokio::sync::oneshot::channel::<()>();
        self.events.emit(EngineEvent::Drain(DrainToken::new(marker)));
        let _ = drained.await;
    }
}
