//! A piece of our sh in every shell that hosts have.

use std::io::Write;
use std::process::{Command, Stdio};

/// What the script prints, which has to be the same in all shells.
///
/// # Panics
/// Where they disagree, where one fails, and in CI where one is missing.
pub fn in_all_shells(script: &str) -> String {
    let mut answers = Vec::new();
    for shell in [&["dash"][..], &["bash"], &["busybox", "sh"]] {
        let child = Command::new(shell[0])
            .args(&shell[1..])
            .arg("-s")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            let strict = std::env::var_os("CI").is_some();
            assert!(!strict, "{shell:?} is missing, and in CI nothing may be skipped");
            eprintln!("SKIPPED: {shell:?} is not here");
            continue;
        };
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{shell:?}: {}", output.status);
        answers.push(String::from_utf8(output.stdout).unwrap());
    }
    assert!(answers.windows(2).all(|w| w[0] == w[1]), "the shells disagree: {answers:#?}");
    answers.pop().expect("at least one shell")
}
