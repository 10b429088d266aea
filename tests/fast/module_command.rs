//! `kvmfw module`: the modules of a project and the shipped ones, and a new one that passes its own test.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

fn kvmfw(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvmfw"));
    command
        .current_dir(folder)
        .stdin(Stdio::null())
        .env_remove("KVMFW_INVENTORY")
        .args(args)
        .output()
        .unwrap()
}

#[track_caller]
fn done(folder: &Path, args: &[&str]) -> String {
    let output = kvmfw(folder, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn shipped_modules_are_listed_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let list = done(folder.path(), &["module", "list"]);
    assert!(
        list.contains("host-firewall          shipped  ")
            && list.contains("bridge-bypass          shipped  "),
        "{list}"
    );
    let shown = done(folder.path(), &["module", "show", "host-firewall"]);
    assert!(shown.contains("Params:\n  allow_tcp: ") && shown.contains("RH-Firewall-1-INPUT"), "{shown}");
    let json: serde_json::Value =
        serde_json::from_str(&done(folder.path(), &["module", "show", "host-firewall", "--format", "json"]))
            .unwrap();
    assert!(
        json["module"]["params"][0]["name"] == "allow_tcp" && json["module"]["shipped"] == true,
        "{json:#}"
    );
    let unknown = kvmfw(folder.path(), &["module", "show", "host-firewal"]);
    let stderr = String::from_utf8_lossy(&unknown.stderr);
    assert!(unknown.status.code() == Some(3) && stderr.contains("did you mean `host-firewall`?"), "{stderr}");
}

#[test]
fn a_new_module_passes_its_test() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("inventories")).unwrap();
    std::fs::write(folder.join("inventories/lab.yaml"), "hosts: { kvm1: { modules: [web] } }\n").unwrap();
    done(folder, &["module", "new", "web"]);
    let check = done(folder, &["check"]);
    assert!(check.contains("1 module tests passed."), "{check}");
    assert!(done(folder, &["module", "list"]).contains("web                    project  "));
    for (name, words) in [
        ("web", "there is a module `web` already: modules/web/module.yaml"),
        ("host-firewall", "there is a module `host-firewall` already"),
        ("../x", "is not a valid name of a module"),
        ("", "is not a valid name of a module"),
    ] {
        let output = kvmfw(folder, &["module", "new", name]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && stderr.contains(words), "{name}: {stderr}");
    }
    // Nothing that is there is written over.
    std::fs::create_dir(folder.join("modules/half")).unwrap();
    assert_eq!(kvmfw(folder, &["module", "new", "half"]).status.code(), Some(3));
}

#[test]
fn runs_of_a_new_machine_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let text = done(folder.path(), &["runs", "--run-dir", "runs"]);
    assert_eq!(text, "No runs are recorded in runs.\n");
    let json = done(folder.path(), &["runs", "--run-dir", "runs", "--format", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["runs"], serde_json::json!([]));
}
