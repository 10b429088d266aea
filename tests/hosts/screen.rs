//! What an operator sees on a terminal while a run goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::Project;
use common::terminal::Terminal;
use common::transaction::{ended, newest};
use kvmfw::engine::HostStatus;
use kvmfw::plan::{ChangeAction, ResourceKind};
use kvmfw::report::{ChangeEntry, Document, HostEntry, Human, Json, Markdown, Part, Renderer, Style};
use serde_json::json;

const OPEN: &str = "modules: [host-firewall, bridge-accept-each]\nbridges: { br123: { manage: false } }\n";

#[test]
fn notes_stay_above_the_progress_board() {
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
    let said = "Interrupted: no more hosts are started; waiting for those in progress. Press Ctrl-C again to stop waiting (unconfirmed hosts roll back by themselves).\n";
    let after = screen.split(said).nth(1).expect(&screen);
    assert!(after.starts_with("  applying "), "the board is not below it:\n{screen}");
    assert_eq!(screen.matches("  kvm1  changed\n").count(), 1, "{screen}");
}

/// Ctrl-S, or a pager that does not read: what shows the run waits, the hosts do not.
#[test]
fn a_stopped_terminal_causes_no_rollback() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let slow = format!("{OPEN}checks: [{{ command: sleep 2, timeout: 5s }}]\n");
    let project = Project::new(&lab, &["kvm1"], &slow);
    let mut command = project.command(&lab, &["apply", "-y", "--confirm-timeout", "10s"]);
    command.env("TERM", "xterm");
    let mut terminal = Terminal::start(command);
    terminal.sees("  kvm1  confirming ");
    terminal.press("\x13");
    let end = ended(&newest(&lab, "kvm1").unwrap());
    terminal.press("\x11");
    assert_eq!(end, "committed");
    let (code, screen) = terminal.end();
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("  changed         1   kvm1\n"), "{screen}");
}

#[test]
fn without_a_terminal_progress_is_printed_as_lines() {
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

/// A fleet of 412 in which three are odd, as a plan and as a run that could not reach them.
fn fleet(run: bool, odd: impl Fn(usize) -> HostEntry) -> Document {
    let change = |diff: &str| -> ChangeEntry {
        let change = json!({
            "kind": "iptables", "resource": "filter/RH-Firewall-1-INPUT", "action": "change",
            "diff": diff, "origin": [], "risks": ["management-path"],
        });
        serde_json::from_value(change).unwrap()
    };
    let hosts = (1..=412).map(|n| {
        let odd = odd(n);
        let diff = if n == 77 { "- -p tcp -m tcp --dport 80 -j ACCEPT\n" } else { "" };
        let changes = vec![change(&format!("{diff}+ -p tcp -m tcp --dport 16514 -j ACCEPT\n"))];
        HostEntry { changes, ..odd }
    });
    Document::new(run.then(|| "20261126T110337Z-5aeb".to_owned()), hosts.collect())
}

fn entry(n: usize, status: HostStatus, message: Option<String>) -> HostEntry {
    let name = format!("kvm{n:03}.dc1.example.net");
    HostEntry {
        name,
        status,
        reason: None,
        message,
        hint: None,
        plan: None,
        changes: vec![],
        impact: vec![],
        unchanged_flows: vec![],
        warnings: vec![],
    }
}

#[test]
fn four_hundred_hosts_and_three_odd_ones_fit_on_a_screen() {
    let style = Style { width: Some(80), height: Some(24), ..Style::default() };
    let document = fleet(false, |n| entry(n, HostStatus::Changed, None));
    let plan = Human { style, part: Part::Plan, full: false }.render(&document);
    assert!(
        plan.contains("  kvm[001-076,078-412].dc1.example.net\n    (411 hosts)   ! on SSH path"),
        "{plan}"
    );
    assert!(plan.lines().count() <= 24 && plan.lines().all(|line| line.chars().count() <= 80), "{plan}");
    let document = fleet(true, |n| match n {
        17 | 118 | 300 => {
            let why = format!("connect to host 10.99.0.{} port 22: No route to host", n % 256);
            entry(n, HostStatus::Unreachable, Some(why))
        }
        _ => entry(n, HostStatus::Changed, None),
    });
    let recap = Human { style, part: Part::Recap, full: false }.render(&document);
    assert_eq!(
        recap,
        "\
kvm[017,118,300].dc1.example.net UNREACHABLE: connect to host … port 22: No
    route to host

Run 20261126T110337Z-5aeb
  changed       409   kvm[001-016,018-117,119-299,301-412].dc1.example.net
  unreachable     3   kvm[017,118,300].dc1.example.net
"
    );
}

#[test]
fn long_lists_of_names_wrap_between_names() {
    let style = Style { width: Some(80), height: Some(24), ..Style::default() };
    let mut document = fleet(true, |n| entry(n, HostStatus::Changed, None));
    for host in &mut document.hosts[99..101] {
        host.name = host.name.replace(".dc1", ".a-long-name-of-a-rack-in-the-third-hall.dc1");
    }
    let text = Human { style, part: Part::All, full: false }.render(&document);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(
        text.contains("\n    kvm[100-101].a-long-name-of-a-rack-in-the-third-hall.dc1.example.net\n"),
        "{text}"
    );
}

/// A chain of thousands of rules does not hide the rest of a plan.
#[test]
fn a_long_chain_is_summed_up() {
    let diff: String = (0..5000).map(|n| format!("+ -s 10.{}.{}.0/24 -j DROP\n", n / 250, n % 250)).collect();
    let change = ChangeEntry {
        kind: ResourceKind::Iptables,
        resource: "filter/BLOCKED".to_owned(),
        action: ChangeAction::Add,
        diff: diff.as_str().into(),
        origin: ["prod.yaml:7".to_owned()].into(),
        risks: vec![],
        lines: Default::default(),
    };
    let host = HostEntry { changes: vec![change], ..entry(1, HostStatus::Changed, None) };
    let document = Document::new(None, vec![host]);
    let human = |full| Human { style: Style::default(), part: Part::Plan, full }.render(&document);
    let markdown = |full| Markdown { limit: usize::MAX, full }.render(&document);
    let left_out = "… 4940 lines left out (-0, +4940); add --full to print them";
    for short in [human(false), markdown(false)] {
        assert!(short.lines().count() < 80 && short.contains(left_out), "{short}");
        assert!(short.contains("-s 10.0.0.0/24") && short.contains("-s 10.19.249.0/24"), "{short}");
        assert!(!short.contains("-s 10.7.7.0/24"), "{short}");
    }
    for all in [human(true), markdown(true), Json.render(&document)] {
        assert!(all.contains("-s 10.7.7.0/24") && !all.contains("left out"));
    }
}
