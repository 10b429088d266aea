//! T40: no space, or no writing; no global sync.

use crate::common::project::Project;
use crate::common::trace::trace;
use crate::common::transaction::{opened, wait};
use crate::common::{self, Backend, Lab, same, transaction};
use crate::{HOST, LONG, hold_lock, on_host};
use std::time::Duration;

#[test]
fn t40_a_full_disk_is_refused_before_anything_is_armed() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(
        &lab,
        "mkdir -p /var/lib/kvmfw && mount -t tmpfs -o size=64k none /var/lib/kvmfw && head -c 60000 /dev/zero >/var/lib/kvmfw/full",
    );
    let before = on_host(&lab, "iptables-save; ip6tables-save");
    let project = Project::new(&lab, &[HOST], &opened(80));
    let run = project.apply(&lab, &["--format", "json"]).expect(4);
    let host = run.json()["hosts"][0].clone();
    assert_eq!((&host["status"], &host["reason"]), (&"failed".into(), &"no-space".into()), "{host:#}");
    assert_eq!(on_host(&lab, "find /var/lib/kvmfw -name armed"), "", "it was armed");
    assert_eq!(on_host(&lab, "iptables-save; ip6tables-save"), before, "it was touched");
    on_host(&lab, "umount /var/lib/kvmfw");
    project.apply(&lab, &[]).expect(0);
}

/// A disk that fails at the last write before the change: the host keeps nothing of the attempt.
#[test]
fn t40_a_disk_that_fails_while_it_arms() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(
        &lab,
        "cp /usr/bin/sync /run/sync.real && printf '#!/bin/sh\\ncase \"$*\" in *boot_id*) exit 1 ;; esac\\nexec /run/sync.real \"$@\"\\n' >/run/sync && chmod 755 /run/sync && mount --bind /run/sync /usr/bin/sync",
    );
    let project = Project::new(&lab, &[HOST], &opened(80));
    let before = lab.dump_without(HOST, &["/var/lib/kvmfw", "/run"]);
    let run = project.apply(&lab, &["--format", "json"]).expect(4);
    assert_eq!(run.json()["hosts"][0]["status"], "failed", "{}", run.stdout);
    same(&before, &lab.dump_without(HOST, &["/var/lib/kvmfw", "/run"]), "after the attempt");
    on_host(&lab, "umount /usr/bin/sync");
    project.apply(&lab, &[]).expect(0);
}

/// From now on `command` makes writing impossible; then nobody commits, and the host goes back.
fn unwritable(command: &str) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(&lab, "mkdir -p /var/lib/kvmfw && mount -t tmpfs -o size=8m,nr_inodes=500 none /var/lib/kvmfw");
    let before = on_host(&lab, "iptables-save; ip6tables-save").replace(char::is_numeric, "");
    let check = format!("test -e /run/first || {{ touch /run/first; exit 0; }}; {command}; exit 0");
    let project = Project::new(&lab, &[HOST], &format!("{}checks: [{{ command: '{check}' }}]\n", opened(80)));
    let run = project.apply(&lab, &[]);
    assert!([4, 6].contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
    let rules = || on_host(&lab, "iptables-save; ip6tables-save");
    wait("the host is back", LONG, || (!rules().contains("KVMFW")).then_some(()));
    assert!(!rules().contains("KVMFW"), "was {before}");
}

#[test]
fn t40_a_disk_that_fills_up_after_arming() {
    unwritable("i=0; while touch /var/lib/kvmfw/full$i; do i=$((i+1)); done");
}

/// A disk that refuses to be written has no record of the rollback until it takes it; meanwhile nothing else begins.
#[test]
fn t40_a_disk_that_refuses_the_record_is_asked_again() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(&lab, "mkdir -p /var/lib/kvmfw && mount -t tmpfs -o size=8m,nr_inodes=500 none /var/lib/kvmfw");
    let before = on_host(&lab, "iptables-save; ip6tables-save");
    let check = "test -e /run/first || { touch /run/first; exit 0; }; i=0; while touch /var/lib/kvmfw/full$i; do i=$((i+1)); done; exit 0";
    let project = Project::new(&lab, &[HOST], &format!("{}checks: [{{ command: '{check}' }}]\n", opened(80)));
    let run = project.kvmfw(&lab, &["apply", "-y", "--confirm-timeout", "3s"]);
    assert!([4, 6].contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
    let rules = || on_host(&lab, "iptables-save; ip6tables-save");
    wait("the host is back", LONG, || (!rules().contains("KVMFW")).then_some(()));
    let said = || lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "outcome"]).stdout;
    wait("it says so", LONG, || said().contains("does not take it").then_some(()));
    assert!(said().contains("state=rolled-back"), "{}", said());
    let console = lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "rollback"]);
    assert!(console.stdout.contains("state=rolled-back"), "{console:?}");
    on_host(&lab, "rm /var/lib/kvmfw/full*");
    wait("it is on record", LONG, || {
        on_host(&lab, "cat /var/lib/kvmfw/txn/*/done || true").contains("rolled-back").then_some(())
    });
    project.all(&opened(80));
    let held = || project.kvmfw(&lab, &["apply", "-y", "--format", "json"]);
    wait("the lock is free", LONG, || (held().code == 0).then_some(()));
    assert_ne!(rules(), before);
}

