use super::*;
use crate::netfilter::fixtures::{classic, classic_v4, filter, ruleset};

fn path(dport: u16) -> SshPath {
    SshPath {
        family: IpFamily::V4,
        src: "198.51.100.9".parse().unwrap(),
        dst: "192.0.2.41".parse().unwrap(),
        sport: 51_234,
        dport,
        no_port: false,
        in_iface: Some("eth0".into()),
        out_iface: Some("eth0".into()),
        conntrack_active_before: true,
        tcp_loose: true,
        dialled: None,
        arrival: SshArrival::Direct,
        listeners: None,
    }
}

fn fresh(dport: u16) -> SshPath {
    SshPath { conntrack_active_before: false, ..path(dport) }
}

/// `safe`, `cut NEW by filter/INPUT rule 1: …`, `maybe …`
fn say(rules: &Ruleset, path: &SshPath) -> String {
    let by = |step: Option<TraceStep>| step.map_or("nothing".to_owned(), |step| step.to_string());
    match ssh_lockout(rules, &HostContext::default(), path).summary() {
        SshSummary::Safe => "safe".into(),
        SshSummary::LockedOut { which, step } => format!("cut {which:?} by {}", by(step)),
        SshSummary::Unknown { which, step } => format!("maybe {which:?} by {}", by(step)),
    }
}

const REJECT: &str = "filter/KVMFW-RH-Firewall-1-INPUT rule 5: -j REJECT --reject-with icmp-host-prohibited";

#[test]
fn the_classic_ruleset() {
    let rules = classic_v4("");
    assert_eq!(say(&rules, &path(22)), "safe");
    assert_eq!(say(&rules, &fresh(22)), "safe");
    assert_eq!(say(&rules, &path(2222)), format!("cut New by {REJECT}"));
    // Nobody has known the connection before: its next packet is NEW, to a port that is closed. But that
    // no new one can be made either is worse.
    assert_eq!(say(&rules, &fresh(2222)), format!("cut New by {REJECT}"));
    assert_eq!(
        ssh_lockout(&rules, &HostContext::default(), &fresh(2222)).pickup.unwrap().verdict,
        PacketVerdict::Drop
    );
}

#[test]
fn only_established() {
    let rules = filter("-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -j DROP");
    assert_eq!(say(&rules, &path(22)), "cut New by filter/INPUT rule 2: -j DROP");
    let verdict = ssh_lockout(&rules, &HostContext::default(), &fresh(22));
    assert_eq!(verdict.established.verdict, PacketVerdict::Accept);
    assert_eq!(verdict.pickup.unwrap().verdict, PacketVerdict::Drop);
}

#[test]
fn what_conntrack_takes_up_has_no_syn() {
    let syn = filter(
        "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT
-A INPUT -j DROP",
    );
    assert_eq!(say(&syn, &path(22)), "safe");
    assert_eq!(say(&syn, &fresh(22)), "cut Pickup by filter/INPUT rule 3: -j DROP");
    let new = filter(
        "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m conntrack --ctstate NEW -m tcp --dport 22 -j ACCEPT
-A INPUT -j DROP",
    );
    assert_eq!(say(&new, &fresh(22)), "safe");
    let strict = SshPath { tcp_loose: false, ..fresh(22) };
    assert_eq!(say(&new, &strict), "cut Pickup by filter/INPUT rule 3: -j DROP");
}

