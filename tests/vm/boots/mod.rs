//! Bridges over real boots: systemd as PID 1 in a container, and each of the programs that configure
//! networks there. What a plan promised is what boots, and what a cable that is plugged in again brings.
//!
//! Minutes, and packages from Debian once: these tests belong to .ci/nightly, which sets KVMFW_BOOTS=1.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod machine;

use self::machine::{Machine, asked_for};

const MOVED: &str =
    "bridges: { brmgmt: { ports: [eth0], take_addresses: true, ageing: 77, nf_call_iptables: true } }\n";

/// The management address moves to a bridge, the host boots, a cable is pulled and plugged in again, and all
/// of it is undone.
fn moves_boots_and_comes_back(machine: &mut Machine, files: &[&str]) {
    machine.boot();
    let before = machine.addresses();
    assert_eq!(before, "eth0 10.98.0.2/24\neth0 fd98::2/64\n");
    machine.all(MOVED);
    let plan = machine.kvmfw(&["plan"]);
    machine.kvmfw(&["apply", "-y", "--apply-timeout", "60s", "--confirm-timeout", "60s"]);
    // Not at once: networkd takes static addresses off for some 40 ms when its files are others.
    let promised = "brmgmt 10.98.0.2/24\nbrmgmt fd98::2/64\n";
    for file in files {
        assert!(plan.contains(&format!("file {file}")), "{file} is not in {plan}");
        machine.on_host(&format!("test -L {file} && test -r {file}"));
    }
    for what in ["as applied", "after a boot", "after another boot"] {
        if what != "as applied" {
            machine.power_cut();
            machine.boot();
        }
        machine.becomes(what, "addresses", Machine::addresses, promised);
        machine.becomes(what, "routes", Machine::default_routes, "default via 10.98.0.1 dev brmgmt\n");
        machine.becomes(what, "bridge", Machine::bridge, "0 7700 1 02:00:00:00:00:10\n");
        machine.kvmfw(&["plan", "--detailed-exitcode"]);
        machine.pull_and_plug();
        machine.becomes("after the cable", "addresses", Machine::addresses, promised);
        machine.kvmfw(&["plan", "--detailed-exitcode"]);
    }
    machine.kvmfw(&["undo", "--to", "0", "-y"]);
    machine.becomes("undone", "addresses", Machine::addresses, &before);
    assert_eq!(
        machine.on_host(
            "find /etc /run/systemd/network /run/NetworkManager /var/lib -name '*kvmfw*' 2>/dev/null || true"
        ),
        ""
    );
    machine.power_cut();
    machine.boot();
    machine.becomes("undone and booted", "addresses", Machine::addresses, &before);
    machine.becomes(
        "undone and booted",
        "routes",
        Machine::default_routes,
        "default via 10.98.0.1 dev eth0\n",
    );
}

/// A bridge that is not confirmed, new, changed or taken away, is as it was, also for the program that
/// configures it: after the rollback, after a cable, and after a boot.
fn rolls_back(machine: &mut Machine) {
    machine.boot();
    machine.all(MOVED);
    let silent = MOVED.replace("ageing: 77", "stp: true, forward_delay: 30, ageing: 77");
    let refused = "checks: [{ command: '[ ! -e /var/lib/kvmfw/open ]', required: true }]\n";
    let changed = MOVED.replace("ageing: 77", "ageing: 88, addresses: ['192.0.2.9/24'], mtu: 1400");
    for (what, words) in [
        ("made", silent),
        ("made and not liked", format!("{MOVED}{refused}")),
        ("changed", format!("{changed}{refused}")),
        ("removed", refused.to_owned()),
    ] {
        if what == "changed" {
            machine.all(MOVED);
            machine.kvmfw(&["apply", "-y"]);
            machine.becomes(
                "applied",
                "addresses",
                Machine::addresses,
                "brmgmt 10.98.0.2/24\nbrmgmt fd98::2/64\n",
            );
        }
        let before = machine.network();
        machine.all(&words);
        let run = machine
            .kvmfw_ends(&["apply", "-y", "--confirm-timeout", "10s", "--accept-risk", "removes-all"], 4);
        assert!(run.contains("ROLLED BACK"), "{what}: {run}");
        machine.becomes(what, "the network", Machine::network, &before);
        machine.pull_and_plug();
        machine.becomes(what, "the network after a cable", Machine::network, &before);
        if what == "made" || what == "removed" {
            machine.power_cut();
            machine.boot();
            machine.becomes(what, "the network after a boot", Machine::network, &before);
        }
    }
    machine.all(MOVED);
    machine.kvmfw(&["plan", "--detailed-exitcode"]);
}

