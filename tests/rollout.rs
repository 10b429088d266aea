//! A run over many hosts: who changes with whom, and who holds whom up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::project::Project;
use common::{Cut, Lab};
use serde_json::Value;
use std::collections::BTreeMap;

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
fn two_nodes_of_one_group_do_not_change_together() {
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
    let wanted = [is("kvm1", "rolled_back"), is("kvm2", "skipped"), is("kvm3", "changed")];
    assert_eq!(first, BTreeMap::from(wanted));

    project.all(CHECKED);
    let second = statuses(&project.apply(&lab, &args).expect(4).json());
    let wanted = [is("kvm1", "rolled_back"), is("kvm2", "changed"), is("kvm3", "unchanged")];
    assert_eq!(second, BTreeMap::from(wanted));
}

/// Ten hosts, each of which fails in another way; all others are changed, and are done before those
/// that take their time to fail.
#[test]
fn ten_that_misbehave_hold_nobody_up() {
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
    lab.cut("kvm1", Cut::Both);
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
        "5s",
        "--format",
        "json",
        "--progress",
        "plain",
    ];
    let run = project.kvmfw(&lab, &args).expect(4);
    let json = run.json();
    let statuses = statuses(&json);
    let bad = [
        "unreachable",
        "unreachable",
        "unreachable",
        "unreachable",
        "unreachable",
        "unreachable",
        "refused",
        "rolled_back",
        "rolled_back",
        "failed",
    ];
    for (n, status) in bad.iter().enumerate() {
        let name = format!("kvm{}", n + 1);
        assert_eq!(statuses[&name], *status, "{name}: {json:#}");
    }
    for name in &names[10..] {
        assert_eq!(statuses[*name], "changed", "{name}: {json:#}");
    }
    let line = |name: &str| run.stderr.lines().position(|l| l.starts_with(&format!("  {name}  "))).unwrap();
    for name in &names[10..] {
        assert!(line(name) < line("kvm9"), "{name} waited for a host that was locked out:\n{}", run.stderr);
    }
}
