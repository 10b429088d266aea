//! What a real `iptables-save` printed is read, and rendered as it was.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use kvmfw::netfilter::{MatchTest, ParsedRule, RuleTarget};
use kvmfw::resource::iptables::builtin_chains;
use kvmfw::resource::iptables::save::{SavedTables, jump, tokens};

const CANON: &str = include_str!("../data/canon.tsv");

struct Row {
    number: &'static str,
    table: &'static str,
    lines: Vec<&'static str>,
}

fn rows() -> Vec<Row> {
    let fields = |line: &'static str| {
        let mut fields = line.splitn(4, '\t');
        let (number, _family) = (fields.next().unwrap(), fields.next().unwrap());
        Row { number, table: fields.next().unwrap(), lines: fields.next().unwrap().split('⏎').collect() }
    };
    CANON.lines().filter(|line| !line.starts_with('#')).map(fields).collect()
}

/// The whole output that has these lines in it.
fn output(row: &Row, counters: bool) -> String {
    let (policies, rules): (Vec<&str>, Vec<&str>) = row.lines.iter().partition(|line| line.starts_with(':'));
    let mut text = format!("*{}\n", row.table);
    for chain in builtin_chains(row.table).unwrap() {
        if !policies.iter().any(|line| line.starts_with(&format!(":{chain} "))) {
            text += &format!(":{chain} ACCEPT [0:0]\n");
        }
    }
    for policy in policies {
        text += &format!("{policy}\n");
    }
    for rule in rules {
        let rule = rule.trim_start_matches("[0:0] ");
        text += &format!("{}{rule}\n", if counters { "[12:3456] " } else { "" });
    }
    text + "COMMIT\n"
}

#[test]
fn every_row_is_rendered_as_it_was_read() {
    let rows = rows();
    assert!(rows.len() > 100, "only {} rows", rows.len());
    for row in &rows {
        let text = output(row, false);
        let save =
            SavedTables::parse(&text).unwrap_or_else(|error| panic!("row {}: {error}\n{text}", row.number));
        assert_eq!(save.render(), text, "row {}", row.number);
        assert_eq!(SavedTables::parse(&output(row, true)).unwrap(), save, "row {}", row.number);
        assert!(save.jump_rules().is_empty());
    }
}

#[test]
fn every_row_has_the_target_that_it_shows() {
    for row in rows() {
        for line in row.lines.iter().filter(|line| !line.starts_with(':')) {
            let words = tokens(line).unwrap();
            let last = words.iter().rposition(|word| word == "-j").map(|at| words[at + 1].clone());
            let rule = line.split_once("-A ").unwrap().1.split_once(' ').map_or("", |(_, rule)| rule);
            assert_eq!(jump(rule).map(|jump| jump.target), last, "row {}", row.number);
        }
    }
}

/// The rules that the walk cannot answer are those that nobody could from the text alone.
#[test]
fn matches_that_are_not_modelled() {
    let mut unknown: Vec<String> = Vec::new();
    for row in rows() {
        for line in row.lines.iter().filter(|line| !line.starts_with(':')) {
            let rule = line.split_once("-A ").unwrap().1.split_once(' ').map_or("", |(_, rule)| rule);
            let rule = ParsedRule::parse(rule);
            for one in &rule.matches {
                if let MatchTest::Unknown(text) = &one.test {
                    unknown.push(text.split(' ').take(2).collect::<Vec<_>>().join(" "));
                }
            }
            if let RuleTarget::Unknown(name) | RuleTarget::Jump(name) = &rule.target {
                unknown.push(format!("-j {name}"));
            }
        }
    }
    unknown.sort();
    unknown.dedup();
    assert_eq!(unknown, NOT_MODELLED);
}

const NOT_MODELLED: [&str; 19] = [
    "--tcp-option 2",
    "-j NFQUEUE",
    "-j USR",
    "-m cgroup",
    "-m connlimit",
    "-m frag",
    "-m hashlimit",
    "-m helper",
    "-m hl",
    "-m limit",
    "-m mac",
    "-m owner",
    "-m policy",
    "-m recent",
    "-m rt",
    "-m statistic",
    "-m string",
    "-m time",
    "-m ttl",
];
