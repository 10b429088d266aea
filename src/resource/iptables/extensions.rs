//! The extensions of iptables 1.8, in one table: names, families, and options as getopt reads them.
//!
//! Taken from the tables that the extensions of iptables 1.8.9 register; a test compares them with the programs of
//! the machine that runs it.

use super::IpFamily;
use super::protocols;
use std::sync::LazyLock;

/// A match (`-m NAME`) or a target (`-j NAME`).
#[derive(Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its name.
    pub name: &'static str,
    /// The only family that has it.
    pub family: Option<IpFamily>,
    /// Its options, space-separated; `None` if they are not known here. See [`ExtensionOption::parse`].
    options: Option<&'static str>,
    /// Whether the simulation evaluates the match; for a target, whether rules after it still meet the packet.
    pub simulated: bool,
}

/// One long option of an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionOption {
    /// The name, with both dashes.
    pub name: &'static str,
    /// How many words after it belong to it.
    pub values: usize,
    /// Whether `!` may stand before it.
    pub negatable: bool,
    /// Whether its value is free text or a name, which may look like an option.
    pub free_text: bool,
    /// The only family that has it.
    pub family: Option<IpFamily>,
}

impl ExtensionOption {
    /// Reads one word of the table: `!` before the name if it may be negated, then `:` or `=` for each value (`=` where
    /// the value may look like an option), then `/4` or `/6` for the only family.
    fn parse(word: &'static str) -> Self {
        let (word, family) = match word.split_once('/') {
            Some((word, "4")) => (word, V4),
            Some((word, _)) => (word, V6),
            None => (word, BOTH),
        };
        let (negatable, word) = match word.strip_prefix('!') {
            Some(word) => (true, word),
            None => (false, word),
        };
        let name = word.trim_end_matches([':', '=']);
        let values = word.len() - name.len();
        Self { name, values, negatable, free_text: word.ends_with('='), family }
    }
}

impl Extension {
    /// Whether its options are known.
    pub fn has_known_options(&self) -> bool {
        self.options.is_some()
    }

    /// Its options in a family.
    pub fn options(&self, family: IpFamily) -> impl Iterator<Item = ExtensionOption> + use<> {
        let all = self.options.unwrap_or_default().split_whitespace().map(ExtensionOption::parse);
        all.filter(move |option| option.family.is_none_or(|only| only == family))
    }

    /// Its option of a name in a family.
    pub fn option(&self, name: &str, family: IpFamily) -> Option<ExtensionOption> {
        self.options(family).find(|option| option.name == name)
    }

    /// Whether a family has it.
    pub fn is_of(&self, family: IpFamily) -> bool {
        self.family.is_none_or(|only| only == family)
    }
}

/// The match of a name.
pub fn find_match(name: &str) -> Option<&'static Extension> {
    let name = match name {
        "icmpv6" | "ipv6-icmp" => "icmp6",
        name => name,
    };
    MATCHES.binary_search_by(|one| one.name.cmp(name)).ok().map(|at| &MATCHES[at])
}

/// The target of a name.
pub fn find_target(name: &str) -> Option<&'static Extension> {
    TARGETS.binary_search_by(|one| one.name.cmp(name)).ok().map(|at| &TARGETS[at])
}

/// The match that iptables loads for the options of a protocol when no `-m` names it.
pub fn match_of_protocol(protocol: &str) -> Option<&'static Extension> {
    let name = match protocols::number(protocol)? {
        1 => "icmp",
        6 => "tcp",
        17 => "udp",
        33 => "dccp",
        50 => "esp",
        51 => "ah",
        58 => "icmp6",
        108 => "ipcomp",
        132 => "sctp",
        // By other names and by its number, iptables does not find the match.
        135 if protocol.eq_ignore_ascii_case("mh") => "mh",
        _ => return None,
    };
    find_match(name)
}

/// The protocol whose match this is, as `-p` names it.
pub fn protocol_of_match(name: &str) -> Option<&'static str> {
    Some(match name {
        "icmp" => "icmp",
        "icmp6" => "ipv6-icmp",
        "tcp" => "tcp",
        "udp" => "udp",
        "dccp" => "dccp",
        "esp" => "esp",
        "ah" => "ah",
        "ipcomp" => "ipcomp",
        "sctp" => "sctp",
        "mh" => "mh",
        _ => return None,
    })
}

