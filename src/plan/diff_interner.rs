//! Shares equal lines and files of many plans.

use super::{DiffLine, HostPlan};
use crate::interner::Interner;

/// Diff lines and files of the plans so far.
#[derive(Debug, Default)]
pub struct DiffInterner {
    lines: Interner<Vec<DiffLine>>,
    files: Interner<str>,
}

impl DiffInterner {
    /// Replaces lines and files by equal ones of earlier plans. The content of the plan stays the same.
    pub fn share(&self, plan: &mut HostPlan) {
        for change in &mut plan.changes {
            self.lines.intern(&mut change.diff.lines);
        }
        for (_, text) in &mut plan.transaction_files.files {
            self.files.intern(text);
        }
    }
}
