//! Connection and checks of a host, merged.

use super::merge::{CompileReport, MergeSlot};
use crate::expectation::Expectation;
use crate::inventory::{ConfirmCheck, DeclaredResources, HostConnection, InventoryEntry};
use crate::problem::{Place, Problem};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// How long a connection may take where nobody says.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach a host.
pub fn connection(host: &str, entries: &[(u32, &InventoryEntry)], out: &mut CompileReport) -> HostConnection {
    let (mut port, mut user, mut become_root, mut jump) =
        (MergeSlot::default(), MergeSlot::default(), MergeSlot::default(), MergeSlot::default());
    let (mut identity_file, mut known_hosts, mut timeout) =
        (MergeSlot::default(), MergeSlot::default(), MergeSlot::default());
    let mut address = MergeSlot::default();
    let mut options: BTreeMap<&str, MergeSlot<String>> = BTreeMap::new();
    for (rank, entry) in entries {
        let ssh = &entry.ssh;
        macro_rules! offer {
            ($($slot:ident = $field:expr;)*) => {$(
                if let Some(stated) = &$field { $slot.offer(*rank, stated.value.clone(), &stated.place); }
            )*};
        }
        offer! {
            address = entry.address;
            port = ssh.port;
            user = ssh.user;
            become_root = ssh.become_root;
            identity_file = ssh.identity_file;
            known_hosts = ssh.known_hosts;
            jump = ssh.jump;
            timeout = ssh.connect_timeout;
        }
        for (name, value) in &ssh.options {
            options.entry(name).or_default().offer(*rank, value.value.clone(), &value.place);
        }
    }
    macro_rules! take {
        ($slot:ident, $name:literal, $show:expr) => {
            $slot.take(|| format!("`{}`", $name), out).map(|(value, place)| {
                let show: fn(&_) -> String = $show;
                out.fact(|| $name.to_owned(), || show(&value), &place);
                value
            })
        };
    }
    if let Some((file, _)) = known_hosts.stated()
        && let Some((accept, place)) = options.get("StrictHostKeyChecking").and_then(MergeSlot::stated)
        && file.as_os_str() != "/dev/null"
        && accepts(accept)
    {
        out.problems.push(written(file, accept, place));
    }
    HostConnection {
        address: take!(address, "address", String::clone).unwrap_or_else(|| host.to_owned()),
        port: take!(port, "ssh.port", u16::to_string),
        user: take!(user, "ssh.user", String::clone),
        become_root: take!(become_root, "ssh.become", |b: &crate::inventory::BecomeMethod| format!("{b:?}")
            .to_lowercase())
        .unwrap_or_default(),
        identity_file: take!(identity_file, "ssh.identity_file", |p: &std::path::PathBuf| p
            .display()
            .to_string()),
        known_hosts: take!(known_hosts, "ssh.known_hosts", |p: &std::path::PathBuf| p.display().to_string()),
        jump: take!(jump, "ssh.jump", String::clone),
        connect_timeout: take!(timeout, "ssh.connect_timeout", |t: &Duration| humantime::format_duration(*t)
            .to_string())
        .unwrap_or(CONNECT_TIMEOUT),
        options: options
            .into_iter()
            .filter_map(|(name, slot)| {
                let (value, place) = slot.take(|| format!("`ssh.options.{name}`"), out)?;
                out.fact(|| format!("ssh.options.{name}"), || value.clone(), &place);
                Some((name.to_owned(), value))
            })
            .collect(),
    }
}

/// Whether ssh takes a host key that it does not know, and writes it down.
fn accepts(strict: &str) -> bool {
    ["accept-new", "no", "off", "false"].iter().any(|word| word.eq_ignore_ascii_case(strict))
}

/// What ssh writes down is what a host says, so the inventory may name such a file or have it written,
/// not both: `known_hosts: ~/.ssh/authorized_keys` would let the host in where kvmfw runs.
fn written(file: &Path, accept: &str, place: &Place) -> Problem {
    let message =
        format!("`StrictHostKeyChecking: {accept}` would write keys into `known_hosts: {}`", file.display());
    Problem::new("ssh-option", message).at_place(place).help(
        "such a file is only read: add keys with ssh-keyscan, or leave known_hosts out and ssh writes its own",
    )
}

/// All checks of a host; the same one twice is one.
pub fn checks<'a>(
    sources: impl Iterator<Item = &'a DeclaredResources>,
    out: &mut CompileReport,
) -> Vec<ConfirmCheck> {
    let mut checks: Vec<ConfirmCheck> = Vec::new();
    for check in sources.flat_map(|resources| &resources.checks) {
        let same = |known: &ConfirmCheck| {
            (&known.probe, known.from, known.timeout, known.required)
                == (&check.probe, check.from, check.timeout, check.required)
        };
        if checks.iter().any(same) {
            continue;
        }
        if let Some(facts) = &mut out.facts {
            facts.push((
                format!("checks[{}]", checks.len() + 1),
                check.probe.to_string(),
                check.origin.clone(),
            ));
        }
        checks.push(check.clone());
    }
    checks
}

/// All expectations of a host; the same one twice is one.
pub fn expectations<'a>(
    stated: impl Iterator<Item = &'a Expectation>,
    out: &mut CompileReport,
) -> Vec<Expectation> {
    let mut all: Vec<Expectation> = Vec::new();
    for expectation in stated {
        if all
            .iter()
            .any(|known| Expectation { origin: expectation.origin.clone(), ..known.clone() } == *expectation)
        {
            continue;
        }
        if let Some(facts) = &mut out.facts {
            facts.push((
                format!("expect[{}]", all.len() + 1),
                expectation.to_string(),
                expectation.origin.clone(),
            ));
        }
        all.push(expectation.clone());
    }
    all
}
