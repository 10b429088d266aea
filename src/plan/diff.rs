//! The lines of a change.

use crate::problem::Origin;
use serde::{Deserialize, Serialize};
use similar::{Algorithm, ChangeTag, capture_diff_slices};
use std::sync::Arc;

/// A diff with three lines of context around what changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Diff {
    /// Its lines in order; hosts whose diffs are equal share them.
    pub lines: Arc<Vec<DiffLine>>,
}

/// One line of a diff.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DiffLine {
    /// `+`, `-`, ` ` or `…` for lines left out.
    pub sign: char,
    /// The line.
    pub text: String,
    /// Where a line that is wanted was declared.
    #[serde(skip)]
    pub origin: Option<Origin>,
}

/// A line that is wanted, with its origin.
pub type DesiredLine = (String, Option<Origin>);

/// How many unchanged lines stand around a change.
const CONTEXT: usize = 3;

impl Diff {
    /// Compares line by line.
    pub fn compute(old: &[String], new: &[DesiredLine]) -> Self {
        let new_text: Vec<&str> = new.iter().map(|(t, _)| t.as_str()).collect();
        let old_text: Vec<&str> = old.iter().map(String::as_str).collect();
        let mut all = Vec::new();
        for op in capture_diff_slices(Algorithm::Myers, &old_text, &new_text) {
            for change in op.iter_changes(&old_text, &new_text) {
                let (sign, origin) = match change.tag() {
                    ChangeTag::Delete => ('-', None),
                    ChangeTag::Insert => ('+', change.new_index().and_then(|i| new[i].1.clone())),
                    ChangeTag::Equal => (' ', change.new_index().and_then(|i| new[i].1.clone())),
                };
                all.push(DiffLine { sign, text: change.value().to_owned(), origin });
            }
        }
        fold(all).into()
    }

    /// Adds a line at the end.
    pub(super) fn push(&mut self, line: DiffLine) {
        Arc::make_mut(&mut self.lines).push(line);
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.lines.iter().all(|l| l.sign == ' ' || l.sign == '…')
    }

    /// The text of the JSON field: a sign, a space, the line.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for line in self.lines.iter() {
            text.push(line.sign);
            text.push(' ');
            text.push_str(&line.text);
            text.push('\n');
        }
        text
    }
}

impl From<Vec<DiffLine>> for Diff {
    fn from(lines: Vec<DiffLine>) -> Self {
        Self { lines: Arc::new(lines) }
    }
}

/// Leaves out unchanged lines that are far from any change.
fn fold(all: Vec<DiffLine>) -> Vec<DiffLine> {
    let mut near = vec![false; all.len()];
    let mut distance = usize::MAX;
    for (i, line) in all.iter().enumerate() {
        distance = if line.sign == ' ' { distance.saturating_add(1) } else { 0 };
        near[i] |= distance <= CONTEXT;
    }
    distance = usize::MAX;
    for (i, line) in all.iter().enumerate().rev() {
        distance = if line.sign == ' ' { distance.saturating_add(1) } else { 0 };
        near[i] |= distance <= CONTEXT;
    }
    let mut lines: Vec<DiffLine> = Vec::new();
    let mut left_out = 0_usize;
    let gap = |n: usize| DiffLine { sign: '…', text: format!("{n} unchanged"), origin: None };
    for (line, near) in all.into_iter().zip(near) {
        if near {
            if left_out > 0 {
                lines.push(gap(left_out));
                left_out = 0;
            }
            lines.push(line);
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 && !lines.is_empty() {
        lines.push(gap(left_out));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_and_gaps() {
        let old: Vec<String> = (0..20).map(|i| i.to_string()).collect();
        let mut new: Vec<DesiredLine> = old.iter().map(|l| (l.clone(), None)).collect();
        new[10].0 = "ten".into();
        let text = Diff::compute(&old, &new).text();
        assert_eq!(text, "… 7 unchanged\n  7\n  8\n  9\n- 10\n+ ten\n  11\n  12\n  13\n… 6 unchanged\n");
        assert!(Diff::compute(&old, &old.iter().map(|l| (l.clone(), None)).collect::<Vec<_>>()).is_empty());
    }
}
