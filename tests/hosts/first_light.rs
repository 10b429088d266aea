//! The walking skeleton: plan, apply, plan again, undo, on three real hosts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::Project;

#[test]
fn plan_apply_plan_undo() {
    if !common::require_root() {
        return;
    }
    let lab = common::Lab::builder().hosts(3).up();
    let all =
        "modules: [host-firewall, firewall-log, bridge-bypass]\nbridges: { br123: { manage: false } }\n";
    let project = Project::new(&lab, &["kvm1", "kvm2", "kvm3"], all);
    let before = lab.dump("kvm1");

    let plan = project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    assert!(plan.stdout.contains("kvm[1-3] (3 hosts)"), "{}", plan.stdout);
    common::same(&before, &lab.dump("kvm1"), "a plan changes nothing");

    let apply = project.apply(&lab, &[]).expect(0);
    assert!(apply.stdout.contains("changed         3   kvm[1-3]"), "{}", apply.stdout);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);

    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    common::same(&before, &lab.dump("kvm1"), "an undo to 0 leaves no trace");
}
