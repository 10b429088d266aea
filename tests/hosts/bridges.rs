//! Bridges on hosts whose addresses and routes are of the awkward kind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::Project;
use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

const HOST: &str = "kvm1";

fn on_host(lab: &Lab, script: &str) -> String {
    lab.host(HOST, &["sh", "-ec", script]).ok()
}

/// A link of its own with an address of its own: the gateway is on no network of it.
const ROUTED: &str = "ip link add p0 type veth peer name p1
ip link set p1 up
ip link set p0 up
ip addr add 198.51.100.9/32 dev p0
ip route add 198.51.100.1 dev p0
ip route add default via 198.51.100.1 dev p0 metric 50
ip -6 route add default dev p0 metric 70
ip route add 203.0.113.0/24 via 198.51.100.1 dev p0 mtu lock 1400 advmss 1300 initcwnd 20
ip route add 192.0.3.0/24 mtu 1300 nexthop via 198.51.100.1 dev p0 weight 2 nexthop via 192.168.1.53 dev br123 weight 1
ip route add 192.0.4.0/24 dev p0 table 77 src 198.51.100.9
";

#[test]
fn routes_of_a_routed_host_move_with_its_address_and_come_back() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(&lab, ROUTED);
    let bridge = "bridges: { br9: { ports: [p0], addresses: ['198.51.100.9/32'], take_addresses: true } }\n";
    let project =
        Project::new(&lab, &[HOST], &format!("{bridge}checks: [{{ command: 'false', required: true }}]\n"));
    let routes = "ip -o route; ip -6 route; ip route show table 77";
    let before = on_host(&lab, routes);
    let back = project.apply(&lab, &[]).expect(4);
    assert!(back.stdout.contains("ROLLED BACK"), "{}", back.stdout);
    assert_eq!(on_host(&lab, routes), before, "after a rollback");

    project.all(bridge);
    project.apply(&lab, &[]).expect(0);
    let after = on_host(&lab, routes);
    for line in [
        "default via 198.51.100.1 dev br9",
        "198.51.100.1 dev br9",
        "default dev br9 metric 70",
        "203.0.113.0/24 via 198.51.100.1 dev br9 mtu lock 1400 advmss 1300 initcwnd 20",
        "nexthop via 198.51.100.1 dev br9 weight 2 \\\tnexthop via 192.168.1.53 dev br123 weight 1",
        "192.0.4.0/24 dev br9 scope link src 198.51.100.9",
    ] {
        assert!(after.contains(line), "{line} is not in\n{after}");
    }
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert_eq!(on_host(&lab, routes), before, "after undo --to 0");
}

/// ifupdown2 marks its default route `proto kernel`, as if it were that of an address. It moves with the address, comes
/// back with a rollback and an undo, and is made again at boot.
#[test]
fn a_default_route_that_says_proto_kernel_moves_and_comes_back() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(
        &lab,
        "ip route add default via 10.99.0.1 dev eth0 proto kernel onlink
         ip route add 198.51.100.0/24 via 10.99.0.1 dev eth0 proto kernel
         ip -6 route add default via fd99::1 dev eth0 proto kernel metric 256",
    );
    let bridge = "bridges: { brmgmt: { ports: [eth0], take_addresses: true, stp: false } }\n";
    let failing =
        format!("{bridge}checks: [{{ command: '[ ! -e /var/lib/kvmfw/open ]', required: true }}]\n");
    let project = Project::new(&lab, &[HOST], &failing);
    let routes = || on_host(&lab, "ip -o route; ip -6 -o route show proto kernel | grep via");
    let before = routes();
    let back = project.apply(&lab, &[]).expect(4);
    assert!(back.stdout.contains("ROLLED BACK"), "{}", back.stdout);
    assert_eq!(routes(), before, "after a rollback");

    project.all(bridge);
    project.apply(&lab, &[]).expect(0);
    let moved = before.replace(" dev eth0 ", " dev brmgmt ");
    let same = |now: String, when: &str| {
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&now), sorted(&moved), "{when}");
    };
    same(routes(), "applied");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert_eq!(routes(), before, "after undo --to 0");
}

