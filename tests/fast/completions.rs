//! Completions as the shells offer them: bash, zsh and fish themselves are asked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use crate::common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

const KVMFW: &str = env!("CARGO_BIN_EXE_kvmfw");

/// A project for completions.
fn project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    file("inventories/prod.yaml", "hosts: { 'kvm[01-03]': { groups: [storage] } }\ngroups: { storage: }\n");
    file("inventories/stage.yaml", "hosts: { stage1: }\n");
    file("inventories/broken.yaml", "hosts: [\n");
    file("modules/mine/module.yaml", "description: Ours.\nparams: { level: { type: int, default: 1 } }\n");
    file("records/20261124T100000Z-aaaa/result.json", "{}");
    file("records/20261124T110000Z-bbbb/result.json", "{}");
    folder
}

/// What a line and its answer are: words that are offered, and one that is not.
const LINES: [(&str, &str, &str); 14] = [
    ("pl", "plan", "apply"),
    ("plan -i p", "prod", "stage"),
    ("plan -i prod -l kvm", "kvm01 kvm02 kvm03", "stage1"),
    ("plan -i prod -l @", "@all @storage", "kvm01"),
    ("plan -i prod -l kvm01,@st", "kvm01,@storage", "kvm01,@all"),
    ("plan -i prod -l !kvm0", "!kvm01 !kvm02 !kvm03", "@all"),
    ("-i stage inventory show s", "stage1", "kvm01"),
    ("--inventory=stage history s", "stage1", "kvm01"),
    ("bootstrap root@x -m m", "mine", "host-firewall"),
    ("bootstrap root@x -m bridge-b", "bridge-bypass", "mine"),
    ("bootstrap --param host", "host-firewall.allow_tcp=", "mine.level="),
    ("--run-dir records undo 2026", "20261124T110000Z-bbbb 20261124T100000Z-aaaa", "x"),
    ("plan --form", "--format", "--color"),
    // A broken inventory has no names, and makes no noise.
    ("plan -i broken -l kvm", "", "kvm01"),
];

#[test]
fn bash_completes_names() {
    let project = project();
    let script = r#"
        source <(kvmfw generate completions bash) || exit 1
        while IFS= read -r line; do
            COMP_LINE="kvmfw $line" COMP_POINT=${#COMP_LINE}
            COMP_POINT=${#COMP_LINE}
            word=${line##*[[:space:]@=,&!]}
            _kvmfw kvmfw "$word" || exit 1
            printf '%s|%s|%s\n' "$line" "$word" "${COMPREPLY[*]}"
        done
    "#;
    let lines: String = LINES.iter().map(|(line, ..)| format!("{line}\n")).collect();
    let output = shell("bash", &["--norc", "-c", script], project.path(), &lines);
    for ((line, offered, not), said) in LINES.iter().zip(output.lines()) {
        let mut parts = said.splitn(3, '|');
        assert_eq!(parts.next().unwrap(), *line);
        // bash keeps what stands before the word it replaces.
        let typed = line.rsplit(' ').next().unwrap();
        let kept = typed.strip_suffix(parts.next().unwrap()).unwrap();
        let kept = if kept.starts_with("--") { "" } else { kept };
        let found: Vec<String> = parts
            .next()
            .unwrap()
            .split(' ')
            .filter(|w| !w.is_empty())
            .map(|w| format!("{kept}{w}"))
            .collect();
        assert_eq!(found.join(" "), *offered, "{line}");
        assert!(!found.iter().any(|word| word == not), "{line}: {found:?}");
    }
    assert_eq!(output.lines().count(), LINES.len());
}

/// fish answers whole words, and what they are behind a tab.
#[test]
fn fish_completes_names() {
    if !common::require_tools(&["fish"]) {
        return;
    }
    let script = r#"
        kvmfw generate completions fish | source
        while read --local line
            echo "> $line"
            complete -C "kvmfw $line"
        end
    "#;
    offered("fish", &["--no-config", "-c", script]);
}

/// zsh completes only for somebody who sits at it: on a terminal, with a widget that prints what it is given.
#[test]
fn zsh_completes_names() {
    if !common::require_tools(&["zsh"]) {
        return;
    }
    offered("zsh", &["-f", "-c", include_str!("../data/complete.zsh")]);
}

/// Asks a shell for every line; it answers with the line behind `> `, and then what is offered, a word a line.
#[track_caller]
fn offered(name: &str, words: &[&str]) {
    let project = project();
    let lines: String = LINES.iter().map(|(line, ..)| format!("{line}\n")).collect();
    let output = shell(name, words, project.path(), &lines);
    let mut answers = output.split("> ").skip(1);
    for (line, offered, not) in LINES {
        let (asked, found) = answers.next().unwrap_or_default().split_once('\n').unwrap_or_default();
        assert_eq!(asked, line, "{name}: {output}");
        let found: Vec<&str> = found.lines().filter_map(|l| l.split('\t').next()).collect();
        for word in offered.split(' ').filter(|w| !w.is_empty()) {
            assert!(found.contains(&word), "{name} {line}: {found:?}");
        }
        assert!(!found.contains(&not), "{name} {line}: {found:?}");
    }
    assert!(answers.next().is_none());
}

fn shell(program: &str, words: &[&str], folder: &Path, input: &str) -> String {
    use std::io::Write;
    let path = format!("{}:{}", Path::new(KVMFW).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut child = Command::new(program)
        .args(words)
        .current_dir(folder)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
