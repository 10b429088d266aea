//! Rulesets that several tests ask.

use super::Ruleset;
use crate::resource::iptables::save::SavedTables;

/// The hook of ours in FORWARD.
pub const HOOK: &str = "-A FORWARD -m comment --comment \"kvmfw:hook\" -j KVMFW-FORWARD\n";

/// Reads `iptables-save` text.
pub fn ruleset(text: &str) -> Ruleset {
    Ruleset::new(&SavedTables::parse(text).unwrap())
}

/// A filter table with rules, and policies that accept. Chains that a rule stands in are declared.
pub fn filter(rules: &str) -> Ruleset {
    let mut text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n".to_owned();
    let mut declared = vec!["INPUT", "FORWARD", "OUTPUT"];
    for rule in rules.lines() {
        let chain = rule.split(' ').nth(1).unwrap();
        if !declared.contains(&chain) {
            declared.push(chain);
            text += &format!(":{chain} - [0:0]\n");
        }
    }
    ruleset(&format!("{text}{rules}\nCOMMIT\n"))
}

/// The classic host ruleset as kvmfw leaves it on a host, with rules of the user's at the start of
/// our FORWARD chain, and which ICMP it accepts.
pub fn classic(forward: &str, icmp: &str) -> Ruleset {
    filter(&format!(
        "-A INPUT -m comment --comment \"kvmfw:hook\" -j KVMFW-INPUT
{HOOK}-A KVMFW-INPUT -j KVMFW-RH-Firewall-1-INPUT
{forward}-A KVMFW-FORWARD -j KVMFW-RH-Firewall-1-INPUT
-A KVMFW-RH-Firewall-1-INPUT -i lo -j ACCEPT
-A KVMFW-RH-Firewall-1-INPUT {icmp} -j ACCEPT
-A KVMFW-RH-Firewall-1-INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A KVMFW-RH-Firewall-1-INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT
-A KVMFW-RH-Firewall-1-INPUT -j REJECT --reject-with icmp-host-prohibited"
    ))
}

/// `classic` for IPv4.
pub fn classic_v4(forward: &str) -> Ruleset {
    classic(forward, "-p icmp -m icmp --icmp-type any")
}
