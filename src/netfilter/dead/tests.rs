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
        let found = dead_rules(&filter(rules), "filter", "INPUT");
        let found: Vec<_> = found.iter().map(|dead| (dead.index, dead.shadowed_by)).collect();
        assert_eq!(found, expected, "{rules}");
    }
}

#[test]
fn the_cure_appended_behind_the_reject() {
    let rules = classic_v4("-A KVMFW-FORWARD -j KVMFW-RH-Firewall-1-INPUT\n");
    assert_eq!(dead_rules(&rules, "filter", "KVMFW-FORWARD"), [Dead { index: 2, shadowed_by: 1 }]);
    assert_eq!(dead_rules(&rules, "filter", "nosuch"), []);
}
