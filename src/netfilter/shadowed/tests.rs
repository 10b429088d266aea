use super::*;
use crate::netfilter::fixtures::{classic_v4, filter};

#[test]
fn only_what_is_certain() {
    for (rules, expected) in [
        ("-A INPUT -j DROP\n-A INPUT -j LOG\n-A INPUT -j ACCEPT", &[(2usize, 1usize), (3, 1)] as &[_]),
        ("-A INPUT -m comment --comment all -j REJECT\n-A INPUT -p tcp -j ACCEPT", &[(2, 1)]),
        ("-A INPUT -i lo -j ACCEPT\n-A INPUT -p udp -j LOG\n-A INPUT -i lo -j DROP", &[(3, 1)]),
        ("-A INPUT -i lo -j LOG\n-A INPUT -i lo -j DROP", &[]),
        ("-A INPUT -m limit --limit 1/sec -j ACCEPT\n-A INPUT -m limit --limit 1/sec -j ACCEPT", &[]),
        ("-A INPUT -m mark --mark 0x1 -j ACCEPT\n-A INPUT -m mark --mark 0x1 -j ACCEPT", &[]),
        ("-A INPUT -j A\n-A INPUT -j ACCEPT\n-A A -p tcp -j DROP", &[]),
        ("-A INPUT -j A\n-A INPUT -j ACCEPT\n-A A -j B\n-A B -j DROP", &[(2, 1)]),
        ("-A INPUT -j A\n-A INPUT -j ACCEPT\n-A A -i lo -j RETURN\n-A A -j DROP", &[]),
        ("-A INPUT -j A\n-A INPUT -j ACCEPT\n-A A -i lo -g B\n-A A -j DROP\n-A B -j LOG", &[]),
        ("-A INPUT -j A\n-A INPUT -j ACCEPT\n-A A -j A", &[]),
        ("-A INPUT -g A\n-A INPUT -j ACCEPT\n-A A -j LOG", &[(2, 1)]),
        ("-A INPUT -j NFQUEUE\n-A INPUT -j ACCEPT", &[]),
    ] {
        let found = shadowed_rules(&filter(rules), "filter", "INPUT");
        let found: Vec<_> = found.iter().map(|dead| (dead.index, dead.shadowed_by)).collect();
        assert_eq!(found, expected, "{rules}");
    }
}

#[test]
fn the_cure_appended_behind_the_reject() {
    let rules = classic_v4("-A KVMFW-FORWARD -j KVMFW-RH-Firewall-1-INPUT\n");
    assert_eq!(
        shadowed_rules(&rules, "filter", "KVMFW-FORWARD"),
        [ShadowedRule { index: 2, shadowed_by: 1 }]
    );
    assert_eq!(shadowed_rules(&rules, "filter", "nosuch"), []);
}

