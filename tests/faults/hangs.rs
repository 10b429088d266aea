//! Something on the way to the rollback does not answer: the disk, the guards, a program.

use crate::common::project::Project;
use crate::common::transaction::{end, ended, held, marked, newest, opened, read, start, wait};
use crate::common::{self, Backend, Lab, same};
use crate::{HOST, LONG, hold_lock, on_host};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// After a deadline a guard that moves is through within five seconds; one that has to be replaced, within five more
/// for its silence and five for its second to look.
const REPLACED: Duration = Duration::from_secs(5 + 5 + 5);
const LOCKOUT: [&str; 2] = ["--accept-risk", "lockout"];

/// The disk of a host (/etc, /var, /root, /home), which stands still: whoever writes waits in the kernel and cannot be
/// killed.
struct Frozen(PathBuf);

impl Frozen {
    #[track_caller]
    fn now(lab: &Lab) -> Self {
        let disk = lab.disk(HOST, "/");
        // What is decided is live; nothing else of the test is under way on that disk.
        assert!(Command::new("fsfreeze").arg("-f").arg(&disk).status().unwrap().success());
        Self(disk)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.0).status();
    }
}

/// The same, but what is written is taken into memory: only who waits for it to be on disk waits for ever.
struct Stalled(String);

impl Stalled {
    const LIMITS: [&str; 2] = ["read", "write"];

    fn file(what: &str) -> String {
        format!("/sys/fs/cgroup/blkio/blkio.throttle.{what}_bps_device")
    }

    #[track_caller]
    fn now(lab: &Lab) -> Self {
        let device = std::fs::metadata(lab.disk(HOST, "/")).unwrap().dev();
        let stalled = Self(format!("{}:{}", device >> 8, device & 255));
        stalled.bytes_a_second(1);
        stalled
    }

    fn bytes_a_second(&self, most: u32) {
        for what in Self::LIMITS {
            std::fs::write(Self::file(what), format!("{} {most}\n", self.0)).unwrap();
        }
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.bytes_a_second(0);
    }
}

/// A host with a disk of its own, or one with guards that are services.
fn host(image: bool, services: bool) -> Option<(Lab, Project)> {
    if !common::require_root() || !common::require_tools(&["fsfreeze"]) {
        return None;
    }
    let lab = Lab::builder().backend(Backend::Legacy).image(image).services(services).guests(false).up();
    let project = Project::new(&lab, &[HOST], &opened(80));
    project.apply(&lab, &[]).expect(0);
    Some((lab, project))
}

/// Whether a new connection comes through to sshd.
fn reachable(lab: &Lab) -> bool {
    let address = lab.address(HOST);
    let script = format!("exec 3<>/dev/tcp/{address}/22 && read -rt 2 line <&3 && [[ $line == SSH-2.0-* ]]");
    lab.exec(&["timeout", "2", "bash", "-c", &script]).success()
}

fn live(lab: &Lab) -> String {
    let text = on_host(lab, "iptables-save; ip6tables-save; sysctl net.ipv4.ip_default_ttl");
    text.lines().filter(|l| !l.starts_with(['#', ':'])).fold(String::new(), |all, line| all + line + "\n")
}

fn id_of(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

/// The guard that acts, and the other one.
fn guards(lab: &Lab, id: &str) -> (String, String) {
    let script = format!(
        "for i in 1 2 3; do [ -e /run/kvmfw/{id}/act.$i ] && act=$(cut -d ' ' -f 1 /run/kvmfw/{id}/act.$i); done; \
         for p in $(pgrep -f '^sh .*kvmfw.sh guard {id}'); do [ $p = $act ] || echo $p; done | head -n 1; echo $act"
    );
    let text = on_host(lab, &script);
    let mut lines = text.lines().map(str::to_owned);
    let other = lines.next().unwrap();
    (lines.next().expect("two guards"), other)
}

/// A change that lets no new connection in.
fn locked_out(project: &Project) {
    project.all(&opened(81).replace("22, ", ""));
}

/// Waits until the host lets connections in, and is as `before`.
#[track_caller]
fn back(lab: &Lab, before: &str, limit: Duration) {
    let began = Instant::now();
    wait("the host is reachable", limit, || reachable(lab).then_some(()));
    wait("all is as before", limit.saturating_sub(began.elapsed()), || (live(lab) == before).then_some(()));
}

#[test]
fn a_disk_that_hangs_when_applied() {
    let Some((lab, project)) = host(true, false) else { return };
    let before = (live(&lab), lab.dump(HOST));
    let last = newest(&lab, HOST);
    locked_out(&project);
    let kvmfw = start(&lab, &project, &LOCKOUT);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    let frozen = Frozen::now(&lab);
    assert!(!reachable(&lab), "it is locked out");
    back(&lab, &before.0, Duration::from_secs(5 + 5));
    let status = || lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "status"]).stdout;
    wait("the disk is told of", LONG, || status().contains("rolled_back").then_some(()));
    let outcome = lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "outcome"]).stdout;
    assert!(outcome.contains("not on record yet: the disk does not answer"), "{outcome}");
    assert_eq!(read(&folder, "done"), "", "it is on record");
    drop(frozen);
    assert!(ended(&folder).starts_with("rolled_back: nobody confirmed"), "{}", read(&folder, "done"));
    let run = end(kvmfw);
    assert!([4, 6].contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
    same(&before.1, &lab.dump(HOST), "after the rollback");
}

