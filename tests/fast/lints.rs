//! Lints: every folder of `tests/cases/lints` is named after one, or after one and a variant of it
//! (`lockout.moved`). `fires.yaml` must have the warning and `silent.yaml` must not; what is said stands in
//! `expected.txt` (`UPDATE_EXPECT=1` rewrites it).
//!
//! `host` is what a host answers, by sections; `silent.host` is another host for the silent half. Without
//! `host` the lint is one of `check`, which asks no host.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use kvmfw::explain;
use kvmfw::host_state::{ProbeSections, observe};
use kvmfw::inventory::{ProjectLocation, load_text};
use kvmfw::plan::{self, HostVerdict, PlanOptions};
use kvmfw::problem::{LintCode, Warning};
use kvmfw::resolve::{Desired, compile};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// What every host says, unless the case says otherwise.
const HOST: &str = "@n host\nhostname=kvm1\nunits=yes\nroot=yes\nbr_netfilter=yes\n\
    ssh=10.99.0.1 50000 10.99.0.11 22\n\n@n rules4\nbackend=nft\n\n@n rules6\nbackend=nft\n\n@n end\n";

fn desired(case: &Path, name: &str) -> Desired {
    let text = fs::read_to_string(case.join(name)).unwrap_or_else(|e| panic!("{}: {e}", case.display()));
    let locate = ProjectLocation {
        dir: Some(case.to_owned()),
        home: Some("/home/ops".into()),
        ..ProjectLocation::default()
    };
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
    let mut observed = observe(&ProbeSections::split(&answer, "n"), "").unwrap();
    plan::forecast::as_if_dry_run(&desired, &mut observed);
    let mut plan = plan::host(&desired, &observed, &PlanOptions::default());
    explain::judge_plan(&mut plan, &desired, &observed, &PlanOptions::default());
    let end = match plan.verdict {
        HostVerdict::Refused(refusal) => format!("refused: {}\n", refusal.reason),
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
            warnings.iter().filter(|w| w.code.as_str() == code).cloned().collect()
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
            let others: BTreeSet<&str> = fires.iter().map(|w| w.code.as_str()).collect();
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

/// Who connects to a host from one of its guests is kvmfw, or the jump host before it.
#[test]
fn a_guest_is_the_jump_host_of_its_own_host() {
    let told = |ssh: &str| {
        let text = format!("hosts: {{ kvm1: {{ {ssh} }} }}\n");
        let locate = ProjectLocation { home: Some("/home/ops".into()), ..ProjectLocation::default() };
        let project = load_text(&locate, "case", &text).unwrap_or_else(|e| panic!("{:#?}", e.list));
        let desired = compile(&project, &["kvm1".to_owned()]).unwrap().remove(0);
        let answer = format!("{HOST}\n@n client\nguest=vnet0 of br123\n");
        let observed = observe(&ProbeSections::split(&answer, "n"), "").unwrap();
        let mut plans =
            [plan::host, plan::drift].map(|of| of(&desired, &observed, &PlanOptions::default()).warnings);
        plans[1].retain(|warning| warning.code != LintCode::NotManaged);
        assert_eq!(plans[0], plans[1]);
        plans[0].iter().map(|w| format!("{}: {}", w.code, w.message)).collect::<Vec<_>>()
    };
    let guest = &told("")[..];
    assert!(
        guest.len() == 1 && guest[0].starts_with("controller-is-guest: kvmfw runs in a guest"),
        "{guest:?}"
    );
    let guest = &told("ssh: { jump: 'ops@b1,ops@bastion:2222' }")[..];
    let said = "jump-host-is-guest: the jump host ops@bastion:2222 is a guest of this host, behind port vnet0 of br123";
    assert!(guest.len() == 1 && guest[0].starts_with(said), "{guest:?}");
}

/// A jump host may be a guest of one of the hosts.
#[test]
fn a_guest_is_the_jump_host_of_other_hosts() {
    let text = "hosts: { kvm1: {}, kvm2: { ssh: { jump: 'ops@bastion:2222' } }, kvm3: { ssh: { jump: bastion } }, \
                kvm4: { ssh: { jump: 10.0.0.9 } } }\n";
    let locate = ProjectLocation { home: Some("/home/ops".into()), ..ProjectLocation::default() };
    let project = load_text(&locate, "case", text).unwrap_or_else(|e| panic!("{:#?}", e.list));
    let names: Vec<String> = project.hosts.iter().map(|host| host.name.clone()).collect();
    let all = compile(&project, &names).unwrap();
    let hops: Vec<&str> = all[0].jump_hosts.iter().map(|jump_host| jump_host.address.as_str()).collect();
    assert_eq!(hops, ["10.0.0.9", "bastion"]);
    let planned = |host: usize, client: &str| {
        let answer = format!("{HOST}\n@n client\n{client}\n");
        let observed = observe(&ProbeSections::split(&answer, "n"), "").unwrap();
        let plan = plan::host(&all[host], &observed, &PlanOptions::default());
        (
            plan.warnings.iter().map(|w| format!("{}: {}", w.code, w.message)).collect::<Vec<_>>(),
            plan.jump_depth == usize::MAX,
        )
    };
    let (told, alone) = planned(0, "jump_host=1 vnet3 of br0");
    let said = "jump-host-is-guest: bastion, the jump host of kvm2 and 1 more, is a guest of this host, behind port vnet3 of br0:";
    assert!(told.len() == 1 && told[0].starts_with(said) && alone, "{told:?}");
    // If it is the jump host of that host as well, one warning names it.
    let (told, alone) = planned(1, "guest=vnet3 of br0\njump_host=1 vnet3 of br0");
    assert!(
        told.len() == 1 && told[0].contains("the jump host ops@bastion:2222 is a guest") && alone,
        "{told:?}"
    );
    for nobody in ["", "jump_host=7 vnet3 of br0", "jump_host=x vnet3 of br0"] {
        assert_eq!(planned(0, nobody), (vec![], false));
    }
    // Who runs kvmfw in a guest decides when; nobody else is cut off.
    assert!(!planned(0, "guest=vnet3 of br0").1);
}

fn sources(folder: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => texts.extend(sources(path.to_str().unwrap())),
            false => texts.push(fs::read_to_string(path).unwrap()),
        }
    }
    texts
}

