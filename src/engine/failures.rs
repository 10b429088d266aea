//! Outcomes of hosts for which something failed before their change was decided.

use super::outcome::{HostOutcome, HostStatus};
use crate::host_state::{ObserveError, Observed};
use crate::ssh::TransportError;

/// Outcome of a host that refused the request itself.
pub(super) fn refused(host: &str, reason: &str, message: &str) -> HostOutcome {
    let outcome = HostOutcome::new(host, HostStatus::Refused).reason(reason).message(message);
    match reason {
        "locked" => {
            HostOutcome { message: Some(format!("another transaction holds the lock: {message}")), ..outcome }
                .hint(format!("wait for its end, or run `kvmfw status {host}`"))
        }
        "no-privilege" => outcome.hint(
            "log in as root, or set `become: sudo` and add `USER ALL=(root) NOPASSWD: ALL` to /etc/sudoers.d on the host; \
             kvmfw never prompts for a password",
        ),
        "no-space" | "guard-failed" | "dry-run" => HostOutcome { status: HostStatus::Failed, ..outcome },
        _ => outcome,
    }
}

/// Outcome of a host to which a request failed.
pub(super) fn transport_failed(host: &str, error: &TransportError) -> HostOutcome {
    let away = |reason: &str| {
        HostOutcome::new(host, HostStatus::Unreachable).reason(reason).message(error.to_string())
    };
    match error {
        TransportError::Privilege(_) => refused(host, "no-privilege", &error.to_string()),
        TransportError::Here(_) => {
            HostOutcome::new(host, HostStatus::Failed).reason("here").message(error.to_string())
        }
        TransportError::Connect(_) | TransportError::Dropped(_) => {
            away("connect").hint("run the ssh command that -v shows")
        }
        TransportError::Lost(_) => away("lost"),
        TransportError::NoRoom => away("lost"),
        TransportError::TooLong { .. } => away("bad-answer"),
    }
}

/// Converts the errors of a probe's answer.
pub(super) fn observed_or_failed(
    host: &str,
    observed: Result<Observed, ObserveError>,
) -> Result<Observed, HostOutcome> {
    observed.map_err(|error| match error {
        ObserveError::Refused(reason, message) => refused(host, &reason, &message),
        ObserveError::NoPrivilege => refused(host, "no-privilege", &error.to_string()),
        other => bad_answer(host, &other),
    })
}

/// Outcome of a host whose answer lacks the expected sections.
pub(super) fn bad_answer(host: &str, error: &ObserveError) -> HostOutcome {
    HostOutcome::new(host, HostStatus::Unreachable).reason("bad-answer").message(error.to_string())
}

/// Outcome of a host for which kvmfw itself failed.
pub(super) fn internal(host: &str, message: &str) -> HostOutcome {
    HostOutcome::new(host, HostStatus::Failed).reason("internal").message(message)
}
