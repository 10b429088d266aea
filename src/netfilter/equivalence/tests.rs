use super::*;
use crate::resource::iptables::save::SavedTables;

fn proven(before: &str, after: &str) -> Result<(), VerdictDifference> {
    let set = |rules: &str| {
        Ruleset::new(&SavedTables::parse(&format!("*filter\n:INPUT ACCEPT\n{rules}COMMIT\n")).unwrap())
    };
    prove_equivalent(&set(before), &set(after), IpFamily::V4)
}

#[track_caller]
fn holds(before: &str, after: &str) {
    assert_eq!(proven(before, after), Ok(()), "{before}\n{after}");
}

#[track_caller]
fn fails(before: &str, after: &str) -> VerdictDifference {
    proven(before, after).expect_err(&format!("{before}\n{after}"))
}

const BY_HAND: &str = ":RH - \n-A INPUT -j RH\n-A RH -i lo -j ACCEPT\n-A RH -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT\n-A RH -j REJECT\n";

#[test]
fn the_names_of_chains_and_comments_do_not_count() {
    let ours = ":KVMFW-INPUT -\n:KVMFW-RH -\n-A INPUT -m comment --comment \"kvmfw:hook\" -j KVMFW-INPUT\n-A KVMFW-INPUT -j KVMFW-RH\n";
    let ours = format!(
        "{ours}{}",
        BY_HAND.split_once("-A INPUT -j RH\n").unwrap().1.replace("-A RH", "-A KVMFW-RH")
    );
    holds(BY_HAND, &ours);
    // Both at once: the second never decides.
    holds(BY_HAND, &format!("{ours}{BY_HAND}"));
    // What is behind a rule that decides about everything is met by nobody.
    holds(BY_HAND, &format!("{ours}-A INPUT -s 10.0.0.0/8 -j ACCEPT\n"));
    let other = fails(BY_HAND, &ours.replace("--dport 22", "--dport 23"));
    assert!(other.what.contains("--dport 23 -j ACCEPT` would come before `-j REJECT`"), "{other:?}");
    fails("-A INPUT -i eth0 -j DROP\n", "");
}

#[test]
fn what_changes_places_must_come_to_the_same_or_not_meet() {
    let swapped =
        |a: &str, b: &str| (format!("-A INPUT {a}\n-A INPUT {b}\n"), format!("-A INPUT {b}\n-A INPUT {a}\n"));
    for (a, b) in [
        ("-s 10.0.0.0/8 -j ACCEPT", "-p tcp -m tcp --dport 22 -j ACCEPT"),
        ("-i eth0 -j ACCEPT", "-i eth1 -j DROP"),
        ("-i vnet+ -j ACCEPT", "-i eth1 -j DROP"),
        ("! -i lo -j DROP", "-i lo -j ACCEPT"),
        ("-s 10.0.0.0/8 -j ACCEPT", "-s 192.168.0.0/16 -j DROP"),
        ("! -s 10.0.0.0/8 -j ACCEPT", "-s 10.1.0.0/16 -j DROP"),
        ("-p tcp -m tcp --dport 22 -j ACCEPT", "-p tcp -m tcp --dport 23:80 -j DROP"),
        ("-p tcp -j ACCEPT", "-p udp -j DROP"),
        ("-m state --state NEW -j DROP", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
    ] {
        let (before, after) = swapped(a, b);
        holds(&before, &after);
    }
    for (a, b) in [
        ("-s 10.0.0.0/8 -j ACCEPT", "-j DROP"),
        ("-i vnet+ -j ACCEPT", "-i vnet0 -j DROP"),
        ("! -i lo -j DROP", "-i eth0 -j ACCEPT"),
        ("! -s 10.1.0.0/16 -j ACCEPT", "-s 10.0.0.0/8 -j DROP"),
        ("-p tcp -m tcp --dport 22 -j ACCEPT", "-p tcp -m tcp --dport 1:80 -j DROP"),
        ("-p tcp -j REJECT --reject-with tcp-reset", "-p tcp -j DROP"),
        ("-m limit --limit 3/min -j ACCEPT", "-j DROP"),
        ("-j MARK --set-xmark 0x1/0xffffffff", "-m mark --mark 0x1 -j DROP"),
        ("-m mark --mark 0x2 -j RETURN", "-j DROP"),
        ("-m mark --mark 0x1 -j MARK --set-xmark 0x2/0xffffffff", "-m mark --mark 0x2 -j DROP"),
    ] {
        let (before, after) = swapped(a, b);
        fails(&before, &after);
    }
}

#[test]
fn a_packet_is_the_evidence() {
    let accept = "-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j ACCEPT\n";
    let found = fails(&format!("{accept}-A INPUT -j DROP\n"), &format!("-A INPUT -j DROP\n{accept}"));
    let words = found.evidence.expect("a packet");
    assert!(
        words.contains("a TCP packet from 10.0.0.0 to 192.0.2.2 from port 40000 to port 22 in by eth0"),
        "{words}"
    );
    assert!(words.contains("is accepted by") && words.contains("would be dropped by `-j DROP`"), "{words}");
}

#[test]
fn chains_that_return_are_met_as_wholes() {
    let chain = |name: &str| format!(":{name} -\n-A {name} -s 10.0.0.0/8 -j RETURN\n-A {name} -j DROP\n");
    holds(
        &format!("{}-A INPUT -i eth0 -j A\n", chain("A")),
        &format!("{}-A INPUT -i eth0 -j B\n", chain("B")),
    );
    fails(
        &format!("{}-A INPUT -i eth0 -j A\n-A INPUT -j ACCEPT\n", chain("A")),
        &format!("{}-A INPUT -j ACCEPT\n-A INPUT -i eth0 -j A\n", chain("A")),
    );
    // A mark that is set in between lets the same rule meet a packet that it did not meet before.
    let marked = "-A INPUT -m mark --mark 0x1 -j DROP\n";
    let set = "-A INPUT -i eth0 -j MARK --set-xmark 0x1/0xffffffff\n";
    fails(&format!("{marked}{set}{marked}"), &format!("{marked}{set}"));
    // Once is not twice where a limit counts.
    let limited = "-A INPUT -m limit --limit 3/min -j ACCEPT\n";
    fails(limited, &format!("{limited}{limited}"));
}
