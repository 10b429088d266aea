//! A plan ends with what packets gain and lose: in plan, saved plans, apply, undo and drift, in each format.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::{Project, Run};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const HOST: &str = "kvm1";

/// Nothing is forwarded.
const WALL: &str = "\
iptables:\n  filter:\n    FORWARD:\n      rules: |\n        -j DROP\n\
ip6tables:\n  filter:\n    FORWARD:\n      rules: |\n        -j DROP\n\
";

const JSON: [&str; 2] = ["--format", "json"];

/// `flow: before → after by what (origin)`, a line each, of the only host.
fn impact(run: &Run) -> Vec<String> {
    let json = run.json();
    let lines = json["hosts"][0]["impact"].as_array().unwrap_or_else(|| panic!("{}", run.stdout)).iter();
    let text = |line: &serde_json::Value| {
        let word = |key: &str| line[key].as_str().unwrap_or("nothing").to_owned();
        format!(
            "{}: {} → {} by {} ({})",
            word("flow"),
            word("before"),
            word("after"),
            word("by"),
            word("origin")
        )
    };
    lines.map(text).collect()
}

/// The bypass goes, and with it all that guests send: whoever takes it away, and wherever it is shown.
#[test]
fn guests_are_cut_where_the_bypass_goes() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let with = format!("modules: [bridge-bypass]\n{WALL}");
    let project = Project::new(&lab, &[HOST], &with);
    let accept = ["--accept-risk=removes-all,guests-unreachable"];
    project.apply(&lab, &[]).expect(0);
    project.all(WALL);
    let cut = |lines: &[String], what: &str| {
        let expected = ["IPv4", "IPv6"].map(|family| {
            format!("guests on br123, all traffic, {family}: open → blocked by filter/FORWARD rule 1 (")
        });
        assert!(
            lines.len() == 2 && lines.iter().zip(&expected).all(|(line, start)| line.starts_with(start)),
            "{what}: {lines:#?}"
        );
        assert!(lines.iter().all(|line| line.contains(".yaml:")), "{what}: {lines:#?}");
    };

    // A plan, refused or not, saved and shown.
    let saved = project.path().join("saved.plan");
    let saved = saved.to_str().unwrap();
    cut(&impact(&project.kvmfw(&lab, &[&["plan"], &JSON[..]].concat()).expect(7)), "a refused plan");
    cut(
        &impact(&project.kvmfw(&lab, &[&["plan", "-o", saved], &accept[..], &JSON].concat()).expect(0)),
        "plan",
    );
    cut(&impact(&project.kvmfw(&lab, &[&["show", saved], &JSON[..]].concat()).expect(0)), "a saved plan");
    let human = project.kvmfw(&lab, &["show", saved]).expect(0).stdout;
    assert!(
        human.contains("Impact on kvm1:\n    guests on br123, all traffic, IPv4 and IPv6: open → blocked by filter/FORWARD rule 1 ("),
        "{human}"
    );
    let markdown = project.kvmfw(&lab, &["show", saved, "--format", "markdown"]).expect(0).stdout;
    assert!(
        markdown.contains("Impact on <code>kvm1</code>:\n\n- <b>open → blocked</b>: <code>guests on br123"),
        "{markdown}"
    );
    let jsonl = project.kvmfw(&lab, &["show", saved, "--format", "jsonl"]).expect(0).stdout;
    assert!(jsonl.contains("\"impact\":[{\"flow\":\"guests on br123, all traffic, IPv4\",\"before\":\"open\",\"after\":\"blocked\""), "{jsonl}");

    // Before the question of an apply, and in its result.
    let applied = project.apply(&lab, &accept).expect(0);
    assert!(
        applied.stderr.contains("Impact on kvm1:\n    guests on br123, all traffic"),
        "{}",
        applied.stderr
    );
    assert!(!lab.guest_ping(HOST, "g0", "192.168.1.2"), "guests are cut off, as was said");

    // Back: what guests gain, by the key that decides.
    project.all(&with);
    let gained = impact(&project.kvmfw(&lab, &[&["plan"], &JSON[..]].concat()).expect(0));
    assert!(
        gained.len() == 2
            && gained[0].starts_with(
                "guests on br123, all traffic, IPv4: blocked → open by net.bridge.bridge-nf-call-iptables = 0 ("
            )
            && gained[0].contains("bridge-bypass/module.yaml:"),
        "{gained:#?}"
    );
    let run = project.apply(&lab, &[]).expect(0).run();
    history_has_it(&lab, &project, &run, &gained);

    // An undo, and drift from what was applied.
    assert!(project.kvmfw(&lab, &[&["plan", "--drift"], &JSON[..]].concat()).expect(0).json()["hosts"][0]["impact"].as_array().unwrap().is_empty());
    let back = "sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1";
    lab.host(HOST, &["sh", "-c", back]).ok();
    cut(&impact(&project.kvmfw(&lab, &[&["plan", "--drift"], &JSON[..]].concat()).expect(2)), "drift");
    project.apply(&lab, &[]).expect(0);
    let undone = project.kvmfw(&lab, &[&["undo", &run, "-y"], &accept[..], &JSON].concat()).expect(0);
    cut(&impact(&undone), "undo");
}

