//! The words of one canonical rule.
//!
//! `iptables-save` quotes a word only when it needs to, with double quotes, and puts a backslash
//! before `"`, `\` and `'` inside them. A POSIX shell would keep the backslash before `'`, so no
//! shell word splitter reads this rightly.

use crate::resource::iptables::extensions::takes_free_text;
use std::borrow::Cow;

/// A rule whose words cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The rule ends inside double quotes.
    #[error("a double quote is never closed")]
    OpenQuote,
    /// The rule ends right after a backslash.
    #[error("the text ends after a backslash")]
    OpenEscape,
}

/// The words of canonical rule text, one after the other, without quotes and escapes. Most words have neither, and
/// are parts of the text itself.
#[derive(Clone, Debug)]
pub struct RuleWords<'a> {
    rest: &'a str,
}

impl<'a> RuleWords<'a> {
    /// Those of a rule.
    pub fn new(rule: &'a str) -> Self {
        Self { rest: rule }
    }

    /// A word of which a part is quoted, and what stands behind it.
    fn quoted(text: &'a str) -> Result<(String, &'a str), TokenError> {
        let mut word = String::new();
        let mut quoted = false;
        let mut chars = text.chars();
        loop {
            let behind = chars.as_str();
            match chars.next() {
                None if quoted => return Err(TokenError::OpenQuote),
                None => return Ok((word, behind)),
                Some('"') => quoted = !quoted,
                Some('\\') if quoted => word.push(chars.next().ok_or(TokenError::OpenEscape)?),
                Some(' ' | '\t') if !quoted => return Ok((word, behind)),
                Some(c) => word.push(c),
            }
        }
    }
}

impl<'a> Iterator for RuleWords<'a> {
    type Item = Result<Cow<'a, str>, TokenError>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.rest.trim_start_matches([' ', '\t']);
        let end = text.bytes().position(|byte| matches!(byte, b' ' | b'\t' | b'"')).unwrap_or(text.len());
        let (word, behind) = text.split_at(end);
        if !behind.starts_with('"') {
            self.rest = behind;
            return (!word.is_empty()).then_some(Ok(Cow::Borrowed(word)));
        }
        let quoted = Self::quoted(text);
        // Behind an error there is nothing to be read.
        self.rest = quoted.as_ref().map_or("", |(_, behind)| behind);
        Some(quoted.map(|(word, _)| Cow::Owned(word)))
    }
}

/// Splits canonical rule text into words, taking quotes and escapes away.
pub fn tokens(rule: &str) -> Result<Vec<Cow<'_, str>>, TokenError> {
    RuleWords::new(rule).collect()
}

/// Writes one word as `iptables-save` does: quoted only when it has to be.
pub fn quote(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !word.is_empty() && word.chars().all(plain) {
        return Cow::Borrowed(word);
    }
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('"');
    for c in word.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    Cow::Owned(quoted)
}

/// Whether the word after this option is its value, whatever it looks like: `--comment -j` is printed without quotes.
pub fn takes_value(option: &str) -> bool {
    matches!(option, "-s" | "-d" | "-i" | "-o" | "-p" | "-m") || takes_free_text(option)
}

/// Where a rule sends the packets that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleJump<'a> {
    /// `-g` instead of `-j`.
    pub goto: bool,
    /// The target or the chain.
    pub target: Cow<'a, str>,
}

/// The target of a canonical rule, `None` if it has none or cannot be read.
pub fn jump(rule: &str) -> Option<RuleJump<'_>> {
    let mut words = RuleWords::new(rule);
    while let Some(Ok(word)) = words.next() {
        match &*word {
            "-j" | "-g" => return Some(RuleJump { goto: word == "-g", target: words.next()?.ok()? }),
            option if takes_value(option) => {
                words.next();
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words() {
        for (rule, expected) in [
            ("", &[] as &[&str]),
            ("-i br0  -j ACCEPT", &["-i", "br0", "-j", "ACCEPT"]),
            (r#"--comment "two words""#, &["--comment", "two words"]),
            (r#"--comment "it\'s""#, &["--comment", "it's"]),
            (r#"--comment "back\\slash $x `y` #h""#, &["--comment", "back\\slash $x `y` #h"]),
            (r#"--log-prefix "foo \"q\" bar ""#, &["--log-prefix", "foo \"q\" bar "]),
            (r#"--comment """#, &["--comment", ""]),
            ("--comment it's", &["--comment", "it's"]),
        ] {
            assert_eq!(tokens(rule).unwrap(), expected, "{rule}");
        }
        assert_eq!(tokens("a \"b"), Err(TokenError::OpenQuote));
        assert_eq!(tokens("a \"b\\"), Err(TokenError::OpenEscape));
    }

    #[test]
    fn the_target_is_not_found_in_a_comment() {
        let of = |rule| jump(rule).map(|jump| (jump.goto, jump.target));
        assert_eq!(of("-m comment --comment -j -j ACCEPT"), Some((false, "ACCEPT".into())));
        assert_eq!(of("-m comment --comment \"-j KVMFW-X\" -g Y"), Some((true, "Y".into())));
        assert_eq!(of("-m comment --comment --comment -j DROP"), Some((false, "DROP".into())));
        assert_eq!(of("-s 10.0.0.1/32"), None);
        assert_eq!(of("-j"), None);
    }

    proptest! {
        #[test]
        fn what_is_quoted_is_read_back(words in proptest::collection::vec(".*", 0..6)) {
            let rule: Vec<_> = words.iter().map(|word| quote(word)).collect();
            let text = rule.join(" ");
            prop_assert_eq!(tokens(&text).unwrap(), words);
        }

        #[test]
        fn never_panics(rule in ".*") {
            let _ = tokens(&rule);
            let _ = jump(&rule);
        }
    }
}
