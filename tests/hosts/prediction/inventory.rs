//! Random inventories of one host: modules, rules, keys, sets and bridges.

use super::random::Random;
use std::fmt::Write as _;

const MODULES: [&str; 5] =
    ["host-firewall", "firewall-log", "bridge-accept-each", "bridge-accept-physdev", "bridge-bypass"];

/// `ICMP` is the name of the protocol in each family.
const FORWARD: [&str; 16] = [
    "-m physdev --physdev-is-bridged -j ACCEPT",
    "-m physdev --physdev-in vnet0 -j DROP",
    "-i br123 -o br123 -j ACCEPT",
    "-m state --state ESTABLISHED,RELATED -j ACCEPT",
    "-m conntrack --ctstate INVALID -j DROP",
    "-p tcp --dport 1021 -j REJECT --reject-with tcp-reset",
    "-p udp -j DROP",
    "-p ICMP -j DROP",
    "-j LOG --log-prefix \"F \"",
    "-m mark --mark 0x1 -j ACCEPT",
    "-j OWN",
    "-m physdev ! --physdev-is-bridged -j ACCEPT",
    "-m physdev --physdev-in eth1 --physdev-out vnet1 -p tcp -j REJECT --reject-with tcp-reset",
    "-s LAN ! -i br123 -j DROP",
    "-j REJECT",
    "-j DROP",
];

const INPUT: [&str; 10] = [
    "-p tcp --dport 22 -j ACCEPT",
    "-i lo -j ACCEPT",
    "-m state --state ESTABLISHED,RELATED -j ACCEPT",
    "-p tcp --dport 8080 -j DROP",
    "-p tcp -m multiport --dports 80,443,16514 -j REJECT",
    "-p ICMP -m limit --limit 5/sec -j ACCEPT",
    "-j LOG --log-prefix \"I \" --log-level info",
    "-i br123 -p udp --dport 67 -j DROP",
    "-m set --match-set peers src -j ACCEPT",
    "-p tcp --dport 22 -m state --state NEW -j DROP",
];

const OUTPUT: [&str; 3] = ["-p tcp --dport 25 -j REJECT", "-o br123 -p udp -j DROP", "-d LAN -j ACCEPT"];

const OWN: [&str; 3] = ["-p tcp -j ACCEPT", "-s LAN -j RETURN", "-m set --match-set peers src -j ACCEPT"];

/// Keys and the values that they may get. Those of bridges collide with bridge-bypass.
const KEYS: [(&str, &[&str]); 7] = [
    ("net.bridge.bridge-nf-call-iptables", &["0", "1"]),
    ("net.bridge.bridge-nf-call-ip6tables", &["0", "1"]),
    ("net.bridge.bridge-nf-filter-vlan-tagged", &["0", "1"]),
    ("net.ipv4.ip_forward", &["0", "1"]),
    ("net.ipv6.conf.all.forwarding", &["0", "1"]),
    ("net.ipv4.conf.all.arp_ignore", &["0", "1", "2"]),
    ("net.netfilter.nf_conntrack_tcp_loose", &["0", "1"]),
];

const BRIDGES: [&str; 8] = [
    "{}",
    "{ br123: { manage: false } }",
    "{ br123: { ageing: 77 } }",
    "{ br123: { nf_call_iptables: true, nf_call_ip6tables: false } }",
    "{ br123: { manage: false }, br9: { stp: false } }",
    "{ br9: { addresses: ['192.0.2.1/24'] } }",
    "{ br123: { nf_call_iptables: false, nf_call_ip6tables: true, addresses: ['192.0.2.9/24'] } }",
    "{ br123: { vlan_filtering: true } }",
];

