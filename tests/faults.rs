//! Faults, each against real processes; `book/src/faults.md` says which row of the list is which test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::project::Project;
use common::trace::trace;
use common::transaction::{between, ended, failing, held, marked, newest, opened, read, start, wait, wrap};
use common::{Backend, Lab, same, transaction};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

const HOST: &str = "kvm1";
const LONG: Duration = Duration::from_secs(60);

/// A lab whose host has a generation that opens port 80.
fn managed(backend: Backend) -> Option<(Lab, Project)> {
    if !common::require_root() {
        return None;
    }
    let lab = Lab::builder().backend(backend).up();
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

// --- T2: the session dies ---------------------------------------------------------------------------

#[test]
fn t02_the_ssh_session_dies_while_the_change_is_made() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let last = newest(&lab, HOST);
    project.all(&opened(81));
    let kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "claim", last.as_ref());
    assert!(kill_where(&lab, "sshd: root") + kill_where(&lab, "sshd-session: root") > 0, "no session");
    let run = transaction::end(kvmfw);
    // A new connection confirms, or the host is back: never anything else, and never a lie.
    let done = ended(&folder);
    let told = if done == "committed" { 0 } else { 4 };
    assert_eq!(run.code, told, "{done}: {}{}", run.stdout, run.stderr);
    if told == 0 {
        settled(&lab, &project)
    } else {
        pending(&lab, &project)
    }
    project.all(&opened(82));
    project.apply(&lab, &[]).expect(0);
}

// --- T7: exactly what was touched -------------------------------------------------------------------

#[test]
fn t07_rollback_reloads_exactly_what_apply_touched() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    project.all(&format!("{}sysctl: {{ 60-t: {{ net.ipv4.conf.all.arp_ignore: 1 }} }}\n", held(81)));
    let last = newest(&lab, HOST);
    let kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    assert_eq!(on_host(&lab, "cat /proc/sys/net/ipv4/conf/all/arp_ignore").trim(), "1");
    // Others work on, meanwhile.
    on_host(
        &lab,
        "iptables -A INPUT -s 203.0.113.9 -j DROP; iptables -t nat -A POSTROUTING -s 203.0.113.8 -j MASQUERADE
         ip route add 203.0.113.0/24 via 10.99.0.1; ip address add 10.99.7.7/32 dev eth0
         echo 1 >/proc/sys/net/ipv4/conf/all/log_martians; echo '# mine' >/etc/sysctl.d/70-mine.conf",
    );
    let mut kvmfw = kvmfw;
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    assert!(ended(&folder).starts_with("rolled_back"));
    assert_eq!(on_host(&lab, "cat /proc/sys/net/ipv4/conf/all/arp_ignore").trim(), "0");
    let rules = on_host(&lab, "iptables-save");
    assert!(rules.contains("--dport 80 ") && !rules.contains("--dport 81 "), "{rules}");
    assert!(rules.contains("203.0.113.9/32 -j DROP") && rules.contains("203.0.113.8/32 -j MASQ"), "{rules}");
    assert!(on_host(&lab, "ip route").contains("203.0.113.0/24"));
    assert!(on_host(&lab, "ip address").contains("10.99.7.7/32"));
    assert_eq!(on_host(&lab, "cat /proc/sys/net/ipv4/conf/all/log_martians").trim(), "1");
    assert!(on_host(&lab, "cat /etc/sysctl.d/70-mine.conf").contains("mine"));
}

// --- T11: few connections ---------------------------------------------------------------------------

#[test]
fn t11_few_connections() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let logins = || lab.console(HOST).matches("Accepted publickey").count();
    project.all(&opened(81));
    let before = logins();
    project.apply(&lab, &[]).expect(0);
    // One to look and apply, one to confirm.
    assert!(before > 0 && logins() - before <= 2, "{} logins for one apply", logins() - before);
}

// --- T14: power cut in every state ------------------------------------------------------------------