/// Names of the matches of a family.
pub fn match_names(family: IpFamily) -> impl Iterator<Item = &'static str> + Clone {
    MATCHES.iter().filter(move |one| one.is_of(family)).map(|one| one.name)
}

/// Names of all targets.
pub fn target_names() -> impl Iterator<Item = &'static str> + Clone {
    TARGETS.iter().map(|one| one.name)
}

/// All matches, then all targets.
pub fn all() -> impl Iterator<Item = &'static Extension> {
    MATCHES.iter().chain(&TARGETS)
}

/// Whether a word is an option of some extension whose value may look like an option.
pub fn takes_free_text(option: &str) -> bool {
    static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
        let words = all().flat_map(|one| one.options.unwrap_or_default().split_whitespace());
        let mut names: Vec<&'static str> = words
            .map(ExtensionOption::parse)
            .filter(|option| option.free_text)
            .map(|option| option.name)
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    });
    option.starts_with("--") && NAMES.binary_search(&option).is_ok()
}

const BOTH: Option<IpFamily> = None;
const V4: Option<IpFamily> = Some(IpFamily::V4);
const V6: Option<IpFamily> = Some(IpFamily::V6);

/// A match that the simulation answers as unknown.
const fn matching(name: &'static str, family: Option<IpFamily>, options: &'static str) -> Extension {
    Extension { name, family, options: Some(options), simulated: false }
}

/// A match that the simulation evaluates.
const fn simulated(name: &'static str, family: Option<IpFamily>, options: &'static str) -> Extension {
    Extension { name, family, options: Some(options), simulated: true }
}

/// A target that decides about the packet, or may.
const fn target(name: &'static str, family: Option<IpFamily>, options: &'static str) -> Extension {
    Extension { name, family, options: Some(options), simulated: false }
}

/// A target after which the packet meets the next rule, unchanged in what the simulation tracks.
const fn passing(name: &'static str, family: Option<IpFamily>, options: &'static str) -> Extension {
    Extension { name, family, options: Some(options), simulated: true }
}

/// An extension of xtables-addons, or one that iptables no longer has: its options are not checked.
const fn addon(name: &'static str, family: Option<IpFamily>) -> Extension {
    Extension { name, family, options: None, simulated: false }
}

