//! Looking at one host, and what it means when that does not work.

use super::dial::Dialer;
use super::outcome::{HostOutcome, Status};
use super::own_words::own_words;
use super::ways::Ways;
use super::{Event, Events};
use crate::desired::Desired;
use crate::observe::{ObserveError, Observed, Sections, observe};
use crate::plan::{self, PlanOptions};
use crate::protocol;
use crate::remote::{self, Nonce, Question};
use crate::transport::{Answer, Room, Session, TransportError};
use std::time::{Duration, Instant};

/// What a plan's one round trip may take at most, once the connection stands.
pub(super) const PROBE_LIMIT: Duration = Duration::from_secs(60);

/// What was observed, with the room that it takes up until it is a plan.
pub(super) type ObserveResult = Result<(Box<Observed>, Room), HostOutcome>;

/// Runs a document, and tells how long the answer took and how long it is.
pub(super) async fn ask(
    session: &Session,
    events: &Events,
    host: &str,
    document: &str,
    limit: Duration,
) -> Result<Answer, TransportError> {
    let start = Instant::now();
    let result = session.run(document, limit).await;
    let took = start.elapsed().as_secs_f64();
    events.emit(Event::Detail(match &result {
        Ok(answer) => format!("{host}: answered after {took:.2}s, {} bytes", answer.stdout.len()),
        Err(error) => format!("{host}: no answer after {took:.2}s: {error}"),
    }));
    result
}

/// Looks at a host. With `recover`, a transaction that was left open there and that nobody watches any
/// more is ended first, so that what is planned is planned against the state that it leaves.
pub(super) async fn observe_host(
    dialer: &Dialer,
    events: &Events,
    desired: &Desired,
    options: &PlanOptions,
    ways: &Ways,
    recover: bool,
) -> (ObserveResult, Option<Session>) {
    let host = &desired.host;
    events.emit(Event::Step(host.clone(), "looking", None));
    let session = match dialer.connect(host, &desired.connection).await {
        Ok(session) => session,
        Err(error) => return (Err(unreachable(host, &error)), None),
    };
    let result = look(events, desired, options, ways, &session).await;
    let is_open = result.as_ref().is_ok_and(|(observed, _)| observed.state.open.is_some());
    if recover && is_open && end_abandoned(events, host, &session).await {
        events.emit(Event::Note(format!(
            "{host}: a transaction was left open and nobody watched it; it was ended first"
        )));
        // The second answer must not wait for the room that the first one takes up.
        drop(result);
        return (look(events, desired, options, ways, &session).await, Some(session));
    }
    (result, Some(session))
}

/// Whether there was one that nobody watched, and it was ended.
async fn end_abandoned(events: &Events, host: &str, session: &Session) -> bool {
    let Ok(nonce) = Nonce::fresh() else { return false };
    let document = remote::console(&nonce, "recover", "");
    let Ok(answer) = ask(session, events, host, &document, PROBE_LIMIT).await else { return false };
    let text = String::from_utf8_lossy(&answer.stdout);
    Sections::split(&text, nonce.as_str()).value(protocol::RECOVERED, "ended") == Some("yes")
}

async fn look(
    events: &Events,
    desired: &Desired,
    options: &PlanOptions,
    ways: &Ways,
    session: &Session,
) -> ObserveResult {
    let host = &desired.host;
    let nonce = Nonce::fresh().map_err(|error| internal(host, &error.to_string()))?;
    let document = if options.drift {
        remote::probe_applied(&nonce)
    } else {
        let (want, keys) = plan::question(desired);
        let sets = plan::asks_sets(desired);
        let question = Question {
            want: [&want[0], &want[1]],
            keys: &keys,
            sets: &sets,
            vlans: plan::asks_vlans(desired),
            ways: ways.addresses().await,
            // What is taken over comes back at boot, or what is given back does not.
            boot_files: options.adopt || options.restore.is_some(),
        };
        remote::probe(&nonce, &question)
    };
    let answer = ask(session, events, host, &document, PROBE_LIMIT)
        .await
        .map_err(|error| unreachable(host, &error))?;
    let observed = read_observation(host, &answer, &nonce)?;
    Ok((Box::new(observed), answer.room))
}

pub(super) fn read_observation(host: &str, answer: &Answer, nonce: &Nonce) -> Result<Observed, HostOutcome> {
    let text = String::from_utf8_lossy(&answer.stdout);
    let sections = Sections::split(&text, nonce.as_str());
    observe(&sections, &own_words(answer, nonce.as_str())).map_err(|error| match error {
        ObserveError::Refused(reason, message) => refused(host, &reason, &message),
        ObserveError::NoPrivilege => refused(host, "no-privilege", &error.to_string()),
        other => HostOutcome::new(host, Status::Unreachable).reason("bad-answer").message(other.to_string()),
    })
}

/// What a host that refuses says, as an outcome.
pub(super) fn refused(host: &str, reason: &str, message: &str) -> HostOutcome {
    let outcome = HostOutcome::new(host, Status::Refused).reason(reason).message(message);
    match reason {
        "locked" => {
            HostOutcome { message: Some(format!("another transaction holds it: {message}")), ..outcome }
                .hint("wait for it, or look with kvmfw status")
        }
        "no-space" | "guard-failed" | "dry-run" => HostOutcome { status: Status::Failed, ..outcome },
        _ => outcome,
    }
}

pub(super) fn unreachable(host: &str, error: &TransportError) -> HostOutcome {
    let away =
        |reason: &str| HostOutcome::new(host, Status::Unreachable).reason(reason).message(error.to_string());
    match error {
        TransportError::Privilege(_) => refused(host, "no-privilege", &error.to_string()),
        TransportError::Here(_) => {
            HostOutcome::new(host, Status::Failed).reason("here").message(error.to_string())
        }
        TransportError::Connect(_) | TransportError::Dropped(_) => {
            away("connect").hint("try it by hand: -v shows the ssh command")
        }
        TransportError::Lost(_) => away("lost"),
        TransportError::NoRoom => away("lost"),
        TransportError::TooLong { .. } => away("bad-answer"),
    }
}

pub(super) fn internal(host: &str, message: &str) -> HostOutcome {
    HostOutcome::new(host, Status::Failed).reason("internal").message(message)
}
