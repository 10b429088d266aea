//! The promise: a host that can no longer be reached, or is not well, puts itself back; nobody else's
//! rules, ports or packets suffer from it; and what is said about it is true.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::project::Project;
use common::transaction::{self, between, end, newest, opened, read, start, wait};
use common::{Backend, Cut, Lab};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

const HOST: &str = "kvm1";
/// What `Project::apply` gives a host: armed → applied → decided.
const LIMITS: Duration = Duration::from_secs(10 + 5);

// --- helpers ----------------------------------------------------------------------------------------

/// Waits until a mark of a transaction other than `not` is there, and returns its folder.
#[track_caller]
fn marked(lab: &Lab, mark: &str, not: Option<&PathBuf>) -> PathBuf {
    transaction::marked(lab, HOST, mark, not)
}

/// The line of the inventory, as the product writes it, in which a text stands.
#[track_caller]
fn place(project: &Project, text: &str) -> String {
    let inventory = fs::read_to_string(project.path().join("inventories/lab.yaml")).unwrap();
    let line = inventory.lines().position(|l| l.contains(text)).expect("is in the inventory") + 1;
    format!("inventories/lab.yaml:{line}")
}

/// What is as before: the whole state, or on a host that is managed all but our own records.
#[track_caller]
fn same(before: &str, after: &str) {
    if before == after {
        return;
    }
    let changed: Vec<String> = similar(before, after);
    panic!("the host is not as it was:\n{}", changed.join("\n"));
}

fn similar(before: &str, after: &str) -> Vec<String> {
    let lost = before.lines().filter(|l| !after.lines().any(|a| a == *l)).map(|l| format!("- {l}"));
    let new = after.lines().filter(|l| !before.lines().any(|b| b == *l)).map(|l| format!("+ {l}"));
    let all: Vec<String> = lost.chain(new).collect();
    if all.is_empty() { vec!["(the same lines in another order)".to_owned()] } else { all }
}

/// A change that has to be rolled back, on a host that is new to kvmfw and on one that is managed.
struct Case {
    backend: Backend,
    /// The mark after which the failure is known, and how long after it the host is back.
    within: (&'static str, Duration),
    /// What the user is told.
    words: Vec<String>,
    /// What the next plan exits with: 2, or 4 where the host itself refuses the change.
    next: i32,
}

impl Case {
    fn new(from: &'static str, within: Duration) -> Self {
        Self { backend: Backend::Nft, within: (from, within), words: Vec::new(), next: 2 }
    }

    /// Where only silence tells: both timeouts and five seconds.
    fn silent() -> Self {
        Self::new("armed", LIMITS + Duration::from_secs(5))
    }

    fn at_once(from: &'static str) -> Self {
        Self::new(from, Duration::from_secs(3))
    }

    fn says(mut self, words: &str) -> Self {
        self.words.push(words.to_owned());
        self
    }

    fn legacy(mut self) -> Self {
        self.backend = Backend::Legacy;
        self
    }

    /// `origin`: a text of the inventory whose line the output must name.
    fn holds(self, change: &str, origin: Option<&str>) {
        self.prepared(change, origin, |_| {});
    }

    fn prepared(self, change: &str, origin: Option<&str>, prepare: impl Fn(&Lab)) {
        if !common::require_root() {
            return;
        }
        let lab = Lab::builder().backend(self.backend).up();
        if self.backend == Backend::Legacy {
            // Looking makes a table there, and nothing unmakes it.
            for tool in ["iptables-legacy-save", "ip6tables-legacy-save"] {
                for table in ["raw", "mangle", "nat", "filter"] {
                    lab.host(HOST, &[tool, "-t", table]).ok();
                }
            }
        }
        prepare(&lab);
        // First as the first thing that kvmfw ever does there.
        let project = Project::new(&lab, &[HOST], change);
        let before = lab.dump(HOST);
        self.run(&lab, &project, origin);
        same(&before, &lab.dump(HOST));

        // Then on a host with a generation of ours, to which it returns.
        project.all(&opened(80));
        project.apply(&lab, &[]).expect(0);
        let before = lab.dump(HOST);
        project.all(change);
        self.run(&lab, &project, origin);
        same(&before, &lab.dump(HOST));
        project.all(&opened(80));
        project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    }