/// The codes of the book's tables: the lints, and the warnings about a host and its records.
fn tables() -> [BTreeSet<String>; 2] {
    let page = fs::read_to_string("book/src/lints.md").unwrap();
    ["| code | reported by |", "| code | meaning and fix |"].map(|head| {
        let table = page.split(head).nth(1).unwrap().split("\n\n").next().unwrap();
        let rows = table.lines().filter(|line| line.starts_with("| `"));
        let codes = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
        codes.map(ToOwned::to_owned).collect()
    })
}

/// Every lint has a case in which it fires and one in which it is silent. The book lists the codes of the registry, and the
/// source reports all of them.
#[test]
fn every_lint_has_a_case() {
    let mut there = BTreeSet::new();
    for case in cases() {
        for half in ["fires.yaml", "silent.yaml"] {
            assert!(case.join(half).exists(), "{} has no {half}", case.display());
        }
        there.insert(lint(&case));
    }
    let [lints, notes] = tables();
    assert!(lints.len() > 15 && notes.len() > 10, "{lints:?} {notes:?}");
    assert_eq!(lints, there, "book/src/lints.md and tests/cases/lints");

    let registry: BTreeSet<String> = LintCode::ALL.iter().map(ToString::to_string).collect();
    let book: BTreeSet<String> = lints.union(&notes).cloned().collect();
    assert_eq!(book, registry, "book/src/lints.md and src/problem/lint_code.rs");

    // A lint of the rules has a case; the other warnings are notes about a host.
    let named_in = |folders: &[&str]| -> BTreeSet<String> {
        let texts: String = folders.iter().flat_map(|folder| sources(folder)).collect();
        let named = |lint: &&LintCode| {
            let name = format!("LintCode::{lint:?}");
            let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
            texts.split(&name).skip(1).any(ends)
        };
        LintCode::ALL.iter().filter(named).map(ToString::to_string).collect()
    };
    let of_rules = named_in(&["src/plan/lints"]);
    assert!(of_rules.len() > 20, "{of_rules:?}");
    assert_eq!(
        of_rules.difference(&lints).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "lints without a case"
    );
    let made = named_in(&["src/plan", "src/resolve", "src/jump_hosts", "src/explain"]);
    assert_eq!(
        registry.difference(&made).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "lints that nothing reports"
    );
}
