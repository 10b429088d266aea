//! Which package brings a tool that a host lacks.

/// How packages are installed, by the words of `ID` and `ID_LIKE` in os-release.
const FAMILIES: [(&[&str], &str); 5] = [
    (&["debian", "ubuntu"], "apt-get install"),
    (&["rhel", "fedora", "centos"], "dnf install"),
    (&["suse", "opensuse", "sles"], "zypper install"),
    (&["arch"], "pacman -S"),
    (&["alpine"], "apk add"),
];

/// Tool and its package in the order of [`FAMILIES`].
const PACKAGES: [(&[&str], [&str; 5]); 9] = [
    (&["iptables-save"], ["iptables", "iptables-nft", "iptables", "iptables", "iptables"]),
    (&["ip6tables-save"], ["iptables", "iptables-nft", "iptables", "iptables", "ip6tables"]),
    (&["ip"], ["iproute2", "iproute", "iproute2", "iproute2", "iproute2"]),
    (&["awk"], ["mawk", "gawk", "gawk", "gawk", "gawk"]),
    (&["sed"], ["sed"; 5]),
    (&["flock", "setsid", "unshare"], ["util-linux"; 5]),
    (&["mkfifo", "timeout", "sync", "ln", "mv"], ["coreutils"; 5]),
    (&["ipset"], ["ipset"; 5]),
    (&["xargs"], ["findutils"; 5]),
];

/// The command that brings these tools on that distribution; `None` if it is not known.
pub fn install(tools: &[&str], os: &[String]) -> Option<String> {
    let at = FAMILIES.iter().position(|(names, _)| os.iter().any(|os| names.contains(&os.as_str())))?;
    let mut packages: Vec<&str> = Vec::new();
    for tool in tools {
        let (_, names) = PACKAGES.iter().find(|(tools, _)| tools.contains(tool))?;
        if !packages.contains(&names[at]) {
            packages.push(names[at]);
        }
    }
    Some(format!("{} {}", FAMILIES[at].1, packages.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_distributions() {
        let os = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            install(&["iptables-save", "ip6tables-save"], &os("debian")).unwrap(),
            "apt-get install iptables"
        );
        assert_eq!(
            install(&["iptables-save", "flock", "unshare"], &os("rocky rhel centos fedora")).unwrap(),
            "dnf install iptables-nft util-linux"
        );
        assert_eq!(install(&["ip"], &os("plan9")), None);
        assert_eq!(install(&["nonsense"], &os("debian")), None);
    }
}
