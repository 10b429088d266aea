//! `status` tells the truth about runs that were cut short, also from a controller that knows nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, Run};
use common::transaction::until;
use common::{Cut, Lab};
use std::time::Instant;

const ONE: &str = "sysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 1 } }\n";
const TWO: &str = "sysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 2 } }\n";

/// As on an ephemeral runner: another state folder, which has never seen a run.
fn elsewhere(lab: &Lab, project: &Project, args: &[&str]) -> Run {
    let fresh = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let output = project
        .command(lab, args)
        .env_remove("KVMFW_RUN_DIR")
        .env("XDG_STATE_HOME", fresh.path())
        .env("HOME", fresh.path())
        .output()
        .unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: start.elapsed(),
    }
}

fn marked(lab: &Lab, mark: &str, nth: usize) -> bool {
    let folders = std::fs::read_dir(lab.disk("kvm1", "/var/lib/kvmfw/txn"));
    folders.is_ok_and(|f| f.flatten().filter(|e| e.path().join(mark).exists()).count() == nth)
}

#[test]
fn the_host_alone_reports_a_killed_run() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], ONE);
    assert_eq!(elsewhere(&lab, &project, &["status"]).expect(0).stdout, "kvm1: not managed\n");
    project.apply(&lab, &[]).expect(0);

    project.all(TWO);
    let mut child = project.spawn(&lab, &["apply", "-y", "--confirm-timeout", "600s", "--soak", "500s"]);
    until("applied", || marked(&lab, "applied", 2));
    child.kill().unwrap();
    child.wait().unwrap();
    let text = elsewhere(&lab, &project, &["status"]).expect(0).stdout;
    assert!(text.contains("generation 1 (inventory lab): used at boot; a transaction is open"), "{text}");
    assert!(text.contains(": applied\n"), "{text}");
    let json = elsewhere(&lab, &project, &["status", "--format", "json"]).expect(0).json();
    let host = &json["hosts"][0];
    assert_eq!(host["generation"], "1");
    let open = host["open"].as_str().unwrap();
    assert_eq!(
        host["transactions"].as_array().unwrap().iter().find(|t| t["id"] == open).unwrap()["state"],
        "applied"
    );

    // Whoever finds it ends it, from anywhere.
    let run = elsewhere(&lab, &project, &["unlock", "kvm1", "-y"]).expect(0);
    assert!(run.stdout.starts_with("kvm1: rolled back ("), "{}", run.stdout);
    let text = elsewhere(&lab, &project, &["status"]).expect(0).stdout;
    assert!(text.contains("kvm1: generation 1 (inventory lab): active, used at boot\n"), "{text}");
    assert!(text.contains("rolled-back: ") && !text.contains("OPEN"), "{text}");
}

#[test]
fn a_commit_whose_reply_was_lost_is_committed() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], ONE);
    project.apply(&lab, &[]).expect(0);
    project.all(TWO);
    let mut child = project.spawn(&lab, &["apply", "-y", "--confirm-timeout", "20s"]);
    until("decided", || marked(&lab, "decision", 2));
    lab.cut("kvm1", Cut::From);
    child.kill().unwrap();
    child.wait().unwrap();
    until("done", || marked(&lab, "done", 2));
    let text = elsewhere(&lab, &project, &["status"]).expect(5).stdout;
    assert!(text.contains("kvm1: NO ANSWER "), "{text}");
    lab.mend("kvm1");
    let text = elsewhere(&lab, &project, &["status"]).expect(0).stdout;
    assert!(text.contains("generation 2 (inventory lab): active, used at boot"), "{text}");
    // The host boots what status said.
    lab.reboot("kvm1");
    assert_eq!(lab.host("kvm1", &["sysctl", "-n", "net.ipv4.conf.all.arp_ignore"]).ok().trim(), "2");
}

/// What others changed since is not called live.
#[test]
fn a_live_state_that_differs_is_named() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], &format!("modules: [host-firewall]\n{ONE}"));
    project.apply(&lab, &[]).expect(0);
    let text = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(text.contains("active, used at boot"), "{text}");
    lab.host("kvm1", &["sysctl", "-w", "net.ipv4.conf.all.arp_ignore=0"]).ok();
    lab.host("kvm1", &["ip6tables", "-F", "KVMFW-RH-Firewall-1-INPUT"]).ok();
    let text = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(
        text.contains("used at boot; the live state of ip6tables, sysctl differs; run kvmfw plan"),
        "{text}"
    );
    // Done at the console, so in no transaction's folder: from the history.
    lab.host("kvm1", &["sh", "/var/lib/kvmfw/kvmfw.sh", "undo", "1"]).ok();
    let text = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(text.contains("  generation 1  console  undo  by root"), "{text}");
}