#[test]
fn networkd_rolls_back() {
    if !asked_for() {
        return;
    }
    let mut machine = Machine::new(&["systemd-networkd"]);
    machine.write("etc/systemd/network/10-uplink.network", NETWORKD);
    rolls_back(&mut machine);
}

#[test]
fn network_manager_rolls_back() {
    if !asked_for() {
        return;
    }
    let mut machine = Machine::new(&["NetworkManager"]);
    machine.write("etc/NetworkManager/system-connections/uplink.nmconnection", NETWORK_MANAGER);
    machine.write("etc/NetworkManager/conf.d/quiet.conf", "[main]\nno-auto-default=*\n");
    rolls_back(&mut machine);
}

#[test]
fn networkd() {
    if !asked_for() {
        return;
    }
    let mut machine = Machine::new(&["systemd-networkd"]);
    machine.write("etc/systemd/network/10-uplink.network", NETWORKD);
    moves_boots_and_comes_back(
        &mut machine,
        &["/etc/systemd/network/00-kvmfw-brmgmt.netdev", "/etc/systemd/network/00-kvmfw-eth0.network"],
    );
}

/// What the files of its ports said beside addresses is there after a boot as before: devices on top of a port, routes,
/// policy rules. What cannot be kept refuses the host with the line.
#[test]
fn networkd_keeps_what_the_files_of_ports_carried() {
    if !asked_for() {
        return;
    }
    let mut machine = Machine::new(&["systemd-networkd"]);
    machine.write(
        "etc/systemd/network/10-uplink.network",
        "[Match]\nName=eth0\n[Link]\nMTUBytes=1460\n[Network]\nDNS=10.98.0.1\n[Address]\nAddress=10.98.0.2/24\n\
         [Address]\nAddress=fd98::2/64\n[Route]\nGateway=10.98.0.1\nMetric=50\n[Route]\nDestination=192.0.2.0/24\n\
         Gateway=10.98.0.9\nTable=77\n",
    );
    machine.write(
        "etc/systemd/network/10-uplink.network.d/rule.conf",
        "[RoutingPolicyRule]\nFrom=10.98.0.2\nTo=192.0.2.0/24\nTable=77\nPriority=707\n",
    );
    machine.write(
        "etc/systemd/network/20-free.network",
        "[Match]\nName=eth1\n[Link]\nMTUBytes=1440\n[Network]\nLinkLocalAddressing=no\nVXLAN=vx7\n",
    );
    machine.write(
        "etc/systemd/network/20-vx7.netdev",
        "[NetDev]\nName=vx7\nKind=vxlan\n[VXLAN]\nVNI=7\nGroup=239.1.1.7\n",
    );
    machine.boot();
    let look = |machine: &Machine| {
        machine.on_host(
            "ip -d -o link show dev vx7 | grep -o 'vxlan id 7 .* dev eth1'; cat /sys/class/net/eth0/mtu /sys/class/net/eth1/mtu
             ip rule show pref 707; ip -o route show table 77; ip -o -4 route show default",
        )
    };
    let before = "vxlan id 7 group 239.1.1.7 dev eth1\n1460\n1440\n707:\tfrom 10.98.0.2 to 192.0.2.0/24 lookup 77 proto static\n\
                  192.0.2.0/24 via 10.98.0.9 dev eth0 proto static \n\
                  default via 10.98.0.1 dev eth0 proto static metric 50 \n";
    machine.becomes("before", "what stands there", look, before);
    machine.all("bridges: { brmgmt: { ports: [eth0], take_addresses: true }, br9: { ports: [eth1] } }\n");
    machine.kvmfw(&["apply", "-y"]);
    let after = before.replace("dev eth0", "dev brmgmt");
    for what in ["as applied", "after a boot", "after another boot"] {
        if what != "as applied" {
            machine.power_cut();
            machine.boot();
        }
        machine.becomes(what, "what stands there", look, &after);
        machine.kvmfw(&["plan", "--detailed-exitcode"]);
    }
    machine.kvmfw(&["undo", "--to", "0", "-y"]);
    machine.becomes("undone", "what stands there", look, before);
    machine.write("etc/systemd/network/10-uplink.network.d/mac.conf", "[Network]\nMACVLAN=mv0\n");
    let refused = machine.kvmfw_ends(&["apply", "-y"], 7);
    let line = "/etc/systemd/network/10-uplink.network.d/mac.conf:2 `MACVLAN=mv0`";
    assert!(refused.contains(line), "{refused}");
}

const NETWORKD: &str = "[Match]
Name=eth0
[Network]
Address=10.98.0.2/24
Address=fd98::2/64
Gateway=10.98.0.1
DNS=10.98.0.1
";

