//! How a result leaves: the formats, the stream of events, the JUnit file. A thread of its own writes
//! the stream, so that a reader that does not read holds up no host's decision.

use super::{CliError, CliResult, Command, Common, Format, console, exit, runs, runtime};
use crate::engine::EngineEvent;
use crate::files::{self, Readers, Replacement};
use crate::report::{
    Document, EventEntry, HostEntry, Human, Json, Jsonl, Junit, Line, Markdown, Metrics, Part, Renderer,
    last_success,
};
use clap::Args;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// How diffs are printed.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct DiffArgs {
    /// Print long diffs in full
    #[arg(long)]
    pub(super) full: bool,
}

/// What a subcommand can write: formats, and whether JUnit makes sense.
fn abilities(command: &Command) -> (&'static str, &'static [Format], bool) {
    use Format::{Human, Json, Jsonl, Markdown, Mermaid, Svg};
    match command {
        Command::Plan(_) => ("plan", &[Human, Json, Jsonl, Markdown], true),
        Command::Apply(_) => ("apply", &[Human, Json, Jsonl, Markdown], true),
        Command::Undo(_) => ("undo", &[Human, Json, Jsonl, Markdown], true),
        Command::Repair(_) => ("repair", &[Human, Json, Jsonl, Markdown], true),
        Command::Bootstrap(_) => ("bootstrap", &[Human, Json, Jsonl, Markdown], true),
        Command::Show(_) => ("show", &[Human, Json, Jsonl, Markdown], true),
        Command::Check(_) => ("check", &[Human, Json], false),
        Command::Status(_) => ("status", &[Human, Json], false),
        Command::History(_) => ("history", &[Human, Json], false),
        Command::Unlock(_) => ("unlock", &[Human], false),
        Command::Runs(_) => ("runs", &[Human, Json], false),
        Command::Module(_) => ("module", &[Human, Json], false),
        Command::Inventory(_) => ("inventory", &[Human, Json], false),
        Command::Explain(_) => ("explain", &[Human, Json, Svg, Mermaid], false),
        Command::Import(_) => ("import", &[Human], false),
        Command::Generate(_) => ("generate", &[Human], false),
    }
}

/// What was asked for and cannot be had is bad input, never ignored.
pub(super) fn supported(common: &Common, command: &Command) -> Result<(), CliError> {
    let (name, formats, junit) = abilities(command);
    if !formats.contains(&common.format) {
        let list: Vec<String> = formats.iter().map(|f| f.as_str().to_owned()).collect();
        return Err(CliError::bad_input(format!(
            "--format {}: not available for {name}; available formats: {}",
            common.format.as_str(),
            list.join(", ")
        )));
    }
    if common.junit.is_some() && !junit {
        return Err(CliError::bad_input(format!("--junit: {name} has no per-host results"))
            .hint("use it with plan, apply, undo, repair, bootstrap or show"));
    }
    if common.metrics.is_some() && (!junit || name == "show") {
        return Err(CliError::bad_input(format!("--metrics: {name} has no metrics"))
            .hint("use it with plan, apply, undo, repair or bootstrap"));
    }
    Ok(())
}

/// The file of `--metrics`, which is replaced once the result is there.
struct MetricsFile {
    path: PathBuf,
    new: Replacement,
    start: Instant,
}

impl MetricsFile {
    /// Opens it before anything else: that it cannot be written must be no surprise afterwards.
    fn begin(common: &Common) -> Result<Option<Self>, CliError> {
        let Some(path) = &common.metrics else { return Ok(None) };
        let new = Replacement::begin(path, Readers::Everybody).map_err(|error| {
            CliError::bad_input(format!("--metrics {}: cannot be written: {error}", path.display()))
        })?;
        Ok(Some(Self { path: path.clone(), new, start: Instant::now() }))
    }

    fn end(self, command: &'static str, document: &Document) {
        let before = std::fs::read_to_string(&self.path).unwrap_or_default();
        let metrics = Metrics {
            command,
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
            duration: self.start.elapsed().as_secs_f64(),
            last_success: last_success(&before),
        };
        if let Err(error) = self.new.end(&metrics.render(document)) {
            console::notice(&format!("--metrics {}: {error}", self.path.display()));
        }
    }
}