const SETS: [&str; 3] = [
    "{ peers: { type: 'hash:net', entries: [] } }",
    "{ peers: { type: 'hash:net', entries: [192.168.1.0/24] } }",
    "{ peers: { type: 'hash:net', entries: [10.0.0.0/8, 192.0.2.1/32] } }",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// The rules of a chain, where they stand, and its policy.
#[derive(Clone, Default)]
struct Chain {
    slot: &'static str,
    drops: bool,
    rules: Vec<&'static str>,
}

#[derive(Clone)]
pub struct Inventory {
    modules: Vec<&'static str>,
    ports: u64,
    keys: Vec<(&'static str, &'static str)>,
    bridges: &'static str,
    sets: &'static str,
    forward: [Chain; 2],
    input: [Chain; 2],
    output: [Chain; 2],
    own: Vec<&'static str>,
    masquerades: bool,
    marks: bool,
}

fn some(random: &mut Random, from: &[&'static str], most: u64) -> Vec<&'static str> {
    (0..random.below(most + 1)).map(|_| random.of_these(from)).collect()
}

impl Chain {
    fn random(random: &mut Random, from: &[&'static str], drops: bool) -> Self {
        let slot = random.of_these(&["first", "rules", "last"]);
        Self { slot, drops: drops && random.one_in(6), rules: some(random, from, 4) }
    }

    /// Takes a rule out, puts one in, or turns two around.
    fn edit(&mut self, random: &mut Random, from: &[&'static str]) {
        let at = |random: &mut Random, len: usize| usize::try_from(random.below(len as u64)).unwrap();
        match random.below(3) {
            0 if !self.rules.is_empty() => {
                self.rules.remove(at(random, self.rules.len()));
            }
            1 if self.rules.len() > 1 => {
                let (one, other) = (at(random, self.rules.len()), at(random, self.rules.len()));
                self.rules.swap(one, other);
            }
            _ => self.rules.insert(at(random, self.rules.len() + 1), random.of_these(from)),
        }
    }

    fn yaml(&self, name: &str, family: Family, sets: bool, out: &mut String) {
        let is_usable = |rule: &&&str| !rule.contains("--match-set") || sets && family == Family::V4;
        let rules: Vec<&&str> = self.rules.iter().filter(is_usable).collect();
        if rules.is_empty() && !self.drops {
            return;
        }
        let _ = writeln!(out, "    {name}:");
        if self.drops {
            out.push_str("      policy: DROP\n");
        }
        if rules.is_empty() {
            return;
        }
        let _ = writeln!(out, "      {}: |", self.slot);
        let (icmp, lan) = match family {
            Family::V4 => ("icmp", "192.168.1.0/24"),
            Family::V6 => ("ipv6-icmp", "fd00:1::/64"),
        };
        for rule in rules {
            let _ = writeln!(out, "        {}", rule.replace("ICMP", icmp).replace("LAN", lan));
        }
    }
}

impl Inventory {
    pub fn random(random: &mut Random) -> Self {
        let mut modules: Vec<&str> = MODULES.into_iter().filter(|_| random.one_in(3)).collect();
        for n in (1..modules.len()).rev() {
            modules.swap(n, usize::try_from(random.below(n as u64 + 1)).unwrap());
        }
        let mut chains = |from: &[&'static str], drops| [0, 1].map(|_| Chain::random(random, from, drops));
        let (forward, input, output) =
            (chains(&FORWARD, true), chains(&INPUT, false), chains(&OUTPUT, false));
        Self {
            modules,
            ports: random.below(3),
            keys: KEYS
                .into_iter()
                .filter(|_| random.one_in(5))
                .collect::<Vec<_>>()
                .into_iter()
                .map(|(key, values)| (key, random.of_these(values)))
                .collect(),
            bridges: random.of_these(&BRIDGES),
            sets: if random.one_in(2) { random.of_these(&SETS) } else { "" },
            forward,
            input,
            output,
            own: some(random, &OWN, 3),
            masquerades: random.one_in(5),
            marks: random.one_in(5),
        }
    }

    /// The same with one thing changed.
    pub fn edited(&self, random: &mut Random) -> Self {
        let (mut new, other) = (self.clone(), Self::random(random));
        let family = usize::from(random.one_in(2));
        match random.below(11) {
            0 => new.modules = other.modules,
            1 => new.ports = other.ports,
            2 => new.keys = other.keys,
            3 => new.bridges = other.bridges,
            4 => new.sets = other.sets,
            5 | 6 => new.forward[family].edit(random, &FORWARD),
            7 => new.input[family].edit(random, &INPUT),
            8 => new.output[family].edit(random, &OUTPUT),
            9 => (new.masquerades, new.marks) = (other.masquerades, other.marks),
            _ => new.own = other.own,
        }
        new
    }

    /// The group `all`.
    pub fn yaml(&self) -> String {
        let mut out = format!("modules: [{}]\nbridges: {}\n", self.modules.join(", "), self.bridges);
        if self.modules.contains(&"host-firewall") {
            let ports = ["22", "22, 16514", "22, '5900:5999'"][usize::try_from(self.ports).unwrap()];
            let _ = writeln!(out, "params: {{ host-firewall: {{ allow_tcp: [{ports}] }} }}");
        }
        let bypass = self.modules.contains(&"bridge-bypass");
        let keys = self.keys.iter().filter(|(key, _)| !(bypass && key.contains("nf-call")));
        let keys: Vec<String> = keys.map(|(key, value)| format!("{key}: {value}")).collect();
        if !keys.is_empty() {
            let _ = writeln!(out, "sysctl: {{ 60-prediction: {{ {} }} }}", keys.join(", "));
        }
        if !self.sets.is_empty() {
            let _ = writeln!(out, "ipset: {}", self.sets);
        }
        for (n, name) in ["iptables", "ip6tables"].into_iter().enumerate() {
            let family = if n == 0 { Family::V4 } else { Family::V6 };
            let mut filter = String::new();
            let sets = !self.sets.is_empty();
            self.forward[n].yaml("FORWARD", family, sets, &mut filter);
            self.input[n].yaml("INPUT", family, sets, &mut filter);
            self.output[n].yaml("OUTPUT", family, sets, &mut filter);
            if filter.contains("-j OWN") {
                let rules = [&self.own[..], &["-m comment --comment end"]].concat();
                Chain { slot: "rules", drops: false, rules }.yaml("OWN", family, sets, &mut filter);
            }
            let mut text = if filter.is_empty() { filter } else { format!("  filter:\n{filter}") };
            if self.masquerades && family == Family::V4 {
                text += "  nat:\n    POSTROUTING:\n      rules: |\n        -s 192.168.1.0/24 ! -d 192.168.1.0/24 -j MASQUERADE\n";
            }
            if self.marks {
                text += "  mangle:\n    PREROUTING:\n      rules: |\n        -i br123 -j MARK --set-xmark 0x1/0xffffffff\n";
            }
            if !text.is_empty() {
                let _ = write!(out, "{name}:\n{text}");
            }
        }
        out
    }
}
