//! What subcommands share: reading the input, the engine with its progress, writing results.

use super::output::Stream;
use super::{Code, Common, Format, When, exit, program};
use crate::desired::{self, Desired};
use crate::engine::{Budget, Engine, Event, Events, Interrupt, Settings};
use crate::inventory::{self, HostConnection, Project, ProjectLocation};
use crate::problem::{Problem, Problems};
use crate::report::{
    Markdown, Progress, Style, aside, last_word, outlet, problems_json, problems_jsonl, problems_text,
};
use crate::transport::{self, Via};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{ErrorKind, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Colour and width for a stream.
pub fn style(common: &Common, terminal: bool) -> Style {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let color = match common.color {
        When::Always => true,
        When::Never => false,
        When::Auto if set("NO_COLOR") => false,
        When::Auto if std::env::var_os("CLICOLOR_FORCE").is_some_and(|v| !v.is_empty() && v != "0") => true,
        When::Auto => terminal && std::env::var_os("TERM").is_none_or(|t| t != "dumb"),
    };
    let size = terminal.then(terminal_size::terminal_size).flatten();
    let columns = || std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    Style {
        color,
        width: terminal.then(columns).flatten().or(size.map(|(columns, _)| usize::from(columns.0))),
        height: size.map(|(_, rows)| usize::from(rows.0)),
    }
}

/// Whether help on stdout is coloured: flags are not read yet.
pub fn colors_stdout() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}

/// A result could not be written.
static LOST: AtomicBool = AtomicBool::new(false);

/// Writes a result. A reader that went away is not an error; a full disk is, and is told once.
pub fn print(text: &str) {
    if let Err(error) = outlet::out(text)
        && error.kind() != ErrorKind::BrokenPipe
        && !LOST.swap(true, Ordering::Relaxed)
    {
        complain(&format!("cannot write the result: {error}"));
    }
}

/// Whether a result could not be written.
pub fn result_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Writes a diagnostic.
pub fn complain(text: &str) {
    aside(text);
}

/// Shows problems and gives the code for bad input.
pub fn report(common: &Common, problems: &[Problem], sources: &BTreeMap<Arc<str>, Arc<str>>) -> u8 {
    let text = |color| problems_text(problems, sources, color);
    match common.format {
        Format::Json => print(&problems_json(problems)),
        Format::Jsonl => print(&problems_jsonl(problems, &now(), exit::BAD_INPUT)),
        Format::Markdown => {
            print(&Markdown { limit: common.markdown_limit }.problems(problems, sources));
            outlet::err(&text(false));
        }
        Format::Human | Format::Svg | Format::Mermaid => {
            let color = style(common, std::io::stderr().is_terminal()).color;
            outlet::err(&text(color));
        }
    }
    exit::BAD_INPUT
}

/// Where a project and its inventory are looked for.
pub fn locate(dir: Option<PathBuf>, inventory: Option<String>) -> ProjectLocation {
    ProjectLocation { dir, inventory, home: std::env::var_os("HOME").map(PathBuf::from) }
}

