//! A merge request from somebody who is not trusted, checked by a pipeline: `check` runs nothing of it and reads nothing
//! outside of the project.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const GOOD: &str = "hosts: { kvm1: { } }\n";
const SECRET: &str = "TOKEN_OF_THE_PIPELINE";

/// A project folder with one file, and a folder beside it.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap() };
        scene.write("project/inventories/good.yaml", GOOD);
        scene.write("outside/secret.yaml", &format!("- {SECRET}\n"));
        scene.write("outside/module.yaml", &format!("- {SECRET}\n"));
        scene
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn program(&self, path: &str) {
        let mark = self.at("ran").display().to_string();
        self.write(path, &format!("#!/bin/sh\ntouch {mark}\necho '{}'\n", GOOD.trim()));
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn ran(&self) -> bool {
        let mark = self.at("ran");
        let ran = mark.exists();
        let _ = fs::remove_file(mark);
        ran
    }

    fn kvmfw(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let program = std::env::var("KVMFW").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kvmfw").to_owned());
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.at("project"))
            .env("TOKEN", SECRET)
            .env("KVMFW_RUN_DIR", self.at("runs"));
        command.env_remove("KVMFW_INVENTORY");
        command
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn is_refused(output: &Output, why: &str) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(why), "{said}");
    assert!(!said.contains(SECRET), "{said}");
}

