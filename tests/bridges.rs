//! Bridges on hosts whose addresses and routes are of the awkward kind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::Lab;
use common::project::Project;

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
        assert!(run.stdout.contains("eth0 has 10.99.0.11 by DHCP"), "{}", run.stdout);
    }
    common::same(&before, &lab.dump(HOST), "nothing was to be done");
}
