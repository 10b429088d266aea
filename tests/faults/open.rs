//! T19: what an apply finds open.

use crate::common::transaction::{ended, held, marked, newest, read, start};
use crate::common::{Backend, same};
use crate::{HOST, kill_where, managed, on_host};

/// It is ended before the question is asked: the host is as it was, whatever the answer.
#[test]
fn t19_a_transaction_that_an_apply_ends_leaves_the_old_state() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let before = lab.dump(HOST);
    let last = newest(&lab, HOST);
    project.all(&held(81));
    let mut kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    let id = folder.file_name().unwrap().to_string_lossy().into_owned();
    assert!(kill_where(&lab, &format!("kvmfw.sh guard {id}")) >= 2, "no guards");
    assert!(on_host(&lab, "iptables-save").contains("--dport 81 "), "it is still applied");
    // No terminal to ask on: nothing more is done.
    let run = project.kvmfw(&lab, &["apply"]).expect(7);
    assert!(run.stderr.contains("ended an abandoned transaction first"), "{}", run.stderr);
    assert!(ended(&folder).starts_with("rolled-back"), "{}", ended(&folder));
    same(&before, &lab.dump(HOST), "after an apply that did nothing else");
}

/// Both guards die between the last word and putting things away: the word stands, and no open transaction.
#[test]
fn t19_the_next_run_puts_away_a_transaction_that_is_over() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let last = newest(&lab, HOST).unwrap();
    let before = lab.dump(HOST);
    let history = || on_host(&lab, "wc -l </var/lib/kvmfw/history");
    let lines = history();
    let id = last.file_name().unwrap().to_string_lossy().into_owned();
    on_host(&lab, &format!("ln -s txn/{id} /var/lib/kvmfw/open"));
    project.kvmfw(&lab, &["apply"]).expect(0);
    same(&before, &lab.dump(HOST), "after an apply with nothing to do");
    assert!(!lab.disk(HOST, "/var/lib/kvmfw/open").is_symlink(), "still open");
    assert_eq!((read(&last, "done").as_str(), history()), ("committed", lines));
}
