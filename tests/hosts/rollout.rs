//! A run over many hosts: who changes with whom, and who holds whom up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, Run, host_of};
use common::transaction::{end, ended, marked, newest, read, until, wait};
use common::{Cut, Lab};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Lets a host through where `/root/ok` is there; elsewhere the change is rolled back.
const CHECKED: &str = "\
iptables:
  filter:
    FORWARD:
      rules: |
        -p tcp --dport 4242 -j DROP
checks:
  - { command: test -e /root/ok, required: true }
";

fn groups(project: &Project, all: &str, more: &str) {
    project.all(all);
    let path = project.path().join("inventories/lab.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, format!("{text}{more}")).unwrap();
}

fn in_group(project: &Project, hosts: &[&str], group: &str) {
    let path = project.path().join("inventories/lab.yaml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for host in hosts {
        text = text.replace(&format!("  {host}: {{ "), &format!("  {host}: {{ groups: [{group}], "));
    }
    std::fs::write(path, text).unwrap();
}

fn statuses(json: &Value) -> BTreeMap<String, String> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    json["hosts"].as_array().unwrap().iter().map(|h| (word(&h["name"]), word(&h["status"]))).collect()
}

/// The first node fails. Its sister has not begun by then, because of the group's limit; without the
/// limit both are in flight at once.
#[test]
fn two_hosts_of_one_group_do_not_change_together() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &["kvm1", "kvm2", "kvm3"], CHECKED);
    for host in ["kvm2", "kvm3"] {
        std::fs::write(lab.disk(host, "/root/ok"), "").unwrap();
    }
    groups(&project, CHECKED, "  ceph: { max_in_flight: 1 }\n");
    in_group(&project, &["kvm1", "kvm2"], "ceph");
    let args = ["--batch", "100%", "--format", "json"];
    let first = statuses(&project.apply(&lab, &args).expect(4).json());
    let is = |host: &str, status: &str| (host.to_owned(), status.to_owned());
    let wanted = [is("kvm1", "rolled-back"), is("kvm2", "skipped"), is("kvm3", "changed")];
    assert_eq!(first, BTreeMap::from(wanted));

    project.all(CHECKED);
    let second = statuses(&project.apply(&lab, &args).expect(4).json());
    let wanted = [is("kvm1", "rolled-back"), is("kvm2", "changed"), is("kvm3", "unchanged")];
    assert_eq!(second, BTreeMap::from(wanted));
}

