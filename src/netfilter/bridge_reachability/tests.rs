use super::*;
use crate::netfilter::fixtures::{classic, classic_v4, filter, ruleset};
use crate::netfilter::{NetfilterHook, OtherTable, TableEffect};

fn br123() -> BridgeView {
    let ports = ["vnet0", "vnet1", "eth1.123"].map(String::from).to_vec();
    BridgeView { name: "br123".into(), ports, nf_call: true, untagged: None }
}

fn blocked(rules: &Ruleset) -> Option<BridgeBlocked> {
    blocked_between_ports(rules, &HostContext::default(), IpFamily::V4, &br123())
}

#[test]
fn the_classic_ruleset_darkens_the_guests() {
    let blocked = blocked(&classic_v4("")).unwrap();
    assert_eq!(
        blocked.step.to_string(),
        "filter/KVMFW-RH-Firewall-1-INPUT rule 5: -j REJECT --reject-with icmp-host-prohibited"
    );
    assert_eq!(blocked.sample, "new TCP connection from vnet0 to vnet1");
    assert_eq!(blocked.dropped, ["new TCP connection", "new UDP flow"]);
}

#[test]
fn each_cure_helps() {
    for cure in [
        "-A KVMFW-FORWARD -i br123 -o br123 -j ACCEPT\n",
        "-A KVMFW-FORWARD -i br+ -o br+ -j ACCEPT\n",
        "-A KVMFW-FORWARD -m physdev --physdev-is-bridged -j ACCEPT\n",
        "-A KVMFW-FORWARD -j MINE\n-A MINE -m physdev --physdev-is-bridged -j ACCEPT\n",
        "-A KVMFW-FORWARD -g MINE\n-A MINE -i br123 -o br123 -j ACCEPT\n",
        "-A KVMFW-FORWARD -m physdev --physdev-is-bridged -j RETURN\n",
    ] {
        assert_eq!(blocked(&classic_v4(cure)), None, "{cure}");
    }
    let bypassed = BridgeView { nf_call: false, ..br123() };
    assert_eq!(
        blocked_between_ports(&classic_v4(""), &HostContext::default(), IpFamily::V4, &bypassed),
        None
    );
}

#[test]
fn what_looks_like_a_cure_and_is_none() {
    for (rules, reason) in [
        ("-A KVMFW-FORWARD -i br124 -o br124 -j ACCEPT\n", "another bridge"),
        ("-A KVMFW-FORWARD -i vnet0 -j ACCEPT\n", "-i is the bridge, never the port"),
        ("-A KVMFW-FORWARD -m physdev ! --physdev-is-bridged -j ACCEPT\n", "not bridged"),
        ("-A KVMFW-FORWARD -m physdev --physdev-is-bridged -j LOG\n", "LOG decides nothing"),
        ("-A KVMFW-FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT\n", "nothing is ever new"),
        ("-A KVMFW-FORWARD -i br123 -o br123 -p tcp -m tcp --dport 22 -j ACCEPT\n", "one port"),
    ] {
        assert!(blocked(&classic_v4(rules)).is_some(), "{reason}: {rules}");
    }
    // Appended behind our hook it comes too late.
    let late = filter(
        "-A FORWARD -j KVMFW-FORWARD
-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT
-A KVMFW-FORWARD -j REJECT --reject-with icmp-port-unreachable",
    );
    assert!(blocked(&late).is_some());
}

#[test]
fn one_port_is_cured_and_another_is_not() {
    let rules = classic_v4("-A KVMFW-FORWARD -m physdev --physdev-in vnet0 -j ACCEPT\n");
    assert_eq!(blocked(&rules).unwrap().sample, "new TCP connection from vnet1 to vnet0");
    let rules = classic_v4(
        "-A KVMFW-FORWARD -m physdev --physdev-in vnet+ -j ACCEPT
-A KVMFW-FORWARD -m physdev --physdev-out vnet+ -j ACCEPT\n",
    );
    assert_eq!(blocked(&rules), None);
}

#[test]
fn addresses_are_never_guessed() {
    assert_eq!(blocked(&classic_v4("-A KVMFW-FORWARD -s 192.0.2.0/24 -j ACCEPT\n")), None);
    assert!(blocked(&classic_v4("-A KVMFW-FORWARD -s 192.0.2.0/24 -j DROP\n")).is_some());
    assert!(blocked(&classic_v4("-A KVMFW-FORWARD -s 192.0.2.0/24 -o eth0 -j ACCEPT\n")).is_some());
    assert_eq!(blocked(&filter("-A FORWARD -s 192.0.2.0/24 -j DROP")), None);
}

#[test]
fn a_policy_and_other_tables_count() {
    let policy = ruleset("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n");
    assert_eq!(blocked(&policy).unwrap().step.to_string(), "filter/FORWARD policy DROP");
    let raw = ruleset("*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i br+ -j DROP\nCOMMIT\n");
    assert_eq!(&*blocked(&raw).unwrap().step.table, "raw");
    // In PREROUTING no frame is known to be bridged yet.
    let early =
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m physdev ! --physdev-is-bridged -j DROP\nCOMMIT\n";
    assert!(blocked(&ruleset(early)).is_some());
    // Libvirt's rules for its own bridge do not concern this one.
    let libvirt = filter(
        "-A FORWARD -j LIBVIRT_FWI
-A LIBVIRT_FWI -d 192.168.122.0/24 -o virbr0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A LIBVIRT_FWI -o virbr0 -j REJECT --reject-with icmp-port-unreachable",
    );
    assert_eq!(blocked(&libvirt), None);
}

