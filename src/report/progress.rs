//! What one sees while it runs, on stderr: bars on a terminal, plain lines elsewhere.

use super::{Style, printable};
use crate::apply::{Event, HostOutcome, Status};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// Bars.
    Bar,
    /// A line for each host at its end, and a sign of life now and then.
    Plain,
    /// Nothing.
    None,
}

/// Shows events until there are no more.
pub struct Progress {
    mode: ProgressMode,
    style: Style,
    bars: MultiProgress,
    total: Option<ProgressBar>,
    hosts: BTreeMap<String, ProgressBar>,
    done: usize,
    of: usize,
}

/// How many hosts have a line of their own at once; more would push the screen.
const LINES: usize = 8;

impl Progress {
    /// A progress display.
    pub fn new(mode: ProgressMode, style: Style) -> Self {
        Self { mode, style, bars: MultiProgress::new(), total: None, hosts: BTreeMap::new(), done: 0, of: 0 }
    }

    /// Runs until the engine has said its last word.
    pub async fn run(mut self, mut events: UnboundedReceiver<Event>) {
        let mut heartbeat = tokio::time::interval(Duration::from_secs(10));
        heartbeat.tick().await;
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.show(event),
                    None => break,
                },
                _ = heartbeat.tick() => {
                    if self.mode == ProgressMode::Plain && self.done < self.of {
                        say(&format!("… {} of {} hosts", self.done, self.of));
                    }
                }
            }
        }
        self.finish();
    }

    fn show(&mut self, event: Event) {
        match event {
            Event::Observing(hosts) => self.start("observing", hosts),
            Event::Observed(host, error) => {
                self.advance();
                if let Some(error) = error {
                    self.line(&format!("{}: {}", printable(&host), printable(&error)));
                }
            }
            Event::Applying(hosts) => self.start("applying", hosts),
            Event::Step(host, step) => self.step(&host, step),
            Event::Done(outcome) => self.done(&outcome),
            Event::Note(text) | Event::Detail(text) => self.line(&printable(&text)),
            Event::Drain(_) => self.finish(),
        }
    }

    fn start(&mut self, what: &'static str, of: usize) {
        self.finish();
        (self.done, self.of) = (0, of);
        if self.mode != ProgressMode::Bar || of == 0 {
            return;
        }
        let style = ProgressStyle::with_template("  {msg} {bar:24} {pos}/{len} hosts  {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bars.add(ProgressBar::new(of as u64).with_style(style).with_message(what));
        bar.enable_steady_tick(Duration::from_millis(200));
        self.total = Some(bar);
    }

    fn advance(&mut self) {
        self.done += 1;
        if let Some(bar) = &self.total {
            bar.inc(1);
        }
    }

    fn step(&mut self, host: &str, step: &'static str) {
        if self.mode != ProgressMode::Bar {
            return;
        }
        if !self.hosts.contains_key(host) && self.hosts.len() >= LINES {
            return;
        }
        let bar = self.hosts.entry(host.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("  {prefix:.bold}  {msg}  {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            self.bars.add(ProgressBar::new_spinner().with_style(style).with_prefix(printable(host)))
        });
        bar.set_message(step);
        bar.tick();
    }

    fn done(&mut self, outcome: &HostOutcome) {
        if let Some(bar) = self.hosts.remove(&outcome.host) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        self.advance();
        let word = match outcome.status {
            Status::Changed => self.style.added(outcome.status.words()),
            Status::Unchanged | Status::Skipped => outcome.status.words().to_owned(),
            _ => self.style.alarm(&outcome.status.words().to_uppercase()),
        };
        let mut text = format!("  {}  {word}", printable(&outcome.host));
        if let Some(message) = &outcome.message {
            text.push_str("  ");
            text.push_str(&printable(message));
        }
        self.line(&text);
    }

    fn line(&self, text: &str) {
        match self.mode {
            ProgressMode::None => {}
            ProgressMode::Plain => say(text),
            // println of a MultiProgress vanishes when there is no bar to stand above.
            ProgressMode::Bar if self.total.is_some() => {
                let _ = self.bars.println(text);
            }
            ProgressMode::Bar => say(text),
        }
    }

    fn finish(&mut self) {
        for (_, bar) in std::mem::take(&mut self.hosts) {
            bar.finish_and_clear();
        }
        if let Some(bar) = self.total.take() {
            bar.finish_and_clear();
        }
    }
}

/// The terminal may be gone, and the work goes on.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
