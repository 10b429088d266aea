//! Options of iptables 1.8 that belong to no extension, and options that mean the same.

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

/// Options that every rule may have, as getopt knows them.
pub const CORE: [&str; 12] = [
    "--source",
    "--src",
    "--destination",
    "--dst",
    "--protocol",
    "--proto",
    "--in-interface",
    "--out-interface",
    "--jump",
    "--goto",
    "--match",
    "--fragments",
];

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