/// A port does not keep what DHCP gave it, and nobody renews it on the bridge.
#[test]
fn a_link_with_a_lease_is_made_no_port() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(&lab, "ip addr change 10.99.0.11/16 dev eth0 valid_lft 3600 preferred_lft 3600");
    let before = lab.dump(HOST);
    for more in ["", ", take_addresses: true"] {
        let project = Project::new(
            &lab,
            &[HOST],
            &format!("bridges: {{ br9: {{ ports: [eth0], addresses: ['10.99.0.11/16']{more} }} }}\n"),
        );
        let run = project.apply(&lab, &[]).expect(7);
        assert!(run.stdout.contains("eth0 would lose 10.99.0.11, which came by DHCP"), "{}", run.stdout);
    }
    common::same(&before, &lab.dump(HOST), "nothing was to be done");
}

/// Bridges that other programs make are left to them, whether they are there or not.
#[test]
fn unmanaged_bridges_are_refused() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let network = |mode: &str, bridge: &str| {
        format!(
            "<network><name>x</name>\n<forward mode='{mode}'/>\n<bridge name='{bridge}' stp='on'/></network>\n"
        )
    };
    let folder = lab.disk(HOST, "/etc/libvirt/qemu/networks");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("nat.xml"), network("nat", "br7")).unwrap();
    fs::write(folder.join("lan.xml"), network("bridge", "br123")).unwrap();
    let named = ["virbr5", "docker0", "vmbr0", "qbr0123abcd-ef", "brq0123abcd-ef", "podman1", "lxdbr0"];
    for bridge in named {
        // A name alone shows nothing.
        let text = format!("bridges: {{ {bridge}: {{ stp: false }} }}\n");
        Project::new(&lab, &[HOST], &text).kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    }
    fs::write(folder.join("default.xml"), network("nat", "virbr5")).unwrap();
    on_host(
        &lab,
        "mkdir -p /etc/pve /etc/neutron /etc/docker /var/lib/lxd /etc/containers/networks
        iptables -w -N DOCKER-FORWARD; iptables -w -A DOCKER-FORWARD -i lan7 -j ACCEPT
        iptables -w -N LIBVIRT_FWX; iptables -w -A LIBVIRT_FWX -i lan8 -o lan8 -j ACCEPT",
    );
    let before = lab.dump(HOST);
    for (bridge, evidence) in [
        ("virbr5", "libvirt (/etc/libvirt/qemu/networks/default.xml defines it)"),
        ("docker0", "Docker (by its name, and /etc/docker exists)"),
        ("vmbr0", "Proxmox VE (by its name, and /etc/pve exists)"),
        ("qbr0123abcd-ef", "OpenStack Neutron (by its name, and /etc/neutron exists)"),
        ("brq0123abcd-ef", "OpenStack Neutron (by its name, and /etc/neutron exists)"),
        ("podman1", "Podman (by its name, and /etc/containers/networks exists)"),
        ("lxdbr0", "LXD (by its name, and /var/lib/lxd exists)"),
        ("br7", "libvirt (/etc/libvirt/qemu/networks/nat.xml defines it)"),
        ("lan7", "Docker (its rule `-A DOCKER-FORWARD -i lan7 -j ACCEPT` names it)"),
        ("lan8", "libvirt (its rule `-A LIBVIRT_FWX -i lan8 -o lan8 -j ACCEPT` names it)"),
    ] {
        let project = Project::new(&lab, &[HOST], &format!("bridges: {{ {bridge}: {{ stp: false }} }}\n"));
        let run = project.apply(&lab, &["--format", "json"]).expect(7);
        let host = &run.json()["hosts"][0];
        assert_eq!(host["reason"], "unmanaged-owner", "{host:#}");
        assert!(run.stdout.contains(evidence) && run.stdout.contains("manage: false"), "{}", run.stdout);
        project.all(&format!("bridges: {{ {bridge}: {{ manage: false }} }}\n"));
        project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    }
    common::same(&before, &lab.dump(HOST), "nothing was to be done");
    // A network that only uses a bridge of the host's own does not own it.
    let project = Project::new(&lab, &[HOST], "bridges: { br123: { ageing: 77 } }\n");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
}

