//! At the host's console, without the controller.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Lab;
use common::project::Project;

const SCRIPT: &str = "/var/lib/kvmfw/kvmfw.sh";

#[test]
fn undo_goes_back_by_itself() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(1).up();
    let first =
        "modules: [host-firewall, bridge-bypass]\nsysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 1 } }\n";
    let project = Project::new(&lab, &["kvm1"], first);
    let original = lab.dump("kvm1");
    project.apply(&lab, &[]).expect(0);
    let one = lab.dump_without("kvm1", &["/etc/kvmfw"]);
    project.all("modules: [host-firewall, bridge-accept-each]\nbridges: { br123: { manage: false } }\n");
    project.apply(&lab, &[]).expect(0);
    assert_ne!(lab.dump_without("kvm1", &["/etc/kvmfw"]), one, "the second apply changed something");

    let said = lab.host("kvm1", &["sh", SCRIPT, "undo"]).ok();
    assert!(said.contains("back at generation 1"), "{said}");
    common::same(&one, &lab.dump_without("kvm1", &["/etc/kvmfw"]), "undo at the console");
    project.all(first);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);

    let said = lab.host("kvm1", &["sh", SCRIPT, "undo", "0"]).ok();
    assert!(said.contains("the state before kvmfw"), "{said}");
    common::same(&original, &lab.dump("kvm1"), "undo 0 at the console");
}
