//! Walks through the words of a rule as getopt does, and says what iptables would say for sure.

use super::extensions::{ExtensionOption, find_match, find_target};
use super::loaded::{self, ExtensionProblem, FoundOption, LoadedExtensions};
use super::rule::RuleContext;
use super::targets::{self, COMMANDS, CORE};
use super::text::{RuleWord, quote};
use super::{IpFamily, PREFIX, address, builtin_chains};
use crate::problem::Problem;

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
    pub(super) loaded: LoadedExtensions,
    /// Problems that a declared extension takes away.
    pub(super) undeclared: Vec<ExtensionProblem>,
    /// What of `-m tcp` and `-m udp` was asked for.
    pub(super) asked: Vec<&'static str>,
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
                self.loaded.open = true;
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
        if let Some(long) = loaded::long_of(&word.value, self.context.family) {
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
                'f' => self.fragments(&word),
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
            "--fragments" | "--fragment" => return self.fragments(&word),
            _ => {
                let inline = inline.map(|value| inline_word(&word, &value));
                return self.extension(&word, &option, inline, negated);
            }
        };
        self.out.push(made(&word, &option));
        let value = match inline {
            Some(value) => Some(inline_word(&word, &value)),
            None => self.value(&word, &option),
        };
        if let Some(value) = value {
            self.core(core, value, negated);
        }
    }

    /// `-f`, which IPv6 has not.
    fn fragments(&mut self, word: &RuleWord) {
        if self.context.family == IpFamily::V6 {
            let help = "write `-m frag` with its options".to_owned();
            return self.wrong(word, &format!("`{}` is not an option of ip6tables", word.value), Some(help));
        }
        self.out.push(made(word, "-f"));
    }

    /// Refuses commands of iptables, and shortened options that every rule may have.
    fn is_command(&mut self, word: &RuleWord, option: &str) -> bool {
        let begins = |full: &&str| option.len() > 3 && full.starts_with(option);
        if let Some(full) = CORE.into_iter().find(begins) {
            self.wrong(word, &format!("`{option}` is a shortened option"), Some(format!("write `{full}`")));
            return true;
        }
        if COMMANDS.into_iter().any(|command| command == option || option.len() > 4 && begins(&command)) {
            let help = "write only the part after `-A CHAIN`".to_owned();
            self.wrong(word, &format!("`{option}` is not part of a rule"), Some(help));
            return true;
        }
        false
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
            self.loaded.open |= matches!(option, "-m" | "-p" | "-j");
            return;
        }
        let text = value.value.as_str();
        let trouble = match option {
            "-s" | "-d" => address::check(text, self.context.family, negated),
            "-p" => self.protocol_trouble(text),
            "-i" | "-o" => address::check_interface(text).or_else(|| self.wrong_side(option)),
            "-m" if text.is_empty()
                || !text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c)) =>
            {
                Some((format!("`{text}` is not a known match"), None))
            }
            "-m" => self.match_trouble(&value),
            "-j" | "-g" => self.target_trouble(option, text),
            _ => None,
        };
        if let Some((message, help)) = trouble {
            self.wrong(&value, &message, help);
        }
    }

    fn protocol_trouble(&mut self, text: &str) -> address::AddressProblem {
        let trouble = address::check_protocol(text);
        // Its options are then not known either.
        self.loaded.open |= trouble.is_some();
        self.loaded.add_protocol(text);
        trouble
    }

    fn match_trouble(&mut self, value: &RuleWord) -> address::AddressProblem {
        let (name, family) = (value.value.as_str(), self.context.family);
        let trouble = self.loaded.add_match(name);
        if find_match(name).is_none() {
            let (message, help) = loaded::unknown_match(name, family);
            let problem = Problem::new("unknown-match", message).at_place(&value.place).help(help);
            self.undeclared.push(ExtensionProblem { extensions: vec![name.to_owned()], problem });
        }
        trouble
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

    fn target_trouble(&mut self, option: &str, text: &str) -> Option<(String, Option<String>)> {
        let RuleContext { chain, table, builtin, family } = self.context;
        self.loaded.add_target(text);
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
        if option == "-g" && find_target(text).is_some() {
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
        loaded::target_of_other_family(text, family)
    }

    /// An option of a match or target.
    fn extension(&mut self, word: &RuleWord, option: &str, inline: Option<RuleWord>, negated: bool) {
        let known = match self.loaded.find(option) {
            FoundOption::One(found) => Some(found),
            FoundOption::Several(names) => {
                let help = format!("write one of `{}`", names.join("`, `"));
                return self.wrong(
                    word,
                    &format!("`{option}` is the beginning of several options"),
                    Some(help),
                );
            }
            FoundOption::Missing if self.is_command(word, option) => return,
            FoundOption::Missing => {
                self.unknown_option(word, option);
                None
            }
        };
        let option = known.map_or(option, |known| known.name);
        self.out.push(made(word, option));
        if known.is_some_and(|known| negated && !known.negatable) {
            self.wrong(word, &format!("`{option}` cannot be negated"), Some("remove the `!`".to_owned()));
        }
        self.shown_once(word, option);
        let shape = known.or_else(|| self.loaded.guess(option));
        let Some(values) = self.values(word, option, inline, shape) else { return };
        if let Some(known) = known {
            self.count_values(word, known, values.len());
        }
        let names_set = shape.is_some_and(|shape| shape.values == 2 && shape.name.ends_with("set"));
        for (at, value) in values.into_iter().enumerate() {
            if value.pieces.is_empty()
                && let Some((message, help)) = value_trouble(option, &value.value, names_set && at == 1)
            {
                self.wrong(&value, &message, help);
            }
            self.out.push(value);
        }
    }

    /// Reports an option that no extension of the rule has, where all of its extensions are known.
    fn unknown_option(&mut self, word: &RuleWord, option: &str) {
        if self.loaded.open {
            return;
        }
        let at = self.at - 1;
        let refusal = self.loaded.refuse(option, |with| self.corrected(at, 1, with));
        if !refusal.may_be_declared {
            return self.wrong(word, &refusal.message, refusal.help);
        }
        let mut problem = Problem::new("unknown-option", refusal.message).at_place(&word.place);
        problem.help = refusal.help;
        self.undeclared.push(ExtensionProblem { extensions: self.loaded.names.clone(), problem });
    }

    fn shown_once(&mut self, word: &RuleWord, option: &str) {
        let Some(asked) = targets::shown_once(option) else { return };
        if self.asked.contains(&asked) {
            let help = "the kernel would require both, and iptables-nft-save shows only the last one; \
                write several ports as `-m multiport --dports 22,80`, and everything else as two rules"
                .to_owned();
            self.wrong(word, &format!("`{option}` repeats `{asked}` in this rule"), Some(help));
        }
        self.asked.push(asked);
    }

    /// The words after an option that belong to it; at most one if nothing is known of the option.
    fn values(
        &mut self,
        word: &RuleWord,
        option: &str,
        inline: Option<RuleWord>,
        shape: Option<ExtensionOption>,
    ) -> Option<Vec<RuleWord>> {
        let limit = shape.map_or(1, |shape| shape.values);
        let free = shape.is_some_and(|shape| shape.free_text);
        let mut values = Vec::new();
        values.extend(inline);
        while values.len() < limit {
            let Some(next) = self.words.get(self.at) else { break };
            if next.value == "!" && !next.quoted && values.is_empty() {
                let follows = self.words.get(self.at + 1).is_some_and(|w| !w.value.starts_with('-'));
                if follows {
                    self.value(word, option);
                    return None;
                }
            }
            let dash = next.value.starts_with('-') && !(free && values.is_empty());
            if dash || next.value == "!" && !next.quoted || next.value.starts_with('\'') {
                break;
            }
            values.push(next.clone());
            self.at += 1;
        }
        Some(values)
    }

    /// Refuses too few and too many values.
    fn count_values(&mut self, word: &RuleWord, known: ExtensionOption, given: usize) {
        let option = known.name;
        if given > known.values {
            return self.wrong(
                word,
                &format!("`{option}` takes no value"),
                Some(format!("write `{option}`")),
            );
        }
        if given == known.values || self.problems.len() > self.before {
            return;
        }
        if known.values == 2 && option.ends_with("set") {
            let help = format!(
                "write `{option} NAME src`, with `src` or `dst` for each part of a member of the set"
            );
            return self.wrong(word, &format!("`{option}` needs a set and directions"), Some(help));
        }
        // What stands in single quotes has a message of its own.
        if self.words.get(self.at).is_some_and(|next| next.value.starts_with('\'')) {
            return;
        }
        let message = match known.values {
            1 => format!("`{option}` needs a value"),
            count => format!("`{option}` needs {count} values"),
        };
        self.wrong(word, &message, None);
    }
}

/// What is wrong with one value of an option.
fn value_trouble(option: &str, text: &str, directions: bool) -> address::AddressProblem {
    match option {
        _ if directions => targets::check_directions(text),
        "--dport" | "--sport" | "--destination-port" | "--source-port" => address::check_ports(text, false),
        "--dports" | "--sports" | "--ports" | "--destination-ports" | "--source-ports" => {
            address::check_ports(text, true)
        }
        "--physdev-in" | "--physdev-out" => address::check_interface(text),
        "--log-prefix" if text.len() > 29 => {
            Some((format!("the prefix `{text}` is longer than 29 characters"), None))
        }
        "--comment" if text.len() > 255 => Some(("the comment is longer than 255 characters".into(), None)),
        "--mac-source" if !address::is_mac(text) => {
            Some((format!("`{text}` is not a valid MAC address"), None))
        }
        _ => None,
    }
}

/// The value of `--option=value`.
fn inline_word(word: &RuleWord, value: &str) -> RuleWord {
    RuleWord { value: value.to_owned(), raw: quote(value), ..word.clone() }
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
