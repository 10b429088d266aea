//! What inventories mean: every case directory is compiled, and what reaches each host is compared
//! with `expected.txt` (`UPDATE_EXPECT=1` rewrites them).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use kvmfw::inventory::{Project, ProjectLocation, load, select};
use kvmfw::resolve::{Desired, SchedulingConstraints, compile, explain_host};
use kvmfw::resource::iptables::JumpPosition;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn project(dir: &Path) -> Project {
    let locate =
        ProjectLocation { dir: Some(dir.to_path_buf()), inventory: None, home: Some("/home/ops".into()) };
    load(&locate).unwrap_or_else(|problems| panic!("{}: {:#?}", dir.display(), problems.list))
}

#[test]
fn desired() {
    let mut cases: Vec<PathBuf> =
        fs::read_dir("tests/cases/desired").unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    let mut wrong = String::new();
    for case in &cases {
        let project = project(case);
        let hosts: Vec<String> = project.hosts.iter().map(|host| host.name.clone()).collect();
        let all =
            compile(&project, &hosts).unwrap_or_else(|problems| panic!("{}: {problems:#?}", case.display()));
        let mut shown: String = project.notices.iter().map(|notice| format!("notice: {notice}\n")).collect();
        shown.extend(all.iter().map(show));
        let here = env::current_dir().unwrap().join(case);
        let shown = shown.replace(&*here.to_string_lossy(), ".");
        let file = case.join("expected.txt");
        if env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&file, &shown).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        if shown != expected {
            write!(wrong, "{}\n{shown}\n", case.display()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A host's desired state in a form that can be read; only what is stated.
fn show(desired: &Desired) -> String {
    let mut out = format!("== {}\n", desired.host);
    let c = &desired.connection;
    if c.user.is_some() || c.port.is_some() || c.address != desired.host {
        writeln!(out, "ssh {} port={:?} user={:?} {:?}", c.address, c.port, c.user, c.become_root).unwrap();
        writeln!(out, "    key={:?} known={:?} jump={:?}", c.identity_file, c.known_hosts, c.jump).unwrap();
        writeln!(out, "    {:?} {:?}", c.options, c.connect_timeout).unwrap();
    }
    if desired.scheduling != SchedulingConstraints::default() {
        let limits: Vec<String> = desired
            .scheduling
            .max_in_flight
            .iter()
            .map(|(group, limit)| format!("{limit} of {group}"))
            .collect();
        let last = if desired.scheduling.jump_depth > 0 { " alone and last" } else { "" };
        writeln!(out, "turn: {}{last}", limits.join(", ")).unwrap();
    }
    for file in desired.sysctl.values() {
        writeln!(out, "{} ({})", file.path(), file.origin).unwrap();
        for entry in &file.entries {
            writeln!(out, "    {} = {}  ({})", entry.key, entry.value, entry.origin).unwrap();
        }
    }
    for set in desired.sets.values() {
        out.extend(set.render().lines().map(|line| format!("{line}  ({})\n", set.origin)));
    }
    for (family, rules) in &desired.rules {
        for (table, rules) in &rules.tables {
            writeln!(out, "{family} *{table}").unwrap();
            for (chain, (policy, origin)) in &rules.policies {
                writeln!(out, "    -P {chain} {policy}  ({origin})").unwrap();
            }
            for (name, chain) in &rules.chains {
                if let Some((entered, hook)) = &chain.jump {
                    let hook = if *hook == JumpPosition::Any { String::new() } else { format!(" {hook:?}") };
                    writeln!(out, "    {entered} enters {name}{hook}").unwrap();
                }
                for rule in chain.rules.iter() {
                    let module = rule.module.map(|module| format!(" loads {module}")).unwrap_or_default();
                    writeln!(out, "    -A {name} {}  ({}){module}", rule.text, rule.origin).unwrap();
                }
                if chain.rules.is_empty() {
                    writeln!(out, "    :{name}").unwrap();
                }
            }
        }
    }
    for bridge in desired.bridges.values() {
        let text = format!("{bridge:?}").replace("None, ", "").replace("[], ", "");
        writeln!(out, "{text}").unwrap();
    }
    for check in &desired.checks {
        writeln!(
            out,
            "check {:?} {:?} {:?} required={}",
            check.probe, check.from, check.timeout, check.required
        )
        .unwrap();
    }
    for warning in &desired.warnings {
        let origin = warning.origin.as_ref().map(ToString::to_string).unwrap_or_default();
        writeln!(out, "warning {}: {} ({origin})", warning.code, warning.message).unwrap();
    }
    out
}

#[test]
fn shipped_modules_compose_in_any_order() {
    let all =
        ["host-firewall", "firewall-log", "bridge-accept-each", "bridge-accept-physdev", "bridge-bypass"];
    let mut first: Option<Vec<String>> = None;
    for turn in 0..all.len() {
        let mut order = all;
        order.rotate_left(turn);
        if turn % 2 == 1 {
            order[1..4].reverse();
        }
        let text = format!(
            "hosts:\n  kvm1:\n    modules: [{}]\n    bridges: {{ br0: {{ manage: false }} }}\n",
            order.join(", ")
        );
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("inventories")).unwrap();
        fs::write(dir.path().join("inventories/x.yaml"), text).unwrap();
        let project = project(dir.path());
        let desired = compile(&project, &["kvm1".to_owned()]).unwrap().remove(0);
        let mut rules: Vec<String> =
            show(&desired).lines().filter(|l| l.contains("-A KVMFW-")).map(str::to_owned).collect();
        // The two bridge modules both use `rules`, whose order is that of the modules.
        let at = rules.iter().position(|rule| rule.contains("br0")).unwrap();
        let from = at.min(rules.iter().position(|rule| rule.contains("physdev")).unwrap());
        assert!(
            rules[from - 1].contains("LOG") && rules[from + 2].contains("RH-Firewall-1-INPUT"),
            "{rules:#?}"
        );
        rules.sort();
        assert_eq!(*first.get_or_insert_with(|| rules.clone()), rules);
    }
}

#[test]
fn every_value_has_an_origin() {
    let project = project(Path::new("tests/cases/desired/contract"));
    let facts = explain_host(&project, "kvm07.dc1.example.net");
    let lines: String =
        facts.iter().map(|(path, value, origin)| format!("{path} = {value}  ({origin})\n")).collect();
    let file = "tests/cases/explain.txt";
    if env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(file, &lines).unwrap();
    }
    assert_eq!(lines, fs::read_to_string(file).unwrap_or_default());
    assert!(explain_host(&project, "nobody").is_empty());
}

/// A set shows its members, each where it stands, and counts those that are of its family.
#[test]
fn members_of_sets_have_origins() {
    let project = project(Path::new("tests/cases/desired/ipset"));
    let shown = |host: &str| {
        let facts = explain_host(&project, host).into_iter();
        let sets =
            facts.filter(|(path, ..)| path.starts_with("ipset.admins6.entries") || path.contains(".office."));
        sets.map(|(path, value, origin)| format!("{path} = {value}  ({origin})")).collect::<Vec<_>>()
    };
    let first = shown("kvm1");
    for line in [
        "ipset.admins6.entries = 1 member  (modules/allow/module.yaml:6)",
        "ipset.admins6.entries[1] = 2001:db8::/32  (modules/allow/module.yaml:6)",
        "ipset.office.entries[1] = 10.10.0.10/16 comment \"the office\"  (inventories/prod.yaml:20)",
    ] {
        assert!(first.iter().any(|one| one == line), "{line}: {first:#?}");
    }
    assert_eq!(shown("kvm3")[0], "ipset.admins6.entries = 0 members  (modules/allow/module.yaml:6)");
}

#[test]
fn limits() {
    let project = project(Path::new("tests/cases/desired/contract"));
    for (limit, count, last) in [
        ("*", 41, "kvm41"),
        ("@all", 41, "kvm41"),
        ("@storage", 1, "kvm41"),
        ("@dc1", 1, "kvm41"),
        ("kvm41", 1, "kvm41"),
        ("kvm[01-03].dc1.example.net", 3, "kvm03.dc1.example.net"),
        // As a recap names them.
        ("kvm[01-03,05,08-09].dc1.example.net, kvm41", 7, "kvm41"),
        ("kvm0[1,3-4].*,!kvm0[3,9]*", 2, "kvm04.dc1.example.net"),
        ("kvm0?.*,!kvm07*", 8, "kvm09.dc1.example.net"),
        ("*.dc1.*,&kvm[39-41]*", 2, "kvm40.dc1.example.net"),
        ("*.dc1.*&kvm[39-41]*", 2, "kvm40.dc1.example.net"),
        ("kvm0*&!kvm09*,@storage", 9, "kvm41"),
        ("!kvm41", 40, "kvm40.dc1.example.net"),
        (" kvm41 , kvm01.dc1.example.net", 2, "kvm41"),
    ] {
        let hosts = select(&project, limit).unwrap();
        assert_eq!((hosts.len(), hosts.last().unwrap().as_str()), (count, last), "{limit}");
    }
}
