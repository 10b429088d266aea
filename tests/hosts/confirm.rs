//! A confirm proves that the host stays reachable, not that it was: what the login rests on and what is older than
//! the change (neighbour entries, routes by router advertisement, leases, conntrack entries of a tunnel) is made anew in
//! the guarded window, or judged by the simulator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::{Project, Run};
use common::transaction::{newest, read, until};
use std::fs;

const HOST: &str = "kvm1";

fn on_host(lab: &Lab, script: &str) -> String {
    lab.host(HOST, &["sh", "-c", script]).ok()
}

/// Writes the inventory, with the host reached at another address than the lab's default.
fn at(project: &Project, lab: &Lab, address: &str, all: &str) {
    project.all(all);
    let file = project.path().join("inventories/lab.yaml");
    let text = fs::read_to_string(&file).unwrap().replace(&lab.address(HOST), address);
    fs::write(file, text).unwrap();
    let known = fs::read_to_string(lab.dir().join("known_hosts")).unwrap();
    if !known.contains(address) {
        let line = known.lines().next().unwrap();
        let (_, key) = line.split_once(' ').unwrap();
        fs::write(lab.dir().join("known_hosts"), format!("{known}{address} {key}\n")).unwrap();
    }
}

/// An `ip6tables:` section with rules of one chain.
fn rules6(chain: &str, rules: &str) -> String {
    let mut yaml = format!("ip6tables:\n  filter:\n    {chain}:\n      rules: |\n");
    for rule in rules.lines() {
        yaml.push_str(&format!("        {}\n", rule.trim()));
    }
    yaml
}

/// Applies with the risk accepted. Expects a rollback by what the new connection could not prove, and a host that
/// answers whoever has to resolve it anew.
#[track_caller]
fn rolled_back(lab: &Lab, project: &Project, address: &str, says: &str) -> Run {
    let before = lab.dump(HOST);
    let last = newest(lab, HOST);
    let run = project.apply(lab, &["--accept-risk", "lockout"]).expect(4);
    assert!(run.stdout.contains("ROLLED BACK"), "{}", run.stdout);
    let folder = newest(lab, HOST).filter(|t| Some(t) != last.as_ref()).expect("a transaction");
    assert!(folder.join("applied").exists(), "the change was not made: {}", read(&folder, "done"));
    assert!(read(&folder, "done").contains(says), "{}", read(&folder, "done"));
    common::same(&before, &lab.dump(HOST), "after the rollback");
    reachable(lab, address);
    run
}

/// A login works after both ends have forgotten each other.
#[track_caller]
fn reachable(lab: &Lab, address: &str) {
    lab.exec(&["ip", "neigh", "flush", "all"]).ok();
    lab.host(HOST, &["ip", "neigh", "flush", "all"]).ok();
    let config = lab.dir().join("ssh_config");
    let host = format!("HostName={address}");
    let args = ["ssh", "-F", config.to_str().unwrap(), "-o", &host, "-o", "ConnectTimeout=5", HOST, "true"];
    lab.exec(&args).ok();
}

/// Every shape of a rule that drops neighbour discovery: the login works over warm neighbour entries each time.
#[test]
fn dropped_neighbour_discovery_is_never_confirmed() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let address = "fd99::b";
    let project = Project::new(&lab, &[HOST], "");
    let base = "-m state --state RELATED,ESTABLISHED -j ACCEPT\n-p tcp --dport 22 -j ACCEPT\n";
    for (chain, rules) in [
        ("INPUT", format!("{base}-j DROP")),
        ("INPUT", format!("-i lo -j ACCEPT\n{base}-p icmp -j ACCEPT\n-j REJECT")),
        ("INPUT", "-p ipv6-icmp --icmpv6-type neighbour-solicitation -j DROP".to_owned()),
        ("INPUT", "-p ipv6-icmp --icmpv6-type neighbour-advertisement -j DROP".to_owned()),
        ("OUTPUT", "-p ipv6-icmp --icmpv6-type neighbour-advertisement -j DROP".to_owned()),
        ("OUTPUT", "-p tcp --sport 22 -j ACCEPT\n-p ipv6-icmp -j DROP".to_owned()),
    ] {
        at(&project, &lab, address, &rules6(chain, &rules));
        let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(7);
        assert_eq!(plan.json()["hosts"][0]["reason"], "lockout", "{rules}: {}", plan.stdout);
        let run = rolled_back(&lab, &project, address, "");
        assert!(run.stdout.contains("neighbour discovery"), "{rules}: {}", run.stdout);
    }
    // With the neighbour discovery that they lack the same rules are applied.
    let whole = format!("{base}-p ipv6-icmp -j ACCEPT\n-j DROP");
    at(&project, &lab, address, &rules6("INPUT", &whole));
    project.apply(&lab, &[]).expect(0);
    reachable(&lab, address);
}