/// What is live and would not be there after a reboot is told, and mended by the next apply.
#[test]
fn missing_boot_files_are_named() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], &format!("modules: [host-firewall]\n{ONE}"));
    project.apply(&lab, &[]).expect(0);
    for (path, told, code) in [
        ("/var/lib/kvmfw/kvmfw.sh", "/var/lib/kvmfw/kvmfw.sh", 2),
        ("/etc/kvmfw/current/rules.v6", "/etc/kvmfw/current/rules.v6", 2),
        // No plan knows what is ours there: it says so, and the way back.
        ("/etc/kvmfw/current", "/etc/kvmfw/generations/3", 7),
    ] {
        lab.host("kvm1", &["sh", "-c", &format!("rm -r $(realpath {path})")]).ok();
        let text = project.kvmfw(&lab, &["status"]).expect(0).stdout;
        assert!(text.contains("active, but NOT COMPLETE AT BOOT"), "{path}: {text}");
        assert!(text.contains(&format!("  MISSING {told}; run kvmfw plan")), "{text}");
        let json = project.kvmfw(&lab, &["status", "--format", "json"]).expect(0).stdout;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let missing = json["hosts"][0]["boot_missing"].as_array().unwrap();
        assert!(missing.contains(&told.into()), "{json}");
        let plan = project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(code).stdout;
        if code == 7 {
            assert!(plan.contains("run `/var/lib/kvmfw/kvmfw.sh undo`"), "{plan}");
            lab.host("kvm1", &["sh", "/var/lib/kvmfw/kvmfw.sh", "undo"]).ok();
        }
        project.apply(&lab, &[]).expect(0);
        let text = project.kvmfw(&lab, &["status"]).expect(0).stdout;
        assert!(text.contains("active, used at boot"), "{path}: {text}");
        project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    }
}

/// The very first transaction of a host, before it has a script at its place.
#[test]
fn unlock_before_anything_was_installed() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    // A required check before the arming that takes its time; the script is moved away meanwhile.
    let project = Project::new(
        &lab,
        &["kvm1"],
        &format!("{ONE}checks: [{{ command: touch /run/checking; sleep 300, timeout: 300s }}]\n"),
    );
    let mut child = project.spawn(&lab, &["apply", "-y"]);
    until("staged, and at its check", || lab.host("kvm1", &["test", "-e", "/run/checking"]).success());
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_file(lab.disk("kvm1", "/var/lib/kvmfw/kvmfw.sh")).unwrap();
    let text = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(text.contains("locked by ") && text.contains("  staged  "), "{text}");
    let run = project.kvmfw(&lab, &["unlock", "kvm1", "-y"]).expect(0);
    assert_eq!(run.stdout, "kvm1: released before the change started\n");
    let run = project.kvmfw(&lab, &["unlock", "kvm1", "-y"]).expect(0);
    assert_eq!(run.stdout, "kvm1: no transaction is open\n");
}

/// kvmfw as it is run, after a script in a mount namespace of its own.
fn after(lab: &Lab, project: &Project, script: &str, args: &[&str]) -> (i32, String) {
    let kvmfw = project.command(lab, args);
    let mut command = lab.exec_command("unshare");
    command.args(["--mount", "sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"]);
    command.arg(kvmfw.get_program()).args(kvmfw.get_args()).env_remove("XDG_RUNTIME_DIR");
    command.env("KVMFW_RUN_DIR", project.path().join("runs")).stdin(std::process::Stdio::null());
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

/// What fails on this machine is no fault of the host.
#[test]
fn a_fault_of_this_machine_is_1() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], ONE);
    let read_only = "mount --bind /tmp /tmp; mount -o remount,ro,bind /tmp";
    for args in
        [&["plan"][..], &["apply", "-y"], &["status"], &["history", "kvm1"], &["unlock", "kvm1", "-y"]]
    {
        let (code, text) = after(&lab, &project, read_only, args);
        assert_eq!(code, 1, "{args:?}: {text}");
        let way_out = "set XDG_RUNTIME_DIR to a folder";
        assert!(text.contains("/tmp: Read-only file system") && text.contains(way_out), "{args:?}: {text}");
    }
}

/// Whatever other users put where kvmfw keeps its sockets, and whatever XDG_RUNTIME_DIR says.
#[test]
fn control_sockets_cannot_be_replaced() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], ONE);
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let long = "x".repeat(90);
    for runtime in [
        "unset XDG_RUNTIME_DIR".to_owned(),
        format!("export XDG_RUNTIME_DIR={place}/absent"),
        format!("mkdir -m 755 {place}/open; export XDG_RUNTIME_DIR={place}/open"),
        format!(
            "mkdir -m 700 {place}/theirs; chown 12345 {place}/theirs; export XDG_RUNTIME_DIR={place}/theirs"
        ),
        format!("ln -s {place} {place}/link; export XDG_RUNTIME_DIR={place}/link"),
        format!("mkdir -m 700 {place}/{long}; export XDG_RUNTIME_DIR={place}/{long}"),
        "export XDG_RUNTIME_DIR=relative".to_owned(),
    ] {
        // The name that former versions took.
        let squat = format!(
            "mkdir -p -m 700 /tmp/kvmfw-0 {place}/squat; chown 12345 {place}/squat; mount --bind {place}/squat /tmp/kvmfw-0; {runtime}; umask 0777"
        );
        let (code, text) = after(&lab, &project, &squat, &["plan", "--detailed-exitcode"]);
        assert_eq!(code, 2, "{runtime}: {text}");
    }
    let left: Vec<_> = ["open", "theirs", &long]
        .map(|name| std::fs::read_dir(folder.path().join(name)).unwrap().count())
        .into();
    assert_eq!(left, [0, 0, 0], "nothing is made where others can read, or that is too long");
}