#[test]
fn table_of_rulesets() {
    for (rules, expected) in [
        ("-A INPUT -s 198.51.100.0/24 -j ACCEPT\n-A INPUT -j DROP", "safe"),
        ("-A INPUT ! -s 198.51.100.0/24 -j DROP", "safe"),
        ("-A INPUT -s 198.51.0.9/255.255.0.255 -j ACCEPT\n-A INPUT -j DROP", "safe"),
        ("-A INPUT -m iprange --src-range 198.51.100.1-198.51.100.20 -j ACCEPT\n-A INPUT -j DROP", "safe"),
        ("-A INPUT -m addrtype --dst-type LOCAL -j ACCEPT\n-A INPUT -j DROP", "safe"),
        ("-A INPUT -p tcp -m multiport --dports 80,20:25 -j ACCEPT\n-A INPUT -j DROP", "safe"),
        ("-A INPUT -i eth+ -j ACCEPT\n-A INPUT -j DROP", "safe"),
        ("-A INPUT -p udp -j DROP\n-A INPUT ! -p tcp -j DROP", "safe"),
        ("-A INPUT -i br0 -j ACCEPT\n-A INPUT -j DROP", "cut Established by filter/INPUT rule 2: -j DROP"),
        ("-A INPUT ! -i lo -j DROP", "cut Established by filter/INPUT rule 1: ! -i lo -j DROP"),
        ("-A OUTPUT -o eth0 -p tcp -j DROP", "cut Reply by filter/OUTPUT rule 1: -o eth0 -p tcp -j DROP"),
        (
            "-A INPUT -m recent --update --seconds 60 --name SSH --rsource -j DROP",
            "maybe Established by filter/INPUT rule 1: -m recent --update --seconds 60 --name SSH --rsource -j DROP",
        ),
        ("-A INPUT -m limit --limit 5/min -j LOG", "safe"),
        ("-A INPUT -m limit --limit 5/min -j ACCEPT\n-A INPUT -p tcp -j ACCEPT", "safe"),
        (
            "-A INPUT -m string --string x --algo bm -j DROP\n-A INPUT -j REJECT --reject-with tcp-reset",
            "cut Established by filter/INPUT rule 2: -j REJECT --reject-with tcp-reset",
        ),
        (
            "-A INPUT -j NFQUEUE --queue-num 1",
            "maybe Established by filter/INPUT rule 1: -j NFQUEUE --queue-num 1",
        ),
        ("-A INPUT -m set --match-set f2b src -j f2b\n-A f2b -j LOG", "safe"),
        (
            "-A INPUT -j f2b\n-A f2b -m set --match-set f2b src -j DROP\n-A f2b -j RETURN",
            "maybe Established by filter/f2b rule 1: -m set --match-set f2b src -j DROP",
        ),
        ("-A INPUT -j NOSUCH", "maybe Established by filter/INPUT rule 1: -j NOSUCH"),
        ("-A INPUT -j A\n-A A -j RETURN\n-A A -j DROP", "safe"),
        ("-A INPUT -g A\n-A INPUT -j DROP\n-A A -p udp -j DROP", "safe"),
        ("-A INPUT -j A\n-A A -g B\n-A A -j DROP\n-A B -p udp -j DROP", "safe"),
        ("-A INPUT -j A\n-A A -j A", "maybe Established by filter/A rule 1: -j A"),
    ] {
        assert_eq!(say(&filter(rules), &path(22)), expected, "{rules}");
    }
}

#[test]
fn marks_and_untracked_packets_are_followed() {
    let marked = |set: &str| {
        ruleset(&format!(
            "*mangle\n:PREROUTING ACCEPT [0:0]\n{set}\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n\
             -A INPUT -m mark --mark 0x1/0x1 -j ACCEPT\nCOMMIT\n"
        ))
    };
    let cut = "cut Established by filter/INPUT policy DROP";
    assert_eq!(say(&marked("-A PREROUTING -j MARK --set-xmark 0x1/0xffffffff"), &path(22)), "safe");
    assert_eq!(say(&marked("-A PREROUTING -p udp -j MARK --set-xmark 0x1/0xffffffff"), &path(22)), cut);
    assert!(
        say(&marked("-A PREROUTING -m length --length 90 -j MARK --set-xmark 0x1/0x1"), &path(22))
            .starts_with("maybe Established by filter/INPUT rule 1")
    );
    let untracked = ruleset(
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 22 -j CT --notrack\nCOMMIT\n\
         *filter\n:INPUT DROP [0:0]\n-A INPUT -m state --state NEW,RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n",
    );
    assert_eq!(say(&untracked, &path(22)), cut);
}

#[test]
fn nat_leaves_open_what_it_may_rewrite() {
    let nat = |rule: &str| {
        ruleset(&format!(
            "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n\
             -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER {rule}\nCOMMIT\n"
        ))
    };
    let docker = "! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80";
    assert_eq!(say(&nat(docker), &path(22)), "safe");
    assert_eq!(say(&nat(docker), &path(8080)), format!("maybe New by nat/DOCKER rule 1: {docker}"));
}

#[test]
fn a_table_with_native_rules_says_nothing() {
    let rules = ruleset("# Table `filter' is incompatible, use 'nft' tool.\n");
    let said = say(&rules, &path(22));
    assert!(said.starts_with("maybe Established by the native part of the nft table filter"), "{said}");
    // A chain of its own that hangs on a hook, in the table where nat looks at first packets only.
    let tainted = "# Table `nat' contains incompatible base-chains, use 'nft' tool to list them.\n*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n";
    let said = say(&ruleset(tainted), &path(22));
    assert!(said.starts_with("maybe Established by the native part of the nft table nat"), "{said}");
}

#[test]
fn ipv6_needs_its_neighbours() {
    let v6 = SshPath {
        family: IpFamily::V6,
        src: "2001:db8::9".parse().unwrap(),
        dst: "2001:db8::41".parse().unwrap(),
        ..path(22)
    };
    assert_eq!(say(&classic("", "-p ipv6-icmp"), &v6), "safe");
    let ping_only = classic("", "-p ipv6-icmp -m icmp6 --icmpv6-type 128");
    assert_eq!(say(&ping_only, &v6), format!("cut Neighbour by {REJECT}"));
}

/// Tables `nat` with these rules of PREROUTING.
fn prerouting(rules: &[&str]) -> Ruleset {
    let rules: Vec<String> = rules.iter().map(|rule| format!("-A PREROUTING {rule}\n")).collect();
    ruleset(&format!("*nat\n:PREROUTING ACCEPT [0:0]\n{}COMMIT\n", rules.concat()))
}

