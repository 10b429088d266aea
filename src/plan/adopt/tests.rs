use super::rules::{adoptable_rules, prove_unchanged};
use crate::netfilter::VerdictDifference;
use crate::resource::iptables::save::SavedTables;
use crate::resource::iptables::{DeclaredRules, IpFamily};

const EST: &str = "-m state --state RELATED,ESTABLISHED -j ACCEPT";
const SSH: &str = "-p tcp -m tcp --dport 22 -m comment --comment ssh -j ACCEPT";
const WALL: &str = "-j REJECT --reject-with icmp-port-unreachable";

/// Takes over INPUT: what is warned of, and the proof.
fn adopt(theirs: &[&str], ours: &[&str]) -> (Vec<String>, Result<(), VerdictDifference>) {
    let lines = |chain: &str, rules: &[&str]| -> String {
        rules.iter().map(|rule| format!("-A {chain} {rule}\n")).collect()
    };
    let theirs = lines("INPUT", theirs);
    let save = |own: &str, hook: &str| {
        SavedTables::parse(&format!("*filter\n:INPUT ACCEPT [0:0]\n{own}{hook}{theirs}COMMIT\n")).unwrap()
    };
    let live = save("", "");
    let hook = "-A INPUT -m comment --comment \"kvmfw:hook\" -j KVMFW-INPUT\n";
    let predicted = save(":KVMFW-INPUT - [0:0]\n", &format!("{}{hook}", lines("KVMFW-INPUT", ours)));
    let mut wanted = DeclaredRules::default();
    wanted.tables.entry("filter".to_owned()).or_default();
    let taken = adoptable_rules(IpFamily::V4, &predicted, &wanted);
    let proof = prove_unchanged(IpFamily::V4, &live, &predicted, &taken);
    (taken.warnings.into_iter().map(|warning| warning.message.to_string()).collect(), proof)
}

/// A comment, or a state more: ours accepts the packets of the rule that stays, so nothing is refused.
#[test]
fn what_ours_says_in_other_words_stays_and_is_named() {
    let comment = SSH.replace("ssh", "SSH");
    let established = "-m state --state ESTABLISHED -j ACCEPT";
    let all = [EST, SSH, WALL];
    for (theirs, stays, nearest) in
        [([EST, &comment, WALL], comment.as_str(), SSH), ([established, SSH, WALL], established, EST)]
    {
        let (warnings, proof) = adopt(&theirs, &all);
        assert_eq!(proof, Ok(()), "{theirs:?}");
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        assert!(
            warning.contains(&format!("`{stays}` is not adopted")) && warning.contains(nearest),
            "{warning}"
        );
        assert!(warning.contains("exactly as on the host"), "{warning}");
    }
    assert_eq!(adopt(&all, &all), (Vec::new(), Ok(())));
}

/// What ours would let fall is refused, with the packet; none is named that ours lets pass.
#[test]
fn what_ours_does_not_say_is_refused() {
    let snmp = "-s 203.0.113.0/24 -p udp -m udp --dport 161 -j ACCEPT";
    let refused = adopt(&[EST, snmp, SSH, WALL], &[EST, SSH, WALL]).1.unwrap_err();
    assert!(refused.evidence.unwrap().contains("a UDP packet from 203.0.113.0"));
    // Ours accepts ESTABLISHED, which the packet is taken to be, and not RELATED.
    let established = "-m state --state ESTABLISHED -j ACCEPT";
    let refused = adopt(&[EST, SSH, WALL], &[established, SSH, WALL]).1.unwrap_err();
    assert_eq!(refused.evidence, None, "{}", refused.what);
    // One that stands before a rule of theirs that decides otherwise.
    let comment = SSH.replace("ssh", "SSH");
    adopt(&["-s 203.0.113.0/24 -j DROP", &comment, WALL], &[SSH, WALL]).1.unwrap_err();
}
