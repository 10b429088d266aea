//! Faults, each against real processes; `book/src/faults.md` says which row of the list is which test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod adopt;
mod checks;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod flows;
mod hangs;
mod keys;
mod leftovers;
mod lock;
mod mended;
mod misread;
mod open;
mod power;
mod rollback;
mod session;
mod undo;

use common::project::Project;
use common::transaction::{opened, wait};
use common::{Backend, Lab, Shell};
use std::process::{Child, Stdio};
use std::time::Duration;

const HOST: &str = "kvm1";
const LONG: Duration = Duration::from_secs(60);

/// A lab whose host has a generation that opens port 80.
fn managed(backend: Backend) -> Option<(Lab, Project)> {
    managed_in(backend, Shell::Dash)
}

/// The same, and the host's scripts run in this shell.
fn managed_in(backend: Backend, shell: Shell) -> Option<(Lab, Project)> {
    if !common::require_root() {
        return None;
    }
    let lab = Lab::builder().backend(backend).shell(shell).up();
    let project = Project::new(&lab, &[HOST], &opened(80));
    project.apply(&lab, &[]).expect(0);
    Some((lab, project))
}

fn on_host(lab: &Lab, script: &str) -> String {
    lab.host(HOST, &["sh", "-c", script]).ok()
}

/// Kills the processes of a host whose command line contains a text.
fn kill_where(lab: &Lab, text: &str) -> usize {
    let script = "cd /proc; for p in [0-9]*; do [ $p = $$ ] || printf '%s %s\\n' \"$p\" \"$(tr '\\0' ' ' <$p/cmdline)\"; done 2>/dev/null";
    let all = on_host(lab, script);
    let found: Vec<&str> =
        all.lines().filter(|l| l.contains(text)).filter_map(|l| l.split(' ').next()).collect();
    for pid in &found {
        lab.host(HOST, &["kill", "-KILL", pid]);
    }
    found.len()
}

fn pending(lab: &Lab, project: &Project) {
    project.kvmfw(lab, &["plan", "--detailed-exitcode"]).expect(2);
}

fn settled(lab: &Lab, project: &Project) {
    project.kvmfw(lab, &["plan", "--detailed-exitcode"]).expect(0);
}

/// Somebody holds the lock of iptables until a file is there.
fn hold_lock(lab: &Lab, free: &str) -> Child {
    on_host(lab, "rm -f /run/held");
    let script = format!("touch /run/held; until test -e {free}; do sleep 0.05; done");
    let mut command = lab.host_command(HOST);
    command.args(["flock", "/run/xtables.lock", "sh", "-c", &script]).stdout(Stdio::null());
    let child = command.spawn().unwrap();
    wait("the lock is held", LONG, || lab.host(HOST, &["test", "-e", "/run/held"]).success().then_some(()));
    child
}
