//! One request to each of many hosts.

use super::task::{TAIL_PROBE_TIMEOUT, is_tail, probe_timeout_outcome};
use crate::engine::client::{CALL_TIMEOUT, HostClient, ROLLBACK_GRACE};
use crate::engine::context::EngineContext;
use crate::engine::events::EngineEvent;
use crate::engine::failures::{bad_answer, internal, transport_failed};
use crate::engine::outcome::HostOutcome;
use crate::host::Nonce;
use crate::host_state::ProbeSections;
use crate::inventory::HostConnection;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Sends every host a document, and reads each answer with `read`. Results are in the order of `hosts`.
pub(in crate::engine) async fn request_fleet<T: Send + 'static>(
    context: &EngineContext,
    hosts: Vec<(HostConnection, String)>,
    document: impl Fn(&Nonce) -> String + Send + Sync + 'static,
    read: impl Fn(&ProbeSections<'_>) -> Option<T> + Send + Sync + 'static,
) -> Vec<(String, Result<T, HostOutcome>)> {
    context.events.emit(EngineEvent::Observing(hosts.len()));
    let (document, read) = (Arc::new(document), Arc::new(read));
    let mut tasks = JoinSet::new();
    let mut names = BTreeMap::new();
    for (index, (connection, host)) in hosts.into_iter().enumerate() {
        let (context, document, read) = (context.clone(), document.clone(), read.clone());
        let name = (index, host.clone());
        let handle = tasks.spawn(async move {
            let _permit = context.probe_slots.clone().acquire_owned().await;
            let answer = request_host(&context, &connection, &host, &*document, &*read).await;
            (index, host, answer)
        });
        names.insert(handle.id(), name);
    }
    let mut answers = Vec::new();
    let total = tasks.len();
    loop {
        let in_tail = tasks.len() <= context.settings.parallel && is_tail(tasks.len(), total);
        let limit = if in_tail { TAIL_PROBE_TIMEOUT } else { Duration::MAX };
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
                    probe_timeout_outcome(&host)
                } else {
                    internal(&host, "kvmfw itself failed while it probed this host")
                };
                (index, host, Err(outcome))
            }
        };
        let error = answer.as_ref().err().and_then(|outcome| outcome.message.clone());
        context.events.emit(EngineEvent::Observed(host.clone(), error));
        answers.push((index, host, answer));
    }
    answers.sort_by_key(|(index, ..)| *index);
    answers.into_iter().map(|(_, host, answer)| (host, answer)).collect()
}

async fn request_host<T>(
    context: &EngineContext,
    connection: &HostConnection,
    host: &str,
    document: &(dyn Fn(&Nonce) -> String + Send + Sync),
    read: &(dyn Fn(&ProbeSections<'_>) -> Option<T> + Send + Sync),
) -> Result<T, HostOutcome> {
    let session =
        context.dialer.connect(host, connection).await.map_err(|error| transport_failed(host, &error))?;
    let client = HostClient::new(session);
    let response = client.timed_request(host, &context.events, document, CALL_TIMEOUT + ROLLBACK_GRACE).await;
    client.close().await;
    let response = response.map_err(|error| transport_failed(host, &error))?;
    read(&response.sections()).ok_or_else(|| bad_answer(host, &response.incomplete()))
}
