//! T7: exactly what was touched; T20, T24, T28: a rollback leaves nothing.

use crate::common::project::Project;
use crate::common::transaction::{ended, held, marked, newest, start};
use crate::common::{self, Backend, Lab, same};
use crate::{HOST, managed, on_host};

#[test]
fn t07_rollback_reloads_exactly_what_apply_touched() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    project.all(&format!("{}sysctl: {{ 60-t: {{ net.ipv4.conf.all.arp_ignore: 1 }} }}\n", held(81)));
    let last = newest(&lab, HOST);
    let kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    assert_eq!(on_host(&lab, "cat /proc/sys/net/ipv4/conf/all/arp_ignore").trim(), "1");
    // Others work on, meanwhile.
    on_host(
        &lab,
        "iptables -A INPUT -s 203.0.113.9 -j DROP; iptables -t nat -A POSTROUTING -s 203.0.113.8 -j MASQUERADE
         ip route add 203.0.113.0/24 via 10.99.0.1; ip address add 10.99.7.7/32 dev eth0
         echo 1 >/proc/sys/net/ipv4/conf/all/log_martians; echo '# mine' >/etc/sysctl.d/70-mine.conf",
    );
    let mut kvmfw = kvmfw;
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    assert!(ended(&folder).starts_with("rolled-back"));
    assert_eq!(on_host(&lab, "cat /proc/sys/net/ipv4/conf/all/arp_ignore").trim(), "0");
    let rules = on_host(&lab, "iptables-save");
    assert!(rules.contains("--dport 80 ") && !rules.contains("--dport 81 "), "{rules}");
    assert!(rules.contains("203.0.113.9/32 -j DROP") && rules.contains("203.0.113.8/32 -j MASQ"), "{rules}");
    assert!(on_host(&lab, "ip route").contains("203.0.113.0/24"));
    assert!(on_host(&lab, "ip address").contains("10.99.7.7/32"));
    assert_eq!(on_host(&lab, "cat /proc/sys/net/ipv4/conf/all/log_martians").trim(), "1");
    assert!(on_host(&lab, "cat /etc/sysctl.d/70-mine.conf").contains("mine"));
}

fn leaves_nothing(prepare: &str, change: &str) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    on_host(&lab, prepare);
    let before = lab.dump(HOST);
    let project =
        Project::new(&lab, &[HOST], &format!("{change}checks: [{{ command: 'false', required: true }}]\n"));
    project.apply(&lab, &[]).expect(4);
    assert!(newest(&lab, HOST).unwrap().join("applied").exists(), "it was never applied");
    same(&before, &lab.dump(HOST), "after the rollback");
}

#[test]
fn t20_a_new_bridge_is_gone_after_a_rollback() {
    leaves_nothing("true", "bridges: { brnew: { addresses: ['192.0.2.1/24'], stp: false } }\n");
}

/// A removal that is rolled back: addresses come back with their broadcast, or without where they had
/// none; a bridge of ours stays as it was.
#[test]
fn t20_addresses_that_were_taken_away_come_back_as_they_were() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let bridge = |more: &str| format!("bridges: {{ br123: {{ addresses: [{more}] }} }}\n");
    let project = Project::new(&lab, &[HOST], &bridge("'192.0.2.1/24', '2001:db8::1/64'"));
    project.apply(&lab, &[]).expect(0);
    let before = lab.dump(HOST);
    assert!(before.contains("192.0.2.1/24 brd 192.0.2.255"), "{before}");
    project
        .all(&format!("{}checks: [{{ command: 'false', required: true }}]\n", bridge("'198.51.100.1/24'")));
    project.apply(&lab, &[]).expect(4);
    common::same(&before, &lab.dump(HOST), "after a rollback");
}

#[test]
fn t24_every_touched_table_is_restored() {
    let mut change = String::new();
    for family in ["iptables", "ip6tables"] {
        change += &format!("{family}:\n");
        for (table, chain) in
            [("raw", "PREROUTING"), ("mangle", "FORWARD"), ("nat", "POSTROUTING"), ("filter", "INPUT")]
        {
            change +=
                &format!("  {table}:\n    {chain}:\n      rules: |\n        -p udp --dport 999 -j ACCEPT\n");
        }
    }
    leaves_nothing("iptables -t mangle -A INPUT -s 203.0.113.1 -j DROP", &change);
}

#[test]
fn t28_side_effects_of_forwarding_are_undone() {
    leaves_nothing(
        "cd /proc/sys/net/ipv4; echo 0 >ip_forward; echo 0 >conf/all/accept_redirects; echo 0 >conf/eth0/accept_redirects",
        "sysctl: { 60-forward: { net.ipv4.ip_forward: 1, net.ipv6.conf.all.forwarding: 1 } }\n",
    );
}