/// By name, in the order of bytes.
static MATCHES: [Extension; 81] = [
    addon("account", BOTH),
    simulated("addrtype", BOTH, "!--src-type: !--dst-type: --limit-iface-in --limit-iface-out"),
    matching("ah", BOTH, "!--ahspi: !--ahlen:/6 --ahres/6"),
    addon("asn", BOTH),
    matching("bpf", BOTH, "--bytecode= --object-pinned="),
    matching("cgroup", BOTH, "!--cgroup= !--path="),
    matching(
        "cluster",
        BOTH,
        "--cluster-total-nodes: !--cluster-local-node: !--cluster-local-nodemask: \
         --cluster-hash-seed:",
    ),
    matching("comment", BOTH, "--comment="),
    addon("condition", BOTH),
    matching("connbytes", BOTH, "!--connbytes: --connbytes-dir: --connbytes-mode:"),
    matching("connlabel", BOTH, "!--label= --set"),
    matching(
        "connlimit",
        BOTH,
        "!--connlimit-upto: !--connlimit-above: --connlimit-mask: --connlimit-saddr \
         --connlimit-daddr",
    ),
    matching("connmark", BOTH, "!--mark:"),
    simulated(
        "conntrack",
        BOTH,
        "!--ctstate: !--ctproto: !--ctorigsrc: !--ctorigdst: !--ctreplsrc: !--ctrepldst: \
         !--ctstatus: !--ctexpire: !--ctorigsrcport: !--ctorigdstport: !--ctreplsrcport: \
         !--ctrepldstport: --ctdir:",
    ),
    matching("cpu", BOTH, "!--cpu:"),
    matching(
        "dccp",
        BOTH,
        "!--source-port: !--sport: !--destination-port: !--dport: !--dccp-types: !--dccp-option:",
    ),
    matching("devgroup", BOTH, "!--src-group: !--dst-group:"),
    addon("dhcpmac", BOTH),
    matching("dscp", BOTH, "!--dscp: !--dscp-class:"),
    matching("dst", V6, "!--dst-len: --dst-opts:"),
    matching("ecn", BOTH, "!--ecn-tcp-cwr !--ecn-tcp-ece !--ecn-ip-ect:"),
    matching("esp", BOTH, "!--espspi:"),
    matching("eui64", V6, ""),
    matching("frag", V6, "!--fragid: !--fraglen: --fragres --fragfirst --fragmore --fraglast"),
    addon("fuzzy", BOTH),
    addon("geoip", BOTH),
    addon("gradm", BOTH),
    matching(
        "hashlimit",
        BOTH,
        "!--hashlimit: --hashlimit-burst: --hashlimit-htable-size: --hashlimit-htable-max: \
         --hashlimit-htable-gcinterval: --hashlimit-htable-expire: --hashlimit-mode: \
         --hashlimit-name= !--hashlimit-upto: !--hashlimit-above: --hashlimit-srcmask: \
         --hashlimit-dstmask: --hashlimit-rate-match --hashlimit-rate-interval:",
    ),
    matching("hbh", V6, "!--hbh-len: --hbh-opts:"),
    matching("helper", BOTH, "!--helper="),
    matching("hl", V6, "--hl-lt: --hl-gt: !--hl-eq: --hl:"),
    simulated("icmp", V4, "!--icmp-type:"),
    simulated("icmp6", V6, "!--icmpv6-type:"),
    addon("iface", BOTH),
    matching("ipcomp", BOTH, "!--ipcompspi: --compres"),
    addon("ipp2p", BOTH),
    simulated("iprange", BOTH, "!--src-range: !--dst-range:"),
    addon("ipv4options", V4),
    matching("ipv6header", V6, "!--header: --soft"),
    matching("ipvs", BOTH, "!--ipvs !--vproto: !--vaddr: !--vport: --vdir: !--vmethod: !--vportctl:"),
    addon("layer7", BOTH),
    simulated("length", BOTH, "!--length:"),
    addon("length2", BOTH),
    matching("limit", BOTH, "--limit: --limit-burst:"),
    addon("lscan", BOTH),
    matching("mac", BOTH, "!--mac-source:"),
    simulated("mark", BOTH, "!--mark:"),
    matching("mh", V6, "!--mh-type:"),
    simulated("multiport", BOTH, "!--source-ports: !--sports: !--destination-ports: !--dports: !--ports:"),
    addon("ndpi", BOTH),
    matching("nfacct", BOTH, "--nfacct-name:"),
    matching("osf", V4, "!--genre= --ttl: --log:"),
    matching(
        "owner",
        BOTH,
        "!--uid-owner: !--gid-owner: !--socket-exists --suppl-groups !--pid-owner: !--sid-owner: \
         !--cmd-owner:/4",
    ),
    simulated(
        "physdev",
        BOTH,
        "!--physdev-in= !--physdev-out= !--physdev-is-in !--physdev-is-out !--physdev-is-bridged",
    ),
    addon("pknock", BOTH),
    matching("pkttype", BOTH, "!--pkt-type:"),
    matching(
        "policy",
        BOTH,
        "--dir: --pol: --strict !--reqid: !--spi: !--tunnel-src: !--tunnel-dst: !--proto: !--mode: \
         --next",
    ),
    addon("psd", BOTH),
    matching("quota", BOTH, "!--quota:"),
    addon("quota2", BOTH),
    matching(
        "rateest",
        BOTH,
        "--rateest1: --rateest: --rateest2: --rateest-bps1 --rateest-pps1 --rateest-bps2 \
         --rateest-pps2 --rateest-bps --rateest-pps --rateest-delta !--rateest-lt !--rateest-gt \
         !--rateest-eq",
    ),
    matching("realm", V4, "!--realm:"),
    matching(
        "recent",
        BOTH,
        "!--set !--rcheck !--update !--remove --seconds: --reap --hitcount: --rttl --name= \
         --rsource --rdest --mask:",
    ),
    matching("rpfilter", BOTH, "--loose --validmark --accept-local --invert"),
    matching("rt", V6, "!--rt-type: !--rt-segsleft: !--rt-len: --rt-0-res --rt-0-addrs: --rt-0-not-strict"),
    matching("sctp", BOTH, "!--source-port: !--sport: !--destination-port: !--dport: !--chunk-types::"),
    matching(
        "set",
        BOTH,
        "!--match-set== !--set:: --return-nomatch !--update-counters !--packets-eq: --packets-lt: \
         --packets-gt: !--bytes-eq: --bytes-lt: --bytes-gt: !--update-subcounters",
    ),
    matching("socket", BOTH, "--transparent --nowildcard --restore-skmark"),
    matching(
        "srh",
        V6,
        "!--srh-next-hdr: !--srh-hdr-len-eq: !--srh-hdr-len-gt: !--srh-hdr-len-lt: \
         !--srh-segs-left-eq: !--srh-segs-left-gt: !--srh-segs-left-lt: !--srh-last-entry-eq: \
         !--srh-last-entry-gt: !--srh-last-entry-lt: !--srh-tag: !--srh-psid: !--srh-nsid: \
         !--srh-lsid:",
    ),
    simulated("state", BOTH, "!--state:"),
    matching("statistic", BOTH, "--mode: !--probability: !--every: --packet:"),
    matching("string", BOTH, "--from: --to: --algo: !--string= !--hex-string= --icase"),
    simulated(
        "tcp",
        BOTH,
        "!--source-port: !--sport: !--destination-port: !--dport: !--syn !--tcp-flags:: \
         !--tcp-option:",
    ),
    matching("tcpmss", BOTH, "!--mss:"),
    matching(
        "time",
        BOTH,
        "--datestart: --datestop: --timestart: --timestop: --contiguous !--weekdays: !--monthdays: \
         --localtz --utc --kerneltz",
    ),
    addon("tls", BOTH),
    matching("tos", BOTH, "!--tos:"),
    matching("ttl", V4, "--ttl-lt: --ttl-gt: !--ttl-eq: --ttl:"),
    matching("u32", BOTH, "!--u32="),
    simulated("udp", BOTH, "!--source-port: !--sport: !--destination-port: !--dport:"),
    addon("unclean", V4),
];

