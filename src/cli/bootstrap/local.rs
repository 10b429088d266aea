//! The host that kvmfw itself runs on: what proves, before a change is kept, that one still gets in.
//! kvmfw comes from inside and proves nothing; a person at the terminal or a third machine does.

use crate::cli::{CliError, Common, prompt, runtime};
use crate::engine::{Confirmation, LoginProof};
use crate::host_state::SshEnds;
use crate::inventory::{BOOTSTRAP, HostConnection, SshTarget};
use crate::report::outlet;
use crate::ssh::host_key::{self, HostKey};
use crate::ssh::local::{address_towards, connected};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

/// Between two times that the question is shown anew, and two tries of a third machine.
const PAUSE: Duration = Duration::from_millis(250);

/// Between two looks at who is connected. The connection of `ssh HOST true` stands for a tenth of a second, and leaves nothing
/// behind on the host: who closes first keeps what is closed in its table for a while, and that is ssh.
const LOOK: Duration = Duration::from_millis(20);

/// Without a terminal nobody could say that the change is good.
pub(super) fn needs_terminal() -> Result<(), CliError> {
    if prompt::can_ask() {
        return Ok(());
    }
    Err(CliError::left_alone(
        "There is no terminal to confirm the change on; nothing was changed. Run the command on a terminal, \
        or let another machine confirm: --confirm-from USER@HOST",
    ))
}

/// How others reach this host: as the operator came, else by the address that a third machine sees.
pub(super) fn refine(reach: &mut SshTarget, operator: Option<&SshEnds>, third: Option<&HostConnection>) {
    if let Some(ends) = operator {
        reach.address = ends.server.to_string();
        reach.port = Some(ends.server_port).filter(|port| *port != 22);
    } else if let Some(address) = third.and_then(|third| address_towards(&third.address)) {
        reach.address = address.to_string();
    }
}

/// A person at this terminal says so.
pub(super) fn by_operator(ends: Option<&SshEnds>) -> LoginProof {
    let (over_ssh, port) = (ends.is_some(), ends.map_or(22, |ends| ends.server_port));
    LoginProof::new(move |left| async move { Prompt::new(over_ssh, port, left).answer().await })
}

/// A third machine gets a new connection to this host, and the one who answers has this host's key.
/// Tried before anything is touched: what fails now would fail then too.
pub(super) fn by_third(
    common: &Common,
    third: HostConnection,
    host: &HostConnection,
) -> Result<LoginProof, CliError> {
    let (third, host) = (Arc::new(third), Arc::new(host.clone()));
    let settings = runtime::settings(common, BOOTSTRAP);
    let (right, _) = runtime::engine(common, settings, None, |_| async {
        let own = host_key::fetch(&host)
            .await
            .map_err(|e| format!("{}: sshd does not answer: {e}", host.address))?;
        match host_key::fetch_from(&third, &host).await {
            Ok(seen) if seen == own => Ok(own),
            Ok(seen) => Err(format!(
                "{}: another machine answers: its host key is {}, the key of this host is {}",
                host.address, seen.fingerprint, own.fingerprint
            )),
            Err(error) => Err(error.to_string()),
        }
    })?;
    let right = right.map_err(|why| {
        let user = third.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
        let name = format!("{user}{}", third.address);
        CliError::left_alone(format!(
            "{} cannot confirm: {why}. Nothing was changed. `ssh {name}` must work here without a prompt, and \
            sshd there must allow TCP forwarding. If that machine reaches this host at another address, name \
            it: kvmfw bootstrap --local USER@HOST",
            third.address
        ))
    })?;
    Ok(LoginProof::new(move |left| reached(third.clone(), host.clone(), right.clone(), left)))
}

