//! The harness itself, against a lab: what every other test relies on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::{Backend, Cut, Lab, Shell};

#[test]
fn a_host_lives_through_cut_power_cut_and_lockout() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let ssh = |what: &[&str]| {
        let config = lab.dir().join("ssh_config");
        let mut line = vec!["ssh", "-F", config.to_str().unwrap(), "-o", "ConnectTimeout=1", "kvm1"];
        line.extend(what);
        lab.exec(&line)
    };
    assert_eq!(ssh(&["uname", "-n"]).ok(), "kvm1\n");
    assert!(lab.guest_ping("kvm1", "g0", "192.168.1.53"));

    lab.cut("kvm1", Cut::New);
    assert!(!ssh(&["true"]).success());
    lab.mend("kvm1");
    assert!(ssh(&["true"]).success());

    let before = lab.dump("kvm1");
    lab.host("kvm1", &["iptables", "-P", "INPUT", "DROP"]).ok();
    lab.host("kvm1", &["iptables", "-P", "FORWARD", "DROP"]).ok();
    assert!(!lab.guest_ping("kvm1", "g0", "192.168.1.53"), "bridged frames walk FORWARD here");
    assert!(lab.dump("kvm1").contains(":INPUT DROP"));
    std::fs::write(lab.disk("kvm1", "/etc/sysctl.d/60-x.conf"), "net.ipv4.ip_forward = 1\n").unwrap();
    lab.power_cut("kvm1");
    assert!(!lab.host("kvm1", &["true"]).success());
    lab.boot("kvm1");
    assert_eq!(lab.host("kvm1", &["cat", "/proc/sys/net/ipv4/ip_forward"]).ok(), "1\n");
    assert_ne!(lab.dump("kvm1"), before);

    lab.host("kvm1", &["rm", "/etc/sysctl.d/60-x.conf"]).ok();
    lab.reboot("kvm1");
    assert_eq!(lab.dump("kvm1"), before, "{}", lab.console("kvm1"));
}

#[test]
fn a_flood_counts_what_an_outage_costs() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(Backend::Legacy).shell(Shell::Busybox).bridges(2).up();
    let flood = common::flood(&lab, "kvm1", "g0", "192.168.1.2");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (sent, lost) = flood.stop();
    assert!(sent >= 5 && lost == 0, "{sent} sent, {lost} lost");

    let flood = common::flood(&lab, "kvm1", "g2", "192.168.1.2");
    lab.host("kvm1", &["iptables", "-P", "FORWARD", "DROP"]).ok();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (sent, lost) = flood.stop();
    assert!(lost >= 5 && lost < sent, "{sent} sent, {lost} lost");
}
