//! Questions to the operator before hosts are changed.

use super::{CliError, Common};
use crate::report::outlet;
use std::io::IsTerminal;

/// Whether there is a terminal with somebody who could answer.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Prompts before hosts are changed; `action` is a verb, for where there is no terminal.
pub fn ask(common: &Common, action: &str, question: &str) -> Result<(), CliError> {
    if common.yes {
        return Ok(());
    }
    if !can_ask() {
        return Err(CliError::left_alone(format!(
            "There is no terminal for the confirmation; nothing was changed. Pass --yes to {action} without it."
        )));
    }
    outlet::err(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let _ = std::io::stdin().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(CliError::left_alone("Declined: nothing was changed."))
}
