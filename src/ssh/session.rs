//! Hosts over SSH: the user's own ssh, with its configuration, agent and known hosts.

use super::answer::{Answer, exchange};
use super::config;
use super::private::{self, PrivateFile};
use super::{Script, TransportError, words};
use crate::inventory::{BecomeMethod, HostConnection};
use openssh::{ControlPersist, KnownHosts, SessionBuilder, Stdio};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A TCP connection of its own, kept by one ssh process; commands are multiplexed over it.
pub struct SshSession {
    session: openssh::Session,
    become_root: BecomeMethod,
    /// When the other end was last heard of.
    heard: Mutex<Instant>,
    /// For `ssh -F`; goes with the session.
    _config: PrivateFile,
}

/// How long a session may take to end after its last word.
const SESSION_LIMIT: Duration = Duration::from_secs(5);

/// Whether sshd did not let a session in on a connection that lives.
fn is_refused(error: &openssh::Error) -> bool {
    chain(error).contains("Session open refused by peer")
}

impl SshSession {
    pub(super) async fn connect(connection: &HostConnection) -> Result<Self, TransportError> {
        let folder = private::folder()?;
        let mut builder = SessionBuilder::default();
        builder
            .known_hosts_check(known_hosts_check(connection))
            .control_directory(&folder)
            // A controller that is killed leaves its ssh behind; idle, that ends by itself.
            .control_persist(ControlPersist::IdleFor(NonZeroUsize::MIN.saturating_add(119)))
            .connect_timeout(connection.connect_timeout)
            .server_alive_interval(Duration::from_secs(5));
        if let Some(user) = &connection.user {
            builder.user(user.clone());
        }
        if let Some(port) = connection.port {
            builder.port(port);
        }
        if let Some(key) = &connection.identity_file {
            builder.keyfile(key);
        }
        if let Some(file) = &connection.known_hosts {
            builder.user_known_hosts_file(file);
        }
        if let Some(jump) = &connection.jump {
            builder.jump_hosts(jump.split(','));
        }
        let config = config::options(connection)?;
        builder.config_file(config.path());
        // ConnectTimeout covers TCP and key exchange; authentication can still hang.
        let limit = connection.connect_timeout + Duration::from_secs(10);
        let session = match tokio::time::timeout(limit, builder.connect_mux(&connection.address)).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Err(connect_error(&error, connection)),
            Err(_) => {
                return Err(TransportError::Connect(format!(
                    "the login did not finish within {}s",
                    limit.as_secs()
                )));
            }
        };
        let heard = Mutex::new(Instant::now());
        Ok(Self { session, become_root: connection.become_root, heard, _config: config })
    }

    pub(super) fn silence(&self) -> Duration {
        self.heard.lock().map_or(Duration::MAX, |heard| heard.elapsed())
    }

    pub(super) async fn run(&self, script: &Script) -> Result<Answer, TransportError> {
        // The login shell may be anything; what it gets means the same in all of them. What its rc files left in the
        // environment (functions that bash exports!) goes; the connection's ends are what a confirm is about.
        let clean =
            format!("/usr/bin/env -i \"SSH_CONNECTION=$SSH_CONNECTION\" {} /bin/sh -s", super::ENVIRONMENT);
        let command = match self.become_root {
            BecomeMethod::No => format!("exec {clean}"),
            BecomeMethod::Sudo => format!("exec sudo -n {clean}"),
        };
        let mut child = self.spawn(&command).await?;
        let (stdin, stdout, stderr) = (child.stdin().take(), child.stdout().take(), child.stderr().take());
        let mut answer = exchange(stdin, stdout, stderr, script).await?;
        if answer.held_open {
            // All has been said; what holds the stream open is not of the document.
            let _ = child.disconnect().await;
            if let Ok(mut heard) = self.heard.lock() {
                *heard = Instant::now();
            }
            return Ok(answer);
        }
        let ended = child.wait().await;
        if let (Ok(_), Ok(mut heard)) = (&ended, self.heard.lock()) {
            *heard = Instant::now();
        }
        if answer.stdout.is_empty()
            && self.become_root == BecomeMethod::Sudo
            && answer.stderr.contains("sudo")
        {
            return Err(TransportError::Privilege(answer.stderr));
        }
        match ended {
            // By itself, with what openssh takes for its own word: 127. What was printed says why.
            Ok(_) | Err(openssh::Error::Remote(_)) => Ok(answer),
            Err(error) => {
                let why = self.why(&error).await;
                if answer.stdout.is_empty() && answer.stderr.is_empty() {
                    return Err(TransportError::Lost(why));
                }
                // It may have said all before; if not, that is the last that is known.
                let _ = write!(answer.stderr, "\n{why}");
                Ok(answer)
            }
        }
    }

    /// Begins a command. Where sshd lets in only so many at once (MaxSessions), the one before may not have ended there
    /// though all that it said is here: what was refused has not run, and is begun again on the same connection.
    async fn spawn(&self, command: &str) -> Result<openssh::Child<&openssh::Session>, TransportError> {
        let deadline = Instant::now() + SESSION_LIMIT;
        let mut pause = Duration::from_millis(20);
        loop {
            let mut command = self.session.raw_command(command);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            match command.spawn().await {
                Ok(child) => return Ok(child),
                Err(error) if !is_refused(&error) => return Err(TransportError::Lost(lost(&error))),
                Err(_) if Instant::now() >= deadline => {
                    return Err(TransportError::Lost(
                        "sshd on the host opens no further session on a connection (MaxSessions), and the \
                         session before does not end: an rc file of the login may have left a process behind"
                            .to_owned(),
                    ));
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Why a command ended without telling how. One that was killed there does so too, and then ssh lives.
    async fn why(&self, error: &openssh::Error) -> String {
        if !matches!(error, openssh::Error::RemoteProcessTerminated) {
            return lost(error);
        }
        match tokio::time::timeout(Duration::from_secs(2), self.session.check()).await {
            Ok(Ok(())) => "the shell on the host was killed".to_owned(),
            _ => LOST.to_owned(),
        }
    }

    pub(super) async fn close(self) {
        // A dead peer cannot answer the farewell.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.session.close()).await;
    }
}

/// Ends all connections of this process, also those over which somebody still waits for an answer: an ssh whose host does not
/// end what it was asked would stay for as long.
pub(super) async fn leave() {
    let mut tasks = JoinSet::new();
    for path in private::sockets() {
        tasks.spawn(openssh::Session::resume_mux(path.into(), None).close());
    }
    // A dead peer cannot answer the farewell, and who leaves is in a hurry.
    let _ = tokio::time::timeout(Duration::from_secs(1), tasks.join_all()).await;
}

fn known_hosts_check(connection: &HostConnection) -> KnownHosts {
    let asked = connection.options.iter().find(|(k, _)| k.eq_ignore_ascii_case("StrictHostKeyChecking"));
    match asked.map(|(_, v)| v.as_str()) {
        Some("accept-new") => KnownHosts::Add,
        Some("no" | "off") => KnownHosts::Accept,
        _ => KnownHosts::Strict,
    }
}

/// The command that removes the old key of a host.
fn forget_key(connection: &HostConnection) -> String {
    let name = match connection.port {
        Some(port) if port != 22 => format!("'[{}]:{port}'", connection.address),
        _ => connection.address.clone(),
    };
    let file = connection.known_hosts.as_ref().map_or_else(String::new, |f| format!(" -f {}", f.display()));
    format!("ssh-keygen -R {name}{file}")
}

/// The command that adds the key of a host to the file that kvmfw reads.
fn accept_key(connection: &HostConnection) -> String {
    let mut command = "ssh".to_owned();
    if let Some(file) = &connection.known_hosts {
        command += &format!(" -o UserKnownHostsFile={}", file.display());
    }
    if let Some(port) = connection.port.filter(|port| *port != 22) {
        command += &format!(" -p {port}");
    }
    let user = connection.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
    format!("{command} {user}{} true", connection.address)
}

/// Why a login was refused. Without the address, so that hosts of one cause are one line.
fn denied(said: &str, connection: &HostConnection) -> String {
    match &connection.identity_file {
        Some(file) if !file.exists() => {
            format!(
                "{said}: identity file {} does not exist (identity_file, --identity-file)",
                file.display()
            )
        }
        _ => format!(
            "{said}: the server accepted none of your keys, and kvmfw never prompts for passwords or passphrases; load the \
             key with ssh-add, or set its file (identity_file, --identity-file)"
        ),
    }
}

fn connect_error(error: &openssh::Error, connection: &HostConnection) -> TransportError {
    match error {
        openssh::Error::Connect(io) => {
            let text = io.to_string();
            let last = text.lines().map(str::trim).rfind(|l| !l.is_empty()).unwrap_or("ssh failed");
            if text.contains("REMOTE HOST IDENTIFICATION HAS CHANGED") {
                return TransportError::Connect(format!(
                    "the host key has changed; if that is expected, remove the old key: {}",
                    forget_key(connection)
                ));
            }
            if text.contains("Host key verification failed") {
                return TransportError::Connect(format!(
                    "{}; verify the key, then accept it with `{}`",
                    super::host_key::UNKNOWN,
                    accept_key(connection)
                ));
            }
            if let Some(at) = last.find("Permission denied") {
                return TransportError::Connect(denied(last[at..].trim_end_matches('.'), connection));
            }
            // What came through a command and not from an address: why it ended only that command knows.
            let message = match &connection.jump {
                Some(jump) if words::is_end_of_way(last) => format!(
                    "the connection through {jump} ended before the host answered; `ssh {jump}` must work here without a \
                     prompt and must allow forwarding"
                ),
                _ => {
                    let own =
                        private::folder().map(|folder| folder.display().to_string()).unwrap_or_default();
                    words::last(&text, &own)
                }
            };
            match words::is_dropped(&text) {
                true if message.is_empty() => {
                    TransportError::Dropped("ssh ended without an error message".to_owned())
                }
                true => TransportError::Dropped(message),
                false => TransportError::Connect(message),
            }
        }
        other => TransportError::Connect(chain(other)),
    }
}

const LOST: &str = "the connection was lost";

/// Why nothing came over a connection. Where the ssh that kept it has ended (the host was silent for too long, the line
/// is dead), all that is left to see is its socket; what that says helps nobody.
fn lost(error: &openssh::Error) -> String {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    if matches!(error, openssh::Error::Disconnected) {
        return LOST.to_owned();
    }
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        let ended = error.downcast_ref::<std::io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                BrokenPipe | ConnectionRefused | ConnectionReset | NotFound | UnexpectedEof
            )
        });
        if ended {
            return LOST.to_owned();
        }
        cause = error.source();
    }
    chain(error)
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{LOST, lost};
    use std::io::{Error, ErrorKind};

    #[test]
    fn an_ssh_that_has_ended_is_a_lost_connection() {
        let of = |kind: ErrorKind| lost(&openssh::Error::Master(Error::new(kind, "a word of a socket")));
        assert_eq!(of(ErrorKind::UnexpectedEof), LOST);
        assert_eq!(of(ErrorKind::NotFound), LOST);
        assert_eq!(of(ErrorKind::OutOfMemory), "the master connection failed: a word of a socket");
        assert_eq!(lost(&openssh::Error::Disconnected), LOST);
    }
}
