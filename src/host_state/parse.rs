//! From the probe's answer to [`Observed`].

use super::{
    BootFiles, HostFacts, HostLinks, HostSocket, LiveValue, ManagedState, NetworkConfig, Observed,
    ObservedRules, ObservedSets, OtherFilters, OtherPrograms, PredictedRules, ProbeSections, SkippedRule,
    SshEnds, SysctlDirs, programs,
};
use crate::protocol::{self, RuleSections, SectionName};
use crate::resource::iptables::IpFamily;
use crate::resource::iptables::save::SavedTables;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Why an answer is no observation.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ObserveError {
    /// It does not end where it should: cut off, or not from our script; what the host said instead.
    #[error("the host's answer is not complete{}", after_colon(.0))]
    Incomplete(String),
    /// It has more than any host has.
    #[error("the host's answer has more than {1} lines in its part `{0}`, and no more are read of one host")]
    TooLong(String, usize),
    /// The host said why it refuses.
    #[error("{1}")]
    Refused(String, String),
    /// The login is not root.
    #[error("the login is not root; set `ssh: {{ become: sudo }}` or log in as root")]
    NoPrivilege,
    /// What iptables-save printed is not what it prints.
    #[error("cannot read the host's {0}: {1}")]
    Rules(IpFamily, String),
    /// What `ip` printed is not what that of iproute2 prints.
    #[error(
        "cannot read the host's links from `ip -d -j address show`, which has to be that of iproute2: {0}"
    )]
    Links(String),
    /// The same of `bridge`.
    #[error("cannot read the host's VLANs from `bridge -compressvlans -json vlan show`: {0}")]
    Vlans(String),
}

