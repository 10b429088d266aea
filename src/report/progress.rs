//! What one sees while it runs, on stderr: a bar and who is in flight on a terminal, plain lines
//! elsewhere.

use super::human::{Human, Part};
use super::outlet;
use super::screen::Screen;
use super::{Board, Document, HostEntry, Style, fold_names, printable};
use crate::engine::{EngineEvent, HostOutcome, HostStatus};
use crate::plan::HostPlan;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// Bars.
    Bar,
    /// A line for each host at its end, and a sign of life now and then.
    Plain,
    /// No progress.
    None,
}

/// Shows events until there are no more.
pub struct Progress {
    full: bool,
    mode: ProgressMode,
    style: Style,
    board: Board,
    terminal: &'static dyn Terminal,
    /// One bar with the whole board behind it, so that the screen never shows half of a change.
    bar: Option<ProgressBar>,
}

/// Between two looks at the clocks on the screen.
const TICK: Duration = Duration::from_millis(250);
/// Between two signs of life where there is no terminal.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// No more drawings in a second than this, but for lines that are to stay.
const DRAWINGS: u8 = 20;

/// Where a board is drawn.
trait Terminal: Sync {
    /// Columns and rows as they are now, if they can be told.
    fn size(&self) -> Option<(usize, usize)>;
    /// Shows a text that is safe already.
    fn write(&self, text: &str);
}

struct Stderr;

impl Terminal for Stderr {
    fn size(&self) -> Option<(usize, usize)> {
        let (columns, rows) = terminal_size::terminal_size_of(std::io::stderr())?;
        Some((columns.0.into(), rows.0.into()))
    }

    fn write(&self, text: &str) {
        outlet::drawn(text);
    }
}

/// The board that is on stderr now.
static ON_STDERR: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn on_stderr() -> MutexGuard<'static, Option<ProgressBar>> {
    ON_STDERR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a line to stderr that stays: above the board, if there is one.
pub fn print_above_progress(text: &str) {
    match on_stderr().as_ref() {
        Some(bar) => {
            let width = Stderr.size().map(|(columns, _)| columns);
            // What would lead off the line of an echoed ^C is not needed: the board's next drawing takes that away.
            bar.println(Style { width, ..Style::default() }.prose(text.trim_start_matches('\n')));
        }
        None => say(text),
    }
}

/// The same where nothing more is to come: the board goes away.
pub fn print_final(text: &str) {
    if let Some(bar) = on_stderr().take() {
        bar.finish_and_clear();
    }
    say(text);
}

fn say(text: &str) {
    outlet::err(&format!("{text}\n"));
}

impl Progress {
    /// A progress display.
    pub fn new(mode: ProgressMode, style: Style) -> Self {
        Self::on(&Stderr, mode, style)
    }

    /// Prints the long diffs of stragglers in full.
    pub fn with_full_diffs(self, full: bool) -> Self {
        Self { full, ..self }
    }

    fn on(terminal: &'static dyn Terminal, mode: ProgressMode, style: Style) -> Self {
        Self { mode, style, full: false, board: Board::default(), terminal, bar: None }
    }

    /// Runs until the engine has said its last word. This belongs on a thread of its own: a terminal that was stopped, or
    /// a pager that does not read, holds up what writes to it.
    pub fn run(mut self, events: &Receiver<EngineEvent>) {
        let period = if self.mode == ProgressMode::Bar { TICK } else { HEARTBEAT };
        let mut tick = Instant::now() + period;
        loop {
            match events.recv_timeout(tick.saturating_duration_since(Instant::now())) {
                Ok(event) => self.show(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if tick > Instant::now() {
                continue;
            }
            tick = Instant::now() + period;
            match self.mode {
                ProgressMode::Bar => self.draw(),
                ProgressMode::Plain if self.board.done < self.board.of => say(&self.board.heartbeat()),
                _ => {}
            }
        }
        self.finish();
    }

    fn show(&mut self, event: EngineEvent) {
        self.board.hear(&event, Instant::now());
        match event {
            EngineEvent::Observing(_) | EngineEvent::Applying { .. } => self.start(),
            EngineEvent::Observed(host, Some(error)) => {
                self.line(&format!("{}: {}", printable(&host), printable(&error)));
            }
            EngineEvent::Planned(plans) => self.planned(&plans),
            EngineEvent::Done(outcome) => self.done(&outcome),
            EngineEvent::Note(text) | EngineEvent::Detail(text) => self.line(&printable(&text)),
            EngineEvent::Drain(_) => self.finish(),
            EngineEvent::Observed(_, None) | EngineEvent::Batch { .. } | EngineEvent::Step(..) => {}
        }
    }

    fn start(&mut self) {
        self.finish();
        if self.mode != ProgressMode::Bar || self.board.of == 0 {
            return;
        }
        let canvas = Canvas { terminal: self.terminal, style: self.style, screen: Mutex::default() };
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(canvas), DRAWINGS);
        let bar = ProgressBar::with_draw_target(Some(self.board.of as u64), target);
        let bar = bar.with_prefix(self.board.what);
        *on_stderr() = Some(bar.clone());
        self.bar = Some(bar);
        self.draw();
    }

    /// Brings the screen up to the board, at the size that it has now.
    fn draw(&mut self) {
        let Some(bar) = &self.bar else { return };
        let (columns, rows) = size(self.terminal, self.style);
        // A line that fills its row would make the terminal wrap.
        let columns = columns.saturating_sub(1);
        let (wide, mut text) = self.board.head(columns, Some(bar.eta()));
        // The bar itself, a line above it, and the row on which the cursor stands.
        for line in self.board.lines(rows.saturating_sub(3), columns, Instant::now()) {
            text.push('\n');
            text.push_str(&line);
        }
        let style = ProgressStyle::with_template(&format!("  {{prefix}} {{bar:{wide}}}{{board}}"))
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key("board", move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = out.write_str(&text);
            });
        // The style says nothing by itself: bar and text change in one drawing.
        bar.set_style(style);
        bar.update(|state| state.set_pos(self.board.done as u64));
    }

