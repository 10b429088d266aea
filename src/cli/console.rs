//! What the terminal gets: results on stdout, diagnostics on stderr.

use super::{Common, When};
use crate::report::{Style, outlet, print_above_progress};
use std::io::{ErrorKind, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Writes a result. A reader that went away is not an error; a full disk is, and is reported once.
pub fn print(text: &str) {
    if let Err(error) = outlet::out(text)
        && error.kind() != ErrorKind::BrokenPipe
        && !LOST.swap(true, Ordering::Relaxed)
    {
        notice(&format!("cannot write the result: {error}"));
    }
}

/// Whether a result could not be written.
pub fn result_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Writes a diagnostic to stderr, above the progress display.
pub fn notice(text: &str) {
    print_above_progress(text);
}