/// A rule before it decides about everything that it could match: nothing may be said that is not so.
#[test]
fn what_follows_from_a_rule_before() {
    for (rules, dead) in [
        ("-A INPUT -p tcp -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 80 -j DROP", true),
        ("-A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -p tcp --dport 22 -j ACCEPT", true),
        ("-A INPUT -s 10.0.0.0/8 -j ACCEPT\n-A INPUT -s 10.1.0.0/16 -j DROP", true),
        ("-A INPUT -s 10.1.0.0/16 -j ACCEPT\n-A INPUT -s 10.0.0.0/8 -j DROP", false),
        ("-A INPUT -s 10.0.0.0/8 -j ACCEPT\n-A INPUT -d 10.1.0.0/16 -j DROP", false),
        (
            "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j DROP",
            true,
        ),
        (
            "-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j DROP",
            false,
        ),
        ("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p udp -m udp --dport 22 -j DROP", false),
        ("-A INPUT -p tcp -m tcp --dport 20:30 -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j DROP", true),
        (
            "-A INPUT -p tcp -m multiport --dports 22,80 -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 80 -j DROP",
            true,
        ),
        ("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -p tcp -m tcp --sport 22 -j DROP", false),
        ("-A INPUT -p tcp -m tcp ! --dport 22 -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 80 -j DROP", true),
        ("-A INPUT -p tcp -m tcp ! --dport 22 -j ACCEPT\n-A INPUT -p tcp -m tcp --dport 22 -j DROP", false),
        // A fragment has no ports, so it meets neither with `!`.
        ("-A INPUT -p tcp -m tcp ! --dport 22 -j ACCEPT\n-A INPUT -p tcp -j DROP", false),
        ("-A INPUT ! -i eth0 -j ACCEPT\n-A INPUT -i lo -j DROP", true),
        ("-A INPUT -i eth+ -j ACCEPT\n-A INPUT -i eth0 -p tcp -j DROP", true),
        ("-A INPUT -i eth0 -j ACCEPT\n-A INPUT -i eth+ -j DROP", false),
        (
            "-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED -j DROP",
            true,
        ),
        (
            "-A INPUT -m state --state ESTABLISHED -j ACCEPT\n-A INPUT -m state --state RELATED,ESTABLISHED -j DROP",
            false,
        ),
        (
            "-A INPUT -m conntrack --ctstate ESTABLISHED --ctdir REPLY -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED -j DROP",
            false,
        ),
        (
            "-A INPUT -p icmp -m icmp --icmp-type 8 -j ACCEPT\n-A INPUT -p icmp -m icmp --icmp-type 8/0 -j DROP",
            true,
        ),
        (
            "-A INPUT -p icmp -m icmp --icmp-type 8/0 -j ACCEPT\n-A INPUT -p icmp -m icmp --icmp-type 8 -j DROP",
            false,
        ),
        (
            "-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT\n-A INPUT -p tcp -m tcp --tcp-flags SYN,ACK SYN -j DROP",
            false,
        ),
        (
            "-A INPUT -p tcp -m tcp --tcp-flags SYN,ACK SYN -j ACCEPT\n-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
            true,
        ),
        ("-A INPUT -p tcp -m limit --limit 1/sec -j ACCEPT\n-A INPUT -p tcp -j DROP", false),
        ("-A INPUT -p tcp -j ACCEPT\n-A INPUT -p tcp -m limit --limit 1/sec -j DROP", true),
        ("-A INPUT -m set --match-set a src -j ACCEPT\n-A INPUT -s 10.0.0.0/8 -j DROP", false),
        ("-A INPUT -p tcp -j LOG\n-A INPUT -p tcp -m tcp --dport 80 -j DROP", false),
        // As people write them.
        ("-A INPUT -m comment --comment all -p tcp --dport 1 -j DROP\n-A INPUT -p tcp -j ACCEPT", false),
        (
            "-A INPUT -m state --state NEW -m tcp -p tcp --dport 22 -j ACCEPT\n-A INPUT -p tcp --dport 22 -j DROP",
            false,
        ),
        (
            "-A INPUT -m tcp -p tcp --dport 22 -j ACCEPT\n-A INPUT --protocol tcp --destination-port 22 --jump DROP",
            true,
        ),
        ("-A INPUT -m state ! --state NEW ! -s 10.0.0.0/8 -j ACCEPT\n-A INPUT -s 10.1.0.0/16 -j DROP", false),
        ("-A INPUT -j ACCEPT -p tcp\n-A INPUT -p udp -j DROP", false),
    ] {
        let found = shadowed_rules(&filter(rules), "filter", "INPUT");
        let expected: &[ShadowedRule] = if dead { &[ShadowedRule { index: 2, shadowed_by: 1 }] } else { &[] };
        assert_eq!(found, expected, "{rules}");
    }
}

/// Of rules that are all different each costs the same, be they told apart by port, by address or by both.
#[test]
fn many_rules_that_are_all_different() {
    let mut text = String::new();
    for n in 0..3_000u32 {
        let (high, low) = (n >> 8, n & 255);
        text.push_str(&format!("-A INPUT -s 10.0.{high}.{low}/32 -p tcp -m tcp --dport 22 -j ACCEPT\n"));
        text.push_str(&format!("-A INPUT -s 10.9.9.9/32 -p tcp -m tcp --dport {n} -j ACCEPT\n"));
    }
    text.push_str("-A INPUT -s 10.9.9.9/32 -p tcp -m tcp --dport 700 -m limit --limit 1/sec -j DROP\n");
    text.push_str("-A INPUT -s 10.0.2.1/32 -i eth0 -p tcp -m tcp --dport 22 -j DROP\n");
    let found = shadowed_rules(&filter(&text), "filter", "INPUT");
    assert_eq!(
        found,
        [ShadowedRule { index: 6001, shadowed_by: 1402 }, ShadowedRule { index: 6002, shadowed_by: 1027 }]
    );
}