/// What lets no new connection in is live, and the disk is too full to write the deadline of the confirm
/// down. It holds all the same.
#[test]
fn t40_a_disk_that_fills_up_under_a_lockout() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(Backend::Legacy).up();
    on_host(&lab, "mkdir -p /var/lib/kvmfw && mount -t tmpfs -o size=8m none /var/lib/kvmfw");
    let project = Project::new(&lab, &[HOST], &opened(80));
    project.apply(&lab, &[]).expect(0);
    let before = lab.dump(HOST);
    project.all(&opened(80).replace("22, ", ""));
    let mut holder = hold_lock(&lab, "/run/free");
    let kvmfw = project.spawn(
        &lab,
        &["apply", "-y", "--accept-risk", "lockout", "--apply-timeout", "90s", "--confirm-timeout", "3s"],
    );
    let is_so = |script: &str| lab.host(HOST, &["sh", "-c", script]).success().then_some(());
    wait("the change waits for the lock", LONG, || {
        is_so(
            "t=$(readlink /var/lib/kvmfw/open) && tail -n 1 /var/lib/kvmfw/$t/journal | grep -q ' iptables$' && pgrep -f '^[^ ]*iptables[^ ]*-restore'",
        )
    });
    on_host(&lab, "cat /dev/zero >/var/lib/kvmfw/filler 2>/dev/null; true");
    on_host(&lab, "touch /run/free");
    holder.wait().unwrap();
    wait("the change is live", LONG, || {
        is_so("! iptables -S KVMFW-RH-Firewall-1-INPUT | grep -q 'dport 22 '")
    });
    // Long before the deadline of the step before, which is the one on the disk.
    wait("it goes back", Duration::from_secs(30), || {
        is_so("iptables -S KVMFW-RH-Firewall-1-INPUT | grep -q 'dport 22 '")
    });
    on_host(&lab, "rm /var/lib/kvmfw/filler");
    assert_eq!(transaction::end(kvmfw).code, 4);
    same(&before, &lab.dump(HOST), "after the rollback");
}

/// /etc cannot be written while the first apply is taken back. What came for it goes as soon as it can.
#[test]
fn t40_an_etc_that_is_read_only_for_a_while() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let before = lab.dump(HOST);
    let check = "test -e /run/first || { touch /run/first; exit 0; }; mount --bind /etc /etc; mount -o remount,ro,bind /etc; exit 1";
    let checks = format!("checks: [{{ command: '{check}', required: true }}]\n");
    let project = Project::new(&lab, &[HOST], &format!("{}{checks}", opened(80)));
    let kvmfw = transaction::start(&lab, &project, &[]);
    let is_so = |script: &str| lab.host(HOST, &["sh", "-c", script]).success().then_some(());
    wait("it cannot clear away", LONG, || is_so("grep -q 'cannot remove' /run/kvmfw/*/log"));
    on_host(&lab, "umount /etc");
    let run = transaction::end(kvmfw);
    assert_eq!(run.code, 4, "{}{}", run.stdout, run.stderr);
    same(&before, &lab.dump(HOST), "after the rollback");
}

/// 300 MB of dirty pages lie about; nothing that an apply does asks for them to be written.
#[test]
fn no_script_syncs_all_filesystems() {
    if !common::require_root() || !common::require_tools(&["strace"]) {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let trace = trace(&lab, HOST, "sync,syncfs,fsync,fdatasync");
    on_host(&lab, "head -c 300000000 /dev/zero >/root/dirty");
    let project = Project::new(&lab, &[HOST], &opened(80));
    let done =
        project.kvmfw(&lab, &["apply", "-y", "--apply-timeout", "60s", "--confirm-timeout", "60s"]).expect(0);
    project.kvmfw(&lab, &["undo", &done.run(), "-y"]).expect(0);
    let calls = trace.end();
    // It sees what is written on purpose, so it would have seen the rest.
    assert!(calls.contains("fsync("), "the trace saw nothing: {calls}");
    let global: Vec<&str> = calls.lines().filter(|l| l.contains(" sync(") || l.contains("syncfs(")).collect();
    assert!(global.is_empty(), "{global:#?}");
}
