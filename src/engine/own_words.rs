//! What a host printed in place of an answer: a login that is not let in says why there, and nowhere else.

use crate::characters::is_harmless;
use crate::transport::Answer;

/// So many lines of each stream: the first ones may be a message of the day.
const LINES: usize = 3;

/// So many characters in all.
const LENGTH: usize = 240;

/// The words, on one line; empty where it printed nothing. `nonce` is that of the document that it was sent.
pub(super) fn own_words(answer: &Answer, nonce: &str) -> String {
    let stdout = String::from_utf8_lossy(&answer.stdout);
    let mark = format!("@{nonce} ");
    let mut parts = Vec::new();
    if stdout.contains(&format!("NONCE='{nonce}'")) {
        parts.push("it sent back what it was sent".to_owned());
    } else if !stdout.lines().any(|line| line.starts_with(&mark)) {
        parts.extend(last_lines(&stdout));
    }
    parts.extend(last_lines(&answer.stderr));
    let words = parts.join("; ");
    match words.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{} …", words.get(..end).unwrap_or_default()),
        None => words,
    }
}

fn last_lines(text: &str) -> Option<String> {
    let is_word = |c: &char| is_harmless(*c) && *c != char::REPLACEMENT_CHARACTER || c.is_ascii_whitespace();
    let (all, words) = (text.chars().count(), text.chars().filter(is_word).count());
    if words * 2 < all {
        return Some(format!("{} bytes that are not text", text.len()));
    }
    // The beginning of an answer is none of the host's words.
    let is_said = |line: &&str| !line.is_empty() && !line.starts_with("@kvmfw-");
    let lines: Vec<&str> = text.lines().map(str::trim).filter(is_said).collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    (!last.is_empty()).then(|| last.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_in_place_of_an_answer() {
        let said = |stdout: &str, stderr: &str| own_words(&Answer::of(stdout, stderr), "n1");
        assert_eq!(
            said("This account is currently not available.\n", ""),
            "This account is currently not available."
        );
        assert_eq!(
            said(
                "motd\n\n",
                "WARNING: Your password has expired.\nPassword change required but no TTY available.\n"
            ),
            "motd; WARNING: Your password has expired.; Password change required but no TTY available."
        );
        assert_eq!(said("", ""), "");
        // A part of an answer is none of its words.
        assert_eq!(said("Welcome\n\n@n1 host\nroot=yes\n", "Killed"), "Killed");
        assert_eq!(said("NONCE='n1'\nprobe\n", ""), "it sent back what it was sent");
        assert_eq!(said("\u{0}\u{1}\u{fffd}x", ""), "6 bytes that are not text");
        assert_eq!(said(&"word ".repeat(1000), "").chars().count(), LENGTH + 2);
    }
}
