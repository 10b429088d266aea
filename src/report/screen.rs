//! Text for the terminal on which the board is drawn: what a drawing of it comes to, in one piece, with
//! lines that end where they end.

use super::outlet::safe;

/// What has not been written yet.
#[derive(Debug, Default)]
pub(super) struct Screen {
    text: String,
    /// A line is complete; what follows in the same drawing begins a new one.
    ended: bool,
    /// There is text on the line.
    begun: bool,
}

impl Screen {
    /// Text. A drawing fills each line up with spaces so that the terminal wraps: lines that hang together
    /// so are torn, and those above overwritten, when the window changes its width. Here they end.
    pub(super) fn put(&mut self, text: &str) {
        // A line of nothing, before it is filled up. After text, nothing fills up a line that is full.
        if text.is_empty() && !self.begun {
            return;
        }
        if text.bytes().all(|byte| byte == b' ') {
            self.end();
            return;
        }
        self.begin();
        self.begun = true;
        self.text.push_str(&safe(text));
    }

    /// The line is complete.
    pub(super) fn end(&mut self) {
        self.begin();
        (self.ended, self.begun) = (true, false);
    }

    fn begin(&mut self) {
        if std::mem::take(&mut self.ended) {
            self.text.push_str("\r\n");
        }
    }

    /// Moves the cursor by so many rows or columns: `A` up, `B` down, `C` right, `D` left.
    pub(super) fn go(&mut self, by: usize, to: char) {
        (self.ended, self.begun) = (false, false);
        if by > 0 {
            self.text.push_str(&format!("\x1b[{by}{to}"));
        }
    }

    /// Empties the line the cursor is on.
    pub(super) fn clear_line(&mut self) {
        (self.ended, self.begun) = (false, false);
        self.text.push_str("\r\x1b[2K");
    }

    /// What is to be written now.
    pub(super) fn take(&mut self) -> String {
        (self.ended, self.begun) = (false, false);
        std::mem::take(&mut self.text)
    }
}
