//! Random rules over what is in the world, so that many of them meet the packets that are sent.

use crate::random::Random;
use kvmfw::resource::iptables::IpFamily;

/// Which parts of the language are drawn.
pub struct Rules<'a> {
    pub random: &'a mut Random,
    pub family: IpFamily,
}

pub const TABLES: [(&str, &[&str]); 5] = [
    ("raw", &["PREROUTING", "OUTPUT"]),
    ("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("security", &["INPUT", "FORWARD", "OUTPUT"]),
];

/// What the walk need not know the answer to.
pub const UNKNOWN_IS_ENOUGH: [&str; 12] = [
    "-m mac ",
    "-m rt ",
    "-m rpfilter ",
    "-m set ",
    "-m limit ",
    "-m statistic ",
    "-m length ",
    "-m ttl ",
    "-m hl ",
    "-m connbytes ",
    "-m connmark ",
    "-m recent ",
];

impl Rules<'_> {
    /// A whole file for iptables-restore.
    pub fn file(&mut self) -> String {
        let mut text = String::new();
        for (table, chains) in TABLES {
            // Most hosts leave most tables alone, and what drops early hides what comes late.
            let odds = match table {
                "filter" => 1,
                "nat" | "mangle" => 2,
                "raw" => 3,
                _ => 6,
            };
            if self.random.one_in(odds) {
                text += &self.table(table, chains);
            }
        }
        text
    }

    fn table(&mut self, table: &str, chains: &[&str]) -> String {
        let mut text = format!("*{table}\n");
        for chain in chains {
            let drops = table == "filter" && self.random.one_in(3);
            text += &format!(":{chain} {} [0:0]\n", if drops { "DROP" } else { "ACCEPT" });
        }
        // Chains of the user that can be entered from anywhere, and for those of some hooks alone.
        let users: Vec<String> = (0..self.random.below(4)).map(|n| format!("u{n}")).collect();
        for user in &users {
            text += &format!(":{user} - [0:0]\n");
        }
        for chain in chains {
            for _ in 0..self.random.below(7) {
                text += &self.rule(table, chain, chain, &users);
            }
        }
        for (n, user) in users.iter().enumerate() {
            for _ in 0..self.random.below(5) {
                // Only to later ones: the kernel takes no loops.
                text += &self.rule(table, user, "", &users[n + 1..]);
            }
        }
        text + "COMMIT\n"
    }

    fn rule(&mut self, table: &str, chain: &str, hook: &str, users: &[String]) -> String {
        let mut protocol = None;
        let mut matches = String::new();
        let heads = self.random.below(3);
        for _ in 0..heads {
            matches += &self.head(hook, &mut protocol, &matches);
        }
        for _ in 0..self.random.below(3) {
            let more = self.extension(hook, protocol.as_deref());
            // Of two equal options of `-m tcp` iptables-nft-save shows the last alone, though the kernel wants
            // both: nobody who reads it can know.
            let twice = ["--dport ", "--sport ", "--tcp-flags "]
                .iter()
                .any(|option| more.contains(option) && matches.contains(option));
            if !twice {
                matches += &more;
            }
        }
        let target = self.target(table, hook, protocol.as_deref(), users);
        format!("-A {chain} {matches}{target}\n")
    }

    fn negation(&mut self) -> &'static str {
        if self.random.one_in(5) { "! " } else { "" }
    }

    /// What stands before any `-m`, each at most once.
    fn head(&mut self, hook: &str, protocol: &mut Option<String>, before: &str) -> String {
        let v4 = self.family == IpFamily::V4;
        let option =
            self.random.of_these(&["-s", "-d", "-i", "-o", "-p", "-p", "-p", "-d", "-p", "-s", "-p", "-f"]);
        let incoming = matches!(hook, "PREROUTING" | "INPUT");
        let outgoing = matches!(hook, "OUTPUT" | "POSTROUTING");
        if before.contains(&format!("{option} ")) || option == "-o" && incoming || option == "-i" && outgoing
        {
            return String::new();
        }
        let not = self.negation();
        match option {
            "-f" if v4 => format!("{not}-f "),
            "-f" => String::new(),
            "-s" | "-d" => format!("{not}{option} {} ", self.network()),
            "-i" | "-o" => {
                let device = self.random.of_these(&["br0", "eth0", "br+", "e+", "vnet0", "lo"]);
                format!("{not}{option} {device} ")
            }
            _ => {
                let name = self.random.of_these(&["tcp", "udp", "icmp", "254", "tcp", "udp"]);
                let name = if name == "icmp" && !v4 { "ipv6-icmp" } else { name };
                // After `! -p tcp` no port can be asked for.
                if not.is_empty() {
                    *protocol = Some(name.to_owned());
                } else {
                    *protocol = Some(String::new());
                }
                format!("{not}-p {name} ")
            }
        }
    }

    fn network(&mut self) -> &'static str {
        match self.family {
            IpFamily::V4 => self.random.of_these(&[
                "10.0.0.0/24",
                "10.0.0.1",
                "10.0.0.2",
                "10.0.0.254",
                "10.1.0.1",
                "10.1.0.0/24",
                "10.1.0.254",
                "10.0.0.0/8",
                "10.0.0.1/255.0.255.255",
                "10.0.0.0/31",
                "192.0.2.0/24",
            ]),
            IpFamily::V6 => self.random.of_these(&[
                "fd00::/64",
                "fd00::1",
                "fd00::2",
                "fd00::fe",
                "fd01::1",
                "fd01::/64",
                "fd01::fe",
                "fc00::/7",
                "::1/::ffff",
                "fe80::/10",
            ]),
        }
    }

    fn ports(&mut self) -> &'static str {
        // Packets go to the ends of ranges too.
        self.random.of_these(&["22", "53", "80", "443", "1:80", "50:53", "400:443", "0:21", "22:60"])
    }

    fn extension(&mut self, hook: &str, protocol: Option<&str>) -> String {
        let not = self.negation();
        let ported = matches!(protocol, Some("tcp" | "udp"));
        // Most rules of hosts that name a protocol name a port.
        let which = if ported && self.random.one_in(2) { 0 } else { self.random.below(12) };
        match which {
            0 | 1 if ported => {
                let which = self.random.of_these(&["--dport", "--dport", "--sport"]);
                format!("-m {} {not}{which} {} ", protocol.unwrap(), self.ports())
            }
            2 if protocol == Some("tcp") => {
                let flags = self.random.of_these(&[
                    "FIN,SYN,RST,ACK SYN",
                    "SYN,ACK SYN,ACK",
                    "ALL ACK",
                    "ACK ACK",
                    "ALL NONE",
                    "SYN,RST NONE",
                ]);
                format!("-m tcp {not}--tcp-flags {flags} ")
            }
            2 if protocol == Some("icmp") => {
                format!("-m icmp {not}--icmp-type {} ", self.random.of_these(&["8", "0", "3/3", "any", "3"]))
            }
            2 if protocol == Some("ipv6-icmp") => {
                let kind = self.random.of_these(&["128", "129", "135", "136", "1/4", "1"]);
                format!("-m icmp6 {not}--icmpv6-type {kind} ")
            }
            3 if ported => {
                let which = self.random.of_these(&["--dports", "--sports", "--ports"]);
                format!(
                    "-m multiport {not}{which} {} ",
                    self.random.of_these(&["22,53", "60:80,443", "1024:65535"])
                )
            }
            4..=6 => self.state(not),
            7 if !self.random.one_in(3) => self.physdev(hook, not),
            7 | 8 => self.mark(not),
            9 => {
                let which = self.random.of_these(&["--src-type", "--dst-type"]);
                let kind = self.random.of_these(&["LOCAL", "LOCAL", "UNICAST"]);
                format!("-m addrtype {not}{which} {kind} ")
            }
            10 => self.range(not),
            11 if self.random.one_in(4) => {
                let hops =
                    if self.family == IpFamily::V4 { "-m ttl --ttl-lt 64 " } else { "-m hl --hl-lt 64 " };
                self.random
                    .of_these(&[
                        "-m limit --limit 1/min --limit-burst 1 ",
                        "-m statistic --mode random --probability 0.5 ",
                        "-m length --length 0:48 ",
                        "-m length --length 0:27 ",
                        "-m length ! --length 0:19 ",
                        "-m length --length 20:65535 ",
                        "-m comment --comment \"-j DROP it's\" ",
                        hops,
                    ])
                    .to_owned()
            }
            11 => self.mark(not),
            _ => String::new(),
        }
    }

    fn mark(&mut self, not: &str) -> String {
        let mark = self.random.of_these(&["0x0", "0x1/0x1", "0x2/0xff", "0x3"]);
        format!("-m mark {not}--mark {mark} ")
    }

    fn state(&mut self, not: &str) -> String {
        let states = self.random.of_these(&[
            "NEW",
            "ESTABLISHED",
            "RELATED,ESTABLISHED",
            "RELATED,ESTABLISHED",
            "INVALID",
            "UNTRACKED",
            "NEW,RELATED",
            "INVALID,NEW,ESTABLISHED",
        ]);
        match self.random.below(8) {
            0 => {
                let nat = self.random.of_these(&["DNAT", "SNAT", "NEW,DNAT"]);
                format!("-m conntrack {not}--ctstate {nat} ")
            }
            1 => {
                let direction = self.random.of_these(&["ORIGINAL", "REPLY"]);
                format!("-m conntrack --ctstate {states} --ctdir {direction} ")
            }
            2 | 3 => format!("-m conntrack {not}--ctstate {states} "),
            _ => format!("-m state {not}--state {states} "),
        }
    }

    fn physdev(&mut self, hook: &str, not: &str) -> String {
        let port = self.random.of_these(&["vnet0", "vnet1", "vnet+", "eth0"]);
        let out = hook == "FORWARD" || hook == "POSTROUTING";
        match self.random.below(6) {
            0 | 1 => format!("-m physdev {not}--physdev-in {port} "),
            2 => format!("-m physdev {not}--physdev-is-in "),
            3 if out => format!("-m physdev {not}--physdev-is-bridged "),
            4 if out => format!("-m physdev {not}--physdev-out {port} "),
            5 if out => format!("-m physdev {not}--physdev-is-out "),
            _ => String::new(),
        }
    }

    fn range(&mut self, not: &str) -> String {
        let which = self.random.of_these(&["--src-range", "--dst-range"]);
        let range = match self.family {
            IpFamily::V4 => {
                self.random.of_these(&["10.0.0.1-10.0.0.9", "10.0.0.200-10.1.0.1", "10.1.0.1-10.1.0.254"])
            }
            IpFamily::V6 => {
                self.random.of_these(&["fd00::1-fd00::9", "fd00::80-fd01::1", "fd01::1-fd01::fe"])
            }
        };
        format!("-m iprange {not}{which} {range} ")
    }

    fn target(&mut self, table: &str, hook: &str, protocol: Option<&str>, users: &[String]) -> String {
        if !users.is_empty() && self.random.one_in(3) {
            let user = &users[usize::try_from(self.random.below(users.len() as u64)).unwrap()];
            return format!("{} {user}", if self.random.one_in(3) { "-g" } else { "-j" });
        }
        if self.random.one_in(8) {
            return "-j RETURN".to_owned();
        }
        let ends = ["-j ACCEPT", "-j DROP"];
        match table {
            "raw" => self
                .random
                .of_these(&["-j ACCEPT", "-j DROP", "-j CT --notrack", "-j CT --notrack", ""])
                .to_owned(),
            "mangle" => self
                .random
                .of_these(&[
                    "-j ACCEPT",
                    "-j DROP",
                    "-j MARK --set-xmark 0x1/0xffffffff",
                    "-j MARK --set-xmark 0x2/0x2",
                    "-j MARK --set-xmark 0x0/0xffffffff",
                    "",
                ])
                .to_owned(),
            "nat" => self.nat(hook, protocol),
            "filter" => match self.random.below(5) {
                0 if self.family == IpFamily::V4 => "-j REJECT --reject-with icmp-host-prohibited".to_owned(),
                0 => "-j REJECT --reject-with icmp6-adm-prohibited".to_owned(),
                1 => "-j MARK --set-xmark 0x1/0x1".to_owned(),
                _ => self.random.of_these(&ends).to_owned(),
            },
            _ => self.random.of_these(&ends).to_owned(),
        }
    }

    /// Rewriting targets stand only in chains of the hooks that allow them.
    fn nat(&mut self, hook: &str, protocol: Option<&str>) -> String {
        let ported = matches!(protocol, Some("tcp" | "udp"));
        let v4 = self.family == IpFamily::V4;
        let address = |random: &mut Random, list: [&'static str; 4], list6: [&'static str; 4]| {
            random.of_these(if v4 { &list } else { &list6 }).to_owned()
        };
        match hook {
            "PREROUTING" | "OUTPUT" => {
                let to = address(
                    self.random,
                    ["10.0.0.1", "10.0.0.2", "10.1.0.1", "10.0.0.254"],
                    ["fd00::1", "fd00::2", "fd01::1", "fd00::fe"],
                );
                match self.random.below(5) {
                    0 if ported => "-j REDIRECT --to-ports 22".to_owned(),
                    0 => "-j REDIRECT".to_owned(),
                    1 | 2 if ported && v4 => format!("-j DNAT --to-destination {to}:80"),
                    1 | 2 if ported => format!("-j DNAT --to-destination [{to}]:80"),
                    3 => format!("-j DNAT --to-destination {to}"),
                    _ => "-j ACCEPT".to_owned(),
                }
            }
            "POSTROUTING" | "INPUT" => match self.random.below(4) {
                0 if hook == "POSTROUTING" => "-j MASQUERADE".to_owned(),
                1 => {
                    let to = address(
                        self.random,
                        ["10.0.0.254", "10.1.0.254", "10.0.0.253", "10.1.0.253"],
                        ["fd00::fe", "fd01::fe", "fd00::fd", "fd01::fd"],
                    );
                    format!("-j SNAT --to-source {to}")
                }
                _ => "-j ACCEPT".to_owned(),
            },
            _ => self.random.of_these(&["-j ACCEPT", "-j RETURN", ""]).to_owned(),
        }
    }
}
