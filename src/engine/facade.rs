//! The engine: talks to hosts, in parallel, and leads each through its transaction.

use super::dial::Dialer;
use super::interrupt::Interrupt;
use super::late::{self, LAST_FEW, Look};
use super::look::{self, internal, observe_host, unreachable};
use super::outcome::{HostOutcome, Status};
use super::own_words::own_words;
use super::settings::Settings;
use super::transaction::{CALL_LIMIT, GRACE, drained};
use super::ways::Ways;
use super::{Event, Events};
use crate::desired::Desired;
use crate::inventory::HostConnection;
use crate::observe::{ObserveError, Observed, Sections};
use crate::jump_hosts::ObservedRoutes;
use crate::plan::{self, HostPlan, PlanOptions};
use crate::remote::Nonce;
use crate::transport::Session;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Says why a plan must not be applied.
pub type Check = Arc<dyn Fn(&HostPlan) -> Option<HostOutcome> + Send + Sync>;

/// Talks to hosts.
pub struct Engine {
    pub(super) interrupt: Arc<Interrupt>,
    pub(super) dialer: Arc<Dialer>,
    pub(super) settings: Arc<Settings>,
    pub(super) events: Events,
    pub(super) gate: Arc<Semaphore>,
    pub(super) shared: Arc<plan::DiffInterner>,
    pub(super) check: Option<Check>,
    /// Connections of the plan, to be used again by the apply.
    pub(super) sessions: BTreeMap<String, Session>,
    /// Looks that were not over when the plans had to be.
    pub(super) late: BTreeMap<String, Look>,
    /// Routes of the hosts that have answered.
    pub(super) routes: ObservedRoutes,
}

impl Engine {
    /// An engine that tells its events to `events`.
    pub fn new(settings: Settings, events: Events, interrupt: Arc<Interrupt>) -> Self {
        let gate = Arc::new(Semaphore::new(settings.parallel.max(1)));
        Self {
            interrupt,
            dialer: Arc::new(Dialer::new(settings.via, events.clone())),
            settings: Arc::new(settings),
            events,
            gate,
            shared: Arc::default(),
            check: None,
            sessions: BTreeMap::new(),
            late: BTreeMap::new(),
            routes: ObservedRoutes::default(),
        }
    }

    /// Leaves hosts alone of whose plans `check` says why.
    pub fn only_if(&mut self, check: Check) {
        self.check = Some(check);
    }

    /// Looks at one host, and plans nothing. What went wrong is for the caller to tell, once.
    pub async fn look(&self, desired: &Desired) -> Result<Box<Observed>, HostOutcome> {
        self.events.emit(Event::Observing(1));
        let (observed, session) = observe_host(
            &self.dialer,
            &self.events,
            desired,
            &PlanOptions::default(),
            &Ways::default(),
            false,
        )
        .await;
        self.events.emit(Event::Observed(desired.host.clone(), None));
        if let Some(session) = session {
            session.close().await;
        }
        observed.map(|(observed, _)| observed)
    }

    /// Waits until everything so far has been shown: a prompt must not be drawn over.
    pub async fn drained(&self) {
        drained(&self.events).await;
    }

    /// Ends the connections that a plan left open.
    pub async fn close(&mut self) {
        let mut tasks = JoinSet::new();
        for (_, session) in std::mem::take(&mut self.sessions) {
            tasks.spawn(session.close());
        }
        while tasks.join_next().await.is_some() {}
    }
}

impl Engine {
    /// Asks hosts one question each, in parallel, in one round trip; answers in the order asked.
    pub async fn ask<T: Send + 'static>(
        &self,
        hosts: Vec<(HostConnection, String)>,
        document: impl Fn(&Nonce) -> String + Send + Sync + 'static,
        read: impl Fn(&Sections<'_>) -> Option<T> + Send + Sync + 'static,
    ) -> Vec<(String, Result<T, HostOutcome>)> {
        self.events.emit(Event::Observing(hosts.len()));
        let (document, read) = (Arc::new(document), Arc::new(read));
        let mut tasks = JoinSet::new();
        let mut names = BTreeMap::new();
        for (index, (connection, host)) in hosts.into_iter().enumerate() {
            let (dialer, events, gate) = (self.dialer.clone(), self.events.clone(), self.gate.clone());
            let (document, read) = (document.clone(), read.clone());
            let known = (index, host.clone());
            let handle = tasks.spawn(async move {
                let _permit = gate.acquire_owned().await;
                let answer = ask_host(&dialer, &events, &connection, &host, &*document, &*read).await;
                (index, host, answer)
            });
            names.insert(handle.id(), known);
        }
        let mut done = Vec::new();
        let total = tasks.len();
        loop {
            let few = tasks.len() <= self.settings.parallel && late::are_last_few(tasks.len(), total);
            let limit = if few { LAST_FEW } else { Duration::MAX };
            let Ok(joined) = timeout(limit, tasks.join_next_with_id()).await else {
                tasks.abort_all();
                continue;
            };
            let Some(joined) = joined else { break };
            let (index, host, answer) = match joined {
                Ok((_, answer)) => answer,
                Err(error) => {
                    let Some((index, host)) = names.remove(&error.id()) else { continue };
                    let outcome = if error.is_cancelled() {
                        late::silent(&host)
                    } else {
                        internal(&host, "kvmfw itself failed while it asked this host")
                    };
                    (index, host, Err(outcome))
                }
            };
            let error = answer.as_ref().err().and_then(|o| o.message.clone());
            self.events.emit(Event::Observed(host.clone(), error));
            done.push((index, host, answer));
        }
        done.sort_by_key(|(index, ..)| *index);
        done.into_iter().map(|(_, host, answer)| (host, answer)).collect()
    }
}

async fn ask_host<T>(
    dialer: &Dialer,
    events: &Events,
    connection: &HostConnection,
    host: &str,
    document: &(dyn Fn(&Nonce) -> String + Send + Sync),
    read: &(dyn Fn(&Sections<'_>) -> Option<T> + Send + Sync),
) -> Result<T, HostOutcome> {
    let session = dialer.connect(host, connection).await.map_err(|e| unreachable(host, &e))?;
    let nonce = Nonce::fresh().map_err(|e| internal(host, &e.to_string()))?;
    let answer = look::ask(&session, events, host, &document(&nonce), CALL_LIMIT + GRACE).await;
    session.close().await;
    let answer = answer.map_err(|e| unreachable(host, &e))?;
    let text = String::from_utf8_lossy(&answer.stdout);
    read(&Sections::split(&text, nonce.as_str())).ok_or_else(|| {
        let error = ObserveError::Incomplete(own_words(&answer, nonce.as_str()));
        HostOutcome::new(host, Status::Unreachable).reason("bad-answer").message(error.to_string())
    })
}
