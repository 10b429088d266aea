//! All that `ip` and `bridge` show of a host, before a change of its bridges, and after it was rolled back or undone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::Project;
use std::fs;

const HOST: &str = "kvm1";

fn on_host(lab: &Lab, script: &str) -> String {
    lab.host(HOST, &["sh", "-ec", script]).ok()
}

/// A link and a host with everything that is rare.
const ODD: &str =
    "sysctl -qw net.ipv4.conf.all.promote_secondaries=0 net.ipv4.conf.eth0.promote_secondaries=0
ip addr del 10.99.0.11/16 dev eth0
ip addr add 10.99.0.11/16 brd + metric 50 dev eth0
ip addr add 10.99.7.1/16 label eth0:1 dev eth0
ip addr add 10.99.7.2/16 brd 10.99.255.255 dev eth0 preferred_lft 0
ip addr add 10.98.0.1/24 label eth0:other dev eth0 noprefixroute
ip addr add 10.97.0.1 peer 10.97.0.2/32 dev eth0
ip addr add 10.96.0.1/32 dev eth0 scope link
ip addr add fd99:1::5/64 dev eth0
ip addr add fd99:1::6/64 dev eth0 preferred_lft 0 nodad
ip addr add fd99:2::1 peer fd99:2::2/128 dev eth0
ip addr add fd99:3::1/128 dev eth0 nodad metric 77
ip route add default via 10.99.0.1 dev eth0 proto kernel onlink
ip -6 route add default via fd99::1 dev eth0 metric 5
ip route add 10.95.0.0/16 via 10.99.0.3 dev eth0 table 77 metric 9 mtu lock 1400 initcwnd 20
ip rule add fwmark 7 table 77 pref 500
ip -6 rule add from fd99:1::/64 table 78 pref 501
ip -6 route add fd95::/64 via fd99::3 dev eth0 table 78
ip route add blackhole 10.94.0.0/16
ip route add local 10.93.0.0/16 dev eth0
ip route add 10.92.0.0/16 nexthop via 10.99.0.3 dev eth0 weight 2 nexthop via 192.168.1.53 dev br123 weight 1
ip route add 10.91.0.0/16 via 192.168.1.53 dev br123 src 10.99.7.1
ip nexthop add id 5 via 10.99.0.4 dev eth0
ip nexthop add id 6 via 10.99.0.5 dev eth0
ip nexthop add id 10 group 5,3/6
ip route add 10.90.0.0/16 nhid 5 proto static
ip route add 10.89.0.0/16 nhid 10
ip neigh add 10.99.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent
ip -6 neigh add fd99::77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent
ip neigh add proxy 10.99.0.78 dev eth0
ip neigh add 192.168.1.77 lladdr 02:00:00:00:00:78 dev br123 nud permanent
bridge fdb add 02:00:00:00:00:79 dev eth1 master static
bridge mdb add dev br123 port eth1 grp 239.1.1.1 permanent
bridge mdb add dev br123 port eth1 grp 239.1.1.5 src 192.0.2.1 permanent
bridge mdb add dev br123 port eth1 grp ff05::1 permanent
ip link set eth1 type bridge_slave hairpin on guard on priority 7 mcast_flood off isolated on
ip link set br123 type bridge mcast_querier 1 group_fwd_mask 8 ageing_time 12300
ip link set eth0 txqueuelen 77";

/// What does not count: timers, what is left of lifetimes, and what a bridge learned or keeps of its own MAC.
const DUMP: &str = "ip -d -o link show | sed -E 's/ [a-z_]*_timer +[0-9.]+//g; s/ promiscuity [0-9]+//; s/^[0-9]+: //' | grep -v '^brmgmt'
ip -o addr show | sed -E 's/(valid|preferred)_lft [0-9]+sec/\\1_lft some/g; s/^[0-9]+: //'
ip -4 route show table all | sort
ip -6 route show table all | grep -v ' table local ' | sort
ip -4 rule
ip -6 rule
ip -o neigh show nud permanent | sort
ip -o neigh show proxy
ip nexthop
bridge -d link show | sed -E 's/^[0-9]+: //'
bridge fdb show | grep static | sort
bridge mdb show | grep permanent | sort";

