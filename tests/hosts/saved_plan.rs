//! `plan -o`, `show FILE`, `apply FILE`: applied exactly, or left alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::{Project, Run};
use serde_json::Value;
use std::fs;
use std::path::Path;

const HOSTS: [&str; 3] = ["kvm1", "kvm2", "kvm3"];
const ALL: &str = "modules: [own]
sysctl: { 60-fwd: { net.ipv4.ip_forward: 1, net.ipv4.conf.all.log_martians: 1 } }
";
const MODULE: &str = "iptables:
  filter:
    INPUT:
      rules: |
        -p tcp --dport 22 -j ACCEPT
        -p tcp --dport 9 -j DROP
";

fn project(lab: &Lab) -> Project {
    let project = Project::new(lab, &HOSTS, ALL);
    project.module("own", MODULE);
    project
}

/// Status and reason of every host.
fn ends(run: &Run) -> Vec<String> {
    let json = run.json();
    let text = |host: &Value, key: &str| host[key].as_str().map(str::to_owned).unwrap_or_default();
    let hosts = json["hosts"].as_array().unwrap();
    hosts.iter().map(|h| format!("{} {}", text(h, "status"), text(h, "reason")).trim().to_owned()).collect()
}

fn apply(lab: &Lab, project: &Project, plan: &str) -> Run {
    project.kvmfw(lab, &["apply", plan, "--batch", "100%", "--format", "json"])
}

#[test]
fn each_host_as_it_was_or_left_alone() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = project(&lab);
    let file = project.path().join("plan.json").display().to_string();
    project.kvmfw(&lab, &["plan", "-o", &file, "--detailed-exitcode"]).expect(2);
    let saved: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(saved["version"], 1);
    assert!(saved["hosts"]["kvm1"]["generation"].is_null(), "{saved:#}");

    // kvm2 was never managed, and what the plan touches is otherwise by now; kvm3 has a rule of
    // somebody else more, which the plan does not touch.
    lab.host("kvm2", &["sysctl", "-w", "net.ipv4.conf.all.log_martians=1"]).ok();
    lab.host("kvm3", &["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "7", "-j", "DROP"]).ok();
    let before = lab.dump("kvm2");
    let run = apply(&lab, &project, &file).expect(7);
    assert_eq!(ends(&run), ["changed", "refused stale", "changed"], "{}", run.stdout);
    assert_eq!(lab.dump("kvm2"), before, "it was touched");

    // Applied once already.
    let again = apply(&lab, &project, &file).expect(7);
    assert_eq!(ends(&again), ["refused stale"; 3], "{}", again.stdout);
    assert!(again.json()["run"].is_null(), "nothing was opened");

    // To look at it is always possible.
    let shown = project.kvmfw(&lab, &["show", &file]).expect(0);
    assert!(shown.stdout.contains("kvm[1-3] (3 hosts)"), "{}", shown.stdout);

    // Nothing to do then and something to do now is another plan.
    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["plan", "-o", &file, "--detailed-exitcode"]).expect(0);
    lab.host("kvm2", &["sysctl", "-w", "net.ipv4.conf.all.log_martians=0"]).ok();
    let run = apply(&lab, &project, &file).expect(7);
    assert_eq!(ends(&run), ["unchanged", "refused stale", "unchanged"], "{}", run.stdout);

    // Applied, and put back again: the host looks as it did, but the plan has had its turn.
    project.module("own", &MODULE.replace("--dport 9", "--dport 19"));
    project.kvmfw(&lab, &["plan", "-o", &file, "--limit", "kvm1", "--detailed-exitcode"]).expect(2);
    let run = apply(&lab, &project, &file).expect(0).json();
    project.kvmfw(&lab, &["undo", run["run"].as_str().unwrap(), "-y", "--limit", "kvm1"]).expect(0);
    let again = apply(&lab, &project, &file).expect(7);
    assert_eq!(ends(&again), ["refused stale"], "{}", again.stdout);
    assert!(again.stdout.contains("generation 1 then, 3 now"), "{}", again.stdout);
}

#[test]
fn a_plan_is_for_the_files_it_was_made_from() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = project(&lab);
    let file = project.path().join("plan.json").display().to_string();
    project.kvmfw(&lab, &["plan", "-o", &file]).expect(0);
    let refused = |what: &str| {
        let run = apply(&lab, &project, &file).expect(3);
        assert!(run.stderr.contains(what) && run.stdout.is_empty(), "{}{}", run.stdout, run.stderr);
    };
    project.module("own", &MODULE.replace("--dport 9", "--dport 19"));
    refused("modules/own/module.yaml has changed");
    project.module("own", MODULE);
    project.all(&format!("{ALL}modules: []\n").replace("modules: [own]\n", ""));
    refused("inventories/lab.yaml has changed");
    project.all(ALL);
    project.module("other", "description: Not used.\n");
    refused("modules/other/module.yaml is new");
    fs::remove_dir_all(project.path().join("modules/other")).unwrap();

    // A file that is none, and one of another kvmfw; to be looked at it is still good.
    let text = fs::read_to_string(&file).unwrap();
    let mut saved: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in [("version", Value::from(99)), ("kvmfw", Value::from("0.0.1"))] {
        let right = std::mem::replace(&mut saved[key], value);
        fs::write(&file, saved.to_string()).unwrap();
        refused("plan again");
        project.kvmfw(&lab, &["show", &file]).expect(0);
        saved[key] = right;
    }
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    refused("not a saved plan");
    project.kvmfw(&lab, &["show", &file]).expect(3);
    for flags in [["--limit", "kvm1"], ["--shard", "1/2"], ["-i", "lab"]] {
        fs::write(&file, &text).unwrap();
        let args = [&["apply", file.as_str()], &flags[..]].concat();
        project.kvmfw(&lab, &args).expect(3);
    }
    for host in HOSTS {
        assert!(!lab.disk(host, "/var/lib/kvmfw").exists(), "{host} was touched");
    }

    // The same files in another folder, as a pipeline's next job has them; it stands in it.
    let elsewhere = tempfile::tempdir().unwrap();
    for path in ["inventories/lab.yaml", "modules/own/module.yaml"] {
        let to = elsewhere.path().join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(project.path().join(path), to).unwrap();
    }
    fs::copy(&file, elsewhere.path().join("plan.json")).unwrap();
    fs::remove_dir_all(project.path().join("inventories")).unwrap();
    let output = here(&lab, elsewhere.path(), &["apply", "plan.json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = here(&lab, elsewhere.path(), &["plan", "--detailed-exitcode"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// kvmfw in a folder, without `-C`.
fn here(lab: &Lab, folder: &Path, args: &[&str]) -> std::process::Output {
    let mut command = lab.exec_command(env!("CARGO_BIN_EXE_kvmfw"));
    command.args(args).env("KVMFW_RUN_DIR", folder.join("runs")).current_dir(folder);
    command.output().unwrap()
}
