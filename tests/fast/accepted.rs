//! Rules that iptables takes are taken: `tests/cases/rules/accepted.txt` was accepted by iptables 1.8.9.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use kvmfw::problem::Place;
use kvmfw::resource::iptables::rule::{RuleContext, check};
use kvmfw::resource::iptables::text::{TextLine, split};
use kvmfw::resource::iptables::{IpFamily, is_builtin};

#[test]
fn rules_that_iptables_accepts_are_accepted() {
    let mut refused = String::new();
    for line in include_str!("../cases/rules/accepted.txt").lines() {
        let mut fields = line.splitn(4, '\t');
        let mut next = || fields.next().unwrap();
        let family = if next() == "6" { IpFamily::V6 } else { IpFamily::V4 };
        let (table, chain, text) = (next(), next(), next());
        let place = Place { file: "rule".into(), line: 1, column: 1, length: 1 };
        let words = match split(&TextLine { text, place }) {
            Ok(words) => words,
            Err(problem) => {
                refused.push_str(&format!("{text}\n  {problem}\n"));
                continue;
            }
        };
        let mut problems = Vec::new();
        let context = RuleContext { family, table, chain, builtin: is_builtin(table, chain) };
        let checked = check(&words, context, &mut problems);
        if let Some(checked) = checked.filter(|checked| !checked.before.contains('$')) {
            // Reading what was written gives the same words again.
            let rule = checked.rule(checked.target());
            let place = Place { file: "rule".into(), line: 1, column: 1, length: 1 };
            let again = split(&TextLine { text: &rule.text, place }).unwrap();
            let once = check(&again, context, &mut problems).unwrap();
            assert_eq!(once.rule(once.target()).text, rule.text);
        }
        for problem in problems {
            refused.push_str(&format!("{text}\n  {problem}\n"));
        }
    }
    assert!(refused.is_empty(), "{refused}");
}
