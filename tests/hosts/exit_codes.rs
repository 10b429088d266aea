//! One test for each row of the table of exit codes, and the shape of the JSON document.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, Run};
use common::transaction::until;
use common::{Cut, Lab};
use serde_json::Value;
use std::process::Child;
use std::time::{Duration, Instant};

const HOST: &str = "kvm1";
const OPEN: &str = "modules: [host-firewall, bridge-accept-each]\nbridges: { br123: { manage: false } }\n";
const LOCKOUT: &str = "\
iptables:
  filter:
    INPUT:
      rules: |
        -m state --state ESTABLISHED -j ACCEPT
        -p tcp --dport 22 -j DROP
";
const STATUSES: [&str; 8] =
    ["unchanged", "changed", "rolled-back", "failed", "unreachable", "unknown", "skipped", "refused"];

/// Checks the shape of a result and that its summary counts its hosts.
#[track_caller]
fn document(run: &Run) -> Value {
    let json = run.json();
    assert_eq!(json["version"], 2, "{json:#}");
    let hosts = json["hosts"].as_array().expect("hosts");
    assert_eq!(json["summary"]["hosts"], hosts.len(), "{json:#}");
    assert_eq!(json["summary"].as_object().unwrap().len(), 1 + STATUSES.len(), "{json:#}");
    for status in STATUSES {
        let count = hosts.iter().filter(|h| h["status"] == status).count();
        assert_eq!(json["summary"][status], count, "{status}: {json:#}");
    }
    for host in hosts {
        assert!(host["name"].is_string() && STATUSES.contains(&host["status"].as_str().unwrap()), "{host:#}");
        for change in host["changes"].as_array().expect("changes") {
            let is = |key: &str, of: &[&str]| of.contains(&change[key].as_str().unwrap_or("?"));
            assert!(is("kind", &["sysctl", "iptables", "ip6tables", "bridge"]), "{change:#}");
            assert!(is("action", &["add", "change", "remove"]), "{change:#}");
            assert!(change["resource"].is_string() && change["origin"].is_array(), "{change:#}");
            assert!(change["risks"].as_array().unwrap().iter().all(Value::is_string), "{change:#}");
            let diff = change["diff"].as_str().unwrap();
            assert!(diff.lines().all(|l| l.starts_with(['+', '-', ' '])), "{diff}");
            assert!(diff.lines().any(|l| l.starts_with(['+', '-'])), "{diff}");
        }
        for warning in host["warnings"].as_array().expect("warnings") {
            assert!(warning["code"].is_string() && warning["message"].is_string(), "{warning:#}");
        }
    }
    json
}

fn marked(lab: &Lab, mark: &str) -> bool {
    let folders = std::fs::read_dir(lab.disk(HOST, "/var/lib/kvmfw/txn"));
    folders.is_ok_and(|f| f.flatten().any(|e| e.path().join(mark).exists()))
}

fn start(lab: &Lab, project: &Project) -> Child {
    project
        .spawn(lab, &["apply", "-y", "--apply-timeout", "5s", "--confirm-timeout", "5s", "--format", "json"])
}

fn end(child: Child) -> Run {
    let start = Instant::now();
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: start.elapsed(),
    }
}

#[test]
fn done_is_0_and_pending_is_2() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], OPEN);
    project.kvmfw(&lab, &["check"]).expect(0);
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0);
    let json = document(&plan);
    assert_eq!((&json["summary"]["changed"], &json["hosts"][0]["status"]), (&1.into(), &"changed".into()));
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    let run = document(&project.apply(&lab, &["--format", "json"]).expect(0));
    assert!(run["run"].is_string(), "{run:#}");
    let run = document(&project.apply(&lab, &["--format", "json"]).expect(0));
    assert_eq!(run["hosts"][0]["status"], "unchanged");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    project.kvmfw(&lab, &["--help"]).expect(0);
}