    #[track_caller]
    fn run(&self, lab: &Lab, project: &Project, origin: Option<&str>) {
        let last = newest(lab, HOST);
        let accept = ["--accept-risk", "lockout,removes-all"];
        let run = project.apply(lab, &accept).expect(4);
        let said = format!("{}{}", run.stdout, run.stderr);
        for words in &self.words {
            assert!(said.contains(words.as_str()), "`{words}` is not said in\n{said}");
        }
        if let Some(text) = origin {
            let place = place(project, text);
            assert!(run.stdout.contains(&place), "{place} is not named in the result\n{}", run.stdout);
        }
        let folder = newest(lab, HOST).filter(|t| Some(t) != last.as_ref());
        if self.next == 2 {
            let folder = folder.expect("a transaction");
            let (from, limit) = self.within;
            let took = between(&folder, from, "done");
            assert!(took <= limit, "back {took:?} after `{from}`, later than {limit:?}");
            assert!(read(&folder, "done").starts_with("rolled_back"), "{}", read(&folder, "done"));
            assert!(run.stdout.contains("ROLLED BACK"), "{}", run.stdout);
        } else {
            assert!(folder.is_none_or(|t| !t.join("armed").exists()), "something was armed");
        }
        assert!(run.stdout.contains('→'), "nothing says what to do next: {}", run.stdout);
        let plan = ["plan", "--detailed-exitcode", accept[0], accept[1]];
        project.kvmfw(lab, &plan).expect(self.next);
    }
}

fn rules(text: &str) -> String {
    let mut yaml = "iptables:\n  filter:\n    INPUT:\n      rules: |\n".to_owned();
    for line in text.lines() {
        yaml += &format!("        {line}\n");
    }
    yaml
}

// --- what is rolled back ----------------------------------------------------------------------------

#[test]
fn new_ssh_dropped_but_established_accepted() {
    let change = rules("-m state --state ESTABLISHED,RELATED -j ACCEPT\n-p tcp --dport 22 -j DROP");
    Case::silent()
        .says("LOCKOUT: every new SSH connection")
        .says("nobody confirmed over a new connection within 5s")
        .holds(&change, Some("--dport 22 -j DROP"));
}

#[test]
fn new_ssh_dropped_but_established_accepted_on_legacy() {
    let change = rules("-m state --state ESTABLISHED,RELATED -j ACCEPT\n-p tcp --dport 22 -j DROP");
    Case::silent()
        .legacy()
        .says("LOCKOUT: every new SSH connection")
        .says("nobody confirmed over a new connection within 5s")
        .holds(&change, Some("--dport 22 -j DROP"));
}

#[test]
fn everything_dropped() {
    let change = "iptables: { filter: { INPUT: { policy: DROP }, OUTPUT: { policy: DROP }, FORWARD: { policy: DROP } } }\nip6tables: { filter: { INPUT: { policy: DROP }, OUTPUT: { policy: DROP } } }\n";
    Case::silent().says("LOCKOUT").says("nobody confirmed").holds(change, None);
}

#[test]
fn everything_dropped_by_a_rule() {
    Case::silent().says("LOCKOUT").says("nobody confirmed").holds(&rules("-j DROP"), Some("-j DROP"));
}

#[test]
fn an_address_with_a_wrong_prefix_takes_the_way_back() {
    // 10.99.0.0/17 by br123 is nearer than 10.99.0.0/16 by eth0: answers leave by the wrong link.
    Case::silent()
        .says("nobody confirmed")
        .holds("bridges: { br123: { addresses: ['10.99.0.99/17'] } }\n", None);
}

#[test]
fn the_management_link_behind_a_port_that_does_not_forward() {
    // STP listens and learns for 60 s before it forwards: long after the deadline.
    let change =
        "bridges:\n  brmgmt: { ports: [eth0], take_addresses: true, stp: true, forward_delay: 30 }\n";
    Case::silent().says("nobody confirmed").holds(change, None);
}

#[test]
fn a_required_check_that_fails() {
    let change = format!("{}checks: [{{ command: 'false', required: true }}]\n", opened(81));
    Case::at_once("applied").says("a check failed: command `false`").holds(&change, Some("command: 'false'"));
}

#[test]
fn a_ping_that_the_change_breaks() {
    let drop = rules("-p icmp -j DROP");
    let change = format!("{drop}checks: [{{ ping: 10.99.0.1, timeout: 1s }}]\n");
    Case::new("applied", Duration::from_secs(3 + 1))
        .says("a check failed")
        .holds(&change, Some("ping: 10.99.0.1"));
}

#[test]
fn a_rule_that_the_kernel_refuses_in_the_second_table() {
    // REJECT belongs to the table filter; the rule in raw before it is fine.
    let change = "iptables:\n  raw:\n    PREROUTING:\n      rules: |\n        -p tcp --dport 99 -j DROP\n  mangle:\n    FORWARD:\n      rules: |\n        -p tcp --dport 98 -j REJECT\n";
    let case = Case { next: 4, ..Case::at_once("armed") };
    case.says("does not take the rules").holds(change, Some("--dport 98 -j REJECT"));
}

/// Here the dry run is happy and the live load is not: the first table is in when the second fails.
#[test]
fn a_second_table_that_fails_only_when_it_counts() {
    let change = "iptables:\n  raw:\n    PREROUTING:\n      rules: |\n        -p tcp --dport 99 -j DROP\n  mangle:\n    FORWARD:\n      rules: |\n        -p tcp --dport 98 -j DROP\n";
    Case::at_once("result")
        .says("could not be applied")
        .says("the kernel is out of sorts")
        .prepared(change, None, |lab| {
            let tool = lab.disk(HOST, "/etc/alternatives/iptables-restore");
            fs::remove_file(&tool).unwrap();
            let script = "#!/bin/bash\ntext=$(cat)\n[[ \"$*\" == *-w* && $text == *'*mangle'*'--dport 98'* ]] && { echo 'the kernel is out of sorts' >&2; exit 1; }\nexec /usr/sbin/iptables-nft-restore \"$@\" <<<\"$text\"\n";
            fs::write(&tool, script).unwrap();
            lab.host(HOST, &["chmod", "755", "/etc/alternatives/iptables-restore"]).ok();
        });
}

/// What cuts the old connection but not a new one is no lockout: the new one confirms.
#[test]
fn an_old_connection_that_dies_is_no_failure() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    // Without it, conntrack takes a connection that it meets in the middle for invalid.
    lab.host(HOST, &["sysctl", "-w", "net.netfilter.nf_conntrack_tcp_loose=0"]).ok();
    let project = Project::new(&lab, &[HOST], &opened(80));
    let run = project.apply(&lab, &[]).expect(0);
    assert!(run.stdout.contains("changed         1"), "{}", run.stdout);
    assert!(run.stderr.contains("session-dies") && !run.stderr.contains("LOCKOUT"), "{}", run.stderr);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}

