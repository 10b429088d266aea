//! What is wrong with the input, where, and what to do about it.
//!
//! Every stage that reads what a person wrote collects [`Problem`]s instead of stopping at the
//! first: a run shows all of them at once.

mod lint_code;
mod lint_level;
mod warning;

pub use lint_code::{LintCode, LintSeverity};
pub use lint_level::{LintLevel, LintPolicy};
pub use warning::{Warning, WarningMessage};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A line of an input file, kept with every value so that a plan can say where it comes from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Origin {
    /// The file, as the user would name it (relative to the project folder where it lies inside).
    pub file: Arc<str>,
    /// The line, counted from 1.
    pub line: u32,
}

impl Origin {
    /// An origin at a line of a file.
    pub fn new(file: impl Into<Arc<str>>, line: u32) -> Self {
        Self { file: file.into(), line }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One thing that is wrong with the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A stable name of this kind of problem, kebab-case, for example `unknown-key`.
    pub code: &'static str,
    /// What is wrong, a lowercase fragment naming the offending value.
    pub message: String,
    /// Where, if the problem has a place in a file.
    pub place: Option<Place>,
    /// The next step: the corrected line, a "did you mean", or a command.
    pub help: Option<String>,
}

/// Where in a file a problem is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as the user would name it.
    pub file: Arc<str>,
    /// The line, counted from 1.
    pub line: u32,
    /// The column, counted from 1 in characters.
    pub column: u32,
    /// How many characters are at fault, at least 1.
    pub length: u32,
}

impl Place {
    /// The line as an origin.
    pub fn origin(&self) -> Origin {
        Origin { file: self.file.clone(), line: self.line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Problem {
    /// A problem without a place.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), place: None, help: None }
    }

    /// The same problem at a place.
    #[must_use]
    pub fn at(mut self, file: &Arc<str>, line: u32, column: u32, length: u32) -> Self {
        self.place = Some(Place { file: file.clone(), line, column, length: length.max(1) });
        self
    }

    /// The same problem at a place that is already known.
    #[must_use]
    pub fn at_place(mut self, place: &Place) -> Self {
        self.place = Some(place.clone());
        self
    }

    /// The same problem with the next step.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}:{}:{}: ", place.file, place.line, place.column)?;
        }
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

/// The text of every input file by the name under which problems name it, for snippets.
pub type Sources = BTreeMap<Arc<str>, Arc<str>>;

/// All that is wrong with an input, and the texts to show it in.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    /// The problems, in the order of the files.
    pub list: Vec<Problem>,
    /// The texts of the files that could be read.
    pub sources: Sources,
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self { list: vec![problem], sources: Sources::new() }
    }
}

/// Characters of a word that are compared: the cost of a comparison grows with the square.
const MAX_COMPARED: usize = 64;

/// The candidate that the user most probably meant, if one is near enough to say so.
pub fn closest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wrong.chars().count() / 3).clamp(1, 4);
    let start = |word: &str| word.to_lowercase().chars().take(MAX_COMPARED).collect::<String>();
    let lowered = start(wrong);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(wrong.len()) <= 2 * limit)
        .map(|candidate| (strsim::osa_distance(&lowered, &start(candidate)), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// ``did you mean `x`?`` where one candidate is near, else the list of all (where it is short).
pub fn did_you_mean<'a>(
    wrong: &str,
    candidates: impl IntoIterator<Item = &'a str> + Clone,
) -> Option<String> {
    if let Some(near) = closest(wrong, candidates.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let all: Vec<&str> = candidates.into_iter().collect();
    match all.len() {
        0 => None,
        1..=16 => Some(format!("available: {}", all.join(", "))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_name() {
        let names = ["address", "groups", "modules", "ssh"];
        for (wrong, meant) in [
            ("adress", Some("address")),
            ("gruops", Some("groups")),
            ("Modules", Some("modules")),
            ("sh", Some("ssh")),
            ("firewall", None),
            ("", None),
        ] {
            assert_eq!(closest(wrong, names), meant, "{wrong}");
        }
    }
}
