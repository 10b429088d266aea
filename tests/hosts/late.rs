//! Stragglers: hosts that do not answer after the login. Others are changed without them, and they follow when they answer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::{Project, host_of};
use common::transaction::{end, held, newest, opened, read, wait};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

const HOSTS: [&str; 3] = ["kvm1", "kvm2", "kvm3"];

/// Keeps a host from answering until `/root/go` exists.
fn silence(lab: &Lab, host: &str) {
    let keys = lab.disk(host, "/root/.ssh/authorized_keys");
    let key = std::fs::read_to_string(&keys).unwrap();
    let script = r#"until test -e /root/go; do sleep 0.1; done; eval \"$SSH_ORIGINAL_COMMAND\""#;
    std::fs::write(&keys, format!("command=\"{script}\" {key}")).unwrap();
}

fn answer(lab: &Lab, host: &str) {
    std::fs::write(lab.disk(host, "/root/go"), "").unwrap();
}

/// Events so far of the run that is in progress.
fn events(project: &Project) -> Vec<Value> {
    let runs = std::fs::read_dir(project.path().join("runs")).into_iter().flatten().flatten();
    let under_way = runs.map(|run| run.path()).find(|run| !run.join("result.json").exists());
    let text =
        under_way.and_then(|run| std::fs::read_to_string(run.join("events.jsonl")).ok()).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits until the other two are changed, and the run waits for the straggler.
fn all_but_one(lab: &Lab, project: &Project) {
    wait("the others are changed", Duration::from_secs(30), || {
        let done = |host: &str| newest(lab, host).is_some_and(|folder| read(&folder, "done") == "committed");
        (done("kvm2") && done("kvm3")).then_some(())
    });
    wait("the run waits for it", Duration::from_secs(10), || {
        let events = events(project);
        let applying = events.iter().position(|event| event["event"] == "applying")?;
        let turn =
            events[applying..].iter().any(|event| event["host"] == "kvm1" && event["step"] == "probing");
        turn.then_some(())
    });
}

#[test]
fn a_straggler_is_changed_after_the_others() {
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
        "kvm1: no answer yet: the rollout starts",
        "kvm1 STRAGGLER: no answer yet",
        "on 2 of 3 hosts",
        "1 host not answered yet.",
        "  kvm3  changed\n",
        "kvm1 has answered.\n",
        "--dport 4242",
        "  kvm1  changed\n",
    ]);
    assert!(run.stdout.contains("changed         3 "), "{}", run.stdout);

    // `show` prints its plan too.
    let shown = project.kvmfw(&lab, &["show", &run.run()]).expect(0);
    assert!(shown.stdout.contains("kvm[1-3]"), "{}", shown.stdout);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}

/// Equal plans are one block, also those of stragglers.
#[test]
fn hosts_that_answer_together_are_shown_together() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(4).guests(false).up();
    let project = Project::new(&lab, &["kvm1", "kvm2", "kvm3", "kvm4"], &opened(4242));
    ["kvm1", "kvm4"].iter().for_each(|host| silence(&lab, host));
    let kvmfw = project.spawn(&lab, &["apply", "-y", "--max-unreachable", "50%"]);
    all_but_one(&lab, &project);
    ["kvm1", "kvm4"].iter().for_each(|host| answer(&lab, host));
    let run = end(kvmfw).expect(0);
    let later =
        run.stderr.split("kvm[1,4] have answered.\n").nth(1).unwrap_or_else(|| panic!("{}", run.stderr));
    assert_eq!(later.matches("--dport 4242").count(), 2, "one of each family: {later}");
}

/// A straggler whose state differs from a saved plan is not changed.
#[test]
fn a_saved_plan_is_applied_to_stragglers() {
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

/// Risks of a straggler are shown as for any other host.
#[test]
fn a_straggler_can_be_refused() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, &opened(4242));
    let path = project.path().join("inventories/lab.yaml");
    let closed = "kvm1: { params: { host-firewall: { allow_tcp: [80] } }, ";
    let text = std::fs::read_to_string(&path).unwrap().replace("kvm1: { ", closed);
    std::fs::write(path, text).unwrap();
    silence(&lab, "kvm1");
    let kvmfw = project.spawn(&lab, &["apply", "-y"]);
    all_but_one(&lab, &project);
    answer(&lab, "kvm1");
    let run = end(kvmfw).expect(7);
    let later = run.stderr.split("kvm1 has answered.").nth(1).unwrap_or_else(|| panic!("{}", run.stderr));
    assert!(later.contains("! LOCKOUT") && later.contains("error[lockout] kvm1: "), "{later}");
    assert!(later.contains("  kvm1  REFUSED  "), "{later}");
    assert!(newest(&lab, "kvm1").is_none());
}

/// No transaction is open there, so there is nothing to wait for.
#[test]
fn an_interrupt_does_not_wait_for_stragglers() {
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
    assert_eq!(host_of(&json, "kvm1")["reason"], "straggler", "{json:#}");
    assert_eq!(host_of(&json, "kvm2")["status"], "changed", "{json:#}");
}

