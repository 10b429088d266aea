//! The link is cut.

use crate::common::project::Project;
use crate::common::transaction::{between, end, newest, opened, read, start, wait};
use crate::common::{self, Cut, Lab};
use crate::promise::{HOST, LIMITS, marked, same, slow};
use std::fs;
use std::time::Duration;

/// The link is cut at a mark and mended when the host has ended it: told as it is.
fn cut_at(mark: &str, how: Cut) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &slow(80));
    let before = lab.dump(HOST);
    let kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, mark, None);
    lab.cut(HOST, how);
    wait("the host ends it", LIMITS + Duration::from_secs(5), || folder.join("done").exists().then_some(()));
    assert!(read(&folder, "done").starts_with("rolled-back: nobody confirmed"), "{}", read(&folder, "done"));
    let took = between(&folder, "armed", "done");
    assert!(took <= LIMITS + Duration::from_secs(5), "back after {took:?}");
    same(&before, &lab.dump(HOST));
    lab.mend(HOST);
    let run = end(kvmfw).expect(4);
    assert!(run.stdout.contains("ROLLED BACK: nobody confirmed"), "{}", run.stdout);
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(status.stdout.contains("rolled-back"), "{}", status.stdout);
}

#[test]
fn the_link_is_cut_when_armed() {
    cut_at("armed", Cut::Both);
}

#[test]
fn the_link_is_cut_when_the_change_begins() {
    cut_at("claim", Cut::Both);
}

#[test]
fn the_link_is_cut_when_applied() {
    cut_at("applied", Cut::Both);
}

#[test]
fn packets_from_the_host_are_lost_when_armed() {
    cut_at("armed", Cut::From);
}

#[test]
fn packets_to_the_host_are_lost_when_the_change_begins() {
    cut_at("claim", Cut::To);
}

/// Before it is armed nothing is touched, and the host lets go by itself, after two minutes and the time that checks may take:
/// `KVMFW_LONG=1`.
#[test]
fn the_link_is_cut_when_staged() {
    if std::env::var_os("KVMFW_LONG").is_none() {
        common::tell(
            "\nNIGHTLY: not run, two minutes of waiting belong to .ci/nightly; run me with KVMFW_LONG=1",
        );
        return;
    }
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &slow(80));
    let before = lab.dump(HOST);
    let kvmfw = start(&lab, &project, &[]);
    // The check runs before arming too, and takes three seconds.
    let folder = marked(&lab, "generation", None);
    lab.cut(HOST, Cut::Both);
    wait("the host ends it", Duration::from_secs(150), || folder.join("done").exists().then_some(()));
    assert!(read(&folder, "done").starts_with("released"), "{}", read(&folder, "done"));
    assert!(!folder.join("armed").exists());
    let run = end(kvmfw);
    assert_ne!(run.code, 0, "{}{}", run.stdout, run.stderr);
    lab.mend(HOST);
    same(&before, &lab.dump(HOST));
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(!status.stdout.contains("OPEN") && !status.stdout.contains("locked by"), "{}", status.stdout);
    project.all(&opened(80));
    project.apply(&lab, &[]).expect(0);
}

#[test]
fn packets_from_the_host_are_lost_when_applied() {
    cut_at("applied", Cut::From);
}

#[test]
fn packets_to_the_host_are_lost_when_applied() {
    cut_at("applied", Cut::To);
}

/// The decision is made and the word of it lost: what lasts is not called a failure.
#[test]
fn the_reply_to_the_commit_is_lost() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &opened(80));
    let kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, "decision", None);
    lab.cut(HOST, Cut::Both);
    wait("the host ends it", Duration::from_secs(5), || folder.join("done").exists().then_some(()));
    assert_eq!(read(&folder, "done"), "committed");
    lab.mend(HOST);
    let run = end(kvmfw).expect(0);
    assert!(run.stdout.contains("changed         1"), "{}", run.stdout);
}

/// Nobody can tell, so nobody says: unknown, and the host does what it promised.
#[test]
fn the_link_stays_cut() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &slow(80));
    let before = lab.dump(HOST);
    let kvmfw = start(&lab, &project, &["--format", "json"]);
    let folder = marked(&lab, "armed", None);
    lab.cut(HOST, Cut::Both);
    let run = end(kvmfw).expect(6);
    let host = run.json()["hosts"][0].clone();
    assert_eq!(host["status"], "unknown", "{host}");
    assert!(host["hint"].as_str().unwrap().contains("kvmfw status"), "{host}");
    assert!(read(&folder, "done").starts_with("rolled-back"), "{}", read(&folder, "done"));
    same(&before, &lab.dump(HOST));
    lab.mend(HOST);
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(status.stdout.contains("rolled-back: nobody confirmed"), "{}", status.stdout);
}

/// What is over leaves no process behind: no timer, no guard, no shell.
#[test]
fn no_process_of_kvmfw_is_left_running() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let processes = |lab: &Lab| {
        let script = "cd /proc; for p in [0-9]*; do [ $p = $$ ] || printf '%s %s\\n' \"$p\" \"$(tr '\\0' ' ' <$p/cmdline)\"; done 2>/dev/null";
        let text = lab.host(HOST, &["sh", "-c", script]).ok();
        text.lines()
            .filter(|l| l.contains("kvmfw") || l.contains("sleep"))
            .filter(|l| !l.ends_with("sleep infinity "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = processes(&lab);
    let project = Project::new(&lab, &[HOST], &opened(80));
    project.apply(&lab, &[]).expect(0);
    assert_eq!(processes(&lab), before, "after a commit");
    project.all(&format!("{}checks: [{{ command: 'false', required: true }}]\n", opened(81)));
    project.apply(&lab, &[]).expect(4);
    assert_eq!(processes(&lab), before, "after a rollback");
}

/// An apply that hangs is killed before the restore begins, and does not come back to it.
#[test]
fn an_apply_hangs() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    // The second family hangs, so the first is changed; when it wakes up it would still load its rules.
    let tool = lab.disk(HOST, "/etc/alternatives/ip6tables-restore");
    fs::remove_file(&tool).unwrap();
    let script = "#!/bin/bash\ntext=$(cat)\n[[ \"$*\" == *-w* && $text == *'--dport 80 '* ]] && sleep 8\nexec /usr/sbin/ip6tables-nft-restore \"$@\" <<<\"$text\"\n";
    fs::write(&tool, script).unwrap();
    lab.host(HOST, &["chmod", "755", "/etc/alternatives/ip6tables-restore"]).ok();
    let project = Project::new(&lab, &[HOST], &opened(80));
    let before = lab.dump(HOST);
    let run =
        project.kvmfw(&lab, &["apply", "-y", "--apply-timeout", "4s", "--confirm-timeout", "5s"]).expect(4);
    assert!(run.stdout.contains("the change was not applied within 4s"), "{}", run.stdout);
    let folder = newest(&lab, HOST).unwrap();
    let took = between(&folder, "armed", "done");
    assert!(took <= Duration::from_secs(4 + 3), "back after {took:?}");
    same(&before, &lab.dump(HOST));
    let sleepers = "cd /proc; for p in [0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null; echo; done";
    let left = lab.host(HOST, &["sh", "-c", sleepers]).ok();
    assert!(!left.contains("sleep 8") && !left.contains("ip6tables-restore"), "it runs on: {left}");
}
