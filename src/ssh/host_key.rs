//! The key of a host that is not known yet: fetched, named by its fingerprint, remembered.
//!
//! ssh itself does all of it, so that its configuration, jump hosts and aliases hold here too.

use super::config;
use super::private::{self, PrivateFile};
use super::{TransportError, words};
use crate::files::{self, Readers};
use crate::inventory::HostConnection;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// A key that a host showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKey {
    /// As `ssh-keygen -l` prints it: `SHA256:…`.
    pub fingerprint: String,
    /// `ED25519`, `RSA`, …
    pub kind: String,
    /// The line for known_hosts.
    line: String,
}

/// How the message about a host whose key is not known begins.
pub(super) const UNKNOWN: &str = "unknown host key";

/// Whether a message of the transport says that ssh does not know the host's key.
pub fn is_unknown(message: &str) -> bool {
    message.starts_with(UNKNOWN)
}

/// Asks a host for its key. Nothing is offered for a login.
///
/// Errors: no connection came up, or ssh showed no key.
pub async fn fetch(connection: &HostConnection) -> Result<HostKey, TransportError> {
    ask(connection, Command::new("ssh")).await
}

/// The same over a connection that starts at a third machine. ssh holds the host to its key from end
/// to end, so that nobody on the way can answer in its place.
///
/// Errors: the third machine cannot be logged in to, or it gets no connection to the host.
pub async fn fetch_from(third: &HostConnection, host: &HostConnection) -> Result<HostKey, TransportError> {
    let config = config::jump(third)?;
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(config.path());
    let host = HostConnection { jump: Some(third.address.clone()), ..host.clone() };
    ask(&host, ssh).await
}

async fn ask(connection: &HostConnection, mut ssh: Command) -> Result<HostKey, TransportError> {
    let file = PrivateFile::new("")?;
    for option in [
        "BatchMode=yes",
        "ControlPath=none",
        "StrictHostKeyChecking=accept-new",
        "GlobalKnownHostsFile=/dev/null",
        "HashKnownHosts=no",
        "UpdateHostKeys=no",
        "PreferredAuthentications=none",
    ] {
        ssh.args(["-o", option]);
    }
    ssh.arg("-o").arg(format!("UserKnownHostsFile={}", file.path().display()));
    ssh.arg("-o").arg(format!("ConnectTimeout={}", connection.connect_timeout.as_secs().max(1)));
    to(&mut ssh, connection).arg("true");
    let limit = connection.connect_timeout + Duration::from_secs(10);
    let answer = output(ssh, limit).await?;
    let line = std::fs::read_to_string(file.path()).unwrap_or_default();
    let Some(line) = line.lines().next().map(str::to_owned) else {
        let why = words::last(&answer, &private::folder()?.to_string_lossy());
        let why = if why.is_empty() { "ssh showed no host key".to_owned() } else { why };
        return Err(TransportError::Connect(why));
    };
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-l", "-f"]).arg(file.path());
    let said = keygen.stdin(Stdio::null()).output().await.map_err(|e| here(&e))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let mut words = said.split_whitespace();
    let fingerprint = words.nth(1).unwrap_or_default().to_owned();
    let kind = words.next_back().unwrap_or_default().trim_matches(['(', ')']).to_owned();
    if !fingerprint.starts_with("SHA256:") {
        return Err(TransportError::Here("ssh-keygen named no fingerprint".into()));
    }
    Ok(HostKey { fingerprint, kind, line })
}

/// Writes a key down where ssh looks for it, and says where that is.
///
/// Errors: the file cannot be written.
pub async fn remember(connection: &HostConnection, key: &HostKey) -> Result<PathBuf, TransportError> {
    let file = match &connection.known_hosts {
        Some(file) => Some(file.clone()),
        None => SshSettings::of(connection).await?.known_hosts(connection).into_iter().next(),
    };
    let Some(file) = file else { return Err(TransportError::Here("ssh names no known_hosts".into())) };
    let write = || {
        if let Some(folder) = file.parent() {
            files::folder(folder, Readers::Owner)?;
        }
        let mut known = files::append(&file, Readers::Owner)?;
        writeln!(known, "{}", key.line)
    };
    write().map_err(|e| TransportError::Here(format!("cannot write {}: {e}", file.display())))?;
    Ok(file)
}

