//! Bridges and ports that come and go while a change is made, taken back or booted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::Project;

const HOST: &str = "kvm1";

fn on_host(lab: &Lab, script: &str) -> String {
    lab.host(HOST, &["sh", "-ec", script]).ok()
}

/// A bridge that somebody else makes between the last look and the change stays theirs: nothing is made of it, and the
/// rollback takes it away no more than anything else of theirs.
#[test]
fn a_bridge_that_somebody_else_made_meanwhile_stays() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    // The checks run once before anything is armed.
    let make = "ip link add br9 type bridge; ip link set br9 up; ip address add 198.51.100.1/24 dev br9";
    let text = |port: &str| {
        format!(
            "bridges: {{ br8: {{ stp: false }}, br9: {{ addresses: ['192.0.2.1/24'], stp: false }} }}\nchecks: [{{ command: 'test -e /run/once || {{ \
             touch /run/once; {make}; {port} }}; true', timeout: 5s }}]\n"
        )
    };
    let project = Project::new(&lab, &[HOST], "");
    for port in ["ip link set vnet1 master br9;", ""] {
        on_host(&lab, "rm -f /run/once; ip link del br9 2>/dev/null || true");
        project.all(&text(port));
        let run = project.apply(&lab, &[]).expect(4);
        let told =
            "the change could not be applied: bridges: br9 has been made by somebody else since: plan again";
        assert!(run.stdout.contains(told), "{}", run.stdout);
        assert!(!run.stdout.contains("went with this change"), "{}", run.stdout);
        let links = on_host(&lab, "ip -o address show; ls /sys/class/net/br9/brif");
        assert!(links.contains("br9    inet 198.51.100.1/24"), "theirs is gone: {links}");
        assert!(!links.contains("192.0.2.1") && !links.contains("br8"), "{links}");
        assert!(links.ends_with("vnet1\n") != port.is_empty(), "{links}");
    }
    // The next plan sees it, and adds to it.
    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert!(on_host(&lab, "ip -o address show dev br9").contains("198.51.100.1/24"));
}

/// Which line it was that failed, and why.
#[test]
fn a_bridge_setting_that_the_kernel_refuses_is_reported() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(&lab, "ip link add p0 type veth peer name p1");
    let check = "test -e /run/once || { touch /run/once; ip link del p0; }; true";
    let text =
        format!("bridges: {{ br9: {{ ports: [p0] }} }}\nchecks: [{{ command: '{check}', timeout: 5s }}]\n");
    let project = Project::new(&lab, &[HOST], &text);
    let run = project.apply(&lab, &[]).expect(4);
    assert!(run.stdout.contains("could not be applied: bridges: `link set dev p0 "), "{}", run.stdout);
    assert!(run.stdout.contains("Cannot find device"), "{}", run.stdout);
    assert!(!on_host(&lab, "ip link").contains("br9"));
}

/// A bridge of the host's own goes in the window, and one of its ports was ours. `ip` ends at a line that names it,
/// and what is behind that line is put back all the same.
#[test]
fn a_rollback_goes_on_past_a_bridge_that_is_gone() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(
        &lab,
        "ip link add br7 type bridge; ip link add p7 type veth peer name q7; ip link set p7 master br7 up",
    );
    let ageing = "cat /sys/class/net/br123/bridge/ageing_time";
    let before = on_host(&lab, ageing);
    let check = "test -e /run/once || { touch /run/once; exit 0; }; ip link del br7; false";
    let text = format!(
        "bridges: {{ br1: {{ ports: [p7], take_addresses: true }}, br123: {{ ageing: 77 }} }}\nchecks: [{{ command: '{check}', timeout: 5s, required: true }}]\n"
    );
    let project = Project::new(&lab, &[HOST], &text);
    project.apply(&lab, &[]).expect(4);
    assert_eq!(on_host(&lab, ageing), before);
    assert!(!on_host(&lab, "ip link").contains("br1:"), "the new bridge is there");
}

/// The same at boot, where it is told.
#[test]
fn a_boot_goes_on_past_a_bridge_that_is_not_there() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(&lab, "ip link add br1 type bridge; ip link add p7 type veth peer name q7");
    let project = Project::new(
        &lab,
        &[HOST],
        "bridges: { br1: { ports: [eth1], take_addresses: true }, br9: { ageing: 77 } }\n",
    );
    project.apply(&lab, &[]).expect(0);
    // Nothing of the host makes it at boot.
    lab.reboot(HOST);
    assert!(on_host(&lab, "ip -d link show br9").contains("ageing_time 7700"), "the rest was to be done");
    let status = project.kvmfw(&lab, &["status"]);
    assert!(status.stdout.contains("BOOT FAILED bridges: `link set dev br1 "), "{}", status.stdout);
}