// --- kvmfw dies -------------------------------------------------------------------------------------

/// A change that stays in the window for a while: its check takes its time.
fn slow(port: u16) -> String {
    format!("{}checks: [{{ command: sleep 3, timeout: 10s }}]\n", opened(port))
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

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
        assert_eq!(read(&folder, "done"), "rolled_back: nobody confirmed over a new connection within 5s");
        let took = between(&folder, "armed", "done");
        assert!(took <= LIMITS + Duration::from_secs(5), "killed at {mark}: back after {took:?}");
        same(&before, &lab.dump(HOST));
        let status = project.kvmfw(&lab, &["status"]).expect(0);
        assert!(status.stdout.contains("rolled_back: nobody confirmed"), "{}", status.stdout);
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
    assert!(unlock.stdout.contains("nothing had been touched"), "{}{}", unlock.stdout, unlock.stderr);
    assert!(read(&folder, "done").starts_with("released"), "{}", read(&folder, "done"));
    project.all(&opened(80));
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    same(&before, &lab.dump(HOST));
    project.apply(&lab, &[]).expect(0);
}

// --- the guard dies ---------------------------------------------------------------------------------

/// The guards of a transaction by their pids on the host: the one that holds the lock, and the others.
fn guards(lab: &Lab, id: &str) -> (Vec<u32>, Vec<u32>) {
    let script = format!(
        "cd /proc; for p in [0-9]*; do \
           [ \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" = 'sh /var/lib/kvmfw/txn/{id}/kvmfw.sh guard {id} ' ] || continue; \
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

fn id_of(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn one_guard_dies_and_its_twin_commits() {
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
fn one_guard_dies_and_its_twin_rolls_back() {
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

/// The guard dies, and the host's lock is not free at once: another one was in line for it. The twin waits
/// for the lock, and ends the transaction; it does not call it busy, and leave it open for ever.
#[test]
fn one_guard_dies_and_its_twin_does_not_get_the_lock_at_once() {
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
    assert!(read(&folder, "done").starts_with("rolled_back"), "{}", read(&folder, "done"));
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
    assert!(read(&folder, "done").starts_with("rolled_back"), "{}", read(&folder, "done"));
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(!status.stdout.contains("OPEN"), "{}", status.stdout);
}

#[test]
fn both_guards_die_and_unlock_puts_it_back() {
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
        assert!(run.stderr.contains("it was ended first"), "{}", run.stderr);
        project.kvmfw(lab, &["plan", "--detailed-exitcode"]).expect(0);
        let live = lab.host(HOST, &["iptables-save"]).ok();
        assert!(live.contains("--dport 82") && !live.contains("--dport 81"), "{live}");
    });
}

// --- two controllers --------------------------------------------------------------------------------

#[test]
fn two_at_once() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let first = Project::new(&lab, &[HOST], &slow(80));
    let second = Project::new(&lab, &[HOST], &opened(81));
    let kvmfw = start(&lab, &first, &[]);
    let folder = marked(&lab, "generation", None);
    // While it looks, while it is armed, while it waits: never two.
    for mark in ["generation", "applied"] {
        wait(mark, Duration::from_secs(30), || folder.join(mark).exists().then_some(()));
        let run = second.apply(&lab, &["--format", "json"]).expect(7);
        let host = run.json()["hosts"][0].clone();
        assert_eq!(
            (host["status"].as_str(), host["reason"].as_str()),
            (Some("refused"), Some("locked")),
            "{host}"
        );
        let holder = format!("{} ({}", read(&folder, "owner"), id_of(&folder));
        assert!(host["message"].as_str().unwrap().contains(&holder), "{holder} is not named: {host}");
    }
    let run = end(kvmfw).expect(0);
    assert!(run.stdout.contains("changed         1"), "{}", run.stdout);
    first.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    second.apply(&lab, &[]).expect(0);
}

// --- others -----------------------------------------------------------------------------------------

/// The rules of libvirt, Docker and fail2ban, the way they come: a chain, and a jump put first.
fn foreign(lab: &Lab, family: &str, who: &str) {
    let run = |args: &[&str]| {
        let mut line = vec![family];
        line.extend(args);
        lab.host(HOST, &line).ok();
    };
    match who {
        "libvirt" => {
            run(&["-N", "LIBVIRT_FWX"]);
            run(&["-A", "LIBVIRT_FWX", "-i", "virbr0", "-o", "virbr0", "-j", "ACCEPT"]);
            run(&["-I", "FORWARD", "-j", "LIBVIRT_FWX"]);
        }
        "docker" => {
            run(&["-N", "DOCKER-USER"]);
            run(&["-A", "DOCKER-USER", "-i", "docker0", "-j", "RETURN"]);
            run(&["-I", "FORWARD", "-j", "DOCKER-USER"]);
            run(&["-t", "nat", "-N", "DOCKER"]);
            run(&["-t", "nat", "-I", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER"]);
        }
        _ => {
            run(&["-N", "f2b-sshd"]);
            run(&["-A", "f2b-sshd", "-j", "RETURN"]);
            run(&["-I", "INPUT", "-p", "tcp", "-m", "multiport", "--dports", "22", "-j", "f2b-sshd"]);
        }
    }
}

/// Everything in the tables that is not ours, in its order.
fn of_others(lab: &Lab) -> String {
    let mut all = String::new();
    for tool in ["iptables-save", "ip6tables-save"] {
        let text = lab.host(HOST, &[tool]).ok();
        for line in text.lines().filter(|l| !l.contains("KVMFW-") && !l.starts_with('#')) {
            all += line.split(" [").next().unwrap();
            all.push('\n');
        }
    }
    all
}

fn others_stay(backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(backend).up();
    for family in ["iptables", "ip6tables"] {
        foreign(&lab, family, "libvirt");
    }
    let before = of_others(&lab);
    let project = Project::new(&lab, &[HOST], &opened(80));
    project.apply(&lab, &[]).expect(0);
    assert_eq!(of_others(&lab), before, "an apply changed rules of others");

    // In the window of one that is rolled back.
    project.all(&format!(
        "{}checks: [{{ command: 'sleep 3; test ! -e /run/bad', timeout: 10s }}]\n",
        opened(81)
    ));
    let last = newest(&lab, HOST);
    let kvmfw = start(&lab, &project, &[]);
    marked(&lab, "applied", last.as_ref());
    lab.host(HOST, &["touch", "/run/bad"]).ok();
    for family in ["iptables", "ip6tables"] {
        foreign(&lab, family, "docker");
    }
    let during = of_others(&lab);
    assert_ne!(during, before);
    end(kvmfw).expect(4);
    assert_eq!(of_others(&lab), during, "a rollback changed rules of others");

    // In the window of one that lasts.
    lab.host(HOST, &["rm", "/run/bad"]).ok();
    let last = newest(&lab, HOST);
    let kvmfw = start(&lab, &project, &[]);
    marked(&lab, "applied", last.as_ref());
    for family in ["iptables", "ip6tables"] {
        foreign(&lab, family, "fail2ban");
    }
    let after = of_others(&lab);
    assert_ne!(after, during);
    end(kvmfw).expect(0);
    assert_eq!(of_others(&lab), after, "a commit changed rules of others");
    // They stand above our hooks now, which is no change of ours.
    project.all(&opened(81));
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);

    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert_eq!(of_others(&lab), after, "an undo changed rules of others");
    assert!(!lab.host(HOST, &["iptables-save"]).ok().contains("KVMFW"), "something of ours is left");
}

#[test]
fn rules_of_others_stay_as_they_are() {
    others_stay(Backend::Nft);
}

#[test]
fn rules_of_others_stay_as_they_are_on_legacy() {
    others_stay(Backend::Legacy);
}

/// Which port hangs on which bridge.
fn ports(lab: &Lab) -> Vec<(String, String)> {
    let links: serde_json::Value = serde_json::from_str(&lab.host(HOST, &["ip", "-j", "link"]).ok()).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let links = links.as_array().unwrap().iter();
    links.filter(|l| l["master"].is_string()).map(|l| (text(&l["ifname"]), text(&l["master"]))).collect()
}

/// `KVMFW_LONG=1`: 100 applies and 20 rollbacks; else 20 and 4.
#[test]
fn guests_notice_nothing() {
    if !common::require_root() {
        return;
    }
    let applies = if std::env::var_os("KVMFW_LONG").is_some() { 100 } else { 20 };
    let lab = Lab::up();
    let cures = ["bridge-accept-each", "bridge-accept-physdev", "bridge-bypass"];
    // Every apply is a change: of the rules, of the cure, and of the bridge itself.
    let change = |n: usize, more: &str| {
        format!(
            "modules: [{}, host-firewall, firewall-log]\nbridges: {{ br123: {{ ageing: {} }} }}\nparams: {{ host-firewall: {{ allow_tcp: [22, {}] }} }}\n{more}",
            cures[n % 3],
            100 + n % 2,
            1000 + n,
        )
    };
    let project = Project::new(&lab, &[HOST], &change(0, ""));
    let there = ports(&lab);
    assert!(there.contains(&("vnet0".to_owned(), "br123".to_owned())), "{there:?}");
    let floods =
        ["192.168.1.2", "192.168.1.53", "fd00:1::2"].map(|to| (to, common::flood(&lab, HOST, "g0", to)));
    for n in 0..applies {
        if n % 5 == 4 {
            project.all(&change(n + 1, "checks: [{ command: 'false', required: true }]"));
            project.apply(&lab, &[]).expect(4);
            assert_eq!(ports(&lab), there, "after a rollback");
        }
        project.all(&change(n, ""));
        let run = project.apply(&lab, &[]).expect(0);
        assert!(run.stdout.contains("changed         1"), "{}", run.stdout);
        assert_eq!(ports(&lab), there, "after an apply");
    }
    for (to, flood) in floods {
        let (sent, lost) = flood.stop();
        assert!(sent > 1000, "only {sent} sent to {to}");
        assert_eq!(lost, 0, "of {sent} to {to}");
    }
}

// --- the link is cut --------------------------------------------------------------------------------

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
    assert!(read(&folder, "done").starts_with("rolled_back: nobody confirmed"), "{}", read(&folder, "done"));
    let took = between(&folder, "armed", "done");
    assert!(took <= LIMITS + Duration::from_secs(5), "back after {took:?}");
    same(&before, &lab.dump(HOST));
    lab.mend(HOST);
    let run = end(kvmfw).expect(4);
    assert!(run.stdout.contains("ROLLED BACK: nobody confirmed"), "{}", run.stdout);
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(status.stdout.contains("rolled_back"), "{}", status.stdout);
}

#[test]
fn the_link_is_cut_when_armed() {
    cut_at("armed", Cut::Both);
}

#[test]
fn what_the_host_says_is_lost_when_applied() {
    cut_at("applied", Cut::From);
}

#[test]
fn what_the_host_hears_is_lost_when_applied() {
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
    assert!(read(&folder, "done").starts_with("rolled_back"), "{}", read(&folder, "done"));
    same(&before, &lab.dump(HOST));
    lab.mend(HOST);
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(status.stdout.contains("rolled_back: nobody confirmed"), "{}", status.stdout);
}

/// What is over leaves no process behind: no timer, no guard, no shell.
#[test]
fn nothing_of_ours_runs_on() {
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
fn an_apply_that_hangs() {
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