#[test]
fn neighbour_discovery_is_no_connection() {
    let classic = classic("", "-p ipv6-icmp -m icmp6 --icmpv6-type 128");
    let blocked = blocked_between_ports(&classic, &HostContext::default(), IpFamily::V6, &br123()).unwrap();
    assert_eq!(
        blocked.dropped,
        ["new TCP connection", "new UDP flow", "neighbour solicitation", "neighbour advertisement"]
    );
}

#[test]
fn guests_to_come_count() {
    let empty = BridgeView { ports: vec!["eth1".into()], ..br123() };
    let blocked =
        blocked_between_ports(&classic_v4(""), &HostContext::default(), IpFamily::V4, &empty).unwrap();
    assert_eq!(blocked.sample, "new TCP connection from eth1 to a guest");
    let cured = classic_v4("-A KVMFW-FORWARD -m physdev --physdev-is-bridged -j ACCEPT\n");
    assert_eq!(blocked_between_ports(&cured, &HostContext::default(), IpFamily::V4, &empty), None);
}

#[test]
fn many_ports_are_few_sorts() {
    let ports: Vec<String> = (0..500).map(|number| format!("vnet{number}")).collect();
    assert_eq!(representatives(&classic_v4(""), &ports).len(), 2);
}

/// A frame that comes in or leaves with a tag passes FORWARD by.
#[test]
fn a_bridge_that_filters_vlans_is_asked_within_a_vlan() {
    let blocked = |vlans: &[(&str, u16)]| {
        let untagged = vlans.iter().map(|(port, vlan)| ((*port).to_owned(), *vlan)).collect();
        let bridge = BridgeView { untagged: Some(untagged), ..br123() };
        let found = blocked_between_ports(&classic_v4(""), &HostContext::default(), IpFamily::V4, &bridge);
        found.map(|blocked| blocked.sample)
    };
    let sample = |text: &str| Some(text.to_owned());
    assert_eq!(blocked(&[("vnet0", 10), ("vnet1", 10)]), sample("new TCP connection from vnet0 to vnet1"));
    assert_eq!(blocked(&[("vnet0", 10), ("vnet1", 20)]), None);
    // The uplink is a trunk.
    assert_eq!(blocked(&[("vnet0", 10)]), None);
    let three = [("vnet0", 10), ("vnet1", 20), ("eth1.123", 20)];
    assert_eq!(blocked(&three), sample("new TCP connection from vnet1 to eth1.123"));
}

/// *Open* is said only where nothing may drop: neither a rule that asks for more than is known, nor a table that is
/// not read, nor NAT on a host that does not forward.
#[test]
fn where_some_may_be_dropped_it_is_in_doubt() {
    let doubt = |rules: &str, context: &HostContext, bridge: &BridgeView, forwards| {
        undecided_between_ports(&ruleset(rules), context, IpFamily::V4, bridge, forwards)
    };
    let of_rules = |rules: &str| doubt(rules, &HostContext::default(), &br123(), false);
    let filter = |rule: &str| format!("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD {rule}\nCOMMIT\n");
    for (rule, missing, kinds) in [
        ("-d 192.168.1.1/32 -j DROP", "destination address", 3),
        ("-s 192.168.1.1/32 -j DROP", "source address", 3),
        ("-p tcp -m tcp --dport 443 -j DROP", "destination port", 1),
        ("-m set --match-set banned src -j DROP", "-m set --match-set banned src", 3),
    ] {
        assert_eq!(
            blocked_between_ports(&ruleset(&filter(rule)), &HostContext::default(), IpFamily::V4, &br123()),
            None
        );
        let doubt = of_rules(&filter(rule)).unwrap_or_else(|| panic!("{rule}"));
        assert_eq!(
            (&*doubt.step.text, doubt.missing.join(" ").as_str(), doubt.kinds.len()),
            (rule, missing, kinds)
        );
    }
    for rule in [
        "-i eth0 -s 192.168.1.1/32 -j DROP",
        "-m limit --limit 5/min -j LOG",
        "-m state --state INVALID -j DROP",
        "-i br124 -m set --match-set banned src -j DROP",
    ] {
        assert_eq!(of_rules(&filter(rule)), None, "{rule}");
    }

    let nat =
        |rule: &str| format!("*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{rule}\nCOMMIT\n");
    let masked = nat("-A POSTROUTING -s 192.168.1.0/24 -j MASQUERADE");
    let led = nat("-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1");
    let docker = nat("-A PREROUTING -p tcp -m addrtype --dst-type LOCAL -j DNAT --to-destination 172.17.0.2");
    for (rules, off, on) in [(&masked, 3, 0), (&led, 1, 0), (&docker, 0, 0)] {
        let kinds = |forwards| {
            let doubt = doubt(rules, &HostContext::default(), &br123(), forwards);
            doubt.map_or(0, |doubt| doubt.kinds.len())
        };
        assert_eq!((kinds(false), kinds(true)), (off, on), "{rules}");
    }

    let bypassed = BridgeView { nf_call: false, ..br123() };
    for (hook, seen, bypass) in [
        (NetfilterHook::Bridge, true, true),
        (NetfilterHook::Forward, true, false),
        (NetfilterHook::Input, false, false),
    ] {
        let table = OtherTable { name: "other".into(), hooks: vec![hook], effect: TableEffect::MayDrop };
        let context = HostContext { other_tables: vec![table], ..HostContext::default() };
        let open = filter("-j ACCEPT");
        let by = |bridge: &BridgeView| doubt(&open, &context, bridge, true).map(|doubt| doubt.step.table);
        let other = |there: bool| there.then(|| "other".into());
        assert_eq!((by(&br123()), by(&bypassed)), (other(seen), other(bypass)), "{hook:?}");
    }
}
