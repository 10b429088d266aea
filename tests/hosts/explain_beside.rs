//! What decides beside the rules: `explain` is compared with a packet that is sent, for each way in which a kernel drops
//! what all rules let pass.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::Project;
use common::transaction::until;

const HOST: &str = "kvm1";

/// A host that routes for its guests, with the controller on the other side.
struct Stage {
    lab: Lab,
    project: Project,
}

impl Stage {
    fn up() -> Self {
        let lab = Lab::up();
        let project = Project::new(&lab, &[HOST], "");
        let stage = Self { lab, project };
        stage.host("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        stage.guest("ip route add default via 192.168.1.254; ip -6 route add default via fd00:1::fe");
        let back = "ip address add 10.99.77.1/32 dev sw0; ip -6 address add fd99::77:1/128 dev sw0 nodad; ip route add 192.168.1.0/24 via 10.99.0.11; ip -6 route add fd00:1::/64 via fd99::b";
        stage.lab.exec(&["sh", "-c", back]).ok();
        stage
    }

    fn host(&self, command: &str) -> String {
        self.lab.host(HOST, &["sh", "-c", command]).ok()
    }

    fn guest(&self, command: &str) {
        self.lab.guest(HOST, "g0", &["sh", "-c", command]).ok();
    }

    /// The verdict and its reason.
    fn told(&self, more: &[&str]) -> (String, String) {
        let args = [&["explain", "--host", HOST, "--format", "json"][..], more].concat();
        let packet = self.project.kvmfw(&self.lab, &args).expect(0).json()["hosts"][0]["packets"][0].clone();
        let fate = &packet["fate"];
        let by = fate["by"]["text"].as_str().unwrap_or("");
        let because = fate["because"].as_str().unwrap_or("");
        (fate["verdict"].as_str().unwrap().to_owned(), format!("{by} {because}"))
    }

    /// Before `make` the packet passes and explain says so; after it the packet is lost, and explain says `verdict` and
    /// `words`; after `take_away` it passes again.
    fn measure(&self, case: &Case<'_>, passes: &dyn Fn() -> bool) {
        let Case { ask, make, take_away, verdict, words } = *case;
        let before = self.told(ask);
        assert!(passes() && before.0 == "passes", "before `{make}`: {before:?}");
        self.host(make);
        let told = self.told(ask);
        assert!(!passes(), "`{make}` drops nothing; explain says {told:?}");
        assert!(told.0 == verdict && told.1.contains(words), "`{make}`: {told:?}, not {verdict} {words}");
        self.host(take_away);
    }
}

struct Case<'a> {
    ask: &'a [&'a str],
    make: &'a str,
    take_away: &'a str,
    verdict: &'a str,
    words: &'a str,
}

fn case<'a>(
    ask: &'a [&'a str],
    make: &'a str,
    take_away: &'a str,
    verdict: &'a str,
    words: &'a str,
) -> Case<'a> {
    Case { ask, make, take_away, verdict, words }
}

#[test]
fn explain_follows_routes_and_sysctl_keys() {
    if !common::require_root() {
        return;
    }
    let stage = Stage::up();
    let routed = ["--from", "192.168.1.1", "--in", "br123", "--to", "10.99.77.1/icmp"];
    let out = || stage.lab.guest_ping(HOST, "g0", "10.99.77.1");
    let drop = |make, take_away, words| case(&routed, make, take_away, "dropped", words);
    let route = |kind: &str| format!("ip route add {kind} 10.99.77.1/32");
    let gone = "ip route del 10.99.77.1/32";
    let marked = "iptables -t mangle -A PREROUTING -p icmp -j MARK --set-mark 7; ip rule add fwmark 7";
    let unmarked = "iptables -t mangle -F; ip rule del fwmark 7";
    for case in [
        drop("sysctl -qw net.ipv4.ip_forward=0", "sysctl -qw net.ipv4.ip_forward=1", "does not forward"),
        drop(
            "sysctl -qw net.ipv4.conf.br123.forwarding=0",
            "sysctl -qw net.ipv4.conf.br123.forwarding=1",
            "net.ipv4.conf.br123.forwarding is 0",
        ),
        drop(&route("blackhole"), gone, "blackhole 10.99.77.1"),
        drop(&route("unreachable"), gone, "unreachable 10.99.77.1"),
        drop(&route("prohibit"), gone, "prohibit 10.99.77.1"),
        drop(&route("throw"), gone, "no route to 10.99.77.1"),
        drop(
            "ip rule add from 192.168.1.1 prohibit",
            "ip rule del from 192.168.1.1 prohibit",
            "from 192.168.1.1 prohibit",
        ),
        drop(
            "ip rule add iif br123 table 77; ip route add blackhole default table 77",
            "ip rule del iif br123 table 77; ip route flush table 77",
            "of table 77 drops it",
        ),
        drop(&format!("{marked} blackhole"), &format!("{unmarked} blackhole"), "fwmark 0x7"),
        drop(
            "iptables -t mangle -A PREROUTING -p icmp -j TTL --ttl-set 1",
            "iptables -t mangle -F",
            "leaves it no hop",
        ),
    ] {
        stage.measure(&case, &out);
    }
    // The same of IPv6.
    let routed = ["--from", "fd00:1::1", "--in", "br123", "--to", "[fd99::77:1]/icmp"];
    let out = || stage.lab.guest_ping(HOST, "g0", "fd99::77:1");
    let drop = |make, take_away, words| case(&routed, make, take_away, "dropped", words);
    for case in [
        drop(
            "sysctl -qw net.ipv6.conf.all.forwarding=0",
            "sysctl -qw net.ipv6.conf.all.forwarding=1",
            "net.ipv6.conf.all.forwarding is 0",
        ),
        drop(
            "ip -6 route add blackhole fd99::77:1/128",
            "ip -6 route del blackhole fd99::77:1/128",
            "blackhole fd99::77:1",
        ),
        drop(
            "ip6tables -t mangle -A PREROUTING -d fd99::77:1 -j HL --hl-set 1",
            "ip6tables -t mangle -F",
            "leaves it no hop",
        ),
    ] {
        stage.measure(&case, &out);
    }
    for (ask, verdict, words) in [
        (["--from", "fe80::1", "--in", "br123", "--to", "fd99::77:1"], "dropped", "an address of one link"),
        (["--from", "192.168.1.1", "--in", "br123", "--to", "8.8.8.8"], "dropped", "no route to 8.8.8.8"),
        (["--from", "10.99.0.11", "--in", "br123", "--to", "10.99.77.1"], "dropped", "of the host itself"),
        (["--from", "127.0.0.9", "--in", "br123", "--to", "10.99.77.1"], "dropped", "of the loopback"),
        (
            ["--from", "224.0.0.9", "--in", "br123", "--to", "10.99.77.1"],
            "dropped",
            "no packet may come from",
        ),
        (["--from", "192.168.1.1", "--in", "br123", "--to", "239.1.1.1/udp"], "unknown", "multicast"),
    ] {
        let told = stage.told(&ask);
        assert!(told.0 == verdict && told.1.contains(words), "{ask:?}: {told:?}");
    }
}

