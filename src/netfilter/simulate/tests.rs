use super::*;
use crate::netfilter::fixtures::{classic_v4, filter, ruleset};
use crate::netfilter::{
    ConntrackStates, FragmentPart, IptablesBackend, MatchTest, ParsedRule, TcpFlags, Tristate, shadowed_rules,
};
use crate::resource::iptables::IpFamily;
use proptest::prelude::*;

/// A host-bound packet of which most is known.
fn packet() -> Packet {
    Packet {
        src: "10.0.0.5".parse().ok(),
        dst: "10.0.0.1".parse().ok(),
        in_iface: PacketDevice::named("br0"),
        out_iface: PacketDevice::Absent,
        physin: PacketDevice::named("vnet0"),
        physout: PacketDevice::Absent,
        state: ConntrackStates::NEW,
        ..Packet::tcp(IpFamily::V4, 40_000, 22, TcpFlags::SYN)
    }
}

fn context() -> HostContext {
    HostContext::default()
}

/// kube-proxy marks in nat before routing, and asks for the mark after it.
#[test]
fn a_mark_set_in_nat_is_seen_after_routing() {
    let rules = ruleset(
        "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j MARK --set-xmark 0x4000/0x4000\nCOMMIT\n\
         *filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m mark --mark 0x4000/0x4000 -j DROP\nCOMMIT\n",
    );
    let packet = Packet { mark: Some(0), ..packet() };
    assert_eq!(simulate(&rules, &context(), PacketPath::Input, &packet).verdict, PacketVerdict::Drop);
}

/// Whatever our rules say of it, where another table may have made something else of it before they are asked.
#[test]
fn a_packet_that_may_be_rewritten_is_not_known() {
    let closed = filter("-A INPUT -j DROP");
    let verdict = |hooks: &[&[NetfilterHook]], bridged| {
        let table = |hooks: &&[NetfilterHook]| OtherTable {
            name: "other".into(),
            hooks: hooks.to_vec(),
            effect: TableEffect::MayRewrite,
        };
        let context = HostContext { other_tables: hooks.iter().map(table).collect(), ..context() };
        simulate(&closed, &context, PacketPath::Input, &Packet { bridged, ..packet() }).verdict
    };
    assert_eq!(verdict(&[&[NetfilterHook::Input]], false), PacketVerdict::Unknown);
    assert_eq!(verdict(&[&[NetfilterHook::Bridge]], true), PacketVerdict::Unknown);
    // The first of them is not on its way.
    assert_eq!(
        verdict(&[&[NetfilterHook::Forward], &[NetfilterHook::Prerouting]], false),
        PacketVerdict::Unknown
    );
    for elsewhere in [NetfilterHook::Forward, NetfilterHook::Bridge, NetfilterHook::Postrouting] {
        assert_eq!(verdict(&[&[elsewhere]], false), PacketVerdict::Drop, "{elsewhere:?}");
    }
}

/// iptables-nft asks security of INPUT behind nat, where the source is what SNAT made of it.
#[test]
fn security_of_input_stands_where_the_backend_puts_it() {
    let rules = ruleset(
        "*nat\n:INPUT ACCEPT [0:0]\n-A INPUT -j SNAT --to-source 10.0.0.253\nCOMMIT\n\
         *security\n:INPUT ACCEPT [0:0]\n-A INPUT -s 10.9.0.5/32 -j DROP\nCOMMIT\n",
    );
    let packet = Packet { src: "10.9.0.5".parse().ok(), ..packet() };
    for (backend, verdict) in [
        (Some(IptablesBackend::Legacy), PacketVerdict::Drop),
        (Some(IptablesBackend::Nft), PacketVerdict::Accept),
        (None, PacketVerdict::Unknown),
    ] {
        let context = HostContext { backend, ..context() };
        assert_eq!(simulate(&rules, &context, PacketPath::Input, &packet).verdict, verdict, "{backend:?}");
    }
}