/// Its own file gives the port an address, which no other file can take away: our unit moves it.
#[test]
fn ifupdown() {
    if !asked_for() {
        return;
    }
    let mut machine = Machine::new(&["networking"]);
    machine.write("etc/network/interfaces.d/uplink", IFUPDOWN);
    moves_boots_and_comes_back(&mut machine, &[]);
}

const IFUPDOWN: &str = "auto eth0
iface eth0 inet static
    address 10.98.0.2/24
    gateway 10.98.0.1
iface eth0 inet6 static
    address fd98::2/64
    dad-attempts 0
";

#[test]
fn network_manager() {
    if !asked_for() {
        return;
    }
    let mut machine = Machine::new(&["NetworkManager"]);
    machine.write("etc/NetworkManager/system-connections/uplink.nmconnection", NETWORK_MANAGER);
    moves_boots_and_comes_back(
        &mut machine,
        &["/etc/NetworkManager/system-connections/kvmfw-brmgmt.nmconnection"],
    );
}

const NETWORK_MANAGER: &str = "[connection]
id=uplink
uuid=0b1d5d7e-0000-4000-8000-000000000001
type=ethernet
interface-name=eth0

[ipv4]
method=manual
address1=10.98.0.2/24,10.98.0.1

[ipv6]
method=manual
address1=fd98::2/64
";

/// A port with an address in a file of netplan: the files of networkd override what netplan wrote for it.
#[test]
fn netplan_with_an_address_on_the_port() {
    if !asked_for() {
        return;
    }
    let mut machine = Machine::new(&["systemd-networkd"]);
    machine.write("etc/netplan/50-uplink.yaml", NETPLAN);
    moves_boots_and_comes_back(&mut machine, &["/etc/systemd/network/00-kvmfw-eth0.network"]);
}

const NETPLAN: &str = "network:
  version: 2
  ethernets:
    eth0:
      addresses: [10.98.0.2/24, 'fd98::2/64']
      routes: [{ to: default, via: 10.98.0.1 }]
    eth1: { optional: true }
";

/// A bridge over a port that has nothing: each makes it at boot by a file of its own.
#[test]
fn a_new_bridge_over_a_free_port() {
    if !asked_for() {
        return;
    }
    /// A unit, files of the host's own, and the file that ours has to be.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 4] = [
        (
            "systemd-networkd",
            &[
                ("etc/systemd/network/10-uplink.network", NETWORKD),
                (
                    "etc/systemd/network/20-free.network",
                    "[Match]\nName=eth1\n[Network]\nLinkLocalAddressing=no\n",
                ),
            ],
            "/etc/systemd/network/00-kvmfw-br9.netdev",
        ),
        ("systemd-networkd", &[("etc/netplan/50-uplink.yaml", NETPLAN)], "/etc/netplan/90-kvmfw-br9.yaml"),
        (
            "networking",
            &[
                ("etc/network/interfaces.d/uplink", IFUPDOWN),
                ("etc/network/interfaces.d/free", "iface eth1 inet manual\n"),
            ],
            "/etc/network/interfaces.d/kvmfw-br9",
        ),
        (
            "NetworkManager",
            &[("etc/NetworkManager/system-connections/uplink.nmconnection", NETWORK_MANAGER)],
            "/etc/NetworkManager/system-connections/kvmfw-br9-eth1.nmconnection",
        ),
    ];
    for (unit, own, file) in cases {
        let mut machine = Machine::new(&[unit]);
        for (path, text) in own {
            machine.write(path, text);
        }
        machine.boot();
        machine.all("bridges: { br9: { ports: [eth1], addresses: ['192.0.2.1/24', '2001:db8:9::1/64'], mtu: 1400 } }\n");
        machine.kvmfw(&["apply", "-y"]);
        machine.on_host(&format!("test -L {file} && test -r {file}"));
        let all = "br9 192.0.2.1/24\nbr9 2001:db8:9::1/64\neth0 10.98.0.2/24\neth0 fd98::2/64\n";
        machine.becomes(file, "addresses", Machine::addresses, all);
        machine.power_cut();
        // Without our own unit: the file alone makes it.
        machine.write(
            "etc/systemd/system/kvmfw-bridges.service.d/off.conf",
            "[Unit]\nConditionPathExists=/nowhere\n",
        );
        machine.boot();
        machine.becomes(file, "addresses after a boot", Machine::addresses, all);
        machine.becomes(
            file,
            "master",
            |m| m.on_host("cat /sys/class/net/br9/brif/eth1/bridge/uevent | sed -n s/INTERFACE=//p"),
            "br9\n",
        );
        machine.kvmfw(&["plan", "--detailed-exitcode"]);
        machine.kvmfw(&["undo", "--to", "0", "-y"]);
        machine.becomes(
            file,
            "addresses when undone",
            Machine::addresses,
            "eth0 10.98.0.2/24\neth0 fd98::2/64\n",
        );
        assert_eq!(
            machine
                .on_host("find /etc /run/systemd/network -name '*kvmfw*' ! -name '*.d' 2>/dev/null || true"),
            "",
            "{file}"
        );
    }
}

