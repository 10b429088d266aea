#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use super::*;
use crate::netfilter::{BridgeView, HostContext, NetfilterHook, OtherTable, Ruleset, TableEffect};
use crate::resource::iptables::IpFamily;
use crate::resource::iptables::save::SavedTables;
use std::collections::{BTreeMap, BTreeSet};

/// A filter table with these rules.
fn rules(text: &str) -> Ruleset {
    let head = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n";
    Ruleset::new(&SavedTables::parse(&format!("{head}{text}COMMIT\n")).unwrap())
}

fn bridge(name: &str, nf_call: bool) -> BridgeView {
    let ports = ["eth0", "vnet0", "vnet1"].map(|port| format!("{port}.{name}")).to_vec();
    BridgeView { name: name.to_owned(), ports, nf_call, untagged: None }
}

fn side(rules: &Ruleset, bridges: Vec<BridgeView>) -> HostSide<'_> {
    HostSide { rules, bridges, forwards: BTreeMap::new() }
}

fn topology() -> HostTopology {
    let guests = ["br0", "br1"].iter().flat_map(|br| [format!("vnet0.{br}"), format!("vnet1.{br}")]);
    HostTopology { guests: guests.collect(), ..HostTopology::default() }
}

/// `flow: before → after by`, a line each.
fn shown(family: IpFamily, changes: &[FlowChange]) -> String {
    let place = |decider: &FlowDecider| match decider {
        FlowDecider::Rule(step) if step.chain.is_empty() => (Some(step.to_string()), None),
        FlowDecider::Rule(step) => {
            let rule = step.index.map_or_else(|| format!(" {}", step.text), |index| format!(" rule {index}"));
            (Some(format!("{}{rule}", step.chain)), None)
        }
        FlowDecider::Bypass(_) => (Some("bypass".to_owned()), None),
        FlowDecider::Forwarding(key) => (Some(key.clone()), None),
        FlowDecider::Nothing => (None, None),
    };
    let text = |line: ImpactLine| {
        let by = line.by.map_or_else(String::new, |by| format!(" by {by}"));
        format!("{}: {} → {}{by}\n", line.flow, line.before.as_str(), line.after.as_str())
    };
    lines(family, changes, place).into_iter().map(text).collect()
}

