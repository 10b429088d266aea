//! `bootstrap --local`: kvmfw on the host itself, and what proves that one still gets in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, Run};
use common::terminal::Terminal;
use common::transaction::{ended, marked, read};
use common::{Builder, Lab};
use std::process::Command;

const HOST: &str = "kvm1";
const ASK: &str = "Keep it? Enter keeps it";
/// What lets nobody in any more.
const LOCKOUT: [&str; 2] = ["--param", "host-firewall.allow_tcp=80"];

/// Where kvmfw lies on the host: a place that every login may read, wherever the test was built.
const PROGRAM: &str = "/home/kvmfw";

/// A lab with kvmfw on its host.
fn lab(builder: Builder) -> Lab {
    let lab = builder.up();
    let program = std::env::var("KVMFW").unwrap_or_else(|_| env!("CARGO_BIN_EXE_kvmfw").to_owned());
    std::fs::copy(program, lab.disk(HOST, PROGRAM)).unwrap();
    lab
}

/// `kvmfw bootstrap --local` as words for a shell on the host.
fn words(more: &[&str]) -> Vec<String> {
    let fixed = [
        PROGRAM,
        "bootstrap",
        "--local",
        "-m",
        "host-firewall",
        "-m",
        "bridge-accept-each",
        "--color",
        "never",
    ];
    fixed.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

/// On the host's console.
fn console(lab: &Lab, more: &[&str]) -> Terminal {
    let mut command = lab.host_command(HOST);
    command.args(["setsid", "--ctty", "--wait", "sh", "-c", "echo $$ >/run/kvmfw.pid; exec \"$@\"", "sh"]);
    command.args(words(more));
    Terminal::start(command)
}

fn ssh(lab: &Lab, login: &str) -> Command {
    let mut command = lab.exec_command("ssh");
    command.arg("-F").arg(lab.dir().join("ssh_config")).arg(format!("{login}@{HOST}"));
    command
}

/// In an SSH session with a terminal.
fn session(lab: &Lab, login: &str, more: &[&str]) -> Terminal {
    let mut command = ssh(lab, login);
    command.args(["-q", "-tt"]);
    if login != "root" {
        command.arg("sudo");
    }
    command.args(words(more));
    Terminal::over_ssh(command)
}

/// Without a terminal.
fn batch(lab: &Lab, more: &[&str]) -> Run {
    let output = lab.host(HOST, &words(more));
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: output.stderr,
        took: std::time::Duration::ZERO,
    }
}

/// Plans, from the controller and over SSH, what a bootstrap said to keep.
fn plan_of_what_was_printed(lab: &Lab, screen: &str) -> Run {
    let project = Project::new(lab, &[HOST], "modules: []");
    let printed = screen
        .split("(the next plan will show no changes):\n\n")
        .nth(1)
        .unwrap_or_else(|| panic!("no inventory in {screen}"));
    let dir = lab.dir().display();
    let files = format!("    ssh: {{ identity_file: {dir}/id_ed25519, known_hosts: {dir}/known_hosts, ");
    project.write("inventories/prod.yaml", &printed.replace("    ssh: { ", &files));
    project.kvmfw(lab, &["plan", "-i", "prod", "--detailed-exitcode"])
}

fn is_open(lab: &Lab, port: u16) -> bool {
    lab.host(HOST, &["iptables-save"]).ok().contains(&format!("--dport {port} -j ACCEPT"))
}

#[test]
fn at_the_console() {
    if !common::require_root() {
        return;
    }
    let lab = lab(Lab::builder());
    let before = lab.dump(HOST);

    // Nobody answers: the guard's deadline, told by kvmfw.
    let mut terminal = console(&lab, &["--confirm-timeout", "3s"]);
    terminal.sees("Use them for $bridges? [y/N]");
    terminal.type_line("y");
    terminal.sees("Apply to 1 of 1 host? [y/N]");
    terminal.type_line("y");
    terminal.sees(ASK);
    assert!(is_open(&lab, 22), "it is live while it asks");
    let (code, screen) = terminal.end();
    assert_eq!(code, 4, "{screen}");
    assert!(screen.contains("not confirmed in time"), "{screen}");
    common::same(&before, &lab.dump(HOST), "nobody answered");

    // The operator says no, and does not have to wait.
    let mut terminal = console(&lab, &["-y", "--confirm-timeout", "600s"]);
    terminal.sees(ASK);
    terminal.type_line("n");
    let (code, screen) = terminal.end();
    assert_eq!(code, 4, "{screen}");
    assert!(screen.contains("declined by the operator"), "{screen}");

    // Killed hard: only the guard is left.
    let terminal = console(&lab, &["-y", "--confirm-timeout", "4s"]);
    terminal.sees(ASK);
    let transaction = marked(&lab, HOST, "applied", None);
    lab.host(HOST, &["sh", "-c", "kill -KILL $(cat /run/kvmfw.pid)"]).ok();
    terminal.end();
    assert!(ended(&transaction).contains("nobody confirmed"), "{}", read(&transaction, "done"));
    common::same(&before, &lab.dump(HOST), "kvmfw was killed");

    // Enter keeps it.
    let mut terminal = console(&lab, &["root@10.99.0.11", "-y"]);
    terminal.sees(ASK);
    terminal.type_line("");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert!(lab.guest_ping(HOST, "g0", "192.168.1.2"), "guests are dark");
    plan_of_what_was_printed(&lab, &screen).expect(0);

    // A second one adds.
    let mut terminal = console(&lab, &["root@10.99.0.11", "-y", "-m", "firewall-log"]);
    terminal.sees(ASK);
    terminal.type_line("");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert!(lab.host(HOST, &["iptables-save"]).ok().contains("-j LOG"), "{screen}");
    plan_of_what_was_printed(&lab, &screen).expect(0);
}