fn after_colon(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// Reads a whole answer; `words` are what the host printed in place of one.
pub fn observe(sections: &ProbeSections<'_>, words: &str) -> Result<Observed, ObserveError> {
    if let Some(refused) = sections.get(protocol::REFUSED) {
        let (reason, message) = refused.split_once('\n').unwrap_or((refused, ""));
        return Err(ObserveError::Refused(reason.trim().to_owned(), message.trim().to_owned()));
    }
    if sections.get(protocol::END).is_none() {
        return Err(ObserveError::Incomplete(words.to_owned()));
    }
    too_long(sections)?;
    let facts = facts(sections);
    if !facts.root {
        return Err(ObserveError::NoPrivilege);
    }
    if let Some(file) =
        sections.get(protocol::ORIGINAL).and_then(|t| t.lines().find_map(|l| l.strip_prefix("!unread ")))
    {
        let message = format!("{file}, a file of the baseline, cannot be read to its end");
        return Err(ObserveError::Refused("unreadable-record".to_owned(), message));
    }
    let mut rules = BTreeMap::new();
    for (family, names) in [(IpFamily::V4, protocol::IPTABLES), (IpFamily::V6, protocol::IP6TABLES)] {
        rules.insert(family, family_rules(sections, family, names)?);
    }
    Ok(Observed {
        state: state(sections),
        sysctl: live(sections.get(protocol::SYSCTL).unwrap_or("")),
        read_only: read_only(sections.get(protocol::SYSCTL).unwrap_or("")),
        sysctl_dirs: SysctlDirs::parse(sections.get(protocol::SYSCTL_D).unwrap_or("")),
        rules,
        sets: ObservedSets::parse(sections)?,
        other_filters: others(sections),
        links: links(sections, &facts)?,
        facts,
        sockets: HostSocket::parse(sections.get(protocol::SOCKETS).unwrap_or("")),
        tunnel: HostSocket::parse(sections.get(protocol::TUNNEL).unwrap_or("")),
        network: NetworkConfig::parse(sections.get(protocol::NETWORK).unwrap_or("")),
        boot_files: BootFiles::parse(sections.get(protocol::BOOT_FILES).unwrap_or("")),
        guests: programs::guests(sections.get(protocol::GUESTS).unwrap_or("")),
        other_programs: OtherPrograms::parse(sections.get(protocol::BESIDE).unwrap_or("")),
    })
}

/// So many lines of one section are read where each becomes a thing of its own (a route takes up a thousand bytes then).
const LINES: usize = 100_000;

/// The same of rules and of files.
const TEXT_LINES: usize = 1_000_000;

/// Bounds what an answer becomes; how long it is was bounded when it was read.
fn too_long(sections: &ProbeSections<'_>) -> Result<(), ObserveError> {
    const TEXTS: [SectionName; 7] = [
        protocol::IPTABLES.live,
        protocol::IPTABLES.dry,
        protocol::IP6TABLES.live,
        protocol::IP6TABLES.dry,
        protocol::SYSCTL_D,
        protocol::NETWORK,
        protocol::BOOT_FILES,
    ];
    for (name, text) in sections.all() {
        let limit = if TEXTS.iter().any(|long| long.as_str() == name) { TEXT_LINES } else { LINES };
        if text.lines().nth(limit).is_some() {
            return Err(ObserveError::TooLong(name.to_owned(), limit));
        }
    }
    Ok(())
}

/// A host without `ip` has no answer here; it is refused for the tool that is missing. Who leaves the section out
/// has no links.
fn links(s: &ProbeSections<'_>, facts: &HostFacts) -> Result<HostLinks, ObserveError> {
    let text = |name| s.get(name).unwrap_or("");
    let links = if facts.missing.iter().any(|tool| tool == "ip") { None } else { s.get(protocol::LINKS) };
    HostLinks::parse(
        links.unwrap_or("[]"),
        text(protocol::ROUTES4),
        text(protocol::ROUTES6),
        text(protocol::VLANS),
    )
}

fn facts(s: &ProbeSections<'_>) -> HostFacts {
    let text = |key| s.value(protocol::HOST, key).unwrap_or("").to_owned();
    let yes = |key| s.value(protocol::HOST, key) == Some("yes");
    let ssh = s.value(protocol::HOST, "ssh").and_then(|line| {
        let mut words = line.split(' ');
        Some(SshEnds {
            client: words.next()?.parse().ok()?,
            client_port: words.next()?.parse().ok()?,
            server: words.next()?.parse().ok()?,
            server_port: words.next()?.parse().ok()?,
        })
    });
    HostFacts {
        kernel: text("kernel"),
        hostname: text("hostname"),
        os: s
            .values(protocol::HOST, "os")
            .flat_map(|v| v.trim_matches(['"', '\'']).split_whitespace())
            .map(str::to_owned)
            .collect(),
        boot_id: text("boot_id"),
        threads: s
            .value(protocol::HOST, "loadavg")
            .and_then(|load| load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()),
        systemd: yes("systemd"),
        units: yes("units"),
        ssh,
        guest: s.value(protocol::CLIENT, "guest").map(str::to_owned),
        jump_hosts: s
            .values(protocol::CLIENT, "jump_host")
            .filter_map(|found| found.split_once(' '))
            .filter_map(|(number, port)| Some((number.parse().ok()?, port.to_owned())))
            .collect(),
        root: yes("root"),
        br_netfilter: yes("br_netfilter"),
        missing: s.values(protocol::HOST, "missing").map(str::to_owned).collect(),
        systemd_sysctl: s.value(protocol::HOST, "systemd_sysctl").map(str::to_owned),
    }
}

fn state(s: &ProbeSections<'_>) -> ManagedState {
    let mut state = ManagedState {
        inventory: s.value(protocol::STATE, "inventory").map(str::to_owned),
        generation: s.value(protocol::STATE, "generation").and_then(|g| g.parse().ok()),
        traces: s.value(protocol::STATE, "traces") == Some("yes"),
        open: s.value(protocol::STATE, "open").map(str::to_owned),
        boot_failed: s.value(protocol::STATE, "boot_failed").map(str::to_owned),
        boot_left: s.values(protocol::STATE, "boot_left").filter_map(SkippedRule::parse).collect(),
        boot_repaired: s.values(protocol::STATE, "boot_repaired").map(str::to_owned).collect(),
        boot_missing: protocol::BOOT
            .into_iter()
            .flat_map(|name| s.get(name).unwrap_or("").lines())
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect(),
        record: s.get(protocol::GENERATION).map(str::trim).filter(|r| !r.is_empty()).map(str::to_owned),
        ..ManagedState::default()
    };
    for line in s.get(protocol::ORIGINAL).unwrap_or("").lines() {
        if let Some((key, value)) = line.split_once('=') {
            state.original_sysctl.insert(key.to_owned(), value.to_owned());
        } else if let [family, table, chain, policy] = line.split(' ').collect::<Vec<_>>()[..] {
            let family = if family == "6" { IpFamily::V6 } else { IpFamily::V4 };
            state.original_policies.insert((family, table.to_owned(), chain.to_owned()), policy.to_owned());
        }
    }
    state
}

/// `KEY:VALUE`, `KEY!absent`, `KEY!writeonly` and `KEY!readonly`. No name of a link has a colon, but one may have any
/// of the others.
fn live(text: &str) -> BTreeMap<String, LiveValue> {
    text.lines()
        .filter_map(|line| {
            let value = |(key, value): (&str, &str)| (key.to_owned(), LiveValue::Value(value.to_owned()));
            let marked = |mark, live| Some((line.strip_suffix(mark)?.to_owned(), live));
            if line.ends_with("!readonly") && !line.contains(':') {
                return None;
            }
            line.split_once(':')
                .map(value)
                .or_else(|| marked("!absent", LiveValue::Absent))
                .or_else(|| marked("!writeonly", LiveValue::Unreadable))
        })
        .collect()
}

fn read_only(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.strip_suffix("!readonly")).map(str::to_owned).collect()
}

