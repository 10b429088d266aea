//! The one place where text leaves the program. Whatever a terminal would obey is escaped here, wherever the text came from:
//! hosts, files, ssh, arguments. Only styling of our own gets through: it bears a random number that nobody else can know.

use crate::characters::is_harmless;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is written to stdout is JSON: an escape has to be one of JSON's.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// From here on stdout gets JSON only.
pub fn stdout_is_json() {
    IS_JSON.store(true, Ordering::Relaxed);
}

/// Writes to stdout.
///
/// Errors: it cannot be written.
pub fn out(text: &str) -> std::io::Result<()> {
    let escape = if IS_JSON.load(Ordering::Relaxed) { json_escape } else { text_escape };
    let mut out = std::io::stdout();
    out.write_all(escaped(text, escape).as_bytes())?;
    out.flush()
}

/// Writes to stderr. The terminal may be gone, and the work goes on.
pub fn err(text: &str) {
    drawn(&safe(text));
}

/// Writes what was made safe piece by piece to stderr, with what moves the cursor between the pieces.
pub(super) fn drawn(text: &str) {
    let mut err = std::io::stderr();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Text as a terminal may have it: styling of our own as it is, everything else that it would obey escaped.
pub(super) fn safe(text: &str) -> Cow<'_, str> {
    escaped(text, text_escape)
}

fn escaped(text: &str, escape: fn(char, &mut String)) -> Cow<'_, str> {
    let plain = |byte: u8| matches!(byte, b' '..=b'~' | b'\n' | b'\t');
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some((codes, after)) = own_style(rest) {
            let _ = write!(safe, "\x1b[{codes}m");
            rest = after;
            continue;
        }
        match is_harmless(c) || matches!(c, '\n' | '\t') {
            true => safe.push(c),
            false => escape(c, &mut safe),
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    Cow::Owned(safe)
}

fn text_escape(c: char, to: &mut String) {
    to.extend(c.escape_default());
}

/// In JSON such a character only stands within a string.
fn json_escape(c: char, to: &mut String) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = write!(to, "\\u{unit:04x}");
    }
}

/// A number that stands in each style of ours, so that nobody else's is taken for one.
fn stamp_number() -> &'static str {
    static NUMBER: OnceLock<String> = OnceLock::new();
    NUMBER.get_or_init(|| RandomState::new().build_hasher().finish().to_string())
}

/// Marks the styling in a text as ours. Nothing of anybody else may be in it that is not [printable](super::printable).
pub fn stamped(text: &str) -> String {
    let mut marked = String::with_capacity(text.len());
    let mut parts = text.split("\x1b[");
    marked.extend(parts.next());
    for part in parts {
        match part.split_once('m').filter(|(codes, _)| is_codes(codes)) {
            Some((codes, rest)) => {
                let _ = write!(marked, "\x1b[{codes};{}m{rest}", stamp_number());
            }
            None => {
                let _ = write!(marked, "\x1b[{part}");
            }
        }
    }
    marked
}

/// The codes of a style of ours that begins a text, and what follows it.
fn own_style(text: &str) -> Option<(&str, &str)> {
    let (inside, after) = text.strip_prefix("\x1b[")?.split_once('m')?;
    let (codes, number) = inside.rsplit_once(';')?;
    (number == stamp_number() && is_codes(codes)).then_some((codes, after))
}

fn is_codes(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b';')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Style;
    use proptest::prelude::*;

    const ODD: &str = "\u{1b}[2Ja\u{9b}31mb\u{202e}c\u{61c}d\u{7f}\re\u{e0041}f\u{1b}]0;x\u{7}";

    #[test]
    fn what_a_terminal_obeys_is_shown() {
        assert_eq!(
            safe(ODD),
            "\\u{1b}[2Ja\\u{9b}31mb\\u{202e}c\\u{61c}d\\u{7f}\\re\\u{e0041}f\\u{1b}]0;x\\u{7}"
        );
        assert_eq!(safe("plain\n\ttext – ok ✓ 日本"), "plain\n\ttext – ok ✓ 日本");
    }

    #[test]
    fn json_stays_what_it_was() {
        let json = serde_json::to_string(&serde_json::json!({ "a": ODD })).unwrap();
        let text = escaped(&json, json_escape);
        assert!(text.is_ascii(), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["a"], ODD);
    }

    #[test]
    fn only_styles_of_ours_get_through() {
        let style = Style { color: true, ..Style::default() };
        let text = style.alarm("a") + "\u{1b}[31mb\u{1b}[31;7m";
        assert_eq!(safe(&text), "\u{1b}[1m\u{1b}[31ma\u{1b}[39m\u{1b}[0m\\u{1b}[31mb\\u{1b}[31;7m");
    }

    proptest! {
        #[test]
        fn nothing_is_obeyed(text in "(\\PC|\\pC|\u{1b}\\[[0-9;]{0,4}[a-zA-Z]){0,40}") {
            let made = safe(&text);
            prop_assert!(made.chars().all(|c| is_harmless(c) || matches!(c, '\n' | '\t')), "{made:?}");
        }
    }
}
