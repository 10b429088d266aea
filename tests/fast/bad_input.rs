//! Bad input never reaches a host: every case directory is read and compiled as a run would do it,
//! and what is said about it is compared with `expected.txt` (`UPDATE_EXPECT=1` rewrites them).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use kvmfw::inventory::{ProjectLocation, load, select};
use kvmfw::resolve::compile;
use std::path::{Path, PathBuf};
use std::{env, fs};

#[test]
fn bad_input() {
    let mut cases: Vec<PathBuf> =
        fs::read_dir("tests/cases/bad-input").unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 60, "only {} cases", cases.len());
    let mut wrong = String::new();
    for case in &cases {
        let said = said(case);
        let file = case.join("expected.txt");
        if env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&file, &said).unwrap();
        }
        let expected = fs::read_to_string(&file).unwrap_or_default();
        if said != expected || said.is_empty() {
            wrong.push_str(&format!("{}\n  expected: {expected}\n  found: {said}\n", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// What is wrong with a case, one line per problem; empty if nothing is.
fn said(case: &Path) -> String {
    let optional =
        |name: &str| fs::read_to_string(case.join(name)).ok().map(|text| text.trim_end().to_owned());
    let locate = ProjectLocation {
        dir: Some(case.to_path_buf()),
        inventory: optional("inventory"),
        home: Some("/home/ops".into()),
    };
    let problems = match load(&locate) {
        Err(problems) => problems.list,
        Ok(project) => {
            let all = project.hosts.iter().map(|host| host.name.clone()).collect();
            let chosen = optional("limit").map_or(Ok(all), |limit| select(&project, &limit));
            match chosen {
                Err(problem) => vec![problem],
                Ok(hosts) => compile(&project, &hosts).err().unwrap_or_default(),
            }
        }
    };
    // No message depends on where the case lies.
    let here = env::current_dir().unwrap().join(case);
    let lines = problems.iter().map(|problem| problem.to_string().replace(&*here.to_string_lossy(), "."));
    lines.map(|line| line + "\n").collect()
}
