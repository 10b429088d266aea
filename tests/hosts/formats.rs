//! What a plan and a run leave behind: markdown, jsonl, JUnit, the run's folder, and how to come back
//! to a run that did not get everywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, Run};
use common::transaction::{self, marked};
use common::{Cut, Lab};
use serde_json::Value;
use std::fs;
use std::time::Duration;

const HOSTS: [&str; 3] = ["kvm1", "kvm2", "kvm3"];
/// kvm3 rolls back.
const ALL: &str = "modules: [host-firewall]
sysctl: { 60-fwd: { net.ipv4.ip_forward: 1 } }
checks: [{ command: 'test $(uname -n) != kvm3', required: true }]
";

/// The lines, each as the published schema has it.
fn lines(text: &str) -> Vec<Value> {
    let schema = serde_json::from_str(&fs::read_to_string("book/src/schema/events.json").unwrap()).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let read = |line: &str| {
        let line = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let wrong: Vec<String> =
            schema.iter_errors(&line).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(wrong.is_empty(), "{wrong:?}: {line:#}");
        line
    };
    text.lines().map(read).collect()
}

fn of<'a>(lines: &'a [Value], event: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["event"] == event).collect()
}

fn statuses(document: &Value) -> Vec<&str> {
    document["hosts"].as_array().unwrap().iter().map(|h| h["status"].as_str().unwrap()).collect()
}

/// A run's name with one letter too few.
fn mistyped(run: &str) -> String {
    run.replace('Z', "")
}

/// kvm1 changes, kvm2 cannot be reached, kvm3 rolls back.
fn half_a_run(lab: &Lab, project: &Project, format: &str) -> Run {
    lab.cut("kvm2", Cut::Both);
    let junit = project.path().join("junit.xml").display().to_string();
    let args = ["--max-unreachable", "1", "--batch", "100%", "--format", format, "--junit", &junit];
    let run = project.apply(lab, &args).expect(4);
    lab.mend("kvm2");
    run
}

#[test]
fn every_format_reports_the_same() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, ALL);
    let junit = project.path().join("junit.xml").display().to_string();

    let plan = project.kvmfw(&lab, &["plan", "--format", "markdown", "--junit", &junit]).expect(0);
    assert!(plan.stdout.starts_with("**kvmfw&#58; Plan&#58; "), "{}", plan.stdout);
    assert!(plan.stdout.contains("on <code>kvm&#91;1&#45;3&#93;</code> (3 hosts)"), "{}", plan.stdout);
    assert!(
        plan.stdout.contains("\n```diff\n+ net.ipv4.ip_forward = 1\n")
            || plan.stdout.contains("\n+ net.ipv4.ip_forward = 1\n")
    );
    let xml = fs::read_to_string(&junit).unwrap();
    assert!(xml.contains("<testsuite name=\"kvmfw plan\" tests=\"3\" failures=\"0\" errors=\"0\""), "{xml}");
    let short = project.kvmfw(&lab, &["plan", "--format", "markdown", "--markdown-limit", "1200"]).expect(0);
    assert!(short.stdout.len() <= 1200 && short.stdout.contains("blocks"), "{}", short.stdout);

    let events = lines(&project.kvmfw(&lab, &["plan", "--format", "jsonl"]).expect(0).stdout);
    assert_eq!((&events[0]["event"], &events[0]["version"]), (&"start".into(), &2.into()));
    assert_eq!((of(&events, "observed").len(), of(&events, "planned").len()), (3, 3), "{events:#?}");
    assert_eq!(of(&events, "planned")[0]["changes"][0]["kind"], "sysctl");
    let last = events.last().unwrap();
    assert_eq!(
        (&last["event"], &last["summary"]["changed"], &last["exit"]),
        (&"summary".into(), &3.into(), &0.into())
    );

    let run = half_a_run(&lab, &project, "jsonl");
    let events = lines(&run.stdout);
    let mut ends: Vec<String> =
        of(&events, "done").iter().map(|e| format!("{} {}", e["host"], e["status"])).collect();
    ends.sort();
    assert_eq!(ends, ["\"kvm1\" \"changed\"", "\"kvm2\" \"unreachable\"", "\"kvm3\" \"rolled-back\""]);
    assert!(
        of(&events, "step").iter().any(|e| e["step"] == "confirming" && e["guard"].is_u64()),
        "{events:#?}"
    );
    assert_eq!(events.last().unwrap()["exit"], 4);
    assert!(events.iter().all(|e| e["time"].as_str().is_some_and(|t| t.ends_with('Z'))), "{events:#?}");
    let xml = fs::read_to_string(&junit).unwrap();
    assert!(
        xml.contains("tests=\"3\" failures=\"1\" errors=\"1\"") && xml.contains("type=\"rolled-back\""),
        "{xml}"
    );

    // The run's folder, and all of it again.
    let name = events[0]["run"].as_str().unwrap().to_owned();
    let folder = project.path().join("runs").join(&name);
    assert_eq!(fs::read_to_string(folder.join("events.jsonl")).unwrap(), run.stdout);
    assert!(folder.join("plan.json").exists() && folder.join("result.json").exists());
    let again = project.kvmfw(&lab, &["show", &name, "--format", "jsonl"]).expect(4);
    assert_eq!(again.stdout, run.stdout);
    let json = project.kvmfw(&lab, &["show", &name, "--format", "json"]).expect(4).json();
    assert_eq!(statuses(&json), ["changed", "unreachable", "rolled-back"], "{json:#}");
    let human = project.kvmfw(&lab, &["show", &name]).expect(4).stdout;
    assert!(human.contains("+ net.ipv4.ip_forward = 1") && human.contains(&format!("Run {name}")), "{human}");
    let markdown = project.kvmfw(&lab, &["show", &name, "--format", "markdown"]).expect(4).stdout;
    assert!(markdown.contains("1 changed, 1 rolled back, 1 unreachable of 3 hosts"), "{markdown}");
    // Without its last word, a run is told from its events.
    fs::remove_file(folder.join("result.json")).unwrap();
    let json = project.kvmfw(&lab, &["show", &name, "--format", "json"]).expect(4).json();
    assert_eq!(statuses(&json), ["changed", "unreachable", "rolled-back"], "{json:#}");
    project.kvmfw(&lab, &["show", "20260101T000000Z-0000"]).expect(3);
    let near = project.kvmfw(&lab, &["show", &mistyped(&name)]).expect(3).stderr;
    assert!(near.contains(&format!("did you mean `{name}`?")), "{near}");
}

