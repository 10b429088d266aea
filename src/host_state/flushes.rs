//! Lines of scripts, units and network files that remove rules which other programs loaded: a restore without
//! `--noflush`, a flush, a firewall that loads its own rules.

/// Chains that the kernel has in some table.
const BUILT_IN: [&str; 5] = ["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];

/// The command of a line that replaces or flushes whole tables or built-in chains when the host boots; `None` where it does not.
pub(super) fn flushes(line: &str) -> Option<String> {
    let line = line.trim();
    // What runs when a service or link goes down does not run at boot.
    if ["ExecStop", "pre-down", "post-down", "down "].iter().any(|word| line.starts_with(word)) {
        return None;
    }
    let line = match line.split_once('=') {
        Some((key, command)) if key.starts_with("Exec") => {
            command.trim_start_matches(['-', '@', ':', '+', '!'])
        }
        _ => line,
    };
    let words = words(line);
    words.split(|word| *word == ";").find(|command| flushes_tables(command)).map(|command| command.join(" "))
}

/// Words, with what ends a command as a word `;`.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for part in line.split_inclusive([';', '|', '&', '(', ')', '`', '"', '\'', '{', '}', '<', ' ', '\t']) {
        let (word, end) = match part.chars().last() {
            Some(last) if ";|&()`\"'{}< \t".contains(last) => part.split_at(part.len() - last.len_utf8()),
            _ => (part, ""),
        };
        if !word.is_empty() {
            words.push(word);
        }
        if !end.is_empty() && !end.contains(['<', ' ', '\t']) {
            words.push(";");
        }
    }
    words
}

fn flushes_tables(command: &[&str]) -> bool {
    let name = |word: &&&str| -> String { word.rsplit('/').next().unwrap_or(word).to_owned() };
    // What these are given is not run.
    let talk = ["[", "[[", "test", "echo", "printf", "logger", "which", "type", "-v"];
    let runs = command.iter().position(|word| talk.contains(word)).unwrap_or(command.len());
    (0..runs).any(|at| {
        let args = command.get(at + 1..).unwrap_or_default();
        let Some(program) = command.get(at).map(|word| name(&word)) else { return false };
        let first = args.first().copied().unwrap_or("");
        let pair = |a: &str, b: &str| args.windows(2).any(|two| two == [a, b]);
        match program.as_str() {
            "nft" => pair("flush", "ruleset") || pair("flush", "table") || pair("delete", "table"),
            // A file for nft.
            "flush" if at == 0 => first == "ruleset",
            "iptables-apply" | "ip6tables-apply" => true,
            "netfilter-persistent" => ["restart", "reload", "force-reload", "flush"].contains(&first),
            "ufw" => args.iter().any(|arg| ["enable", "reload"].contains(arg)),
            "firewall-cmd" => args.iter().any(|arg| arg.ends_with("reload")),
            "shorewall" | "shorewall6" | "ferm" | "firehol" | "arno-iptables-firewall" => !args.is_empty(),
            "systemctl" | "service" => restarts(args),
            _ if is_iptables(&program) && program.ends_with("-restore") => !keeps(args),
            _ if is_iptables(&program) && !program.ends_with("-save") => flushes_chain(args),
            _ => false,
        }
    })
}

/// iptables and ip6tables, of any backend, with or without `-restore` and `-save`.
fn is_iptables(program: &str) -> bool {
    let known = ["iptables", "ip6tables"];
    let parts: Vec<&str> = program.split('-').collect();
    known.contains(&parts[0])
        && parts[1..].iter().all(|part| ["nft", "legacy", "restore", "save"].contains(part))
}

/// Whether a restore leaves the rest alone, or loads nothing at all.
fn keeps(args: &[&str]) -> bool {
    args.iter().any(|arg| match arg.strip_prefix("--") {
        Some(long) => ["noflush", "test", "help", "version"].contains(&long),
        None => arg.strip_prefix('-').is_some_and(|short| short.contains(['n', 't', 'h', 'V'])),
    })
}

/// `-F`, of all chains or of one that the kernel has.
fn flushes_chain(args: &[&str]) -> bool {
    let Some(at) = args.iter().position(|arg| ["-F", "--flush"].contains(arg)) else { return false };
    args.get(at + 1)
        .is_none_or(|chain| chain.starts_with('-') || chain.starts_with('>') || BUILT_IN.contains(chain))
}

fn restarts(args: &[&str]) -> bool {
    let service = |arg: &&str| {
        let name = arg.trim_end_matches(".service");
        ["nftables", "netfilter-persistent", "iptables", "ip6tables", "ufw", "firewalld"].contains(&name)
    };
    args.iter().any(service) && args.iter().any(|arg| ["start", "restart", "reload"].contains(arg))
}

#[cfg(test)]
mod tests {
    use super::flushes;

    #[test]
    fn what_takes_rules_away() {
        for (line, command) in [
            (
                "    pre-up iptables-restore < /etc/iptables.rules",
                "pre-up iptables-restore /etc/iptables.rules",
            ),
            ("/sbin/iptables-restore /etc/iptables.rules", "/sbin/iptables-restore /etc/iptables.rules"),
            ("cat /etc/fw | ip6tables-legacy-restore -c", "ip6tables-legacy-restore -c"),
            ("ExecStart=-/bin/sh -c 'iptables-nft-restore -w </etc/x'", "iptables-nft-restore -w /etc/x"),
            ("@reboot root iptables -F && iptables -X", "@reboot root iptables -F"),
            ("iptables -t nat --flush POSTROUTING", "iptables -t nat --flush POSTROUTING"),
            ("ip6tables -F FORWARD", "ip6tables -F FORWARD"),
            ("flush ruleset", "flush ruleset"),
            ("/usr/sbin/nft flush ruleset; nft -f /etc/x", "/usr/sbin/nft flush ruleset"),
            ("systemctl restart nftables.service", "systemctl restart nftables.service"),
            ("cd / && exec sudo iptables -F", "exec sudo iptables -F"),
            ("if [ -x /sbin/ferm ]; then ferm /etc/ferm/ferm.conf; fi", "then ferm /etc/ferm/ferm.conf"),
        ] {
            assert_eq!(flushes(line).as_deref(), Some(command), "{line}");
        }
    }

    #[test]
    fn what_takes_none() {
        for line in [
            "pre-up iptables-restore --noflush < /etc/iptables.rules",
            "iptables-restore -n </etc/fw",
            "iptables-restore -cn /etc/fw",
            "iptables-restore --test /etc/fw",
            "iptables -F MINE",
            "iptables -A INPUT -j ACCEPT",
            "iptables-save >/etc/iptables.rules",
            "ExecStop=/usr/sbin/nft flush ruleset",
            "post-down iptables -F",
            "nft -f /etc/nftables.conf",
            "echo the iptables rules are here, flush with iptables -F",
            "[ -x /sbin/ferm ] || exit 0",
            "command -v ufw reload",
            "systemctl status iptables",
        ] {
            assert_eq!(flushes(line), None, "{line}");
        }
    }
}