/// Runs a script once nobody is asked any more whether an address is there twice: the kernel makes routes after that.
fn settled(lab: &Lab, script: &str) -> String {
    let wait = "n=0; while ip -6 -o addr show tentative | grep -q . && [ $n -lt 100 ]; do n=$((n + 1)); sleep 0.1; done";
    on_host(lab, &format!("{wait}\n{script}"))
}

fn dump(lab: &Lab) -> String {
    settled(lab, DUMP)
}

#[track_caller]
fn same(before: &str, after: &str, when: &str) {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    if before == after {
        return;
    }
    let gone = before.iter().filter(|line| !after.contains(line)).map(|line| format!("- {line}"));
    let new = after.iter().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"));
    let mut lines: Vec<String> = gone.chain(new).collect();
    if lines.is_empty() {
        lines = vec![format!("another order:\n{}\nand now\n{}", before.join("\n"), after.join("\n"))];
    }
    panic!("{when}:\n{}", lines.join("\n"));
}

const FAILS: &str = "checks: [{ command: '[ ! -e /var/lib/kvmfw/open ]', required: true }]\n";

#[test]
fn everything_is_back_after_a_rollback_and_after_an_undo() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(&lab, ODD);
    let move_it = "bridges: { brmgmt: { ports: [eth0], take_addresses: true, stp: false } }\n";
    let others = "bridges: { br7: { ports: [eth1], take_addresses: true } }\n";
    let project = Project::new(&lab, &[HOST], "");
    let before = dump(&lab);
    for change in [move_it, others] {
        project.all(&format!("{change}{FAILS}"));
        let run = project.apply(&lab, &[]).expect(4);
        assert!(run.stdout.contains("ROLLED BACK"), "{}", run.stdout);
        same(&before, &dump(&lab), &format!("after a rollback of {change}"));
    }
    project.all(move_it);
    let plan = project.kvmfw(&lab, &["plan"]).expect(0).stdout;
    assert!(plan.contains("10.99.7.1/16   (label brmgmt:1, which was eth0:1)"), "{plan}");
    project.apply(&lab, &[]).expect(0);
    let moved =
        on_host(&lab, "ip -o addr show dev brmgmt; ip -o route show table all; ip -o neigh; ip nexthop");
    for line in [
        "inet 10.99.0.11/16 metric 50 brd 10.99.255.255 scope global brmgmt\\",
        "inet 10.99.7.1/16 scope global secondary brmgmt:1\\",
        "inet 10.99.7.2/16 brd 10.99.255.255 scope global secondary deprecated brmgmt\\",
        "inet 10.98.0.1/24 scope global noprefixroute brmgmt:other\\",
        "inet 10.97.0.1 peer 10.97.0.2/32 scope global brmgmt\\",
        "inet 10.96.0.1/32 scope link brmgmt\\",
        "inet6 fd99:1::6/64 scope global nodad deprecated",
        "inet6 fd99:2::1 peer fd99:2::2/128 scope global",
        "default via 10.99.0.1 dev brmgmt proto kernel onlink",
        "10.95.0.0/16 via 10.99.0.3 dev brmgmt table 77 metric 9 mtu lock 1400",
        "local 10.93.0.0/16 dev brmgmt table local scope host",
        "10.91.0.0/16 via 192.168.1.53 dev br123 src 10.99.7.1",
        "10.90.0.0/16 nhid 5 via 10.99.0.4 dev brmgmt proto static",
        "10.99.0.77 dev brmgmt lladdr 02:00:00:00:00:77 PERMANENT",
        "id 6 via 10.99.0.5 dev brmgmt",
    ] {
        assert!(moved.contains(line), "{line} is not in\n{moved}");
    }
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    same(&before, &dump(&lab), "after undo --to 0");
}