/// What the host redirects to itself and masquerades on `lo` has one of its own addresses, whichever the kernel takes.
#[test]
fn a_masqueraded_source_is_one_of_the_hosts_own() {
    let verdict = |network: &str| {
        let rules = ruleset(&format!(
            "*nat\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A OUTPUT -j REDIRECT\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n\
             *filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s {network} -j DROP\nCOMMIT\n"
        ));
        let own = ["10.9.0.254/24", "10.8.0.254/24"];
        let addresses = own.map(|own| ("eth0".to_owned(), own.parse().unwrap())).to_vec();
        let context = HostContext { addresses, ..context() };
        let packet = Packet {
            src: "10.9.0.254".parse().ok(),
            in_iface: PacketDevice::Absent,
            out_iface: PacketDevice::named("eth0"),
            ..packet()
        };
        simulate(&rules, &context, PacketPath::Output, &packet).verdict
    };
    assert_eq!(verdict("192.0.2.0/24"), PacketVerdict::Accept);
    assert_eq!(verdict("0.0.0.0/0"), PacketVerdict::Drop);
    assert_eq!(verdict("10.9.0.0/24"), PacketVerdict::Unknown);
}

/// Where raw may have taken it out of conntrack, nobody knows whether SNAT rewrites it.
#[test]
fn a_source_of_what_may_be_untracked_is_not_known() {
    let left = |raw: &str| {
        let rules = ruleset(&format!(
            "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {raw}-j CT --notrack\nCOMMIT\n\
             *nat\n:POSTROUTING ACCEPT [0:0]\n-A POSTROUTING -j SNAT --to-source 10.9.0.254\nCOMMIT\n"
        ));
        let packet =
            Packet { src: "10.9.0.5".parse().ok(), out_iface: PacketDevice::named("eth1"), ..packet() };
        simulate(&rules, &context(), PacketPath::Forward, &packet).final_packet.and_then(|(_, left)| left.src)
    };
    assert_eq!(left("-p udp "), "10.9.0.254".parse().ok());
    assert_eq!(left(""), "10.9.0.5".parse().ok());
    assert_eq!(left("-m limit --limit 1/min "), None);
}

/// What a rule of a port says of a piece that has none is chance on iptables-nft.
#[test]
fn later_pieces_have_no_ports() {
    let later = Packet { fragment: FragmentPart::Later, ..packet() };
    for (rule, answer) in [
        ("-f", Tristate::Yes),
        ("! -f", Tristate::No),
        ("-p tcp", Tristate::Yes),
        ("-p tcp -m tcp --dport 22", Tristate::Unknown),
        ("-p tcp -m tcp ! --dport 22", Tristate::Unknown),
        ("-p udp -m udp --dport 22", Tristate::No),
    ] {
        assert_eq!(ParsedRule::parse(rule).matches(&later), answer, "{rule}");
    }
}

#[test]
fn conditions() {
    use Tristate::{No, Unknown, Yes};
    for (text, expected) in [
        ("", Yes),
        ("-s 10.0.0.0/8", Yes),
        ("! -s 10.0.0.0/8", No),
        ("-s 10.9.0.5/255.0.255.255", Yes),
        ("-d 2001:db8::1/128", No),
        ("-i br+", Yes),
        ("! -i br0", No),
        ("-o eth0", No),
        ("! -o eth0", Yes),
        ("-p tcp", Yes),
        ("-p ospf", No),
        ("-p nosuchname", Unknown),
        ("-f", No),
        ("! -f", Yes),
        ("-m length --length 0:27", No),
        ("-m length ! --length 0:27", Yes),
        ("-m length --length 39", No),
        ("-m length --length 40:1500", Unknown),
        ("-m length --length 40:65535", Yes),
        ("-p tcp -m tcp --sport 1024:65535 --dport 22", Yes),
        ("-p tcp -m tcp ! --dport 22", No),
        ("-p udp -m udp ! --dport 22", No),
        ("-p tcp -m tcp --dport 22 --tcp-option 2", Unknown),
        ("-p tcp -m tcp --dport 23 --tcp-option 2", No),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", Yes),
        ("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", No),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG NONE", No),
        ("-p tcp -m multiport ! --dports 80,443", Yes),
        ("-p tcp -m multiport --ports 80,40000", Yes),
        ("-p icmp -m icmp --icmp-type any", No),
        ("-m state --state NEW,ESTABLISHED", Yes),
        ("-m state ! --state NEW", No),
        ("-m conntrack --ctstate INVALID,UNTRACKED", No),
        ("-m conntrack --ctstate DNAT", Unknown),
        ("-m conntrack --ctstate NEW --ctdir ORIGINAL", Yes),
        ("-m conntrack --ctstate NEW --ctproto 6", Unknown),
        ("-m conntrack ! --ctdir ORIGINAL", No),
        ("-m conntrack --ctstate INVALID --ctdir ORIGINAL", No),
        ("-m physdev --physdev-in vnet+", Yes),
        ("-m physdev ! --physdev-in vnet0", No),
        ("-m physdev --physdev-is-in", Yes),
        ("-m physdev --physdev-is-bridged", No),
        ("-m physdev ! --physdev-is-bridged", Yes),
        ("-m physdev --physdev-out eth1", No),
        // As the kernel has it: came in by a port, leaves by none.
        ("-m physdev ! --physdev-out eth1", No),
        ("-m mark --mark 0x0", Yes),
        ("-m mark ! --mark 0x10/0xff", Yes),
        ("-m addrtype --dst-type LOCAL", Unknown),
        ("-m addrtype --dst-type MULTICAST", Unknown),
        ("-m iprange --src-range 10.0.0.1-10.0.0.9", Yes),
        ("-m iprange ! --src-range 10.0.0.9-10.0.0.1", Yes),
        ("-m comment --comment \"-i lo\"", Yes),
        ("-m comment --comment -j", Yes),
        ("-m comment --comment \"open", Unknown),
        ("-m limit --limit 5/min", Unknown),
        ("-m string --string \"-j DROP\" --algo bm", Unknown),
        ("-m nosuch ! --thing x -m tcp --dport 23", No),
        ("-4", Unknown),
    ] {
        let rule = ParsedRule::parse(&format!("{text} -j ACCEPT"));
        assert_eq!(rule.matches(&packet()), expected, "{text} {:?}", rule.matches);
    }
}

