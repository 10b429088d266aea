//! The only door to hosts. A session takes a document for `sh`, runs it as root and gives back what
//! it printed; every wait has an end.

mod config;
pub mod host_key;
pub mod local;
mod ssh;
mod words;

use crate::inventory::Connection;
use std::time::Duration;
use thiserror::Error;

pub use config::clean;

/// No host says more than this in one answer; more is a fault or an attack.
pub const MAX_ANSWER: usize = 64 << 20;

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
    /// The host printed more than [`MAX_ANSWER`] bytes.
    #[error("the host answered with more than {} MiB", MAX_ANSWER >> 20)]
    TooLong,
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
    Ssh(ssh::SshSession),
    /// This machine.
    Local(local::LocalSession),
}

/// What a document printed.
#[derive(Debug)]
pub struct Answer {
    /// Standard output, at most [`MAX_ANSWER`] bytes.
    pub stdout: Vec<u8>,
    /// The end of standard error.
    pub stderr: String,
}

/// What one would type to get the same connection, for people.
pub fn command(via: Via, connection: &Connection) -> String {
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
pub async fn connect(via: Via, connection: &Connection) -> Result<Session, TransportError> {
    match via {
        Via::Ssh => ssh::SshSession::connect(connection).await.map(Session::Ssh),
        Via::Local => Ok(Session::Local(local::LocalSession::new())),
    }
}

/// For a process that ends at once: ends all its connections, and takes away what it keeps for them.
pub async fn leave() {
    ssh::leave().await;
    config::clean_for_good();
}

impl Session {
    /// Runs a document as root on the host.
    pub async fn run(&self, document: &str, limit: Duration) -> Result<Answer, TransportError> {
        let work = async {
            match self {
                Session::Ssh(session) => session.run(document).await,
                Session::Local(session) => session.run(document).await,
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

/// Reads to the end, but never more than is sane.
async fn read_bounded(
    mut from: impl tokio::io::AsyncRead + Unpin,
    limit: usize,
) -> Result<Vec<u8>, TransportError> {
    use tokio::io::AsyncReadExt;
    let mut all = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let n = from.read(&mut chunk).await.map_err(|e| TransportError::Lost(e.to_string()))?;
        if n == 0 {
            return Ok(all);
        }
        if all.len() + n > limit {
            return Err(TransportError::TooLong);
        }
        all.extend_from_slice(&chunk[..n]);
    }
}

/// Feeds a document to a child and collects what it prints, all three streams at once: a pipe that
/// nobody reads would block the other end.
async fn exchange(
    stdin: Option<impl tokio::io::AsyncWrite + Unpin>,
    stdout: Option<impl tokio::io::AsyncRead + Unpin>,
    stderr: Option<impl tokio::io::AsyncRead + Unpin>,
    document: &str,
) -> Result<Answer, TransportError> {
    use tokio::io::AsyncWriteExt;
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(TransportError::Here("the child has no pipes".into()));
    };
    let feed = async move {
        // A shell that ends early closes its stdin; what it printed says why.
        let _ = stdin.write_all(document.as_bytes()).await;
        let _ = stdin.shutdown().await;
        drop(stdin);
        Ok::<(), TransportError>(())
    };
    let (_, stdout, stderr) =
        tokio::try_join!(feed, read_bounded(stdout, MAX_ANSWER), read_bounded(stderr, 1 << 20))?;
    Ok(Answer { stdout, stderr: String::from_utf8_lossy(&stderr).trim().to_owned() })
}
