//! What is equal in the plans of many hosts is kept once.

use super::{DiffLine, HostPlan};
use crate::kept::Kept;

/// Lines and files of the plans so far.
#[derive(Debug, Default)]
pub struct Shared {
    lines: Kept<Vec<DiffLine>>,
    files: Kept<str>,
}

impl Shared {
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