/// `show` of a run is what the run itself had said, less the places of rules, which are not kept.
#[test]
fn show_says_what_the_run_said() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, ALL);
    let run = half_a_run(&lab, &project, "human");
    let name = run.run();
    let shown = project.kvmfw(&lab, &["show", &name]).expect(4).stdout;
    assert!(shown.ends_with(&run.stdout), "{shown}");
    let place = |line: &str| line.split("   # ").next().unwrap().to_owned();
    let said: Vec<String> = run.stderr.lines().map(place).collect();
    let plan: Vec<&str> = shown.strip_suffix(&run.stdout).unwrap().lines().collect();
    assert!(
        plan.iter().any(|line| line.starts_with("Plan: ") && line.contains(" on 2 of 3 hosts.")),
        "{shown}"
    );
    assert!(said.windows(plan.len()).any(|part| part == plan), "{plan:#?} is no part of {said:#?}");
}

#[test]
fn a_format_that_a_command_does_not_have_is_bad_input() {
    let lab = std::env::temp_dir();
    let kvmfw = |args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kvmfw"));
        command.args(args).arg("-C").arg(&lab).env_remove("KVMFW_INVENTORY").output().unwrap()
    };
    for args in [
        &["status", "--format", "markdown"][..],
        &["check", "--format", "jsonl"],
        &["inventory", "list", "--format", "markdown"],
        &["unlock", "kvm1", "--format", "json"],
        &["status", "--junit", "/tmp/x.xml"],
        &["plan", "--junit", "/no/such/folder/x.xml"],
        &["plan", "--markdown-limit", "10"],
        &["plan", "--drift", "-o", "x"],
        &["apply", "plan.json", "--retry", "x"],
    ] {
        let output = kvmfw(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{args:?} says nothing");
    }
}

