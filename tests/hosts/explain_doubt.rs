//! What `explain` must not promise: each answer is measured with a packet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::Project;
use common::{Backend, Lab};

const HOST: &str = "kvm1";

/// *Open* is said only of bridges where nothing may drop: each of these is measured with a guest's ping, which dies.
#[test]
fn guests_that_may_be_unreachable_are_never_reported_as_open() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], "");
    let host = |command: &str| lab.host(HOST, &["sh", "-c", command]).ok();
    let explain = |args: &[&str]| {
        let args = [&["explain", "--host", HOST, "--format", "json"][..], args].concat();
        project.kvmfw(&lab, &args).expect(0).json()["hosts"][0].clone()
    };
    let by = |told: &serde_json::Value| {
        let text = |key: &str| told["by"][key].as_str().unwrap_or("").to_owned();
        format!("{} {}", text("table"), text("text"))
    };
    let v4 = || explain(&["--bridge", "br123"])["bridges"][0]["families"][0].clone();
    let ping = || lab.guest_ping(HOST, "g0", "192.168.1.2");
    assert!(ping() && v4()["doubt"].is_null() && v4()["dark"].is_null(), "{:#}", v4());
    let bridge_table = "nft add table bridge w; nft add chain bridge w f '{ type filter hook forward priority 0; policy drop; }'";
    let off = "sysctl -qw net.bridge.bridge-nf-call-iptables=0";
    let gone = format!("nft delete table bridge w; {}", off.replace("=0", "=1"));
    for (make, take_away, blamed) in [
        (
            "iptables -A FORWARD -d 192.168.1.2 -j DROP",
            "iptables -F FORWARD",
            "filter -d 192.168.1.2/32 -j DROP",
        ),
        (
            "iptables -t nat -A POSTROUTING -s 192.168.1.0/24 -j MASQUERADE",
            "iptables -t nat -F",
            "nat -s 192.168.1.0/24 -j MASQUERADE",
        ),
        (
            "nft add table ip filter; nft add chain ip filter late '{ type filter hook forward priority 5; policy drop; }'",
            "nft delete chain ip filter late",
            "the native part of the nft table filter may drop it",
        ),
        (&format!("{bridge_table}; {off}"), &gone, "nft table bridge w may drop it"),
    ] {
        host(make);
        assert!(!ping(), "{make}");
        let told = v4();
        assert!(told["dark"].is_null() && by(&told["doubt"]) == blamed, "{make}: {told:#}");
        let text = project.kvmfw(&lab, &["explain", "--host", HOST]).expect(0).stdout;
        assert!(text.contains("IPv4  UNKNOWN  ") && text.contains("may be dropped: "), "{text}");
        let svg = project.kvmfw(&lab, &["explain", "--host", HOST, "--format", "svg"]).expect(0).stdout;
        let table = blamed.rsplit_once(" may drop it").map_or(blamed, |(table, _)| table);
        let on_the_way = told["tables"][0].as_str().unwrap();
        assert!(table.contains(on_the_way.split('/').next().unwrap()), "{told:#}");
        assert!(svg.contains(&format!("on the way: {on_the_way}")), "{svg}");
        assert!(svg.contains("class=\"doubt\"") && svg.contains("class=\"maybe\""), "{svg}");
        let mermaid =
            project.kvmfw(&lab, &["explain", "--host", HOST, "--format", "mermaid"]).expect(0).stdout;
        assert!(mermaid.contains("b0 -.-> b0f0") && mermaid.contains("class b0f0"), "{mermaid}");
        if !make.contains("-d 192") {
            let fate =
                explain(&["--from", "vnet0", "--to", "192.168.1.2/icmp"])["packets"][0]["fate"].clone();
            assert_eq!(
                (fate["verdict"].as_str(), by(&fate)),
                (Some("unknown"), blamed.to_owned()),
                "{fate:#}"
            );
        }
        host(take_away);
        assert!(ping(), "{take_away}");
    }
    // A host that forwards brings back what it rewrites.
    host("iptables -t nat -A POSTROUTING -s 192.168.1.0/24 -j MASQUERADE; sysctl -qw net.ipv4.ip_forward=1");
    assert!(ping() && v4()["doubt"].is_null(), "{:#}", v4());
}

