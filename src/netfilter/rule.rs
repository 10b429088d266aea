//! One canonical rule, read.

use super::matches::{self, MatchTest, RuleMatch};
use super::rewrite::NatRewrite;
use crate::resource::iptables::extensions;
use crate::resource::iptables::save::{takes_value, tokens};
use std::borrow::Cow;
use std::sync::Arc;

/// A rule as the simulation evaluates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedRule {
    /// Its conditions.
    pub matches: Vec<RuleMatch>,
    /// What happens to a packet that meets them.
    pub target: RuleTarget,
    /// The canonical text, less `-A CHAIN`.
    pub text: Arc<str>,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleTarget {
    /// Lets the packet pass this table.
    Accept,
    /// Drops it, with or without saying so to the sender.
    Drop,
    /// Back to the rule after the jump, or to the policy.
    Return,
    /// Into a chain, and back.
    Jump(Arc<str>),
    /// Into a chain, not back to this one.
    Goto(Arc<str>),
    /// Nothing that decides: no target, LOG, counters.
    Continue,
    /// `MARK --set-xmark`: clears the bits of the mask, then flips those of the value.
    Mark {
        /// What is xored in.
        value: u32,
        /// What is cleared before.
        mask: u32,
    },
    /// Sets the mark to something that is not known here.
    AnyMark,
    /// Takes the packet out of conntrack.
    Untrack,
    /// Rewrites an address or a port.
    Rewrite(NatRewrite),
    /// A target that is not modelled, and that may decide.
    Unknown(Arc<str>),
}

impl ParsedRule {
    /// Reads a rule, canonical or as people write it. What cannot be read or is not modelled becomes *unknown*.
    pub fn parse(text: &str) -> ParsedRule {
        Self::parse_among(text, |_| false)
    }

    /// Reads canonical text of a table with these chains: a chain may have the name of a target
    /// that its host does not know.
    pub fn parse_among(text: &str, is_chain: impl Fn(&str) -> bool) -> ParsedRule {
        let (matches, target) = match tokens(text) {
            Ok(words) => RuleReader { words: &words, at: 0 }.rule(is_chain),
            Err(_) => (vec![unknown(text.to_owned())], RuleTarget::Unknown(text.into())),
        };
        ParsedRule { matches, target, text: text.into() }
    }

    /// Whether every packet meets it.
    pub fn is_unconditional(&self) -> bool {
        self.matches.is_empty()
    }
}

fn unknown(text: String) -> RuleMatch {
    RuleMatch { negated: false, test: MatchTest::Unknown(text) }
}

struct RuleReader<'a> {
    words: &'a [Cow<'a, str>],
    at: usize,
}

