//! Params put into rules.

use super::IpFamily;
use super::text::{RuleTemplate, RuleWord, WordPiece, quote};
use crate::problem::{Problem, did_you_mean};
use std::collections::BTreeMap;

/// One value that can be put into a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamElement {
    /// As text.
    pub text: String,
    /// Its address family, where it has one.
    pub family: Option<IpFamily>,
}

/// What a `$name` stands for in a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParamValue {
    /// One value.
    One(ParamElement),
    /// The rule is repeated for each.
    List(Vec<ParamElement>),
}

/// What the `$names` of a source stand for.
pub type ParamScope = BTreeMap<String, ParamValue>;

/// The rules that a template stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct RuleExpansion {
    /// The words of each rule.
    pub rules: Vec<Vec<RuleWord>>,
    /// The list that is empty, so that there is no rule.
    pub empty: Option<String>,
}

/// Puts params into a rule.
///
/// Errors: an unknown name, two different lists, a negated list.
pub fn expand(
    template: &RuleTemplate,
    scope: &ParamScope,
    family: IpFamily,
) -> Result<RuleExpansion, Problem> {
    let mut list: Option<(&str, &[ParamElement])> = None;
    let mut skip = false;
    for (at, word) in template.words.iter().enumerate() {
        for piece in &word.pieces {
            let WordPiece::Param(name) = piece else { continue };
            match scope.get(name) {
                None => return Err(unknown(word, name, scope.keys().map(String::as_str))),
                Some(ParamValue::One(element)) => skip |= element.family.is_some_and(|f| f != family),
                Some(ParamValue::List(elements)) => {
                    if negated(&template.words, at) {
                        return Err(Problem::new("bad-rule", format!("the list `${name}` is negated"))
                            .at_place(&word.place)
                            .help(
                                "one rule per element would match everything; accept the elements first, \
                                then reject the rest",
                            ));
                    }
                    match list {
                        Some((other, _)) if other != name => {
                            return Err(Problem::new(
                                "bad-rule",
                                format!("has two lists, `${other}` and `${name}`"),
                            )
                            .at_place(&word.place)
                            .help("write one rule per element of one of them"));
                        }
                        _ => list = Some((name, elements)),
                    }
                }
            }
        }
    }
    if skip {
        return Ok(RuleExpansion { rules: vec![], empty: None });
    }
    let Some((name, elements)) = list else {
        let words = template.words.iter().map(|word| fill(word, scope, None)).collect();
        return Ok(RuleExpansion { rules: vec![words], empty: None });
    };
    let rules = elements
        .iter()
        .filter(|element| element.family.is_none_or(|f| f == family))
        .map(|element| template.words.iter().map(|word| fill(word, scope, Some(element))).collect())
        .collect();
    Ok(RuleExpansion { rules, empty: elements.is_empty().then(|| name.to_owned()) })
}

/// The problem of a `$name` that stands for nothing.
pub fn unknown<'a>(word: &RuleWord, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Problem {
    let mut problem = Problem::new("unknown-param", format!("unknown param `${name}`")).at_place(&word.place);
    let near = did_you_mean(name, known);
    problem.help = Some(match near {
        Some(near) if near.starts_with("did you mean") => near,
        Some(near) => format!("{near}; write `$$` for a dollar"),
        None => "write `$$` for a dollar".into(),
    });
    problem
}

/// Whether the option that a word belongs to has a `!` before it.
fn negated(words: &[RuleWord], at: usize) -> bool {
    let option =
        words[..=at].iter().rposition(|word| word.value.starts_with('-') && !word.quoted).unwrap_or(at);
    words[..at].iter().enumerate().any(|(i, word)| word.value == "!" && (i + 1 == option || i + 1 == at))
}

fn fill(word: &RuleWord, scope: &ParamScope, element: Option<&ParamElement>) -> RuleWord {
    if word.pieces.is_empty() {
        return word.clone();
    }
    let mut value = String::new();
    for piece in &word.pieces {
        match piece {
            WordPiece::Text(text) => value.push_str(text),
            WordPiece::Param(name) => match scope.get(name) {
                Some(ParamValue::One(one)) => value.push_str(&one.text),
                _ => value.push_str(element.map_or("", |element| &element.text)),
            },
        }
    }
    let raw = quote(&value);
    RuleWord {
        quoted: word.quoted || raw.starts_with('"'),
        raw,
        value,
        pieces: vec![],
        place: word.place.clone(),
    }
}
