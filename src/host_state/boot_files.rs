//! The files that load rules of others at boot: where a live rule comes from, and what brings it back.

use super::flushes::flushes;
use crate::resource::iptables::{IpFamily, PREFIX};
use std::collections::{BTreeMap, BTreeSet};

/// What the boot files of a host say of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootFiles {
    rules: Vec<BootRule>,
    /// Lines of scripts that call iptables.
    pub scripts: Vec<BootLine>,
    /// Whatever replaces or flushes whole tables or chains at boot.
    pub loaders: Vec<RulesLoader>,
    /// The first line with rules of ours of each file in which another program saved them.
    pub ours: Vec<BootLine>,
    /// Files in the form of `iptables-save` that have tables.
    saves: BTreeSet<String>,
    /// Chains of such files: path, table, chain.
    chains: BTreeSet<(String, String, String)>,
    /// Services that are enabled and load such files.
    services: BTreeSet<String>,
    /// What else names a file that is read for that reason.
    named_by: BTreeMap<String, String>,
    /// All that are there, whatever they say.
    paths: BTreeSet<String>,
}

/// A rule that a file in the form of `iptables-save` loads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BootRule {
    family: IpFamily,
    /// `TABLE -A CHAIN …`.
    text: String,
    place: BootLine,
}

/// A line of a boot file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootLine {
    /// The file.
    pub path: String,
    /// Its number, from 1.
    pub line: u32,
}

/// A line that replaces or flushes tables or chains at boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesLoader {
    /// Where it stands.
    pub place: BootLine,
    /// What it calls.
    pub command: String,
}

impl BootFiles {
    /// Reads the probe's section: `!SERVICE`; `>PATH`, `<FILE:LINE` that named it, then `LINE:TEXT`.
    pub fn parse(text: &str) -> Self {
        let mut files = Self::default();
        let mut path = "";
        let mut table = "filter".to_owned();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('>') {
                path = name;
                files.paths.insert(name.to_owned());
                continue;
            }
            if let Some(service) = line.strip_prefix('!') {
                files.services.insert(service.to_owned());
                continue;
            }
            if let Some(by) = line.strip_prefix('<') {
                files.named_by.insert(path.to_owned(), by.to_owned());
                continue;
            }
            let Some((number, rule)) = line.split_once(':') else { continue };
            let Ok(line) = number.parse() else { continue };
            let place = BootLine { path: path.to_owned(), line };
            if rule.contains(PREFIX) && files.ours.last().is_none_or(|first| first.path != path) {
                files.ours.push(place.clone());
            }
            if let Some(name) = rule.strip_prefix('*') {
                name.trim().clone_into(&mut table);
                files.saves.insert(path.to_owned());
            } else if let Some(name) = rule.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                files.chains.insert((path.to_owned(), table.clone(), name.to_owned()));
            } else if rule.starts_with("-A ") {
                let v6 = path.ends_with(".v6") || path.contains("ip6tables");
                let family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
                files.rules.push(BootRule { family, text: format!("{table} {}", plain(rule)), place });
            } else {
                if let Some(command) = flushes(rule) {
                    files.loaders.push(RulesLoader { place: place.clone(), command });
                }
                if rule.contains("tables") {
                    files.scripts.push(place);
                }
            }
        }
        files
    }

    /// Whether a service that loads files of rules is enabled.
    pub fn enabled(&self, service: &str) -> bool {
        self.services.contains(service)
    }

    /// Whether there is such a file in the form of `iptables-save`, with tables.
    pub fn saves(&self, path: &str) -> bool {
        self.saves.contains(path)
    }

    /// Whether a file that loads before ours at boot makes a chain.
    pub fn makes_chain(&self, family: IpFamily, table: &str, chain: &str) -> bool {
        let path = if family == IpFamily::V4 { "/etc/iptables/rules.v4" } else { "/etc/iptables/rules.v6" };
        self.chains.contains(&(path.to_owned(), table.to_owned(), chain.to_owned()))
    }

    /// The `file:line` that names a file.
    pub fn named_by(&self, path: &str) -> Option<&str> {
        self.named_by.get(path).map(String::as_str)
    }

    /// Whether there is such a file.
    pub fn has(&self, path: &str) -> bool {
        self.paths.contains(path)
    }

    /// The first `file:line` that loads this rule.
    pub fn find(&self, family: IpFamily, table: &str, chain: &str, rule: &str) -> Option<String> {
        let place = self.places(family, table, chain, rule).next()?;
        Some(format!("{}:{}", place.path, place.line))
    }

    /// Every line that loads this rule.
    pub fn places(
        &self,
        family: IpFamily,
        table: &str,
        chain: &str,
        rule: &str,
    ) -> impl Iterator<Item = &BootLine> {
        let wanted = format!("{table} {}", plain(&format!("-A {chain} {rule}")));
        self.rules.iter().filter(move |r| r.family == family && r.text == wanted).map(|r| &r.place)
    }
}

/// A rule as it is compared: white space, the order of options and of state names do not count, nor do
/// `-m tcp` and the like, which people leave out and iptables prints.
pub fn plain(rule: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut negated = false;
    for word in rule.split_whitespace() {
        let word = match word.contains("ESTABLISHED") && word.contains(',') {
            true => {
                let mut states: Vec<&str> = word.split(',').collect();
                states.sort_unstable();
                states.join(",")
            }
            false => word.to_owned(),
        };
        match parts.last_mut() {
            _ if word == "!" => negated = true,
            Some(part) if !word.starts_with('-') => {
                part.push(' ');
                part.push_str(&word);
            }
            _ => parts.push(if std::mem::take(&mut negated) { format!("! {word}") } else { word }),
        }
    }
    parts.retain(|part| !["-m tcp", "-m udp", "-m icmp", "-m icmp6"].contains(&part.as_str()));
    parts.sort();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_as_people_write_them() {
        let files = BootFiles::parse(
            ">/etc/iptables/rules.v4\n1:*filter\n5:-A INPUT -p tcp --dport 22 -j ACCEPT\n\
             7:-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT\n\
             8:-A INPUT -m state --state NEW -m tcp -p tcp ! --dport 80 -j ACCEPT\n>/etc/rc.local\n3:iptables-restore </root/fw\n",
        );
        let find = |rule| files.find(IpFamily::V4, "filter", "INPUT", rule);
        assert_eq!(find("-p tcp -m tcp --dport 22 -j ACCEPT").as_deref(), Some("/etc/iptables/rules.v4:5"));
        assert_eq!(
            find("-m state --state ESTABLISHED,RELATED -j ACCEPT").as_deref(),
            Some("/etc/iptables/rules.v4:7")
        );
        assert_eq!(
            find("-p tcp -m state --state NEW -m tcp ! --dport 80 -j ACCEPT").as_deref(),
            Some("/etc/iptables/rules.v4:8")
        );
        assert_eq!(find("-p tcp -m state --state NEW -m tcp --dport 80 -j ACCEPT"), None);
        assert_eq!(find("-p udp -m udp --dport 22 -j ACCEPT"), None);
        assert_eq!(files.scripts, [BootLine { path: "/etc/rc.local".to_owned(), line: 3 }]);
    }
}