/// By name, in the order of bytes.
static TARGETS: [Extension; 58] = [
    target("ACCEPT", BOTH, ""),
    addon("ACCOUNT", BOTH),
    passing("AUDIT", BOTH, "--type:"),
    addon("CHAOS", BOTH),
    passing("CHECKSUM", BOTH, "--checksum-fill"),
    passing("CLASSIFY", BOTH, "--set-class:"),
    target("CLUSTERIP", V4, "--new --hashmode: --clustermac: --total-nodes: --local-node: --hash-init:"),
    target(
        "CONNMARK",
        BOTH,
        "--set-mark: --save-mark --restore-mark --mask: --set-xmark: --and-mark: --or-mark: \
         --xor-mark: --ctmask: --nfmask: --left-shift-mark: --right-shift-mark:",
    ),
    passing("CONNSECMARK", BOTH, "--save --restore"),
    passing(
        "CT",
        BOTH,
        "--notrack --helper= --ctevents: --expevents: --zone-orig: --zone-reply: --zone: --timeout:",
    ),
    addon("DELUDE", BOTH),
    addon("DHCPMAC", BOTH),
    target("DNAT", BOTH, "--to-destination: --random --persistent"),
    addon("DNETMAP", BOTH),
    target("DNPT", V6, "--src-pfx: --dst-pfx:"),
    target("DROP", BOTH, ""),
    passing("DSCP", BOTH, "--set-dscp: --set-dscp-class:"),
    addon("ECHO", BOTH),
    passing("ECN", V4, "--ecn-tcp-remove --ecn-tcp-cwr: --ecn-tcp-ece: --ecn-ip-ect:"),
    passing("HL", V6, "--hl-set: --hl-dec: --hl-inc:"),
    target(
        "HMARK",
        BOTH,
        "--hmark-tuple: --hmark-src-prefix: --hmark-dst-prefix: --hmark-sport-mask: \
         --hmark-dport-mask: --hmark-spi-mask: --hmark-sport: --hmark-dport: --hmark-spi: \
         --hmark-proto-mask: --hmark-rnd: --hmark-mod: --hmark-offset:",
    ),
    passing("IDLETIMER", BOTH, "--timeout: --label= --alarm"),
    addon("IPMARK", BOTH),
    addon("IPV4OPTSSTRIP", V4),
    passing("LED", BOTH, "--led-trigger-id= --led-delay: --led-always-blink"),
    passing(
        "LOG",
        BOTH,
        "--log-level: --log-prefix= --log-tcp-sequence --log-tcp-options --log-ip-options --log-uid \
         --log-macdecode",
    ),
    addon("LOGMARK", BOTH),
    target("MARK", BOTH, "--set-mark: --and-mark: --or-mark: --set-xmark: --xor-mark:"),
    target("MASQUERADE", BOTH, "--to-ports: --random --random-fully"),
    addon("MIRROR", V4),
    target("NETMAP", BOTH, "--to:"),
    passing("NFLOG", BOTH, "--nflog-group: --nflog-prefix= --nflog-range: --nflog-size: --nflog-threshold:"),
    target("NFQUEUE", BOTH, "--queue-num: --queue-balance: --queue-bypass --queue-cpu-fanout"),
    target("NOTRACK", BOTH, ""),
    addon("PROTO", BOTH),
    target("QUEUE", BOTH, ""),
    passing("RATEEST", BOTH, "--rateest-name: --rateest-interval: --rateest-ewmalog:"),
    addon("RAWNAT", BOTH),
    target("REDIRECT", BOTH, "--to-ports: --random"),
    target("REJECT", BOTH, "--reject-with:"),
    target("RETURN", BOTH, ""),
    addon("RTPENGINE", BOTH),
    addon("SAME", V4),
    passing("SECMARK", BOTH, "--selctx:"),
    passing(
        "SET",
        BOTH,
        "--add-set:: --del-set:: --exist --timeout: --map-set:: --map-mark --map-prio --map-queue",
    ),
    target("SNAT", BOTH, "--to-source: --random --random-fully --persistent"),
    target("SNPT", V6, "--src-pfx: --dst-pfx:"),
    target("SYNPROXY", BOTH, "--sack-perm --timestamp --wscale: --mss: --ecn"),
    addon("SYSRQ", BOTH),
    addon("TARPIT", BOTH),
    passing("TCPMSS", BOTH, "--set-mss: --clamp-mss-to-pmtu"),
    passing("TCPOPTSTRIP", BOTH, "--strip-options:"),
    passing("TEE", BOTH, "--gateway: --oif:"),
    passing("TOS", BOTH, "--set-tos: --and-tos: --or-tos: --xor-tos:"),
    target("TPROXY", BOTH, "--on-port: --on-ip: --tproxy-mark:"),
    passing("TRACE", BOTH, ""),
    passing("TTL", V4, "--ttl-set: --ttl-dec: --ttl-inc:"),
    passing("ULOG", V4, "--ulog-nlgroup: --ulog-prefix= --ulog-cprange: --ulog-qthreshold:"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tables_are_sorted() {
        assert!(MATCHES.is_sorted_by_key(|one| one.name));
        assert!(TARGETS.is_sorted_by_key(|one| one.name));
    }

    #[test]
    fn words_of_the_table() {
        let set = find_match("set").unwrap();
        let option = set.option("--match-set", IpFamily::V4).unwrap();
        assert_eq!((option.values, option.negatable, option.free_text), (2, true, true));
        let ah = find_match("ah").unwrap();
        assert!(ah.option("--ahres", IpFamily::V4).is_none());
        assert_eq!(ah.option("--ahres", IpFamily::V6).unwrap().values, 0);
        assert_eq!(find_match("ipv6-icmp").unwrap().name, "icmp6");
        assert!(find_match("sate").is_none());
        assert!(takes_free_text("--log-prefix") && !takes_free_text("--dport") && !takes_free_text("-s"));
    }

    #[test]
    fn protocols_load_their_match() {
        for (protocol, expected) in [
            ("tcp", Some("tcp")),
            ("TCP", Some("tcp")),
            ("6", Some("tcp")),
            ("58", Some("icmp6")),
            ("icmpv6", Some("icmp6")),
            ("mh", Some("mh")),
            ("ipv6-mh", None),
            ("udplite", None),
            ("gre", None),
        ] {
            assert_eq!(match_of_protocol(protocol).map(|one| one.name), expected, "{protocol}");
        }
    }
}
