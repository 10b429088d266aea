//! A host that is silent after its login: the others are changed without it, and when it answers its turn comes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Lab;
use common::project::{Project, host_of};
use common::transaction::{end, newest, opened, read, wait};
use serde_json::Value;
use std::time::Duration;

const HOSTS: [&str; 3] = ["kvm1", "kvm2", "kvm3"];

/// From here on a host says nothing before `/root/go` is there.
fn silence(lab: &Lab, host: &str) {
    let keys = lab.disk(host, "/root/.ssh/authorized_keys");
    let key = std::fs::read_to_string(&keys).unwrap();
    let script = r#"until test -e /root/go; do sleep 0.1; done; eval \"$SSH_ORIGINAL_COMMAND\""#;
    std::fs::write(&keys, format!("command=\"{script}\" {key}")).unwrap();
}

fn answer(lab: &Lab, host: &str) {
    std::fs::write(lab.disk(host, "/root/go"), "").unwrap();
}

/// What kvmfw has told so far in the run that is under way.
fn events(project: &Project) -> Vec<Value> {
    let runs = std::fs::read_dir(project.path().join("runs")).into_iter().flatten().flatten();
    let under_way = runs.map(|run| run.path()).find(|run| !run.join("result.json").exists());
    let text =
        under_way.and_then(|run| std::fs::read_to_string(run.join("events.jsonl")).ok()).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits until the other two are changed, and the turn of the silent one has come.
fn all_but_one(lab: &Lab, project: &Project) {
    wait("the others are changed", Duration::from_secs(30), || {
        let done = |host: &str| newest(lab, host).is_some_and(|folder| read(&folder, "done") == "committed");
        (done("kvm2") && done("kvm3")).then_some(())
    });
    wait("its turn comes", Duration::from_secs(10), || {
        let events = events(project);
        let applying = events.iter().position(|event| event["event"] == "applying")?;
        let turn =
            events[applying..].iter().any(|event| event["host"] == "kvm1" && event["step"] == "looking");
        turn.then_some(())
    });
}

#[test]
fn who_answers_late_is_changed_late() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, &opened(4242));
    silence(&lab, "kvm1");
    let kvmfw = project.spawn(&lab, &["apply", "-y"]);
    all_but_one(&lab, &project);
    assert!(newest(&lab, "kvm1").is_none());
    answer(&lab, "kvm1");
    let run = end(kvmfw).expect(0);
    let order = |texts: &[&str]| {
        let mut at = 0;
        for text in texts {
            at += run.stderr[at..].find(text).unwrap_or_else(|| panic!("{text}: {}", run.stderr));
        }
    };
    order(&[
        "kvm1: no answer yet: the others begin",
        "on 2 of 3 hosts",
        "  kvm3  changed\n",
        "kvm1 has answered.\n",
        "--dport 4242",
        "  kvm1  changed\n",
    ]);
    assert!(run.stdout.contains("changed         3 "), "{}", run.stdout);

    // What was shown of it then is shown again.
    let shown = project.kvmfw(&lab, &["show", &run.run()]).expect(0);
    assert!(shown.stdout.contains("kvm[1-3]"), "{}", shown.stdout);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}

/// A host whose state is not that of a saved plan is left alone, also when that shows late.
#[test]
fn a_saved_plan_holds_for_who_answers_late() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, &opened(4242));
    let file = project.path().join("plan.json");
    let file = file.to_str().unwrap();
    project.kvmfw(&lab, &["plan", "-o", file]).expect(0);
    project.apply(&lab, &["-l", "kvm1"]).expect(0);
    let earlier = newest(&lab, "kvm1");
    silence(&lab, "kvm1");
    let kvmfw = project.spawn(&lab, &["apply", file, "--format", "json"]);
    all_but_one(&lab, &project);
    answer(&lab, "kvm1");
    let json = end(kvmfw).expect(7).json();
    assert_eq!(host_of(&json, "kvm1")["reason"], "stale", "{json:#}");
    assert_eq!(newest(&lab, "kvm1"), earlier);
}

/// Nothing was touched there, so nothing has to be decided.
#[test]
fn an_interrupt_does_not_wait_for_who_is_late() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, &opened(4242));
    silence(&lab, "kvm1");
    let mut kvmfw = project.spawn(&lab, &["apply", "-y", "--format", "json"]);
    all_but_one(&lab, &project);
    lab.exec(&["kill", "-INT", &kvmfw.id().to_string()]).ok();
    wait("it ends", Duration::from_secs(10), || kvmfw.try_wait().unwrap());
    let json = end(kvmfw).expect(130).json();
    assert_eq!(host_of(&json, "kvm1")["reason"], "late", "{json:#}");
    assert_eq!(host_of(&json, "kvm2")["status"], "changed", "{json:#}");
}

/// One plan of all hosts waits for the last of them, and not for as long as that may take if it were alone.
#[test]
fn a_plan_waits_for_the_last_one_for_a_while() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, &opened(4242));
    silence(&lab, "kvm1");
    let json = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(5).json();
    let message = host_of(&json, "kvm1")["message"].as_str().unwrap();
    assert!(message.starts_with("no answer, and for 20s"), "{json:#}");
    assert_eq!(host_of(&json, "kvm2")["status"], "changed", "{json:#}");
}
