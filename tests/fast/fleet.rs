//! A large fleet compiles in the time a person waits.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use kvmfw::inventory::{ProjectFiles, SourceFile, assemble};
use kvmfw::resolve::compile;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

#[test]
fn ten_thousand_hosts_with_a_hundred_rules() {
    let mut text = String::from(
        "groups:\n  all:\n    modules: [host-firewall, firewall-log, bridge-accept-each]\n    iptables:\n      filter:\n        FORWARD:\n          rules: |\n",
    );
    for n in 0..100 {
        writeln!(text, "            -s 10.{n}.0.0/16 -p tcp --dport {} -j ACCEPT", 1000 + n).unwrap();
    }
    text.push_str("hosts:\n");
    for n in 0..10_000 {
        let (high, low) = (n / 250, n % 250 + 1);
        writeln!(
            text,
            "  kvm{n:05}:\n    address: 10.1.{high}.{low}\n    bridges: {{ br{}: {{ ports: [eth1] }} }}",
            n % 50
        )
        .unwrap();
    }
    let file = SourceFile { name: "hosts.yaml".into(), folder: PathBuf::from("/x"), text: text.into() };
    let files = ProjectFiles { name: "prod".into(), inventory: vec![file], ..ProjectFiles::default() };
    let started = Instant::now();
    let project = assemble(files).unwrap_or_else(|problems| panic!("{:#?}", problems.list));
    let loaded = started.elapsed();
    let hosts: Vec<String> = project.hosts.iter().map(|host| host.name.clone()).collect();
    let all = compile(&project, &hosts).unwrap();
    eprintln!("loaded in {loaded:?}, compiled in {:?}", started.elapsed() - loaded);
    assert_eq!(all.len(), 10_000);
    // Without optimisation and beside other tests; in a release build it is a tenth.
    assert!(started.elapsed().as_secs() < 60);
}
