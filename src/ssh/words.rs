//! What ssh says when it gives up, less what says nothing to anybody.

/// The end of ssh's own words, on one line.
///
/// Behind a jump host the last line is only that the way ended ("UNKNOWN port 65535"), and the line before says why. Of
/// options that ssh does not take, the last line has but their number; the names stand before it. `own` is
/// where our own files for ssh lie: their names and lines mean nothing to who reads this.
pub(super) fn last(text: &str, own: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines
        .last()
        .is_some_and(|line| line.contains(": terminating, ") && line.contains("bad configuration option"))
    {
        let bad = lines.iter().filter(|line| line.contains("Bad ") || line.contains("bad "));
        let named: Vec<&str> =
            bad.filter(|line| !line.contains(": terminating, ")).map(|line| less_own(line, own)).collect();
        if !named.is_empty() {
            return format!("ssh on this machine rejects an option: {}", named.join("; "));
        }
    }
    let through = lines.last().is_some_and(|line| is_end_of_way(line));
    let tells = |line: &&&str| {
        !(through && (is_end_of_way(line) || line.starts_with("kex_exchange_identification: ")))
    };
    lines.iter().rfind(tells).or(lines.last()).map_or_else(String::new, |line| less_own(line, own).to_owned())
}

/// Whether a connection ended before the other end had said who it is: an sshd that has too many of them on their way in
/// (MaxStartups) drops some at random, and ssh itself says nothing when a Ctrl-C on the terminal ends it.
pub(super) fn is_dropped(text: &str) -> bool {
    let dropped = |line: &str| {
        line.trim().strip_prefix("kex_exchange_identification: ").is_some_and(|why| {
            why.starts_with("Connection closed by remote host")
                || why.starts_with("read: Connection reset by peer")
        })
    };
    text.trim().is_empty() || text.lines().any(dropped)
}

/// Whether a line only says that what ran in place of a connection ended.
pub(super) fn is_end_of_way(line: &str) -> bool {
    line.contains("UNKNOWN port 65535")
}

/// A line less `FILE: line 3: ` of one of our own files.
fn less_own<'a>(line: &'a str, own: &str) -> &'a str {
    if own.is_empty() || !line.starts_with(own) {
        return line;
    }
    let after = line.split_once(" line ").and_then(|(_, rest)| rest.split_once(": "));
    after.map_or(line, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_is_no_refusal() {
        for (said, dropped) in [
            (
                "kex_exchange_identification: Connection closed by remote host\nConnection closed by 10.0.0.1 port 22\n",
                true,
            ),
            (
                "kex_exchange_identification: read: Connection reset by peer\r\nConnection reset by 10.0.0.1 port 22",
                true,
            ),
            ("", true),
            (
                "root@10.99.0.12: Permission denied (publickey).\nConnection closed by UNKNOWN port 65535",
                false,
            ),
            ("kex_exchange_identification: banner line 0: Not allowed at this time", false),
            ("ssh: connect to host 10.0.0.1 port 22: Connection refused", false),
            ("Host key verification failed.", false),
        ] {
            assert_eq!(is_dropped(said), dropped, "{said}");
        }
    }

    #[test]
    fn why_and_not_that() {
        let own = "/tmp/kvmfw-0a1b2c3d4e5f";
        for (said, wanted) in [
            (
                "root@10.99.0.12: Permission denied (publickey).\r\nConnection closed by UNKNOWN port 65535\r\n",
                "root@10.99.0.12: Permission denied (publickey).",
            ),
            (
                "No ED25519 host key is known for b and you have requested strict checking.\nHost key verification failed.\nkex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535",
                "Host key verification failed.",
            ),
            (
                "kex_exchange_identification: read: Connection reset by peer",
                "kex_exchange_identification: read: Connection reset by peer",
            ),
            ("Connection closed by UNKNOWN port 65535", "Connection closed by UNKNOWN port 65535"),
            (
                "Unsupported KEX algorithm \"foo\"\n/tmp/kvmfw-0a1b2c3d4e5f/7e21 line 2: Bad SSH2 KexAlgorithms 'foo'.\n\
                 /tmp/kvmfw-0a1b2c3d4e5f/7e21: line 3: Bad configuration option: frobnicate\n\
                 /tmp/kvmfw-0a1b2c3d4e5f/7e21: terminating, 2 bad configuration options",
                "ssh on this machine rejects an option: Bad SSH2 KexAlgorithms 'foo'.; Bad configuration option: frobnicate",
            ),
            (
                "/root/.ssh/config: line 3: Bad configuration option: frobnicate\n/root/.ssh/config: terminating, 1 bad configuration options",
                "ssh on this machine rejects an option: /root/.ssh/config: line 3: Bad configuration option: frobnicate",
            ),
            ("", ""),
        ] {
            assert_eq!(last(said, own), wanted);
        }
    }
}