/// Ten hosts, each of which fails in another way; all others are changed while the one that takes longest to fail
/// is still at it.
#[test]
fn ten_misbehaving_hosts_do_not_delay_the_others() {
    if !common::require_root() {
        return;
    }
    let hosts = if std::env::var_os("KVMFW_LONG").is_some() { 100 } else { 16 };
    let lab = Lab::builder().hosts(hosts).guests(false).up();
    let names: Vec<String> = (1..=hosts).map(|n| format!("kvm{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let project = Project::new(&lab, &names, CHECKED);
    let locked =
        "  locked:\n    iptables:\n      filter:\n        INPUT:\n          rules: |\n            -j DROP\n";
    groups(&project, CHECKED, locked);
    in_group(&project, &["kvm9"], "locked");
    for host in names.iter().filter(|name| **name != "kvm8") {
        std::fs::write(lab.disk(host, "/root/ok"), "").unwrap();
    }
    let answer = |host: &str, script: &str| {
        let keys = lab.disk(host, "/root/.ssh/authorized_keys");
        let key = std::fs::read_to_string(&keys).unwrap();
        std::fs::write(&keys, format!("command=\"{script}\" {key}")).unwrap();
    };
    answer("kvm1", "exec sleep 1000");
    lab.cut("kvm2", Cut::From);
    lab.power_cut("kvm3");
    let known = lab.dir().join("known_hosts");
    let text = std::fs::read_to_string(&known).unwrap();
    let of = lab.address("kvm4");
    let others = text.lines().filter(|line| !line.split([' ', ',']).any(|word| word == of));
    std::fs::write(&known, others.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    answer("kvm5", "head -c 300000 /dev/urandom");
    answer("kvm6", "exec yes >&2");
    lab.host("kvm7", &["sh", "-c", "mkdir -p /etc/ufw; echo ENABLED=yes >/etc/ufw/ufw.conf"]).ok();
    let full = "mount -t tmpfs -o size=4k none /var/lib && dd if=/dev/zero of=/var/lib/x bs=4k count=1 2>/dev/null; :";
    lab.host("kvm10", &["sh", "-c", full]).ok();

    let args = [
        "apply",
        "-y",
        "--batch",
        "100%",
        "--max-fail",
        "100%",
        "--max-unreachable",
        "100%",
        "--accept-risk",
        "lockout",
        "--apply-timeout",
        "10s",
        "--confirm-timeout",
        "300s",
        "--format",
        "json",
    ];
    let kvmfw = project.spawn(&lab, &args);
    let done = |host: &str| newest(&lab, host).is_some_and(|folder| read(&folder, "done") == "committed");
    wait("the others are changed", Duration::from_secs(300), || {
        names[10..].iter().all(|host| done(host)).then_some(())
    });
    let locked_out = newest(&lab, "kvm9").unwrap();
    assert!(locked_out.join("applied").exists() && !locked_out.join("done").exists());
    // They need not wait for its guard, and this test neither.
    lab.host("kvm9", &["/var/lib/kvmfw/kvmfw.sh", "rollback"]).ok();
    let json = end(kvmfw).expect(4).json();
    let statuses = statuses(&json);
    let bad = [
        "unreachable",
        "unreachable",
        "unreachable",
        "unreachable",
        "unreachable",
        "unreachable",
        "refused",
        "rolled-back",
        "rolled-back",
        "failed",
    ];
    let silent = host_of(&json, "kvm1")["message"].as_str().unwrap();
    assert!(silent.starts_with("timed out: none of the remaining hosts answered for 20s"), "{silent}");
    for (n, status) in bad.iter().enumerate() {
        let name = format!("kvm{}", n + 1);
        assert_eq!(statuses[&name], *status, "{name}: {json:#}");
    }
    for name in &names[10..] {
        assert_eq!(statuses[*name], "changed", "{name}: {json:#}");
    }
}

/// The hosts in the order in which they were changed.
fn order(run: &Run) -> Vec<&str> {
    run.stderr.lines().filter_map(|line| line.strip_prefix("  ")?.strip_suffix("  changed")).collect()
}

/// kvm1 is the jump host of kvm2, and both are jump hosts of kvm3: what cuts one off cuts off every host behind it.
#[test]
fn a_jump_host_changes_after_the_hosts_behind_it() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(4).guests(false).up();
    let project = Project::new(&lab, &["kvm1", "kvm2", "kvm3", "kvm4"], CHECKED);
    for host in ["kvm1", "kvm2", "kvm3", "kvm4"] {
        std::fs::write(lab.disk(host, "/root/ok"), "").unwrap();
    }
    // ssh takes the home from the password file, and so it is put in the place of root's.
    let ssh = project.path().join("home/.ssh");
    std::fs::create_dir_all(&ssh).unwrap();
    let keys = std::fs::read_to_string(lab.dir().join("ssh_config")).unwrap();
    let config = |jumps: &str| {
        std::fs::write(ssh.join("config"), format!("{jumps}Match all\nUser root\n{keys}")).unwrap()
    };
    let kvmfw = |args: &[&str]| {
        let of_project = project.command(&lab, args);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /root && exec \"$@\""]);
        command.arg(project.path().join("home")).arg(of_project.get_program()).args(of_project.get_args());
        command.env("KVMFW_RUN_DIR", project.path().join("runs")).stdin(Stdio::null());
        end(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).expect(0)
    };
    let port = |port: &str| project.all(&CHECKED.replace("4242", port));
    let apply = ["apply", "-y", "--batch", "100%", "--progress", "plain"];
    let jump = |host: &str, jump: &str| {
        let path = project.path().join("inventories/lab.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        let with =
            text.replace(&format!("  {host}: {{ "), &format!("  {host}: {{ ssh: {{ jump: '{jump}' }}, "));
        assert_ne!(text, with);
        std::fs::write(path, with).unwrap();
    };

    // Only ssh_config knows.
    config("Host 10.99.0.12\nProxyJump 10.99.0.11\nHost 10.99.0.13\nProxyJump 10.99.0.12\n");
    let run = kvmfw(&apply);
    assert_eq!(&order(&run)[2..], ["kvm2", "kvm1"], "{}", run.stderr);
    let said = "note[jump-host] kvm1: this host is the jump host of kvm2 (they were probed from its address)";
    assert!(run.stderr.contains(said), "{}", run.stderr);

    // The inventory does.
    config("");
    port("4243");
    jump("kvm2", "10.99.0.11");
    jump("kvm3", "10.99.0.11,10.99.0.12");
    let run = kvmfw(&apply);
    assert_eq!(&order(&run)[2..], ["kvm2", "kvm1"], "{}", run.stderr);

    // A saved plan that has nobody who is behind kvm1.
    port("4244");
    jump("kvm3", "10.99.0.11");
    let file = project.path().join("plan.json");
    let file = file.to_str().unwrap();
    kvmfw(&["plan", "-o", file, "-l", "kvm1,kvm4"]);
    let run = kvmfw(&["apply", file, "--batch", "100%", "--progress", "plain"]);
    assert_eq!(order(&run), ["kvm4", "kvm1"], "{}", run.stderr);
}

/// Two names lead to one host in a way that no inventory shows: one of them changes it, and the other keeps
/// its hands off the transaction of the first.
#[test]
fn a_host_of_two_names_is_changed_once() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], CHECKED);
    std::fs::write(lab.disk("kvm1", "/root/ok"), "").unwrap();
    let path = project.path().join("inventories/lab.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let other = "  alias: { address: '10.99.0.11', ssh: { options: { ServerAliveCountMax: 4 } } }\n";
    std::fs::write(path, text.replace("groups:\n", &format!("{other}groups:\n"))).unwrap();
    let json =
        project.apply(&lab, &["--batch", "100%", "--max-fail", "2", "--format", "json"]).expect(7).json();
    let mut ends: Vec<(&str, Option<&str>)> = Vec::new();
    for host in json["hosts"].as_array().unwrap() {
        ends.push((host["status"].as_str().unwrap(), host["reason"].as_str()));
    }
    ends.sort_unstable();
    assert_eq!(ends, [("changed", None), ("refused", Some("same-host"))], "{json:#}");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y", "-l", "kvm1"]).expect(0);
}

