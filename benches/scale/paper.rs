//! A fleet on paper: an inventory of so many hosts and rules, and what such a host answers, from an answer that
//! a host of the lab once gave.

use kvmfw::host_state::{Observed, ProbeSections, observe};
use kvmfw::inventory::{Project, ProjectFiles, SourceFile, assemble};
use std::fmt::Write as _;
use std::path::PathBuf;

/// What a host of the lab answered when it was asked for the plan of this inventory with a hundred rules.
const ANSWER: &str = include_str!("answer.txt");
const NONCE: &str = "kvmfw-recorded";
/// How its rules begin that came from the inventory.
const RULE: &str = "-A KVMFW-FORWARD -s 10.";

fn rule(n: usize) -> String {
    format!("-s 10.{}.{}.0/24 -p tcp -m tcp --dport {} -j ACCEPT", n / 250, n % 250, 1000 + n)
}

pub fn inventory(hosts: usize, rules: usize) -> String {
    let mut text = String::from(
        "groups:\n  all:\n    modules: [host-firewall, firewall-log, bridge-accept-each]\n    \
         bridges: { br123: { stp: false } }\n    sysctl:\n      60-bridge: { net.bridge.bridge-nf-call-arptables: 0 }\n    \
         iptables:\n      filter:\n        FORWARD:\n          rules: |\n",
    );
    for n in 0..rules {
        writeln!(text, "            {}", rule(n)).unwrap();
    }
    text.push_str("hosts:\n");
    for n in 0..hosts {
        writeln!(text, "  kvm{n:06}: {{ address: 10.{}.{}.{} }}", n / 65536, n / 256 % 256, n % 256).unwrap();
    }
    text
}

pub fn project(text: String) -> Project {
    let file = SourceFile { name: "hosts.yaml".into(), folder: PathBuf::from("/x"), text: text.into() };
    let files = ProjectFiles { name: "prod".into(), inventory: vec![file], ..ProjectFiles::default() };
    assemble(files).unwrap_or_else(|problems| panic!("{:#?}", problems.list))
}

/// The recorded answer with so many rules in the place of the hundred.
pub fn answer(rules: usize) -> String {
    let mut text = String::new();
    let mut lines = ANSWER.lines().peekable();
    while let Some(line) = lines.next() {
        if !line.starts_with(RULE) {
            writeln!(text, "{line}").unwrap();
            continue;
        }
        while lines.next_if(|line| line.starts_with(RULE)).is_some() {}
        for n in 0..rules {
            writeln!(text, "-A KVMFW-FORWARD {}", rule(n)).unwrap();
        }
    }
    text
}

pub fn observed(answer: &str) -> Observed {
    observe(&ProbeSections::split(answer, NONCE), "").unwrap()
}
