//! Hosts as arguments of `check`, `plan` and `status`: a selection as with `--limit`.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::process::{Command, Output, Stdio};

fn kvmfw(args: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let text = "hosts:\n  kvm[1-3]:\n  store1: { groups: [storage] }\n  store2: { groups: [storage] }\ngroups: { storage: }\n";
    std::fs::write(folder.path().join("fleet.yaml"), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmfw"));
    command.current_dir(folder.path()).stdin(Stdio::null()).args(["-i", "fleet.yaml"]);
    command.args(args).output().unwrap()
}

#[test]
fn hosts_stand_as_arguments() {
    for (hosts, count) in [
        (&[][..], 5),
        (&["kvm1"], 1),
        (&["kvm1", "@storage"], 3),
        (&["kvm[1-2]", "kvm2", "kvm3"], 3),
        (&["@storage", "!store2"], 1),
        (&["kvm1,kvm2"], 2),
    ] {
        let output = kvmfw(&[&["check", "--format", "json"], hosts].concat());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["hosts"], count, "{hosts:?}");
    }
}

#[test]
fn a_host_that_does_not_exist_is_bad_input() {
    for command in ["check", "plan", "status"] {
        let output = kvmfw(&[command, "kvm1", "kvm9"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && stderr.contains("kvm9"), "{command}: {stderr}");
        let twice = kvmfw(&[command, "kvm1", "-l", "kvm2"]);
        let stderr = String::from_utf8_lossy(&twice.stderr);
        assert!(
            twice.status.code() == Some(3) && stderr.contains("cannot be used with"),
            "{command}: {stderr}"
        );
    }
}
