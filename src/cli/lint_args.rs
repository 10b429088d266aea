//! `--deny` and `--allow`: lint levels for one run.

use super::CliError;
use crate::problem::{LintCode, LintLevel, did_you_mean};
use crate::resolve::Desired;
use clap::Args;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Denies every lint that has no level of its own.
const WARNINGS: &str = "warnings";

/// The levels that a command line sets. They outrank those of the inventory, but not the comment of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub(super) struct LintArgs {
    /// Refuse hosts with this lint; `warnings` denies all but notes
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = parse_denied)]
    #[serde(default)]
    deny: Vec<String>,
    /// Do not report this lint
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = parse_lint)]
    #[serde(default)]
    allow: Vec<String>,
}

impl LintArgs {
    /// These and those of a saved plan.
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.deny.extend_from_slice(&other.deny);
        self.allow.extend_from_slice(&other.allow);
        self
    }

    /// Sets the levels of hosts.
    ///
    /// Errors: a lint that is both denied and allowed.
    pub(super) fn apply(&self, hosts: &mut [Desired]) -> Result<(), CliError> {
        if let Some(code) = self.deny.iter().find(|code| self.allow.contains(code)) {
            return Err(CliError::bad_input(format!(
                "--deny {code} and --allow {code} contradict each other"
            )));
        }
        if *self == Self::default() {
            return Ok(());
        }
        let denied = self.deny.iter().map(|code| (code, LintLevel::Deny));
        let levels = denied.chain(self.allow.iter().map(|code| (code, LintLevel::Allow)));
        let levels: Vec<_> =
            levels.filter_map(|(code, level)| Some((LintCode::parse(code)?, level))).collect();
        for desired in hosts {
            let policy = Arc::make_mut(&mut desired.lints);
            policy.deny_warnings |= self.deny.iter().any(|code| code == WARNINGS);
            policy.levels.extend(levels.iter().copied());
        }
        Ok(())
    }
}

fn parse_denied(text: &str) -> Result<String, String> {
    if text == WARNINGS { Ok(text.to_owned()) } else { parse_lint(text) }
}

fn parse_lint(text: &str) -> Result<String, String> {
    match LintCode::parse(text) {
        Some(code) => Ok(code.as_str().to_owned()),
        None => {
            let near = did_you_mean(text, LintCode::ALL.iter().map(|code| code.as_str()));
            Err(format!("unknown lint{}", near.map_or_else(String::new, |near| format!("; {near}"))))
        }
    }
}