/// The history of a host says what each run did to packets, as far as this machine recorded it.
fn history_has_it(lab: &Lab, project: &Project, run: &str, gained: &[String]) {
    let json = project.kvmfw(lab, &[&["history", HOST], &JSON[..]].concat()).expect(0).json();
    let entries = json["hosts"][0]["history"].as_array().unwrap();
    let last = entries.last().unwrap();
    assert_eq!(
        (&last["run"], last["impact"].as_array().unwrap().len()),
        (&run.into(), gained.len()),
        "{last:#}"
    );
    assert_eq!(
        (&last["impact"][0]["before"], &last["impact"][0]["after"]),
        (&"blocked".into(), &"open".into()),
        "{last:#}"
    );
    let human = project.kvmfw(lab, &["history", HOST]).expect(0).stdout;
    assert!(
        human.contains("  impact\n    guests on br123, all traffic, IPv4 and IPv6: blocked → open by "),
        "{human}"
    );
    assert!(!human.contains("not recorded on this machine"), "{human}");
    let elsewhere = project.path().join("other-runs");
    let elsewhere =
        project.kvmfw(lab, &["history", HOST, "--run-dir", elsewhere.to_str().unwrap()]).expect(0).stdout;
    assert!(
        elsewhere.ends_with("\nThe impact of 3 runs is not recorded on this machine.\n")
            && !elsewhere.contains("guests on br123"),
        "{elsewhere}"
    );
}

/// A firewall closes what listens, and SSH, which it does not touch, is not a line.
#[test]
fn a_firewall_closes_what_listens() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let serve = "import socket,sys\ns=socket.create_server(('0.0.0.0',8080))\nprint('up',flush=True)\nsys.stdin.read()\n";
    let mut server = lab
        .host_command(HOST)
        .args(["python3", "-c", serve])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    let project = Project::new(&lab, &[HOST], "modules: [host-firewall, bridge-bypass]\n");
    let run = project.kvmfw(&lab, &[&["plan"], &JSON[..]].concat()).expect(0);
    let lines = impact(&run);
    assert!(
        lines.iter().any(|line| line.starts_with(
            "listening port 8080/tcp, IPv4: open → blocked by filter/RH-Firewall-1-INPUT rule 5 (kvmfw:host-firewall/module.yaml:"
        )),
        "{lines:#?}"
    );
    assert!(!lines.iter().any(|line| line.contains("SSH") || line.contains("each other")), "{lines:#?}");
    assert!(lines.len() <= 6, "{lines:#?}");
    // With -v people see the flows that stay as they are too; programs get what changes.
    assert_eq!(impact(&project.kvmfw(&lab, &[&["plan", "-v"], &JSON[..]].concat()).expect(0)), lines);
    let [short, all] =
        [&["plan"][..], &["plan", "-v"]].map(|args| project.kvmfw(&lab, args).expect(0).stdout);
    assert!(!short.contains(": stays "), "{short}");
    for stays in ["    SSH from 10.99.0.1 to port 22, new TCP", "    guests on br123, all traffic"] {
        assert!(all.lines().any(|line| line.starts_with(stays) && line.contains(": stays open")), "{all}");
    }
    assert!(all.contains("listening port 8080/tcp, IPv4: open → blocked"), "{all}");
    drop(server.stdin.take());
    server.wait().unwrap();
}
