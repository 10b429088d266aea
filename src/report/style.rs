//! Colour, and text from hosts made harmless.

use super::outlet::stamped;
use crate::characters::is_harmless;
use owo_colors::OwoColorize;
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

/// Whether to colour; signs carry the meaning, colour only helps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Colour.
    pub color: bool,
    /// Columns of the terminal, if it is one.
    pub width: Option<usize>,
    /// Rows of the terminal, if it is one.
    pub height: Option<usize>,
}

impl Style {
    /// What is added.
    pub fn added(self, text: &str) -> String {
        self.paint(text, |t| t.green().to_string())
    }

    /// What is removed.
    pub fn removed(self, text: &str) -> String {
        self.paint(text, |t| t.red().to_string())
    }

    /// What changes or warns.
    pub fn warn(self, text: &str) -> String {
        self.paint(text, |t| t.yellow().to_string())
    }

    /// What alarms.
    pub fn alarm(self, text: &str) -> String {
        self.paint(text, |t| t.red().bold().to_string())
    }

    /// Names and headings.
    pub fn strong(self, text: &str) -> String {
        self.paint(text, |t| t.bold().to_string())
    }

    /// What only explains.
    pub fn faint(self, text: &str) -> String {
        self.paint(text, |t| t.dimmed().to_string())
    }

    /// Puts a style around a text, and only that is marked as ours.
    fn paint(self, text: &str, style: fn(&str) -> String) -> String {
        if !self.color {
            return text.to_owned();
        }
        let painted = stamped(&style("\n"));
        painted.split_once('\n').map_or_else(|| text.to_owned(), |(begin, end)| format!("{begin}{text}{end}"))
    }

    /// A line of sentences, broken between words where the terminal is narrower, what follows further
    /// in than its begin by four. Rules and commands do not go through here: broken, they could not be copied.
    pub fn prose(self, line: &str) -> String {
        let Some(width) = self.width.filter(|width| *width >= NARROWEST) else { return line.to_owned() };
        let indent = line.chars().take_while(|c| *c == ' ').count();
        let further = " ".repeat(indent + 4);
        let options = Options::new(width)
            .subsequent_indent(&further)
            .break_words(false)
            .word_separator(WordSeparator::AsciiSpace)
            .word_splitter(WordSplitter::NoHyphenation)
            .wrap_algorithm(WrapAlgorithm::FirstFit);
        textwrap::fill(line, options)
    }
}

/// Below this there is no point in breaking between words.
const NARROWEST: usize = 40;

/// Text with everything escaped that a terminal would obey: a host must not write on the
/// operator's screen what it likes.
pub fn printable(text: &str) -> String {
    let harmless = |c: char| c == '\n' || is_harmless(c);
    if text.chars().all(harmless) {
        return text.to_owned();
    }
    text.chars().map(|c| if harmless(c) { c.to_string() } else { c.escape_default().to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_shown_not_obeyed() {
        assert_eq!(printable("a\u{1b}[2Jb\rc\u{202e}d"), "a\\u{1b}[2Jb\\rc\\u{202e}d");
        assert_eq!(printable("plain\ntext – ok"), "plain\ntext – ok");
    }

    #[test]
    fn sentences_break_between_words() {
        let narrow = Style { width: Some(44), ..Style::default() };
        let line = "  → nothing was touched; see https://example.net/a/very-long/address/of/a/page for more";
        assert_eq!(
            narrow.prose(line),
            "  → nothing was touched; see\n      https://example.net/a/very-long/address/of/a/page\n      for more"
        );
        assert_eq!(Style::default().prose(line), line, "what is read by a program stays a line");
        let colour = Style { color: true, ..narrow };
        let text = colour.alarm(&"word ".repeat(7));
        assert_eq!(colour.prose(&text), text, "colours take no room");
    }
}
