//! Something on the way to the rollback does not answer: the disk, the guards, a program.

use crate::common::project::Project;
use crate::common::transaction::{end, ended, held, marked, newest, opened, read, start, wait};
use crate::common::{self, Backend, Lab, Shell, same};
use crate::{HOST, LONG, hold_lock, on_host};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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
    host_with(image, services, Shell::Dash)
}

fn host_with(image: bool, services: bool, shell: Shell) -> Option<(Lab, Project)> {
    if !common::require_root() || !common::require_tools(&["fsfreeze"]) {
        return None;
    }
    let lab = Lab::builder()
        .backend(Backend::Legacy)
        .image(image)
        .services(services)
        .shell(shell)
        .guests(false)
        .up();
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

/// A change that lets no new connection in: applied, not decided yet, and never confirmed.
struct Lockout {
    /// The rules and keys before it.
    live: String,
    /// All state of the host before it.
    dump: String,
    folder: PathBuf,
    kvmfw: Child,
}

impl Lockout {
    #[track_caller]
    fn applied(lab: &Lab, project: &Project, confirm_timeout: &str) -> Self {
        let (live, dump) = (live(lab), lab.dump(HOST));
        let last = newest(lab, HOST);
        locked_out(project);
        let limits = ["--apply-timeout", "10s", "--confirm-timeout", confirm_timeout];
        let kvmfw = project.spawn(lab, &[&["apply", "-y"], &limits[..], &LOCKOUT].concat());
        let folder = marked(lab, HOST, "applied", last.as_ref());
        Self { live, dump, folder, kvmfw }
    }

    fn id(&self) -> String {
        id_of(&self.folder)
    }

    /// Waits until connections come in and the state is the one before.
    #[track_caller]
    fn is_undone(&self, lab: &Lab, limit: Duration) {
        back(lab, &self.live, limit);
    }

    /// Waits for the end, and compares the first words of the outcome.
    #[track_caller]
    fn ends_as(&self, outcome: &str) {
        let done = ended(&self.folder);
        assert!(done.starts_with(outcome), "{done}");
    }

    /// Waits for the end, which is a rollback at the deadline, and compares everything. kvmfw ends with one of `codes`.
    #[track_caller]
    fn ends_rolled_back(self, lab: &Lab, codes: &[i32]) {
        self.ends_as("rolled-back: nobody confirmed");
        let run = end(self.kvmfw);
        assert!(codes.contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
        same(&self.dump, &lab.dump(HOST), "after the rollback");
    }

    fn kill_controller(&mut self) {
        self.kvmfw.kill().unwrap();
        self.kvmfw.wait().unwrap();
    }
}

/// Waits until the host lets connections in, and is as `before`.
#[track_caller]
fn back(lab: &Lab, before: &str, limit: Duration) {
    let began = Instant::now();
    wait("the host is reachable", limit, || reachable(lab).then_some(()));
    wait("all is as before", limit.saturating_sub(began.elapsed()), || (live(lab) == before).then_some(()));
}

#[test]
fn a_disk_hangs_when_applied() {
    let Some((lab, project)) = host(true, false) else { return };
    let lockout = Lockout::applied(&lab, &project, "5s");
    let frozen = Frozen::now(&lab);
    assert!(!reachable(&lab), "it is locked out");
    lockout.is_undone(&lab, Duration::from_secs(5 + 5));
    let status = || lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "status"]).stdout;
    wait("the disk is told of", LONG, || status().contains("rolled-back").then_some(()));
    let outcome = lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "outcome"]).stdout;
    assert!(outcome.contains("not on record yet: the disk does not answer"), "{outcome}");
    assert_eq!(read(&lockout.folder, "done"), "", "it is on record");
    drop(frozen);
    lockout.ends_rolled_back(&lab, &[4, 6]);
}

#[test]
fn a_disk_that_never_syncs() {
    if !Path::new(&Stalled::file("write")).exists() {
        eprintln!("SKIPPED: needs the throttle of the blkio controller");
        return;
    }
    let Some((lab, project)) = host(true, false) else { return };
    let lockout = Lockout::applied(&lab, &project, "5s");
    let stalled = Stalled::now(&lab);
    assert!(!reachable(&lab), "it is locked out");
    lockout.is_undone(&lab, Duration::from_secs(5 + 5));
    drop(stalled);
    lockout.ends_rolled_back(&lab, &[4, 6]);
}

