//! T2: the session dies; T11: few connections.

use crate::common::transaction::{ended, marked, newest, opened, start};
use crate::common::{Backend, transaction};
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
