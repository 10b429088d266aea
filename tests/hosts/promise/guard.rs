//! The guard dies.

use crate::common::project::Project;
use crate::common::transaction::{between, end, newest, opened, read, start, wait};
use crate::common::{self, Lab};
use crate::promise::{HOST, LIMITS, id_of, kill, marked, rules, same, slow};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// The guards of a transaction by their pids on the host: the one that holds the lock, and the others.
fn guards(lab: &Lab, id: &str) -> (Vec<u32>, Vec<u32>) {
    let script = format!(
        "cd /proc; for p in [0-9]*; do \
           [ \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" = 'sh /run/kvmfw/{id}/kvmfw.sh guard {id} ' ] || continue; \
           if [ \"$(readlink $p/fd/9)\" = /var/lib/kvmfw/lock ]; then echo holds $p; else echo waits $p; fi; done"
    );
    let text = lab.host(HOST, &["sh", "-c", &script]).ok();
    let of = |word: &str| -> Vec<u32> {
        text.lines().filter_map(|l| l.strip_prefix(word)?.trim().parse().ok()).collect()
    };
    (of("holds"), of("waits"))
}

fn kill_on_host(lab: &Lab, pids: &[u32]) {
    assert!(!pids.is_empty(), "no guard to kill");
    let mut command = vec!["kill".to_owned(), "-KILL".to_owned()];
    command.extend(pids.iter().map(ToString::to_string));
    lab.host(HOST, &command).ok();
}

#[test]
fn one_guard_dies_and_the_second_commits() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &slow(80));
    let kvmfw = start(&lab, &project, &["--accept-risk", "lockout"]);
    let folder = marked(&lab, "applied", None);
    kill_on_host(&lab, &guards(&lab, &id_of(&folder)).0);
    let run = end(kvmfw).expect(0);
    assert!(run.stdout.contains("changed         1"), "{}", run.stdout);
    assert_eq!(read(&folder, "done"), "committed");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}

#[test]
fn one_guard_dies_and_the_second_rolls_back() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &rules("-j DROP"));
    let before = lab.dump(HOST);
    let kvmfw = start(&lab, &project, &["--accept-risk", "lockout"]);
    let folder = marked(&lab, "applied", None);
    kill_on_host(&lab, &guards(&lab, &id_of(&folder)).0);
    let run = end(kvmfw).expect(4);
    assert!(run.stdout.contains("ROLLED BACK"), "{}", run.stdout);
    let took = between(&folder, "armed", "done");
    assert!(took <= LIMITS + Duration::from_secs(5), "back after {took:?}");
    same(&before, &lab.dump(HOST));
}

/// Both guards die while the first apply of a host is being staged. Others take their place, and it goes on.
#[test]
fn both_guards_die_before_anything_is_armed() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let check = "test -e /root/go || { touch /root/first; until test -e /root/go; do sleep 0.05; done; }";
    let text = format!("{}checks: [{{ command: '{check}', timeout: 30s, required: true }}]\n", opened(80));
    let project = Project::new(&lab, &[HOST], &text);
    let kvmfw = start(&lab, &project, &[]);
    wait("it is staged", LIMITS, || lab.disk(HOST, "/root/first").exists().then_some(()));
    let folder = newest(&lab, HOST).unwrap();
    assert!(!folder.join("armed").exists());
    let (holds, waits) = guards(&lab, &id_of(&folder));
    kill_on_host(&lab, &[holds, waits].concat());
    std::fs::write(lab.disk(HOST, "/root/go"), "").unwrap();
    let run = end(kvmfw).expect(0);
    assert!(run.stdout.contains("changed         1"), "{}", run.stdout);
    assert_eq!(read(&folder, "done"), "committed");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}

/// The guard dies, and the host's lock is not free at once: another one was in line for it. The twin waits
/// for the lock, and ends the transaction; it does not call it busy, and leave it open for ever.
#[test]
fn one_guard_dies_and_the_second_does_not_get_the_lock_at_once() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &rules("-j DROP"));
    let before = lab.dump(HOST);
    let kvmfw = start(&lab, &project, &["--accept-risk", "lockout"]);
    let folder = marked(&lab, "applied", None);
    let script = "touch /run/has-it; until test -e /run/free; do sleep 0.05; done";
    let mut command = lab.host_command(HOST);
    let mut in_line = command.args(["flock", "/var/lib/kvmfw/lock", "sh", "-c", script]).spawn().unwrap();
    let inode = std::fs::metadata(lab.disk(HOST, "/var/lib/kvmfw/lock")).unwrap().ino();
    wait("it is in line", LIMITS, || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("->") && line.contains(&format!(":{inode} "))).then_some(())
    });
    kill_on_host(&lab, &guards(&lab, &id_of(&folder)).0);
    wait("the other one has the lock", LIMITS, || {
        lab.host(HOST, &["test", "-e", "/run/has-it"]).success().then_some(())
    });
    lab.host(HOST, &["touch", "/run/free"]).ok();
    assert!(in_line.wait().unwrap().success());
    end(kvmfw).expect(4);
    assert!(read(&folder, "done").starts_with("rolled-back"), "{}", read(&folder, "done"));
    assert!(!lab.disk(HOST, "/var/lib/kvmfw/open").is_symlink(), "it was left open");
    same(&before, &lab.dump(HOST));
}

/// kvmfw and both guards die in the window; what is left over is ended by what comes next.
fn orphaned(recover: impl Fn(&Lab, &Project, &str)) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &opened(80));
    project.apply(&lab, &[]).expect(0);
    let last = newest(&lab, HOST);
    let before = lab.dump(HOST);
    project.all(&slow(81));
    let mut kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, "applied", last.as_ref());
    kill(&mut kvmfw);
    let (holds, waits) = guards(&lab, &id_of(&folder));
    kill_on_host(&lab, &[holds, waits].concat());
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(status.stdout.contains(&format!("OPEN transaction {}", id_of(&folder))), "{}", status.stdout);
    assert!(!folder.join("done").exists(), "somebody ended it");
    recover(&lab, &project, &before);
    assert!(read(&folder, "done").starts_with("rolled-back"), "{}", read(&folder, "done"));
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(!status.stdout.contains("OPEN"), "{}", status.stdout);
}

#[test]
fn both_guards_die_and_unlock_restores_the_host() {
    orphaned(|lab, project, before| {
        let unlock = project.kvmfw(lab, &["unlock", HOST, "-y"]).expect(0);
        assert!(unlock.stdout.contains("rolled back"), "{}", unlock.stdout);
        same(before, &lab.dump(HOST));
        project.kvmfw(lab, &["plan", "--detailed-exitcode"]).expect(2);
    });
}

#[test]
fn both_guards_die_and_the_next_apply_goes_on() {
    orphaned(|lab, project, before| {
        // A plan changes nothing; an apply ends it first, and plans against what that leaves.
        project.all(&opened(82));
        let half = lab.dump(HOST);
        project.kvmfw(lab, &["plan", "--detailed-exitcode"]).expect(2);
        same(&half, &lab.dump(HOST));
        assert_ne!(&half, before);
        let run = project.apply(lab, &[]).expect(0);
        assert!(run.stderr.contains("ended an abandoned transaction first"), "{}", run.stderr);
        project.kvmfw(lab, &["plan", "--detailed-exitcode"]).expect(0);
        let live = lab.host(HOST, &["iptables-save"]).ok();
        assert!(live.contains("--dport 82") && !live.contains("--dport 81"), "{live}");
    });
}
