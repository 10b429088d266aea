//! A random state that a host is to have.

use crate::fault::names;
use crate::random::Random;
use std::fmt;

names!(
    /// Why a change must not last, if it must not.
    Sick {
    No = "well",
    /// A check of it fails.
    Check = "check fails",
    /// It lets the open connections live and no new one in, by a rule that no forecast can judge: the first segment has 40
    /// bytes or more, and no real one has as few.
    LockOut = "lockout",
});

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Desired {
    cure: u64,
    log: bool,
    port: u64,
    arp: u64,
    keepalive: u64,
    ageing: u64,
    /// A bridge of ours, `br9`.
    pub bridge: bool,
}

impl Desired {
    /// One of two that differ in rules, keys and bridges; without randomness.
    pub fn numbered(number: u64) -> Self {
        Self {
            cure: number % 2,
            log: number.is_multiple_of(2),
            port: 1000 + number,
            arp: 1 + number,
            keepalive: 3000 + number,
            ageing: 100 + number,
            bridge: number.is_multiple_of(2),
        }
    }

    /// One that differs from `from` in the rules, and maybe elsewhere.
    pub fn random(random: &mut Random, from: Option<&Self>) -> Self {
        let port = 1000 + random.below(5);
        Self {
            cure: random.below(3),
            log: random.one_in(2),
            port: if from.is_some_and(|f| f.port == port) { port + 10 } else { port },
            arp: random.below(3),
            keepalive: 3000 + random.below(3),
            ageing: 100 + random.below(3),
            bridge: random.one_in(2),
        }
    }

    pub fn yaml(&self, sick: Sick) -> String {
        let cure = ["bridge-accept-each", "bridge-accept-physdev", "bridge-bypass"]
            [usize::try_from(self.cure).unwrap()];
        let mut yaml =
            format!("modules: [{cure}, host-firewall{}]\n", if self.log { ", firewall-log" } else { "" });
        yaml += &format!("params: {{ host-firewall: {{ allow_tcp: [22, {}] }} }}\n", self.port);
        yaml += &format!(
            "sysctl: {{ 60-chaos: {{ net.ipv4.conf.all.arp_ignore: {}, net.ipv4.tcp_keepalive_time: {} }} }}\n",
            self.arp, self.keepalive
        );
        let more = if self.bridge { ", br9: { addresses: ['192.0.2.1/24'] }" } else { "" };
        yaml += &format!("bridges: {{ br123: {{ ageing: {} }}{more} }}\n", self.ageing);
        match sick {
            Sick::No => {}
            Sick::Check => yaml += "checks: [{ command: 'false', required: true }]\n",
            Sick::LockOut => {
                yaml += "iptables:\n  filter:\n    INPUT:\n      first: |\n        -m state --state ESTABLISHED,RELATED -j ACCEPT\n        -p tcp --dport 22 -m length --length 41:65535 -j DROP\n";
            }
        }
        yaml
    }

    /// What of it is not so in a dump: looked up here, without kvmfw.
    pub fn missing(&self, dump: &str) -> Vec<String> {
        let rules = |section: &str| {
            let part = dump.split(&format!("== {section}\n")).nth(1).unwrap_or("");
            part.split("\n== ").next().unwrap_or("").to_owned()
        };
        let (v4, v6) = (
            rules("iptables-nft") + &rules("iptables-legacy"),
            rules("ip6tables-nft") + &rules("ip6tables-legacy"),
        );
        let port = format!("--dport {} ", self.port);
        let mut wrong = Vec::new();
        let mut must = |what: &str, so: bool| {
            if !so {
                wrong.push(what.to_owned());
            }
        };
        // A list may have become one rule for each port.
        must("the port in v4", v4.contains(&port) || v4.contains(&format!(",{} ", self.port)));
        must("the port in v6", v6.contains(&port) || v6.contains(&format!(",{} ", self.port)));
        must("arp_ignore", dump.contains(&format!("/proc/sys/net/ipv4/conf/all/arp_ignore\t{}\n", self.arp)));
        must(
            "keepalive",
            dump.contains(&format!("/proc/sys/net/ipv4/tcp_keepalive_time\t{}\n", self.keepalive)),
        );
        must("log", v4.contains("Firewall INPUT") == self.log);
        must("br9", dump.contains("192.0.2.1/24") == self.bridge);
        let ageing =
            dump.lines().find(|l| l.starts_with("br123 ")).and_then(|l| l.split(" ageing_time ").nth(1));
        must("ageing", ageing.is_some_and(|a| a.starts_with(&format!("{} ", self.ageing * 100))));
        wrong
    }
}