/// What a killed kvmfw left is removed by the next one, and nothing else is.
#[test]
fn folders_of_killed_processes_are_removed() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], ONE);
    let folder = common::project::runtime_folder();
    let at = |name: &str| folder.path().join(name);
    let make = |name: &str, lock: bool| {
        std::fs::create_dir_all(at(name).join("inside")).unwrap();
        std::fs::set_permissions(at(name), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        if lock {
            std::fs::write(at(name).join("lock"), "").unwrap();
        }
    };
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("lock"), "").unwrap();
    for (name, lock) in [
        ("kvmfw-00000000dead", true),
        ("kvmfw-00000000dead.gone", true),
        // One that is just being made has no lock yet.
        ("kvmfw-0000000000aa", false),
        ("kvmfw-0000000000ab", false),
        ("kvmfw-0000000000ac", true),
        ("kvmfw-0000000000ad", true),
        ("kvmfw-somebody", true),
        ("another", true),
    ] {
        make(name, lock);
    }
    std::os::unix::fs::symlink(outside.path(), at("kvmfw-00000000dead/inside/link")).unwrap();
    std::os::unix::fs::symlink(outside.path(), at("kvmfw-0000000000af")).unwrap();
    std::os::unix::fs::chown(at("kvmfw-0000000000ad"), Some(12345), None).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    std::fs::File::open(at("kvmfw-0000000000ab")).unwrap().set_modified(old).unwrap();
    let alive = std::fs::File::open(at("kvmfw-0000000000ac/lock")).unwrap();
    alive.lock().unwrap();
    let output = project.command(&lab, &["plan"]).env("XDG_RUNTIME_DIR", folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let wanted = [
        "another",
        "kvmfw-0000000000aa",
        "kvmfw-0000000000ac",
        "kvmfw-0000000000ad",
        "kvmfw-0000000000af",
        "kvmfw-somebody",
    ];
    assert_eq!(left, wanted);
    assert!(outside.path().join("lock").exists());
    // The one that is killed in the midst, with its ssh.
    lab.cut("kvm1", common::Cut::Both);
    let mut kvmfw = project.command(&lab, &["plan"]);
    let mut kvmfw = kvmfw.env("XDG_RUNTIME_DIR", folder.path()).spawn().unwrap();
    until("it has made its folder", || std::fs::read_dir(folder.path()).unwrap().count() > wanted.len());
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    assert!(std::fs::read_dir(folder.path()).unwrap().count() > wanted.len());
    lab.mend("kvm1");
    let output = project.command(&lab, &["plan"]).env("XDG_RUNTIME_DIR", folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), wanted.len());
}

/// An undo of a run that is open changes nothing, and does not say that there is nothing to undo.
#[test]
fn an_undo_while_a_transaction_is_open_is_refused() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], ONE);
    let mut child = project.spawn(&lab, &["apply", "-y", "--soak", "300s"]);
    let folder = lab.disk("kvm1", "/var/lib/kvmfw/txn");
    let open =
        || std::fs::read_dir(&folder).ok()?.flatten().find(|entry| entry.path().join("applied").exists());
    until("applied", || open().is_some());
    let run = open().unwrap().file_name().into_string().unwrap();
    let undo = project.kvmfw(&lab, &["undo", &run, "-y", "--format", "json"]).expect(7).json();
    let told = common::project::host_of(&undo, "kvm1");
    assert_eq!(told["reason"], "locked", "{told:#}");
    assert!(told["message"].as_str().unwrap().contains("is not decided on this host"), "{told:#}");
    assert!(told["hint"].as_str().unwrap().contains("kvmfw unlock kvm1;"), "{told:#}");
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(7);
    assert!(project.kvmfw(&lab, &["status"]).expect(0).stdout.contains("a transaction is open"));
    // The command that it names puts the host back; then there is nothing to undo.
    project.kvmfw(&lab, &["unlock", "kvm1", "-y"]).expect(0);
    let undo = project.kvmfw(&lab, &["undo", &run, "-y"]).expect(0);
    assert!(undo.stdout.contains("the run was not committed on this host"), "{}", undo.stdout);
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
fn verbose_shows_how_a_host_is_reached() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], ONE);
    let quiet = project.kvmfw(&lab, &["plan"]).expect(0);
    assert!(!quiet.stderr.contains("ssh -i"), "{}", quiet.stderr);
    let run = project.kvmfw(&lab, &["plan", "-v"]).expect(0);
    assert_eq!(run.stdout, quiet.stdout);
    let line =
        run.stderr.lines().find(|l| l.contains("kvm1: ssh -i ")).unwrap_or_else(|| panic!("{}", run.stderr));
    assert!(line.contains("root@10.99.0.11: connected after "), "{line}");
    assert!(run.stderr.contains("kvm1: answered after "), "{}", run.stderr);
}