#[test]
fn what_is_not_known_is_not_answered() {
    for text in [
        "-s 10.0.0.0/8",
        "! -s 10.0.0.0/8",
        "-i br0",
        "-p tcp",
        "-p tcp -m tcp --dport 22",
        "-p tcp -m tcp --tcp-flags SYN SYN",
        "-p icmp -m icmp --icmp-type 8",
        "-m state --state NEW",
        "-m physdev ! --physdev-out eth1",
    ] {
        let rule = ParsedRule::parse(text);
        assert_eq!(rule.matches(&Packet::new(IpFamily::V4)), Tristate::Unknown, "{text}");
        assert!(!rule.matches.iter().any(|one| matches!(one.test, MatchTest::Unknown(_))), "{text}");
    }
}

#[test]
fn the_path_is_told() {
    let found = simulate(&classic_v4(""), &context(), PacketPath::Input, &packet());
    assert_eq!(found.verdict, PacketVerdict::Accept);
    let chains: Vec<_> =
        found.matched_rules().map(|met| (&*met.step.chain, met.step.index.unwrap())).collect();
    assert_eq!(chains, [("INPUT", 1), ("KVMFW-INPUT", 1), ("KVMFW-RH-Firewall-1-INPUT", 4)]);
    assert_eq!(found.decided_by, found.matched_rules().last().map(|met| met.step.clone()));
}

/// Measured on a kernel: in raw a packet from outside is INVALID, one by the loopback is not.
#[test]
fn raw_comes_before_conntrack() {
    let rules = ruleset(
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n",
    );
    assert_eq!(simulate(&rules, &context(), PacketPath::Input, &packet()).verdict, PacketVerdict::Drop);
    let local = Packet { in_iface: PacketDevice::named("lo"), ..packet() };
    assert_eq!(simulate(&rules, &context(), PacketPath::Input, &local).verdict, PacketVerdict::Accept);
}

#[test]
fn ten_thousand_rules_are_walked_to_the_end() {
    let mut text = String::new();
    for number in 0..10_000 {
        text +=
            &format!("-A INPUT -s 10.9.{}.{}/32 -m limit --limit 1/sec -j LOG\n", number / 250, number % 250);
    }
    let found = simulate(
        &filter(&format!("{text}-A INPUT -p tcp -j DROP")),
        &context(),
        PacketPath::Input,
        &packet(),
    );
    assert_eq!(found.decided_by.unwrap().index, Some(10_001));
}

#[test]
fn one_chain_alone() {
    let rules = filter("-A INPUT -j A\n-A A -p udp -j DROP");
    let found = simulate_chain(&rules, "filter", "A", &packet());
    assert_eq!(found.verdict, PacketVerdict::Accept);
    assert_eq!(found.decided_by.unwrap().to_string(), "filter/A end of the chain");
    assert_eq!(simulate_chain(&rules, "filter", "NONE", &packet()).decided_by, None);
}

