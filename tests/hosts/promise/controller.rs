//! kvmfw dies, at each step.

use crate::common::project::Project;
use crate::common::transaction::{between, newest, opened, read, start, wait};
use crate::common::{self, Lab};
use crate::promise::{HOST, LIMITS, kill, marked, same, slow};
use std::time::Duration;

/// kvmfw is killed at a mark; then the host ends it alone, and `status` knows.
fn killed_at(mark: &str) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &slow(80));
    for round in 0..2 {
        if round == 1 {
            project.all(&opened(81));
            project.apply(&lab, &[]).expect(0);
            project.all(&slow(82));
        }
        let before = lab.dump(HOST);
        let last = newest(&lab, HOST);
        let mut kvmfw = start(&lab, &project, &[]);
        let folder = marked(&lab, mark, last.as_ref());
        kill(&mut kvmfw);
        wait("the host ends it", LIMITS + Duration::from_secs(5), || {
            folder.join("done").exists().then_some(())
        });
        assert_eq!(read(&folder, "done"), "rolled-back: nobody confirmed over a new connection within 5s");
        let took = between(&folder, "armed", "done");
        assert!(took <= LIMITS + Duration::from_secs(5), "killed at {mark}: back after {took:?}");
        same(&before, &lab.dump(HOST));
        let status = project.kvmfw(&lab, &["status"]).expect(0);
        assert!(status.stdout.contains("rolled-back: nobody confirmed"), "{}", status.stdout);
        assert!(!status.stdout.contains("OPEN") && !status.stdout.contains("locked by"), "{}", status.stdout);
        project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    }
    project.all(&opened(82));
    project.apply(&lab, &[]).expect(0);
}

#[test]
fn killed_when_armed() {
    killed_at("armed");
}

#[test]
fn killed_when_the_change_begins() {
    killed_at("claim");
}

#[test]
fn killed_when_the_change_ended() {
    killed_at("result");
}

#[test]
fn killed_when_applied() {
    killed_at("applied");
}

#[test]
fn killed_when_decided() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &opened(80));
    let mut kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, "decision", None);
    kill(&mut kvmfw);
    wait("the host ends it", Duration::from_secs(5), || folder.join("done").exists().then_some(()));
    assert_eq!(read(&folder, "done"), "committed");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(status.stdout.contains("committed"), "{}", status.stdout);
}

/// Before it is armed nothing is touched; the lock can be had at once by `unlock`.
#[test]
fn killed_before_it_is_armed() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &slow(80));
    let before = lab.dump(HOST);
    let mut kvmfw = start(&lab, &project, &[]);
    // The check runs before arming too, and takes three seconds.
    let folder = marked(&lab, "generation", None);
    let script = lab.disk(HOST, "/var/lib/kvmfw/kvmfw.sh");
    wait("the host's own script", Duration::from_secs(10), || script.exists().then_some(()));
    kill(&mut kvmfw);
    assert!(!folder.join("armed").exists(), "armed before its checks");
    let unlock = project.kvmfw(&lab, &["unlock", HOST, "-y"]).expect(0);
    assert!(
        unlock.stdout.contains("released before the change started"),
        "{}{}",
        unlock.stdout,
        unlock.stderr
    );
    assert!(read(&folder, "done").starts_with("released"), "{}", read(&folder, "done"));
    project.all(&opened(80));
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    same(&before, &lab.dump(HOST));
    project.apply(&lab, &[]).expect(0);
}