/// Ports of such bridges are theirs too, and what can be no port at all is refused before its addresses move.
#[test]
fn unmanaged_ports_and_links_that_cannot_be_ports_are_refused() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let folder = lab.disk(HOST, "/etc/libvirt/qemu/networks");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("default.xml"), "<network>\n<bridge name='virbr0'/>\n</network>\n").unwrap();
    on_host(
        &lab,
        "ip link add virbr0 type bridge; ip link add vnet9 type veth peer name p9; ip link set vnet9 master virbr0 up
         ip link add br7 type bridge; ip link add p7 type veth peer name q7; ip link set p7 master br7 up",
    );
    let before = lab.dump(HOST);
    for (port, reason, said) in [
        ("vnet9", "unmanaged-owner", "vnet9 is a port of virbr0, which libvirt manages"),
        ("br123", "unsupported", "br123 cannot be a port of a bridge"),
        ("lo", "unsupported", "lo cannot be a port of a bridge"),
    ] {
        let text = format!("bridges: {{ br9: {{ ports: [{port}], take_addresses: true }} }}\n");
        let project = Project::new(&lab, &[HOST], &text);
        let host = project.apply(&lab, &["--format", "json"]).expect(7).json()["hosts"][0].clone();
        assert_eq!(host["reason"], reason, "{host:#}");
        assert!(host["message"].as_str().unwrap().contains(said), "{host:#}");
        common::same(&before, &lab.dump(HOST), "nothing was to be done");
    }
    // One of a bridge of the host's own is moved, and comes back.
    let project = Project::new(&lab, &[HOST], "bridges: { br9: { ports: [p7], take_addresses: true } }\n");
    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    common::same(&before, &lab.dump(HOST), "after undo --to 0");
}

/// A boot that cannot make a bridge what it should be says so, then and afterwards, until it is mended.
#[test]
fn failures_at_boot_are_reported() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(&lab, "ip link add p0 type veth peer name p1");
    let project = Project::new(&lab, &[HOST], "bridges: { br9: { ports: [p0], ageing: 77 } }\n");
    project.apply(&lab, &[]).expect(0);
    lab.reboot(HOST);
    assert!(lab.console(HOST).contains("[FAILED] kvmfw-bridges.service"), "{}", lab.console(HOST));
    assert!(on_host(&lab, "ip -d link show br9").contains("ageing_time 7700"), "the rest was to be done");
    let status = project.kvmfw(&lab, &["status"]);
    assert!(status.stdout.contains("BOOT FAILED bridges: `link set dev p0 "), "{}", status.stdout);
    project.all("bridges: { br9: { ageing: 77 } }\n");
    let plan = project.kvmfw(&lab, &["plan"]).expect(0);
    assert!(plan.stdout.contains("[boot-failed] kvm1"), "{}{}", plan.stdout, plan.stderr);
    on_host(&lab, "ip link add p0 type veth peer name p1");
    project.all("bridges: { br9: { ports: [p0], ageing: 77 } }\n");
    project.apply(&lab, &[]).expect(0);
    let status = project.kvmfw(&lab, &["status"]);
    assert!(!status.stdout.contains("BOOT FAILED"), "{}", status.stdout);
}

/// Pings every 5 ms; the longest run of them without an answer, in milliseconds, and how many were answered.
struct Pings(std::process::Child);

