//! What `explain` says where it lacks something, and in which order.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use kvmfw::expectation::{PacketEndpoint, PacketQuery, PacketTransport};
use kvmfw::explain::{ExplainContext, packet_reports, read_log};
use kvmfw::host_state::{Observed, ProbeSections, observe};
use kvmfw::report::{Style, explanation_text};

const HOST: &str = r#"@n host
hostname=kvm1
units=yes
root=yes
ssh=10.99.0.1 50000 10.99.0.11 22

@n rules4
backend=nft

@n live4
*filter
:INPUT ACCEPT [0:0]
-A INPUT -j LOG --log-prefix "IN: "
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -p udp -m udp --dport 53 -j ACCEPT
-A INPUT -p tcp -j DROP
COMMIT

@n rules6
backend=nft

@n links
[{"ifname": "eth0", "flags": ["UP"], "addr_info": [{"family": "inet", "local": "10.99.0.11", "prefixlen": 16, "scope": "global"}]}]

@n end
"#;

fn observed() -> Observed {
    observe(&ProbeSections::split(HOST, "n"), "").unwrap()
}

/// Who came by SSH fills the log with that, and looks for something else.
#[test]
fn the_operators_own_ssh_is_last_in_the_log() {
    let observed = observed();
    let live = ExplainContext::new("kvm1", &observed, None);
    let line = |src: &str, port: u16| {
        format!(
            "IN: IN=eth0 OUT= MAC=02 SRC={src} DST=10.99.0.11 LEN=56 PROTO=TCP SPT=50000 DPT={port} WINDOW=1 ACK URGP=0\n"
        )
    };
    let text = line("10.99.0.1", 22).repeat(500) + &line("10.99.0.2", 22).repeat(2) + &line("10.99.0.1", 80);
    let groups = read_log(&text, Some(&live), None).groups;
    let order: Vec<_> = groups.iter().map(|group| (group.count, group.port, group.own_ssh)).collect();
    assert_eq!(order, [(2, Some(22), false), (1, Some(80), false), (500, Some(22), true)]);
    // Without a host nobody knows who came.
    assert_eq!(read_log(&text, None, None).groups[0].count, 502);
}

/// Where the port decides and was not given, the answer is about those that people ask for.
#[test]
fn a_missing_port_is_named_and_common_ports_are_answered() {
    let observed = observed();
    let live = ExplainContext::new("kvm1", &observed, None);
    let mut asked = PacketQuery {
        from: Some(PacketEndpoint::Address("10.99.0.7".parse().unwrap())),
        to: PacketEndpoint::Address("10.99.0.11".parse().unwrap()),
        source: None,
        port: None,
        transport: PacketTransport::Tcp,
        device: Some("eth0".to_owned()),
        bridge: None,
        established: false,
    };
    let packets = packet_reports(&live, &asked).unwrap();
    assert_eq!(packets[0].verdict.verdict, "unknown");
    let common: Vec<_> = packets[0].common.iter().map(|one| (one.to.as_str(), one.verdict)).collect();
    assert_eq!(
        common,
        [
            ("10.99.0.11:22", "passes"),
            ("10.99.0.11:80", "dropped"),
            ("10.99.0.11:443", "dropped"),
            ("10.99.0.11:53", "dropped"),
            ("10.99.0.11:53/udp", "passes"),
            ("10.99.0.11/icmp", "passes"),
        ]
    );
    let found = kvmfw::explain::HostExplanation { packets, ..Default::default() };
    let text = explanation_text(&found, Style::default());
    assert!(text.contains("--to 10.99.0.11:22:"), "{text}");
    asked.port = Some(80);
    assert!(packet_reports(&live, &asked).unwrap()[0].common.is_empty());
}