/// The runner is gone with all it knew; the hosts are not.
#[test]
fn a_retry_needs_no_memory() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &HOSTS, ALL);
    let json = half_a_run(&lab, &project, "json").json();
    let first = json["run"].as_str().unwrap().to_owned();
    let next = format!("kvmfw apply --retry {first}");
    assert_eq!(json["next"], next.as_str());
    let shown = project.kvmfw(&lab, &["show", &first]).expect(4).stdout;
    assert!(shown.ends_with(&format!("Retry the remaining hosts: {next}\n")), "{shown}");
    project.all(&ALL.replace("kvm3", "nobody"));
    let runs = project.path().join("runs");
    fs::rename(&runs, project.path().join("forgotten")).unwrap();

    // A slip in the name is no apply to everything.
    let slip = project.apply(&lab, &["--retry", "20260101T000000Z-0000"]).expect(3);
    assert!(
        slip.stderr.contains("no record of such a run here or on a host that answered"),
        "{}",
        slip.stderr
    );
    let near = format!("did you mean `{first}`?");
    let slip = project.apply(&lab, &["--retry", &mistyped(&first)]).expect(3);
    assert!(slip.stderr.contains(&near), "{}", slip.stderr);
    // Kept here, and no host that is asked has seen it.
    let kept = runs.join("20260101T000000Z-0000");
    fs::create_dir_all(&kept).unwrap();
    let strange = project.kvmfw(&lab, &["undo", "20260101T000000Z-0000", "-y"]).expect(7);
    assert!(
        strange.stdout.contains("REFUSED") && !strange.stdout.contains("did you mean"),
        "{}",
        strange.stdout
    );
    fs::remove_dir_all(&runs).unwrap();
    let slip = project.kvmfw(&lab, &["undo", &mistyped(&first), "-y"]).expect(7);
    assert!(slip.stdout.contains("REFUSED") && slip.stdout.contains(&near), "{}", slip.stdout);
    let status = project.kvmfw(&lab, &["status", "--format", "json"]).expect(0).json();
    let of_run = |at: usize| status["hosts"][at]["history"].to_string();
    assert!(of_run(0).contains(&format!("{first}\\tcommitted")), "{status:#}");
    assert!(of_run(2).contains(&format!("{first}\\trolled-back")), "{status:#}");

    let retry = project.apply(&lab, &["--retry", &first, "--format", "json"]).expect(0);
    assert!(retry.stderr.contains("2 of 3 hosts"), "{}", retry.stderr);
    let json = retry.json();
    assert_eq!(statuses(&json), ["changed", "changed"]);
    assert_eq!(json["next"], serde_json::Value::Null, "nobody is left");
    assert_eq!((&json["hosts"][0]["name"], &json["hosts"][1]["name"]), (&"kvm2".into(), &"kvm3".into()));
    // From the files, where they are: nothing is left to do of this one.
    let second = json["run"].as_str().unwrap().to_owned();
    let none = project.apply(&lab, &["--retry", &second, "--format", "json"]).expect(0);
    assert_eq!(none.json()["summary"]["hosts"], 0, "{}", none.stdout);
    fs::remove_dir_all(&runs).unwrap();
    // Hosts where that run changed nothing are no reason to fail.
    let undo = project.kvmfw(&lab, &["undo", &first, "-y", "--format", "json"]).expect(0).json();
    assert_eq!(statuses(&undo), ["changed", "unchanged", "unchanged"], "{undo:#}");
    // The host says how it ended before its guard has swept up behind itself.
    let folder = lab.disk("kvm1", "/var/lib/kvmfw");
    transaction::wait("kvm1 is as it was", Duration::from_secs(30), || (!folder.exists()).then_some(()));
}

/// From the run's files, also of a controller that was killed.
#[test]
fn a_retry_of_a_run_that_was_killed() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let project = Project::new(&lab, &["kvm1", "kvm2"], &transaction::held(81));
    let mut child = transaction::start(&lab, &project, &["--batch", "1"]);
    let folder = marked(&lab, "kvm1", "applied", None);
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    let killed =
        std::process::Command::new("kill").args(["-KILL", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    child.wait().unwrap();
    transaction::ended(&folder);
    // The machine fell too: the last line ends within a character, and the result was begun.
    let kept = project.path().join("runs").join(&name);
    let mut events = fs::read(kept.join("events.jsonl")).unwrap();
    events.extend_from_slice(b"{\"time\":\"\xc3");
    fs::write(kept.join("events.jsonl"), events).unwrap();
    fs::write(kept.join("result.json"), "{\"version\":1,").unwrap();
    let json = project.kvmfw(&lab, &["show", &name, "--format", "json"]).expect(6).json();
    assert_eq!(statuses(&json), ["unknown", "skipped"], "{json:#}");
    let shown = project.kvmfw(&lab, &["show", &name]).expect(6).stdout;
    assert!(shown.contains("--dport 81 ") && !shown.contains("No changes"), "{shown}");
    assert_eq!(shown.matches("SKIPPED").count(), 1, "{shown}");
    assert!(shown.ends_with(&format!("Retry the remaining hosts: kvmfw apply --retry {name}\n")), "{shown}");
    // Of another inventory, or with a slip in --limit, nothing to do would pass for done.
    project.write("inventories/other.yaml", "hosts: { kvm9: { } }\n");
    let other = project.apply(&lab, &["-i", "other", "--retry", &name]).expect(3);
    assert!(other.stderr.contains("that run also left kvm[1-2], which are not selected"), "{}", other.stderr);
    fs::remove_file(project.path().join("inventories/other.yaml")).unwrap();
    project.all(&transaction::opened(81));
    let json = project.apply(&lab, &["--retry", &name, "--format", "json"]).expect(0).json();
    assert_eq!(statuses(&json), ["changed", "changed"], "{json:#}");
}
