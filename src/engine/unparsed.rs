//! What a host printed instead of an answer. A login that is refused often gives its reason only there.

use crate::characters::is_harmless;

/// Lines that are quoted from the end of each stream. The first lines may be a message of the day.
const MAX_LINES: usize = 3;

/// Characters that are quoted in all.
const MAX_CHARACTERS: usize = 240;

/// Quotes both streams on one line; empty if the host printed nothing. `nonce` is that of the document.
pub(super) fn unparsed_output(stdout: &str, stderr: &str, nonce: &str) -> String {
    let mark = format!("@{nonce} ");
    let mut parts = Vec::new();
    if stdout.contains(&format!("NONCE='{nonce}'")) {
        parts.push("the host sent the document back".to_owned());
    } else if !stdout.lines().any(|line| line.starts_with(&mark)) {
        parts.extend(last_lines(stdout));
    }
    parts.extend(last_lines(stderr));
    let quote = parts.join("; ");
    match quote.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{} …", quote.get(..end).unwrap_or_default()),
        None => quote,
    }
}

fn last_lines(text: &str) -> Option<String> {
    let is_text = |c: &char| is_harmless(*c) && *c != char::REPLACEMENT_CHARACTER || c.is_ascii_whitespace();
    let (all, readable) = (text.chars().count(), text.chars().filter(is_text).count());
    if readable * 2 < all {
        return Some(format!("{} bytes that are not text", text.len()));
    }
    // Lines of kvmfw's own framing are not the host's words.
    let is_quoted = |line: &&str| !line.is_empty() && !line.starts_with("@kvmfw-");
    let lines: Vec<&str> = text.lines().map(str::trim).filter(is_quoted).collect();
    let last = lines.get(lines.len().saturating_sub(MAX_LINES)..).unwrap_or_default();
    (!last.is_empty()).then(|| last.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_instead_of_an_answer_is_quoted() {
        let quoted = |stdout: &str, stderr: &str| unparsed_output(stdout, stderr, "n1");
        assert_eq!(
            quoted("This account is currently not available.\n", ""),
            "This account is currently not available."
        );
        assert_eq!(
            quoted(
                "motd\n\n",
                "WARNING: Your password has expired.\nPassword change required but no TTY available.\n"
            ),
            "motd; WARNING: Your password has expired.; Password change required but no TTY available."
        );
        assert_eq!(quoted("", ""), "");
        // A part of an answer is not quoted.
        assert_eq!(quoted("Welcome\n\n@n1 host\nroot=yes\n", "Killed"), "Killed");
        assert_eq!(quoted("NONCE='n1'\nprobe\n", ""), "the host sent the document back");
        assert_eq!(quoted("\u{0}\u{1}\u{fffd}x", ""), "6 bytes that are not text");
        assert_eq!(quoted(&"word ".repeat(1000), "").chars().count(), MAX_CHARACTERS + 2);
    }
}