/// What a rollback needs does not fit into memory: then nothing is armed.
#[test]
fn a_host_without_room_in_memory_is_refused() {
    let Some((lab, project)) = host(false, false) else { return };
    let before = lab.dump(HOST);
    on_host(&lab, "mkdir -p /run/kvmfw; mount -t tmpfs -o size=64k none /run/kvmfw");
    project.all(&opened(81));
    let run = project.apply(&lab, &["--format", "json"]).expect(4);
    let host = run.json()["hosts"][0].clone();
    assert_eq!((&host["status"], &host["reason"]), (&"failed".into(), &"no-space".into()), "{host:#}");
    assert_eq!(on_host(&lab, "readlink /var/lib/kvmfw/open || true"), "", "it was armed");
    same(&before, &lab.dump(HOST), "after the refusal");
    on_host(&lab, "umount /run/kvmfw");
    project.apply(&lab, &[]).expect(0);
}

/// The apply itself waits for the disk, and does not even die.
#[test]
fn a_disk_hangs_while_the_change_is_made() {
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
        ended(&folder).starts_with("rolled-back: the change was not applied"),
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
    assert!(ended(&folder).starts_with("rolled-back: "), "{}", read(&folder, "done"));
    let run = end(kvmfw);
    assert!([4, 6].contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
    assert_eq!(read(&folder, "decision"), "rollback");
}

fn stopped_guard(services: bool, shell: Shell) {
    let Some((lab, project)) = host_with(false, services, shell) else { return };
    let lockout = Lockout::applied(&lab, &project, "5s");
    let (first, _) = guards(&lab, &lockout.id());
    on_host(&lab, &format!("kill -STOP {first}"));
    let status = lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "status"]).stdout;
    assert!(status.contains(&format!("guard=stopped (process {first})")), "{status}");
    lockout.is_undone(&lab, Duration::from_secs(5) + REPLACED);
    lockout.ends_rolled_back(&lab, &[4]);
    // The one that was killed counts as failed: it is started again, finds that all is over, and is left at that.
    let again = || on_host(&lab, "pgrep -f '[O]N_FAILURE' || true");
    wait("no service is started again and again", LONG, || again().is_empty().then_some(()));
}

/// Somebody gives up a change while the guard is arming it: that is decided, and the guard carries it out.
#[test]
fn an_unlock_while_the_guard_is_arming() {
    let Some((lab, project)) = host(false, false) else { return };
    let before = lab.dump(HOST);
    let last = newest(&lab, HOST);
    project.all(&opened(81));
    on_host(
        &lab,
        "cp /usr/bin/sync /run/sync.real; printf '#!/bin/sh\\ncase \"$*\" in *boot_id*) touch /run/arming; until [ -e /run/go ]; do sleep 0.1; done ;; esac\\nexec /run/sync.real \"$@\"\\n' >/run/sync; \
         chmod 755 /run/sync; mount --bind /run/sync /usr/bin/sync",
    );
    let kvmfw = start(&lab, &project, &[]);
    wait("it is arming", LONG, || lab.host(HOST, &["test", "-e", "/run/arming"]).success().then_some(()));
    let mut console = lab.host_command(HOST);
    let console = console.args(["sh", "/var/lib/kvmfw/kvmfw.sh", "unlock"]).stdout(Stdio::piped()).spawn();
    let aborted = || on_host(&lab, "cat /run/kvmfw/*/abort 2>/dev/null || true").contains("asked for by");
    wait("the console has given it up", LONG, || aborted().then_some(()));
    on_host(&lab, "touch /run/go");
    let folder = marked(&lab, HOST, "armed", last.as_ref());
    assert!(ended(&folder).starts_with("rolled-back: asked for by "), "{}", read(&folder, "done"));
    let said = console.unwrap().wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains("state=rolled-back"), "{said:?}");
    end(kvmfw).expect(4);
    on_host(&lab, "umount /usr/bin/sync");
    same(&before, &lab.dump(HOST), "after it was given up");
}