fn power_cut_at(mark: &str, lasts: bool) {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    lab.power_cut(HOST);
    lab.boot(HOST);
    settled(&lab, &project);
    let before = lab.dump(HOST);
    let last = newest(&lab, HOST);
    project.all(&held(81));
    let mut kvmfw = start(&lab, &project, &[]);
    if lasts {
        marked(&lab, HOST, "applied", last.as_ref());
        on_host(&lab, "touch /run/go");
    }
    let folder = marked(&lab, HOST, mark, last.as_ref());
    lab.power_cut(HOST);
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    lab.boot(HOST);
    project.all(&opened(81));
    if lasts {
        assert_eq!(ended(&folder), "committed");
        settled(&lab, &project);
    } else {
        same(&before, &lab.dump(HOST), mark);
        let done = read(&folder, "done");
        assert!(done.is_empty() || !done.starts_with("committed"), "{done}");
        pending(&lab, &project);
        project.apply(&lab, &[]).expect(0);
    }
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(!status.stdout.contains("OPEN") && !status.stdout.contains("locked by"), "{}", status.stdout);
}

#[test]
fn t14_power_cut_when_staged() {
    power_cut_at("generation", false);
}

#[test]
fn t14_power_cut_when_armed() {
    power_cut_at("armed", false);
}

#[test]
fn t14_power_cut_when_the_change_begins() {
    power_cut_at("claim", false);
}

#[test]
fn t14_power_cut_when_applied() {
    power_cut_at("applied", false);
}

#[test]
fn t14_power_cut_when_decided() {
    power_cut_at("decision", true);
}

#[test]
fn t14_power_cut_when_done() {
    power_cut_at("done", true);
}

// --- T18: a rollback that fails ---------------------------------------------------------------------

#[test]
fn t18_a_rollback_that_fails_is_loud_and_goes_on() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let before = lab.dump(HOST);
    let script = "#!/bin/sh\ncase $* in *-w*) [ ! -e /run/broken ] || { echo 'out of sorts' >&2; exit 1; } ;; esac\nexec /usr/sbin/iptables-nft-restore \"$@\"\n";
    wrap(&lab, HOST, "iptables-restore", script);
    let changed = lab.dump(HOST);
    let last = newest(&lab, HOST);
    let check = "test -e /run/first || { touch /run/first; exit 0; }; touch /run/broken; exit 1";
    project.all(&format!("{}checks: [{{ command: '{check}' }}]\n", opened(81)));
    let run = project.apply(&lab, &["--format", "json"]).expect(6);
    assert_eq!(run.json()["hosts"][0]["reason"], "rollback_failed", "{}", run.stdout);
    let status = project.kvmfw(&lab, &["status"]);
    assert!(status.stdout.contains("rollback failed"), "{}", status.stdout);
    let folder = newest(&lab, HOST).filter(|t| Some(t) != last.as_ref()).unwrap();
    on_host(&lab, "rm /run/broken");
    assert!(ended(&folder).starts_with("rolled_back"));
    same(&changed, &lab.dump(HOST), "after the rollback");
    assert_ne!(before, "", "there was a state");
}

// --- T20, T24, T28: a rollback leaves nothing -------------------------------------------------------

fn leaves_nothing(prepare: &str, change: &str) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(&lab, prepare);
    let before = lab.dump(HOST);
    let project =
        Project::new(&lab, &[HOST], &format!("{change}checks: [{{ command: 'false', required: true }}]\n"));
    project.apply(&lab, &[]).expect(4);
    assert!(newest(&lab, HOST).unwrap().join("applied").exists(), "it was never applied");
    same(&before, &lab.dump(HOST), "after the rollback");
}

#[test]
fn t20_a_new_bridge_is_gone_after_a_rollback() {
    leaves_nothing("true", "bridges: { brnew: { addresses: ['192.0.2.1/24'], stp: false } }\n");
}

/// A removal that is rolled back: addresses come back with their broadcast, or without where they had
/// none; a bridge of ours stays as it was.
#[test]
fn t20_addresses_that_were_taken_away_come_back_as_they_were() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let bridge = |more: &str| format!("bridges: {{ br123: {{ addresses: [{more}] }} }}\n");
    let project = Project::new(&lab, &[HOST], &bridge("'192.0.2.1/24', '2001:db8::1/64'"));
    project.apply(&lab, &[]).expect(0);
    let before = lab.dump(HOST);
    assert!(before.contains("192.0.2.1/24 brd 192.0.2.255"), "{before}");
    project
        .all(&format!("{}checks: [{{ command: 'false', required: true }}]\n", bridge("'198.51.100.1/24'")));
    project.apply(&lab, &[]).expect(4);
    common::same(&before, &lab.dump(HOST), "after a rollback");
}