/// What others do while a change is open stays theirs: nothing of it is undone, and it is no failure of the rollback.
#[test]
fn unmanaged_changes_made_meanwhile_stay() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(&lab, "ip addr add 10.99.9.9/32 dev eth0; ip addr add 192.168.1.200/32 dev br123");
    // A guest starts, and an address that moves between hosts comes to one link and leaves another.
    let meanwhile = "test -e /run/first || { touch /run/first; exit 0; }; ip link add vnet77 type veth peer name p77; \
        ip link set vnet77 master br123 up; ip addr del 192.168.1.200/32 dev br123; ip addr add 10.99.8.8/16 dev eth1; \
        ip addr add 192.168.1.201/24 dev br123; ip route add 10.66.0.0/16 via 192.168.1.53; false";
    let project = Project::new(
        &lab,
        &[HOST],
        &format!(
            "bridges: {{ br123: {{ ports: [eth1], addresses: ['198.51.100.5/24'], ageing: 77 }} }}\nchecks: [{{ command: '{meanwhile}', \
             required: true, timeout: 5s }}]\n"
        ),
    );
    let run = project.apply(&lab, &[]).expect(4);
    assert!(run.stdout.contains("ROLLED BACK"), "{}", run.stdout);
    let now = on_host(&lab, "ip -o addr; ip route; ls /sys/class/net/br123/brif; ip -d link show br123");
    for there in
        ["192.168.1.201/24", "10.99.8.8/16", "10.66.0.0/16 via 192.168.1.53", "vnet77", "ageing_time 30000"]
    {
        assert!(now.contains(there), "{there} is not in\n{now}");
    }
    assert!(!now.contains("192.168.1.200") && !now.contains("198.51.100.5"), "{now}");
    let log = on_host(&lab, "cat /var/lib/kvmfw/txn/*/log");
    assert!(
        log.contains("changed by others meanwhile, and left so: addr replace 192.168.1.200/32 dev br123"),
        "{log}"
    );
}

/// Below an mtu of 1280 the kernel ends IPv6 on a link, and no rollback would bring all of it back.
#[test]
fn an_mtu_that_ends_ipv6_is_refused() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let before = lab.dump(HOST);
    let project = Project::new(&lab, &[HOST], "bridges: { br123: { mtu: 1200 } }\n");
    let run = project.apply(&lab, &["--format", "json"]).expect(7);
    let host = &run.json()["hosts"][0];
    assert_eq!(host["reason"], "unsupported", "{host:#}");
    assert!(
        host["message"].as_str().unwrap().contains("would remove fd00:1::fe and all of IPv6 from br123"),
        "{host:#}"
    );
    common::same(&before, &lab.dump(HOST), "nothing was to be done");
    // One that IPv6 can live with, and one for a bridge that has no IPv6.
    on_host(
        &lab,
        "ip link add br7 type bridge; sysctl -qw net.ipv6.conf.br7.disable_ipv6=1; ip link set br7 up",
    );
    project.all("bridges: { br123: { mtu: 1280 }, br7: { mtu: 1200 } }\n");
    project.apply(&lab, &[]).expect(0);
}

/// A bridge without ports has a MAC of its own, whichever guests come and go.
#[test]
fn the_mac_of_a_bridge_without_ports_stays() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], "bridges: { br9: { addresses: [192.0.2.1/24] } }\n");
    let plan = project.kvmfw(&lab, &["plan"]).expect(0).stdout;
    project.apply(&lab, &[]).expect(0);
    let mac = || on_host(&lab, "cat /sys/class/net/br9/address").trim().to_owned();
    let own = mac();
    assert!(own.starts_with("02:") && plan.contains(&format!("mac {own}   (fixed")), "{own}: {plan}");
    on_host(
        &lab,
        "ip link add tap9 address 00:00:00:00:00:02 type veth peer name tap9p; ip link set tap9 master br9 up; ip link set tap9p up",
    );
    assert_eq!(mac(), own, "with a guest");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    on_host(&lab, "ip link del tap9");
    assert_eq!(mac(), own, "after it");
    lab.reboot(HOST);
    assert_eq!(mac(), own, "after a boot");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    // And with a port it keeps it.
    on_host(&lab, "ip link add p0 address 00:00:00:00:00:04 type veth peer name p1");
    project.all("bridges: { br9: { addresses: [192.0.2.1/24], ports: [p0] } }\n");
    project.apply(&lab, &[]).expect(0);
    assert_eq!(mac(), own, "with a port");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}