#[test]
fn a_guard_is_stopped() {
    stopped_guard(false, Shell::Dash);
}

#[test]
fn a_guard_is_stopped_with_services() {
    stopped_guard(true, Shell::Dash);
}

#[test]
fn a_guard_is_stopped_where_sh_is_bash() {
    stopped_guard(false, Shell::Bash);
}

#[test]
fn a_guard_is_stopped_where_sh_is_busybox() {
    stopped_guard(true, Shell::Busybox);
}

/// Both guards are stopped: whoever sits at the console acts in their place, and does not wait for them.
fn stopped_guards(command: &str, image: bool, shell: Shell) {
    let Some((lab, project)) = host_with(image, false, shell) else { return };
    let mut lockout = Lockout::applied(&lab, &project, "600s");
    let (first, second) = guards(&lab, &lockout.id());
    on_host(&lab, &format!("kill -STOP {first} {second}"));
    let frozen = image.then(|| Frozen::now(&lab));
    let said = lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", command]);
    assert!(said.stdout.contains("state=rolled-back"), "{said:?}");
    assert_eq!(live(&lab), lockout.live);
    assert!(reachable(&lab), "it is not reachable");
    drop(frozen);
    on_host(&lab, &format!("kill -CONT {first} {second} 2>/dev/null; true"));
    lockout.ends_as("rolled-back: asked for by ");
    lockout.kill_controller();
    project.all(&opened(80));
    wait("the lock is free", LONG, || project.kvmfw(&lab, &["apply", "-y"]).code.eq(&0).then_some(()));
    same(&lockout.dump, &lab.dump(HOST), "after the rollback");
}

#[test]
fn both_guards_are_stopped_and_the_console_rolls_back() {
    stopped_guards("rollback", false, Shell::Bash);
}

#[test]
fn both_guards_are_stopped_and_the_console_unlocks() {
    stopped_guards("unlock", false, Shell::Busybox);
}

#[test]
fn both_guards_are_stopped_and_the_disk_hangs() {
    stopped_guards("rollback", true, Shell::Busybox);
}

/// A program that does not return keeps nobody from the rest, and is tried again.
#[test]
fn a_program_hangs_in_the_rollback() {
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
    assert!(ended(&folder).starts_with("rolled-back: "), "{}", read(&folder, "done"));
    same(&before.1, &lab.dump(HOST), "after the rollback");
}

/// The guard that acts is killed while the disk hangs: its second puts the host back without the disk.
#[test]
fn a_guard_dies_while_the_disk_hangs() {
    let Some((lab, project)) = host(true, false) else { return };
    let lockout = Lockout::applied(&lab, &project, "5s");
    let frozen = Frozen::now(&lab);
    let (first, _) = guards(&lab, &lockout.id());
    on_host(&lab, &format!("kill -KILL {first}"));
    lockout.is_undone(&lab, Duration::from_secs(5 + 5));
    drop(frozen);
    lockout.ends_as("rolled-back: nobody confirmed");
    end(lockout.kvmfw);
    same(&lockout.dump, &lab.dump(HOST), "after the rollback");
}

/// Both guards are killed and the disk hangs: the console still puts the host back.
#[test]
fn both_guards_are_gone_and_the_disk_hangs() {
    let Some((lab, project)) = host(true, false) else { return };
    let mut lockout = Lockout::applied(&lab, &project, "5s");
    let id = lockout.id();
    let frozen = Frozen::now(&lab);
    let (first, second) = guards(&lab, &id);
    on_host(&lab, &format!("kill -KILL {first} {second}"));
    let said = lab.host(HOST, &["sh", &format!("/run/kvmfw/{id}/kvmfw.sh"), "rollback"]);
    assert!(said.stdout.contains("state=rolled-back"), "{said:?}");
    assert_eq!(live(&lab), lockout.live);
    assert!(reachable(&lab), "it is not reachable");
    drop(frozen);
    lockout.kill_controller();
    lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "unlock"]);
    lockout.ends_as("rolled-back: asked for by ");
    same(&lockout.dump, &lab.dump(HOST), "after the rollback");
}

