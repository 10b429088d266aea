//! `history` and `undo`: who did what, when, from which plan, and back to any of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, host_of};
use common::{Backend, Lab, Shell, by_hand};
use serde_json::Value;

const ONE: &str = "\
sysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 1 } }
iptables:
  filter:
    FORWARD:
      rules: |
        -p tcp --dport 4241 -j DROP
";
const TWO: &str = "\
sysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 2 } }
iptables:
  filter:
    FORWARD:
      rules: |
        -p tcp --dport 4242 -j DROP
";
/// Rolled back: it lets no new connection in.
const BAD: &str = "\
iptables:
  filter:
    INPUT:
      rules: |
        -m state --state ESTABLISHED -j ACCEPT
        -p tcp --dport 22 -j DROP
";

fn entries(lab: &Lab, project: &Project, host: &str) -> Vec<Value> {
    let json = project.kvmfw(lab, &["history", host, "--format", "json"]).expect(0).json();
    json["hosts"][0]["history"].as_array().unwrap().clone()
}

#[test]
fn generations_with_who_when_plan_and_diff() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], ONE);
    let none = project.kvmfw(&lab, &["history", "kvm1"]).expect(0);
    assert_eq!(none.stdout, "kvm1: not managed\n");

    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0).json();
    let first = project.apply(&lab, &[]).expect(0).run();
    project.all(TWO);
    let second = project.apply(&lab, &[]).expect(0).run();
    project.all(BAD);
    project.apply(&lab, &["--accept-risk", "lockout,removes-all"]).expect(4);

    let all = entries(&lab, &project, "kvm1");
    let column = |name: &str| all.iter().map(|e| e[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("outcome"), ["committed", "committed", "rolled-back"], "{all:#?}");
    assert_eq!(column("run")[..2], [first.as_str(), second.as_str()]);
    assert_eq!(column("generation")[..2], [1, 2]);
    assert_eq!(all[0]["plan"], plan["hosts"][0]["plan"], "the plan that was shown is the one on record");
    assert_ne!(all[0]["plan"], all[1]["plan"]);
    assert!(all[2]["reason"].as_str().unwrap().contains("confirmed"), "{all:#?}");
    assert!(all.iter().all(|e| e["owner"].as_str().unwrap().contains('@')), "{all:#?}");
    assert!(all.iter().all(|e| e["when"].as_str().unwrap().starts_with("20")), "{all:#?}");
    let diff = |e: &Value, n: usize| e["changes"][n]["diff"].as_str().unwrap().to_owned();
    assert_eq!(diff(&all[0], 0), "+ net.ipv4.conf.all.arp_ignore = 1\n");
    assert_eq!(diff(&all[1], 0), "- net.ipv4.conf.all.arp_ignore = 1\n+ net.ipv4.conf.all.arp_ignore = 2\n");
    assert_eq!(all[1]["changes"][1]["resource"], "filter/FORWARD");
    assert!(diff(&all[1], 1).contains("+ -p tcp --dport 4242 -j DROP"), "{all:#?}");
    assert!(all[2].get("changes").is_none(), "what was rolled back changed nothing: {all:#?}");

    let text = project.kvmfw(&lab, &["history", "kvm1"]).expect(0).stdout;
    for words in [
        "kvm1: generation 2 is used at boot\n",
        "\ngeneration 1  20",
        "rolled back  20",
        "+ -p tcp --dport 4242",
    ] {
        assert!(text.contains(words), "{words:?}: {text}");
    }
}

/// An undo is an apply: guarded, and a generation of its own in the history.
#[test]
fn undo_of_any_generation_is_on_record() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], ONE);
    project.apply(&lab, &[]).expect(0);
    let one = lab.dump_without("kvm1", &["/etc/kvmfw"]);
    project.all(TWO);
    let second = project.apply(&lab, &[]).expect(0).run();
    let two = lab.dump_without("kvm1", &["/etc/kvmfw"]);

    // Back at the console, which leaves a higher number unused; what follows starts from 1.
    lab.host("kvm1", &["sh", "/var/lib/kvmfw/kvmfw.sh", "undo"]).ok();
    project.all(BAD.replace("port 22", "port 23").as_str());
    let third = project.apply(&lab, &["--accept-risk", "removes-all"]).expect(0).run();
    // The state before that run is generation 1, not the 2 that was left.
    project.kvmfw(&lab, &["undo", &third, "-y"]).expect(0);
    common::same(&one, &lab.dump_without("kvm1", &["/etc/kvmfw"]), "undo after an undo at the console");

    project.kvmfw(&lab, &["undo", "--to", "2", "-y"]).expect(0);
    common::same(&two, &lab.dump_without("kvm1", &["/etc/kvmfw"]), "undo to a later generation");
    project.kvmfw(&lab, &["undo", &second, "-y"]).expect(0);
    common::same(&one, &lab.dump_without("kvm1", &["/etc/kvmfw"]), "undo of an older run");

    let all = entries(&lab, &project, "kvm1");
    let outcomes: Vec<_> = all.iter().map(|e| e["outcome"].as_str().unwrap()).collect();
    assert_eq!(
        outcomes,
        ["committed", "committed", "undo", "committed", "committed", "committed", "committed"]
    );
    assert_eq!(all[2]["run"], "console");
    assert_eq!(all[2]["generation"], 1);
    let back = all[2]["changes"][0]["diff"].as_str().unwrap();
    assert!(back.contains("+ net.ipv4.conf.all.arp_ignore = 1"), "{all:#?}");
}