/// What others do to a packet before our tables see it, and a policy of the other backend that no rule goes with:
/// measured with a guest's ping, which dies, and one command later lives.
#[test]
fn another_program_changes_packets_before_the_rules() {
    if !common::require_root() {
        return;
    }
    for (backend, other) in [(Backend::Nft, "legacy"), (Backend::Legacy, "nft")] {
        let lab = Lab::builder().backend(backend).up();
        let project = Project::new(&lab, &[HOST], "");
        let host = |command: &str| lab.host(HOST, &["sh", "-c", command]).ok();
        let fate = || {
            let args = [
                "explain",
                "--host",
                HOST,
                "--from",
                "vnet0",
                "--to",
                "192.168.1.2/icmp",
                "--format",
                "json",
            ];
            project.kvmfw(&lab, &args).expect(0).json()["hosts"][0]["packets"][0]["fate"]["verdict"].clone()
        };
        let ping = || lab.guest_ping(HOST, "g0", "192.168.1.2");
        let first = |act: &str| {
            format!(
                "nft add table inet w; nft add chain inet w f '{{ type filter hook prerouting priority -310; }}'; nft add rule inet w f ip protocol icmp {act}"
            )
        };
        let flush = "nft delete table inet w; iptables -F FORWARD";
        for (make, take_away) in [
            (first("meta mark set 7") + "; iptables -A FORWARD -m mark --mark 7 -j DROP", flush.to_owned()),
            (
                first("notrack") + "; iptables -A FORWARD -m conntrack --ctstate UNTRACKED -j DROP",
                flush.to_owned(),
            ),
            (
                first("ip daddr set 192.168.1.99") + "; iptables -A FORWARD -d 192.168.1.99 -j DROP",
                flush.to_owned(),
            ),
            (format!("iptables-{other} -P FORWARD DROP"), format!("iptables-{other} -P FORWARD ACCEPT")),
        ] {
            assert_eq!((ping(), fate().as_str()), (true, Some("passes")), "{backend:?}: before {make}");
            host(&make);
            assert!(!ping(), "{backend:?}: {make}");
            assert_eq!(fate(), "unknown", "{backend:?}: {make}");
            host(&take_away);
        }
        assert!(ping(), "{backend:?}");
    }
}

/// What comes in where the way back does not lead is dropped by a strict reverse path filter, whatever the rules say.
#[test]
fn the_reverse_path_filter_is_asked() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], "");
    let host = |command: &str| lab.host(HOST, &["sh", "-c", command]).ok();
    lab.guest(HOST, "g0", &["ip", "address", "add", "10.99.0.77/32", "dev", "eth0"]).ok();
    host("iptables -A INPUT -s 10.99.0.77 -j ACCEPT");
    let told = |from: &str| {
        let args = ["explain", "--host", HOST, "--from", from, "--in", "br123", "--to", "192.168.1.254/icmp"];
        let args = [&args[..], &["--format", "json"]].concat();
        let fate = project.kvmfw(&lab, &args).expect(0).json()["hosts"][0]["packets"][0]["fate"].clone();
        (fate["verdict"].as_str().unwrap().to_owned(), fate["because"].as_str().unwrap_or("").to_owned())
    };
    let arrives = || {
        host("iptables -Z INPUT");
        // The answer leaves by another way, so only the host can tell.
        lab.guest(HOST, "g0", &["ping", "-c", "1", "-W", "1", "-I", "10.99.0.77", "192.168.1.254"]);
        let counted = host("iptables -nvxL INPUT 1");
        counted.split_whitespace().next() != Some("0")
    };
    for (all, own, passes) in [(0, 0, true), (1, 0, false), (0, 1, false), (1, 2, true), (2, 1, true)] {
        host(&format!("sysctl -qw net.ipv4.conf.all.rp_filter={all} net.ipv4.conf.br123.rp_filter={own}"));
        let (verdict, because) = told("10.99.0.77");
        assert_eq!((arrives(), verdict == "passes"), (passes, passes), "{all} {own}: {verdict}: {because}");
        assert!(passes || because.contains("the way back to 10.99.0.77 is eth0"), "{because}");
        assert_eq!(told("192.168.1.1").0, "passes", "its way back is the same");
    }
}

