//! A fleet on paper: inventory → desired → diff → grouped plan, for so many hosts with 100 rules each, from
//! an answer that a lab host once gave. No network, so what is measured is kvmfw alone.
//!
//! `cargo bench --bench scale [-- HOSTS…]` prints the time of each step and the peak of memory after it; one
//! count of hosts a process, because a peak never goes down. `RAYON_NUM_THREADS=1` shows what the second
//! core brings. Judges nothing.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod paper;

use kvmfw::engine::Planned;
use kvmfw::plan::{self, DiffInterner, PlanOptions};
use kvmfw::report::{Document, Human, Part, Renderer, Style};
use kvmfw::resolve::{Desired, compile};
use rayon::prelude::*;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

/// Rules that each host has besides those of the modules.
const RULES: usize = 100;

fn planned(desired: Desired, answer: &str, shared: &DiffInterner) -> Planned {
    let observed = paper::observed(answer);
    let mut plan = plan::host(&desired, &observed, &PlanOptions::default());
    shared.share(&mut plan);
    assert!(plan.changes.len() > 5, "the recorded answer is out of date: {:?}", plan.verdict);
    Planned { desired: Arc::new(desired), options: PlanOptions::default(), result: Ok(Box::new(plan)) }
}

/// The largest resident size so far, in MB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn measure(hosts: usize) {
    let (text, answer) = (paper::inventory(hosts, RULES), paper::answer(RULES));
    let mut times = Vec::new();
    let mut start = Instant::now();
    let mut lap = |name: &str| {
        times.push(format!("{name} {:.2} s ({} MB)", start.elapsed().as_secs_f64(), peak()));
        start = Instant::now();
    };
    serde_yaml::from_str::<serde_yaml::Value>(&text).unwrap();
    lap("bare YAML");
    let project = paper::project(text);
    lap("inventory");
    let names: Vec<String> = project.hosts.iter().map(|host| host.name.clone()).collect();
    let all = compile(&project, &names).unwrap();
    lap("desired");
    let shared = DiffInterner::default();
    let planned: Vec<Planned> =
        all.into_par_iter().map(|desired| planned(desired, &answer, &shared)).collect();
    lap("observed and planned");
    let document = Document::of_plan(&planned);
    lap("document");
    let shown = Human { style: Style::default(), part: Part::Plan, full: false }.render(&document);
    lap("grouped and shown");
    assert!(shown.lines().count() < 400, "equal changes are one block:\n{shown}");
    println!("{hosts} hosts: {}", times.join(", "));
}

fn main() {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    match asked[..] {
        [hosts] => measure(hosts),
        [] => each(&[1_000, 10_000]),
        _ => each(&asked),
    }
}

/// Each count in a process of its own.
fn each(counts: &[usize]) {
    for hosts in counts {
        let status = Command::new(std::env::current_exe().unwrap()).arg(hosts.to_string()).status().unwrap();
        assert!(status.success());
    }
}
