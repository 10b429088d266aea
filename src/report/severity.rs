//! How much a warning matters, by its code.

use super::Style;

/// How much a warning matters. The order is that of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Connections or guests are cut off.
    Error,
    /// Something does not work as it was meant.
    Warning,
    /// Good to know; nothing has to be done.
    Note,
}

impl Severity {
    /// The severity of a code.
    pub(super) fn of(code: &str) -> Self {
        match code {
            "lockout" | "guests-unreachable" | "connections-cut" | "bypass-wrong" | "boot-failed"
            | "unrecorded" => Self::Error,
            "session-dies" | "first-conntrack" | "unproven" | "not-managed" | "jump-host"
            | "inherited-key" | "waits-for-chain" | "bridge-in-use" | "set-in-use" | "moved-at-boot"
            | "not-at-boot" | "unused-chain" | "empty-list" => Self::Note,
            _ => Self::Warning,
        }
    }

    /// Its name in front of a finding.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }

    /// A text in its colour.
    pub(super) fn paint(self, style: Style, text: &str) -> String {
        match self {
            Self::Error => style.alarm(text),
            Self::Warning => style.warn(text),
            Self::Note => style.strong(text),
        }
    }
}
