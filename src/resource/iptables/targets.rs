//! Names that mean something to iptables 1.8: targets, and the matches and protocols that options need.

use super::IpFamily;

/// Extension targets, those of xtables-addons too: whether a host has one its dry run shows.
pub const TARGETS: [&str; 59] = [
    "ACCEPT",
    "DROP",
    "RETURN",
    "QUEUE",
    "REJECT",
    "LOG",
    "NFLOG",
    "MARK",
    "MASQUERADE",
    "SNAT",
    "DNAT",
    "REDIRECT",
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CLUSTERIP",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DNPT",
    "DSCP",
    "ECN",
    "HL",
    "HMARK",
    "IDLETIMER",
    "LED",
    "MIRROR",
    "NETMAP",
    "NFQUEUE",
    "NOTRACK",
    "RATEEST",
    "SAME",
    "SECMARK",
    "SET",
    "SNPT",
    "SYNPROXY",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TPROXY",
    "TRACE",
    "TTL",
    "ULOG",
    "ACCOUNT",
    "CHAOS",
    "DELUDE",
    "DHCPMAC",
    "DNETMAP",
    "ECHO",
    "IPMARK",
    "IPV4OPTSSTRIP",
    "LOGMARK",
    "PROTO",
    "RAWNAT",
    "SYSRQ",
    "TARPIT",
    "RTPENGINE",
    "NAT",
];

/// The family of a target that only one of the two commands has.
pub fn target_family(target: &str) -> Option<IpFamily> {
    match target {
        "CLUSTERIP" | "ECN" | "MIRROR" | "SAME" | "TTL" | "ULOG" | "IPV4OPTSSTRIP" => Some(IpFamily::V4),
        "HL" | "DNPT" | "SNPT" => Some(IpFamily::V6),
        _ => None,
    }
}

/// The `-m` without which iptables does not know an option, for options where that is certain.
pub fn match_of(option: &str) -> Option<&'static str> {
    Some(match option {
        "--state" => "state",
        "--ctstate" | "--ctorigsrc" | "--ctorigdst" | "--ctdir" | "--ctproto" | "--ctstatus" => "conntrack",
        "--dports" | "--sports" | "--ports" | "--destination-ports" | "--source-ports" => "multiport",
        "--physdev-in"
        | "--physdev-out"
        | "--physdev-is-in"
        | "--physdev-is-out"
        | "--physdev-is-bridged" => "physdev",
        "--comment" => "comment",
        "--limit" | "--limit-burst" => "limit",
        "--mac-source" => "mac",
        "--match-set" => "set",
        "--src-type" | "--dst-type" => "addrtype",
        "--src-range" | "--dst-range" => "iprange",
        "--uid-owner" | "--gid-owner" => "owner",
        _ => return None,
    })
}

/// The long option that lost one of its dashes: `-dport` is read as `-d port`.
pub fn long_of(word: &str) -> Option<&'static str> {
    const LONG: [&str; 27] = [
        "--dport",
        "--sport",
        "--dports",
        "--sports",
        "--ports",
        "--state",
        "--ctstate",
        "--source",
        "--destination",
        "--src",
        "--dst",
        "--protocol",
        "--in-interface",
        "--out-interface",
        "--jump",
        "--goto",
        "--match",
        "--icmp-type",
        "--icmpv6-type",
        "--physdev-in",
        "--physdev-out",
        "--physdev-is-bridged",
        "--src-type",
        "--dst-type",
        "--src-range",
        "--dst-range",
        "--set",
    ];
    LONG.into_iter().find(|long| long[1..] == *word)
}

/// Whether an option is one of the port options that need `-p` before them.
pub fn is_port_option(option: &str) -> bool {
    matches!(option, "--dport" | "--sport" | "--destination-port" | "--source-port")
}

/// What an option of `-m tcp` and `-m udp` asks for, by its usual name. `iptables-nft` takes it twice in one rule,
/// but prints it once.
pub fn shown_once(option: &str) -> Option<&'static str> {
    match option {
        "--dport" | "--destination-port" => Some("--dport"),
        "--sport" | "--source-port" => Some("--sport"),
        "--tcp-flags" | "--syn" => Some("--tcp-flags"),
        _ => None,
    }
}

/// Whether a protocol has ports.
pub fn has_ports(protocol: &str) -> bool {
    matches!(
        protocol.to_ascii_lowercase().as_str(),
        "tcp" | "udp" | "udplite" | "sctp" | "dccp" | "6" | "17" | "136" | "132" | "33"
    )
}

/// Options that are commands of iptables, not part of a rule.
pub const COMMANDS: [&str; 20] = [
    "--append",
    "--delete",
    "--check",
    "--insert",
    "--replace",
    "--list",
    "--list-rules",
    "--flush",
    "--zero",
    "--new-chain",
    "--delete-chain",
    "--rename-chain",
    "--policy",
    "--table",
    "--set-counters",
    "--modprobe",
    "--wait",
    "--wait-interval",
    "--noflush",
    "--test",
];

/// Options of extensions that are shorter forms of nothing although a command starts like them.
pub const NOT_SHORTENED: [&str; 4] = ["--pol", "--set", "--to", "--log"];

/// Options whose value is free text and may start with a dash.
pub const FREE_TEXT: [&str; 8] = [
    "--comment",
    "--log-prefix",
    "--nflog-prefix",
    "--ulog-prefix",
    "--string",
    "--hex-string",
    "--name",
    "--hashlimit-name",
];

/// Whether an option takes two values; `--set` does in the old form of `-m set`, and takes none in `-m recent`.
pub fn takes_two(option: &str, matches: &[String]) -> bool {
    match option {
        "--tcp-flags" | "--chunk-types" => true,
        _ if is_set_option(option) => true,
        "--set" => matches.last().is_some_and(|last| last == "set"),
        _ => false,
    }
}

/// Whether an option takes the name of a set and directions.
pub fn names_set(option: &str, matches: &[String]) -> bool {
    is_set_option(option) || option == "--set" && takes_two(option, matches)
}

/// Whether an option names a set in rules as iptables-save prints them.
pub fn is_set_option(option: &str) -> bool {
    matches!(option, "--match-set" | "--add-set" | "--del-set" | "--map-set")
}

/// What is wrong with the directions in which a set is asked, and the next step.
pub fn check_directions(text: &str) -> Option<(String, Option<String>)> {
    const MOST: usize = 6;
    let wrong = text.split(',').find(|one| !matches!(*one, "src" | "dst"));
    if let Some(wrong) = wrong {
        let help = "write `src` or `dst` for each part of a member, as in `src,dst`".to_owned();
        return Some((format!("`{wrong}` is not a direction of a packet"), Some(help)));
    }
    let given = text.split(',').count();
    let help = || Some("a member of a set has at most three parts".to_owned());
    (given > MOST).then(|| (format!("`{text}` has {given} directions, more than {MOST}"), help()))
}