/// The second guard is stopped: the first one needs it for nothing.
#[test]
fn the_second_guard_is_stopped() {
    let Some((lab, project)) = host(false, false) else { return };
    let before = (live(&lab), lab.dump(HOST));
    let stop = |locks_out: bool| {
        let last = newest(&lab, HOST);
        let kvmfw = if locks_out {
            locked_out(&project);
            start(&lab, &project, &LOCKOUT)
        } else {
            project.all(&held(82));
            start(&lab, &project, &[])
        };
        let folder = marked(&lab, HOST, "applied", last.as_ref());
        let (_, second) = guards(&lab, &id_of(&folder));
        on_host(&lab, &format!("kill -STOP {second}; touch /run/go"));
        let done = ended(&folder);
        on_host(&lab, &format!("kill -CONT {second}"));
        let gone = format!("[ ! -e /proc/{second} ] && echo gone; true");
        wait("the second guard ends", LONG, || (on_host(&lab, &gone) == "gone\n").then_some(()));
        (done, end(kvmfw))
    };
    let (done, run) = stop(true);
    assert!(done.starts_with("rolled-back: nobody confirmed"), "{done}");
    run.expect(4);
    same(&before.1, &lab.dump(HOST), "after the rollback");
    let (done, run) = stop(false);
    assert_eq!(done, "committed");
    run.expect(0);
}

/// A control group of the freezer, which stops processes without a signal. In its first version even a kill waits for
/// its end.
struct Freezer(PathBuf);

impl Freezer {
    fn with(pids: &[u32]) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup/freezer");
        if !root.join("tasks").exists() && !root.join("cgroup.procs").exists() {
            eprintln!("SKIPPED: needs the freezer of control groups");
            return None;
        }
        let group = Self(root.join(format!("kvmfw-{}", std::process::id())));
        std::fs::create_dir(&group.0).unwrap();
        for pid in pids {
            std::fs::write(group.0.join("cgroup.procs"), pid.to_string()).unwrap();
        }
        std::fs::write(group.0.join("freezer.state"), "FROZEN").unwrap();
        Some(group)
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        // Whoever is in it still leaves or ends.
        for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = std::fs::write("/sys/fs/cgroup/freezer/cgroup.procs", pid);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The guards of the transaction in this folder as this machine counts processes: the one that acts, and the other.
fn guards_outside(lab: &Lab, folder: &Path) -> (u32, u32) {
    let (first, second) = guards(lab, &id_of(folder));
    let script = format!("kvmfw.sh guard {}", id_of(folder));
    let number = |inside: &str| {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok())
            .find(|pid| {
                let text =
                    |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
                let here = text("status").lines().any(|l| {
                    l.strip_prefix("NSpid:").is_some_and(|all| all.split_whitespace().last() == Some(inside))
                });
                here && text("cmdline").replace('\0', " ").contains(&script)
            })
            .unwrap()
    };
    (number(&first), number(&second))
}

#[test]
fn a_guard_in_a_frozen_control_group() {
    let Some((lab, project)) = host(false, true) else { return };
    let mut lockout = Lockout::applied(&lab, &project, "5s");
    let (first, _) = guards_outside(&lab, &lockout.folder);
    let Some(frozen) = Freezer::with(&[first]) else {
        lockout.kill_controller();
        return;
    };
    lockout.is_undone(&lab, Duration::from_secs(5) + REPLACED);
    lockout.ends_as("rolled-back: nobody confirmed");
    drop(frozen);
    let left = format!("pgrep -f 'kvmfw.sh [g]uard {}' || true", lockout.id());
    end(lockout.kvmfw).expect(4);
    same(&lockout.dump, &lab.dump(HOST), "after the rollback");
    wait("no guard is left", LONG, || on_host(&lab, &left).is_empty().then_some(()));
}

#[test]
fn both_guards_in_a_frozen_control_group() {
    let Some((lab, project)) = host(false, false) else { return };
    let mut lockout = Lockout::applied(&lab, &project, "600s");
    let (first, second) = guards_outside(&lab, &lockout.folder);
    let Some(frozen) = Freezer::with(&[first, second]) else {
        lockout.kill_controller();
        return;
    };
    let said = lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "unlock"]);
    assert!(said.stdout.contains("state=rolled-back"), "{said:?}");
    assert!(reachable(&lab), "it is not reachable");
    drop(frozen);
    lockout.kill_controller();
    same(&lockout.dump, &lab.dump(HOST), "after the rollback");
}

