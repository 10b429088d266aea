//! What is equal in the plans of many hosts is kept once.

use super::{DiffLine, HostPlan};
use crate::kept::Interner;

/// Lines and files of the plans so far.
#[derive(Debug, Default)]
pub struct DiffInterner {
    lines: Interner<Vec<DiffLine>>,
    files: Interner<str>,
}

impl DiffInterner {
    /// Lets a plan use what an equal plan before it has; it says the same afterwards.
    pub fn share(&self, plan: &mut HostPlan) {
        for change in &mut plan.changes {
            self.lines.keep(&mut change.diff.lines);
        }
        for (_, text) in &mut plan.bundle.files {
            self.files.keep(text);
        }
    }
}