#[test]
fn the_target_of_nat_is_routed() {
    if !common::require_root() {
        return;
    }
    let stage = Stage::up();
    let ask = ["--from", "10.99.0.1", "--to", "10.99.0.11/icmp"];
    let ping = || stage.lab.exec(&["ping", "-c", "1", "-W", "1", "10.99.0.11"]).success();
    stage.host("iptables -t nat -A PREROUTING -d 10.99.0.11 -p icmp -j DNAT --to-destination 192.168.1.1");
    for case in [
        case(
            &ask,
            "sysctl -qw net.ipv4.ip_forward=0",
            "sysctl -qw net.ipv4.ip_forward=1",
            "dropped",
            "does not forward",
        ),
        case(
            &ask,
            "ip route add blackhole 192.168.1.1/32",
            "ip route del 192.168.1.1/32",
            "dropped",
            "blackhole 192.168.1.1",
        ),
        case(
            &ask,
            "iptables -t nat -F; iptables -t nat -A PREROUTING -d 10.99.0.11 -p icmp -j DNAT --to-destination 127.0.0.1",
            "sysctl -qw net.ipv4.conf.eth0.route_localnet=1",
            "dropped",
            "route_localnet is 0",
        ),
    ] {
        stage.measure(&case, &ping);
    }
    assert!(ping() && stage.told(&ask).0 == "passes", "{:?}", stage.told(&ask));
}

