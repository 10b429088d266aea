//! `--shard`: every host is in exactly one shard, whoever names the shard.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use std::process::{Command, Output, Stdio};

fn list(flags: &[&str], env: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("fleet.yaml"), "hosts:\n  kvm[01-40]:\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmfw"));
    command.env_clear().envs(env.iter().copied()).current_dir(folder.path()).stdin(Stdio::null());
    command.args(["inventory", "list", "-q", "-i", "fleet.yaml"]).args(flags).output().unwrap()
}

fn names(flags: &[&str], env: &[(&str, &str)]) -> Vec<String> {
    let output = list(flags, env);
    assert!(output.status.success(), "{flags:?} {env:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn every_host_is_in_one_shard() {
    let mut all = Vec::new();
    for shard in ["1/4", "2/4", "3/4", "4/4"] {
        let part = names(&["--shard", shard], &[]);
        assert!(!part.is_empty(), "{shard}");
        all.extend(part);
    }
    all.sort();
    assert_eq!(all, names(&[], &[]));
}

#[test]
fn job_engines_name_the_shard() {
    let second = names(&["--shard", "2/4"], &[]);
    for (index, at, count) in [
        ("JOB_COMPLETION_INDEX", "1", "KVMFW_SHARDS"),
        ("CI_NODE_INDEX", "2", "CI_NODE_TOTAL"),
        ("BUILDKITE_PARALLEL_JOB", "1", "BUILDKITE_PARALLEL_JOB_COUNT"),
        ("CIRCLE_NODE_INDEX", "1", "CIRCLE_NODE_TOTAL"),
    ] {
        assert_eq!(names(&[], &[(index, at), (count, "4")]), second, "{index}");
        assert_eq!(list(&[], &[(index, at)]).status.code(), Some(3), "{index} alone");
        assert_eq!(list(&[], &[(index, "9"), (count, "4")]).status.code(), Some(3), "{index} too high");
    }
}

#[test]
fn no_shard_is_bad_input() {
    for shard in ["0/4", "5/4", "1", "a/b", "1/0"] {
        assert_eq!(list(&["--shard", shard], &[]).status.code(), Some(3), "{shard}");
    }
}