fn impact(
    family: IpFamily,
    context: &HostContext,
    sides: [&HostSide<'_>; 2],
    topology: &HostTopology,
) -> String {
    shown(family, &changed_flows((family, context), topology, sides, false))
}

#[test]
fn guests_lose_everything_without_the_bypass() {
    let (open, wall) = (rules(""), rules("-A FORWARD -j DROP\n"));
    let context = HostContext::default();
    let bypassed = || vec![bridge("br0", false), bridge("br1", false)];
    let filtered = || vec![bridge("br0", true), bridge("br1", true)];
    for family in IpFamily::ALL {
        let which = if family == IpFamily::V4 { "IPv4" } else { "IPv6" };
        let sides = [&side(&wall, bypassed()), &side(&wall, filtered())];
        let expected =
            format!("guests on br0 and br1, all traffic, {which}: open → blocked by FORWARD rule 1\n");
        assert_eq!(impact(family, &context, sides, &topology()), expected);
        let back = format!("guests on br0 and br1, all traffic, {which}: blocked → open by bypass\n");
        assert_eq!(impact(family, &context, [sides[1], sides[0]], &topology()), back);
    }
    // Rules that nothing meets change nothing.
    let sides = [&side(&open, bypassed()), &side(&wall, bypassed())];
    assert_eq!(impact(IpFamily::V4, &context, sides, &topology()), "");
}

#[test]
fn kinds_and_directions_that_differ_are_lines_of_their_own() {
    let before = rules("");
    let after = rules(
        "-A FORWARD -m state --state ESTABLISHED -j ACCEPT\n-A FORWARD -p icmp -j ACCEPT\n\
         -A FORWARD -m physdev --physdev-in eth0.br0 -j ACCEPT\n-A FORWARD -j REJECT\n",
    );
    let sides = [&side(&before, vec![bridge("br0", true)]), &side(&after, vec![bridge("br0", true)])];
    assert_eq!(
        impact(IpFamily::V4, &HostContext::default(), sides, &topology()),
        "guests on br0 to each other and to the uplink, new TCP and new UDP, IPv4: open → blocked by FORWARD \
         rule 4\n"
    );
}

/// Where a port stays cut off, the others that are no longer do not hide it, and it does not hide them.
#[test]
fn ports_that_change_and_ports_that_do_not_are_lines_of_their_own() {
    let (wall, one) =
        (rules("-A FORWARD -j DROP\n"), rules("-A FORWARD -m physdev --physdev-in vnet0.br0 -j DROP\n"));
    let filtered = || vec![bridge("br0", true)];
    let sides = [&side(&wall, filtered()), &side(&one, filtered())];
    let of = |all| {
        let context = HostContext::default();
        shown(IpFamily::V4, &changed_flows((IpFamily::V4, &context), &topology(), sides, all))
    };
    let some = "some guests on br0 to each other and to the uplink, all traffic, IPv4: blocked → ";
    let gained = format!("{some}open by FORWARD policy ACCEPT\n");
    let back = "guests on br0 from the uplink, all traffic, IPv4: blocked → open by FORWARD policy ACCEPT\n";
    assert_eq!(of(false), format!("{gained}{back}"));
    assert_eq!(of(true), format!("{gained}{some}blocked by FORWARD rule 1\n{back}"));
}

#[test]
fn what_cannot_be_simulated_is_unknown_and_named() {
    let (wall, odd) =
        (rules("-A FORWARD -j DROP\n"), rules("-A FORWARD -m time --timestart 08:00 -j DROP\n"));
    let view = || vec![bridge("br0", true)];
    let context = HostContext::default();
    let sides = [&side(&wall, view()), &side(&odd, view())];
    assert_eq!(
        impact(IpFamily::V4, &context, sides, &topology()),
        "guests on br0, all traffic, IPv4: blocked → unknown by FORWARD rule 1\n"
    );
    let table = OtherTable {
        name: "nft table inet x".to_owned(),
        hooks: vec![NetfilterHook::Forward],
        effect: TableEffect::MayDrop,
    };
    let context = HostContext { other_tables: vec![table], ..context };
    let open = rules("");
    let sides = [&side(&wall, view()), &side(&open, view())];
    assert_eq!(
        impact(IpFamily::V4, &context, sides, &topology()),
        "guests on br0, all traffic, IPv4: blocked → unknown by nft table inet x, which may drop it\n"
    );
    // Unknown before and after says nothing.
    let sides = [&side(&odd, view()), &side(&open, view())];
    assert_eq!(impact(IpFamily::V4, &context, sides, &topology()), "");
}

#[test]
fn listening_ports_of_one_verdict_are_one_line() {
    let before = rules("");
    let after = rules("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p tcp -j DROP\n");
    let listening = [(8080, true), (16509, true), (5405, false)].into();
    let topology = HostTopology { listening, ..topology() };
    let sides = [&side(&before, vec![]), &side(&after, vec![])];
    assert_eq!(
        impact(IpFamily::V4, &HostContext::default(), sides, &topology),
        "listening ports 8080/tcp and 16509/tcp (libvirt), IPv4: open → blocked by INPUT rule 2\n"
    );
}

#[test]
fn routed_guests_need_forwarding_and_may_be_rewritten() {
    let nat = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
               -A POSTROUTING -s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE\nCOMMIT\n";
    let (masquerade, open) = (Ruleset::new(&SavedTables::parse(nat).unwrap()), rules(""));
    let routed = RoutedNetwork {
        device: "virbr0".to_owned(),
        uplink: "eth0".to_owned(),
        guest: "192.168.122.2".parse().unwrap(),
    };
    let topology = HostTopology { routed: vec![routed], ..HostTopology::default() };
    let mut sides = [side(&open, vec![]), side(&masquerade, vec![])];
    let context = HostContext::default();
    assert_eq!(
        impact(IpFamily::V4, &context, [&sides[0], &sides[1]], &topology),
        "guests on virbr0 to other networks, new TCP, new UDP and ICMP, IPv4: open → rewritten by POSTROUTING \
         rule 1\n"
    );
    let key = "net/ipv4/ip_forward";
    sides[0] = sides[1].clone();
    sides[1].forwards = ["virbr0", "eth0"].map(|device| (device.to_owned(), (false, key.to_owned()))).into();
    let text = impact(IpFamily::V4, &context, [&sides[0], &sides[1]], &topology);
    let lines: BTreeSet<&str> = text.lines().collect();
    assert!(
        lines.iter().all(|line| line.ends_with(" → blocked by net/ipv4/ip_forward")) && lines.len() == 3,
        "{text}"
    );
}

#[test]
fn open_connections_are_named_by_their_service() {
    let (before, after) = (rules(""), rules("-A OUTPUT -p tcp -m tcp --dport 3260 -j DROP\n"));
    let open = |service, tcp| OpenConnection {
        local: "192.0.2.1".parse().unwrap(),
        peer: "192.0.2.50".parse().unwrap(),
        service,
        tcp,
        serves: false,
    };
    let connections = [open(3260, true), open(2049, true), open(40_001, true)].into();
    let sides = [&side(&before, vec![]), &side(&after, vec![])];
    let found = changed_connections((IpFamily::V4, &HostContext::default()), &connections, sides, false);
    assert_eq!(
        shown(IpFamily::V4, &found),
        "open connections of 3260/tcp (iSCSI), IPv4: open → blocked by OUTPUT rule 1\n"
    );
}

#[test]
fn hosts_that_are_alike_are_simulated_once() {
    let digest = |text: &str| {
        let mut digest = FlowDigest::default();
        digest.add(&("hosts_that_are_alike", text));
        digest
    };
    let mut simulated = 0;
    for text in ["a", "a", "b", "a"] {
        remembered(&digest(text), || {
            simulated += 1;
            Vec::new()
        });
    }
    assert_eq!(simulated, 2);
}
