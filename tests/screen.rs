//! What an operator sees on a terminal while a run goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Lab;
use common::project::Project;
use common::terminal::Terminal;

const OPEN: &str = "modules: [host-firewall, bridge-accept-each]\nbridges: { br123: { manage: false } }\n";

#[test]
fn what_is_said_meanwhile_stays_above_the_board() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let slow = format!("{OPEN}checks: [{{ command: sleep 2, timeout: 5s }}]\n");
    let project = Project::new(&lab, &["kvm1", "kvm2"], &slow);
    let mut command = project.command(&lab, &["apply", "-y"]);
    command.env("TERM", "xterm");
    let terminal = Terminal::start(command);
    terminal.sees("  kvm1  confirming ");
    terminal.interrupt();
    let (code, screen) = terminal.end();
    assert_eq!(code, 130, "{screen}");
    let said = "Interrupted: no new hosts; those in flight are being decided. Once more leaves them to their guards.\n";
    let after = screen.split(said).nth(1).expect(&screen);
    assert!(after.starts_with("  applying "), "the board is not below it:\n{screen}");
    assert_eq!(screen.matches("  kvm1  changed\n").count(), 1, "{screen}");
}

#[test]
fn where_nothing_can_be_drawn_there_are_lines() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &["kvm1"], OPEN);
    let mut command = project.command(&lab, &["apply", "-y"]);
    command.env("TERM", "dumb");
    let (code, screen) = Terminal::start(command).end();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("\n  kvm1  changed\n") && !screen.contains('\x1b'), "{screen}");
    // Asked for, and there is no terminal.
    let run = project.kvmfw(&lab, &["undo", "--to", "0", "-y", "--progress", "bar"]).expect(0);
    assert!(run.stderr.contains("\n  kvm1  changed\n"), "{}", run.stderr);
}
