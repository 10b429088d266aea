//! What boots, and what a boot makes of an open transaction. Containers, with and without
//! netfilter-persistent.

use crate::machine::{Kind, Machine, require_machines};
use crate::window::{Window, held, only_open, opened};

#[test]
fn reboots_with_netfilter_persistent() {
    reboots(Kind::Container);
}

#[test]
fn reboots_without_netfilter_persistent() {
    reboots(Kind::ContainerWithoutNetfilterPersistent);
}

/// In order or not, before the decision or after: old or new, and what is promised after it.
fn reboots(kind: Kind) {
    if !require_machines() {
        return;
    }
    let mut machine = Machine::boot(kind);
    let there = machine.sh("test -e /usr/sbin/netfilter-persistent && echo yes || echo no");
    assert_eq!(there.trim() == "yes", kind == Kind::Container);
    machine.all(&opened(80));
    machine.kvmfw(&["apply", "-y"], 0);
    machine.reboot();
    machine.is_as_promised();
    only_open(&machine, 80, 81);

    for in_order in [true, false] {
        machine.all(&held(81));
        let mut window = Window::open(&machine, "300s");
        only_open(&machine, 81, 82);
        window.orphan();
        let id = window.id;
        if in_order {
            machine.reboot()
        } else {
            machine.power_cut()
        }
        let done = machine.sh(&format!("cat /var/lib/kvmfw/txn/{id}/done"));
        assert!(done.starts_with("rolled-back"), "in order {in_order}: {done}");
        only_open(&machine, 80, 81);
        machine.all(&opened(80));
        machine.is_as_promised();
    }

    machine.all(&held(81));
    let mut window = Window::open(&machine, "300s");
    machine.sh("touch /run/go");
    machine.until(&format!("[ -e /var/lib/kvmfw/txn/{}/decision ]", window.id));
    window.orphan();
    machine.power_cut();
    only_open(&machine, 81, 80);
    machine.all(&opened(81));
    machine.is_as_promised();
}

/// As libvirt does it: chains of its own, put at the head of FORWARD when it starts.
const LIBVIRT: &str = "iptables -N LIBVIRT_FWI && iptables -A LIBVIRT_FWI -o virbr0 -j REJECT && iptables -I FORWARD -j LIBVIRT_FWI";
/// As Docker does it, which also lets nothing else pass.
const DOCKER: &str = "iptables -P FORWARD DROP && iptables -N DOCKER-USER && iptables -A DOCKER-USER -j RETURN && iptables -N DOCKER && iptables -A DOCKER ! -i docker0 -o docker0 -j DROP && iptables -I FORWARD -o docker0 -j DOCKER && iptables -I FORWARD -j DOCKER-USER";

/// Those who start after us stand before us, and no plan fights that: it says so, calls it no change, and
/// what it promised is so.
#[test]
fn another_program_inserts_rules_before_the_jump_rule() {
    if !require_machines() {
        return;
    }
    let mut machine = Machine::boot(Kind::Container);
    for (name, script) in [("libvirtd", LIBVIRT), ("docker", DOCKER)] {
        let unit = format!(
            "[Unit]\\nAfter=network-online.target libvirtd.service\\n[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/sh -c \"{script}\"\\n[Install]\\nWantedBy=multi-user.target\\n"
        );
        machine.sh(&format!("printf '%b' '{unit}' >/etc/systemd/system/{name}.service && systemctl -q enable {name} && systemctl start {name}"));
    }
    // And what netfilter-persistent loads comes before us, with rules of others.
    machine.sh("printf '*filter\\n:INPUT ACCEPT\\n:FORWARD ACCEPT\\n:OUTPUT ACCEPT\\n-A INPUT -s 203.0.113.9/32 -j DROP\\nCOMMIT\\n' >/etc/iptables/rules.v4");
    machine.all("modules: [host-firewall, bridge-accept-each]\nbridges: { br123: { manage: false } }\n");
    machine.kvmfw(&["apply", "-y"], 0);
    assert_eq!(forward(&machine)[0], "KVMFW-FORWARD", "{:?}", forward(&machine));
    for in_order in [true, false] {
        if in_order {
            machine.reboot()
        } else {
            machine.power_cut()
        }
        assert_eq!(forward(&machine), ["DOCKER-USER", "DOCKER", "LIBVIRT_FWI", "KVMFW-FORWARD"]);
        machine.sh("iptables -C INPUT -s 203.0.113.9/32 -j DROP");
        let plan = machine.is_as_promised();
        assert!(plan.contains("Docker is before kvmfw's jump rule"), "{plan}");
        let status = machine.kvmfw(&["status"], 0);
        assert!(!status.contains("differs"), "{status}");
    }
}

/// The targets in FORWARD, in their order.
fn forward(machine: &Machine) -> Vec<String> {
    let rules = machine.sh("iptables -S FORWARD");
    rules.lines().filter_map(|l| l.rsplit_once("-j ")).map(|(_, target)| target.to_owned()).collect()
}