#[test]
fn bad_input_is_3() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], "modulse: [host-firewall]\n");
    for args in [&["check"][..], &["plan"], &["apply", "-y"]] {
        let run = project.kvmfw(&lab, args).expect(3);
        assert!(run.stderr.contains("modulse") && run.stdout.is_empty(), "{}{}", run.stdout, run.stderr);
    }
    project.all(OPEN);
    for args in [
        &["plan", "--limit", "kvm9"][..],
        &["plan", "--no-such-flag"],
        &["apply", "/no/such/plan"],
        &["apply", "-y", "--accept-risk", "everything"],
        &["plan", "-i", "nowhere"],
    ] {
        let run = project.kvmfw(&lab, args).expect(3);
        assert!(!run.stderr.is_empty(), "{args:?} says nothing");
    }
    assert!(!lab.disk(HOST, "/var/lib/kvmfw").exists(), "a host was touched");
}

#[test]
fn failed_and_restored_is_4() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project =
        Project::new(&lab, &[HOST], &format!("{OPEN}checks: [{{ command: 'false', required: true }}]\n"));
    let json = document(&project.apply(&lab, &["--format", "json"]).expect(4));
    assert_eq!(json["hosts"][0]["status"], "rolled-back");
    assert!(json["hosts"][0]["message"].as_str().unwrap().contains("check failed"), "{json:#}");
}

#[test]
fn unreachable_is_5() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], OPEN);
    lab.cut(HOST, Cut::Both);
    for args in [&["plan", "--format", "json"][..], &["apply", "-y", "--format", "json"]] {
        let json = document(&project.kvmfw(&lab, args).expect(5));
        assert_eq!(json["hosts"][0]["status"], "unreachable", "{json:#}");
        assert!(json["hosts"][0]["message"].is_string(), "{json:#}");
    }
    project.kvmfw(&lab, &["status"]).expect(5);
}

/// A plan that no host answered is not one without changes, in any format.
#[test]
fn hosts_without_an_answer_are_not_reported_as_unchanged() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let project = Project::new(&lab, &[HOST, "kvm2"], "");
    lab.cut(HOST, Cut::Both);
    let junit = project.path().join("junit.xml");
    let plan = |more: &[&str]| project.kvmfw(&lab, &[&["plan"], more].concat()).expect(5);
    let text = plan(&[]).stdout;
    assert!(text.contains("No changes on 1 of 2 hosts. 1 host unreachable."), "{text}");
    lab.cut("kvm2", Cut::Both);
    let said = "No host answered: nothing was planned. 2 hosts unreachable.";
    let run = plan(&["--junit", junit.to_str().unwrap()]);
    assert!(run.stdout.contains(said) && !run.stdout.contains("No changes"), "{}", run.stdout);
    let xml = std::fs::read_to_string(&junit).unwrap();
    assert!(xml.contains("<system-out>no host answered: nothing was planned</system-out>"), "{xml}");
    let text = plan(&["--format", "markdown"]).stdout;
    assert!(
        text.contains("No host answered")
            && text.contains("nothing was planned")
            && !text.contains("No changes"),
        "{text}"
    );
    let json = plan(&["--format", "json"]).json();
    assert_eq!(json["note"], "no host answered: nothing was planned", "{json:#}");
    let text = plan(&["--drift"]).stdout;
    assert!(text.contains("No host answered: nothing was compared.") && !text.contains("No drift"), "{text}");
}

#[test]
fn unknown_is_6() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &format!("{OPEN}checks: [{{ command: sleep 2 }}]\n"));
    let kvmfw = start(&lab, &project);
    until("armed", || marked(&lab, "armed"));
    lab.cut(HOST, Cut::Both);
    let json = document(&end(kvmfw).expect(6));
    assert_eq!(json["hosts"][0]["status"], "unknown", "{json:#}");
    assert_eq!(json["hosts"][0]["reason"], "no-answer", "{json:#}");
}

