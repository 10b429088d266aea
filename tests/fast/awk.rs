//! The awk programs of the scripts (`src/host/awk`), in every awk that hosts have. Each folder of `tests/cases/awk` is a case:
//! the name of a program, and of the case behind a dot; `input`, and arguments in `args`, a line each, in which `$D` is the
//! folder and `$T` a folder to write to. UPDATE_EXPECT=1 writes `expected.txt` anew.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAMS: &str = "src/host/awk";
const CASES: &str = "tests/cases/awk";
const AWKS: [&[&str]; 4] = [&["mawk"], &["gawk"], &["original-awk"], &["busybox", "awk"]];

/// Cases that run more than the program they are named after, as the scripts do.
const TOGETHER: [(&str, &[&str]); 8] = [
    ("ipt_managed", &["ipt_target", "ipt_managed"]),
    ("ipt_managed.cut", &["ipt_target", "ipt_managed"]),
    ("ipt_change", &["ipt_target", "ipt_change"]),
    ("ipt_change.same", &["ipt_target", "ipt_change"]),
    ("ipt_change.cut", &["ipt_target", "ipt_change"]),
    ("ipt_leave_out_named", &["ipt_leave_out_named", "ipt_leave_out"]),
    ("probe_live.same", &["probe_live", "ipt_target", "ipt_change"]),
    ("probe_live.other", &["probe_live", "ipt_target", "ipt_change"]),
];

fn programs(case: &str) -> Vec<&str> {
    let together = TOGETHER.iter().find(|(name, _)| *name == case);
    together.map_or_else(|| vec![case.split('.').next().unwrap()], |(_, programs)| programs.to_vec())
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

/// The output of a program, what it wrote to files, and its exit status; `None` if this awk is not installed.
fn run(awk: &[&str], case: &str) -> Option<String> {
    let folder = Path::new(CASES).join(case);
    let scratch = tempfile::TempDir::new().unwrap();
    fs::create_dir_all(scratch.path().join("new")).unwrap();
    fs::create_dir_all(scratch.path().join("units")).unwrap();
    let put = |text: &str| {
        text.replace("$D", folder.to_str().unwrap()).replace("$T", scratch.path().to_str().unwrap())
    };
    let args = fs::read_to_string(folder.join("args")).unwrap_or_default();
    let args: Vec<String> = args.lines().map(put).collect();
    // Variables come before the program, files and further assignments behind it.
    let options = args.chunks(2).take_while(|pair| pair[0] == "-v").count() * 2;
    let program: String = programs(case)
        .iter()
        .map(|name| fs::read_to_string(format!("{PROGRAMS}/{name}.awk")).unwrap())
        .collect();
    let input = scratch.path().join("input");
    fs::write(&input, put(&fs::read_to_string(folder.join("input")).unwrap())).unwrap();
    let output = Command::new(awk[0])
        .args(&awk[1..])
        .args(&args[..options])
        .arg(program)
        .args(&args[options..])
        .env("LC_ALL", "C")
        .stdin(Stdio::from(fs::File::open(&input).unwrap()))
        .output()
        .ok()?;
    fs::remove_file(input).unwrap();
    assert!(output.stderr.is_empty(), "{awk:?}: {case}: {}", String::from_utf8_lossy(&output.stderr));
    let mut told = String::from_utf8(output.stdout).unwrap();
    for file in written(scratch.path()) {
        let name = file.strip_prefix(scratch.path()).unwrap().display();
        let _ = write!(told, "file {name}:\n{}", fs::read_to_string(&file).unwrap());
    }
    let _ = writeln!(told, "status {}", output.status.code().unwrap());
    Some(told.replace(folder.to_str().unwrap(), "$D"))
}

fn written(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.into_iter().flat_map(|path| if path.is_dir() { written(&path) } else { vec![path] }).collect()
}

#[test]
fn every_awk_gives_the_same_answer() {
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    for case in names(CASES) {
        let expected = Path::new(CASES).join(&case).join("expected.txt");
        for (number, awk) in AWKS.iter().enumerate() {
            let Some(told) = run(awk, &case) else {
                let strict = std::env::var_os("CI").is_some();
                assert!(!strict, "{awk:?} is missing, and in CI nothing may be skipped");
                eprintln!("SKIPPED: {awk:?} is not here");
                continue;
            };
            if update && number == 0 {
                fs::write(&expected, &told).unwrap();
            }
            let expected = fs::read_to_string(&expected).unwrap_or_default();
            assert_eq!(told, expected, "{awk:?}: {case}");
        }
    }
}

/// Each program has a case, and stands in single quotes in the scripts.
#[test]
fn every_program_has_a_case() {
    let cases: BTreeSet<String> =
        names(CASES).iter().flat_map(|case| programs(case)).map(|name| format!("{name}.awk")).collect();
    let files = names(PROGRAMS);
    assert_eq!(cases, files);
    for file in files {
        let text = fs::read_to_string(format!("{PROGRAMS}/{file}")).unwrap();
        assert!(!text.contains('\''), "{file}: write \\047 for a single quote");
    }
}

/// Whether an awk program begins at the end of this line.
fn opens_program(line: &str) -> bool {
    line.split_once("awk").is_some_and(|(_, rest)| rest.ends_with('\'') && rest.matches('\'').count() == 1)
}

/// Longer programs have files of their own, where this test runs them.
#[test]
fn no_script_has_a_long_awk_program_in_it() {
    for file in names("src/host").into_iter().filter(|name| name.ends_with(".sh")) {
        let text = fs::read_to_string(format!("src/host/{file}")).unwrap();
        let mut length = None;
        for (number, line) in text.lines().enumerate() {
            match length {
                None if opens_program(line) => length = Some(0),
                Some(lines) if line.contains('\'') => {
                    assert!(lines <= 8, "{file}:{number}: an awk program of {lines} lines");
                    length = None;
                }
                Some(lines) => length = Some(lines + 1),
                None => {}
            }
        }
    }
}