/// Every chain calls the next twice and maybe: without a bound it would take for ever.
#[test]
fn chains_that_call_each_other_end() {
    let mut text = "-A INPUT -j C0\n".to_owned();
    for number in 0..50 {
        for _ in 0..2 {
            text += &format!("-A C{number} -m limit --limit 1/sec -j C{}\n", number + 1);
        }
    }
    let rules = filter(&format!("{text}-A C50 -j LOG"));
    assert_eq!(simulate(&rules, &context(), PacketPath::Input, &packet()).verdict, PacketVerdict::Unknown);
    assert!(shadowed_rules(&rules, "filter", "C0").is_empty());
}

fn any_rule() -> impl Strategy<Value = String> {
    let condition = prop_oneof![
        Just(""),
        Just("-s 10.0.0.0/24 "),
        Just("! -i br0 "),
        Just("-p udp "),
        Just("-p tcp -m tcp --dport 22 "),
        Just("-m state --state ESTABLISHED "),
        Just("-m limit --limit 1/sec "),
        Just("-m mark --mark 0x1/0x1 "),
    ];
    let target = prop_oneof![
        Just("-j ACCEPT"),
        Just("-j DROP"),
        Just("-j RETURN"),
        Just("-j LOG"),
        Just("-j MARK --set-xmark 0x1/0x1"),
        Just("-j NFQUEUE"),
        Just("-j A"),
        Just("-j B"),
        Just("-g B"),
        Just(""),
    ];
    let chain = prop_oneof![Just("INPUT"), Just("A"), Just("B")];
    (chain, condition, target)
        .prop_map(|(chain, condition, target)| format!("-A {chain} {condition}{target}"))
}

proptest! {
    #[test]
    fn never_panics(rules in proptest::collection::vec("(-[msdiopjg] |! |--[a-z-]{1,9} |tcp |[0-9./:]{1,8} |.)*", 0..9)) {
        for text in &rules {
            let rule = ParsedRule::parse(text);
            let _ = rule.matches(&packet());
            let _ = rule.matches(&Packet::new(IpFamily::V6));
        }
    }

    /// Knowing less of a packet may make a verdict unknown, but never turn it round.
    #[test]
    fn less_knowledge_gives_no_other_verdict(rules in proptest::collection::vec(any_rule(), 0..12)) {
        let set = filter(&format!("-A A -j LOG\n-A B -j LOG\n{}", rules.join("\n")));
        let full = simulate(&set, &context(), PacketPath::Input, &packet()).verdict;
        for less in [
            Packet { src: None, ..packet() },
            Packet { in_iface: PacketDevice::Unknown, ..packet() },
            Packet { dport: None, ..packet() },
            Packet { state: ConntrackStates::ALL, ..packet() },
            Packet { mark: None, ..packet() },
            Packet::new(IpFamily::V4),
        ] {
            let verdict = simulate(&set, &context(), PacketPath::Input, &less).verdict;
            prop_assert!(verdict == full || verdict == PacketVerdict::Unknown, "{verdict:?} but {full:?}");
        }
    }

    /// A rule that is called dead can go, and nothing changes.
    #[test]
    fn dead_rules_change_nothing(rules in proptest::collection::vec(any_rule(), 0..16)) {
        // A loop never gets into a kernel; here the walk would end at its bounds, wherever it is.
        let loops = |rule: &&String| {
            rule.starts_with("-A A") && rule.ends_with(" A")
                || rule.starts_with("-A B") && (rule.ends_with(" A") || rule.ends_with(" B"))
        };
        let rules: Vec<_> = rules.iter().filter(|rule| !loops(rule)).cloned().collect();
        let all = format!("-A A -j LOG\n-A B -j LOG\n{}", rules.join("\n"));
        let set = filter(&all);
        let mut kept = all.clone();
        for chain in ["INPUT", "A", "B"] {
            let dead = shadowed_rules(&set, "filter", chain);
            let mut index = 0;
            kept = kept.lines().filter(|line| {
                if !line.starts_with(&format!("-A {chain} ")) {
                    return true;
                }
                index += 1;
                !dead.iter().any(|dead| dead.index == index)
            }).collect::<Vec<_>>().join("\n");
        }
        let (before, after) = (simulate(&set, &context(), PacketPath::Input, &packet()), simulate(&filter(&kept), &context(), PacketPath::Input, &packet()));
        prop_assert_eq!(before.verdict, after.verdict, "{}\nwithout\n{}", all, kept);
    }
}
