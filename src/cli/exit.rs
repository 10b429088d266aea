//! Exit codes, documented and stable. Several at once: 6 > 4 > 5 > 7 > 2 > 0.

use crate::engine::{HostOutcome, HostStatus};
use crate::report::Document;

/// Done.
pub const DONE: u8 = 0;
/// An internal error; no host was touched.
pub const INTERNAL: u8 = 1;
/// Changes are pending (`--detailed-exitcode`), hosts have drifted (`--drift`), or a packet has another verdict (`explain --expect`).
pub const CHANGES: u8 = 2;
/// Invalid usage or input.
pub const BAD_INPUT: u8 = 3;
/// Some hosts failed and are restored.
pub const FAILED: u8 = 4;
/// Some hosts were unreachable and were not touched.
pub const UNREACHABLE: u8 = 5;
/// The state of some hosts is unknown, or a rollback failed.
pub const UNKNOWN: u8 = 6;
/// Hosts were left alone on purpose.
pub const LEFT_ALONE: u8 = 7;
/// Interrupted.
pub const INTERRUPTED: u8 = 130;

/// All of them with what they mean, as the manual has them.
pub const MEANINGS: [(u8, &str); 9] = [
    (DONE, "Done."),
    (INTERNAL, "An internal error; no host was touched."),
    (
        CHANGES,
        "Changes are pending (`--detailed-exitcode`), hosts have drifted (`--drift`), or a packet has another verdict (`explain --expect`).",
    ),
    (BAD_INPUT, "Invalid usage or input."),
    (FAILED, "Some hosts failed and are restored."),
    (UNREACHABLE, "Some hosts were unreachable and were not touched."),
    (UNKNOWN, "The state of some hosts is unknown, or a rollback failed."),
    (LEFT_ALONE, "Hosts were left alone on purpose."),
    (INTERRUPTED, "Interrupted."),
];

/// The one of two codes that matters more.
pub fn worse(a: u8, b: u8) -> u8 {
    let rank =
        |code| [DONE, CHANGES, LEFT_ALONE, UNREACHABLE, FAILED, UNKNOWN].iter().position(|c| *c == code);
    // A code outside the list (bad input, interrupted) says more than any result.
    match (rank(a), rank(b)) {
        (None, _) => a,
        (_, None) => b,
        (Some(x), Some(y)) => {
            if x >= y {
                a
            } else {
                b
            }
        }
    }
}

/// Whether this machine failed, and not the host.
fn is_internal(reason: Option<&str>) -> bool {
    matches!(reason, Some("internal" | "here"))
}

/// The code of one host that was asked something and gave no answer; nothing was touched.
pub fn of_outcome(outcome: &HostOutcome) -> u8 {
    match outcome.status {
        _ if is_internal(outcome.reason.as_deref()) => INTERNAL,
        HostStatus::Refused => LEFT_ALONE,
        HostStatus::Failed => FAILED,
        HostStatus::Unknown => UNKNOWN,
        _ => UNREACHABLE,
    }
}

/// The code of a result; `changes` is what pending changes count as.
pub fn of(document: &Document, changes: u8) -> u8 {
    let any = |status| document.count(status) > 0;
    // A plan touches nothing; of a run, what was changed or put back was touched.
    let touched = document.is_run() && (any(HostStatus::Changed) || any(HostStatus::RolledBack));
    let internal = document.hosts.iter().any(|h| is_internal(h.reason.as_deref()));
    if any(HostStatus::Unknown) || internal && touched {
        UNKNOWN
    } else if internal {
        INTERNAL
    } else if any(HostStatus::Failed) || any(HostStatus::RolledBack) {
        FAILED
    } else if any(HostStatus::Unreachable) {
        UNREACHABLE
    } else if any(HostStatus::Refused) || any(HostStatus::Skipped) {
        LEFT_ALONE
    } else if any(HostStatus::Changed) {
        changes
    } else {
        DONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manual and the comments, from which the book has its table, say the same.
    #[test]
    fn meanings_are_those_of_the_comments() {
        let lines: Vec<&str> = include_str!("exit.rs").lines().collect();
        let of = |pair: &[&str]| {
            let value = pair[1].strip_prefix("pub const ")?.split_once(": u8 = ")?.1;
            Some((
                value.trim_end_matches(';').parse::<u8>().unwrap(),
                pair[0].trim_start_matches("/// ").to_owned(),
            ))
        };
        let comments: Vec<(u8, String)> = lines.windows(2).filter_map(of).collect();
        assert_eq!(comments, MEANINGS.map(|(code, meaning)| (code, meaning.to_owned())));
    }
}
