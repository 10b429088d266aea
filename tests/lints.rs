//! Lints: every folder of `tests/cases/lints` is named after one, or after one and a variant of it
//! (`lockout.moved`). `fires.yaml` must have the warning and `silent.yaml` must not; what is said stands in
//! `expected.txt` (`UPDATE_EXPECT=1` rewrites it).
//!
//! `host` is what a host answers, by sections; `silent.host` is another host for the silent half. Without
//! `host` the lint is one of `check`, which asks no host.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use kvmfw::desired::{Desired, compile};
use kvmfw::inventory::{Locate, load_text};
use kvmfw::observe::{Sections, observe};
use kvmfw::plan::{self, Options, Verdict};
use kvmfw::problem::Warning;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// What every host says, unless the case says otherwise.
const HOST: &str = "@n host\nhostname=kvm1\nunits=yes\nroot=yes\nbr_netfilter=yes\n\
    ssh=10.99.0.1 50000 10.99.0.11 22\n\n@n rules4\nbackend=nft\n\n@n rules6\nbackend=nft\n\n@n end\n";

fn desired(case: &Path, name: &str) -> Desired {
    let text = fs::read_to_string(case.join(name)).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
    let locate = Locate { dir: Some(case.to_owned()), home: Some("/home/ops".into()), ..Locate::default() };
    let project =
        load_text(&locate, "case", &text).unwrap_or_else(|e| panic!("{}: {:#?}", case.display(), e.list));
    compile(&project, &["kvm1".to_owned()]).unwrap_or_else(|e| panic!("{}: {e:#?}", case.display())).remove(0)
}

/// The warnings of one half, and how the plan would end.
fn half(case: &Path, name: &str) -> (Vec<Warning>, String) {
    let desired = desired(case, &format!("{name}.yaml"));
    let own = case.join(format!("{name}.host"));
    let host = if own.exists() { own } else { case.join("host") };
    if !host.exists() {
        return (plan::check(&desired), String::new());
    }
    let text = fs::read_to_string(host).unwrap();
    let answer = format!("{HOST}\n{text}");
    let mut observed = observe(&Sections::split(&answer, "n"), "").unwrap();
    plan::forecast::as_if_dry_run(&desired, &mut observed);
    let plan = plan::host(&desired, &observed, &Options::default());
    let end = match plan.verdict {
        Verdict::Refused(refusal) => format!("refused: {}\n", refusal.reason),
        _ => String::new(),
    };
    (plan.warnings, end)
}

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<PathBuf> =
        fs::read_dir("tests/cases/lints").unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

/// The lint that a case is about.
fn lint(case: &Path) -> String {
    let name = case.file_name().unwrap().to_string_lossy();
    name.split('.').next().unwrap().to_owned()
}

#[test]
fn lints() {
    let mut wrong = String::new();
    for case in cases() {
        let code = lint(&case);
        let (fires, end) = half(&case, "fires");
        let (silent, _) = half(&case, "silent");
        let of_code = |warnings: &[Warning]| -> Vec<Warning> {
            warnings.iter().filter(|w| w.code == code).cloned().collect()
        };
        for warning in of_code(&silent) {
            writeln!(wrong, "{}: not silent: {}", case.display(), warning.message).unwrap();
        }
        let mut said = String::new();
        for warning in of_code(&fires) {
            // Lines of shipped modules move with their text.
            let origin = warning.origin.map_or_else(String::new, |o| match o.file.starts_with("kvmfw:") {
                true => format!(" ({})", o.file),
                false => format!(" ({o})"),
            });
            writeln!(said, "{}{origin}", warning.message).unwrap();
        }
        if said.is_empty() {
            let others: BTreeSet<&str> = fires.iter().map(|w| w.code).collect();
            writeln!(wrong, "{}: does not fire, only {others:?}", case.display()).unwrap();
        }
        said.push_str(&end);
        let file = case.join("expected.txt");
        if env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&file, &said).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        if said != expected {
            writeln!(wrong, "{}: says\n{said}not\n{expected}", case.display()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Every lint that the book lists has a case.
#[test]
fn every_lint_has_a_case() {
    let there: BTreeSet<String> = cases().iter().map(|case| lint(case)).collect();
    let page = fs::read_to_string("book/src/lints.md").unwrap();
    let table = page.split("| code | said by |").nth(1).unwrap().split("\n\n").next().unwrap();
    let known: BTreeSet<String> = table
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned()))
        .collect();
    assert!(known.len() > 15, "{known:?}");
    assert_eq!(known.difference(&there).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(there.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
}
