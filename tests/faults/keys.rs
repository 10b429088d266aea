//! sysctl keys that change more than themselves, or that the kernel does not set back.

use super::*;
use common::Shell;

/// A check that passes before the change and fails while it is not decided.
const REFUSES: &str = "checks: [{ command: '[ ! -e /var/lib/kvmfw/open ]', required: true }]\n";

/// IPv6 of the host, with all that belongs to an address or a route.
fn ipv6(lab: &Lab) -> String {
    on_host(
        lab,
        "for link in all default eth0 lo; do cd /proc/sys/net/ipv6/conf/$link; echo $link $(cat disable_ipv6 mtu addr_gen_mode forwarding); done
         { /sbin/ip -6 -o address; /sbin/ip -6 -o route show table all; } | sed 's/ tentative//; s/^[0-9]*: //' | grep -v -e kernel_ll -e local | sort",
    )
}

/// What disables IPv6 takes addresses and routes away, which the key's old value does not bring back.
#[test]
fn keys_that_take_ipv6_away_are_rolled_back_with_all_that_went() {
    if !common::require_root() {
        return;
    }
    for shell in [Shell::Dash, Shell::Busybox] {
        takes_ipv6_away(shell);
    }
}

fn takes_ipv6_away(shell: Shell) {
    let lab = Lab::builder().backend(Backend::Nft).shell(shell).up();
    let project = Project::new(&lab, &[HOST], "");
    on_host(
        &lab,
        "/sbin/ip -6 -batch - <<'ADDRESSES'
address add fd77::2/64 dev eth0 nodad metric 77
address add fd77::3/64 dev eth0 nodad preferred_lft 0
address add fd78::1 peer fd78::9/128 dev eth0 nodad
route add 2001:db8:7::/48 via fd77::1 dev eth0 proto static metric 9 mtu lock 1400
route add default via fd77::1 dev eth0 metric 2000
route add 2001:db8:8::/48 dev eth0 table 77
route add 2001:db8:a::/48 nexthop via fd77::7 dev eth0 nexthop via fd77::8 dev eth0
route add 2001:db8:9::/48 via fd78::9 dev eth0
ADDRESSES
echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6",
    );
    let before = ipv6(&lab);
    assert!(before.contains("fd77::2/64 metric 77") && before.contains("2001:db8:a::/48"), "{before}");
    for keys in [
        "net.ipv6.conf.all.disable_ipv6: 1, net.ipv6.conf.default.disable_ipv6: 1",
        "net.ipv6.conf.eth0.disable_ipv6: 1",
        "net.ipv6.conf.eth0.addr_gen_mode: 1, net.ipv6.conf.eth0.disable_ipv6: 1",
        "net.ipv6.conf.all.forwarding: 1, net.ipv6.conf.eth0.mtu: 1300",
    ] {
        project.all(&format!("{REFUSES}sysctl: {{ 60-t: {{ {keys} }} }}\n"));
        project.apply(&lab, &[]).expect(4);
        assert_eq!(ipv6(&lab), before, "{keys}");
    }
}

/// A key that the kernel does not set back: the rollback ends all the same, restores all else, and says so.
#[test]
fn a_key_that_only_goes_one_way_ends_the_rollback() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(Backend::Nft).up();
    let project = Project::new(&lab, &[HOST], "");
    // A file in the place of the key, and no real one: what is written there would stay until this machine boots. It can
    // be written while the change is made, and no more after that.
    on_host(
        &lab,
        "set -e; echo 0 >/run/key; mount --bind /run/key /proc/sys/kernel/panic
         mount -o remount,bind,rw /proc/sys/kernel/panic",
    );
    let shuts = "[ ! -e /var/lib/kvmfw/open ] || { mount -o remount,bind,ro /proc/sys/kernel/panic; false; }";
    project.all(&format!(
        "checks: [{{ command: '{shuts}', required: true }}]\n\
         sysctl: {{ 60-t: {{ kernel.panic: 1, net.ipv4.conf.all.arp_ignore: 1 }} }}\n"
    ));
    let run = project.apply(&lab, &[]).expect(4);
    let said = "kernel/panic could not be set back: the kernel refuses that until the next boot";
    assert!(run.stdout.contains(said), "{}", run.stdout);
    assert_eq!(on_host(&lab, "cat /run/key /proc/sys/net/ipv4/conf/all/arp_ignore"), "1\n0\n");
    // The lock is free, and the next change is made.
    project.all("sysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 1 } }\n");
    project.apply(&lab, &[]).expect(0);
}

