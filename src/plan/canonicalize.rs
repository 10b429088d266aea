//! Rules as people write them, in the order in which the simulation reads them. No host has seen them, so
//! this is for tests of modules only: what a plan shows is what the host's own iptables says.

use crate::resource::iptables::save::{quote, tokens};
use std::borrow::Cow;

/// Options that belong to no match, in their order, and how else they are spelled.
const HEADS: [(&str, &[&str]); 5] = [
    ("-s", &["--source", "--src"]),
    ("-d", &["--destination", "--dst"]),
    ("-i", &["--in-interface"]),
    ("-o", &["--out-interface"]),
    ("-p", &["--protocol", "--proto"]),
];

/// Options that may stand without the `-m` they need, and how they are printed.
const PORTS: [(&str, &str); 8] = [
    ("--dport", "--dport"),
    ("--destination-port", "--dport"),
    ("--sport", "--sport"),
    ("--source-port", "--sport"),
    ("--tcp-flags", "--tcp-flags"),
    ("--tcp-option", "--tcp-option"),
    ("--icmp-type", "--icmp-type"),
    ("--icmpv6-type", "--icmpv6-type"),
];

/// One option with what belongs to it.
struct WrittenOption {
    negated: bool,
    words: Vec<String>,
}

impl WrittenOption {
    fn option(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn text(&self) -> String {
        let bare = |word: &str| !word.is_empty() && !word.contains([' ', '\t', '"', '\'', '\\']);
        let words: Vec<_> =
            self.words.iter().map(|word| if bare(word) { word.into() } else { quote(word) }).collect();
        format!("{}{}", if self.negated { "! " } else { "" }, words.join(" "))
    }
}

/// A rule as the simulation reads it; several where `-s` or `-d` has a list. What cannot be cut into words is
/// given back as it is.
pub(super) fn canonicalize(rule: &str) -> Vec<String> {
    let Ok(words) = tokens(rule) else { return vec![rule.to_owned()] };
    let mut parts = parts(words);
    let at = parts.iter().position(|part| matches!(part.option(), "-j" | "-g"));
    // A match may stand behind the target.
    let mut target = at.map_or_else(Vec::new, |at| parts.split_off(at));
    if let Some(behind) =
        target.iter().position(|part| part.option() == "-m" || head(part.option()).is_some())
    {
        parts.extend(target.split_off(behind));
    }
    let mut heads: Vec<WrittenOption> = Vec::new();
    let mut rest: Vec<WrittenOption> = Vec::new();
    for mut part in parts {
        match head(part.option()) {
            Some(at) => {
                part.words[0] = HEADS[at].0.to_owned();
                heads.push(part);
            }
            None => rest.push(part),
        }
    }
    heads.sort_by_key(|part| head(part.option()));
    heads.retain(|part| part.words.get(1).is_none_or(|value| value != "all"));
    let protocol =
        heads.iter().find(|part| part.option() == "-p").and_then(|part| part.words.get(1)).cloned();
    let rest = with_matches(rest, protocol.as_deref());
    let tail = rest.iter().chain(&target).map(WrittenOption::text).collect::<Vec<_>>().join(" ");
    let mut all = vec![String::new()];
    for part in &heads {
        let values = match part.option() {
            "-s" | "-d" => {
                part.words.get(1).map_or("", String::as_str).split(',').map(str::to_owned).collect()
            }
            _ => vec![part.words.get(1).cloned().unwrap_or_default()],
        };
        let one = |value: &String| {
            WrittenOption { negated: part.negated, words: vec![part.option().to_owned(), value.clone()] }
                .text()
        };
        all = all
            .iter()
            .flat_map(|before| values.iter().map(move |value| format!("{before}{} ", one(value))))
            .collect();
    }
    all.into_iter().map(|heads| format!("{heads}{tail}").trim_end().to_owned()).collect()
}

fn head(option: &str) -> Option<usize> {
    HEADS.iter().position(|(name, others)| *name == option || others.contains(&option))
}

/// Cuts words into options with their values and the `!` before them.
fn parts(words: Vec<Cow<'_, str>>) -> Vec<WrittenOption> {
    let mut parts: Vec<WrittenOption> = Vec::new();
    let mut negated = false;
    for word in words {
        match &*word {
            "!" => negated = true,
            option if option.starts_with('-') && option.len() > 1 => {
                let short = match option {
                    "--jump" => "-j",
                    "--goto" => "-g",
                    "--match" => "-m",
                    other => other,
                };
                parts.push(WrittenOption {
                    negated: std::mem::take(&mut negated),
                    words: vec![short.to_owned()],
                });
            }
            _ => match parts.last_mut() {
                Some(part) => part.words.push(word.into_owned()),
                None => parts.push(WrittenOption { negated: false, words: vec![word.into_owned()] }),
            },
        }
    }
    parts
}

/// Puts `-m PROTOCOL` before what needs it, and the printed spelling of what is known.
fn with_matches(rest: Vec<WrittenOption>, protocol: Option<&str>) -> Vec<WrittenOption> {
    let module = match protocol {
        Some("icmp" | "1") => "icmp",
        Some("icmpv6" | "ipv6-icmp" | "58") => "icmp6",
        Some(other) => other,
        None => "",
    };
    let mut all: Vec<WrittenOption> = Vec::new();
    let mut inside = String::new();
    for mut part in rest {
        if part.option() == "-m" {
            inside = part.words.get(1).cloned().unwrap_or_default();
        } else if part.option() == "--syn" {
            part.words = ["--tcp-flags", "FIN,SYN,RST,ACK", "SYN"].map(str::to_owned).to_vec();
        }
        if let Some((_, printed)) = PORTS.iter().find(|(name, _)| *name == part.option()) {
            part.words[0] = (*printed).to_owned();
            // A range that is open at one end.
            match part.words.get(1).and_then(|value| value.split_once(':')) {
                Some(("", high)) => part.words[1] = format!("0:{high}"),
                Some((low, "")) => part.words[1] = format!("{low}:65535"),
                _ => {}
            }
            if inside != module && inside != "multiport" {
                inside = module.to_owned();
                all.push(WrittenOption { negated: false, words: vec!["-m".to_owned(), module.to_owned()] });
            }
        }
        all.push(part);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netfilter::ParsedRule;

    /// Read as they are written, rules say what they say as iptables prints them. What differs is a
    /// spelling that only iptables knows: a test of a module writes the printed one.
    #[test]
    fn rules_are_read_as_iptables_prints_them() {
        let (mut same, mut other) = (0, Vec::new());
        for line in include_str!("../../tests/data/canon_written.tsv").lines().filter(|l| !l.starts_with('#'))
        {
            let fields: Vec<&str> = line.split('\t').collect();
            let rule = |text: &str| {
                text.split_once(' ').unwrap().1.trim().split_once(' ').unwrap_or(("", "")).1.to_owned()
            };
            let (written, printed) = (rule(fields[3]), rule(fields[4]));
            let texts = canonicalize(&written);
            let [text] = texts.as_slice() else { panic!("{written}: {texts:?}") };
            let (found, wanted) = (ParsedRule::parse(text), ParsedRule::parse(&printed));
            if (&found.matches, &found.target) == (&wanted.matches, &wanted.target) {
                same += 1;
            } else {
                other.push(format!("{written}\n    {text}\n    {printed}"));
            }
        }
        assert!(same >= 110, "only {same}:\n{}", other.join("\n"));
    }
}
