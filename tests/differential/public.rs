//! Rules as other programs write them (`tests/cases/rulesets`): read, printed, loaded again, walked.
//!
//! `world` in a case says what its devices and addresses are called in the world of this test.

use crate::flow::{Hints, Node};
use crate::random::Random;
use crate::world::World;
use crate::{Count, Trial, common, try_out, unload};
use kvmfw::netfilter::{IptablesBackend, MatchTest, Ruleset};
use kvmfw::resource::iptables::IpFamily;
use kvmfw::resource::iptables::save::{SavedTables, tokens};
use std::net::IpAddr;
use std::path::Path;

/// So many connections for each file and backend.
const FLOWS: u16 = 30;

#[test]
fn rules_of_other_programs() {
    if !common::require_root() {
        return;
    }
    let seed = crate::number("DIFF_SEED").unwrap_or(1);
    let mut world = World::up();
    let mut count = Count::default();
    let mut cases: Vec<_> =
        std::fs::read_dir("tests/cases/rulesets").unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 10, "only {} cases", cases.len());
    let mut run = 0;
    for case in &cases {
        for (family, file) in [(IpFamily::V4, "rules.v4"), (IpFamily::V6, "rules.v6")] {
            let Ok(text) = std::fs::read_to_string(case.join(file)) else { continue };
            let text = translated(&text, case);
            for backend in [IptablesBackend::Nft, IptablesBackend::Legacy] {
                let name = format!("{} {family:?} {backend:?} DIFF_SEED={seed}", case.display());
                let save = canonical(&world, backend, family, &text, &name);
                let hints = hints(&save);
                run += 1;
                let trial =
                    Trial { name, family, backend, first_port: run * u64::from(FLOWS), flows: FLOWS, hints };
                try_out(&mut world, &save, &trial, &mut Random::of(seed, run), &mut count);
                unload(&world, backend, family);
            }
        }
    }
    common::tell(&format!(
        "{} cases, {} packets: {} accepted, {} dropped, {} unknown, {} wrong (DIFF_SEED={seed})",
        cases.len(),
        count.packets,
        count.accepted,
        count.dropped,
        count.unknown,
        count.wrong.len()
    ));
    assert!(count.wrong.is_empty(), "{}", count.wrong.join("\n\n"));
    assert!(count.unknown * 4 <= count.packets, "the walk knows too little of what is out there");
}

/// In the names of the world.
fn translated(text: &str, case: &Path) -> String {
    let names = std::fs::read_to_string(case.join("world")).unwrap_or_default();
    names.lines().fold(text.to_owned(), |text, line| {
        let (theirs, ours) = line.split_once(' ').unwrap();
        text.replace(theirs, ours)
    })
}

/// Loads rules; what is read of them prints as it was, and loads again to the same.
fn canonical(
    world: &World,
    backend: IptablesBackend,
    family: IpFamily,
    text: &str,
    name: &str,
) -> SavedTables {
    let load = |text: &str| {
        let save = world.load(backend, family, text).unwrap_or_else(|why| panic!("{name}: {why}"));
        // What an empty table looks like differs with who looked at it.
        let used = |table: &(String, _)| text.contains(&format!("*{}\n", table.0));
        SavedTables { tables: save.tables.into_iter().filter(used).collect(), ..save }
    };
    let written = load(text);
    let rules: usize = written.tables.values().flat_map(|t| t.chains()).map(|c| c.rules.len()).sum();
    assert!(rules >= text.lines().filter(|line| line.starts_with("-A ")).count(), "{name}: rules got lost");
    let printed = written.render();
    assert_eq!(SavedTables::parse(&printed).unwrap(), written, "{name}");
    let again = load(&printed);
    assert_eq!(again.render(), printed, "{name}");
    again
}

/// Ports and addresses that the rules are about.
fn hints(save: &SavedTables) -> Hints {
    let set = Ruleset::new(save);
    let mut hints = Hints::default();
    for one in set.all_rules().flat_map(|rule| &rule.matches) {
        if let MatchTest::DestinationPorts(ranges) = &one.test {
            hints.ports.extend(ranges.iter().map(|range| range.0));
        }
    }
    for rule in save.tables.get("nat").into_iter().flat_map(|t| t.chains()).flat_map(|c| &c.rules) {
        let words = tokens(rule).unwrap();
        let after = words.iter().zip(words.iter().skip(1));
        let to =
            after.filter(|(option, _)| *option == "-d").filter_map(|(_, value)| value.strip_suffix("/32"));
        let addresses = to.filter_map(|address| address.parse::<IpAddr>().ok());
        hints.addresses.extend(addresses.filter(|address| !address.is_loopback() && far(*address)));
    }
    hints.ports.sort_unstable();
    hints.ports.dedup();
    hints.addresses.sort_unstable();
    hints.addresses.dedup();
    hints
}

/// Of nobody in the world, and not to many.
fn far(address: IpAddr) -> bool {
    Node::of(address) == Some(Node::Net)
        && !address.is_multicast()
        && address != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
        && address != IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1))
}
