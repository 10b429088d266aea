//! What one sees while it runs, on stderr: a bar and who is in flight on a terminal, plain lines
//! elsewhere.

use super::{Board, Style, printable};
use crate::apply::{Event, HostOutcome, Status};
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use std::io::Write as _;
use std::time::{Duration, Instant};
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
    board: Board,
    /// One bar whose message is the whole board, so that the screen never shows half of a change.
    bar: Option<ProgressBar>,
}

/// How long it will take, once there is something to tell it from.
fn time_left(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    if state.pos() > 0 {
        let _ = write!(out, "  eta {:#}", HumanDuration(state.eta()));
    }
}

/// Between two looks at the clocks on the screen.
const TICK: Duration = Duration::from_millis(250);
/// Between two signs of life where there is no terminal.
const HEARTBEAT: Duration = Duration::from_secs(10);

impl Progress {
    /// A progress display.
    pub fn new(mode: ProgressMode, style: Style) -> Self {
        Self { mode, style, board: Board::default(), bar: None }
    }

    /// Runs until the engine has said its last word.
    pub async fn run(mut self, mut events: UnboundedReceiver<Event>) {
        let mut clock = tokio::time::interval(if self.mode == ProgressMode::Bar { TICK } else { HEARTBEAT });
        clock.tick().await;
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.show(event),
                    None => break,
                },
                _ = clock.tick() => match self.mode {
                    ProgressMode::Bar => self.draw(),
                    ProgressMode::Plain if self.board.done < self.board.of => say(&self.board.heartbeat()),
                    _ => {}
                }
            }
        }
        self.finish();
    }

    fn show(&mut self, event: Event) {
        self.board.hear(&event, Instant::now());
        match event {
            Event::Observing(_) | Event::Applying { .. } => self.start(),
            Event::Observed(host, Some(error)) => {
                self.line(&self.style.prose(&format!("{}: {}", printable(&host), printable(&error))));
            }
            Event::Done(outcome) => {
                // First off the board, then above it.
                self.draw();
                self.done(&outcome);
            }
            Event::Note(text) | Event::Detail(text) => self.line(&self.style.prose(&printable(&text))),
            Event::Drain(_) => self.finish(),
            Event::Observed(_, None) | Event::Batch { .. } | Event::Step(..) => {}
        }
    }

    fn start(&mut self) {
        self.finish();
        if self.mode != ProgressMode::Bar || self.board.of == 0 {
            return;
        }
        let style = ProgressStyle::with_template("  {prefix} {bar:16} {pos}/{len} hosts{left}{msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key("left", time_left);
        let bar = ProgressBar::new(self.board.of as u64).with_style(style).with_prefix(self.board.what);
        self.bar = Some(bar);
        self.draw();
    }

    /// Brings the screen up to the board.
    fn draw(&self) {
        let Some(bar) = &self.bar else { return };
        let (rows, columns) = (self.style.height.unwrap_or(24), self.style.width.unwrap_or(80));
        // The bar itself, a line above it, and the row on which the cursor stands.
        let mut text = self.board.summary();
        for line in self.board.lines(rows.saturating_sub(3), columns.saturating_sub(1), Instant::now()) {
            text.push('\n');
            text.push_str(&line);
        }
        bar.set_position(self.board.done as u64);
        bar.set_message(text);
    }

    fn done(&self, outcome: &HostOutcome) {
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
        self.line(&self.style.prose(&text));
    }

    fn line(&self, text: &str) {
        match self.mode {
            ProgressMode::None => {}
            ProgressMode::Plain => say(text),
            ProgressMode::Bar => match &self.bar {
                Some(bar) => bar.println(text),
                None => say(text),
            },
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// The terminal may be gone, and the work goes on.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
