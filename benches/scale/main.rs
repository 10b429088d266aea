//! A fleet on paper: inventory → desired → diff → grouped plan, for so many hosts with 100 rules each, from
//! an answer that a lab host once gave. No network, so what is measured is kvmfw alone.
//!
//! `cargo bench --bench scale [-- HOSTS…]` prints the time of each step and the peak of memory after it; one
//! count of hosts a process, because a peak never goes down. `RAYON_NUM_THREADS=1` shows what the second
//! core brings. Judges nothing.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use kvmfw::apply::Planned;
use kvmfw::desired::{Desired, compile};
use kvmfw::inventory::{File, Files, Project, assemble};
use kvmfw::observe::{Sections, observe};
use kvmfw::plan::{self, Options, Shared};
use kvmfw::report::{Document, Human, Part, Renderer, Style};
use rayon::prelude::*;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

/// What a host of the lab answered when it was asked for the plan of this inventory.
const ANSWER: &str = include_str!("answer.txt");
const NONCE: &str = "kvmfw-recorded";

fn inventory(hosts: usize) -> String {
    let mut text = String::from(
        "groups:\n  all:\n    modules: [host-firewall, firewall-log, bridge-accept-each]\n    \
         bridges: { br123: { stp: false } }\n    sysctl:\n      60-bridge: { net.bridge.bridge-nf-call-arptables: 0 }\n    \
         iptables:\n      filter:\n        FORWARD:\n          rules: |\n",
    );
    for n in 0..100 {
        writeln!(text, "            -s 10.{n}.0.0/16 -p tcp -m tcp --dport {} -j ACCEPT", 1000 + n).unwrap();
    }
    text.push_str("hosts:\n");
    for n in 0..hosts {
        writeln!(text, "  kvm{n:06}: {{ address: 10.{}.{}.{} }}", n / 65536, n / 256 % 256, n % 256).unwrap();
    }
    text
}

fn project(text: String) -> Project {
    let file = File { name: "hosts.yaml".into(), folder: PathBuf::from("/x"), text: text.into() };
    let files = Files { name: "prod".into(), inventory: vec![file], ..Files::default() };
    assemble(files).unwrap_or_else(|problems| panic!("{:#?}", problems.list))
}

fn planned(desired: Desired, shared: &Shared) -> Planned {
    let observed = observe(&Sections::split(ANSWER, NONCE), "").unwrap();
    let mut plan = plan::host(&desired, &observed, &Options::default());
    shared.share(&mut plan);
    assert!(plan.changes.len() > 5, "the recorded answer is out of date: {:?}", plan.verdict);
    Planned { desired: Arc::new(desired), options: Options::default(), result: Ok(Box::new(plan)) }
}

/// The largest resident size so far, in MB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn measure(hosts: usize) {
    let text = inventory(hosts);
    let mut times = Vec::new();
    let mut start = Instant::now();
    let mut lap = |name: &str| {
        times.push(format!("{name} {:.2} s ({} MB)", start.elapsed().as_secs_f64(), peak()));
        start = Instant::now();
    };
    serde_yaml::from_str::<serde_yaml::Value>(&text).unwrap();
    lap("bare YAML");
    let project = project(text);
    lap("inventory");
    let names: Vec<String> = project.hosts.iter().map(|host| host.name.clone()).collect();
    let all = compile(&project, &names).unwrap();
    lap("desired");
    let shared = Shared::default();
    let planned: Vec<Planned> = all.into_par_iter().map(|desired| planned(desired, &shared)).collect();
    lap("observed and planned");
    let document = Document::of_plan(&planned);
    lap("document");
    let shown = Human { style: Style::default(), part: Part::Plan }.render(&document);
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