#[test]
fn left_alone_is_7() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], OPEN);
    let before = lab.dump(HOST);
    // Nobody to ask, and nobody said yes.
    let run = project.kvmfw(&lab, &["apply"]).expect(7);
    assert!(run.stderr.contains("-y"), "{}", run.stderr);
    assert_eq!(lab.dump(HOST), before, "it was touched");

    // A plan is applied once; then it is stale.
    let plan = project.path().join("saved.plan");
    let plan = plan.to_str().unwrap();
    project.kvmfw(&lab, &["plan", "-o", plan]).expect(0);
    project.kvmfw(&lab, &["apply", plan]).expect(0);
    lab.host(HOST, &["iptables", "-D", "FORWARD", "1"]).ok();
    let json = document(&project.kvmfw(&lab, &["apply", plan, "--format", "json"]).expect(7));
    assert_eq!(
        (&json["hosts"][0]["status"], &json["hosts"][0]["reason"]),
        (&"refused".into(), &"stale".into())
    );

    // Another inventory's host.
    let other = std::fs::read_to_string(project.path().join("inventories/lab.yaml")).unwrap();
    project.write("inventories/other.yaml", &other);
    let json = document(&project.kvmfw(&lab, &["plan", "-i", "other", "--format", "json"]).expect(7));
    assert_eq!(json["hosts"][0]["reason"], "managed-by", "{json:#}");

    // A file that somebody else wrote.
    lab.host(HOST, &["sh", "-c", "echo net.ipv4.ip_forward=1 >/etc/sysctl.d/60-mine.conf"]).ok();
    project.all(&format!("{OPEN}sysctl: {{ 60-mine: {{ net.ipv4.ip_forward: 0 }} }}\n"));
    let json = document(&project.kvmfw(&lab, &["plan", "-i", "lab", "--format", "json"]).expect(7));
    assert_eq!(json["hosts"][0]["reason"], "unmanaged-owner", "{json:#}");
}

/// A risk that is predicted refuses the host, in the plan too, until it is accepted by its name.
#[test]
fn a_predicted_risk_is_7_until_it_is_accepted() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], LOCKOUT);
    let before = lab.dump(HOST);
    let apply = ["apply", "-y", "--confirm-timeout", "5s", "--format", "json"];
    for args in [&["plan", "--format", "json"][..], &apply] {
        let host = document(&project.kvmfw(&lab, args).expect(7))["hosts"][0].clone();
        assert_eq!((&host["status"], &host["reason"]), (&"refused".into(), &"lockout".into()), "{host:#}");
        assert!(host["message"].as_str().unwrap().contains("every new SSH connection"), "{host:#}");
        assert!(host["hint"].as_str().unwrap().contains("--accept-risk lockout"), "{host:#}");
        assert!(host["changes"].to_string().contains("lockout"), "what would change is shown: {host:#}");
    }
    let other = ["--accept-risk", "removes-all"];
    project.kvmfw(&lab, &[&apply[..], &other].concat()).expect(7);
    assert_eq!(lab.dump(HOST), before, "it was touched");
    // Accepted, it is guarded all the same.
    let accept = ["--accept-risk", "lockout"];
    project.kvmfw(&lab, &[&["plan", "--detailed-exitcode"][..], &accept].concat()).expect(2);
    let run = document(&project.kvmfw(&lab, &[&apply[..], &accept].concat()).expect(4));
    assert_eq!(run["hosts"][0]["status"], "rolled-back", "{run:#}");

    // A saved plan remembers what was accepted for it; what was not is asked of the apply.
    let saved = project.path().join("saved.plan");
    let saved = saved.to_str().unwrap();
    project.kvmfw(&lab, &["plan", "-o", saved]).expect(7);
    let run = document(&project.kvmfw(&lab, &["apply", saved, "--format", "json"]).expect(7));
    assert_eq!(run["hosts"][0]["reason"], "lockout", "{run:#}");
    project.kvmfw(&lab, &["apply", saved, "--confirm-timeout", "5s", "--accept-risk", "lockout"]).expect(4);
    project.kvmfw(&lab, &["plan", "-o", saved, "--accept-risk", "lockout"]).expect(0);
    project.kvmfw(&lab, &["apply", saved, "--confirm-timeout", "5s"]).expect(4);

    // Everything of a kind goes away; an undo says as much by its name.
    project.all(&format!("{OPEN}sysctl: {{ 60-t: {{ net.ipv4.conf.all.arp_ignore: 1 }} }}\n"));
    project.apply(&lab, &[]).expect(0);
    project.all(OPEN);
    let run = document(&project.apply(&lab, &["--format", "json"]).expect(7));
    assert_eq!(run["hosts"][0]["reason"], "removes-all", "{run:#}");
    assert!(run["hosts"][0]["message"].as_str().unwrap().ends_with("of kind sysctl on the host"), "{run:#}");
    project.apply(&lab, &["--accept-risk", "removes-all"]).expect(0);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
}