#[test]
fn a_program_runs_only_by_its_flag_and_never_in_check() {
    let scene = Scene::new();
    scene.program("project/inventories/prod");
    scene.program("outside/prod");
    symlink(scene.at("outside/prod"), scene.at("project/inventories/link")).unwrap();
    let absolute = scene.at("project/inventories/prod").display().to_string();
    for path in ["inventories/prod", &absolute, "../outside/prod", "inventories/link"] {
        for command in [&["check"][..], &["plan"], &["inventory", "list"]] {
            let output = scene.kvmfw(&[command, &["-i", path]].concat());
            is_refused(&output, "--inventory-program");
            let output = scene.command(command).env("KVMFW_INVENTORY", path).output().unwrap();
            is_refused(&output, "--inventory-program");
        }
        assert!(!scene.ran(), "{path} was run");
        is_refused(&scene.kvmfw(&["check", "--inventory-program", path]), "check runs nothing");
        assert!(!scene.ran(), "{path} was run by check");
    }
    let output = scene.kvmfw(&["inventory", "list", "--inventory-program", "../outside/prod"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(scene.ran());
    let both = scene
        .command(&["inventory", "list", "--inventory-program", "../outside/prod"])
        .env("KVMFW_INVENTORY", "good")
        .output();
    is_refused(&both.unwrap(), "give one of them");
    assert!(!scene.ran());
}

/// A saved plan is a file that may come from anybody; it names no program that is then run.
#[test]
fn a_saved_plan_runs_no_program() {
    let scene = Scene::new();
    scene.program("project/inventories/prod");
    for inventory in
        [scene.at("project/inventories/prod").display().to_string(), "./inventories/prod".to_owned()]
    {
        for program in [serde_json::Value::Null, inventory.clone().into()] {
            let plan = serde_json::json!({
                "version": 1, "kvmfw": env!("CARGO_PKG_VERSION"), "made": "2026-01-01T00:00:00Z",
                "dir": scene.at("project"), "inventory": inventory, "program": program, "sources": {}, "hosts": {},
                "plan": { "version": 1, "summary": {}, "hosts": [] },
            });
            scene.write("plan.json", &plan.to_string());
            is_refused(&scene.kvmfw(&["apply", "../plan.json"]), "--inventory-program");
            assert!(!scene.ran());
        }
    }
}

/// One way for a file of the project to lead out of it.
fn links(scene: &Scene, way: &str, to: &Path) {
    let from = scene.at("project").join(way);
    fs::create_dir_all(from.parent().unwrap()).unwrap();
    symlink(to, from).unwrap();
}

#[test]
fn check_reads_nothing_outside_of_the_project() {
    let (file, folder) = ("../../outside/secret.yaml", "../../outside");
    for (way, to, args) in [
        ("inventories/good/evil.yaml", "../../../outside/secret.yaml", &["-i", "good/"][..]),
        ("inventories/evil.yaml", file, &["-i", "evil"]),
        ("inventories/evil.yaml", file, &["-i", "inventories/evil.yaml"]),
        ("inventories/evil.yaml", "/proc/self/environ", &["-i", "evil"]),
        ("inventories/evil", folder, &["-i", "evil"]),
        ("inventories/evil", folder, &["-i", "inventories/evil/secret.yaml"]),
        ("inventories/evil", "/proc/self", &["-i", "inventories/evil/environ"]),
        ("inventories/evil", "/", &["-i", "inventories/evil/proc/self/environ"]),
        ("modules/evil/module.yaml", "../../../outside/secret.yaml", &["-i", "good"]),
        ("modules/evil/module.yaml", "/proc/self/environ", &["-i", "good"]),
        ("modules/evil", folder, &["-i", "good"]),
        ("modules/evil", "/proc/self/root/etc", &["-i", "good"]),
        ("modules", "../outside", &["-i", "good"]),
        ("modules/m/tests/evil.yaml", "/proc/self/environ", &["-i", "good"]),
        ("modules/m/tests", "../../../outside", &["-i", "good"]),
        // Whether something is there is not to be found out either.
        ("modules/evil/module.yaml", "/nonexistent", &["-i", "good"]),
        ("modules/evil", "/nonexistent", &["-i", "good"]),
        ("modules/m/tests", "/nonexistent", &["-i", "good"]),
    ] {
        let scene = Scene::new();
        if way.starts_with("modules/m/") {
            scene.write("project/modules/m/module.yaml", "description: x\n");
        }
        if way.starts_with("inventories/good/") {
            fs::remove_file(scene.at("project/inventories/good.yaml")).unwrap();
            scene.write("project/inventories/good/a.yaml", GOOD);
        }
        links(&scene, way, Path::new(to));
        let args: Vec<&str> = args.iter().map(|arg| if *arg == "good/" { "good" } else { arg }).collect();
        is_refused(&scene.kvmfw(&[&["check"], &args[..]].concat()), "symbolic link");
    }
    // All inventories behind one link; not even their names are told.
    let scene = Scene::new();
    fs::remove_dir_all(scene.at("project/inventories")).unwrap();
    links(&scene, "inventories", Path::new("../outside"));
    let output = scene.kvmfw(&["check"]);
    is_refused(&output, "symbolic link");
    assert!(!said(&output).contains("secret"), "{}", said(&output));
}

#[test]
fn a_link_within_the_project_is_followed_and_what_the_user_names_is_read() {
    let scene = Scene::new();
    links(&scene, "inventories/again.yaml", Path::new("good.yaml"));
    scene.write("project/shared/m/module.yaml", "description: x\n");
    links(&scene, "modules/m", Path::new("../shared/m"));
    scene.write("outside/fleet/a.yaml", GOOD);
    scene.write("outside/fleet.yaml", GOOD);
    for inventory in ["again", "good", "../outside/fleet", "../outside/fleet.yaml"] {
        let output = scene.kvmfw(&["check", "-i", inventory]);
        assert_eq!(output.status.code(), Some(0), "{inventory}: {}", said(&output));
    }
    // But not what lies beside it.
    symlink("/proc/self/environ", scene.at("outside/fleet/b.yaml")).unwrap();
    is_refused(&scene.kvmfw(&["check", "-i", "../outside/fleet"]), "symbolic link");
    is_refused(&scene.kvmfw(&["check", "-i", "/proc/self/environ"]), "/proc");
}

#[test]
fn what_is_not_a_regular_file_is_not_opened() {
    let scene = Scene::new();
    nix::unistd::mkfifo(&scene.at("project/inventories/pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    is_refused(&scene.kvmfw(&["check", "-i", "pipe"]), "is not a regular file");
    let huge = fs::File::create(scene.at("project/inventories/huge.yaml")).unwrap();
    huge.set_len(1 << 40).unwrap();
    is_refused(&scene.kvmfw(&["check", "-i", "huge"]), "more than the 16 MiB");
}
