//! T18: a rollback that fails.

use crate::common::transaction::{ended, newest, opened, wrap};
use crate::common::{Backend, same};
use crate::{HOST, managed, on_host};

#[test]
fn t18_a_rollback_that_fails_is_loud_and_goes_on() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let before = lab.dump(HOST);
    let script = "#!/bin/sh\ncase $* in *-w*) [ ! -e /run/broken ] || { echo 'out of sorts' >&2; exit 1; } ;; esac\nexec /usr/sbin/iptables-nft-restore \"$@\"\n";
    wrap(&lab, HOST, "iptables-restore", script);
    let changed = lab.dump(HOST);
    let last = newest(&lab, HOST);
    let check = "test -e /run/first || { touch /run/first; exit 0; }; touch /run/broken; exit 1";
    project.all(&format!("{}checks: [{{ command: '{check}' }}]\n", opened(81)));
    let run = project.apply(&lab, &["--format", "json"]).expect(6);
    assert_eq!(run.json()["hosts"][0]["reason"], "rollback-failed", "{}", run.stdout);
    let status = project.kvmfw(&lab, &["status"]);
    assert!(status.stdout.contains("rollback-failed"), "{}", status.stdout);
    let folder = newest(&lab, HOST).filter(|t| Some(t) != last.as_ref()).unwrap();
    on_host(&lab, "rm /run/broken");
    assert!(ended(&folder).starts_with("rolled-back"));
    same(&changed, &lab.dump(HOST), "after the rollback");
    assert_ne!(before, "", "there was a state");
}
