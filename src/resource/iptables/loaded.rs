//! The extensions that a rule has loaded so far, and what they make of an option.

use super::extensions::{self, Extension, ExtensionOption};
use super::targets::{COMMANDS, CORE};
use super::{IpFamily, address::AddressProblem};
use crate::problem::{Problem, closest};

/// A problem that is none where one of the extensions is declared, because its options are then not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionProblem {
    /// The extensions of the rule, the one that the problem is most probably about last.
    pub extensions: Vec<String>,
    /// What is wrong.
    pub problem: Problem,
}

/// Matches, target and protocol of a rule, as far as it was read.
#[derive(Debug)]
pub(super) struct LoadedExtensions {
    family: IpFamily,
    /// Names after `-m` and `-j`.
    pub(super) names: Vec<String>,
    known: Vec<&'static Extension>,
    protocol: Option<String>,
    /// Whether there may be options that are not known here: of an unknown extension, or in a param.
    pub(super) open: bool,
}

/// What an option is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FoundOption {
    /// An option of a loaded extension, maybe shortened.
    One(ExtensionOption),
    /// The beginning of several options.
    Several(Vec<&'static str>),
    /// No option of a loaded extension.
    Missing,
}

/// Why an option is refused: what is wrong, the next step, and whether a declared extension may have the option.
pub(super) struct OptionRefusal {
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) may_be_declared: bool,
}

impl LoadedExtensions {
    pub(super) fn new(family: IpFamily) -> Self {
        Self { family, names: vec![], known: vec![], protocol: None, open: false }
    }

    /// Notes `-m NAME`. The problem is that of a match of the other family.
    pub(super) fn add_match(&mut self, name: &str) -> AddressProblem {
        self.names.push(name.to_owned());
        let Some(found) = extensions::find_match(name) else {
            self.open = true;
            return None;
        };
        self.load(found);
        let family = self.family;
        (!found.is_of(family))
            .then(|| (format!("{family} has no match `{name}`"), other_family(found, family)))
    }

    /// Notes `-j NAME`, which may be a chain.
    pub(super) fn add_target(&mut self, name: &str) {
        self.names.push(name.to_owned());
        match extensions::find_target(name) {
            Some(found) => self.load(found),
            None => self.open = true,
        }
    }

    fn load(&mut self, found: &'static Extension) {
        self.open |= !found.has_known_options();
        self.known.push(found);
    }

    /// Notes `-p PROTOCOL`.
    pub(super) fn add_protocol(&mut self, protocol: &str) {
        self.protocol = Some(protocol.to_owned());
    }