/// An open session proves nothing about the next one.
#[test]
fn over_ssh_a_new_login_proves_that_the_host_is_reachable() {
    if !common::require_root() {
        return;
    }
    let lab = lab(Lab::builder());
    let before = lab.dump(HOST);

    // The way in is known, and what would close it is refused.
    let (code, screen) = session(&lab, "root", &[&LOCKOUT[..], &["-y"]].concat()).end();
    assert!(code == 7 && screen.contains("LOCKOUT: every new SSH connection"), "{code} {screen}");

    // Enter alone does not keep what nobody has tried.
    let mut terminal = session(&lab, "root", &["-y", "--confirm-timeout", "5s"]);
    terminal.sees(ASK);
    terminal.type_line("");
    terminal.sees("No new connection has come in since the change");
    let (code, screen) = terminal.end();
    assert_eq!(code, 4, "{screen}");
    common::same(&before, &lab.dump(HOST), "kept by nobody");

    // The session dies while it asks.
    let terminal = session(&lab, "root", &["-y", "--confirm-timeout", "600s"]);
    terminal.sees(ASK);
    let transaction = marked(&lab, HOST, "applied", None);
    terminal.hang_up();
    assert_eq!(ended(&transaction), "rolled-back: the operator's terminal is gone");
    common::same(&before, &lab.dump(HOST), "the session died");

    // Through sudo, and a second login while it asks, however short.
    let mut terminal = session(&lab, "admin", &["-y"]);
    terminal.sees(ASK);
    assert!(ssh(&lab, "admin").arg("true").status().unwrap().success());
    terminal.sees("A new connection from 10.99.0.1 came in");
    terminal.type_line("");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert!(!screen.contains("unproven"), "{screen}");
    assert!(screen.contains("address: \"10.99.0.11\"\n    ssh: { user: admin, become: sudo }"), "{screen}");
    plan_of_what_was_printed(&lab, &screen).expect(0);

    // Kept twice by Enter, with nobody there: the result says what that was.
    let mut terminal = session(&lab, "root", &["-y", "-m", "firewall-log"]);
    terminal.sees(ASK);
    terminal.type_line("");
    terminal.sees("No new connection has come in since the change");
    terminal.type_line("");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("CHANGED: committed without proof: no new login succeeded"), "{screen}");
}

#[test]
fn another_machine_confirms() {
    if !common::require_root() {
        return;
    }
    let lab = lab(Lab::builder().hosts(2));
    let before = lab.dump(HOST);
    let third = ["--confirm-from", "root@10.99.0.12", "-y", "--confirm-timeout", "6s"];

    // It cannot be logged in to: that comes out before anything is touched, with what ssh says of it.
    for (why, cure) in
        [("Host key verification failed.", "known_hosts"), ("Permission denied (", "id_ed25519")]
    {
        let run = batch(&lab, &third).expect(7);
        let said = run
            .stderr
            .split_once("10.99.0.12 cannot confirm: ")
            .unwrap_or_else(|| panic!("{}", run.stderr))
            .1;
        assert!(said.contains(why) && said.contains("Nothing was changed"), "{said}");
        assert!(!said.contains("UNKNOWN"), "{said}");
        std::fs::copy(lab.dir().join(cure), lab.disk(HOST, &format!("/root/.ssh/{cure}"))).unwrap();
    }
    common::same(&before, &lab.dump(HOST), "nothing was to be done");

    // It gets no new connection: rolled back, though the way out is open.
    let run = batch(&lab, &[&LOCKOUT[..], &third].concat()).expect(4);
    assert!(run.stdout.contains("no new connection from 10.99.0.12 to 10.99.0.11"), "{}", run.stdout);
    common::same(&before, &lab.dump(HOST), "locked out");

    let run = batch(&lab, &third).expect(0);
    plan_of_what_was_printed(&lab, &(run.stderr + &run.stdout)).expect(0);
}

#[test]
fn a_local_apply_without_a_terminal_is_refused() {
    if !common::require_root() {
        return;
    }
    let lab = lab(Lab::builder().guests(false));
    let but_sudo = || lab.dump_without(HOST, &["/etc/sudoers.d"]);
    let before = but_sudo();
    for more in [&["-y"][..], &[]] {
        let run = batch(&lab, more).expect(7);
        assert!(
            run.stderr.contains("There is no terminal") && run.stderr.contains("--confirm-from"),
            "{}",
            run.stderr
        );
    }
    // A user who may not become root, on a terminal.
    std::fs::remove_file(lab.disk(HOST, "/etc/sudoers.d/admin")).unwrap();
    let mut command = ssh(&lab, "admin");
    command.arg("-tt").args(words(&["-y"]));
    let (code, screen) = Terminal::over_ssh(command).end();
    assert_eq!(code, 7, "{screen}");
    assert!(screen.contains("this needs root: run it with sudo"), "{screen}");
    common::same(&before, &but_sudo(), "nothing was to be done");
}