/// Output of a plan or a run.
pub(super) struct Output<'a> {
    common: &'a Common,
    command: &'static str,
    diffs: DiffArgs,
    junit: Option<(PathBuf, File)>,
    metrics: Option<MetricsFile>,
    lines: Sender<Message>,
    writer: JoinHandle<()>,
}

enum Message {
    Line(Box<Line>),
    KeepIn(PathBuf),
    Rest(Vec<HostEntry>),
}

/// A way into the stream that outlives no run.
#[derive(Clone)]
pub(super) struct Stream {
    lines: Sender<Message>,
    diffs: DiffArgs,
}

impl Stream {
    /// Whether long diffs are printed in full.
    pub(super) fn has_full_diffs(&self) -> bool {
        self.diffs.full
    }

    fn tell(&self, event: EventEntry) {
        // The writer only ends when all ways into the stream are gone.
        drop(self.lines.send(Message::Line(Box::new(Line { time: runtime::now(), event }))));
    }

    /// Adds the lines of an event.
    pub(super) fn event(&self, event: &EngineEvent) {
        EventEntry::of(event).into_iter().for_each(|event| self.tell(event));
    }

    /// What a plan says of each host.
    pub(super) fn planned(&self, document: &Document) {
        document.hosts.iter().for_each(|host| self.tell(EventEntry::planned(host)));
    }

    /// Adds the outcomes of hosts that have none in the stream: they needed no transaction, or were not started.
    pub(super) fn rest(&self, document: &Document) {
        drop(self.lines.send(Message::Rest(document.hosts.clone())));
    }

    /// From here on hosts are changed: the events so far and all that follow are recorded in a folder.
    pub(super) fn keep_in(&self, folder: &Path) {
        drop(self.lines.send(Message::KeepIn(folder.to_owned())));
    }
}