    /// What is done with a host stands above that it was done, as it does for all others.
    fn planned(&mut self, plans: &[HostPlan]) {
        let document = Document::new(None, plans.iter().map(HostEntry::of_plan).collect());
        let (columns, _) = size(self.terminal, self.style);
        let style = match self.bar {
            Some(_) => Style { width: Some(columns), ..self.style },
            None => self.style,
        };
        let changes = Human { style, part: Part::All, full: self.full }.changes_text(&document);
        if changes.is_empty() {
            return;
        }
        let names: Vec<&str> = plans.iter().map(|plan| plan.host.as_str()).collect();
        let (names, have) = (fold_names(&names), if names.len() == 1 { "has" } else { "have" });
        let said = style.prose(&format!("{} {have} answered.", printable(&names)));
        let text = format!("{said}\n{changes}");
        match &self.bar {
            Some(bar) => bar.println(text.trim_end()),
            None => say(text.trim_end()),
        }
    }

    fn done(&mut self, outcome: &HostOutcome) {
        let word = match outcome.status {
            HostStatus::Changed => self.style.added(outcome.status.words()),
            HostStatus::Unchanged | HostStatus::Skipped => outcome.status.words().to_owned(),
            _ => self.style.alarm(&outcome.status.words().to_uppercase()),
        };
        let mut text = format!("  {}  {word}", printable(&outcome.host));
        if let Some(message) = &outcome.message {
            text.push_str("  ");
            text.push_str(&printable(message));
        }
        self.line(&text);
    }

    /// A line that stays.
    fn line(&mut self, text: &str) {
        // First off the board, then above it.
        self.draw();
        match (self.mode, &self.bar) {
            (ProgressMode::None, _) => {}
            (ProgressMode::Bar, Some(bar)) => {
                let (columns, _) = size(self.terminal, self.style);
                bar.println(Style { width: Some(columns), ..self.style }.prose(text));
            }
            _ => say(&self.style.prose(text)),
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            let mut shown = on_stderr();
            bar.finish_and_clear();
            *shown = None;
        }
    }
}

/// Columns and rows: as they are, as they were, or as they are anywhere.
fn size(terminal: &dyn Terminal, style: Style) -> (usize, usize) {
    terminal.size().unwrap_or((style.width.unwrap_or(80), style.height.unwrap_or(24)))
}

/// What the bar is drawn on.
struct Canvas {
    terminal: &'static dyn Terminal,
    style: Style,
    screen: Mutex<Screen>,
}

impl Canvas {
    fn then(&self, what: impl FnOnce(&mut Screen)) -> std::io::Result<()> {
        what(&mut self.screen.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

impl std::fmt::Debug for Canvas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canvas").field("screen", &self.screen).finish_non_exhaustive()
    }
}

impl TermLike for Canvas {
    fn width(&self) -> u16 {
        size(self.terminal, self.style).0.try_into().unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        size(self.terminal, self.style).1.try_into().unwrap_or(u16::MAX)
    }

    fn move_cursor_up(&self, n: usize) -> std::io::Result<()> {
        self.then(|screen| screen.go(n, 'A'))
    }

    fn move_cursor_down(&self, n: usize) -> std::io::Result<()> {
        self.then(|screen| screen.go(n, 'B'))
    }

    fn move_cursor_right(&self, n: usize) -> std::io::Result<()> {
        self.then(|screen| screen.go(n, 'C'))
    }

    fn move_cursor_left(&self, n: usize) -> std::io::Result<()> {
        self.then(|screen| screen.go(n, 'D'))
    }

    fn write_line(&self, text: &str) -> std::io::Result<()> {
        self.then(|screen| {
            screen.put(text);
            screen.end();
        })
    }

    fn write_str(&self, text: &str) -> std::io::Result<()> {
        self.then(|screen| screen.put(text))
    }

    fn clear_line(&self) -> std::io::Result<()> {
        self.then(Screen::clear_line)
    }

    fn flush(&self) -> std::io::Result<()> {
        let text = self.screen.lock().unwrap_or_else(PoisonError::into_inner).take();
        if !text.is_empty() {
            self.terminal.write(&text);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