/// One host that cannot and one that fails stop nobody, and the result names all three.
#[test]
fn undo_continues_past_failing_hosts() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(4).guests(false).up();
    let hosts = ["kvm1", "kvm2", "kvm3", "kvm4"];
    let project = Project::new(&lab, &hosts, ONE);
    project.apply(&lab, &[]).expect(0);
    let one = lab.dump_without("kvm4", &["/etc/kvmfw"]);
    project.all(TWO);
    let run = project.apply(&lab, &["-l", "kvm1,kvm2,kvm4"]).expect(0).run();
    // kvm1 cannot write, kvm2 is down, kvm3 was no part of the run.
    lab.host("kvm1", &["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "none", "/var/lib/kvmfw/txn"])
        .ok();
    lab.power_cut("kvm2");
    let undone = project.kvmfw(&lab, &["undo", &run, "-y", "--batch", "1", "--format", "json"]);
    let json = undone.json();
    let of = |name: &str| host_of(&json, name)["status"].as_str().unwrap().to_owned();
    assert_eq!(hosts.map(of), ["failed", "unreachable", "unchanged", "changed"], "{json:#}");
    assert_eq!(undone.code, 4);
    common::same(&one, &lab.dump_without("kvm4", &["/etc/kvmfw"]), "the last host is back");
}

/// What was taken over of others: how much, from whom, and that an undo gave it back.
fn adoption_is_on_record(shell: Shell, backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().shell(shell).backend(backend).guests(false).up();
    let project = Project::new(&lab, &["kvm1"], "");
    by_hand::by_hand(&lab);
    let yaml = by_hand::import(&project, &lab);
    // Rules first, beside what is there; the file of sysctl.d comes with the adoption.
    let plain = yaml.split("    sysctl:\n").collect::<Vec<_>>();
    let rest = plain[1].split_once("    bridges:").map(|(_, rest)| format!("    bridges:{rest}")).unwrap();
    by_hand::keep(&project, &format!("{}{rest}", plain[0]));
    project.apply(&lab, &[]).expect(0);
    let status = || project.kvmfw(&lab, &["status", "--format", "json"]).expect(0).json()["hosts"][0].clone();
    assert_eq!(status()["adopted"], serde_json::json!([]));
    by_hand::keep(&project, &yaml);
    let second = project.apply(&lab, &["--adopt"]).expect(0).run();

    let took = serde_json::json!({ "rules": 7, "chains": 1, "files": ["60-arp"], "from": ["/etc/iptables/rules.v4"] });
    let all = entries(&lab, &project, "kvm1");
    assert!(all[0].get("adopted").is_none(), "{all:#?}");
    assert_eq!((&all[1]["adopted"], all[1].get("given_back")), (&took, None), "{all:#?}");
    let change = |entry: &Value, resource: &str| {
        let changes = entry["changes"].as_array().unwrap().iter();
        changes.clone().find(|c| c["resource"] == resource).map(|c| c["diff"].as_str().unwrap().to_owned())
    };
    assert_eq!(change(&all[1], "filter/INPUT (unmanaged)").unwrap(), "- -j RH-Firewall-1-INPUT\n");
    let text = project.kvmfw(&lab, &["history", "kvm1"]).expect(0).stdout;
    let words = "\n  adopted 7 rules and 1 chain, loaded at boot by /etc/iptables/rules.v4; the file 60-arp of sysctl.d\n";
    assert_eq!(text.matches(words).count(), 1, "{text}");
    assert_eq!(status()["adopted"], serde_json::json!([{ "generation": 2, "rules": 7 }]));
    let text = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(text.contains("\n  7 rules adopted by generation 2\n"), "{text}");
    let console = lab.host("kvm1", &["sh", "/var/lib/kvmfw/kvmfw.sh", "status"]).ok();
    assert!(console.contains("\nadopted=2 7\n"), "{console}");

    // What comes later took nothing, and still has it.
    by_hand::keep(&project, &yaml.replace("--dport 22 -j", "--dport 22:23 -j"));
    let third = project.apply(&lab, &[]).expect(0).run();
    let all = entries(&lab, &project, "kvm1");
    assert!(all[2].get("adopted").is_none() && all[2].get("given_back").is_none(), "{all:#?}");
    assert_eq!(status()["adopted"], serde_json::json!([{ "generation": 2, "rules": 7 }]));
    project.kvmfw(&lab, &["undo", &third, "-y"]).expect(0);

    // Given back.
    project.kvmfw(&lab, &["undo", &second, "-y"]).expect(0);
    let all = entries(&lab, &project, "kvm1");
    let last = all.last().unwrap();
    assert_eq!((&last["given_back"], last.get("adopted")), (&took, None), "{all:#?}");
    assert_eq!(change(last, "filter/INPUT (unmanaged)").unwrap(), "+ -j RH-Firewall-1-INPUT\n");
    let text = project.kvmfw(&lab, &["history", "kvm1"]).expect(0).stdout;
    assert!(text.contains("\n  returned 7 rules and 1 chain"), "{text}");
    assert_eq!(status()["adopted"], serde_json::json!([]));
    assert_eq!(by_hand::save(&lab).matches("-A INPUT -j RH-Firewall-1-INPUT").count(), 1);
}

#[test]
fn adoption_is_on_record_dash_nft() {
    adoption_is_on_record(Shell::Dash, Backend::Nft);
}

#[test]
fn adoption_is_on_record_busybox_legacy() {
    adoption_is_on_record(Shell::Busybox, Backend::Legacy);
}
