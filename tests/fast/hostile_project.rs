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
        is_refused(&scene.kvmfw(&["check", "--inventory-program", path]), "check runs no programs");
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
fn only_regular_files_are_opened() {
    let scene = Scene::new();
    nix::unistd::mkfifo(&scene.at("project/inventories/pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    is_refused(&scene.kvmfw(&["check", "-i", "pipe"]), "is not a regular file");
    let huge = fs::File::create(scene.at("project/inventories/huge.yaml")).unwrap();
    huge.set_len(1 << 40).unwrap();
    is_refused(&scene.kvmfw(&["check", "-i", "huge"]), "more than the 16 MiB");
}

/// What terminals obey, and what turns text around or cannot be seen.
const OBEYED: [&str; 9] = [
    "\u{1b}[2J",
    "\u{1b}]0;taken\u{7}",
    "\u{9b}31m",
    "\u{202e}evil",
    "\u{2066}x",
    "\u{61c}",
    "\u{200f}",
    "\u{7f}",
    "\u{e0041}",
];

#[track_caller]
fn obeys_nothing(text: &str) {
    let odd = |c: &char| {
        (c.is_control() && *c != '\n' && *c != '\t') || OBEYED[3..].iter().any(|odd| odd.starts_with(*c))
    };
    let found: Vec<char> = text.chars().filter(odd).collect();
    assert!(found.is_empty(), "{found:?} in {text:?}");
}

/// A plan, a result or a run that somebody hands over writes on no terminal what it likes: not by what it states, not by
/// what is wrong with it, and not in JSON either.
#[test]
fn a_hostile_file_is_shown_and_not_obeyed() {
    let scene = Scene::new();
    let odd = OBEYED.concat();
    let json = |text: &str| serde_json::Value::from(text).to_string();
    let host = format!(
        r#"{{"name":{odd},"status":"failed","reason":{odd},"message":{odd},"hint":{odd},"changes":[{{"kind":"iptables","resource":{odd},"action":"change","diff":{odd},"origin":[{odd}],"risks":[]}}],"warnings":[{{"code":{odd},"message":{odd},"origin":{odd}}}]}}"#,
        odd = json(&odd)
    );
    let document = format!(r#"{{"version":1,"run":{0},"summary":{{}},"hosts":[{host}]}}"#, json(&odd));
    let event = format!(r#"{{"time":{0},"event":"error","code":"x","message":{0}}}"#, json(&odd));
    for text in [
        document.clone(),
        // serde's own message names what it did not expect.
        format!(r#"{{"version":1,"hosts":{}}}"#, json(&odd)),
        document.replace("\"failed\"", &json(&odd)),
        document.replace("\"change\"", &json(&odd)),
        format!(r#"{{"version":{}}}"#, json(&odd)),
        format!(
            r#"{{"version":1,"kvmfw":{},"made":"","dir":"","inventory":"","sources":{{}},"hosts":{{}},"plan":{document}}}"#,
            json(&odd)
        ),
        format!(r#"{{"version":1,"plan":{document}}}"#),
        event.clone(),
        odd.clone(),
    ] {
        scene.write("file.json", &text);
        for args in [
            &["show", "../file.json"][..],
            &["show", "../file.json", "--format", "json"],
            &["show", "../file.json", "--format", "jsonl"],
            &["show", "../file.json", "--format", "markdown"],
            &["show", "../file.json", "--color", "always"],
            &["apply", "../file.json"],
        ] {
            let output = scene.kvmfw(args);
            let said = said(&output);
            // Colours are ours; what else looks like one is not.
            let said = match args.contains(&"always") {
                true => ["0", "1", "2", "22", "31", "32", "33", "39"]
                    .iter()
                    .fold(said, |s, n| s.replace(&format!("\u{1b}[{n}m"), "")),
                false => said,
            };
            assert!(output.status.code().is_some_and(|code| code < 100), "{args:?} {text}: {said}");
            obeys_nothing(&said);
            if args.contains(&"json") && output.status.code() == Some(4) {
                let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(shown["hosts"][0]["message"], odd, "JSON says the same as before");
            }
        }
    }
    // What a run told is printed as it was kept, also where somebody wrote into it.
    scene.write("runs/run-1/result.json", &document);
    scene.write("runs/run-1/events.jsonl", &format!("{event}\n{{\"raw\":\"{odd}\"}}\n"));
    for args in [
        &["show", "run-1", "--format", "jsonl"][..],
        &["show", "run-1"],
        &["show", "run-1", "--format", "json"],
    ] {
        obeys_nothing(&said(&scene.kvmfw(args)));
    }
    let output = scene.kvmfw(&["show", "run-1", "--format", "jsonl"]);
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

/// Arguments of a pipeline may be a branch's name or a host's.
#[test]
fn arguments_and_inputs_are_shown_and_not_obeyed() {
    let scene = Scene::new();
    for odd in OBEYED {
        scene.write(
            "project/inventories/odd.yaml",
            &format!("hosts: {{ 'a{odd}': {{ x: 'b{odd}' }} }} # {odd}\n"),
        );
        scene.write(&format!("project/modules/m{odd}/module.yaml"), &format!("{odd}: 1\n"));
        for args in [
            &["check", "-i", odd][..],
            &["check", "-i", "good"],
            &["check", "-i", "odd"],
            &["check", "-i", "odd", "--format", "json"],
            &["check", "--nosuch", odd],
            &["check", odd],
            &["plan", "-i", "good", "-l", odd],
            &["show", odd],
            &["undo", odd],
            &["plan", "--inventory-program", odd],
            &["inventory", "show", odd, "-i", "good"],
        ] {
            let output = scene.kvmfw(args);
            assert!(output.status.code().is_some_and(|code| code < 100), "{args:?}");
            obeys_nothing(&said(&output));
        }
    }
}

/// Lines and values of any length are said, not stumbled over.
#[test]
fn no_line_is_too_long() {
    let scene = Scene::new();
    for length in [900, 65_530, 65_536, 70_000, 200_000] {
        let long = "x".repeat(length);
        let gap = " ".repeat(length);
        for text in [
            format!("hosts: {{ kvm1: {{ {gap} nosuch: 1 }} }}\n"),
            format!("hosts: {{ kvm1: {{ nosuch: 1 }} }} # {long}\n"),
            format!("# {long}\nhosts: {{ kvm1: {{ nosuch: 1 }} }}\n"),
            format!("hosts: {{ kvm1: {{ {}: 1 }} }}\n", &long[..length.min(1000)]),
            format!("hosts:\n  kvm1:\n    address: '{long}'\n"),
            format!("hosts:\n  kvm1:\n    address: '{}'\n", "ü".repeat(length)),
            format!("hosts:\n  kvm1:\n    modules: ['{long}']\n"),
            format!(
                "hosts:\n  kvm1:\n    iptables:\n      filter:\n        INPUT:\n          rules: |\n            -p tcp{gap}--nosuch 1 -j ACCEPT\n"
            ),
            format!(
                "hosts:\n  kvm1:\n    iptables:\n      filter:\n        INPUT:\n          rules: |\n            -p tcp -m comment --comment {long} -j NOSUCH\n"
            ),
            format!("hosts:\n  kvm1:\n    sysctl: {{ 60-t: {{ 'net.ipv4.x': '{long}' }} }}\n    nosuch: 1\n"),
        ] {
            scene.write("project/inventories/long.yaml", &text);
            for format in ["human", "json"] {
                let output = scene.kvmfw(&["check", "-i", "long", "--format", format]);
                let end = |text: &str| text.chars().take(300).collect::<String>();
                assert!(
                    matches!(output.status.code(), Some(0 | 3)),
                    "{length} {}: {}",
                    end(&text),
                    end(&said(&output))
                );
                assert!(format != "human" || output.stderr.len() < 30_000, "{} bytes", output.stderr.len());
            }
        }
        // Names of hosts that are folded, from a file.
        let name = "0".repeat(length);
        let host = |name: &str| serde_json::json!({ "name": name, "status": "failed", "changes": [], "warnings": [] });
        let document = serde_json::json!({ "version": 1, "run": "r", "summary": {}, "hosts": [
            host(&format!("a{name}1")), host(&format!("a{name}2")), host("b18446744073709551615"), host("b18446744073709551614"),
        ] });
        scene.write("long.json", &document.to_string());
        assert_eq!(scene.kvmfw(&["show", "../long.json"]).status.code(), Some(4));
    }
}
