//! Checks that decide whether a change is confirmed.

use crate::host_state::ProbeSections;
use crate::inventory::{CheckFrom, CheckProbe, ConfirmCheck};
use crate::protocol;
use std::collections::BTreeMap;
use std::time::Duration;

/// Whether each check passed, by its number.
pub(super) type CheckResults = BTreeMap<usize, bool>;

/// Reads the lines `number=exit when` of section `checks`.
pub(super) fn read_checks(sections: &ProbeSections<'_>) -> CheckResults {
    let lines = sections.get(protocol::CHECKS).unwrap_or("").lines();
    lines
        .filter_map(|line| {
            let (number, rest) = line.split_once('=')?;
            Some((number.parse().ok()?, rest.starts_with("0 ")))
        })
        .collect()
}

/// Limit of all checks together.
pub(super) fn total_timeout(checks: &[ConfirmCheck]) -> Duration {
    checks.iter().map(|check| check.timeout + Duration::from_secs(1)).sum()
}

/// The first check that fails after the change and did not fail before it, or is required.
pub(super) fn failed_check(
    checks: &[ConfirmCheck],
    before: &CheckResults,
    after: &CheckResults,
) -> Option<String> {
    checks.iter().enumerate().find_map(|(number, check)| {
        let passed = after.get(&number).copied().unwrap_or(false);
        let decides = check.required || before.get(&number).copied().unwrap_or(false);
        (!passed && decides).then(|| format!("{} ({})", check.probe, check.origin))
    })
}

/// Runs the checks that the controller makes.
pub(super) async fn run_controller_checks(checks: &[ConfirmCheck]) -> CheckResults {
    let mut results = CheckResults::new();
    for (number, check) in checks.iter().enumerate() {
        if check.from == CheckFrom::Controller {
            results.insert(number, run_check(&check.probe, check.timeout).await);
        }
    }
    results
}

async fn run_check(probe: &CheckProbe, timeout: Duration) -> bool {
    let work = async {
        match probe {
            CheckProbe::Ping(address) => tokio::process::Command::new("ping")
                .args(["-n", "-c", "1", "-W", &timeout.as_secs().max(1).to_string(), address])
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                // Ctrl-C at the terminal would kill the ping, and count as a failed check.
                .process_group(0)
                .kill_on_drop(true)
                .status()
                .await
                .is_ok_and(|s| s.success()),
            CheckProbe::Tcp(address, port) => {
                tokio::net::TcpStream::connect((address.as_str(), *port)).await.is_ok()
            }
            CheckProbe::Command(_) => false,
        }
    };
    tokio::time::timeout(timeout, work).await.unwrap_or(false)
}