/// Nothing is armed yet when the guards stop.
#[test]
fn both_guards_are_stopped_before_anything_is_armed() {
    let Some((lab, project)) = host(false, false) else { return };
    let before = lab.dump(HOST);
    let last = newest(&lab, HOST);
    project.all(&format!(
        "{}checks: [{{ command: 'until test -e /run/go; do sleep 0.1; done', timeout: 30s }}]\n",
        opened(81)
    ));
    let mut kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "generation", last.as_ref());
    let filled = format!("/run/kvmfw/{}/filled", id_of(&folder));
    wait("it is staged", LONG, || {
        on_host(&lab, &format!("[ ! -e {filled} ] || echo yes")).contains("yes").then_some(())
    });
    let (first, second) = guards(&lab, &id_of(&folder));
    on_host(&lab, &format!("kill -STOP {first} {second}; touch /run/go"));
    let said = lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "unlock"]);
    assert!(said.stdout.contains("state=released"), "{said:?}");
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    same(&before, &lab.dump(HOST), "after it was released");
    project.apply(&lab, &[]).expect(0);
}

/// Memory has no room any more when it counts.
#[test]
fn memory_fills_up_after_arming() {
    let Some((lab, project)) = host(false, false) else { return };
    on_host(&lab, "mkdir -p /run/kvmfw; mount -t tmpfs -o size=4m none /run/kvmfw");
    let lockout = Lockout::applied(&lab, &project, "5s");
    on_host(&lab, "cat /dev/zero >/run/kvmfw/filler 2>/dev/null; true");
    lockout.is_undone(&lab, Duration::from_secs(5 + 5));
    lockout.ends_as("rolled-back: nobody confirmed");
    let run = end(lockout.kvmfw);
    assert!([4, 6].contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
    on_host(&lab, "umount /run/kvmfw");
    same(&lockout.dump, &lab.dump(HOST), "after the rollback");
}

/// Puts a program that never ends, and ignores TERM, over one of the host.
fn hang(lab: &Lab, program: &str) {
    let script = "printf '#!/bin/sh\\ntrap \"\" TERM\\nwhile :; do sleep 1; done\\n' >/root/hangs; chmod 755 /root/hangs";
    on_host(lab, &format!("{script}; mount --bind /root/hangs $(readlink -f {program})"));
}

/// What writes the rollback down never returns.
#[test]
fn sync_hangs() {
    let Some((lab, project)) = host(false, false) else { return };
    let lockout = Lockout::applied(&lab, &project, "5s");
    hang(&lab, "/usr/bin/sync");
    lockout.is_undone(&lab, Duration::from_secs(5 + 5));
    let Lockout { dump, folder, kvmfw, .. } = lockout;
    end(kvmfw).expect(4);
    on_host(&lab, "umount -l /usr/bin/sync");
    assert!(ended(&folder).starts_with("rolled-back: nobody confirmed"), "{}", read(&folder, "done"));
    let open = "readlink /var/lib/kvmfw/open || true";
    wait("the transaction is closed", Duration::from_secs(90), || {
        on_host(&lab, open).is_empty().then_some(())
    });
    same(&dump, &lab.dump(HOST), "after the rollback");
}

/// systemd does not answer, on a host that was never managed: its boot units go with the attempt.
#[test]
fn systemctl_hangs() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(Backend::Legacy).services(true).guests(false).up();
    let project = Project::new(&lab, &[HOST], &opened(80).replace("22, ", ""));
    let kvmfw = start(&lab, &project, &LOCKOUT);
    let folder = marked(&lab, HOST, "applied", None);
    assert!(!reachable(&lab), "it is locked out");
    hang(&lab, "$(command -v systemctl)");
    wait("the host is reachable", Duration::from_secs(5 + 5), || reachable(&lab).then_some(()));
    wait("no rule is left", LONG, || (!live(&lab).contains("KVMFW")).then_some(()));
    assert!(ended(&folder).starts_with("rolled-back: nobody confirmed"), "{}", read(&folder, "done"));
    let run = end(kvmfw);
    assert!([4, 6].contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
}