#[test]
fn t24_every_touched_table_is_restored() {
    let mut change = String::new();
    for family in ["iptables", "ip6tables"] {
        change += &format!("{family}:\n");
        for (table, chain) in
            [("raw", "PREROUTING"), ("mangle", "FORWARD"), ("nat", "POSTROUTING"), ("filter", "INPUT")]
        {
            change +=
                &format!("  {table}:\n    {chain}:\n      rules: |\n        -p udp --dport 999 -j ACCEPT\n");
        }
    }
    leaves_nothing("iptables -t mangle -A INPUT -s 203.0.113.1 -j DROP", &change);
}

#[test]
fn t28_side_effects_of_forwarding_are_undone() {
    leaves_nothing(
        "cd /proc/sys/net/ipv4; echo 0 >ip_forward; echo 0 >conf/all/accept_redirects; echo 0 >conf/eth0/accept_redirects",
        "sysctl: { 60-forward: { net.ipv4.ip_forward: 1, net.ipv6.conf.all.forwarding: 1 } }\n",
    );
}

// --- T26: the xtables lock --------------------------------------------------------------------------

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

#[test]
fn t26_the_xtables_lock_is_held_in_apply_and_in_rollback() {
    let Some((lab, project)) = managed(Backend::Legacy) else { return };
    let last = newest(&lab, HOST);
    project.all(&opened(81));
    let mut holder = hold_lock(&lab, "/run/free1");
    let kvmfw = project.spawn(&lab, &["apply", "-y", "--apply-timeout", "30s", "--confirm-timeout", "10s"]);
    let folder = marked(&lab, HOST, "claim", last.as_ref());
    wait("the change waits", LONG, || read(&folder, "journal").ends_with("iptables").then_some(()));
    assert!(!folder.join("result").exists(), "it did not wait");
    on_host(&lab, "touch /run/free1");
    transaction::end(kvmfw).expect(0);
    holder.wait().unwrap();
    settled(&lab, &project);

    // Now held when it rolls back.
    let before = lab.dump(HOST);
    let last = newest(&lab, HOST);
    project.all(&held(82));
    let mut kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    let mut holder = hold_lock(&lab, "/run/free2");
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    wait("the rollback", LONG, || folder.join("decision").exists().then_some(()));
    assert!(!folder.join("done").exists(), "it did not wait");
    on_host(&lab, "touch /run/free2");
    holder.wait().unwrap();
    assert!(ended(&folder).starts_with("rolled_back"));
    same(&before, &lab.dump(HOST), "after the rollback");
}

// --- T37, T38: an undo is guarded, and one that fails stops no other --------------------------------

#[test]
fn t37_t38_an_undo_is_guarded_and_goes_on_past_a_host_that_fails() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let project = Project::new(&lab, &["kvm1", "kvm2"], &opened(80));
    let run = project.apply(&lab, &[]).expect(0).run();
    // On one host only our rules let SSH in by now: without them it is locked out.
    on_host(&lab, "iptables -P INPUT DROP");
    let before = lab.dump(HOST);
    let undo = project
        .kvmfw(
            &lab,
            &[
                "undo",
                &run,
                "-y",
                "--apply-timeout",
                "10s",
                "--confirm-timeout",
                "5s",
                "--max-fail",
                "100%",
                "--accept-risk",
                "lockout",
                "--format",
                "json",
            ],
        )
        .expect(4);
    let hosts = undo.json()["hosts"].clone();
    assert_eq!(hosts[0]["status"], "rolled_back", "{hosts:#}");
    assert_eq!(hosts[1]["status"], "changed", "{hosts:#}");
    same(&before, &lab.dump(HOST), "after the undo that failed");
    assert!(!lab.host("kvm2", &["iptables-save"]).ok().contains("KVMFW"), "kvm2 is not back");
}