/// A native table of nft counts where it can do something to the packet that is asked about, and only there.
#[test]
fn native_tables_that_may_drop_make_it_unknown() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], "");
    let verdict = |to: &str| {
        let args = ["explain", "--host", HOST, "--from", "vnet0", "--to", to, "--format", "json"];
        let host = project.kvmfw(&lab, &args).expect(0).json()["hosts"][0].clone();
        let fate = &host["packets"][0]["fate"];
        format!("{} {} {}", fate["verdict"], fate["by"]["table"], host["others"])
    };
    let nft = |script: &str| lab.host(HOST, &["nft", script]).ok();
    let (v4, v6) = ("192.168.1.53:80", "[fd00:1::53]:80");
    let open = "\"passes\" null null";
    nft(
        "add table inet watch; add chain inet watch f { type filter hook forward priority 10; }; add rule inet watch f counter; \
         add rule inet watch f tcp flags syn tcp option maxseg size set rt mtu; add rule inet watch f ip dscp set cs1; \
         add rule inet watch f ct mark set 1",
    );
    assert_eq!(
        (verdict(v4), verdict(v6)),
        (open.to_owned(), open.to_owned()),
        "nothing of that do rules ask for"
    );
    nft(
        "add table ip6 other; add chain ip6 other f { type filter hook forward priority 10; }; add rule ip6 other f tcp dport 80 drop",
    );
    let told = "[\"nft table ip6 other\"]";
    assert_eq!(verdict(v4), format!("\"passes\" null {told}"));
    assert_eq!(verdict(v6), format!("\"unknown\" \"nft table ip6 other\" {told}"));
    let text = project.kvmfw(&lab, &["explain", "--host", HOST]).expect(0).stdout;
    assert!(text.contains("nft table ip6 other"), "{text}");
}

/// What is logged alike and ends differently, because a rule asks for the source, is two groups.
#[test]
fn one_end_for_each_group_of_a_log() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], "");
    let rules = "iptables -A INPUT -j LOG --log-prefix 'Firewall INPUT: '; iptables -A INPUT -s 10.99.128.0/17 -j DROP";
    lab.host(HOST, &["sh", "-c", rules]).ok();
    let line = |source: &str| {
        format!(
            "kernel: Firewall INPUT: IN=eth0 OUT= MAC=02 SRC={source} DST=10.99.0.11 LEN=56 PROTO=UDP SPT=4001 DPT=53 LEN=36\n"
        )
    };
    let log = project.path().join("kern.log");
    std::fs::write(&log, ["10.99.0.5", "10.99.200.6", "10.99.0.5", "10.99.0.6"].map(line).concat()).unwrap();
    let args = ["explain", "--host", HOST, "--format", "json", "--log", log.to_str().unwrap()];
    let json = project.kvmfw(&lab, &args).expect(0).json();
    let groups = json["hosts"][0]["log"]["groups"].as_array().unwrap().clone();
    let told: Vec<_> = groups.iter().map(|g| (g["count"].as_u64(), g["live"]["verdict"].as_str())).collect();
    assert_eq!(told, [(Some(3), Some("passes")), (Some(1), Some("dropped"))], "{json:#}");
}