fn family_rules(
    s: &ProbeSections<'_>,
    family: IpFamily,
    names: RuleSections,
) -> Result<ObservedRules, ObserveError> {
    let parse = |text: &str| SavedTables::parse(text).map_err(|e| ObserveError::Rules(family, e.to_string()));
    let predicted = match s.get(names.dry) {
        None => PredictedRules::Same,
        Some(text) => {
            let (rc, text) = text.split_once('\n').unwrap_or((text, ""));
            match rc {
                "rc=0" => PredictedRules::Rules(parse(text)?),
                "rc=3" => PredictedRules::CannotClone(words(text)),
                _ => PredictedRules::Refused(words(text)),
            }
        }
    };
    Ok(ObservedRules {
        backend: s.value(names.tool, "backend").unwrap_or("none").to_owned(),
        version: s.value(names.tool, "version").unwrap_or("").to_owned(),
        live: parse(s.get(names.live).unwrap_or(""))?,
        predicted,
    })
}

/// What a tool said, on one line and without the advice to read its manual.
fn words(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        // `iptables-restore v1.8.9 (nf_tables): ` says nothing that the user needs.
        .map(|l| match l.split_once("): ") {
            Some((tool, rest)) if tool.contains("tables-restore v") => rest,
            _ => l.trim_end_matches(':'),
        })
        .filter(|l| !l.contains("tables-restore v"))
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with("Try `") && !l.starts_with("Error occurred"))
        .collect();
    lines.join("; ")
}

fn others(s: &ProbeSections<'_>) -> OtherFilters {
    let evidence = s.get(protocol::EVIDENCE).unwrap_or("").lines().filter_map(|line| line.split_once('='));
    let evidence = evidence.map(|(what, file)| (what.to_owned(), file.to_owned())).collect();
    let mut others = OtherFilters { evidence, ..OtherFilters::default() };
    for line in s.get(protocol::OTHERS).unwrap_or("").lines() {
        match line.split_once('=') {
            Some(("native", what)) => others.native.push(what.to_owned()),
            Some(("manager", what)) => others.managers.push(what.to_owned()),
            Some(("chain", what)) => others.chains.push(what.to_owned()),
            Some(("acts", what)) => {
                others.acts.insert(what.to_owned());
            }
            Some((backend, count)) => {
                if let Ok(count @ 1..) = count.parse() {
                    others.backend_rules.insert(backend.to_owned(), count);
                }
            }
            None => {}
        }
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_of_a_million_routes_is_refused() {
        let answer = |section: &str, lines: usize| {
            format!("@n1 host\nroot=yes\n\n@n1 {section}\n{}\n@n1 end\n", "1.1.1.1 dev a\n".repeat(lines))
        };
        let error = |text: &str| observe(&ProbeSections::split(text, "n1"), "").unwrap_err();
        assert_eq!(error(&answer("routes4", LINES + 1)), ObserveError::TooLong("routes4".to_owned(), LINES));
        assert!(observe(&ProbeSections::split(&answer("routes4", 1000), "n1"), "").is_ok());
        assert!(observe(&ProbeSections::split(&answer("boot_files", LINES + 1), "n1"), "").is_ok());
    }

    #[test]
    fn sysctl_keys_of_odd_links() {
        let text = "net/ipv4/conf/a=b!c/forwarding:1\nkernel/core_pattern:|/bin/x a=1:2\nnet/ipv4/ip_forward:0\n\
                    net/a!absent\nnet/b!writeonly\nnet/c!readonly\nnet/c:\nnet/d=e!f!absent\nkernel/x:y!absent\n";
        let live = live(text);
        let value = |key: &str| live.get(key);
        assert_eq!(value("net/ipv4/conf/a=b!c/forwarding"), Some(&LiveValue::Value("1".to_owned())));
        assert_eq!(value("kernel/core_pattern"), Some(&LiveValue::Value("|/bin/x a=1:2".to_owned())));
        assert_eq!(value("net/ipv4/ip_forward"), Some(&LiveValue::Value("0".to_owned())));
        assert_eq!(value("net/a"), Some(&LiveValue::Absent));
        assert_eq!(value("net/b"), Some(&LiveValue::Unreadable));
        assert_eq!(value("net/c"), Some(&LiveValue::Value(String::new())));
        assert_eq!(value("net/d=e!f"), Some(&LiveValue::Absent));
        assert_eq!(value("kernel/x"), Some(&LiveValue::Value("y!absent".to_owned())));
        assert_eq!(live.len(), 8);
        assert_eq!(read_only(text).into_iter().collect::<Vec<_>>(), ["net/c"]);
    }
}
