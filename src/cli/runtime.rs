//! The engine with its runtime, its progress display and its signals.

use super::output::Stream;
use super::{CliError, Common, Format, console, exit};
use crate::engine::{Budget, Engine, EngineEvent, EngineSettings, EventSender, Interrupt};
use crate::host;
use crate::report::{Progress, print_final};
use crate::ssh::{self, Via};
use nix::sys::signal::Signal;
use std::future::Future;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

/// Settings of an engine that only looks.
pub fn settings(common: &Common, run: &str) -> EngineSettings {
    EngineSettings {
        via: Via::Ssh,
        parallel: usize::from(common.parallel),
        batches: vec![Budget::Percent(100)],
        max_fail: Budget::Percent(100),
        max_unreachable: Budget::Percent(100),
        apply_timeout: Duration::from_secs(60),
        confirm_timeout: Duration::from_secs(60),
        soak: Duration::ZERO,
        proof: None,
        owner: owner(),
        run: run.to_owned(),
    }
}

/// Who runs this, also through sudo.
pub fn user() -> Option<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|u| u.name);
    std::env::var("SUDO_USER").ok().or(user)
}

/// Who runs this, for the host's records: `user@controller`.
fn owner() -> String {
    let user = user().unwrap_or_else(|| "?".to_owned());
    let host = nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_default();
    let clean = |text: String| text.chars().filter(|c| c.is_ascii_graphic()).take(64).collect::<String>();
    format!("{}@{}", clean(user), clean(host))
}

/// Runs a piece of the engine's work with its progress shown, and told to a stream; also tells whether
/// it was interrupted.
pub fn engine<T, F>(
    common: &Common,
    settings: EngineSettings,
    stream: Option<Stream>,
    work: impl FnOnce(Engine) -> F,
) -> Result<(T, bool), CliError>
where
    F: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::internal(format!("cannot start: {error}")))?;
    let terminal = std::io::stderr().is_terminal();
    // Nothing can be drawn on a dumb one.
    let drawable = terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let full = stream.as_ref().is_some_and(Stream::has_full_diffs);
    let mode = common.progress.mode(common.quiet, drawable);
    let progress = Progress::new(mode, console::style(common, terminal)).with_full_diffs(full);
    let interrupt = Arc::new(Interrupt::default());
    let result = runtime.block_on(async {
        tokio::spawn(hear_signals(interrupt.clone()));
        let (sender, receiver) = std::sync::mpsc::channel();
        let display = std::thread::spawn(move || progress.run(&receiver));
        // The display may be gone; the engine's work goes on.
        let (verbose, human) = (common.verbose > 0, common.format == Format::Human);
        let events = EventSender::to(move |event| match event {
            EngineEvent::Detail(_) if !verbose => {}
            event => {
                stream.iter().for_each(|stream| stream.event(&event));
                // As the plans before it, it is shown to people.
                if human || !matches!(event, EngineEvent::Planned(_)) {
                    drop(sender.send(event));
                }
            }
        });
        let result = work(Engine::new(settings, events, interrupt.clone())).await;
        // The engine is gone, so the channel is closed and the display ends by itself.
        let _ = display.join();
        result
    });
    // Connections that died hold tasks that would only wait for their timeouts.
    runtime.shutdown_timeout(Duration::from_millis(200));
    ssh::clean();
    Ok((result, interrupt.is_requested()))
}

/// Handles Ctrl-C and the end of a CI job. Before anything is changed, the run ends at once. Later, the first signal
/// lets the hosts in flight reach their decision, and the second leaves them to their guards. A terminal that hangs up
/// counts as a first signal only, because the kernel can send that signal twice.
async fn hear_signals(interrupt: Arc<Interrupt>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    // To hear it is to take away that nohup has it ignored.
    let mut hup = (!is_ignored(Signal::SIGHUP)).then(|| signal(SignalKind::hangup()).ok()).flatten();
    let mut hung_up = async || match &mut hup {
        Some(hup) => hup.recv().await,
        None => std::future::pending().await,
    };
    loop {
        tokio::select! {
            _ = int.recv() => {},
            _ = term.recv() => {},
            _ = hung_up() => if interrupt.is_requested() { continue },
        }
        let changing = interrupt.is_changing_hosts();
        if interrupt.request() {
            // Nobody waits for it: a terminal that was stopped must not hold up the hosts in flight.
            tokio::task::spawn_blocking(|| {
                console::notice(
                    "\nInterrupted: no more hosts are started; waiting for those in progress. Press Ctrl-C \
                    again to stop waiting (unconfirmed hosts roll back by themselves).",
                )
            });
            continue;
        }
        let said = tokio::task::spawn_blocking(move || {
            print_final(if changing {
                "\nStopped waiting: unconfirmed hosts roll back by themselves. Run kvmfw status."
            } else {
                "\nInterrupted: nothing was changed."
            });
        });
        let _ = tokio::time::timeout(Duration::from_secs(1), said).await;
        // Nothing is unwound here, so nothing that is dropped takes its connections and files along.
        ssh::leave().await;
        std::process::exit(i32::from(exit::INTERRUPTED));
    }
}

/// Whether a signal was ignored when this began.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal as i32 - 1)) != 0
}

/// This moment in UTC, by the second.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A name for a run: when, and something that no other run of this second has.
pub fn run_name() -> Result<String, CliError> {
    let suffix =
        host::random_hex(2).map_err(|error| CliError::internal(format!("no random numbers: {error}")))?;
    Ok(format!("{}-{suffix}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ")))
}