/// The simulator does not know the length of a packet. So the plan cannot foretell this, and only entries that are
/// resolved again under the new rules show it.
#[test]
fn neighbours_are_resolved_again_before_the_confirm() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let address = "fd99::b";
    let project = Project::new(&lab, &[HOST], "");
    let rules = "-p ipv6-icmp -m length --length 40:1280 -j DROP";
    at(&project, &lab, address, &rules6("INPUT", rules));
    let plan = project.kvmfw(&lab, &["plan"]).expect(0);
    assert!(plan.stdout.contains("lockout-unknown"), "{}", plan.stdout);
    rolled_back(&lab, &project, address, "nobody confirmed over a new connection");
    // What works is found again at once, over both families; permanent entries stay.
    on_host(&lab, "ip neigh add 10.99.77.7 lladdr 02:00:00:00:00:77 dev eth0 nud permanent");
    at(&project, &lab, address, &rules6("INPUT", "-p udp --dport 4000 -j DROP"));
    project.apply(&lab, &[]).expect(0);
    let client = on_host(&lab, "ip -j neigh show to fd99::1 dev eth0");
    assert!(client.contains("lladdr"), "{client}");
    on_host(
        &lab,
        "ip neigh replace 10.99.0.1 lladdr $(cat /sys/class/net/eth0/address) dev eth0 nud permanent",
    );
    assert!(on_host(&lab, "ip neigh show to 10.99.0.1").contains("PERMANENT"));
    at(&project, &lab, address, &rules6("INPUT", "-p udp --dport 4001 -j DROP"));
    project.apply(&lab, &[]).expect(0);
    assert_eq!(on_host(&lab, "ip neigh show nud permanent | grep -c -e 10.99.77.7 -e 10.99.0.1").trim(), "2");
}

/// The client comes by a VXLAN whose outer packets the rules let in only while conntrack knows them.
#[test]
fn outer_packets_of_a_tunnel_are_judged_as_new() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let tunnel = |local: &str, remote: &str, address: &str, device: &str| {
        format!(
            "ip link add vx7 type vxlan id 7 local {local} remote {remote} dev {device} dstport 4789 && \
             ip addr add {address}/24 dev vx7 && ip link set vx7 up"
        )
    };
    on_host(&lab, &tunnel("10.99.0.11", "10.99.0.1", "10.200.0.2", "eth0"));
    lab.exec(&["sh", "-c", &tunnel("10.99.0.1", "10.99.0.11", "10.200.0.1", "sw0")]).ok();
    let address = "10.200.0.2";
    let project = Project::new(&lab, &[HOST], "");
    let rules = |outer: &str| {
        let base =
            "-i lo -j ACCEPT\n-m state --state RELATED,ESTABLISHED -j ACCEPT\n-p tcp --dport 22 -j ACCEPT";
        rules6("INPUT", &format!("{base}\n{outer}-j DROP")).replace("ip6tables", "iptables")
    };
    at(&project, &lab, address, &rules(""));
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(7);
    assert_eq!(plan.json()["hosts"][0]["reason"], "lockout", "{}", plan.stdout);
    let run = rolled_back(&lab, &project, address, "");
    assert!(run.stdout.contains("vx7"), "{}", run.stdout);
    at(&project, &lab, address, &rules("-s 10.99.0.1 -p udp --dport 4789 -j ACCEPT\n"));
    project.apply(&lab, &[]).expect(0);
    reachable(&lab, address);
}

/// SSH is answered by a default route of router advertisements, which the rules drop.
#[test]
fn dropped_router_advertisements_are_never_confirmed() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let client =
        "ip -6 addr add 2001:db8:9::9/128 dev lo && ip -6 route add fd99::b dev sw0 src 2001:db8:9::9";
    lab.exec(&["sh", "-c", client]).ok();
    let router = lab.exec(&["sh", "-c", "ip -6 -o addr show dev sw0 scope link | awk '{ print $4 }'"]).ok();
    let router = router.trim().split('/').next().unwrap().to_owned();
    on_host(&lab, &format!("ip -6 route add default via {router} dev eth0 proto ra expires 1700"));
    // Until then neither of the two answers for its addresses.
    until("duplicate address detection", || {
        let tentative = ["ip", "-6", "-o", "addr", "show", "tentative"];
        lab.exec(&tentative).ok().is_empty() && lab.host(HOST, &tentative).ok().is_empty()
    });
    let address = "fd99::b";
    let project = Project::new(&lab, &[HOST], "");
    let rules = |advertisements: &str| {
        let base = "-i lo -j ACCEPT\n-m state --state RELATED,ESTABLISHED -j ACCEPT\n-p tcp --dport 22 -j ACCEPT\n\
                    -p ipv6-icmp --icmpv6-type 135 -j ACCEPT\n-p ipv6-icmp --icmpv6-type 136 -j ACCEPT";
        rules6("INPUT", &format!("{base}\n{advertisements}-j DROP"))
    };
    at(&project, &lab, address, &rules(""));
    let run = project.apply(&lab, &["--accept-risk", "lockout"]).expect(4);
    assert!(run.stdout.contains("router advertisements on eth0"), "{}", run.stdout);
    at(&project, &lab, address, &rules("-p ipv6-icmp --icmpv6-type 134 -j ACCEPT\n"));
    project.apply(&lab, &[]).expect(0);
}