impl Pings {
    fn start(lab: &Lab, address: &str) -> Self {
        let mut command = lab.exec_command("ping");
        command.args(["-n", "-i", "0.005", "-W", "1", address]).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn longest_gap(mut self) -> (u32, usize) {
        Command::new("kill").args(["-INT", &self.0.id().to_string()]).status().unwrap();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        let answered: Vec<u32> = text
            .lines()
            .filter_map(|line| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok())
            .collect();
        let lost = answered.windows(2).map(|pair| pair[1].saturating_sub(pair[0] + 1)).max();
        (lost.unwrap_or(u32::MAX / 5) * 5, answered.len())
    }
}

/// The address that SSH comes by moves to a new bridge, over that very SSH.
#[test]
fn the_management_address_moves_within_50_ms() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let project = Project::new(
        &lab,
        &[HOST],
        "bridges: { brmgmt: { ports: [eth0], take_addresses: true, stp: false } }\n",
    );
    // Another host tells what a busy machine alone takes from pings.
    let unchanged = Pings::start(&lab, "10.99.0.12");
    let pings = ["10.99.0.11", "fd99::b"].map(|address| (address, Pings::start(&lab, address)));
    let run = project.apply(&lab, &[]).expect(0);
    let (busy, _) = unchanged.longest_gap();
    for (address, pings) in pings {
        let (gap, answered) = pings.longest_gap();
        println!("{address}: {gap} ms without an answer, {answered} answers in {:?}", run.took);
        // Asked every 5 ms.
        let enough = run.took.as_millis() / 10;
        assert!(answered as u128 > enough, "{address}: {answered} answers are no measure");
        assert!(gap < 50 + busy, "{address} did not answer for {gap} ms, an unchanged host for {busy} ms");
    }
    let addresses = on_host(&lab, "ip -o address show scope global | awk '{ print $2, $4 }'");
    assert!(
        addresses.contains("brmgmt 10.99.0.11/16") && addresses.contains("brmgmt fd99::b/64"),
        "{addresses}"
    );
    assert!(!addresses.contains("eth0"), "{addresses}");
    let moved = project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    // Its own file has the address still, which is said, with the lines.
    let said = "[moved-at-boot] kvm1: bridge brmgmt: at boot ifupdown still configures its port from \
                /etc/network/interfaces:";
    assert!(moved.stdout.contains(said), "{}", moved.stdout);
    lab.power_cut(HOST);
    lab.boot(HOST);
    assert_eq!(on_host(&lab, "ip -o address show scope global | awk '{ print $2, $4 }'"), addresses);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}

/// Spanning tree that listens for longer than anybody waits: the new bridge is silent, and the address goes
/// back to where it answered.
#[test]
fn the_management_address_comes_back_when_the_new_bridge_is_silent() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let before = lab.dump(HOST);
    let project = Project::new(
        &lab,
        &[HOST],
        "bridges: { brmgmt: { ports: [eth0], take_addresses: true, stp: true, forward_delay: 30 } }\n",
    );
    let run = project.apply(&lab, &[]).expect(4);
    assert!(run.stdout.contains("ROLLED BACK"), "{}", run.stdout);
    common::same(&before, &lab.dump(HOST), "after the rollback");
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(status.stdout.contains("rolled-back: nobody confirmed"), "{}", status.stdout);
    // It is nothing but the silence that was wrong.
    project.all("bridges: { brmgmt: { ports: [eth0], take_addresses: true, stp: false } }\n");
    project.apply(&lab, &[]).expect(0);
}

/// A bridge of ours whose guests have gone keeps its MAC, and comes back with it.
#[test]
fn a_bridge_that_lost_its_last_port_comes_back() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(
        &lab,
        &[HOST],
        "bridges: { br9: { addresses: [192.0.2.1/24] }, br123: { ageing: 100 } }\n",
    );
    project.apply(&lab, &[]).expect(0);
    on_host(
        &lab,
        "ip link add tap9 type veth peer name tap9p && ip link set tap9 master br9 up && ip link del tap9",
    );
    assert!(
        !on_host(&lab, "ip link show br9").contains("link/ether 00:00:00:00:00:00"),
        "it went with the guest"
    );
    let mac = on_host(&lab, "cat /sys/class/net/br9/address");
    project.all(
        "bridges: { br123: { ageing: 100 } }\nchecks: [{ command: 'test -e /sys/class/net/br9', required: true, timeout: 1s }]\n",
    );
    let run = project.apply(&lab, &[]).expect(4);
    assert!(run.stdout.contains("ROLLED BACK"), "{}", run.stdout);
    assert!(on_host(&lab, "ip address show br9").contains("inet 192.0.2.1/24 "));
    assert_eq!(on_host(&lab, "cat /sys/class/net/br9/address"), mac);
}

