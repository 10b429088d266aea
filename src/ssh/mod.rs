//! The only door to hosts. A session takes a document for `sh`, runs it as root and gives back what
//! it printed; every wait has an end.

mod answer;
mod config;
pub mod host_key;
pub mod local;
mod private;
mod session;
mod words;

use crate::host;
use crate::inventory::HostConnection;
use std::time::Duration;
use thiserror::Error;

use answer::SHORT_ANSWER;
pub use answer::{Answer, AnswerLength, Room};
pub use private::clean;

/// All that a document finds in its environment besides the ends of its connection; `lib.sh` sets the rest.
const ENVIRONMENT: &str = "HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";

/// Why a host could not be talked to. What a failed read cannot tell is whether the document ran.
#[derive(Debug, Error)]
pub enum TransportError {
    /// No connection came up; the host was not touched.
    #[error("{0}")]
    Connect(String),
    /// The same before anybody had to say who he is: to try again is another throw of the dice.
    #[error("{0}")]
    Dropped(String),
    /// The connection was lost or fell silent; the document may have run, wholly or in part.
    #[error("{0}")]
    Lost(String),
    /// The host printed more than is read.
    #[error(
        "the host printed more than {} MiB on {stream}, which is the limit of one answer; check the size of \
         the rules (`iptables-save | wc -c`), the rc files and the ForceCommand of the login",
        limit >> 20
    )]
    TooLong {
        /// `stdout` or `stderr`.
        stream: &'static str,
        /// In bytes.
        limit: usize,
    },
    /// Other hosts with long answers did not come to their end.
    #[error(
        "the answer is longer than {} MiB, and other hosts with such answers were being read; select fewer \
         hosts (--limit)",
        SHORT_ANSWER >> 20
    )]
    NoRoom,
    /// The login may not do what is needed.
    #[error("{0}")]
    Privilege(String),
    /// Something on this machine failed.
    #[error("{0}")]
    Here(String),
}

/// How one reaches hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Over SSH, with the user's own ssh.
    Ssh,
    /// `sh` on this machine: it is the host.
    Local,
}

/// An open way to one host.
pub enum Session {
    /// A connection of its own.
    Ssh(session::SshSession),
    /// This machine.
    Local(local::LocalSession),
}

/// A document with what makes its end known: the shell prints a line of its own as the last thing it does.
struct Script {
    text: String,
    /// That line, with its line breaks.
    end: String,
    /// How long its answer may be, in bytes.
    limit: usize,
}

impl Script {
    fn new(document: &str, limit: usize) -> Result<Self, TransportError> {
        let hex = host::random_hex(12).map_err(|e| TransportError::Here(e.to_string()))?;
        let mark = format!("kvmfw-over-{hex}");
        Ok(Self { text: host::ending_with(&mark, document), end: format!("\n{mark}\n"), limit })
    }
}

/// What one would type to get the same connection, for people.
pub fn command(via: Via, connection: &HostConnection) -> String {
    if via == Via::Local {
        return "sh (this machine)".to_owned();
    }
    let mut text = "ssh".to_owned();
    let mut option = |name: &str, value: String| text.push_str(&format!(" {name} {value}"));
    if let Some(port) = connection.port {
        option("-p", port.to_string());
    }
    if let Some(key) = &connection.identity_file {
        option("-i", key.display().to_string());
    }
    if let Some(file) = &connection.known_hosts {
        option("-o", format!("UserKnownHostsFile={}", file.display()));
    }
    if let Some(jump) = &connection.jump {
        option("-J", jump.clone());
    }
    for (name, value) in &connection.options {
        option("-o", format!("{name}={value}"));
    }
    let user = connection.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
    text.push_str(&format!(" {user}{}", connection.address));
    text
}

/// Opens a new connection. Never a shared one: that a new one comes up is what a confirm proves.
pub async fn connect(via: Via, connection: &HostConnection) -> Result<Session, TransportError> {
    match via {
        Via::Ssh => session::SshSession::connect(connection).await.map(Session::Ssh),
        Via::Local => Ok(Session::Local(local::LocalSession::new())),
    }
}

/// For a process that ends at once: ends all its connections, and takes away what it keeps for them.
pub async fn leave() {
    session::leave().await;
    private::clean_for_good();
}

impl Session {
    /// Runs a document as root on the host.
    pub async fn run(
        &self,
        document: &str,
        limit: Duration,
        length: AnswerLength,
    ) -> Result<Answer, TransportError> {
        let script = Script::new(document, length.max_bytes())?;
        let work = async {
            match self {
                Session::Ssh(session) => session.run(&script).await,
                Session::Local(session) => session.run(&script).await,
            }
        };
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(TransportError::Lost(format!("no answer within {}s", limit.as_secs()))),
        }
    }

    /// For how long nothing has been heard of the host.
    pub fn silence(&self) -> Duration {
        match self {
            Session::Ssh(session) => session.silence(),
            Session::Local(_) => Duration::ZERO,
        }
    }

    /// Ends the connection. A connection that is dead already is as good as closed.
    pub async fn close(self) {
        if let Session::Ssh(session) = self {
            session.close().await;
        }
    }
}