#[test]
fn a_disk_that_takes_what_is_written_and_does_not_keep_it() {
    if !Path::new(&Stalled::file("write")).exists() {
        eprintln!("SKIPPED: needs the throttle of the blkio controller");
        return;
    }
    let Some((lab, project)) = host(true, false) else { return };
    let before = (live(&lab), lab.dump(HOST));
    let last = newest(&lab, HOST);
    locked_out(&project);
    let kvmfw = start(&lab, &project, &LOCKOUT);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    let stalled = Stalled::now(&lab);
    assert!(!reachable(&lab), "it is locked out");
    back(&lab, &before.0, Duration::from_secs(5 + 5));
    drop(stalled);
    assert!(ended(&folder).starts_with("rolled_back: nobody confirmed"), "{}", read(&folder, "done"));
    let run = end(kvmfw);
    assert!([4, 6].contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
    same(&before.1, &lab.dump(HOST), "after the rollback");
}

/// What a rollback needs does not fit into memory: then nothing is armed.
#[test]
fn a_run_without_room_is_refused() {
    let Some((lab, project)) = host(false, false) else { return };
    let before = lab.dump(HOST);
    on_host(&lab, "mkdir -p /run/kvmfw; mount -t tmpfs -o size=64k none /run/kvmfw");
    project.all(&opened(81));
    let run = project.apply(&lab, &["--format", "json"]).expect(4);
    let host = run.json()["hosts"][0].clone();
    assert_eq!((&host["status"], &host["reason"]), (&"failed".into(), &"no_space".into()), "{host:#}");
    assert_eq!(on_host(&lab, "readlink /var/lib/kvmfw/open || true"), "", "it was armed");
    same(&before, &lab.dump(HOST), "after the refusal");
    on_host(&lab, "umount /run/kvmfw");
    project.apply(&lab, &[]).expect(0);
}

/// The apply itself waits for the disk, and does not even die.
#[test]
fn a_disk_that_hangs_while_the_change_is_made() {
    let Some((lab, project)) = host(true, false) else { return };
    let before = (live(&lab), lab.dump(HOST));
    let last = newest(&lab, HOST);
    locked_out(&project);
    let mut holder = hold_lock(&lab, "/run/free");
    let kvmfw = start(&lab, &project, &LOCKOUT);
    let folder = marked(&lab, HOST, "claim", last.as_ref());
    wait("the change waits", LONG, || read(&folder, "journal").ends_with("iptables").then_some(()));
    let frozen = Frozen::now(&lab);
    on_host(&lab, "touch /run/free");
    holder.wait().unwrap();
    wait("the change is live", LONG, || (live(&lab) != before.0).then_some(()));
    back(&lab, &before.0, Duration::from_secs(10 + 5 + 5));
    drop(frozen);
    assert!(
        ended(&folder).starts_with("rolled_back: the change was not applied"),
        "{}",
        read(&folder, "done")
    );
    end(kvmfw);
    same(&before.1, &lab.dump(HOST), "after the rollback");
}

/// A change that cuts off the disk is not confirmed, though SSH comes through.
#[test]
fn a_confirm_needs_a_disk_that_answers() {
    let Some((lab, project)) = host(true, false) else { return };
    let before = live(&lab);
    let last = newest(&lab, HOST);
    project.all(&held(81));
    let kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    let frozen = Frozen::now(&lab);
    on_host(&lab, "touch /run/go");
    back(&lab, &before, Duration::from_secs(5 + 5));
    drop(frozen);
    assert!(ended(&folder).starts_with("rolled_back: "), "{}", read(&folder, "done"));
    let run = end(kvmfw);
    assert!([4, 6].contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
    assert_eq!(read(&folder, "decision"), "rollback");
}

fn stopped_guard(services: bool) {
    let Some((lab, project)) = host(false, services) else { return };
    let before = (live(&lab), lab.dump(HOST));
    let last = newest(&lab, HOST);
    locked_out(&project);
    let kvmfw = start(&lab, &project, &LOCKOUT);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    let (first, _) = guards(&lab, &id_of(&folder));
    on_host(&lab, &format!("kill -STOP {first}"));
    let status = lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "status"]).stdout;
    assert!(status.contains(&format!("guard=stopped (process {first})")), "{status}");
    back(&lab, &before.0, Duration::from_secs(5) + REPLACED);
    assert!(ended(&folder).starts_with("rolled_back: nobody confirmed"), "{}", read(&folder, "done"));
    end(kvmfw).expect(4);
    same(&before.1, &lab.dump(HOST), "after the rollback");
}

