//! Entry points of the engine.

use super::context::{EngineContext, PlanCheck};
use super::events::{EngineEvent, EventSender};
use super::interrupt::Interrupt;
use super::outcome::HostOutcome;
use super::probe::{FleetPlan, JumpAddresses, PlanMode, Planned, plan_fleet, probe_host, request_fleet};
use super::schedule::apply_fleet;
use super::settings::EngineSettings;
use crate::host::Nonce;
use crate::host_state::{Observed, ProbeSections};
use crate::inventory::HostConnection;
use crate::plan::PlanOptions;
use crate::resolve::Desired;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Probes, plans and changes hosts.
pub struct Engine {
    context: EngineContext,
    /// What the last plan left for the apply.
    fleet: FleetPlan,
}

impl Engine {
    /// Creates an engine that sends its events to `events`.
    pub fn new(settings: EngineSettings, events: EventSender, interrupt: Arc<Interrupt>) -> Self {
        Self { context: EngineContext::new(settings, events, interrupt), fleet: FleetPlan::default() }
    }

    /// Skips every host for whose plan `check` returns an outcome.
    pub fn set_plan_check(&mut self, check: PlanCheck) {
        self.context.plan_check = Some(check);
    }

    /// Observes one host without planning it. The event has no error: the caller reports it.
    pub async fn observe(&self, desired: &Desired) -> Result<Box<Observed>, HostOutcome> {
        let EngineContext { dialer, events, .. } = &self.context;
        events.emit(EngineEvent::Observing(1));
        let (options, addresses) = (PlanOptions::default(), JumpAddresses::default());
        let (observed, client) = probe_host(dialer, events, desired, &options, &addresses, false).await;
        events.emit(EngineEvent::Observed(desired.host.clone(), None));
        if let Some(client) = client {
            client.close().await;
        }
        observed.map(|(observed, _)| observed)
    }

    /// Sends hosts one document each, in parallel. Answers are in the order of `hosts`.
    pub async fn request<T: Send + 'static>(
        &self,
        hosts: Vec<(HostConnection, String)>,
        document: impl Fn(&Nonce) -> String + Send + Sync + 'static,
        read: impl Fn(&ProbeSections<'_>) -> Option<T> + Send + Sync + 'static,
    ) -> Vec<(String, Result<T, HostOutcome>)> {
        request_fleet(&self.context, hosts, document, read).await
    }

    /// Probes and plans hosts. Unless it is a dry run, [`Self::apply`] uses the same connections, and in unattended mode
    /// it also waits for the stragglers.
    pub async fn plan(&mut self, hosts: Vec<(Desired, PlanOptions)>, mode: PlanMode) -> Vec<Planned> {
        let (planned, fleet) = plan_fleet(&self.context, hosts, mode).await;
        self.fleet = fleet;
        planned
    }

    /// Carries out the plans of the last [`Self::plan`], batch by batch. Outcomes are in the order of the plans.
    pub async fn apply(&mut self, planned: Vec<Planned>) -> Vec<HostOutcome> {
        let outcomes = apply_fleet(&self.context, &mut self.fleet, planned).await;
        self.close().await;
        outcomes
    }

    /// Waits until every event so far has been shown, so that a prompt is not drawn over.
    pub async fn drain_events(&self) {
        self.context.drain_events().await;
    }

    /// Closes the connections that a plan left open.
    pub async fn close(&mut self) {
        let mut tasks = JoinSet::new();
        for (_, client) in std::mem::take(&mut self.fleet.clients) {
            tasks.spawn(client.close());
        }
        while tasks.join_next().await.is_some() {}
    }
}
