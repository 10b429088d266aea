//! Checks that decide whether a change is confirmed.

use crate::inventory::CheckProbe;
use crate::observe::Sections;
use crate::protocol;
use std::collections::BTreeMap;
use std::time::Duration;

/// `number=exit when` lines of the section `checks`.
pub(super) fn read_checks(sections: &Sections<'_>) -> BTreeMap<usize, bool> {
    let lines = sections.get(protocol::CHECKS).unwrap_or("").lines();
    lines
        .filter_map(|line| {
            let (number, rest) = line.split_once('=')?;
            Some((number.parse().ok()?, rest.starts_with("0 ")))
        })
        .collect()
}

pub(super) async fn run_here(probe: &CheckProbe, timeout: Duration) -> bool {
    let work = async {
        match probe {
            CheckProbe::Ping(address) => tokio::process::Command::new("ping")
                .args(["-n", "-c", "1", "-W", &timeout.as_secs().max(1).to_string(), address])
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                // A Ctrl-C of the terminal is for kvmfw, which still has to decide: a check that dies of it has not failed.
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