/// What ssh here knows of a host's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// These, by their fingerprints, or the authority that certifies them.
    Keys(Vec<String>),
    /// None.
    Nothing,
    /// Only ssh itself can tell: it runs a program for them, for example.
    Unclear,
}

/// Looks a host's keys up where ssh would; no connection is opened.
pub async fn known(connection: &HostConnection) -> Known {
    let Ok(settings) = SshSettings::of(connection).await else { return Known::Unclear };
    let program = settings.get("knownhostscommand").is_some_and(|command| command != "none");
    let files = settings.known_hosts(connection);
    // Without a name, ssh did not take its configuration; it says why when it connects.
    if settings.get("hostname").is_none()
        || program
        || files.iter().any(|file| file.to_string_lossy().contains('%'))
    {
        return Known::Unclear;
    }
    let mut keys = Vec::new();
    for file in files.iter().filter(|file| file.exists()) {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-l", "-F", &settings.name(connection), "-f"]).arg(file).stdin(Stdio::null());
        let Ok(said) = keygen.output().await else { return Known::Unclear };
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let words = said.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
        keys.extend(words.filter(|word| word.starts_with("SHA256:")).map(str::to_owned));
    }
    if keys.is_empty() { Known::Nothing } else { Known::Keys(keys) }
}

/// What ssh says of its own configuration for a host.
struct SshSettings(String);

impl SshSettings {
    async fn of(connection: &HostConnection) -> Result<Self, TransportError> {
        let mut ssh = Command::new("ssh");
        ssh.arg("-G");
        to(&mut ssh, connection);
        let said = ssh.stdin(Stdio::null()).output().await.map_err(|e| here(&e))?;
        Ok(Self(String::from_utf8_lossy(&said.stdout).into_owned()))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
    }

    /// The name by which the host's keys are kept.
    fn name(&self, connection: &HostConnection) -> String {
        if let Some(alias) = self.get("hostkeyalias") {
            return alias.to_lowercase();
        }
        let host = self.get("hostname").unwrap_or(&connection.address).to_lowercase();
        match self.get("port").unwrap_or("22") {
            "22" => host,
            port => format!("[{host}]:{port}"),
        }
    }

    /// The files in which ssh looks for them. The first one is written to.
    fn known_hosts(&self, connection: &HostConnection) -> Vec<PathBuf> {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let listed = |key| self.get(key).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
        let path = |file: &str| match file.strip_prefix("~/") {
            Some(rest) => home.join(rest),
            None => PathBuf::from(file),
        };
        let mut files: Vec<PathBuf> = match &connection.known_hosts {
            Some(file) => vec![file.clone()],
            None => listed("userknownhostsfile").into_iter().map(path).collect(),
        };
        if files.is_empty() {
            files.push(home.join(".ssh/known_hosts"));
        }
        files.extend(listed("globalknownhostsfile").into_iter().map(path));
        files
    }
}

/// Who, where and how, as words for ssh.
fn to<'a>(ssh: &'a mut Command, connection: &HostConnection) -> &'a mut Command {
    if let Some(user) = &connection.user {
        ssh.args(["-l", user]);
    }
    if let Some(port) = connection.port {
        ssh.args(["-p", &port.to_string()]);
    }
    if let Some(jump) = &connection.jump {
        ssh.args(["-J", jump]);
    }
    ssh.args(["--", &connection.address])
}

/// What ssh prints on stderr, up to its end. The banner of a host is in it, and may be endless.
async fn output(mut command: Command, limit: Duration) -> Result<String, TransportError> {
    const MOST: u64 = 1 << 20;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| here(&e))?;
    let stderr = child.stderr.take();
    let work = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            let _ = stderr.take(MOST).read_to_end(&mut said).await;
        }
        // One that has more to say gets no reader, and is killed below.
        if said.len() < MOST as usize {
            child.wait().await.map_err(|e| here(&e))?;
        }
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    };
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(TransportError::Connect(format!("no answer within {}s", limit.as_secs()))),
    }
}

fn here(error: &std::io::Error) -> TransportError {
    TransportError::Here(format!("cannot run ssh: {error}"))
}
