//! What is rolled back.

use crate::common::project::Project;
use crate::common::transaction::opened;
use crate::common::{self, Lab};
use crate::promise::{Case, HOST, rules};
use std::fs;
use std::time::Duration;

#[test]
fn new_ssh_dropped_but_established_accepted() {
    let change = rules("-m state --state ESTABLISHED,RELATED -j ACCEPT\n-p tcp --dport 22 -j DROP");
    Case::silent()
        .says("LOCKOUT: every new SSH connection")
        .says("nobody confirmed over a new connection within 5s")
        .holds(&change, Some("--dport 22 -j DROP"));
}

#[test]
fn new_ssh_dropped_but_established_accepted_on_legacy() {
    let change = rules("-m state --state ESTABLISHED,RELATED -j ACCEPT\n-p tcp --dport 22 -j DROP");
    Case::silent()
        .legacy()
        .says("LOCKOUT: every new SSH connection")
        .says("nobody confirmed over a new connection within 5s")
        .holds(&change, Some("--dport 22 -j DROP"));
}

#[test]
fn everything_dropped() {
    let change = "iptables: { filter: { INPUT: { policy: DROP }, OUTPUT: { policy: DROP }, FORWARD: { policy: DROP } } }\nip6tables: { filter: { INPUT: { policy: DROP }, OUTPUT: { policy: DROP } } }\n";
    Case::silent().says("LOCKOUT").says("nobody confirmed").holds(change, None);
}

#[test]
fn everything_dropped_by_a_rule() {
    Case::silent().says("LOCKOUT").says("nobody confirmed").holds(&rules("-j DROP"), Some("-j DROP"));
}

#[test]
fn an_address_with_a_wrong_prefix_is_rolled_back() {
    // 10.99.0.0/17 by br123 is nearer than 10.99.0.0/16 by eth0: answers leave by the wrong link.
    Case::silent()
        .says("nobody confirmed")
        .holds("bridges: { br123: { addresses: ['10.99.0.99/17'] } }\n", None);
}

#[test]
fn the_management_link_behind_a_port_that_does_not_forward() {
    // STP listens and learns for 60 s before it forwards: long after the deadline.
    let change =
        "bridges:\n  brmgmt: { ports: [eth0], take_addresses: true, stp: true, forward_delay: 30 }\n";
    Case::silent().says("nobody confirmed").holds(change, None);
}

#[test]
fn a_required_check_that_fails() {
    let change = format!("{}checks: [{{ command: 'false', required: true }}]\n", opened(81));
    Case::at_once("applied").says("a check failed: command `false`").holds(&change, Some("command: 'false'"));
}

#[test]
fn a_ping_that_the_change_breaks() {
    let drop = rules("-p icmp -j DROP");
    let change = format!("{drop}checks: [{{ ping: 10.99.0.1, timeout: 1s }}]\n");
    Case::new("applied", Duration::from_secs(3 + 1))
        .says("a check failed")
        .holds(&change, Some("ping: 10.99.0.1"));
}

#[test]
fn a_rule_that_the_kernel_refuses_in_the_second_table() {
    // REJECT belongs to the table filter; the rule in raw before it is fine.
    let change = "iptables:\n  raw:\n    PREROUTING:\n      rules: |\n        -p tcp --dport 99 -j DROP\n  mangle:\n    FORWARD:\n      rules: |\n        -p tcp --dport 98 -j REJECT\n";
    let case = Case { next: 4, ..Case::at_once("armed") };
    case.says("rejected the rules").holds(change, Some("--dport 98 -j REJECT"));
}

/// Here the dry run is happy and the live load is not: the first table is in when the second fails.
#[test]
fn a_second_table_fails_in_the_apply() {
    let change = "iptables:\n  raw:\n    PREROUTING:\n      rules: |\n        -p tcp --dport 99 -j DROP\n  mangle:\n    FORWARD:\n      rules: |\n        -p tcp --dport 98 -j DROP\n";
    Case::at_once("result")
        .says("could not be applied")
        .says("the kernel is out of sorts")
        .prepared(change, None, |lab| {
            let tool = lab.disk(HOST, "/etc/alternatives/iptables-restore");
            fs::remove_file(&tool).unwrap();
            let script = "#!/bin/bash\ntext=$(cat)\n[[ \"$*\" == *-w* && $text == *'*mangle'*'--dport 98'* ]] && { echo 'the kernel is out of sorts' >&2; exit 1; }\nexec /usr/sbin/iptables-nft-restore \"$@\" <<<\"$text\"\n";
            fs::write(&tool, script).unwrap();
            lab.host(HOST, &["chmod", "755", "/etc/alternatives/iptables-restore"]).ok();
        });
}

/// The session dies before the rules are loaded, and the connection that comes to look is there before them, too: it lives on
/// under them and says its word behind them, and must not confirm. (The first session after the kill is held until the change
/// is made.)
#[test]
fn a_connection_from_before_the_rules_confirms_nothing() {
    let change = rules("-m state --state ESTABLISHED,RELATED -j ACCEPT\n-p tcp --dport 22 -j DROP");
    let silent = Case::silent().says("nobody confirmed over a new connection within 5s");
    silent.prepared(&change, Some("--dport 22 -j DROP"), |lab| {
        let tool = lab.disk(HOST, "/etc/alternatives/iptables-restore");
        fs::remove_file(&tool).unwrap();
        let script = r#"#!/bin/bash
text=$(cat)
if [[ "$*" == *-w* && $text == *'--dport 22 -j DROP'* ]]; then
    rm -f /run/second; touch /run/hold
    ss -Htnp state established sport = :22 | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -u | xargs -r kill -9
    for _ in {1..200}; do [ -e /run/second ] && break; sleep 0.05; done
    [ -e /run/second ] || { echo 'nobody came' >&2; exit 1; }
fi
exec /usr/sbin/iptables-nft-restore "$@" <<<"$text"
"#;
        fs::write(&tool, script).unwrap();
        let held = r#"[ -e /run/hold ] || exit 0
rm /run/hold; touch /run/second; n=0
while [ $n -lt 200 ]; do
    for t in /var/lib/kvmfw/txn/*; do [ -e "$t/applied" ] && [ ! -e "$t/done" ] && exit 0; done
    n=$((n + 1)); sleep 0.05
done
"#;
        fs::write(lab.disk(HOST, "/etc/ssh/sshrc"), held).unwrap();
        lab.host(HOST, &["chmod", "755", "/etc/alternatives/iptables-restore"]).ok();
    });
}

/// What cuts the old connection but not a new one is no lockout: the new one confirms.
#[test]
fn an_old_connection_that_dies_is_no_failure() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    // Without it, conntrack takes a connection that it meets in the middle for invalid.
    lab.host(HOST, &["sysctl", "-w", "net.netfilter.nf_conntrack_tcp_loose=0"]).ok();
    let project = Project::new(&lab, &[HOST], &opened(80));
    let run = project.apply(&lab, &[]).expect(0);
    assert!(run.stdout.contains("changed         1"), "{}", run.stdout);
    assert!(run.stderr.contains("session-dies") && !run.stderr.contains("LOCKOUT"), "{}", run.stderr);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}