#[test]
fn a_guard_that_is_stopped() {
    stopped_guard(false);
}

#[test]
fn a_guard_that_is_stopped_with_services() {
    stopped_guard(true);
}

/// Both guards are stopped: whoever sits at the console acts in their place, and does not wait for them.
fn stopped_guards(command: &str, image: bool) {
    let Some((lab, project)) = host(image, false) else { return };
    let before = (live(&lab), lab.dump(HOST));
    let last = newest(&lab, HOST);
    locked_out(&project);
    let mut kvmfw =
        project.spawn(&lab, &["apply", "-y", "--confirm-timeout", "600s", "--accept-risk", "lockout"]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    let (first, second) = guards(&lab, &id_of(&folder));
    on_host(&lab, &format!("kill -STOP {first} {second}"));
    let frozen = image.then(|| Frozen::now(&lab));
    let said = lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", command]);
    assert!(said.stdout.contains("state=rolled_back"), "{said:?}");
    assert_eq!(live(&lab), before.0);
    assert!(reachable(&lab), "it is not reachable");
    drop(frozen);
    on_host(&lab, &format!("kill -CONT {first} {second} 2>/dev/null; true"));
    assert!(ended(&folder).starts_with("rolled_back: asked for by "), "{}", read(&folder, "done"));
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    project.all(&opened(80));
    wait("the lock is free", LONG, || project.kvmfw(&lab, &["apply", "-y"]).code.eq(&0).then_some(()));
    same(&before.1, &lab.dump(HOST), "after the rollback");
}

#[test]
fn both_guards_are_stopped_and_the_console_rolls_back() {
    stopped_guards("rollback", false);
}

#[test]
fn both_guards_are_stopped_and_the_console_unlocks() {
    stopped_guards("unlock", false);
}

#[test]
fn both_guards_are_stopped_and_the_disk_hangs() {
    stopped_guards("rollback", true);
}

/// A program that does not return keeps nobody from the rest, and is tried again.
#[test]
fn a_program_that_hangs_in_the_rollback() {
    let Some((lab, project)) = host(false, false) else { return };
    let before = (live(&lab), lab.dump(HOST));
    let ttl = "sysctl: { 60-t: { net.ipv4.ip_default_ttl: 99 } }\n";
    let last = newest(&lab, HOST);
    project.all(&format!("{}{ttl}", held(81)));
    let mut kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    let restore = on_host(&lab, "readlink -f /usr/sbin/iptables-legacy-restore");
    let hangs = "printf '#!/bin/sh\\ntrap \"\" TERM\\nwhile :; do sleep 1; done\\n' >/root/hangs; chmod 755 /root/hangs";
    on_host(&lab, &format!("{hangs}; mount --bind /root/hangs {}", restore.trim()));
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    let ttl = || on_host(&lab, "cat /proc/sys/net/ipv4/ip_default_ttl").trim() != "99";
    wait("the key is back", Duration::from_secs(5 + 20 + 10), || ttl().then_some(()));
    assert_eq!(read(&folder, "done"), "", "the rules cannot be back");
    on_host(&lab, &format!("umount -l {}", restore.trim()));
    assert!(ended(&folder).starts_with("rolled_back: "), "{}", read(&folder, "done"));
    same(&before.1, &lab.dump(HOST), "after the rollback");
}
