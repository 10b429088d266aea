//! T26: the xtables lock.

use crate::common::transaction::{ended, held, marked, newest, opened, read, start, wait};
use crate::common::{Backend, same, transaction};
use crate::{HOST, LONG, hold_lock, managed, on_host, settled};

#[test]
fn t26_the_xtables_lock_is_held_in_apply_and_in_rollback() {
    let Some((lab, project)) = managed(Backend::Legacy) else { return };
    let last = newest(&lab, HOST);
    project.all(&opened(81));
    let mut holder = hold_lock(&lab, "/run/free1");
    let kvmfw = project.spawn(&lab, &["apply", "-y", "--apply-timeout", "30s", "--confirm-timeout", "10s"]);
    let folder = marked(&lab, HOST, "claim", last.as_ref());
    wait("the change waits", LONG, || read(&folder, "journal").ends_with("iptables").then_some(()));
    assert!(!folder.join("result").exists(), "it did not wait");
    on_host(&lab, "touch /run/free1");
    transaction::end(kvmfw).expect(0);
    holder.wait().unwrap();
    settled(&lab, &project);

    // Now held when it rolls back.
    let before = lab.dump(HOST);
    let last = newest(&lab, HOST);
    project.all(&held(82));
    let mut kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    let mut holder = hold_lock(&lab, "/run/free2");
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    wait("the rollback", LONG, || folder.join("decision").exists().then_some(()));
    assert!(!folder.join("done").exists(), "it did not wait");
    on_host(&lab, "touch /run/free2");
    holder.wait().unwrap();
    assert!(ended(&folder).starts_with("rolled-back"));
    same(&before, &lab.dump(HOST), "after the rollback");
}