/// A guest that is started on a new bridge while its change is open loses it with the rollback, and whoever reads
/// of the rollback learns which one.
#[test]
fn a_guest_that_loses_its_bridge_to_a_rollback_is_named() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(&lab, "ip link add vnet77 type veth peer name p77");
    let check =
        "test -e /run/first || { touch /run/first; exit 0; }; ip link set vnet77 master br9 up; false";
    let project = Project::new(
        &lab,
        &[HOST],
        &format!("bridges: {{ br9: }}\nchecks: [{{ command: '{check}', required: true, timeout: 5s }}]\n"),
    );
    let run = project.apply(&lab, &[]).expect(4);
    let lost = "vnet77 has become a port of br9, which went with this change";
    assert!(run.stdout.contains("ROLLED BACK") && run.stdout.contains(lost), "{}", run.stdout);
    let status = project.kvmfw(&lab, &["status"]).expect(0);
    assert!(status.stdout.contains(lost), "{}", status.stdout);
}

/// A rule of policy routing that asks for a link that becomes a port asks in vain.
#[test]
fn policy_rules_by_port_are_reported() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(
        &lab,
        "ip rule add iif eth0 lookup 77 pref 100; ip -6 rule add from fd99::/64 iif eth0 lookup 78 pref 101",
    );
    let bridge = "bridges: { brmgmt: { ports: [eth0], take_addresses: true, stp: false } }\n";
    let project = Project::new(&lab, &[HOST], bridge);
    let told = |when: &str| {
        let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0).json();
        let all = plan["hosts"][0]["warnings"].as_array().unwrap().clone();
        let told = all.iter().filter(|w| w["code"] == "rule-by-port");
        let told: Vec<_> = told.map(|w| w["message"].as_str().unwrap().to_owned()).collect();
        println!("{when}: {told:#?}");
        told
    };
    let before = told("before");
    assert_eq!(before.len(), 2);
    project.apply(&lab, &[]).expect(0);
    assert_eq!(told("applied"), before, "it is still so");
    // What it says to do is what helps.
    for message in before {
        let command = message.split('`').find(|words| words.starts_with("ip ")).unwrap();
        on_host(&lab, command);
    }
    assert_eq!(told("added"), Vec::<String>::new());
}

/// VLANs are for kernels that filter them; where one does not, that is said before anything is touched.
#[test]
fn vlans_need_a_kernel_that_filters_them() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let filters = on_host(&lab, "ip -d -j link show br123").contains("vlan_default_pvid");
    let before = lab.dump(HOST);
    let words =
        "bridges: { br123: { ports: [eth1], vlan_filtering: true, vlans: { eth1: [1, 10], br123: [1] } } }\n";
    let project = Project::new(&lab, &[HOST], words);
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]);
    let host = &plan.json()["hosts"][0];
    if filters {
        assert_eq!(host["changes"][0]["kind"], "bridge", "{host:#}");
    } else {
        assert_eq!((plan.code, &host["reason"]), (7, &"unsupported".into()), "{host:#}");
    }
    common::same(&before, &lab.dump(HOST), "a plan changes nothing");
}

