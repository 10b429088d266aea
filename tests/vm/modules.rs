//! br_netfilter and 8021q as modules that come later. Emulated machines.

use crate::machine::{Kind, Machine, require_machines, require_night};

const VALUES: &str = "cat /proc/sys/net/bridge/bridge-nf-call-iptables /proc/sys/net/bridge/bridge-nf-call-ip6tables /proc/sys/net/bridge/bridge-nf-call-arptables";
const NO_MODULE: &str = "! grep -e br_netfilter -e xt_physdev /proc/modules";
const BY_HAND: &str = "iptables -A FORWARD -m physdev --physdev-is-bridged -j ACCEPT && udevadm settle";
const BYPASS: &str = "modules: [bridge-bypass]\nbridges: { br123: { manage: false } }\n";
const PHYSDEV: &str =
    "modules: [host-firewall, bridge-accept-physdev]\nbridges: { br123: { manage: false } }\n";

/// The trap first: a plain file in sysctl.d does not hold. Then what kvmfw does instead, which lasts
/// through a rule by hand, a power cut, and a unit that loads the module at boot. And no plan loads it.
#[test]
fn the_bypass_lasts_when_the_module_comes_later() {
    if !require_machines() {
        return;
    }
    let mut machine = Machine::boot(Kind::Emulated);
    machine.sh(NO_MODULE);
    machine.sh("echo net.bridge.bridge-nf-call-iptables=0 >/etc/sysctl.d/90-trap.conf && systemctl restart systemd-sysctl");
    machine.sh(BY_HAND);
    let first = machine.sh(VALUES).lines().next().map(str::to_owned);
    assert_eq!(first.as_deref(), Some("1"), "the trap: the file is there and the value is not");
    machine.sh("rm /etc/sysctl.d/90-trap.conf && iptables -F FORWARD && rmmod xt_physdev br_netfilter");

    machine.all(PHYSDEV);
    warns_and_loads_nothing(&machine);

    machine.all(BYPASS);
    machine.kvmfw(&["apply", "-y"], 0);
    machine.sh(NO_MODULE);
    machine.sh(BY_HAND);
    assert_eq!(machine.sh(VALUES), "0\n0\n0\n", "after a rule by hand");

    // Docker loads it so, long after systemd-sysctl.
    machine.sh("printf '[Unit]\\nAfter=network.target\\n[Service]\\nType=oneshot\\nExecStart=/usr/sbin/modprobe br_netfilter\\n[Install]\\nWantedBy=multi-user.target\\n' >/etc/systemd/system/docker.service && systemctl -q enable docker && sync -f /etc");
    machine.power_cut();
    machine.sh("grep br_netfilter /proc/modules && udevadm settle");
    assert_eq!(machine.sh(VALUES), "0\n0\n0\n", "after a unit at boot");
    machine.is_as_promised();
}

/// A dry run with physdev must not load what physdev loads.
fn warns_and_loads_nothing(machine: &Machine) {
    let plan = machine.kvmfw(&["plan", "--detailed-exitcode"], 2);
    assert!(plan.contains("is unproven on this host: apply will load br_netfilter"), "{plan}");
    machine.sh(NO_MODULE);
}

/// What the plan could not prove the apply proves; and it boots.
#[test]
fn physdev_rules_load_the_module_only_when_applied() {
    if !require_night() {
        return;
    }
    let mut machine = Machine::boot(Kind::Emulated);
    machine.all(PHYSDEV);
    warns_and_loads_nothing(&machine);
    machine.kvmfw(&["apply", "-y"], 0);
    for boot in [false, true] {
        if boot {
            machine.reboot();
        }
        assert_eq!(machine.sh(VALUES), "1\n1\n1\n", "after a boot {boot}");
        machine.sh("iptables-save | grep -e '-A KVMFW-FORWARD -m physdev --physdev-is-bridged -j ACCEPT'");
        let plan = machine.is_as_promised();
        assert!(!plan.contains("unproven"), "after a boot {boot}: {plan}");
    }
}

/// A VLAN sub-interface, with the dot in its name, as port of a bridge: there again after a boot.
#[test]
fn a_vlan_sub_interface_is_a_port() {
    if !require_night() {
        return;
    }
    let mut machine = Machine::boot(Kind::Emulated);
    machine.sh("printf 'auto eth1\\niface eth1 inet manual\\n\\tpre-up ip link add eth1 type dummy\\nauto eth1.123\\niface eth1.123 inet manual\\n\\tvlan-raw-device eth1\\n' >>/etc/network/interfaces && ifup eth1 eth1.123 && sync -f /etc");
    machine.all("bridges: { br9: { ports: [eth1.123], addresses: ['198.51.100.1/24'], stp: false } }\n");
    machine.kvmfw(&["apply", "-y"], 0);
    for boot in [false, true] {
        if boot {
            machine.power_cut();
        }
        let ports = machine.sh("ip -o link show master br9");
        assert!(ports.contains("eth1.123@eth1"), "after a boot {boot}: {ports}");
        machine.sh("ip -o -4 address show br9 | grep -F 198.51.100.1/24");
        machine.is_as_promised();
    }
}