async fn reached(
    third: Arc<HostConnection>,
    host: Arc<HostConnection>,
    right: HostKey,
    left: Duration,
) -> Result<Confirmation, String> {
    let deadline = Instant::now() + left;
    let mut trouble = "the host did not answer in time".to_owned();
    while let Ok(answer) = tokio::time::timeout_at(deadline, host_key::fetch_from(&third, &host)).await {
        match answer {
            Ok(key) if key == right => return Ok(Confirmation::Proven),
            Ok(_) => trouble = "another machine answers".to_owned(),
            Err(error) => trouble = error.to_string(),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("no new connection from {} to {}: {trouble}", third.address, host.address))
}

/// The question at the terminal, with what counts as an answer.
struct Prompt {
    /// The operator came over SSH: an open session that says nothing about the next one.
    over_ssh: bool,
    port: u16,
    deadline: Instant,
    seconds: u64,
    before: BTreeSet<SocketAddr>,
    /// Somebody came in since the change.
    came: bool,
    warned: bool,
}

impl Prompt {
    fn new(over_ssh: bool, port: u16, left: Duration) -> Self {
        let deadline = Instant::now() + left;
        Self {
            over_ssh,
            port,
            deadline,
            seconds: left.as_secs(),
            before: connected(port),
            came: false,
            warned: false,
        }
    }

    async fn answer(mut self) -> Result<Confirmation, String> {
        let gone = || "the operator's terminal is gone".to_owned();
        let (Ok(mut hangup), Ok(mut interrupt)) =
            (signal(SignalKind::hangup()), signal(SignalKind::interrupt()))
        else {
            return Err("signals cannot be received".to_owned());
        };
        let mut lines = typed();
        self.introduce();
        let mut tick = tokio::time::interval(PAUSE);
        let mut looks = tokio::time::interval(LOOK);
        // A long table takes its time; that must not become looks without a pause.
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                line = lines.recv() => match line.as_deref().map(str::trim) {
                    None => return Err(gone()),
                    Some("") if self.enough() => {
                        // The question may have been asked once more below the line that answered it.
                        say(&format!("\r{:60}\r", ""));
                        let unproven = self.over_ssh && !self.came;
                        return Ok(if unproven { Confirmation::Unproven } else { Confirmation::Proven });
                    }
                    Some("") => {}
                    Some("n" | "N" | "no") => return Err("declined by the operator".to_owned()),
                    Some(_) => say("\nEnter keeps the change, n undoes it.\n"),
                },
                _ = hangup.recv() => return Err(gone()),
                _ = interrupt.recv() => return Err("interrupted by the operator".to_owned()),
                _ = looks.tick(), if self.over_ssh && !self.came => self.look(),
                _ = tick.tick() => {
                    let left = self.deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        say("\n");
                        return Err("not confirmed in time".to_owned());
                    }
                    self.look();
                    say(&format!("\rKeep it? Enter keeps it, n undoes it at once [{} s] ", left.as_secs() + 1));
                }
            }
        }
    }

    fn introduce(&self) {
        say(&format!(
            "\nThe change is live. If you do not keep it, the host rolls back in {} s, even if this terminal \
            is gone.\n{}\n",
            self.seconds,
            if self.over_ssh {
                "You are connected over SSH, and an open session proves nothing: open a new login in a second \
                window, stay there until it is shown here, then answer."
            } else {
                "This terminal does not depend on the network: test a login from another machine now."
            }
        ));
    }

    /// Looks whether anybody came in since.
    fn look(&mut self) {
        let now = connected(self.port);
        for new in now.difference(&self.before) {
            say(&format!("\rA new connection from {} came in.                    \n", new.ip()));
            self.came = true;
        }
        self.before = now;
    }

    /// Whether Enter is enough of an answer. What nobody has tried is kept on the second one only.
    fn enough(&mut self) -> bool {
        self.look();
        if self.over_ssh && !self.came && !self.warned {
            self.warned = true;
            say(
                "\nNo new connection has come in since the change. Open a new login to test it; Enter again \
                keeps the change unproven.\n",
            );
            return false;
        }
        true
    }
}

/// Lines from the terminal. What was typed before the question is no answer to it.
fn typed() -> UnboundedReceiver<String> {
    let _ = nix::sys::termios::tcflush(std::io::stdin(), nix::sys::termios::FlushArg::TCIFLUSH);
    let (sender, lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    lines
}

/// The terminal may be gone, and that is found elsewhere.
fn say(text: &str) {
    outlet::err(text);
}