// --- T40: no space, or no writing -------------------------------------------------------------------

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
    let run = project.apply(&lab, &["--format", "json"]);
    assert!([4, 5, 7].contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
    assert_eq!(on_host(&lab, "iptables-save; ip6tables-save"), before, "it was touched");
    on_host(&lab, "umount /var/lib/kvmfw");
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

// --- no global sync ---------------------------------------------------------------------------------

/// 300 MB of dirty pages lie about; nothing that an apply does asks for them to be written.
#[test]
fn no_global_sync() {
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

// --- T19: what an apply finds open ------------------------------------------------------------------

/// It is ended before the question is asked: the host is as it was, whatever the answer.
#[test]
fn t19_what_an_apply_ends_before_its_question_is_as_it_was() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let before = lab.dump(HOST);
    let last = newest(&lab, HOST);
    project.all(&held(81));
    let mut kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    let id = folder.file_name().unwrap().to_string_lossy().into_owned();
    assert!(kill_where(&lab, &format!("kvmfw.sh guard {id}")) >= 2, "no guards");
    assert!(on_host(&lab, "iptables-save").contains("--dport 81 "), "it is still applied");
    // No terminal to ask on: nothing more is done.
    let run = project.kvmfw(&lab, &["apply"]).expect(7);
    assert!(run.stderr.contains("nobody watched it; it was ended first"), "{}", run.stderr);
    assert!(ended(&folder).starts_with("rolled_back"), "{}", ended(&folder));
    same(&before, &lab.dump(HOST), "after an apply that did nothing else");
}

/// Both guards die between the last word and putting things away: the word stands, and nothing is open.
#[test]
fn t19_what_is_over_is_put_away_by_whoever_comes_next() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let last = newest(&lab, HOST).unwrap();
    let before = lab.dump(HOST);
    let history = || on_host(&lab, "wc -l </var/lib/kvmfw/history");
    let lines = history();
    let id = last.file_name().unwrap().to_string_lossy().into_owned();
    on_host(&lab, &format!("ln -s txn/{id} /var/lib/kvmfw/open"));
    project.kvmfw(&lab, &["apply"]).expect(0);
    same(&before, &lab.dump(HOST), "after an apply with nothing to do");
    assert!(!lab.disk(HOST, "/var/lib/kvmfw/open").is_symlink(), "still open");
    assert_eq!((read(&last, "done").as_str(), history()), ("committed", lines));
}

// --- fixes that had no test -------------------------------------------------------------------------

/// A power cut can leave a file empty. Without its number no generation may be thrown away.
#[test]
fn an_empty_generation_file_costs_no_generation() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let last = newest(&lab, HOST);
    let before = lab.dump(HOST);
    project.all(&held(81));
    let mut kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    let id = folder.file_name().unwrap().to_string_lossy().into_owned();
    assert!(kill_where(&lab, &format!("kvmfw.sh guard {id}")) >= 2, "no guards");
    fs::write(folder.join("generation"), "").unwrap();
    project.kvmfw(&lab, &["unlock", HOST, "-y"]).expect(0);
    assert!(ended(&folder).starts_with("rolled_back"));
    assert!(on_host(&lab, "ls /etc/kvmfw/generations").lines().any(|l| l == "1"), "generation 1 is gone");
    assert_eq!(on_host(&lab, "iptables-save | grep -c 'dport 81 ' || true").trim(), "0");
    drop(before);
    project.all(&opened(80));
    settled(&lab, &project);
}

/// A save that fails is not an empty host.
#[test]
fn a_failing_iptables_save_is_no_empty_host() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let rules = on_host(&lab, "iptables-nft-save | grep -v '^[#:]'");
    wrap(&lab, HOST, "iptables-save", "#!/bin/sh\necho broken >&2\nexit 1\n");
    project.all(&opened(81));
    let run = project.apply(&lab, &[]);
    assert!([4, 7].contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
    assert!(newest(&lab, HOST).is_none_or(|t| t.join("done").exists()), "something is open");
    assert_eq!(on_host(&lab, "iptables-nft-save | grep -v '^[#:]'"), rules);
    wrap(&lab, HOST, "iptables-save", "#!/bin/sh\nexec /usr/sbin/iptables-nft-save \"$@\"\n");
    project.apply(&lab, &[]).expect(0);
}

