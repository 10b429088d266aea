//! Walks through the words of a rule as getopt does, and says what iptables would say for sure.

use super::rule::RuleContext;
use super::targets::{self, COMMANDS, FREE_TEXT, NOT_SHORTENED, TARGETS};
use super::text::{RuleWord, quote};
use super::{PREFIX, address, builtin_chains};
use crate::problem::{Problem, closest};

/// What was seen so far.
#[derive(Default)]
pub(super) struct ParseState {
    pub(super) matches: Vec<String>,
    protocol: Option<String>,
    open: bool,
    /// What of `-m tcp` and `-m udp` was asked for.
    asked: Vec<&'static str>,
}

pub(super) struct OptionParser<'a> {
    pub(super) words: &'a [RuleWord],
    pub(super) at: usize,
    pub(super) context: RuleContext<'a>,
    /// How many problems there were before this rule.
    pub(super) before: usize,
    pub(super) problems: &'a mut Vec<Problem>,
    pub(super) out: Vec<RuleWord>,
    /// The place of the target's name in `out`.
    pub(super) target: Option<usize>,
    pub(super) seen: ParseState,
}

impl OptionParser<'_> {
    pub(super) fn run(&mut self) {
        let mut not: Option<RuleWord> = None;
        while let Some(word) = self.words.get(self.at) {
            let word = word.clone();
            self.at += 1;
            if word.value.len() > 1000 {
                self.wrong(&word, "a word is longer than iptables-restore reads", None);
                continue;
            }
            if !word.pieces.is_empty() && !word.value.starts_with('-') {
                // What stands for an option is not known yet.
                self.seen.open = true;
                self.out.push(word);
                continue;
            }
            if word.value == "!" && !word.quoted {
                if let Some(first) = not.replace(word.clone()) {
                    self.wrong(&first, "`!` is repeated", None);
                }
                self.out.push(word);
                continue;
            }
            if word.value.starts_with('-') && word.value.len() > 1 {
                if word.quoted && !(word.value.starts_with("--") && word.value.contains('=')) {
                    let help =
                        "quotes do not keep it from being an option; write an option without them".to_owned();
                    self.wrong(&word, &format!("`{}` would be read as an option", word.value), Some(help));
                    continue;
                }
                let negated = not.take().is_some();
                if word.value.starts_with("--") {
                    self.long(word, negated)
                } else {
                    self.short(word, negated)
                }
                continue;
            }
            self.stray(&word);
        }
        if let Some(not) = not {
            self.wrong(&not, "`!` is the last word", None);
        }
    }

    fn wrong(&mut self, word: &RuleWord, message: &str, help: Option<String>) {
        let mut problem = Problem::new("bad-rule", message).at_place(&word.place);
        problem.help = help;
        self.problems.push(problem);
    }

    /// The whole rule with one word replaced, for help.
    fn corrected(&self, at: usize, count: usize, with: &str) -> String {
        let mut words: Vec<&str> = self.words[..at].iter().map(|w| w.raw.as_str()).collect();
        if !with.is_empty() {
            words.push(with);
        }
        words.extend(self.words[(at + count).min(self.words.len())..].iter().map(|w| w.raw.as_str()));
        format!("write `{}`", words.join(" "))
    }

    fn stray(&mut self, word: &RuleWord) {
        if self.problems.len() > self.before {
            // Most probably only the rest of what was told already.
            return;
        }
        let at = self.at - 1;
        let text = &word.value;
        if at == 0 && matches!(text.as_str(), "iptables" | "ip6tables" | "sudo") {
            let help =
                "remove the command and `-A CHAIN`: the keys above give the table and the chain".to_owned();
            self.at = self.words.len();
            return self.wrong(word, &format!("`{text}` is not part of a rule"), Some(help));
        }
        if text.starts_with('\'') {
            let end = self.words[at..]
                .iter()
                .position(|w| (w.value.len() > 1 || w.place != word.place) && w.value.ends_with('\''));
            let words: Vec<&str> =
                self.words[at..=at + end.unwrap_or(0)].iter().map(|w| w.value.as_str()).collect();
            let inner = words.join(" ");
            let help = format!("write {}", quote(inner.trim_matches('\'')));
            self.at += end.unwrap_or(0);
            return self.wrong(word, "single quotes do not quote in iptables-restore", Some(help));
        }
        if text == "\\" {
            let help = "it continues a rule only as the very last character of a line".to_owned();
            return self.wrong(word, "a stray `\\`", Some(help));
        }
        if let Some(rest) = text.strip_prefix('!') {
            let help = self.corrected(at, 1, &format!("! {rest}"));
            return self.wrong(word, &format!("`{text}` needs a space after `!`"), Some(help));
        }
        let help =
            "a comment starts with two spaces and `#`; a value with spaces needs double quotes".to_owned();
        self.wrong(word, &format!("`{text}` does not belong to an option"), Some(help));
    }

    /// `-p tcp`, `-ptcp`, `-fj ACCEPT`.
    fn short(&mut self, word: RuleWord, negated: bool) {
        if let Some(long) = targets::long_of(&word.value) {
            return self.wrong(
                &word,
                &format!("unknown option `{}`", word.value),
                Some(format!("did you mean `{long}`?")),
            );
        }
        for (at, letter) in word.value[1..].char_indices() {
            let option = format!("-{letter}");
            match letter {
                's' | 'd' | 'p' | 'i' | 'o' | 'j' | 'g' | 'm' => {
                    let rest = &word.value[1 + at + letter.len_utf8()..];
                    self.out.push(made(&word, &option));
                    let value =
                        if rest.is_empty() { self.value(&word, &option) } else { Some(made(&word, rest)) };
                    if let Some(value) = value {
                        self.core(&option, value, negated);
                    }
                    return;
                }
                'f' => self.out.push(made(&word, "-f")),
                'A' | 'I' | 'D' | 'R' | 'C' | 'N' | 'X' | 'F' | 'Z' | 'P' | 'E' | 'L' | 'S' | 't' => {
                    let skip = usize::from(word.value.len() == 2);
                    let mut help = format!(
                        "remove it: the keys above give the table and the chain; {}",
                        self.corrected(self.at - 1, 1 + skip, "")
                    );
                    if !matches!(letter, 'A' | 't') {
                        help = "write only the part after `-A CHAIN`; kvmfw sets the order".into();
                    }
                    self.wrong(&word, &format!("`{option}` is not part of a rule"), Some(help));
                    self.at += skip;
                    return;
                }
                'c' => {
                    self.wrong(
                        &word,
                        "`-c` sets counters, which are not part of a rule",
                        Some("leave it out".into()),
                    );
                    return;
                }
                '4' | '6' => {
                    let help = "remove it: the key `iptables:` or `ip6tables:` gives the family".to_owned();
                    self.wrong(&word, &format!("`{option}` is not part of a rule"), Some(help));
                    return;
                }
                _ => {
                    let help =
                        (word.value.chars().count() > 2).then(|| format!("did you mean `-{}`?", word.value));
                    self.wrong(&word, &format!("unknown option `{option}`"), help);
                    return;
                }
            }
        }
    }

    fn long(&mut self, word: RuleWord, negated: bool) {
        let (option, inline) = match word.value.split_once('=') {
            Some((option, value)) => (option.to_owned(), Some(value.to_owned())),
            None => (word.value.clone(), None),
        };
        if !option.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            return self.wrong(&word, &format!("unknown option `{option}`"), None);
        }
        if option == "--" {
            return self.wrong(&word, "`--` is not part of a rule", None);
        }
        let core = match option.as_str() {
            "--source" | "--src" => "-s",
            "--destination" | "--dst" => "-d",
            "--protocol" | "--proto" => "-p",
            "--in-interface" => "-i",
            "--out-interface" => "-o",
            "--jump" => "-j",
            "--goto" => "-g",
            "--match" => "-m",
            _ => "",
        };
        if core.is_empty() {
            // iptables takes any unambiguous beginning of an option, of a command too.
            let command = COMMANDS.iter().find(|command| {
                **command == option
                    || option.len() > 4
                        && command.starts_with(&option)
                        && !NOT_SHORTENED.contains(&option.as_str())
            });
            if command.is_some() {
                let help = "write only the part after `-A CHAIN`".to_owned();
                return self.wrong(&word, &format!("`{option}` is not part of a rule"), Some(help));
            }
            let spelled = [
                "--jump",
                "--goto",
                "--protocol",
                "--source",
                "--destination",
                "--in-interface",
                "--out-interface",
                "--match",
            ];
            if let Some(full) = spelled.iter().find(|full| {
                option.len() > 3 && full.starts_with(&option) && !matches!(option.as_str(), "--mat" | "--mac")
            }) {
                return self.wrong(
                    &word,
                    &format!("`{option}` is a shortened option"),
                    Some(format!("write `{full}`")),
                );
            }
        }
        self.out.push(made(&word, &option));
        let value = match inline {
            Some(value) => Some(RuleWord { value: value.clone(), raw: quote(&value), ..word.clone() }),
            None if !core.is_empty() => self.value(&word, &option),
            None => None,
        };
        if core.is_empty() {
            self.extension(&word, &option, value, negated);
        } else if let Some(value) = value {
            self.core(core, value, negated);
        }
    }

    /// The value of an option that has to have one.
    fn value(&mut self, option: &RuleWord, name: &str) -> Option<RuleWord> {
        let Some(value) = self.words.get(self.at).cloned() else {
            self.wrong(option, &format!("`{name}` has no value"), None);
            return None;
        };
        if value.value == "!" && !value.quoted {
            let at = self.at - 1;
            let next = self.words.get(self.at + 1).map(|w| w.raw.clone()).unwrap_or_default();
            let help = self.corrected(at, 3, &format!("! {} {next}", option.raw));
            self.wrong(&value, "`!` stands before the option, not before its value", Some(help));
            self.at += 2;
            return None;
        }
        self.at += 1;
        Some(value)
    }

    /// One of the options that every rule may have; its value is checked.
    fn core(&mut self, option: &str, value: RuleWord, negated: bool) {
        let known = value.pieces.is_empty();
        let index = self.out.len();
        self.out.push(value.clone());
        match option {
            "-m" => self.seen.matches.push(value.value.clone()),
            "-p" => self.seen.protocol = Some(value.value.clone()),
            "-j" | "-g" => {
                if self.target.replace(index).is_some() {
                    self.wrong(
                        &value,
                        "has two targets",
                        Some("write two rules, one for each target".into()),
                    );
                }
                if negated {
                    self.wrong(&value, "a target cannot be negated", None);
                }
            }
            _ => {}
        }
        if !known {
            if option == "-m" || option == "-p" {
                self.seen.open = true;
            }
            return;
        }
        let text = value.value.as_str();
        let trouble = match option {
            "-s" | "-d" => address::check(text, self.context.family, negated),
            "-p" => address::check_protocol(text),
            "-i" | "-o" => address::check_interface(text).or_else(|| self.wrong_side(option)),
            "-m" if text.is_empty()
                || !text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) =>
            {
                Some((format!("`{text}` is not a known match"), None))
            }
            "-j" | "-g" => self.target_trouble(option, text),
            _ => None,
        };
        if let Some((message, help)) = trouble {
            self.wrong(&value, &message, help);
        }
    }

    fn wrong_side(&self, option: &str) -> Option<(String, Option<String>)> {
        let chain = self.context.chain;
        let no_such = match option {
            "-i" => matches!(chain, "OUTPUT" | "POSTROUTING"),
            _ => matches!(chain, "INPUT" | "PREROUTING"),
        };
        (self.context.builtin && no_such).then(|| {
            (
                format!("`{option}` never matches in {chain}"),
                Some("packets have no such interface in that chain".into()),
            )
        })
    }

    fn target_trouble(&self, option: &str, text: &str) -> Option<(String, Option<String>)> {
        let RuleContext { chain, table, builtin, family } = self.context;
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-:+@=".contains(c))
        {
            return Some((
                format!("`{}` is not a valid name of a chain or target", text.escape_debug()),
                None,
            ));
        }
        if builtin && option == "-g" {
            let help = format!(
                "use `-j {text}`: from kvmfw's chain a goto would skip the unmanaged rules after the jump rule"
            );
            return Some((format!("goes to `{text}` directly in the built-in chain {chain}"), Some(help)));
        }
        if builtin && text == "RETURN" {
            // In all other tables the policy is ACCEPT, and nobody makes it another one.
            let instead = match table {
                "nat" => "write `-j ACCEPT`: in nat it leaves the packet unchanged and skips later rules",
                "filter" | "security" => "write `-j ACCEPT`, or `-j DROP` where that is the policy",
                _ => "write `-j ACCEPT`, which ends the chain here",
            };
            let help = format!(
                "{instead}; or put the rules into a separate chain and jump to it: kvmfw's chain would return \
                 to the unmanaged rules after the jump rule, not to the policy"
            );
            return Some((format!("RETURN directly in the built-in chain {chain}"), Some(help)));
        }
        if option == "-g" && TARGETS.contains(&text) {
            return Some((
                format!("`{text}` is a target, not a chain to go to"),
                Some(format!("use `-j {text}`")),
            ));
        }
        if builtin_chains(table).is_some_and(|chains| chains.contains(&text)) {
            return Some((format!("`{text}` is a built-in chain, and a rule cannot jump to it"), None));
        }
        if text.starts_with(PREFIX) {
            let plain = text.trim_start_matches(PREFIX);
            return Some((
                format!("`{text}` has the prefix that kvmfw adds"),
                Some(format!("write `{plain}`")),
            ));
        }
        if targets::target_family(text).is_some_and(|only| only != family) {
            return Some((format!("{family} has no target `{text}`"), None));
        }
        None
    }

    /// An option of a match or target.
    fn extension(&mut self, word: &RuleWord, option: &str, inline: Option<RuleWord>, _negated: bool) {
        if let Some(needed) = targets::match_of(option)
            && !self.seen.open
            && !self.seen.matches.iter().any(|m| m == needed)
        {
            let near = closest(needed, self.seen.matches.iter().map(String::as_str));
            let help = match near {
                Some(near) => format!("did you mean `-m {needed}` for `-m {near}`?"),
                None => self.corrected(self.at - 1, 1, &format!("-m {needed} {option}")),
            };
            self.wrong(word, &format!("`{option}` needs `-m {needed}` before it"), Some(help));
        }
        let ports = targets::is_port_option(option);
        if ports
            && !self.seen.open
            && !self.seen.protocol.as_deref().is_some_and(targets::has_ports)
            && !self.seen.matches.iter().any(|m| targets::has_ports(m))
        {
            let given = self.seen.protocol.as_deref();
            let near = given.and_then(|given| closest(given, ["tcp", "udp", "sctp", "dccp"]));
            let (message, help) = match (given, near) {
                (Some(given), Some(near)) => {
                    (format!("unknown protocol `{given}`"), format!("did you mean `{near}`?"))
                }
                (Some(given), None) => {
                    (format!("protocol `{given}` has no ports"), "write `-p tcp` or `-p udp`".to_owned())
                }
                (None, _) => (
                    format!("`{option}` needs a protocol with ports before it"),
                    self.corrected(self.at - 1, 1, &format!("-p tcp {option}")),
                ),
            };
            self.wrong(word, &message, Some(help));
        }
        if let Some(asked) = targets::shown_once(option) {
            if self.seen.asked.contains(&asked) {
                let help = "the kernel would require both, and iptables-nft-save shows only the last one; \
                    write several ports as `-m multiport --dports 22,80`, and everything else as two rules"
                    .to_owned();
                self.wrong(word, &format!("`{option}` repeats `{asked}` in this rule"), Some(help));
            }
            self.seen.asked.push(asked);
        }
        let limit = if targets::takes_two(option, &self.seen.matches) { 2 } else { 1 };
        let free = FREE_TEXT.contains(&option);
        let mut values = Vec::new();
        values.extend(inline);
        while values.len() < limit {
            let Some(next) = self.words.get(self.at) else { break };
            if next.value == "!" && !next.quoted && values.is_empty() {
                let follows = self.words.get(self.at + 1).is_some_and(|w| !w.value.starts_with('-'));
                if follows {
                    let _ = self.value(word, option);
                    return;
                }
            }
            let dash = next.value.starts_with('-') && !free;
            if dash || next.value == "!" && !next.quoted || next.value.starts_with('\'') {
                break;
            }
            values.push(next.clone());
            self.at += 1;
        }
        let names_set = targets::names_set(option, &self.seen.matches);
        if names_set
            && values.len() < 2
            && values.iter().all(|value| value.pieces.is_empty())
            && !self.seen.open
        {
            let help = format!(
                "write `{option} NAME src`, with `src` or `dst` for each part of a member of the set"
            );
            self.wrong(word, &format!("`{option}` needs a set and directions"), Some(help));
        }
        for (at, value) in values.into_iter().enumerate() {
            if value.pieces.is_empty() {
                let text = value.value.as_str();
                let trouble = match option {
                    _ if names_set && at == 1 => targets::check_directions(text),
                    _ if ports => address::check_ports(text, false),
                    "--dports" | "--sports" | "--ports" | "--destination-ports" | "--source-ports" => {
                        address::check_ports(text, true)
                    }
                    "--physdev-in" | "--physdev-out" => address::check_interface(text),
                    "--log-prefix" if text.len() > 29 => {
                        Some((format!("the prefix `{text}` is longer than 29 characters"), None))
                    }
                    "--comment" if text.len() > 255 => {
                        Some(("the comment is longer than 255 characters".into(), None))
                    }
                    "--mac-source" if !address::is_mac(text) => {
                        Some((format!("`{text}` is not a valid MAC address"), None))
                    }
                    _ => None,
                };
                if let Some((message, help)) = trouble {
                    self.wrong(&value, &message, help);
                }
            }
            self.out.push(value);
        }
    }
}

/// A word made out of a part of another one.
fn made(word: &RuleWord, value: &str) -> RuleWord {
    RuleWord {
        value: value.to_owned(),
        raw: quote(value),
        quoted: false,
        pieces: vec![],
        place: word.place.clone(),
    }
}