/// Limits below what the host uses would leave it without a process, and without a rollback. Only planned: they are those
/// of this machine as well.
#[test]
fn limits_below_what_is_in_use_are_refused() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(Backend::Nft).up();
    let project = Project::new(&lab, &[HOST], "");
    // In a namespace it cannot be written, on a host it can.
    on_host(
        &lab,
        "iptables -A INPUT -m conntrack --ctstate INVALID; echo 65536 >/run/max; mount --bind /run/max /proc/sys/net/netfilter/nf_conntrack_max",
    );
    for key in [
        "kernel.threads-max: 30",
        "kernel.pid_max: 301",
        "fs.file-max: 100",
        "fs.nr_open: 1024",
        "vm.overcommit_memory: 2, vm.overcommit_ratio: 1",
        "vm.min_free_kbytes: 900000000",
        "vm.nr_hugepages: 10000000",
        "vm.max_map_count: 60",
        "kernel.pty.max: 1",
        "net.netfilter.nf_conntrack_max: 10",
    ] {
        project.all(&format!("sysctl: {{ 60-t: {{ {key} }} }}\n"));
        let plan = project.kvmfw(&lab, &["plan", "--format", "json"]);
        assert!(plan.stdout.contains("\"exhausts-host\""), "{key}: {}", plan.stdout);
    }
    let threads: u64 = on_host(&lab, "cat /proc/sys/kernel/threads-max").trim().parse().unwrap();
    project.all(&format!("sysctl: {{ 60-t: {{ kernel.threads-max: {threads} }} }}\n"));
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    // What there is room for is planned.
    project.all("sysctl: { 60-t: { vm.min_free_kbytes: 70000, net.netfilter.nf_conntrack_max: 131072 } }\n");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    // The limits of the table of neighbours are no link's, and no link inherits them.
    project.all("sysctl: { 60-t: { net.ipv4.neigh.default.gc_thresh3: 4096 } }\n");
    let plan = project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    assert!(!plan.stdout.contains("inherit") && !plan.stdout.contains("no link"), "{}", plan.stdout);
}

/// The kernel sets a key when the first rule of `connbytes` is loaded, and does not set it back.
#[test]
fn accounting_ends_with_the_rule_that_asked_for_it() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(Backend::Nft).up();
    let rule = "-p udp --dport 999 -m connbytes --connbytes 1: --connbytes-dir both --connbytes-mode bytes -j ACCEPT";
    let rules = format!("iptables:\n  filter:\n    INPUT:\n      rules: |\n        {rule}\n");
    // What is not tracked has no key yet.
    on_host(&lab, "iptables -A INPUT -m conntrack --ctstate INVALID");
    let key = "cat /proc/sys/net/netfilter/nf_conntrack_acct";
    on_host(&lab, "echo 0 >/proc/sys/net/netfilter/nf_conntrack_acct");
    let project = Project::new(&lab, &[HOST], &format!("{REFUSES}{rules}"));
    project.apply(&lab, &[]).expect(4);
    assert_eq!(on_host(&lab, key), "0\n", "after a rollback");
    project.all(&rules);
    project.apply(&lab, &[]).expect(0);
    assert_eq!(on_host(&lab, key), "1\n", "in effect");
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert_eq!(on_host(&lab, key), "0\n", "after an undo");
}

/// Values as `sysctl -a` prints them.
#[test]
fn a_value_with_tabs_is_taken() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(Backend::Nft).up();
    let keys = "sysctl:\n  60-t:\n    net.ipv4.ping_group_range: 1\t77\n    net.ipv4.ip_local_port_range: \"20000\\t60000\"\n";
    let project = Project::new(&lab, &[HOST], keys);
    project.apply(&lab, &[]).expect(0);
    assert_eq!(on_host(&lab, "cat /proc/sys/net/ipv4/ip_local_port_range"), "20000\t60000\n");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}

/// A key that the kernel would not take back is left as it is by an undo, which says so and is done with all else.
#[test]
fn an_undo_leaves_a_key_that_only_goes_one_way() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(Backend::Nft).up();
    // As above no real one: that would stay so on this machine.
    on_host(
        &lab,
        "set -e; echo 0 >/run/key; mount --bind /run/key /proc/sys/kernel/unprivileged_bpf_disabled
         mount -o remount,bind,rw /proc/sys/kernel/unprivileged_bpf_disabled
         echo 0 >/proc/sys/kernel/unprivileged_bpf_disabled; [ \"$(cat /run/key)\" = 0 ]",
    );
    let keys = "kernel.unprivileged_bpf_disabled: 1, net.ipv4.conf.all.arp_ignore: 1";
    let project = Project::new(&lab, &[HOST], &format!("sysctl: {{ 60-t: {{ {keys} }} }}\n"));
    let plan = project.kvmfw(&lab, &["plan"]).expect(0);
    assert!(plan.stdout.contains("is one-way"), "{plan:?}");
    project.apply(&lab, &[]).expect(0);
    let undo = project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert!(undo.stderr.contains("until then it stays 1"), "{undo:?}");
    assert_eq!(on_host(&lab, "cat /run/key /proc/sys/net/ipv4/conf/all/arp_ignore"), "1\n0\n");
}