/// The worst counts: unknown before failed before unreachable before left alone.
#[test]
fn several_at_once() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).up();
    let project = Project::new(
        &lab,
        &["kvm1", "kvm2", "kvm3"],
        &format!("{OPEN}checks: [{{ command: 'test $(uname -n) != kvm3', required: true }}]\n"),
    );
    lab.cut("kvm2", Cut::Both);
    // One that does not answer is more than is allowed: nobody is changed.
    let json = document(&project.apply(&lab, &["--max-unreachable", "0", "--format", "json"]).expect(5));
    let reasons: Vec<_> = json["hosts"].as_array().unwrap().iter().map(|h| h["reason"].clone()).collect();
    assert_eq!(reasons, ["max-unreachable", "connect", "max-unreachable"], "{json:#}");
    let args = ["--max-unreachable", "1", "--max-fail", "3", "--format", "json"];
    let json = document(&project.apply(&lab, &args).expect(4));
    let statuses: Vec<_> = json["hosts"].as_array().unwrap().iter().map(|h| h["status"].clone()).collect();
    assert_eq!(statuses, ["changed", "unreachable", "rolled-back"], "{json:#}");
    // The budget: kvm3 comes first and fails, so kvm1 is left alone; 4 outranks 7.
    project.kvmfw(&lab, &["undo", "--to", "0", "-y", "--limit", "kvm1"]).expect(0);
    lab.mend("kvm2");
    project.all(&format!("{OPEN}checks: [{{ command: 'false', required: true }}]\n"));
    let json = document(&project.apply(&lab, &["--format", "json"]).expect(4));
    assert_eq!(json["summary"]["rolled-back"], 1, "{json:#}");
    assert_eq!(json["summary"]["skipped"], 2, "{json:#}");
    let budget = json["hosts"].as_array().unwrap().iter().filter(|h| h["reason"] == "budget").count();
    assert_eq!(budget, 2, "{json:#}");
}

/// What is kept in a file must not be half of it without a word; a reader that has seen enough may go.
#[test]
fn a_result_that_cannot_be_written() {
    let kvmfw = |out: std::process::Stdio| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kvmfw"));
        let child =
            command.args(["generate", "schema", "output"]).stdout(out).stderr(std::process::Stdio::piped());
        child.spawn().unwrap().wait_with_output().unwrap()
    };
    let full = kvmfw(std::fs::File::options().write(true).open("/dev/full").unwrap().into());
    let said = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("cannot write the result: No space left on device").count(), 1, "{said}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let gone = kvmfw(writer.into());
    assert_eq!((gone.status.code(), gone.stderr.len()), (Some(0), 0));
}

fn interrupt(child: &Child) {
    send(child, "-INT");
}

fn send(child: &Child, signal: &str) {
    let done = std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(done.success());
}

/// Whose terminal goes away, goes on with what is under way and no further; what nohup runs goes on.
#[test]
fn a_terminal_that_hangs_up() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let with = |port: &str| {
        // Once the change is live, the check holds the host until the signals have been sent.
        let check = "[ ! -e /run/kvmfw/*/applied ] || until [ -e /run/go ]; do sleep 0.05; done";
        format!(
            "{OPEN}params: {{ host-firewall: {{ allow_tcp: [22, {port}] }} }}\nchecks: [{{ command: '{check}', timeout: 5s }}]\n"
        )
    };
    let project = Project::new(&lab, &[HOST, "kvm2"], &with("80"));
    let kvmfw = start(&lab, &project);
    until("applied", || marked(&lab, "applied"));
    send(&kvmfw, "-HUP");
    send(&kvmfw, "-HUP");
    for host in [HOST, "kvm2"] {
        lab.host(host, &["touch", "/run/go"]).ok();
    }
    let json = document(&end(kvmfw).expect(130));
    let statuses = |json: &serde_json::Value| -> Vec<serde_json::Value> {
        json["hosts"].as_array().unwrap().iter().map(|h| h["status"].clone()).collect()
    };
    assert_eq!(statuses(&json), ["changed", "skipped"], "{json:#}");
    let run = project.path().join("runs").join(json["run"].as_str().unwrap());
    assert!(run.join("result.json").exists());

    project.all(&with("81"));
    let inner = project.command(&lab, &["apply", "-y", "--format", "json"]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    command.env("KVMFW_RUN_DIR", project.path().join("runs")).stdin(std::process::Stdio::null());
    let folders = || std::fs::read_dir(lab.disk(HOST, "/var/lib/kvmfw/txn")).unwrap().count();
    let before = folders();
    let kvmfw =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("it is at it", || folders() > before);
    send(&kvmfw, "-HUP");
    let json = end(kvmfw).expect(0).json();
    assert_eq!(statuses(&json), ["changed", "changed"], "{json:#}");
}