/// A port moves from one of our bridges to another, whichever is planned first, and it is one step.
#[test]
fn a_port_moves_between_bridges_of_ours() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(&lab, "ip link add p0 type veth peer name p1");
    let project = Project::new(
        &lab,
        &[HOST],
        "bridges: { br9: { ports: [p0], mac: '02:00:00:00:00:09' }, br5: { mac: '02:00:00:00:00:05' } }\n",
    );
    project.apply(&lab, &[]).expect(0);
    let master = || on_host(&lab, "basename $(readlink /sys/class/net/p0/master)");
    for (bridges, of) in [
        (
            "br5: { ports: [p0], take_addresses: true, mac: '02:00:00:00:00:05' }, br9: { mac: '02:00:00:00:00:09' }",
            "br5",
        ),
        (
            "br5: { mac: '02:00:00:00:00:05' }, br9: { ports: [p0], take_addresses: true, mac: '02:00:00:00:00:09' }",
            "br9",
        ),
        // And where the one that it leaves goes.
        ("br5: { ports: [p0], take_addresses: true, mac: '02:00:00:00:00:05' }", "br5"),
        ("br9: { ports: [p0], take_addresses: true, mac: '02:00:00:00:00:09' }", "br9"),
    ] {
        project.all(&format!(
            "bridges: {{ {bridges} }}\nchecks: [{{ command: '[ ! -e /var/lib/kvmfw/open ]', required: true }}]\n"
        ));
        let before = master();
        project.apply(&lab, &[]).expect(4);
        assert_eq!(master(), before, "after a rollback: {bridges}");
        project.all(&format!("bridges: {{ {bridges} }}\n"));
        project.apply(&lab, &[]).expect(0);
        assert_eq!(master().trim(), of, "{bridges}");
        project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    }
}

/// A bridge that was made without ports keeps the MAC that its neighbours know when it gets one, live and at boot.
#[test]
fn a_bridge_keeps_its_mac_when_it_gets_its_first_port() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(&lab, "ip link add p0 address 00:00:00:00:00:02 type veth peer name p1");
    let project = Project::new(&lab, &[HOST], "bridges: { br9: {} }\n");
    project.apply(&lab, &[]).expect(0);
    let mac = on_host(&lab, "cat /sys/class/net/br9/address").trim().to_owned();
    project.all("bridges: { br9: { ports: [p0] } }\n");
    project.apply(&lab, &[]).expect(0);
    let now = on_host(&lab, "cat /sys/class/net/br9/address; ls /sys/class/net/br9/brif");
    assert_eq!(now, format!("{mac}\np0\n"));
    let plan = project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    assert!(!plan.stdout.contains("and at boot"), "{}", plan.stdout);
    on_host(&lab, "ip link del br9; sh /var/lib/kvmfw/kvmfw.sh boot-bridges");
    let now = on_host(&lab, "cat /sys/class/net/br9/address; ls /sys/class/net/br9/brif");
    assert_eq!(now, format!("{mac}\np0\n"), "at boot");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}

/// While its spanning tree changes, the kernel shows another ageing time than the one that is set: that is no drift of a
/// bridge of ours, and nothing to go back to for one of others.
#[test]
fn the_ageing_time_of_a_moment_is_no_baseline() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(common::Backend::Nft).up();
    let project = Project::new(&lab, &[HOST], "");
    let host = |script: &str| lab.host(HOST, &["sh", "-ec", script]).ok();
    let changes = |bridge: &str| {
        host(&format!(
            "n=0; until [ $(cat /sys/class/net/{bridge}/bridge/topology_change) = 1 ]; do n=$((n + 1)); [ $n -lt 300 ]; sleep 0.1; done
             cat /sys/class/net/{bridge}/bridge/ageing_time"
        ))
    };
    for n in [8, 9] {
        host(&format!("ip link add v{n} type veth peer name w{n}; ip link set v{n} up; ip link set w{n} up"));
    }
    project.all("bridges: { br9: { ports: [v9], stp: true, forward_delay: 2, ageing: 77 } }\n");
    project.apply(&lab, &[]).expect(0);
    assert_eq!(changes("br9"), "400\n");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    host(
        "ip link add br8 type bridge stp_state 1 forward_delay 200; ip link set br8 up; ip link set v8 master br8",
    );
    assert_eq!(changes("br8"), "400\n");
    project.all("bridges: { br8: { ageing: 77 } }\n");
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]);
    assert!(plan.stdout.contains("\"topology-change\""), "{}", plan.stdout);
}
