//! The pipelines of the book: the script is run against hosts, the engines' files are read and call it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::Project;
use serde_yaml::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const FOLDER: &str = "book/src/pipelines";

fn read(name: &str) -> (String, Value) {
    let text = fs::read_to_string(Path::new(FOLDER).join(name)).unwrap();
    let value = serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
    (text, value)
}

/// Every text of a YAML value.
fn texts(value: &Value, all: &mut Vec<String>) {
    match value {
        Value::String(text) => all.push(text.clone()),
        Value::Sequence(list) => list.iter().for_each(|v| texts(v, all)),
        Value::Mapping(map) => map.values().for_each(|v| texts(v, all)),
        _ => {}
    }
}

/// The subcommands of the script that a file calls, and those of kvmfw itself.
fn calls(value: &Value) -> (BTreeSet<String>, Vec<String>) {
    let mut all = Vec::new();
    texts(value, &mut all);
    let script = all
        .iter()
        .flat_map(|t| t.split("kvmfw-ci.sh ").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next().unwrap().to_owned())
        .collect();
    let commands = all.iter().flat_map(|t| t.lines()).filter(|l| l.starts_with("kvmfw "));
    (script, commands.map(str::to_owned).collect())
}

#[test]
fn engines_call_the_script() {
    for name in ["gitlab-ci.yml", "github-actions.yml"] {
        let (text, value) = read(name);
        let (script, commands) = calls(&value);
        let wanted = ["apply", "drift", "name", "plan"].map(str::to_owned);
        assert_eq!(script, BTreeSet::from(wanted), "{name}");
        assert!(commands.is_empty(), "{name} calls kvmfw past the script: {commands:?}");
        // What one job writes and another reads has one name.
        for file in ["comment.md", "plan.json", "apply.md"] {
            assert!(!text.contains(file) || text.contains(&format!("out/{file}")), "{name}: {file}");
        }
    }
    let (_, gitlab) = read("gitlab-ci.yml");
    for (job, event) in [("plan", "merge_request_event"), ("apply", "push"), ("drift", "schedule")] {
        let rule = gitlab[job]["rules"][0]["if"].as_str().unwrap();
        assert!(rule.contains(event), "{job}: {rule}");
        let script = gitlab[job]["script"].as_sequence().unwrap();
        assert!(script.iter().all(|line| line.is_string()), "{job}: a line is no text: {script:?}");
    }
    let (_, github) = read("github-actions.yml");
    for (job, event) in [("plan", "pull_request"), ("apply", "push"), ("drift", "schedule")] {
        let when = github["jobs"][job]["if"].as_str().unwrap();
        assert!(when.contains(&format!("github.event_name == '{event}'")), "{job}: {when}");
    }
}

#[test]
fn shards_are_named_as_their_engines_name_them() {
    let (_, gitlab) = read("gitlab-shards.yml");
    assert!(gitlab["apply"]["parallel"].as_u64().unwrap() > 1);
    let (_, job) = read("kubernetes-job.yaml");
    let spec = &job["spec"];
    assert_eq!((&job["kind"], &spec["completionMode"]), (&"Job".into(), &"Indexed".into()));
    let container = &spec["template"]["spec"]["containers"][0];
    let count = spec["completions"].as_u64().unwrap();
    assert_eq!(container["env"][0]["name"], "KVMFW_SHARDS");
    assert_eq!(container["env"][0]["value"], count.to_string().as_str(), "shards are completions");
    // Needed by backoffLimitPerIndex.
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Never");

    // They call the script, with flags that kvmfw has.
    let help = fs::read_to_string("tests/data/help.txt").unwrap();
    for (name, value) in [("gitlab-shards.yml", &gitlab), ("kubernetes-job.yaml", &job)] {
        let (script, commands) = calls(value);
        assert!(script.is_superset(&["apply", "plan"].map(str::to_owned).into()), "{name}: {script:?}");
        assert!(commands.is_empty(), "{name} calls kvmfw past the script: {commands:?}");
        let mut all = Vec::new();
        texts(value, &mut all);
        let words = all.iter().filter(|t| t.contains("kvmfw-ci.sh ")).flat_map(|t| t.split_whitespace());
        let flags: Vec<&str> = words.filter(|w| w.starts_with("--")).collect();
        assert!(!flags.is_empty(), "{name}");
        for flag in flags {
            assert!(help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")), "{flag}");
        }
    }
}

/// A checkout, as an engine's job has it.
struct Checkout<'a> {
    lab: &'a Lab,
    project: &'a Project,
}

impl Checkout<'_> {
    fn git(&self, args: &[&str]) {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=ci", "-c", "user.email=ci@example.net"]).args(args);
        let output = git.current_dir(self.project.path()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }

    /// Runs the script as a job whose runner knows nothing of those before.
    fn job(&self, what: &str) -> (i32, String) {
        let _ = fs::remove_dir_all(self.project.path().join("out"));
        self.job_with(&[], &[what])
    }

    /// The same with what its engine says of its shard, and words for the script, in the folder that is there.
    fn job_with(&self, engine: &[(&str, &str)], words: &[&str]) -> (i32, String) {
        let out = self.project.path().join("out");
        let script = Path::new(FOLDER).join("kvmfw-ci.sh").canonicalize().unwrap();
        let mut command = self.lab.exec_command("sh");
        command.arg(script).args(words).current_dir(self.project.path());
        command.env("KVMFW", env!("CARGO_BIN_EXE_kvmfw")).env("PLANS", self.project.path().join("plans"));
        command.env("HOME", out).env_remove("KVMFW_INVENTORY").env_remove("KVMFW_RUN_DIR");
        command.envs(engine.iter().copied());
        let Output { status, stdout, stderr } = command.output().unwrap();
        let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        (status.code().unwrap_or(-1), said)
    }

    fn out(&self, file: &str) -> String {
        fs::read_to_string(self.project.path().join("out").join(file)).unwrap_or_default()
    }
}