/// Rules on a host that systemd boots, beside its own loaders: what they wipe comes back, at boot and when they are started
/// again; a rule that cannot load yet leaves `kvmfw.service` failed until it can; an undo leaves no unit behind.
#[test]
fn rules_beside_other_loaders() {
    if !asked_for() {
        return;
    }
    let mut machine = Machine::new(&["networking", "nftables"]);
    machine.write("etc/network/interfaces.d/uplink", IFUPDOWN);
    machine.write("etc/nftables.conf", "#!/usr/sbin/nft -f\n");
    let others = "*filter\n-A INPUT -i lo -m comment --comment others -j ACCEPT\nCOMMIT\n";
    machine.write("etc/iptables/rules.v4", others);
    machine.write("etc/iptables/rules.v6", "*filter\nCOMMIT\n");
    machine.write("etc/others.rules", others);
    machine.write(
        "etc/systemd/system/own.service",
        "[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'iptables-restore </etc/others.rules'\n\
         [Install]\nWantedBy=multi-user.target\n",
    );
    machine.boot();
    machine.on_host("systemctl enable own.service 2>&1; iptables -w -N OTHERS");
    let rules = "modules: [host-firewall]\niptables:\n  filter:\n    FORWARD:\n      first: |\n        -i eth1 -j OTHERS\n\
                 unmanaged_chains: [OTHERS]\n";
    machine.all(rules);
    let plan = machine.kvmfw(&["plan"]);
    assert!(
        plan.contains("[boot-loader] kvm: /etc/systemd/system/own.service:5: `iptables-restore "),
        "{plan}"
    );
    assert!(
        plan.contains("netfilter-persistent.service replaces whole tables from /etc/iptables/rules.v4"),
        "{plan}"
    );
    machine.kvmfw(&["apply", "-y"]);
    let hooked = |machine: &Machine| {
        machine.on_host("iptables-save | grep -c -e 'j KVMFW-INPUT' -e 'comment others' || true")
    };
    let unit = |machine: &Machine| machine.on_host("systemctl is-active kvmfw.service || true");
    machine.becomes("applied", "rules", hooked, "2\n");
    for when in ["before any boot", "after a boot", "after another boot"] {
        if when != "before any boot" {
            machine.power_cut();
            machine.boot();
            machine.becomes(when, "own.service has run", |m| m.on_host("systemctl show -p Result,ExecMainStatus --value own.service; iptables-save | grep -c others"), "success\n0\n1\n");
            machine.becomes(when, "kvmfw.service", unit, "failed\n");
            machine.becomes(when, "rules", hooked, "2\n");
            let status = machine.kvmfw(&["status"]);
            assert!(
                status.contains("REPAIRED iptables")
                    && status.contains("NOT LOADED iptables filter -A KVMFW-FORWARD"),
                "{status}"
            );
            machine.on_host("iptables -w -N OTHERS");
            machine.becomes(when, "kvmfw.service", unit, "active\n");
            assert!(
                machine
                    .on_host("journalctl -u kvmfw-settle.service")
                    .contains("another program had taken away"),
                "{when}"
            );
        }
        for service in ["nftables", "netfilter-persistent"] {
            machine
                .on_host(&format!("systemctl restart {service}; iptables -w -N OTHERS 2>/dev/null || true"));
            machine.becomes(
                when,
                service,
                |m| m.on_host("iptables-save | grep -c -e 'j KVMFW-INPUT' -e '-j OTHERS' || true"),
                "2\n",
            );
        }
        // With nobody who watches, a reload takes them away too.
        machine
            .on_host("systemctl stop kvmfw-settle.service; iptables -w -F INPUT; systemctl reload nftables");
        machine.becomes(
            when,
            "a reload",
            |m| m.on_host("iptables-save | grep -c 'j KVMFW-INPUT' || true"),
            "1\n",
        );
        machine.kvmfw(&["plan", "--detailed-exitcode"]);
    }
    machine.kvmfw(&["undo", "--to", "0", "-y"]);
    assert_eq!(machine.on_host("systemctl list-units --all --plain --no-legend 'kvmfw*' | grep -v ' loaded inactive dead kvmfw-2' || true"), "");
    assert_eq!(machine.on_host("find /etc /var/lib -name '*kvmfw*' 2>/dev/null || true"), "");
    machine.power_cut();
    machine.boot();
    machine.becomes("undone", "rules", |m| m.on_host("iptables-save | grep -c -e KVMFW -e others"), "1\n");
}
