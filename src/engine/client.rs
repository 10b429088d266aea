//! Requests to one host: a document goes out, the sections of an answer come back.

use super::events::{EngineEvent, EventSender};
use super::unparsed::unparsed_output;
use crate::host::Nonce;
use crate::host_state::{ObserveError, Observed, ProbeSections, observe};
use crate::ssh::{Answer, AnswerLength, Room, Session, TransportError};
use std::time::{Duration, Instant};

/// Limit of a short request of a transaction.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Limit of the one request that observes a host, from the moment when its connection is up.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long after its deadline a host may still be rolling back.
pub(super) const ROLLBACK_GRACE: Duration = Duration::from_secs(20);

/// A session that was heard from within this time counts as alive without a request.
const ALIVE_WITHOUT_CHECK: Duration = Duration::from_secs(5);

/// Limit of the request that checks whether a session is alive.
const ALIVE_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// A host with an open connection.
pub(super) struct HostClient {
    session: Session,
}

impl HostClient {
    pub(super) fn new(session: Session) -> Self {
        Self { session }
    }

    /// Sends the document that `build` makes for a fresh nonce.
    pub(super) async fn request(
        &self,
        build: impl FnOnce(&Nonce) -> String,
        timeout: Duration,
        length: AnswerLength,
    ) -> Result<Response, TransportError> {
        let nonce = Nonce::fresh().map_err(|error| TransportError::Here(error.to_string()))?;
        let document = build(&nonce);
        Ok(Response::new(self.session.run(&document, timeout, length).await?, nonce))
    }

    /// [`Self::request`] of a long answer, with an event of its duration and length.
    pub(super) async fn timed_request(
        &self,
        host: &str,
        events: &EventSender,
        build: impl FnOnce(&Nonce) -> String,
        timeout: Duration,
    ) -> Result<Response, TransportError> {
        let start = Instant::now();
        let result = self.request(build, timeout, AnswerLength::Long).await;
        let seconds = start.elapsed().as_secs_f64();
        events.emit(EngineEvent::Detail(match &result {
            Ok(response) => format!("{host}: answered after {seconds:.2}s, {} bytes", response.bytes),
            Err(error) => format!("{host}: no answer after {seconds:.2}s: {error}"),
        }));
        result
    }

    /// Whether the host still answers over this connection.
    pub(super) async fn is_alive(&self) -> bool {
        self.session.silence() < ALIVE_WITHOUT_CHECK
            || self.session.run("echo alive\n", ALIVE_CHECK_TIMEOUT, AnswerLength::Short).await.is_ok()
    }

    pub(super) async fn close(self) {
        self.session.close().await;
    }
}

/// Answer of a host to one document.
pub(super) struct Response {
    stdout: String,
    stderr: String,
    /// Length of standard output as it was received.
    bytes: usize,
    room: Room,
    nonce: Nonce,
}

impl Response {
    fn new(answer: Answer, nonce: Nonce) -> Self {
        let Answer { stdout, stderr, room, .. } = answer;
        let bytes = stdout.len();
        let stdout = String::from_utf8(stdout)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        Self { stdout, stderr, bytes, room, nonce }
    }

    pub(super) fn sections(&self) -> ProbeSections<'_> {
        ProbeSections::split(&self.stdout, self.nonce.as_str())
    }

    /// Reads the answer of a probe.
    pub(super) fn observed(&self) -> Result<Observed, ObserveError> {
        observe(&self.sections(), &self.unparsed())
    }

    /// The error of an answer without the expected sections. It quotes what the host printed instead.
    pub(super) fn incomplete(&self) -> ObserveError {
        ObserveError::Incomplete(self.unparsed())
    }

    /// Last line of standard error.
    pub(super) fn last_error_line(&self) -> Option<&str> {
        self.stderr.lines().last()
    }

    /// Frees the text. What remains is the memory budget that it used.
    pub(super) fn into_room(self) -> Room {
        self.room
    }

    fn unparsed(&self) -> String {
        unparsed_output(&self.stdout, &self.stderr, self.nonce.as_str())
    }
}
