//! Opens connections to hosts, anew where one is dropped by chance.

use super::{Event, Events};
use crate::inventory::HostConnection;
use crate::remote;
use crate::transport::{self, Session, TransportError, Via};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often a connection is begun that is dropped before anybody had to say who he is.
const TRIES: u32 = 5;

/// A drop comes at once. What ends later than that was waited for: a jump host that does not get through, for one.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Before it is begun the second time, at most; then twice as long each time.
const DROPPED_PAUSE: Duration = Duration::from_millis(600);

/// Connects to hosts, and tells how that goes to who wants to know.
pub(super) struct Dialer {
    via: Via,
    events: Events,
    /// The jump hosts through which somebody got. Of another one nobody can tell whether it drops by chance or lets
    /// nobody in, and who fails to log in too often is banned there.
    open_jumps: Mutex<BTreeSet<String>>,
}

impl Dialer {
    pub(super) fn new(via: Via, events: Events) -> Self {
        Self { via, events, open_jumps: Mutex::default() }
    }

    fn tries(&self, connection: &HostConnection) -> u32 {
        let open = |jump: &String| self.open_jumps.lock().is_ok_and(|open| open.contains(jump));
        if connection.jump.as_ref().is_none_or(open) { TRIES } else { 2 }
    }

    /// Opens a new connection. Where it is dropped, as an sshd with too many logins under way does by chance, it is
    /// begun anew.
    pub(super) async fn connect(
        &self,
        host: &str,
        connection: &HostConnection,
    ) -> Result<Session, TransportError> {
        let mut pause = DROPPED_PAUSE;
        let mut tried = 0;
        loop {
            let start = Instant::now();
            let result = self.connect_once(host, connection).await;
            tried += 1;
            let dropped = matches!(result, Err(TransportError::Dropped(_))) && start.elapsed() < AT_ONCE;
            if !dropped || tried >= self.tries(connection) {
                if let (Ok(_), Some(jump), Ok(mut open)) = (&result, &connection.jump, self.open_jumps.lock())
                {
                    open.insert(jump.clone());
                }
                return result;
            }
            // Those that were dropped together must not come back together.
            let chance = remote::random_hex(1).ok().and_then(|hex| u32::from_str_radix(&hex, 16).ok());
            tokio::time::sleep(pause * (64 + chance.unwrap_or(128)) / 320).await;
            pause *= 2;
        }
    }

    async fn connect_once(&self, host: &str, connection: &HostConnection) -> Result<Session, TransportError> {
        let start = Instant::now();
        let result = transport::connect(self.via, connection).await;
        let how = match &result {
            Ok(_) => "connected".to_owned(),
            Err(error) => format!("no connection: {error}"),
        };
        let (command, took) = (transport::command(self.via, connection), start.elapsed().as_secs_f64());
        self.events.emit(Event::Detail(format!("{host}: {command}: {how} after {took:.2}s")));
        result
    }
}
