//! The promise: a host that can no longer be reached, or is not well, puts itself back; nobody else's
//! rules, ports or packets suffer from it; and what is said about it is true.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;
mod controller;
mod controllers;
mod guard;
mod link;
mod others;
mod rolled_back;

use common::project::Project;
use common::transaction::{between, newest, opened, read};
use common::{Backend, Lab, transaction};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

/// Waits until a mark of a transaction other than `not` is there, and returns its folder.
#[track_caller]
fn marked(lab: &Lab, mark: &str, not: Option<&PathBuf>) -> PathBuf {
    transaction::marked(lab, HOST, mark, not)
}

/// The line of the inventory, as the product writes it, in which a text stands.
#[track_caller]
fn place(project: &Project, text: &str) -> String {
    let inventory = fs::read_to_string(project.path().join("inventories/lab.yaml")).unwrap();
    let line = inventory.lines().position(|l| l.contains(text)).expect("is in the inventory") + 1;
    format!("inventories/lab.yaml:{line}")
}

/// What is as before: the whole state, or on a host that is managed all but our own records.
#[track_caller]
fn same(before: &str, after: &str) {
    if before == after {
        return;
    }
    let changed: Vec<String> = similar(before, after);
    panic!("the host is not as it was:\n{}", changed.join("\n"));
}

fn similar(before: &str, after: &str) -> Vec<String> {
    let lost = before.lines().filter(|l| !after.lines().any(|a| a == *l)).map(|l| format!("- {l}"));
    let new = after.lines().filter(|l| !before.lines().any(|b| b == *l)).map(|l| format!("+ {l}"));
    let all: Vec<String> = lost.chain(new).collect();
    if all.is_empty() { vec!["(the same lines in another order)".to_owned()] } else { all }
}

/// A change that has to be rolled back, on a host that is new to kvmfw and on one that is managed.
struct Case {
    backend: Backend,
    /// The mark after which the failure is known, and how long after it the host is back.
    within: (&'static str, Duration),
    /// What the user is told.
    words: Vec<String>,
    /// What the next plan exits with: 2, or 4 where the host itself refuses the change.
    next: i32,
}

impl Case {
    fn new(from: &'static str, within: Duration) -> Self {
        Self { backend: Backend::Nft, within: (from, within), words: Vec::new(), next: 2 }
    }

    /// Where only silence tells: both timeouts and five seconds.
    fn silent() -> Self {
        Self::new("armed", LIMITS + Duration::from_secs(5))
    }

    fn at_once(from: &'static str) -> Self {
        Self::new(from, Duration::from_secs(3))
    }

    fn says(mut self, words: &str) -> Self {
        self.words.push(words.to_owned());
        self
    }

    fn legacy(mut self) -> Self {
        self.backend = Backend::Legacy;
        self
    }

    /// `origin`: a text of the inventory whose line the output must name.
    fn holds(self, change: &str, origin: Option<&str>) {
        self.prepared(change, origin, |_| {});
    }

    fn prepared(self, change: &str, origin: Option<&str>, prepare: impl Fn(&Lab)) {
        if !common::require_root() {
            return;
        }
        let lab = Lab::builder().backend(self.backend).up();
        if self.backend == Backend::Legacy {
            // Looking makes a table there, and nothing unmakes it.
            for tool in ["iptables-legacy-save", "ip6tables-legacy-save"] {
                for table in ["raw", "mangle", "nat", "filter"] {
                    lab.host(HOST, &[tool, "-t", table]).ok();
                }
            }
        }
        prepare(&lab);
        // First as the first thing that kvmfw ever does there.
        let project = Project::new(&lab, &[HOST], change);
        let before = lab.dump(HOST);
        self.run(&lab, &project, origin);
        same(&before, &lab.dump(HOST));

        // Then on a host with a generation of ours, to which it returns.
        project.all(&opened(80));
        project.apply(&lab, &[]).expect(0);
        let before = lab.dump(HOST);
        project.all(change);
        self.run(&lab, &project, origin);
        same(&before, &lab.dump(HOST));
        project.all(&opened(80));
        project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    }

    #[track_caller]
    fn run(&self, lab: &Lab, project: &Project, origin: Option<&str>) {
        let last = newest(lab, HOST);
        let accept = ["--accept-risk", "lockout,guests-unreachable,removes-all"];
        let run = project.apply(lab, &accept).expect(4);
        let said = format!("{}{}", run.stdout, run.stderr);
        for words in &self.words {
            assert!(said.contains(words.as_str()), "`{words}` is not said in\n{said}");
        }
        if let Some(text) = origin {
            let place = place(project, text);
            assert!(run.stdout.contains(&place), "{place} is not named in the result\n{}", run.stdout);
        }
        let folder = newest(lab, HOST).filter(|t| Some(t) != last.as_ref());
        if self.next == 2 {
            let folder = folder.expect("a transaction");
            let (from, limit) = self.within;
            let took = between(&folder, from, "done");
            assert!(took <= limit, "back {took:?} after `{from}`, later than {limit:?}");
            assert!(read(&folder, "done").starts_with("rolled-back"), "{}", read(&folder, "done"));
            assert!(run.stdout.contains("ROLLED BACK"), "{}", run.stdout);
        } else {
            assert!(folder.is_none_or(|t| !t.join("armed").exists()), "something was armed");
        }
        assert!(run.stdout.contains('→'), "nothing says what to do next: {}", run.stdout);
        let plan = ["plan", "--detailed-exitcode", accept[0], accept[1]];
        project.kvmfw(lab, &plan).expect(self.next);
    }
}

fn rules(text: &str) -> String {
    let mut yaml = "iptables:\n  filter:\n    INPUT:\n      rules: |\n".to_owned();
    for line in text.lines() {
        yaml += &format!("        {line}\n");
    }
    yaml
}

const HOST: &str = "kvm1";
/// What `Project::apply` gives a host: armed → applied → decided.
const LIMITS: Duration = Duration::from_secs(10 + 5);

/// A change that stays in the window for a while: its check takes its time.
fn slow(port: u16) -> String {
    format!("{}checks: [{{ command: sleep 3, timeout: 10s }}]\n", opened(port))
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn id_of(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

/// Which port hangs on which bridge.
fn ports(lab: &Lab) -> Vec<(String, String)> {
    let links: serde_json::Value = serde_json::from_str(&lab.host(HOST, &["ip", "-j", "link"]).ok()).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    let links = links.as_array().unwrap().iter();
    links.filter(|l| l["master"].is_string()).map(|l| (text(&l["ifname"]), text(&l["master"]))).collect()
}
