//! Opens connections to hosts, with retries where sshd drops one before authentication.

use super::events::{EngineEvent, EventSender};
use crate::host;
use crate::inventory::HostConnection;
use crate::ssh::{self, Session, TransportError, Via};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Maximum attempts when sshd drops a connection before authentication (MaxStartups).
const MAX_ATTEMPTS: u32 = 5;

/// The same through a jump host that has not worked yet.
const MAX_ATTEMPTS_UNPROVEN_JUMP: u32 = 2;

/// MaxStartups drops a connection at once. A later end has another cause, such as a jump host that cannot connect.
const EARLY_DROP_LIMIT: Duration = Duration::from_secs(2);

/// Longest pause before the second attempt. It doubles with each further attempt.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(600);

/// Opens connections.
pub(super) struct Dialer {
    via: Via,
    events: EventSender,
    /// Jump hosts that have worked at least once. For others a drop may be a refusal, and repeated attempts may get
    /// the controller banned.
    working_jump_hosts: Mutex<BTreeSet<String>>,
}

impl Dialer {
    pub(super) fn new(via: Via, events: EventSender) -> Self {
        Self { via, events, working_jump_hosts: Mutex::default() }
    }

    fn max_attempts(&self, connection: &HostConnection) -> u32 {
        let works = |jump: &String| self.working_jump_hosts.lock().is_ok_and(|known| known.contains(jump));
        if connection.jump.as_ref().is_none_or(works) { MAX_ATTEMPTS } else { MAX_ATTEMPTS_UNPROVEN_JUMP }
    }

    /// Opens a new connection. It retries where sshd drops connections because too many are not authenticated yet.
    pub(super) async fn connect(
        &self,
        host: &str,
        connection: &HostConnection,
    ) -> Result<Session, TransportError> {
        let mut pause = FIRST_RETRY_PAUSE;
        let mut attempts = 0;
        loop {
            let start = Instant::now();
            let result = self.connect_once(host, connection).await;
            attempts += 1;
            let dropped =
                matches!(result, Err(TransportError::Dropped(_))) && start.elapsed() < EARLY_DROP_LIMIT;
            if !dropped || attempts >= self.max_attempts(connection) {
                if let (Ok(_), Some(jump), Ok(mut known)) =
                    (&result, &connection.jump, self.working_jump_hosts.lock())
                {
                    known.insert(jump.clone());
                }
                return result;
            }
            // Random, so that connections which were dropped together are not retried together.
            let chance = host::random_hex(1).ok().and_then(|hex| u32::from_str_radix(&hex, 16).ok());
            tokio::time::sleep(pause * (64 + chance.unwrap_or(128)) / 320).await;
            pause *= 2;
        }
    }

    async fn connect_once(&self, host: &str, connection: &HostConnection) -> Result<Session, TransportError> {
        let start = Instant::now();
        let result = ssh::connect(self.via, connection).await;
        let outcome = match &result {
            Ok(_) => "connected".to_owned(),
            Err(error) => format!("no connection: {error}"),
        };
        let (command, seconds) = (ssh::command(self.via, connection), start.elapsed().as_secs_f64());
        self.events.emit(EngineEvent::Detail(format!("{host}: {command}: {outcome} after {seconds:.2}s")));
        result
    }
}
