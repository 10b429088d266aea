//! What is wrong with the input, where, and what to do about it.
//!
//! Every stage that reads what a person wrote collects [`Problem`]s instead of stopping at the
//! first: a run shows all of them at once.

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

/// A lint of `check` or `plan`: nothing is refused because of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Warning {
    /// A stable name of this kind of warning, kebab-case, for example `dead-rule`.
    pub code: &'static str,
    /// The whole sentence for the user.
    pub message: String,
    /// What it is about, where that has a place.
    pub origin: Option<Origin>,
}