/// An address of its own and a gateway in no network of the host, as hosting providers have it; and one with a peer.
#[test]
fn a_gateway_in_no_network_is_on_the_link() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(
        &lab,
        "ip link add p0 type veth peer name p1; ip link set p1 up; ip route add default via 192.168.1.53 dev br123",
    );
    let before = settled(&lab, "ip -o addr; ip -4 route; ip -6 route");
    let project = Project::new(&lab, &[HOST], "");
    for addresses in [
        "addresses: ['203.0.113.250/32', '2001:db8:7::2/128'], gateways: [203.0.113.193, '2001:db8:9::1']",
        "addresses: ['203.0.113.250 peer 203.0.113.193/32', '2001:db8:7::2 peer 2001:db8:9::1/128'], gateways: [203.0.113.193, '2001:db8:9::1']",
    ] {
        let bridge = format!("bridges: {{ br9: {{ {addresses} }} }}\n");
        project.all(&format!("{bridge}{FAILS}"));
        project.apply(&lab, &[]).expect(4);
        assert_eq!(
            settled(&lab, "ip -o addr; ip -4 route; ip -6 route"),
            before,
            "after a rollback of {addresses}"
        );
        project.all(&bridge);
        project.apply(&lab, &[]).expect(0);
        let onlink = if addresses.contains("peer") { "" } else { "onlink" };
        let routes = || on_host(&lab, "ip -4 route show default; ip -6 route show default");
        let wanted = |routes: &str| {
            assert!(
                routes.contains(format!("default via 203.0.113.193 dev br9 {onlink}").trim()),
                "{routes}"
            );
            assert!(routes.contains("default via 2001:db8:9::1 dev br9 metric 1024"), "{routes}");
            assert_eq!(routes.matches(" onlink").count(), onlink.len() / 3, "{routes}");
        };
        wanted(&routes());
        project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
        on_host(
            &lab,
            "ip link del br9; sh /var/lib/kvmfw/kvmfw.sh boot-bridges; sh /var/lib/kvmfw/kvmfw.sh boot-bridges",
        );
        wanted(&routes());
        project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
        project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
        assert_eq!(
            settled(&lab, "ip -o addr; ip -4 route; ip -6 route"),
            before,
            "after undo of {addresses}"
        );
    }
}

/// The same, where the address is on the port, with a power cut between.
#[test]
fn a_host_with_a_peer_moves_and_boots() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let interfaces = lab.disk(HOST, "/etc/network/interfaces");
    let text = fs::read_to_string(&interfaces).unwrap();
    let up = "    up ip addr add 203.0.113.250 peer 203.0.113.193/32 dev eth0\n    up ip route add default via 203.0.113.193 dev eth0\n";
    let (head, tail) = text.split_once("iface eth0 inet static\n").unwrap();
    fs::write(&interfaces, format!("{head}iface eth0 inet static\n{up}{tail}")).unwrap();
    lab.reboot(HOST);
    let state = || settled(&lab, "ip -o addr show | sed 's/^[0-9]*: //'; ip -4 route; ip -6 route");
    let before = state();
    assert!(
        before.contains("203.0.113.250 peer 203.0.113.193/32")
            && before.contains("default via 203.0.113.193"),
        "{before}"
    );
    let bridge = "bridges: { brmgmt: { ports: [eth0], take_addresses: true, stp: false } }\n";
    let project = Project::new(&lab, &[HOST], &format!("{bridge}{FAILS}"));
    project.apply(&lab, &[]).expect(4);
    assert_eq!(state(), before, "after a rollback");
    project.all(bridge);
    project.apply(&lab, &[]).expect(0);
    let moved = state();
    assert!(moved.contains("inet 203.0.113.250 peer 203.0.113.193/32 scope global brmgmt"), "{moved}");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    lab.power_cut(HOST);
    lab.boot(HOST);
    let booted = state();
    for line in [
        "inet 203.0.113.250 peer 203.0.113.193/32 scope global brmgmt",
        "default via 203.0.113.193 dev brmgmt",
    ] {
        assert!(booted.contains(line), "{line} is not in\n{booted}");
    }
    assert!(!booted.contains("eth0    inet ") && !booted.contains("via 203.0.113.193 dev eth0"), "{booted}");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert_eq!(state(), before, "after undo");
}

