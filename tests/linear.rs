//! Twice the input is twice the work, not four times: counted in instructions (callgrind), which a busy
//! machine does not change. Each test runs itself under valgrind, three times.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

mod common;
#[path = "../benches/scale/paper.rs"]
mod paper;

use kvmfw::engine::Planned;
use kvmfw::inventory::{ProjectFiles, SourceFile, assemble};
use kvmfw::plan::{self, DiffInterner, PlanOptions};
use kvmfw::report::{Document, Human, Json, Part, Renderer, Style};
use kvmfw::resolve::{Desired, compile};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// Set in the process that does the work: how much of it.
const SIZE: &str = "KVMFW_LINEAR_SIZE";

/// Runs `work` here if this is the process for it. If not, starts such processes for `size`, twice and
/// four times that, and tells how much more the second doubling adds than the first: 2 is linear, 4 is
/// quadratic. The time to start is in neither.
#[track_caller]
fn doubling(test: &str, size: usize, work: fn(usize)) -> Option<f64> {
    if let Ok(size) = std::env::var(SIZE) {
        work(size.parse().unwrap());
        return None;
    }
    if !common::require_tools(&["valgrind"]) {
        return None;
    }
    let [one, two, four] = [size, 2 * size, 4 * size].map(|size| instructions(test, size));
    let ratio = (four - two) / (two - one);
    eprintln!("{test}: {one:.3e}, {two:.3e}, {four:.3e} instructions, {ratio:.2}");
    Some(ratio)
}

#[track_caller]
fn linear(test: &str, size: usize, work: fn(usize)) {
    if let Some(ratio) = doubling(test, size, work) {
        // Sorting and tables that grow are a little over 2.
        assert!(ratio < 2.5, "{test} is worse than linear: {ratio:.2}");
    }
}

fn instructions(test: &str, size: usize) -> f64 {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads", "1"])
        .env(SIZE, size.to_string())
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stdout));
    let line = said.lines().find(|line| line.contains("Collected :")).unwrap_or_else(|| panic!("{said}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn desired(inventory: String) -> Vec<Desired> {
    let project = paper::project(inventory);
    let names: Vec<String> = project.hosts.iter().map(|host| host.name.clone()).collect();
    compile(&project, &names).unwrap()
}

/// From an inventory and one host's answer to what the operator reads.
fn shown(inventory: String, answer: &str) -> usize {
    let shared = DiffInterner::default();
    let plan = |desired: Desired| {
        let mut plan = plan::host(&desired, &paper::observed(answer), &PlanOptions::default());
        shared.share(&mut plan);
        assert!(!plan.changes.is_empty(), "the recorded answer is out of date: {:?}", plan.verdict);
        Planned { desired: Arc::new(desired), options: PlanOptions::default(), result: Ok(Box::new(plan)) }
    };
    let planned: Vec<Planned> = desired(inventory).into_iter().map(plan).collect();
    let document = Document::of_plan(&planned);
    Json.render(&document).len()
        + Human { style: Style::default(), part: Part::Plan, full: false }.render(&document).len()
}

#[test]
fn in_hosts() {
    linear("in_hosts", 10, |hosts| {
        shown(paper::inventory(hosts, 10), &paper::answer(10));
    });
}

#[test]
fn in_rules_that_stand() {
    linear("in_rules_that_stand", 100, |rules| {
        shown(paper::inventory(1, rules), &paper::answer(rules));
    });
}

#[test]
fn in_rules_that_are_new() {
    linear("in_rules_that_are_new", 100, |rules| {
        shown(paper::inventory(1, rules), &paper::answer(0));
    });
}

#[test]
fn in_rules_that_are_all_different() {
    linear("in_rules_that_are_all_different", 100, |rules| {
        let answer = paper::answer(rules).replace("-p tcp -m tcp --dport", "-p udp -m udp --dport");
        shown(paper::inventory(1, rules), &answer);
    });
}

/// What could be told apart by port stands apart only by a mark here, so every rule is compared with more.
#[test]
fn in_rules_that_overlap() {
    linear("in_rules_that_overlap", 100, |rules| {
        let overlapping = paper::inventory(1, rules).replace("-p tcp -m tcp --dport", "-m mark --mark");
        shown(overlapping, &paper::answer(0));
    });
}

#[test]
fn in_bridges_and_sysctl_keys() {
    linear("in_bridges_and_sysctl_keys", 25, |count| {
        let (mut keys, mut bridges) = (String::new(), String::new());
        for n in 0..count {
            writeln!(keys, "        net.ipv4.conf.vnet{n}.rp_filter: 0").unwrap();
            write!(bridges, ", other{n}: {{ ports: [eth{n}], stp: false }}").unwrap();
        }
        let text = paper::inventory(1, 1)
            .replace("stp: false } }", &format!("stp: false }}{bridges} }}"))
            .replace("      60-bridge: {", &format!("      50-more:\n{keys}      60-bridge: {{"));
        shown(text, &paper::answer(1));
    });
}

#[test]
fn in_groups() {
    linear("in_groups", 25, |count| {
        let mut groups = String::from("hosts:\n");
        let mut text = paper::inventory(count, 1);
        for n in 0..count {
            groups.insert_str(
                0,
                &format!("  g{n}: {{ params: {{ host-firewall: {{ allow_tcp: [22, {}] }} }} }}\n", 1000 + n),
            );
            text = text.replace(&format!("  kvm{n:06}: {{"), &format!("  kvm{n:06}: {{ groups: [g{n}],"));
        }
        let text = text.replace("hosts:\n", &groups);
        assert_eq!(desired(text).len(), count);
    });
}

#[test]
fn in_problems() {
    linear("in_problems", 50, |count| {
        let text = paper::inventory(count, 1).replace("address:", "adress:");
        let file = SourceFile { name: "hosts.yaml".into(), folder: PathBuf::from("/x"), text: text.into() };
        let files = ProjectFiles { name: "prod".into(), inventory: vec![file], ..ProjectFiles::default() };
        let problems = assemble(files).err().unwrap();
        assert!(problems.list.len() >= count, "{}", problems.list.len());
    });
}

#[test]
fn quadratic_cost_is_detected() {
    let ratio = doubling("quadratic_cost_is_detected", 400, |size| {
        let numbers: Vec<usize> = (0..size).collect();
        assert!(numbers.iter().all(|n| numbers.contains(n)));
    });
    assert!(ratio.is_none_or(|ratio| ratio > 3.0), "{ratio:?}");
}
