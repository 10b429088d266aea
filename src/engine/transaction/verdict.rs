//! Converts the last known state of a transaction into the outcome of its host. Pure.

use crate::engine::outcome::{HostOutcome, HostStatus, TransactionState};

/// The outcome of `host`. `trouble` is what last went wrong with its connections. `purge_committed`: a commit was sent
/// that also removes every record of the transaction.
pub(super) fn outcome_of(
    host: &str,
    state: &TransactionState,
    trouble: Option<&str>,
    purge_committed: bool,
) -> HostOutcome {
    match state {
        TransactionState::Committed => HostOutcome::new(host, HostStatus::Changed),
        // After a return to the baseline no record is left on the host. A rollback would have left one.
        TransactionState::None if purge_committed => HostOutcome::new(host, HostStatus::Changed),
        TransactionState::RolledBack(reason) => {
            let mut message = if reason.is_empty() { "rolled back".to_owned() } else { reason.clone() };
            if let Some(trouble) = trouble {
                message.push_str("; ");
                message.push_str(trouble);
            }
            HostOutcome::new(host, HostStatus::RolledBack)
                .reason("rolled-back")
                .message(message)
                .hint("the host is unchanged; the next plan shows the change again")
        }
        TransactionState::Released(reason) => {
            HostOutcome::new(host, HostStatus::Failed).reason("released").message(reason.clone())
        }
        TransactionState::RollbackFailed(error) => HostOutcome {
            rollback_failed: true,
            ..HostOutcome::new(host, HostStatus::Unknown)
                .reason("rollback-failed")
                .message(format!("the rollback has not succeeded so far, the host keeps trying: {error}"))
                .hint("run `/var/lib/kvmfw/kvmfw.sh status` at the console of the host")
        },
        _ => unknown_outcome(host, trouble),
    }
}

/// The outcome of a host that has not reported a decision.
pub(super) fn unknown_outcome(host: &str, trouble: Option<&str>) -> HostOutcome {
    let trouble = trouble.map_or_else(String::new, |trouble| format!(" ({trouble})"));
    HostOutcome::new(host, HostStatus::Unknown)
        .reason("no-answer")
        .message(format!("no decision was reported{trouble}; without a confirm the guard rolls back"))
        .hint(format!(
            "run `kvmfw status {host}`, or `/var/lib/kvmfw/kvmfw.sh status` at the console of the host"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reported_decision_counts() {
        let status = |state: TransactionState, purge| outcome_of("kvm1", &state, None, purge).status;
        assert_eq!(status(TransactionState::Committed, false), HostStatus::Changed);
        assert_eq!(status(TransactionState::RolledBack(String::new()), false), HostStatus::RolledBack);
        assert_eq!(status(TransactionState::Released(String::new()), false), HostStatus::Failed);
        for undecided in [TransactionState::Applied, TransactionState::Deciding, TransactionState::Staged] {
            assert_eq!(status(undecided, true), HostStatus::Unknown);
        }
        assert_eq!(status(TransactionState::None, false), HostStatus::Unknown);
        assert_eq!(status(TransactionState::None, true), HostStatus::Changed);
        let failed = outcome_of("kvm1", &TransactionState::RollbackFailed("x".into()), None, false);
        assert!(failed.status == HostStatus::Unknown && failed.rollback_failed);
    }
}