/// The routes that moved with an address boot again from a generation that did not move them.
#[test]
fn routes_that_moved_boot_from_the_second_generation_too() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(&lab, "ip route add 203.0.113.0/24 via 10.99.0.1");
    let bridge = "bridges: { brmgmt: { ports: [eth0], take_addresses: true, stp: false } }\n";
    let project = Project::new(&lab, &[HOST], bridge);
    project.apply(&lab, &[]).expect(0);
    let route = || on_host(&lab, "ip route show 203.0.113.0/24");
    assert!(route().contains("brmgmt"), "{}", route());
    let boots = || fs::read_to_string(lab.disk(HOST, "/etc/kvmfw/current/boot.bridges")).unwrap();
    assert!(boots().contains("203.0.113.0/24"), "{}", boots());
    project.all(&format!("{bridge}sysctl: {{ 60-t: {{ net.ipv4.conf.all.arp_ignore: 1 }} }}\n"));
    project.apply(&lab, &[]).expect(0);
    assert!(boots().contains("203.0.113.0/24"), "lost in the second generation: {}", boots());
    lab.power_cut(HOST);
    lab.boot(HOST);
    assert!(
        route().contains("brmgmt"),
        "not there after a boot with\n{}\n{}",
        boots(),
        on_host(&lab, "ip route; ip -br address")
    );
    settled(&lab, &project);
}

/// The guard that says that the lock is held and dies of it at once is heard.
#[test]
fn a_guard_that_ends_at_once_is_heard() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    project.all(&opened(81));
    on_host(&lab, "echo 'somebody (x, since then)' >/var/lib/kvmfw/lock");
    let mut command = lab.host_command(HOST);
    command.args([
        "flock",
        "/var/lib/kvmfw/lock",
        "sh",
        "-c",
        "touch /run/held; until test -e /run/free; do sleep 0.05; done",
    ]);
    let mut holder = command.spawn().unwrap();
    wait("the lock is held", LONG, || lab.host(HOST, &["test", "-e", "/run/held"]).success().then_some(()));
    for _ in 0..5 {
        let run = project.apply(&lab, &["--format", "json"]).expect(7);
        assert_eq!(run.json()["hosts"][0]["reason"], "locked", "{}", run.stdout);
        assert!(run.stdout.contains("somebody"), "{}", run.stdout);
    }
    on_host(&lab, "touch /run/free");
    holder.wait().unwrap();
    project.apply(&lab, &[]).expect(0);
}

// --- checks -----------------------------------------------------------------------------------------

/// Behind a bridge that changed a check gets time; after any other change its first answer counts.
#[test]
fn a_check_behind_a_changed_bridge_gets_time() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    // Fails twice once the change is made.
    let check = "test -e /run/armed || { touch /run/armed; exit 0; }; echo x >>/run/count; test $(wc -l </run/count) -gt 2";
    let checks = format!("checks: [{{ command: '{check}' }}]\n");
    project.all(&format!(
        "modules: [host-firewall, bridge-accept-each]\nbridges: {{ br123: {{ ageing: 77 }} }}\n{checks}"
    ));
    project.apply(&lab, &[]).expect(0);
    assert_eq!(on_host(&lab, "wc -l </run/count").trim(), "3");
    on_host(&lab, "rm /run/armed /run/count");
    project.all(&format!("modules: [host-firewall, bridge-accept-each, firewall-log]\nbridges: {{ br123: {{ ageing: 77 }} }}\n{checks}"));
    project.apply(&lab, &[]).expect(4);
    assert_eq!(on_host(&lab, "wc -l </run/count").trim(), "1");
    let folder: PathBuf = newest(&lab, HOST).unwrap();
    assert!(between(&folder, "applied", "done") < LONG);
    assert!(Path::new(&folder).join("applied").exists());
}

#[test]
fn t24_a_failed_first_apply_leaves_nothing() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let before = lab.dump(HOST);
    Project::new(&lab, &[HOST], &failing(80)).apply(&lab, &[]).expect(4);
    same(&before, &lab.dump(HOST), "after the rollback");
}