/// Every attribute of a bridge and of a port: stated, shown, applied, booted, rolled back and undone.
#[test]
fn attributes_of_bridges_and_ports() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(
        &lab,
        "ip link set eth1 type bridge_slave hairpin on guard on priority 7 learning off
        ip link set br123 type bridge mcast_querier 1 group_fwd_mask 8 hello_time 400 max_age 3000",
    );
    let before = dump(&lab);
    let project = Project::new(&lab, &[HOST], "");
    let import = project.kvmfw(&lab, &["import", HOST]).expect(0).stdout;
    for words in [
        "ports: { eth1: { hairpin: true, priority: 7 } }",
        "hello_time: 4, max_age: 30, group_fwd_mask: 8, multicast_querier: true }",
        "left out, because an inventory cannot have it; it stays as it is: eth1 guard on, eth1 learning off",
    ] {
        assert!(import.contains(words), "{import}");
    }
    let stated = "bridges:\n  br123:\n    ports: { eth1: { isolated: true, hairpin: false, cost: 77, priority: 5 } }\n    \
                  multicast_snooping: false\n    multicast_querier: false\n    hello_time: 3\n    max_age: 22\n    priority: 4096\n    \
                  group_fwd_mask: 16392\n  br9: { group_fwd_mask: 0, multicast_querier: true }\n";
    let is_so = |when: &str| {
        let now = on_host(
            &lab,
            "ip -d -o link show dev br123; ip -d -o link show dev eth1; ip -d -o link show dev br9",
        );
        for words in [
            " hello_time 300 max_age 2200 ",
            " priority 4096 ",
            " group_fwd_mask 0x4008 ",
            " mcast_snooping 0 ",
            " mcast_querier 0 ",
            " isolated on ",
            " hairpin off ",
            " cost 77 ",
            " priority 5 ",
            " mcast_querier 1 ",
        ] {
            assert!(now.contains(words), "{when}: no{words}in\n{now}");
        }
    };
    project.all(&format!("{stated}{FAILS}"));
    assert!(project.apply(&lab, &[]).expect(4).stdout.contains("ROLLED BACK"));
    same(&before, &dump(&lab), "after a rollback");
    project.all(stated);
    let plan = project.kvmfw(&lab, &["plan"]).expect(0).stdout;
    for line in ["- eth1 hairpin on", "+ eth1 isolated on", "- group_fwd_mask 8", "+ mcast_snooping 0"] {
        assert!(plan.contains(line), "{plan}");
    }
    project.apply(&lab, &[]).expect(0);
    is_so("applied");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    // By hand: drift, with the attribute.
    on_host(&lab, "ip link set eth1 type bridge_slave isolated off");
    let drift = project.kvmfw(&lab, &["plan", "--drift", "--detailed-exitcode"]).expect(2).stdout;
    assert!(drift.contains("eth1 isolated off"), "{drift}");
    // Stated no more: as before.
    project.all("bridges: { br123: { ports: [eth1], hello_time: 3 } }\n");
    let plan = project.kvmfw(&lab, &["plan"]).expect(0).stdout;
    assert!(
        plan.contains("+ eth1 hairpin on   (as before)") && plan.contains("+ max_age 3000   (as before)"),
        "{plan}"
    );
    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    same(&before, &dump(&lab), "undone");
    // A port of another bridge comes back to it as it was.
    project.all("bridges: { br7: { ports: { eth1: { isolated: true } }, take_addresses: true } }\n");
    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    same(&before, &dump(&lab), "after the undo of another bridge");
    project.all(stated);
    project.apply(&lab, &[]).expect(0);
    lab.power_cut(HOST);
    lab.boot(HOST);
    is_so("booted");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}