/// Interrupted while it connects, it leaves none of its files for ssh behind.
#[test]
fn interrupted_while_it_connects() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], OPEN);
    let folder = common::project::runtime_folder();
    let files = || -> Vec<_> {
        let own = std::fs::read_dir(folder.path());
        own.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    // The host takes no packet: ssh waits, with its files there.
    lab.cut(HOST, Cut::Both);
    let mut command = project.command(&lab, &["plan"]);
    command.env("XDG_RUNTIME_DIR", folder.path());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let kvmfw = command.spawn().unwrap();
    let asked =
        |folder: &std::path::PathBuf| std::fs::read_dir(folder).is_ok_and(|inside| inside.count() > 2);
    until("ssh is at it", || files().iter().any(asked));
    let done = std::process::Command::new("kill").args(["-TERM", &kvmfw.id().to_string()]).status().unwrap();
    assert!(done.success());
    let run = end(kvmfw).expect(130);
    assert!(run.stderr.contains("Interrupted: nothing was changed."), "{}", run.stderr);
    assert_eq!(files(), Vec::<std::path::PathBuf>::new());
    lab.mend(HOST);
    // Nor does a run that comes to its end.
    let mut command = project.command(&lab, &["plan"]);
    assert!(command.env("XDG_RUNTIME_DIR", folder.path()).output().unwrap().status.success());
    assert_eq!(files(), Vec::<std::path::PathBuf>::new());
    let check = project.kvmfw(&lab, &["check"]).expect(0).stdout;
    assert!(check.contains(": 1 host, no errors."), "{check}");
}

#[test]
fn interrupted_is_130() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).up();
    // In flight: decided first, and no new host.
    let project = Project::new(
        &lab,
        &[HOST, "kvm2"],
        &format!("{OPEN}checks: [{{ command: sleep 2, timeout: 5s }}]\n"),
    );
    let kvmfw = start(&lab, &project);
    until("applied", || marked(&lab, "applied"));
    interrupt(&kvmfw);
    let run = end(kvmfw).expect(130);
    let json = document(&run);
    let statuses: Vec<_> = json["hosts"].as_array().unwrap().iter().map(|h| h["status"].clone()).collect();
    assert_eq!(statuses, ["changed", "skipped"], "{json:#}");
    assert_eq!(json["hosts"][1]["reason"], "interrupted", "{json:#}");
    assert!(run.stderr.contains("Interrupted"), "{}", run.stderr);

    // Twice: the guard is left to it, and rolls back what nobody confirmed.
    project.all(&format!("{OPEN}params: {{ host-firewall: {{ allow_tcp: [22, 80] }} }}\nchecks: [{{ command: sleep 3, timeout: 5s }}]\n"));
    let folders =
        || std::fs::read_dir(lab.disk(HOST, "/var/lib/kvmfw/txn")).unwrap().flatten().map(|e| e.path());
    let old: Vec<_> = folders().collect();
    let kvmfw = start(&lab, &project);
    until("applied", || folders().any(|f| !old.contains(&f) && f.join("applied").exists()));
    interrupt(&kvmfw);
    std::thread::sleep(Duration::from_millis(200));
    interrupt(&kvmfw);
    let run = end(kvmfw).expect(130);
    assert!(run.took < Duration::from_secs(2), "it stayed for {:?}", run.took);
    assert!(run.stderr.contains("Stopped waiting: unconfirmed hosts roll back"), "{}", run.stderr);
    until("rolled back", || folders().any(|f| !old.contains(&f) && f.join("done").exists()));
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(status.stdout.contains("rolled-back: nobody confirmed"), "{}", status.stdout);
}