/// If one of two stragglers turns out to be the jump host of the other, it is changed alone and last.
#[test]
fn a_late_jump_host_changes_after_the_hosts_behind_it() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, &held(4242));
    // Only ssh_config knows. ssh takes the home from the password file, and so one is put in the place of root's.
    let home = project.path().join("home");
    let keys = std::fs::read_to_string(lab.dir().join("ssh_config")).unwrap();
    let config = format!("Host 10.99.0.12\nProxyJump 10.99.0.11\nMatch all\nUser root\n{keys}");
    project.write("home/.ssh/config", &config);
    for host in ["kvm1", "kvm2"] {
        silence(&lab, host);
        lab.host(host, &["touch", "/run/go"]).ok();
    }
    let of_project = project.command(&lab, &["apply", "-y", "--max-unreachable", "2", "-v"]);
    let mut kvmfw = std::process::Command::new("unshare");
    kvmfw.args(["--mount", "sh", "-c", "mount --bind \"$0\" /root && exec \"$@\""]);
    kvmfw.arg(home).arg(of_project.get_program()).args(of_project.get_args());
    kvmfw.env("KVMFW_RUN_DIR", project.path().join("runs")).stdin(Stdio::null());
    let kvmfw = kvmfw.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait("the third is in flight", Duration::from_secs(30), || newest(&lab, "kvm3"));
    answer(&lab, "kvm1");
    answer(&lab, "kvm2");
    // A straggler that answers long before the other is planned without it.
    wait("both have answered", Duration::from_secs(30), || {
        let events = events(&project);
        let notes = events.iter().filter_map(|event| event["message"].as_str());
        let answered: Vec<&str> = notes.filter(|note| note.contains(": answered after")).collect();
        let has = |host: &str| answered.iter().any(|note| note.starts_with(host));
        (has("kvm1:") && has("kvm2:")).then_some(())
    });
    lab.host("kvm3", &["touch", "/run/go"]).ok();
    let run = end(kvmfw).expect(0);
    let said = "note[jump-host] kvm1: this host is the jump host of kvm2 (they were probed from its address)";
    assert!(run.stderr.contains(said), "{}", run.stderr);
    let path = project.path().join("runs").join(run.run()).join("events.jsonl");
    let events = std::fs::read_to_string(path).unwrap();
    let at = |host: &str, words: &[&str]| {
        let host = format!("\"host\":\"{host}\"");
        let is = |line: &str| line.contains(&host) && words.iter().all(|word| line.contains(word));
        events.lines().position(is).unwrap_or_else(|| panic!("{words:?}: {events}"))
    };
    let (changed, staged) = (at("kvm2", &["done", "changed"]), at("kvm1", &["staging"]));
    assert!(changed < staged, "{events}");
}

/// The last host of a plan has less time to answer than a host alone.
#[test]
fn a_plan_waits_briefly_for_the_last_host() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, &opened(4242));
    silence(&lab, "kvm1");
    let json = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(5).json();
    let message = host_of(&json, "kvm1")["message"].as_str().unwrap();
    assert!(message.starts_with("timed out: none of the remaining hosts answered for 20s"), "{json:#}");
    assert_eq!(host_of(&json, "kvm2")["status"], "changed", "{json:#}");
}

/// One host that does not answer does not delay an undo for long.
#[test]
fn an_undo_waits_briefly_for_the_last_host() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, &opened(4242));
    let run = project.apply(&lab, &[]).expect(0).run();
    silence(&lab, "kvm1");
    let json = project.kvmfw(&lab, &["undo", &run, "-y", "--format", "json"]).expect(5).json();
    let message = host_of(&json, "kvm1")["message"].as_str().unwrap();
    assert!(message.starts_with("timed out: none of the remaining hosts answered for 20s"), "{json:#}");
    assert_eq!(host_of(&json, "kvm2")["status"], "changed", "{json:#}");
}

/// Otherwise an ssh process stays until its host answers, and any other for two minutes.
#[test]
fn an_interrupt_closes_all_connections() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, &opened(4242));
    silence(&lab, "kvm1");
    let key = lab.dir().join("id_ed25519").display().to_string();
    let connections = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let commands = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        let words = commands.map(|command| {
            String::from_utf8_lossy(&command).split('\0').map(str::to_owned).collect::<Vec<_>>()
        });
        words.filter(|words| words[0] == "ssh" && words.contains(&key)).collect::<Vec<_>>()
    };
    let mut kvmfw = project.spawn(&lab, &["apply"]);
    wait("they are asked", Duration::from_secs(20), || {
        // Who is through listens.
        let listens =
            |words: &&Vec<String>| words.iter().any(|w| w.ends_with("/master") && Path::new(w).exists());
        (connections().iter().filter(listens).count() == HOSTS.len()).then_some(())
    });
    lab.exec(&["kill", "-INT", &kvmfw.id().to_string()]).ok();
    wait("it ends", Duration::from_secs(10), || kvmfw.try_wait().unwrap());
    end(kvmfw).expect(130);
    wait("they end", Duration::from_secs(20), || connections().is_empty().then_some(()));
}