    /// The loaded extensions, the last one first; the match of the protocol is loaded when nothing else has an option.
    fn all(&self) -> impl Iterator<Item = &'static Extension> {
        let of_protocol = self.protocol.as_deref().and_then(extensions::match_of_protocol);
        self.known.iter().rev().copied().chain(of_protocol.filter(|one| one.is_of(self.family)))
    }

    fn options(&self) -> impl Iterator<Item = ExtensionOption> {
        self.all().flat_map(|one| one.options(self.family))
    }

    /// The option of a name, or of the beginning of one, as getopt finds it.
    pub(super) fn find(&self, option: &str) -> FoundOption {
        if let Some(exact) = self.options().find(|known| known.name == option) {
            return FoundOption::One(exact);
        }
        let mut longer: Vec<&'static str> = Vec::new();
        let names = self.options().map(|known| known.name).chain(CORE).chain(COMMANDS);
        for name in names.filter(|name| name.starts_with(option)) {
            if !longer.contains(&name) {
                longer.push(name);
            }
        }
        match *longer {
            [] => FoundOption::Missing,
            [one] => match self.options().find(|known| known.name == one) {
                Some(found) => FoundOption::One(found),
                None => FoundOption::Missing,
            },
            _ if longer.iter().all(|name| CORE.contains(name) || COMMANDS.contains(name)) => {
                FoundOption::Missing
            }
            _ => FoundOption::Several(longer),
        }
    }

    /// What is known of an option that no loaded extension has: its values in any extension, else at most one.
    pub(super) fn guess(&self, option: &str) -> Option<ExtensionOption> {
        let old_set = |found: &ExtensionOption| option != "--set" || found.values < 2;
        extensions::all().find_map(|one| one.option(option, self.family).filter(old_set))
    }

    /// Why an option that no loaded extension has is refused; `corrected` puts words before it.
    pub(super) fn refuse(&self, option: &str, corrected: impl Fn(&str) -> String) -> OptionRefusal {
        let refusal =
            |message: String, help: Option<String>| OptionRefusal { message, help, may_be_declared: false };
        let owners: Vec<&'static Extension> =
            extensions::all().filter(|one| one.option(option, self.family).is_some()).collect();
        let (here, elsewhere): (Vec<_>, Vec<_>) = owners.into_iter().partition(|one| one.is_of(self.family));
        if !here.is_empty() {
            let (message, help) = self.missing(option, &here, corrected);
            return refusal(message, Some(help));
        }
        let other = match self.family {
            IpFamily::V4 => IpFamily::V6,
            IpFamily::V6 => IpFamily::V4,
        };
        let owner = elsewhere
            .first()
            .copied()
            .or_else(|| extensions::all().find(|one| one.option(option, other).is_some()));
        if let Some(owner) = owner {
            let message = format!("`{option}` is an option of {other}, not of {}", self.family);
            return refusal(message, other_family(owner, self.family));
        }
        let message = format!("unknown option `{option}`");
        let near = closest(option, self.options().map(|known| known.name).chain(CORE)).or_else(|| {
            closest(
                option,
                extensions::all().flat_map(|one| one.options(self.family)).map(|known| known.name),
            )
        });
        let help = match (near, self.names.last()) {
            (Some(near), _) => Some(format!("did you mean `{near}`?")),
            (None, Some(last)) => {
                Some(format!("if `{last}` has this option on the hosts, add `extensions: [{last}]`"))
            }
            (None, None) => None,
        };
        OptionRefusal { message, help, may_be_declared: !self.names.is_empty() }
    }

    /// What an option needs before it.
    fn missing(
        &self,
        option: &str,
        owners: &[&Extension],
        corrected: impl Fn(&str) -> String,
    ) -> (String, String) {
        let protocols: Vec<&str> =
            owners.iter().filter_map(|one| extensions::protocol_of_match(one.name)).collect();
        if owners.iter().all(|one| extensions::protocol_of_match(one.name).is_some()) {
            return match (&*protocols, &self.protocol) {
                ([_, _, ..], Some(given)) => {
                    (format!("protocol `{given}` has no ports"), "write `-p tcp` or `-p udp`".to_owned())
                }
                ([_, _, ..], None) => (
                    format!("`{option}` needs a protocol with ports before it"),
                    corrected(&format!("-p tcp {option}")),
                ),
                ([only], Some(given)) => {
                    (format!("protocol `{given}` has no `{option}`"), format!("write `-p {only}`"))
                }
                (one, None) => {
                    let needed = one.first().copied().unwrap_or_default();
                    (
                        format!("`{option}` needs `-p {needed}` before it"),
                        corrected(&format!("-p {needed} {option}")),
                    )
                }
                ([], Some(_)) => (String::new(), String::new()),
            };
        }
        let written: Vec<String> = owners
            .iter()
            .map(|one| match extensions::find_target(one.name) {
                Some(_) => format!("`-j {}`", one.name),
                None => format!("`-m {}`", one.name),
            })
            .collect();
        match (owners, &*written) {
            ([only], [words]) => {
                let help = match extensions::find_target(only.name) {
                    Some(_) => format!("write it after {words}"),
                    None => corrected(&format!("-m {} {option}", only.name)),
                };
                (format!("`{option}` needs {words} before it"), help)
            }
            _ => (
                format!("`{option}` needs its match or target before it"),
                format!("write one of {} before it", written.join(", ")),
            ),
        }
    }
}

/// The next step where an extension is only of the other family.
fn other_family(found: &Extension, family: IpFamily) -> Option<String> {
    let counterpart = match found.name {
        "ttl" => "write `-m hl` with `--hl-eq`, `--hl-lt` or `--hl-gt`",
        "hl" => "write `-m ttl` with `--ttl-eq`, `--ttl-lt` or `--ttl-gt`",
        "icmp" => "write `-p ipv6-icmp --icmpv6-type`",
        "icmp6" => "write `-p icmp --icmp-type`",
        "TTL" => "write `-j HL` with `--hl-set`, `--hl-dec` or `--hl-inc`",
        "HL" => "write `-j TTL` with `--ttl-set`, `--ttl-dec` or `--ttl-inc`",
        _ => "",
    };
    if !counterpart.is_empty() {
        return Some(counterpart.to_owned());
    }
    let only = found.family.filter(|only| *only != family)?;
    Some(format!("put the rule under `{}:`", only.key()))
}

/// The problem of a target that a family does not have.
pub(super) fn target_of_other_family(name: &str, family: IpFamily) -> AddressProblem {
    let found = extensions::find_target(name).filter(|found| !found.is_of(family))?;
    Some((format!("{family} has no target `{name}`"), other_family(found, family)))
}

/// The problem of `-m` with a name that the table does not have.
pub(super) fn unknown_match(name: &str, family: IpFamily) -> (String, String) {
    let help = match closest(name, extensions::match_names(family)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("if the hosts have this match, add `extensions: [{name}]`"),
    };
    (format!("unknown match `{name}`"), help)
}

/// The long option that lost one of its dashes: `-dport` is read as `-d port`.
pub(super) fn long_of(word: &str, family: IpFamily) -> Option<&'static str> {
    let letters = word.strip_prefix('-').filter(|rest| rest.len() > 1 && !rest.starts_with('-'))?;
    // `-icase` may be an interface.
    if letters.starts_with(['i', 'o']) && !letters.contains('-') {
        return None;
    }
    let options = extensions::all().flat_map(|one| one.options(family)).map(|option| option.name);
    CORE.into_iter().chain(options).find(|long| long.strip_prefix("--") == Some(letters))
}
