//! The only door to hosts. A session takes a document for `sh`, runs it as root and gives back what
//! it printed; every wait has an end.

mod config;
pub mod host_key;
pub mod local;
mod ssh;
mod words;

use crate::inventory::Connection;
use crate::remote;
use std::time::Duration;
use thiserror::Error;

pub use config::clean;

/// No host says more than this in one answer; more is a fault or an attack.
pub const MAX_ANSWER: usize = 64 << 20;

/// All that a document finds in its environment besides the ends of its connection; `lib.sh` sets the rest.
const ENVIRONMENT: &str = "HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";

/// How long after the end of an answer the streams may stay open before they count as held by another process.
const GRACE: Duration = Duration::from_millis(300);

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
    /// Whether another process, which an rc file of the login started, holds the streams open.
    held_open: bool,
}

/// A document with what makes its end known: the shell prints a line of its own as the last thing it does.
struct Script {
    text: String,
    /// That line, with its line breaks.
    end: String,
}

impl Script {
    fn new(document: &str) -> Result<Self, TransportError> {
        let hex = remote::random_hex(12).map_err(|e| TransportError::Here(e.to_string()))?;
        let mark = format!("kvmfw-over-{hex}");
        Ok(Self { text: remote::ending_with(&mark, document), end: format!("\n{mark}\n") })
    }
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
        let script = Script::new(document)?;
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

/// What has come of one stream, never more than is sane.
struct Stream<R> {
    from: R,
    limit: usize,
    all: Vec<u8>,
    ended: bool,
}

impl<R: tokio::io::AsyncRead + Unpin> Stream<R> {
    fn new(from: R, limit: usize) -> Self {
        Self { from, limit, all: Vec::new(), ended: false }
    }

    /// Waits for more; where it is not waited for to the end, nothing is lost.
    async fn read(&mut self) -> Result<(), TransportError> {
        use tokio::io::AsyncReadExt;
        if self.all.capacity() - self.all.len() < 64 << 10 {
            self.all.reserve(64 << 10);
        }
        let n = self.from.read_buf(&mut self.all).await.map_err(|e| TransportError::Lost(e.to_string()))?;
        self.ended = n == 0;
        if self.all.len() > self.limit { Err(TransportError::TooLong) } else { Ok(()) }
    }
}

/// Reads both streams to the end, or until the script's last line has come and nothing follows it.
async fn read_answer(
    stdout: impl tokio::io::AsyncRead + Unpin,
    stderr: impl tokio::io::AsyncRead + Unpin,
    end: &[u8],
) -> Result<Answer, TransportError> {
    let (mut out, mut err) = (Stream::new(stdout, MAX_ANSWER), Stream::new(stderr, 1 << 20));
    let (mut over, mut looked) = (None, 0);
    let held_open = loop {
        if out.ended && err.ended {
            break false;
        }
        tokio::select! {
            read = out.read(), if !out.ended => read?,
            read = err.read(), if !err.ended => read?,
            () = tokio::time::sleep(GRACE), if over.is_some() => break true,
        }
        if over.is_none() {
            let from = out.all.get(looked..).unwrap_or_default();
            over = from.windows(end.len()).position(|part| part == end).map(|at| looked + at);
            looked = out.all.len().saturating_sub(end.len());
        }
    };
    if let Some(at) = over {
        out.all.truncate(at);
    }
    Ok(Answer { stdout: out.all, stderr: String::from_utf8_lossy(&err.all).trim().to_owned(), held_open })
}

/// Feeds a script to a child and collects what it prints, all three streams at once: a pipe that
/// nobody reads would block the other end.
async fn exchange(
    stdin: Option<impl tokio::io::AsyncWrite + Unpin>,
    stdout: Option<impl tokio::io::AsyncRead + Unpin>,
    stderr: Option<impl tokio::io::AsyncRead + Unpin>,
    script: &Script,
) -> Result<Answer, TransportError> {
    use tokio::io::AsyncWriteExt;
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(TransportError::Here("the child has no pipes".into()));
    };
    let feed = async move {
        // A shell that ends early closes its stdin; what it printed says why.
        let _ = stdin.write_all(script.text.as_bytes()).await;
        let _ = stdin.shutdown().await;
        drop(stdin);
    };
    let read = read_answer(stdout, stderr, script.end.as_bytes());
    tokio::pin!(feed, read);
    let mut fed = false;
    loop {
        tokio::select! {
            () = &mut feed, if !fed => fed = true,
            answer = &mut read => return answer,
        }
    }
}
