//! How the severity of a warning is shown.

use super::Style;
use crate::problem::{LintCode, LintSeverity};

/// The severity of a code, also of one in the document of another version of kvmfw.
pub(super) fn severity(code: &str) -> LintSeverity {
    LintCode::parse(code).map_or(LintSeverity::Warning, LintCode::severity)
}

/// The word in front of a finding.
pub(super) fn word(severity: LintSeverity) -> &'static str {
    match severity {
        LintSeverity::Error => "error",
        LintSeverity::Warning => "warning",
        LintSeverity::Note => "note",
    }
}

/// A text in the colour of a severity.
pub(super) fn paint(severity: LintSeverity, style: Style, text: &str) -> String {
    match severity {
        LintSeverity::Error => style.alarm(text),
        LintSeverity::Warning => style.warn(text),
        LintSeverity::Note => style.strong(text),
    }
}