/// As [`say`], for a host whose live rules are those of `before`, with its addresses and listeners.
fn say_after(before: &[&str], after: &[&str], listeners: &[(&str, u16)], dialled: Option<u16>) -> String {
    let context = HostContext {
        addresses: vec![
            ("eth0".into(), "192.0.2.41/24".parse().unwrap()),
            ("eth1".into(), "10.0.0.2/24".parse().unwrap()),
        ],
        ..HostContext::default()
    };
    let listeners: Vec<_> = listeners.iter().map(|(a, port)| (a.parse().unwrap(), *port)).collect();
    let mut path = path(22);
    path.listeners = (!listeners.is_empty()).then_some(listeners);
    path.dialled = dialled.map(|port| (path.dst, port));
    path.arrival = ssh_arrival(&prerouting(before), &context, &path);
    match ssh_lockout(&prerouting(after), &context, &path).summary() {
        SshSummary::Safe => "safe".into(),
        SshSummary::LockedOut { which, .. } => format!("cut {which:?}"),
        SshSummary::Unknown { which, .. } => format!("maybe {which:?}"),
    }
}

/// All new TCP connections go to a guest. Another rule hides that only if it may lead this client's connection to sshd.
#[test]
fn another_rule_that_redirects_hides_no_lockout() {
    let guest = "-p tcp -j DNAT --to-destination 10.0.0.77";
    for other in [
        "-p udp -m udp --dport 5353 -j REDIRECT --to-ports 53",
        "-p udp -m udp --dport 22 -j REDIRECT",
        "-p icmp -j REDIRECT",
        "-p tcp -m tcp --dport 80 -j REDIRECT",
        "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 3128",
        "-s 203.0.113.0/24 -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22",
        "-i eth7 -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22",
        "-p tcp -m tcp --dport 2222 -j DNAT --to-destination 192.0.2.99:22",
        "-d 10.9.9.9/32 -p tcp -m tcp --dport 23 -j DNAT --to-destination 192.0.2.41",
        "-p tcp -m conntrack --ctstate ESTABLISHED -j REDIRECT --to-ports 22",
        "-p udp -j NETMAP --to 192.0.2.0/24",
    ] {
        assert_eq!(say_after(&[], &[other, guest], &[], None), "cut New", "{other}");
        assert_eq!(say_after(&[other], &[other, guest], &[], None), "cut New", "{other}");
    }
    for other in [
        "-p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22",
        "-p tcp -m tcp --dport 2222 -j DNAT --to-destination 192.0.2.41:22",
        "-d 10.9.9.9/32 -p tcp -m tcp --dport 22 -j DNAT --to-destination 192.0.2.41",
        "-p tcp -m tcp --dport 2222 -m set --match-set ops src -j REDIRECT --to-ports 22",
    ] {
        // New with the plan, it has not led the open connection to sshd.
        assert_eq!(say_after(&[], &[other, guest], &[], None), "cut New", "{other}");
        // Live, it may have. But not if the controller connects to sshd's port itself.
        assert_eq!(say_after(&[other], &[other, guest], &[], None), "maybe New", "{other}");
        assert_eq!(say_after(&[other], &[other, guest], &[], Some(22)), "cut New", "{other}");
        assert_eq!(say_after(&[other], &[other], &[], None), "safe", "{other}");
    }
    // The open connection was led to sshd for certain, and the next one is too, or it is not known.
    let led = "-p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22";
    assert_eq!(say_after(&[led, guest], &[led, guest], &[], None), "safe");
    assert_eq!(say_after(&[led, guest], &[guest], &[], None), "maybe New");
}

/// sshd listens on every address, so it gets what nat sends to another address of the host.
#[test]
fn another_address_of_the_host_is_no_lockout() {
    let moved = "-p tcp -m tcp --dport 22 -j DNAT --to-destination 10.0.0.2";
    let redirected = "-p tcp -m tcp --dport 22 -j REDIRECT --to-ports 22";
    let elsewhere = "-p tcp -m tcp --dport 22 -j DNAT --to-destination 10.0.0.2:2222";
    for (rule, listeners, expected) in [
        (moved, &[("0.0.0.0", 22)][..], "safe"),
        (moved, &[("::", 22)], "safe"),
        (moved, &[("192.0.2.41", 22)], "cut New"),
        // Another program than sshd may have that address.
        (moved, &[("192.0.2.41", 22), ("10.0.0.2", 22)], "maybe New"),
        (moved, &[], "maybe New"),
        (redirected, &[("0.0.0.0", 22)], "safe"),
        (elsewhere, &[("0.0.0.0", 22)], "cut New"),
        (elsewhere, &[("0.0.0.0", 22), ("0.0.0.0", 2222)], "maybe New"),
        ("-p tcp -m tcp --dport 22 -j DNAT --to-destination 10.0.0.77", &[("0.0.0.0", 22)], "cut New"),
    ] {
        assert_eq!(say_after(&[], &[rule], listeners, None), expected, "{rule} {listeners:?}");
    }
}