#[test]
fn explain_follows_a_bridged_frame() {
    if !common::require_root() {
        return;
    }
    let stage = Stage::up();
    let across = ["--from", "vnet0", "--to", "vnet1/icmp"];
    let near = ["--from", "vnet0", "--to", "192.168.1.2/icmp"];
    let here = ["--from", "vnet0", "--to", "host/icmp"];
    let ping = || stage.lab.guest_ping(HOST, "g0", "192.168.1.2");
    let ping_host = || stage.lab.guest_ping(HOST, "g0", "192.168.1.254");
    let isolate = "bridge link set dev vnet0 isolated on; bridge link set dev vnet1 isolated on";
    let join = "bridge link set dev vnet0 isolated off; bridge link set dev vnet1 isolated off";
    let vlans = "ip link set br123 type bridge vlan_filtering 1; bridge vlan del dev vnet1 vid 1; bridge vlan add dev vnet1 vid 7 pvid untagged";
    let plain = "bridge vlan del dev vnet1 vid 7; bridge vlan add dev vnet1 vid 1 pvid untagged; ip link set br123 type bridge vlan_filtering 0";
    let listen = "ip link set br123 type bridge stp_state 1 forward_delay 3000; ip link set vnet0 down; ip link set vnet1 down; ip link set vnet0 up; ip link set vnet1 up";
    let forward = "ip link set br123 type bridge stp_state 0; ip link set vnet0 down; ip link set vnet1 down; ip link set vnet0 up; ip link set vnet1 up";
    let guest_table = "nft add table bridge w; nft add chain bridge w i '{ type filter hook input priority 0; policy drop; }'";
    for (case, passes) in [
        (case(&across, isolate, join, "dropped", "are isolated"), &ping as &dyn Fn() -> bool),
        (case(&near, isolate, join, "unknown", "is isolated"), &ping),
        (case(&across, listen, forward, "dropped", "state listening"), &ping),
        (case(&near, listen, forward, "dropped", "state listening"), &ping),
        (case(&across, vlans, plain, "dropped", "no VLAN 1"), &ping),
        (case(&across, "ip link set br123 down", "ip link set br123 up", "dropped", "br123 is down"), &ping),
        (case(&here, guest_table, "nft delete table bridge w", "unknown", "nft table bridge w"), &ping_host),
    ] {
        if case.make.contains("vlan_filtering")
            && !stage
                .lab
                .host(HOST, &["sh", "-c", "ip link set br123 type bridge vlan_filtering 0"])
                .success()
        {
            continue;
        }
        // A bridge that was down learns anew, and the kernel reports its carrier up to a second later.
        until("guests reach each other", &ping);
        until("the bridge is up", || stage.host("cat /sys/class/net/br123/operstate").trim() == "up");
        stage.measure(&case, passes);
    }
    let told = stage.told(&["--from", "vnet0", "--to", "vnet0/icmp"]);
    assert!(told.0 == "dropped" && told.1.contains("hairpin"), "{told:?}");
    // What a bridge that is open for all rules does not carry is not said to be open.
    let family = || {
        let args = ["explain", "--host", HOST, "--bridge", "br123", "--format", "json"];
        stage.project.kvmfw(&stage.lab, &args).expect(0).json()["hosts"][0]["bridges"][0]["families"][0]
            .clone()
    };
    assert!(family()["doubt"].is_null(), "{:#}", family());
    stage.host(isolate);
    assert!(family()["doubt"]["by"]["text"].as_str().unwrap().contains("isolated"), "{:#}", family());
}

/// `--in` is routed as its help says, and a port is known to rules only where bridged frames meet them.
#[test]
fn packets_that_enter_by_a_bridge() {
    if !common::require_root() {
        return;
    }
    let stage = Stage::up();
    stage.host("sysctl -qw net.bridge.bridge-nf-call-iptables=0; iptables -A INPUT -m physdev --physdev-in vnet0 -j DROP");
    assert!(stage.lab.guest_ping(HOST, "g0", "192.168.1.254"), "no rule is told of a port");
    assert_eq!(stage.told(&["--from", "vnet0", "--to", "host/icmp"]).0, "passes");
    stage.host("sysctl -qw net.bridge.bridge-nf-call-iptables=1");
    assert!(!stage.lab.guest_ping(HOST, "g0", "192.168.1.254"));
    assert_eq!(stage.told(&["--from", "vnet0", "--to", "host/icmp"]).0, "dropped");
    // The guest sends to its gateway what is for its neighbour: the host routes it back by the bridge.
    stage.host("sysctl -qw net.bridge.bridge-nf-call-iptables=0; iptables -F; iptables -A FORWARD -i br123 -o br123 -j DROP");
    let ask = ["--in", "br123", "--from", "192.168.1.1", "--to", "192.168.1.2/icmp"];
    let told = stage.told(&ask);
    assert!(told.0 == "dropped" && told.1.contains("-i br123 -o br123 -j DROP"), "{told:?}");
    stage.guest("ip route add 192.168.1.2/32 via 192.168.1.254");
    assert!(!stage.lab.guest_ping(HOST, "g0", "192.168.1.2"), "routed, and dropped");
    stage.host("iptables -F");
    assert!(stage.lab.guest_ping(HOST, "g0", "192.168.1.2") && stage.told(&ask).0 == "passes");
}

/// What cannot be decided is named.
#[test]
fn unknown_facts_are_named() {
    if !common::require_root() {
        return;
    }
    let stage = Stage::up();
    let routed = ["--from", "192.168.1.1", "--in", "br123", "--to", "10.99.0.1/icmp"];
    assert_eq!(stage.told(&routed).0, "passes");
    for (make, take_away, words) in [
        (
            "ip xfrm policy add src 192.168.1.0/24 dst 10.99.0.0/16 dir fwd action block",
            "ip xfrm policy deleteall",
            "an IPsec policy",
        ),
        ("tc qdisc add dev br123 clsact", "tc qdisc del dev br123 clsact", "the tc filters of br123"),
        (
            "ip link add vrf7 type vrf table 7; ip link set vrf7 up; ip link set br123 master vrf7",
            "ip link set br123 nomaster; ip link del vrf7",
            "the VRF vrf7",
        ),
        (
            "ip rule add sport 7 table 77; ip route add blackhole default table 77",
            "ip rule del table 77; ip route flush table 77",
            "sport",
        ),
    ] {
        // Not every kernel has all of them.
        if !stage.lab.host(HOST, &["sh", "-c", make]).success() {
            common::tell(&format!("skipped, the kernel has none: {make}"));
            continue;
        }
        let told = stage.told(&routed);
        assert!(told.0 == "unknown" && told.1.contains(words), "{make}: {told:?}");
        stage.host(take_away);
        assert_eq!(stage.told(&routed).0, "passes", "{take_away}");
    }
}
