//! T37, T38: an undo is guarded, and one that fails stops no other.

use crate::common::project::Project;
use crate::common::transaction::opened;
use crate::common::{self, Lab, same};
use crate::{HOST, on_host};

#[test]
fn t37_t38_an_undo_is_guarded_and_goes_on_past_a_host_that_fails() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let project = Project::new(&lab, &["kvm1", "kvm2"], &opened(80));
    let run = project.apply(&lab, &[]).expect(0).run();
    // On one host only our rules let SSH in by now: without them it is locked out.
    on_host(&lab, "iptables -P INPUT DROP");
    let before = lab.dump(HOST);
    let undo = project
        .kvmfw(
            &lab,
            &[
                "undo",
                &run,
                "-y",
                "--apply-timeout",
                "10s",
                "--confirm-timeout",
                "5s",
                "--max-fail",
                "100%",
                "--accept-risk",
                "lockout",
                "--format",
                "json",
            ],
        )
        .expect(4);
    let hosts = undo.json()["hosts"].clone();
    assert_eq!(hosts[0]["status"], "rolled-back", "{hosts:#}");
    assert_eq!(hosts[1]["status"], "changed", "{hosts:#}");
    same(&before, &lab.dump(HOST), "after the undo that failed");
    assert!(!lab.host("kvm2", &["iptables-save"]).ok().contains("KVMFW"), "kvm2 is not back");
}
