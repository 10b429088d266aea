//! How long a walk takes through a table of 10,000 rules, none of which decides before the last.

#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use kvmfw::netfilter::{
    ConntrackStates, HostContext, Packet, PacketDevice, PacketPath, PacketVerdict, Ruleset, TcpFlags,
    simulate,
};
use kvmfw::resource::iptables::IpFamily;
use kvmfw::resource::iptables::save::SavedTables;
use std::fmt::Write;
use std::hint::black_box;

/// Blocklists and port rules, as hosts with long tables have them, then the accept of SSH.
fn table() -> String {
    let mut text = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_owned();
    for n in 0..5_000 {
        writeln!(text, "-A INPUT -s 203.{}.{}.0/24 -j DROP", n / 250, n % 250).unwrap();
        writeln!(text, "-A INPUT -p tcp -m state --state NEW -m tcp --dport {} -j DROP", 20_000 + n).unwrap();
    }
    text + "-A INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT\nCOMMIT\n"
}

fn packet() -> Packet {
    Packet {
        src: "192.0.2.9".parse().ok(),
        dst: "192.0.2.1".parse().ok(),
        in_iface: PacketDevice::named("eth0"),
        out_iface: PacketDevice::Absent,
        state: ConntrackStates::NEW,
        ..Packet::tcp(IpFamily::V4, 40_000, 22, TcpFlags::SYN)
    }
}

fn walks(criterion: &mut Criterion) {
    let text = table();
    let (rules, around, packet) =
        (Ruleset::new(&SavedTables::parse(&text).unwrap()), HostContext::default(), packet());
    assert_eq!(simulate(&rules, &around, PacketPath::Input, &packet).verdict, PacketVerdict::Accept);
    criterion.bench_function("a walk through 10,000 rules", |bencher| {
        bencher.iter(|| simulate(black_box(&rules), &around, PacketPath::Input, black_box(&packet)));
    });
    criterion.bench_function("reading 10,000 rules and a walk", |bencher| {
        bencher.iter(|| {
            let rules = Ruleset::new(&SavedTables::parse(black_box(&text)).unwrap());
            simulate(&rules, &around, PacketPath::Input, &packet)
        });
    });
}

criterion_group!(benches, walks);
criterion_main!(benches);