#[test]
fn plan_merge_apply_drift() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let all = "modules: [host-firewall]\nsysctl: { 60-fwd: { net.ipv4.ip_forward: 1 } }\n";
    let project = Project::new(&lab, &["kvm1", "kvm2"], all);
    project.write(".gitignore", "out/\nplans/\n");
    let ci = Checkout { lab: &lab, project: &project };
    ci.git(&["init", "-q", "-b", "main"]);
    ci.git(&["commit", "-q", "--allow-empty", "-m", "begin"]);
    ci.git(&["checkout", "-q", "-b", "change"]);
    ci.git(&["add", "."]);
    ci.git(&["commit", "-q", "-m", "a firewall"]);

    // On the merge request.
    let (code, said) = ci.job("plan");
    assert_eq!(code, 0, "{said}");
    assert!(ci.out("comment.md").starts_with("**kvmfw") && ci.out("comment.md").contains("<details>"));
    assert!(
        ci.out("plan.xml").contains("<testsuite") && ci.out("plan.jsonl").contains("\"event\":\"summary\"")
    );

    // Merged with a commit of its own; the plan is that of the same content.
    ci.git(&["checkout", "-q", "main"]);
    ci.git(&["merge", "-q", "--no-ff", "-m", "merge", "change"]);
    let (code, said) = ci.job("apply");
    assert_eq!(code, 0, "{said}");
    assert!(ci.out("apply.md").contains("2 changed of 2 hosts"), "{}", ci.out("apply.md"));
    // It has had its turn.
    let (code, said) = ci.job("apply");
    assert!(code == 7 && said.contains("kvm[1-2] REFUSED: this plan was already applied"), "{code}: {said}");
    assert!(ci.out("apply.md").contains("2 hosts refused"), "{}", ci.out("apply.md"));
    assert!(ci.out("apply.xml").contains("type=\"stale\""), "{}", ci.out("apply.xml"));

    // At night.
    let (code, said) = ci.job("drift");
    assert_eq!(code, 0, "{said}");
    lab.host("kvm2", &["sysctl", "-qw", "net.ipv4.ip_forward=0"]).ok();
    let (code, said) = ci.job("drift");
    assert_eq!(code, 2, "{said}");
    assert!(ci.out("drift.md").contains("- net.ipv4.ip_forward = 1\n+ net.ipv4.ip_forward = 0"), "{said}");

    // Main has moved: nobody planned this content.
    project.all(&all.replace("60-fwd", "61-fwd"));
    ci.git(&["commit", "-q", "-am", "another"]);
    let (code, said) = ci.job("apply");
    assert!(code == 7 && said.contains("main has moved"), "{code}: {said}");
    assert!(ci.out("apply.md").contains("main has moved"), "a step that shows it finds it");
    // Nor where the folder outlived the job, with the plan of other content in it.
    let plans: Vec<_> =
        fs::read_dir(project.path().join("plans")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(plans.len(), 1, "{plans:?}");
    fs::copy(&plans[0], project.path().join("out/plan.json")).unwrap();
    let (code, said) = ci.job_with(&[], &["apply"]);
    assert!(code == 7 && said.contains("main has moved"), "{code}: {said}");

    // Input that is wrong is what the comment says.
    project.all("modulse: []\n");
    ci.git(&["commit", "-q", "-am", "oops"]);
    assert_eq!(ci.job("plan").0, 3);
    let comment = ci.out("comment.md");
    assert!(comment.contains("the input has an error") && comment.contains("modulse"), "{comment}");
}

/// As in gitlab-shards.yml: each job has its own hosts and its own folder, and one puts them together.
#[test]
fn shards_plan_apply_and_come_together() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let all = "sysctl: { 60-fwd: { net.ipv4.ip_forward: 1 } }\nchecks: [{ command: 'test $(uname -n) != kvm2', required: true }]\n";
    let project = Project::new(&lab, &["kvm1", "kvm2"], all);
    project.write(".gitignore", "out/\nplans/\n");
    let ci = Checkout { lab: &lab, project: &project };
    ci.git(&["init", "-q", "-b", "main"]);
    ci.git(&["add", "."]);
    ci.git(&["commit", "-q", "-m", "a key"]);

    let mut codes = Vec::new();
    for (index, out) in [("1", "out/1"), ("2", "out/2")] {
        let engine = [("CI_NODE_INDEX", index), ("CI_NODE_TOTAL", "2"), ("OUT", out)];
        let (code, said) = ci.job_with(&engine, &["plan"]);
        assert_eq!(code, 0, "{said}");
        codes.push(ci.job_with(&engine, &["apply", "--batch", "1", "--max-fail", "1"]).0);
        assert!(ci.out(&format!("{index}/apply.md")).contains(" of 1 host."), "a shard has its own host");
    }
    codes.sort_unstable();
    assert_eq!(codes, [0, 4], "one shard's host rolls back, the other's does not");
    let (code, said) = ci.job_with(&[], &["result", "out/1/apply.jsonl", "out/2/apply.jsonl"]);
    assert_eq!(code, 4, "{said}");
    assert!(ci.out("result.md").contains("1 changed, 1 rolled back of 2 hosts"), "{}", ci.out("result.md"));
    assert!(ci.out("result.md").contains("\n| changed | 1 |"), "{}", ci.out("result.md"));
    assert!(ci.out("result.xml").contains("tests=\"2\" failures=\"1\""), "{}", ci.out("result.xml"));
}
