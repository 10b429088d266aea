//! Warnings of `check` and `plan`.

use super::{LintCode, Origin};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Begins the cause in a message that is one text.
const CAUSE: &str = " Cause: ";
/// Begins the fix in a message that is one text.
const FIX: &str = " Fix: ";

/// A lint of `check` or `plan`: nothing is refused because of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Warning {
    /// The kind of warning.
    pub code: LintCode,
    /// Finding, cause and fix.
    pub message: WarningMessage,
    /// What it is about, where that has a place.
    pub origin: Option<Origin>,
}

impl Warning {
    /// A warning; a message that is one text is the finding.
    pub fn new(code: LintCode, message: impl Into<WarningMessage>, origin: Option<Origin>) -> Self {
        Self { code, message: message.into(), origin }
    }
}

/// The parts of a warning, without the full stops between them.
///
/// JSON documents have it as one text, `FINDING. Cause: … Fix: …`, which is read back when a saved plan or run is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WarningMessage {
    /// What was found.
    pub finding: String,
    /// The rule or the setting that it comes from.
    pub cause: Option<String>,
    /// What to do.
    pub fix: Option<String>,
}

impl WarningMessage {
    /// A message that is only a finding.
    pub fn new(finding: impl Into<String>) -> Self {
        Self { finding: finding.into(), cause: None, fix: None }
    }

    /// The same message with its cause.
    #[must_use]
    pub fn cause(self, cause: impl Into<String>) -> Self {
        Self { cause: Some(cause.into()), ..self }
    }

    /// The same message with what to do.
    #[must_use]
    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// Takes the text of a JSON document apart.
    fn from_text(text: &str) -> Self {
        let (rest, fix) = match text.split_once(FIX) {
            Some((rest, fix)) => (rest, Some(fix)),
            None => (text, None),
        };
        let (finding, cause) = match rest.split_once(CAUSE) {
            Some((finding, cause)) => (finding, Some(cause)),
            None => (rest, None),
        };
        let without_stop =
            |text: &str, ends: bool| text.strip_suffix('.').filter(|_| !ends).unwrap_or(text).to_owned();
        Self {
            finding: without_stop(finding, cause.is_none() && fix.is_none()),
            cause: cause.map(|cause| without_stop(cause, fix.is_none())),
            fix: fix.map(str::to_owned),
        }
    }
}

impl fmt::Display for WarningMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.finding)?;
        for (mark, part) in [(CAUSE, &self.cause), (FIX, &self.fix)] {
            if let Some(part) = part {
                write!(f, ".{mark}{part}")?;
            }
        }
        Ok(())
    }
}

impl From<String> for WarningMessage {
    fn from(finding: String) -> Self {
        Self::new(finding)
    }
}

impl Serialize for WarningMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WarningMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::from_text(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_document_is_read_back() {
        let finding = || WarningMessage::new("rule 2 is never reached");
        for (message, text) in [
            (finding(), "rule 2 is never reached"),
            (finding().cause("rule 1"), "rule 2 is never reached. Cause: rule 1"),
            (finding().fix("remove it"), "rule 2 is never reached. Fix: remove it"),
            (
                finding().cause("rule 1").fix("remove it"),
                "rule 2 is never reached. Cause: rule 1. Fix: remove it",
            ),
            (WarningMessage::new("one. Two."), "one. Two."),
        ] {
            assert_eq!(message.to_string(), text);
            assert_eq!(WarningMessage::from_text(text), message, "{text}");
        }
    }
}