impl<'a> Output<'a> {
    /// Begins to tell of a command.
    ///
    /// Errors: the file of JUnit or of the metrics cannot be written.
    pub(super) fn begin(
        common: &'a Common,
        (command, diffs): (&'static str, DiffArgs),
        run: Option<&str>,
    ) -> Result<Self, CliError> {
        let junit = junit(common)?;
        let metrics = MetricsFile::begin(common)?;
        let (lines, receiver) = channel();
        let shown = common.format == Format::Jsonl;
        let writer = std::thread::spawn(move || write(&receiver, shown));
        let output = Self { common, command, diffs, junit, metrics, lines, writer };
        output.stream().tell(EventEntry::start(command, run));
        Ok(output)
    }

    /// A way into the stream.
    pub(super) fn stream(&self) -> Stream {
        Stream { lines: self.lines.clone(), diffs: self.diffs }
    }

    /// Tells the result, and gives the exit code on.
    pub(super) fn end(self, document: &Document, part: Part, code: u8) -> u8 {
        let Self { common, command, diffs, junit, metrics, lines, writer } = self;
        finish(lines, writer, document.summary.clone(), code);
        match common.format {
            Format::Jsonl => {}
            // The result of a bootstrap is the inventory to keep: `kvmfw bootstrap … >prod.yaml`.
            Format::Human if command == "bootstrap" && code == exit::DONE => {
                console::notice(render(common, document, (part, diffs), code).trim_end());
            }
            _ => console::print(&render(common, document, (part, diffs), code)),
        }
        if let Some((path, file)) = junit {
            write_junit(command, document, &path, file);
        }
        if let Some(metrics) = metrics {
            metrics.end(command, document);
        }
        code
    }

    /// Ends without a result: it was declined, for example.
    pub(super) fn leave(self, error: CliError) -> CliError {
        finish(self.lines, self.writer, serde_json::Map::new(), error.exit_code());
        if let Some(metrics) = self.metrics {
            metrics.new.abandon();
        }
        error
    }
}

/// The last line. The writer then has nothing left to do but to write; a reader that is gone ends it too.
fn finish(
    lines: Sender<Message>,
    writer: JoinHandle<()>,
    summary: serde_json::Map<String, serde_json::Value>,
    exit: u8,
) {
    let stream = Stream { lines, diffs: DiffArgs { full: false } };
    stream.tell(EventEntry::Summary { summary, exit });
    drop(stream);
    let _ = writer.join();
}

/// Opens the JUnit file, before anything else: that it cannot be written must be no surprise afterwards.
fn junit(common: &Common) -> Result<Option<(PathBuf, File)>, CliError> {
    let Some(path) = &common.junit else { return Ok(None) };
    let file = files::create(path, Readers::Everybody).map_err(|error| {
        CliError::bad_input(format!("--junit {}: cannot be written: {error}", path.display()))
    })?;
    Ok(Some((path.clone(), file)))
}

/// Shows a finished result, after the recorded plan where there is one.
pub(super) fn show(
    common: &Common,
    (command, diffs): (&'static str, DiffArgs),
    plan: Option<&Document>,
    document: &Document,
    code: u8,
) -> CliResult {
    let junit = junit(common)?;
    let part = match plan {
        Some(plan) => {
            console::print(&(render(common, plan, (Part::Plan, diffs), code) + "\n"));
            Part::Recap
        }
        None => Part::All,
    };
    console::print(&render(common, document, (part, diffs), code));
    if let Some((path, file)) = junit {
        write_junit(command, document, &path, file);
    }
    Ok(code)
}

/// The document in the format that was asked for.
fn render(common: &Common, document: &Document, (part, diffs): (Part, DiffArgs), code: u8) -> String {
    let full = diffs.full;
    let style = || console::style(common, std::io::stdout().is_terminal());
    let renderer: Box<dyn Renderer> = match common.format {
        Format::Human | Format::Svg | Format::Mermaid => Box::new(Human { style: style(), part, full }),
        Format::Json => Box::new(Json),
        Format::Jsonl => Box::new(Jsonl { time: runtime::now(), exit: code }),
        Format::Markdown => Box::new(Markdown { limit: common.markdown_limit, full }),
    };
    renderer.render(document)
}

fn write_junit(command: &'static str, document: &Document, path: &Path, mut file: File) {
    let text = Junit { command }.render(document);
    if let Err(error) = file.write_all(text.as_bytes()) {
        console::notice(&format!("--junit {}: {error}", path.display()));
    }
}

/// Writes lines until nobody can send any more.
fn write(messages: &Receiver<Message>, shown: bool) {
    let mut done = BTreeSet::new();
    let mut log = EventLog::Text(String::new());
    let put = |line: &Line, log: &mut EventLog| {
        let text = line.text();
        if shown {
            console::print(&text);
        }
        log.put(&text);
    };
    for message in messages {
        match message {
            Message::KeepIn(folder) => log.keep_in(&folder),
            Message::Line(line) => {
                if let EventEntry::Done { outcome } = &line.event {
                    done.insert(outcome.host.clone());
                }
                put(&line, &mut log);
            }
            Message::Rest(hosts) => {
                for host in hosts.iter().filter(|h| !done.contains(&h.name)) {
                    put(&Line { time: runtime::now(), event: EventEntry::done(host) }, &mut log);
                }
            }
        }
    }
}

/// The events of a run: in memory until it is one.
enum EventLog {
    Text(String),
    File(File),
    /// It failed once: the run goes on, its result says what came of it.
    Nowhere,
}

impl EventLog {
    fn keep_in(&mut self, folder: &Path) {
        if let Self::Text(before) = self {
            let before = std::mem::take(before);
            *self = runs::append(&folder.join(runs::EVENTS)).map_or(Self::Nowhere, Self::File);
            self.put(&before);
        }
    }

    fn put(&mut self, text: &str) {
        match self {
            Self::Text(before) => before.push_str(text),
            Self::File(file) => {
                if let Err(error) = file.write_all(text.as_bytes()) {
                    console::notice(&format!("cannot record the events of the run: {error}"));
                    *self = Self::Nowhere;
                }
            }
            Self::Nowhere => {}
        }
    }
}