impl<'a> RuleReader<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    fn rule(mut self, is_chain: impl Fn(&str) -> bool) -> (Vec<RuleMatch>, RuleTarget) {
        let mut matches = Vec::new();
        let mut negated = false;
        // What options that stand without their `-m` may belong to.
        let mut loaded: Vec<&str> = Vec::new();
        while let Some(word) = self.next() {
            match short(word) {
                "!" => {
                    negated = true;
                    continue;
                }
                "-j" | "-g" => {
                    let name = self.next().unwrap_or_default();
                    let arguments = self.words.get(self.at..).unwrap_or_default();
                    if let Some(more) = arguments.iter().find(|word| is_core(word)) {
                        matches.push(unknown(format!("{more} behind the target")));
                    }
                    let target = match short(word) {
                        "-g" => RuleTarget::Goto(name.into()),
                        _ if is_chain(name) => RuleTarget::Jump(name.into()),
                        _ => target(name, arguments),
                    };
                    return (matches, target);
                }
                "-m" => {
                    let name = self.next().unwrap_or_default();
                    let section = self.section();
                    extension(name, section, &mut matches);
                    loaded.push(name);
                }
                "-f" => matches.push(RuleMatch { negated, test: MatchTest::Fragment }),
                option if option.starts_with("--") => {
                    self.at -= 1;
                    let section = self.section();
                    implied(&loaded, negated, section, &mut matches);
                }
                option => {
                    let value = if takes_value(option) { self.next().unwrap_or_default() } else { "" };
                    if option == "-p" {
                        loaded.extend(extensions::match_of_protocol(value).map(|one| one.name));
                    }
                    matches.push(match matches::head(option, value) {
                        Some(test) => RuleMatch { negated, test },
                        None => unknown(format!("{option} {value}")),
                    });
                }
            }
            negated = false;
        }
        (matches, RuleTarget::Continue)
    }

    /// The words up to the next option of every rule, match extension or the target.
    fn section(&mut self) -> &'a [Cow<'a, str>] {
        let start = self.at;
        while let Some(word) = self.words.get(self.at) {
            match word.as_ref() {
                "!" if self.words.get(self.at + 1).is_some_and(|next| is_core(next)) => break,
                option if is_core(option) => break,
                option if takes_value(option) => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at = self.at.min(self.words.len());
        self.words.get(start..self.at).unwrap_or_default()
    }
}

/// The long name of an option that every rule may have, as its short one.
fn short(word: &str) -> &str {
    match word {
        "--source" | "--src" => "-s",
        "--destination" | "--dst" => "-d",
        // `--proto` may be one of `-m policy`.
        "--protocol" => "-p",
        "--in-interface" => "-i",
        "--out-interface" => "-o",
        "--match" => "-m",
        "--jump" => "-j",
        "--goto" => "-g",
        "--fragment" => "-f",
        word => word,
    }
}

/// Whether a word is an option that every rule may have.
fn is_core(word: &str) -> bool {
    matches!(short(word), "-s" | "-d" | "-p" | "-i" | "-o" | "-m" | "-j" | "-g" | "-f")
}

/// Options without their `-m`: `-p tcp --dport 22`, and what stands behind `-m tcp -p tcp`.
fn implied(loaded: &[&str], negated: bool, words: &[Cow<'_, str>], matches: &mut Vec<RuleMatch>) {
    for (at, (not, option, values)) in options(words).into_iter().enumerate() {
        let negated = not || negated && at == 0;
        let test = loaded.iter().find_map(|name| matches::option(name, option, values));
        matches.push(match test {
            Some(test) => RuleMatch { negated, test },
            None => unknown(format!("{option} {}", values.join(" ")).trim_end().to_owned()),
        });
    }
}

/// The conditions of one `-m NAME …`.
fn extension(name: &str, words: &[Cow<'_, str>], matches: &mut Vec<RuleMatch>) {
    // A comment is no condition, and `-m tcp` without options adds nothing to `-p tcp`.
    if name == "comment" {
        return;
    }
    let known = extensions::find_match(name).filter(|one| one.simulated);
    let Some(name) = known.map(|one| one.name) else {
        matches.push(unknown(format!("-m {name} {}", words.join(" ")).trim_end().to_owned()));
        return;
    };
    let options = options(words);
    if matches!(name, "state" | "conntrack") {
        let asked = options.iter().map(|(negated, option, values)| (*negated, *option, *values));
        matches.push(RuleMatch { negated: false, test: MatchTest::Conntrack(matches::conntrack(asked)) });
        return;
    }
    let mut seen = Vec::new();
    for (negated, option, values) in options {
        seen.push(match matches::option(name, option, values) {
            Some(test) => RuleMatch { negated, test },
            None => unknown(format!("{option} {}", values.join(" ")).trim_end().to_owned()),
        });
    }
    // --limit-iface-in changes what LOCAL means.
    if name == "addrtype" && seen.iter().any(|one| matches!(one.test, MatchTest::Unknown(_))) {
        matches.push(unknown(format!("-m {name} {}", words.join(" "))));
        return;
    }
    matches.append(&mut seen);
}

/// An option of a match extension: whether `!` stands before, the name, the values.
type MatchOption<'a> = (bool, &'a str, &'a [Cow<'a, str>]);

/// The options of a match extension: whether `!` stands before, the name, the values.
fn options<'a>(words: &'a [Cow<'a, str>]) -> Vec<MatchOption<'a>> {
    let mut found = Vec::new();
    let mut rest = words;
    while let [first, after @ ..] = rest {
        let negated = first == "!";
        let (option, after) = match (negated, after) {
            (true, [option, after @ ..]) => (option.as_ref(), after),
            _ => (first.as_ref(), after),
        };
        // The first word is the value even where it looks like an option.
        let fixed = usize::from(takes_value(option)).min(after.len());
        let more =
            after.iter().skip(fixed).take_while(|word| !word.starts_with("--") && *word != "!").count();
        let (values, after) = after.split_at(fixed + more);
        rest = after;
        found.push((negated, option, values));
    }
    found
}

fn target(name: &str, arguments: &[Cow<'_, str>]) -> RuleTarget {
    let has = |option: &str| arguments.iter().any(|word| word == option);
    match name {
        "ACCEPT" => RuleTarget::Accept,
        "DROP" | "REJECT" | "TARPIT" => RuleTarget::Drop,
        "RETURN" => RuleTarget::Return,
        "NOTRACK" => RuleTarget::Untrack,
        "CT" if has("--notrack") => RuleTarget::Untrack,
        "MARK" => match arguments {
            [option, value] if option == "--set-xmark" => match matches::masked(value) {
                Some((value, mask)) => RuleTarget::Mark { value, mask },
                None => RuleTarget::AnyMark,
            },
            _ => RuleTarget::AnyMark,
        },
        "CONNMARK" if has("--restore-mark") => RuleTarget::AnyMark,
        "CONNMARK" => RuleTarget::Continue,
        "SET" if has("--map-set") => RuleTarget::AnyMark,
        "DNAT" | "SNAT" | "REDIRECT" | "MASQUERADE" | "NETMAP" | "DNPT" | "SNPT" => {
            RuleTarget::Rewrite(NatRewrite::parse(name, arguments))
        }
        "NFQUEUE" | "QUEUE" | "TPROXY" | "SYNPROXY" | "CLUSTERIP" | "" => RuleTarget::Unknown(name.into()),
        name if extensions::find_target(name).is_some_and(|one| one.simulated) => RuleTarget::Continue,
        // The simulation treats a target that is not a chain of the table as unknown.
        name => RuleTarget::Jump(name.into()),
    }
}