/// Ctrl-C on a terminal goes to all that runs there: a check that dies of it has not failed.
#[test]
fn an_interrupt_fails_no_check() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let all =
        CHECKED.replace("command: test -e /root/ok, required: true", "ping: 10.99.0.11, from: controller");
    let project = Project::new(&lab, &["kvm1"], &all);
    let folder = project.path().display();
    project.write(
        "bin/ping",
        &format!("#!/bin/sh\nmkdir {folder}/first && exit\ntouch {folder}/second\nuntil [ -e {folder}/go ]; do sleep 0.05; done\n"),
    );
    lab.exec(&["chmod", "755", &format!("{folder}/bin/ping")]).ok();
    let of_project = project.command(&lab, &["apply", "-y", "--format", "json"]);
    // The lab sets a PATH of its own.
    let mut command = lab.exec_command("env");
    command.arg(format!("PATH={folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    let args: Vec<_> = of_project.get_args().collect();
    let at = args.iter().position(|arg| *arg == "--").unwrap();
    command.args(&args[at + 1..]).env("KVMFW_RUN_DIR", project.path().join("runs"));
    let kvmfw = command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("the check runs", || project.path().join("second").exists());
    lab.exec(&["kill", "-INT", "--", &format!("-{}", kvmfw.id())]).ok();
    project.write("go", "");
    let json = end(kvmfw).expect(130).json();
    assert_eq!(host_of(&json, "kvm1")["status"], "changed", "{json:#}");
}

/// An sshd with too many logins under way drops some, by chance: that is no host that cannot be reached.
#[test]
fn a_dropped_login_is_retried() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let config = lab.disk("kvm1", "/etc/ssh/sshd_config");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("MaxStartups 1000", "MaxStartups 1:100:1")).unwrap();
    lab.reboot("kvm1");
    let project = Project::new(&lab, &["kvm1"], CHECKED);
    // Somebody who never says who he is.
    let mut other = lab.exec_command("bash");
    other.args(["-c", "exec 3<>/dev/tcp/10.99.0.11/22; head -n 1 <&3; read -r _"]);
    let mut other = other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut banner = [0; 4];
    other.stdout.as_mut().unwrap().read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-");
    let drops = || lab.console("kvm1").matches("past MaxStartups").count();
    assert_eq!(drops(), 0);
    let kvmfw = project.spawn(&lab, &["plan", "-v"]);
    until("sshd drops it", || drops() > 0);
    drop(other.stdin.take());
    other.wait().unwrap();
    let run = end(kvmfw).expect(0);
    assert!(run.stderr.contains("no connection: ") && run.stdout.contains("on 1 of 1 host."), "{run:?}");
}

/// What a run that was killed has left is as desired, until its guard puts it back: that is no host with nothing to do.
#[test]
fn an_undecided_transaction_is_not_reported_as_unchanged() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let held = "command: 'mkdir /root/first 2>/dev/null || sleep 100', timeout: 100s";
    let all = CHECKED.replace("command: test -e /root/ok, required: true", held);
    let project = Project::new(&lab, &["kvm1"], &all);
    let mut first = project.spawn(&lab, &["apply", "-y", "--confirm-timeout", "300s"]);
    let folder = marked(&lab, "kvm1", "applied", None);
    first.kill().unwrap();
    first.wait().unwrap();
    let json = project.apply(&lab, &["--format", "json"]).expect(7).json();
    assert_eq!(host_of(&json, "kvm1")["reason"], "locked", "{json:#}");
    lab.host("kvm1", &["/var/lib/kvmfw/kvmfw.sh", "rollback"]).ok();
    assert!(ended(&folder).starts_with("rolled-back"));
    project.all(CHECKED);
    std::fs::write(lab.disk("kvm1", "/root/ok"), "").unwrap();
    project.apply(&lab, &[]).expect(0);
    project.apply(&lab, &[]).expect(0);
}
