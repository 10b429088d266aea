//! T2: the session dies; T11: few connections; T12: which host it is that a line tells of.

use crate::common::project::Project;
use crate::common::transaction::{ended, marked, newest, opened, start};
use crate::common::{self, Backend, Cut, Lab, transaction};
use crate::{HOST, kill_where, managed, pending, settled};

#[test]
fn t02_the_ssh_session_dies_while_the_change_is_made() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let last = newest(&lab, HOST);
    project.all(&opened(81));
    let kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "claim", last.as_ref());
    assert!(kill_where(&lab, "sshd: root") + kill_where(&lab, "sshd-session: root") > 0, "no session");
    let run = transaction::end(kvmfw);
    // A new connection confirms, or the host is back: never anything else, and never a lie.
    let done = ended(&folder);
    let told = if done == "committed" { 0 } else { 4 };
    assert_eq!(run.code, told, "{done}: {}{}", run.stdout, run.stderr);
    if told == 0 {
        settled(&lab, &project)
    } else {
        pending(&lab, &project)
    }
    project.all(&opened(82));
    project.apply(&lab, &[]).expect(0);
}

#[test]
fn t11_few_connections() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let logins = || lab.console(HOST).matches("Accepted publickey").count();
    project.all(&opened(81));
    let before = logins();
    project.apply(&lab, &[]).expect(0);
    // One to look and apply, one to confirm.
    assert!(before > 0 && logins() - before <= 2, "{} logins for one apply", logins() - before);
}

/// One is changed, one goes back, one is not there: each line about one of them has its name, and at the end each
/// stands behind what came of it.
#[test]
fn t12_every_line_names_its_host() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let check = "checks: [{ command: 'test $(uname -n) != kvm3', required: true }]\n";
    let project = Project::new(&lab, &["kvm1", "kvm2", "kvm3"], &format!("{}{check}", opened(80)));
    lab.cut("kvm2", Cut::Both);
    let run = project
        .apply(&lab, &["--max-unreachable", "1", "--max-fail", "3", "--batch", "100%", "--progress", "plain"])
        .expect(4);
    let all = format!("{}\n{}", run.stderr, run.stdout);
    for (host, told) in [
        ("kvm1", "  kvm1  changed"),
        ("kvm2", "kvm2: no answer yet"),
        ("kvm2", "  kvm2  UNREACHABLE  connect to host"),
        ("kvm2", "kvm2 UNREACHABLE: connect to host"),
        ("kvm3", "kvm3: check failed"),
        ("kvm3", "  kvm3  ROLLED BACK"),
        ("kvm3", "kvm3 ROLLED BACK: a check failed"),
    ] {
        let what = told.split_once(host).unwrap().1.trim_start_matches([' ', ':']);
        // A hint stands below the line that names the host.
        let named = all.lines().filter(|line| !line.trim_start().starts_with('→'));
        let lines: Vec<&str> = named.filter(|line| line.contains(what)).collect();
        assert!(lines.iter().any(|line| line.starts_with(told)), "`{told}` is not told in\n{all}");
        assert!(lines.iter().all(|line| line.contains("kvm")), "{lines:#?}");
    }
    let hint = "\n    → run the ssh command that -v shows\n";
    assert!(run.stdout.contains(hint), "{}", run.stdout);
    let (_, recap) = run.stdout.split_once("\nRun ").unwrap();
    let recap: Vec<Vec<&str>> = recap.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let recap: Vec<String> = recap.into_iter().take(3).map(|words| words.join(" ")).collect();
    assert_eq!(recap, ["changed 1 kvm1", "rolled back 1 kvm3", "unreachable 1 kvm2"]);
}