/// The project in a folder, with the inventory that the flags name: a file, a folder, or what a program prints.
///
/// Only `--inventory-program` runs anything. Whether a file of the project may be executed is up to whoever wrote it, and
/// that can be the author of a merge request.
pub fn open(common: &Common, dir: Option<PathBuf>, inventory: Option<String>) -> Result<Project, u8> {
    let bad = |p: Problems| report(common, &p.list, &p.sources);
    let Some(path) = &common.inventory_program else {
        return inventory::load(&locate(dir, inventory)).map_err(bad);
    };
    let text = program::run(path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    inventory::load_text(&locate(dir, None), &name, &text).map_err(bad)
}

/// The project that the flags name.
pub fn project(common: &Common) -> Result<Project, u8> {
    if common.inventory_program.is_some() && common.inventory.is_some() {
        complain(
            "--inventory-program and --inventory (or KVMFW_INVENTORY) both name an inventory; give one of them",
        );
        return Err(exit::BAD_INPUT);
    }
    let project = open(common, common.dir.clone(), common.inventory.clone())?;
    if !common.quiet {
        project.notices.iter().for_each(|n| complain(n));
    }
    Ok(project)
}

/// The names of the hosts that are selected, in the order of the inventory.
pub fn selected(common: &Common, project: &Project) -> Result<Vec<String>, u8> {
    let limit = common.limit.as_deref().unwrap_or("*");
    let mut names = inventory::select(project, limit).map_err(|p| report(common, &[p], &project.sources))?;
    let shard = super::shard::chosen(common).map_err(|error| {
        complain(&error);
        exit::BAD_INPUT
    })?;
    if let Some(shard) = shard.filter(|s| s.count > 1) {
        let all = names.len();
        names.retain(|name| shard.has(name));
        if !common.quiet {
            complain(&format!(
                "shard {shard}: {} of {all} hosts; batches and budgets count within the shard",
                names.len()
            ));
        }
    }
    Ok(names)
}

/// The desired state of every selected host. The whole inventory is checked first: an error in
/// another host's part is found now, not when its turn comes.
pub fn desired(common: &Common) -> Result<(Project, Vec<Desired>), u8> {
    let project = project(common)?;
    let names = selected(common, &project)?;
    let all: Vec<String> = project.hosts.iter().map(|h| h.name.clone()).collect();
    let mut desired = desired::compile(&project, &all).map_err(|p| report(common, &p, &project.sources))?;
    let names: std::collections::BTreeSet<&String> = names.iter().collect();
    desired.retain(|d| names.contains(&d.host));
    Ok((project, desired))
}

/// How to reach the hosts that an argument names.
pub fn named(common: &Common, hosts: &str) -> Result<Vec<(HostConnection, String)>, u8> {
    let project = project(common)?;
    let names = inventory::select(&project, hosts).map_err(|p| report(common, &[p], &project.sources))?;
    let desired = desired::compile(&project, &names).map_err(|p| report(common, &p, &project.sources))?;
    Ok(desired.into_iter().map(|d| (d.connection, d.host)).collect())
}

/// Settings of an engine that only looks.
pub fn settings(common: &Common, run: &str) -> Settings {
    Settings {
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
    settings: Settings,
    stream: Option<Stream>,
    work: impl FnOnce(Engine) -> F,
) -> Result<(T, bool), u8>
where
    F: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        complain(&format!("cannot start: {error}"));
        exit::INTERNAL
    })?;
    let terminal = std::io::stderr().is_terminal();
    // Nothing can be drawn on a dumb one.
    let drawable = terminal && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let progress = Progress::new(common.progress.mode(common.quiet, drawable), style(common, terminal));
    let interrupt = Arc::new(Interrupt::default());
    let result = runtime.block_on(async {
        tokio::spawn(hear_signals(interrupt.clone()));
        let (sender, receiver) = std::sync::mpsc::channel();
        let display = std::thread::spawn(move || progress.run(&receiver));
        // The display may be gone; the engine's work goes on.
        let (verbose, human) = (common.verbose > 0, common.format == Format::Human);
        let events = Events::to(move |event| match event {
            Event::Detail(_) if !verbose => {}
            event => {
                stream.iter().for_each(|stream| stream.event(&event));
                // As the plans before it, it is shown to people.
                if human || !matches!(event, Event::Planned(_)) {
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
    transport::clean();
    Ok((result, interrupt.is_requested()))
}

/// Ctrl-C, or the end of a CI job: before anything is changed it ends at once, later it lets the
/// hosts in flight come to their decision; the second time it leaves them to their guards. A terminal that hangs up is
/// a first time only: whoever was at it cannot have meant more, and it may be told twice.
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
                complain(
                    "\nInterrupted: no more hosts are started; waiting for those in progress. Press Ctrl-C \
                    again to stop waiting (unconfirmed hosts roll back by themselves).",
                )
            });
            continue;
        }
        let said = tokio::task::spawn_blocking(move || {
            last_word(if changing {
                "\nStopped waiting: unconfirmed hosts roll back by themselves. Run kvmfw status."
            } else {
                "\nInterrupted: nothing was changed."
            });
        });
        let _ = tokio::time::timeout(Duration::from_secs(1), said).await;
        // Nothing is unwound here, so nothing that is dropped takes its connections and files along.
        transport::leave().await;
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
pub fn run_name() -> Result<String, u8> {
    let suffix = crate::remote::random_hex(2).map_err(|error| {
        complain(&format!("no random numbers: {error}"));
        exit::INTERNAL
    })?;
    Ok(format!("{}-{suffix}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ")))
}

/// Whether there is a terminal with somebody who could answer.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Prompts before hosts are changed; `action` is a verb, for where there is no terminal.
pub fn ask(common: &Common, action: &str, question: &str) -> Code {
    if common.yes {
        return Ok(exit::DONE);
    }
    if !can_ask() {
        complain(&format!(
            "There is no terminal for the confirmation; nothing was changed. Pass --yes to {action} without it."
        ));
        return Err(exit::LEFT_ALONE);
    }
    outlet::err(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(exit::DONE);
    }
    complain("Declined: nothing was changed.");
    Err(exit::LEFT_ALONE)
}
