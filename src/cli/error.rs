//! Why a command stops, and the exit code of that.

use super::{Common, Format, console, exit};
use crate::problem::{Problem, Problems, Sources};
use crate::report::{Markdown, outlet, problems_json, problems_jsonl, problems_text};
use std::fmt;
use std::io::IsTerminal;

/// What kind of error ends a command. Each has an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CliErrorKind {
    /// kvmfw or its machine failed; no host was touched.
    Internal,
    /// Usage or bad input.
    BadInput,
    /// A host cannot be reached.
    Unreachable,
    /// Hosts are left alone on purpose: declined, or nobody to ask.
    LeftAlone,
    /// Hosts gave no answer; the code is that of their outcomes.
    Outcome(u8),
}

/// An error that ends a command. [`super::run`] prints it.
#[derive(Clone, Debug)]
pub struct CliError {
    kind: CliErrorKind,
    message: String,
    /// What to do, an imperative with the command.
    hint: Option<String>,
    /// Problems of the input, which are shown with their lines before the message.
    problems: Option<Problems>,
}

impl CliError {
    fn new(kind: CliErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, problems: None }
    }

    /// An error of kvmfw or of its machine.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(CliErrorKind::Internal, message)
    }

    /// Wrong usage, or wrong input that has no place in a file.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self::new(CliErrorKind::BadInput, message)
    }

    /// A host that cannot be reached.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(CliErrorKind::Unreachable, message)
    }

    /// Hosts are left alone on purpose.
    pub fn left_alone(message: impl Into<String>) -> Self {
        Self::new(CliErrorKind::LeftAlone, message)
    }

    /// A host that gave no answer.
    pub fn outcome(exit_code: u8, message: impl Into<String>) -> Self {
        Self::new(CliErrorKind::Outcome(exit_code), message)
    }

    /// Problems of the input.
    pub fn problems(list: Vec<Problem>, sources: &Sources) -> Self {
        Self::from(Problems { list, sources: sources.clone() })
    }

    /// The errors of several hosts as one, with the worst of their codes; `None` if there are none.
    pub fn of_hosts(errors: Vec<Self>) -> Option<Self> {
        let code = errors.iter().map(Self::exit_code).reduce(exit::worse)?;
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Some(Self::outcome(code, lines.join("\n")))
    }

    /// The same error with what to do.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same error as a defect of kvmfw: its own output is wrong.
    #[must_use]
    pub fn defect(self, message: impl Into<String>) -> Self {
        Self { kind: CliErrorKind::Internal, message: message.into(), ..self }
    }

    /// The exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            CliErrorKind::Internal => exit::INTERNAL,
            CliErrorKind::BadInput => exit::BAD_INPUT,
            CliErrorKind::Unreachable => exit::UNREACHABLE,
            CliErrorKind::LeftAlone => exit::LEFT_ALONE,
            CliErrorKind::Outcome(code) => code,
        }
    }

    /// Prints the error in the output format.
    pub(super) fn print(&self, common: &Common) {
        if let Some(problems) = &self.problems {
            self.print_problems(common, problems);
        }
        if !self.message.is_empty() {
            console::notice(&self.to_string());
        }
    }

    fn print_problems(&self, common: &Common, Problems { list, sources }: &Problems) {
        let text = |color| problems_text(list, sources, color);
        match common.format {
            Format::Json => console::print(&problems_json(list)),
            Format::Jsonl => console::print(&problems_jsonl(list, &super::runtime::now(), self.exit_code())),
            Format::Markdown => {
                console::print(
                    &Markdown { limit: common.markdown_limit, full: false }.problems(list, sources),
                );
                outlet::err(&text(false));
            }
            Format::Human | Format::Svg | Format::Mermaid => {
                let color = console::style(common, std::io::stderr().is_terminal()).color;
                outlet::err(&text(color));
            }
        }
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl From<Problems> for CliError {
    fn from(problems: Problems) -> Self {
        Self { problems: Some(problems), ..Self::bad_input("") }
    }
}
