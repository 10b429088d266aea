//! The whole help of the program as one text: a flag that comes, goes or changes is seen in review.
//! `UPDATE_EXPECT=1` rewrites `tests/data/help.txt`, and the page of the book.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use std::process::{Command, Stdio};

const FILE: &str = "tests/data/help.txt";

fn help(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kvmfw"))
        .args(words)
        .arg("--help")
        .env("COLUMNS", "100")
        .env_remove("KVMFW_INVENTORY")
        .env_remove("KVMFW_RUN_DIR")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The subcommands that a help lists.
fn subcommands(help: &str) -> Vec<String> {
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect()
}

fn walk(words: &[&str], all: &mut String) {
    let text = help(words);
    all.push_str(&format!("$ kvmfw {}\n{text}\n", [words, &["--help"]].concat().join(" ")));
    for name in subcommands(&text) {
        walk(&[words, &[name.as_str()]].concat(), all);
    }
}

/// The help as a page of the book: what all commands take stands there once.
fn page(all: &str) -> String {
    let mut page = "# Commands and flags\n\nThis is what `kvmfw --help` says, and `--help` of each command. What every command takes stands only \
                    under [the first](#kvmfw). [Manual pages](editor.md#manual-pages) say the same.\n"
        .to_owned();
    for part in all.split("$ kvmfw ").skip(1) {
        let (words, text) = part.split_once('\n').unwrap();
        let name = format!("kvmfw {}", words.trim_end_matches("--help")).trim_end().to_owned();
        let own = match text.split_once("\nCommon options:\n") {
            Some((own, _)) if name != "kvmfw" => own,
            _ => text,
        };
        page.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", own.trim_end()));
    }
    page
}

fn is(file: &str, text: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(file, text).unwrap();
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    let other = text.lines().zip(expected.lines()).find(|(now, then)| now != then);
    assert!(text == expected, "{file} is not what the program says (UPDATE_EXPECT=1 rewrites it): {other:?}");
}

#[test]
fn whole_help() {
    let mut all = String::new();
    walk(&[], &mut all);
    is(FILE, &all);
    is("book/src/commands.md", &page(&all));
}
