//! The text of rules as people write them: lines, comments, quotes and `$params`.
//!
//! Words are split exactly as `iptables-restore` splits them: only double quotes quote, a backslash
//! escapes inside them, and a closing quote ends the word.

use crate::characters::{self, Kind};
use crate::problem::{Place, Problem};

/// One word of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleWord {
    /// What iptables gets.
    pub value: String,
    /// How it is written so that iptables gets it.
    pub raw: String,
    /// Whether it has quotes.
    pub quoted: bool,
    /// The `$params` in it; empty for nearly all words.
    pub pieces: Vec<WordPiece>,
    /// Where it stands.
    pub place: Place,
}

/// A part of a word that has `$params`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WordPiece {
    /// Text.
    Text(String),
    /// The name of a param.
    Param(String),
}

/// A rule whose params are not yet put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTemplate {
    /// Its words, less `-A CHAIN`.
    pub words: Vec<RuleWord>,
    /// Its first line.
    pub place: Place,
}

impl RuleTemplate {
    /// The names of the params in it.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.words.iter().flat_map(|word| &word.pieces).filter_map(|piece| match piece {
            WordPiece::Param(name) => Some(name.as_str()),
            WordPiece::Text(_) => None,
        })
    }
}

/// A line of text with its place in a file.
#[derive(Clone, Debug)]
pub struct TextLine<'a> {
    /// The text.
    pub text: &'a str,
    /// Its first character.
    pub place: Place,
}

/// The lines of a block whose first line stands at a place.
pub fn lines<'a>(block: &'a str, at: &Place) -> Vec<TextLine<'a>> {
    block
        .split('\n')
        .zip(at.line..)
        .map(|(text, line)| TextLine {
            text: text.strip_suffix('\r').unwrap_or(text),
            place: Place { line, length: text.chars().count().max(1) as u32, ..at.clone() },
        })
        .collect()
}

/// Reads a block of rules; comments and blank lines are gone, continued lines are one rule.
pub fn templates(block: &str, at: &Place, problems: &mut Vec<Problem>) -> Vec<RuleTemplate> {
    let mut rules = Vec::new();
    let mut words: Vec<RuleWord> = Vec::new();
    for line in lines(block, at) {
        let blank = line.text.trim().is_empty() || line.text.trim_start().starts_with('#');
        if blank && words.is_empty() {
            continue;
        }
        let (text, goes_on) = match line.text.strip_suffix('\\') {
            Some(text) if !blank => (text, true),
            _ => (line.text, false),
        };
        match split(&TextLine { text, place: line.place.clone() }) {
            Ok(more) => words.extend(more),
            Err(problem) => problems.push(problem),
        }
        if !goes_on {
            push(&mut rules, &mut words);
        }
    }
    push(&mut rules, &mut words);
    rules
}

fn push(rules: &mut Vec<RuleTemplate>, words: &mut Vec<RuleWord>) {
    if let Some(first) = words.first() {
        let place = first.place.clone();
        rules.push(RuleTemplate { words: std::mem::take(words), place });
    }
}

/// Splits one line into words, less its comment.
///
/// Errors: an unbalanced quote, a look-alike character, a stray `$` or `\`.
pub fn split(line: &TextLine<'_>) -> Result<Vec<RuleWord>, Problem> {
    if let Some(problem) = odd_character(line) {
        return Err(problem);
    }
    let mut words = Vec::new();
    let mut word: Option<WordBuilder> = None;
    let (mut in_quotes, mut escaped, mut spaces) = (false, false, 2);
    let chars: Vec<char> = line.text.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        if in_quotes {
            let building = word.get_or_insert_with(|| WordBuilder::new(at));
            building.raw.push(c);
            if escaped {
                building.text.push(c);
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == '"' {
                in_quotes = false;
                finish(&mut words, &mut word, line, at + 1);
                spaces = 0;
            } else if c == '$' {
                at += building.dollar(&chars, at).map_err(|message| dollar(line, at, message))?;
            } else {
                building.text.push(c);
            }
            at += 1;
            continue;
        }
        match c {
            ' ' | '\t' => {
                finish(&mut words, &mut word, line, at);
                spaces += if c == '\t' { 2 } else { 1 };
            }
            '#' if word.is_none() && spaces >= 2 => break,
            '#' if word.is_none() => {
                let text = line.text.trim_end();
                let cut: String = chars[..at].iter().collect();
                let comment: String = text.chars().skip(at).collect();
                return Err(Problem::new("bad-rule", "a comment starts after two spaces")
                    .at_place(&part(line, at, 1))
                    .help(format!("write `{}  {comment}`", cut.trim_end())));
            }
            '"' => {
                let building = word.get_or_insert_with(|| WordBuilder::new(at));
                building.raw.push(c);
                building.quoted = true;
                in_quotes = true;
                spaces = 0;
            }
            '$' => {
                let building = word.get_or_insert_with(|| WordBuilder::new(at));
                building.raw.push('$');
                at += building.dollar(&chars, at).map_err(|message| dollar(line, at, message))?;
                spaces = 0;
            }
            _ => {
                let building = word.get_or_insert_with(|| WordBuilder::new(at));
                building.raw.push(c);
                building.text.push(c);
                spaces = 0;
            }
        }
        at += 1;
    }
    if in_quotes {
        let start = word.map_or(0, |w| w.start);
        return Err(Problem::new("bad-rule", "a quote `\"` is opened and not closed")
            .at_place(&part(line, start, chars.len() - start))
            .help("a rule is one line; `\\\"` is a quote inside quotes"));
    }
    finish(&mut words, &mut word, line, chars.len());
    Ok(words)
}

/// A word that is being read.
struct WordBuilder {
    start: usize,
    text: String,
    raw: String,
    pieces: Vec<WordPiece>,
    quoted: bool,
}

impl WordBuilder {
    fn new(start: usize) -> Self {
        Self { start, text: String::new(), raw: String::new(), pieces: Vec::new(), quoted: false }
    }

    /// Reads what follows a `$`; how many characters that is.
    fn dollar(&mut self, chars: &[char], at: usize) -> Result<usize, String> {
        let rest = &chars[at + 1..];
        if rest.first() == Some(&'$') {
            self.text.push('$');
            return Ok(1);
        }
        let name: String = match rest.first() {
            Some(c) if c.is_ascii_alphabetic() || *c == '_' => {
                rest.iter().take_while(|c| c.is_ascii_alphanumeric() || **c == '_').collect()
            }
            _ => return Err("a `$` is followed by the name of a param".into()),
        };
        if !self.text.is_empty() {
            self.pieces.push(WordPiece::Text(std::mem::take(&mut self.text)));
        }
        let length = name.len();
        self.raw.push_str(&name);
        self.pieces.push(WordPiece::Param(name));
        Ok(length)
    }
}

fn dollar(line: &TextLine<'_>, at: usize, message: String) -> Problem {
    Problem::new("bad-rule", message).at_place(&part(line, at, 1)).help("write `$$` for a dollar")
}

fn finish(words: &mut Vec<RuleWord>, word: &mut Option<WordBuilder>, line: &TextLine<'_>, end: usize) {
    let Some(mut built) = word.take() else { return };
    let place = part(line, built.start, end - built.start);
    if built.pieces.is_empty() {
        words.push(RuleWord {
            value: built.text,
            raw: built.raw,
            quoted: built.quoted,
            pieces: vec![],
            place,
        });
        return;
    }
    if !built.text.is_empty() {
        built.pieces.push(WordPiece::Text(built.text));
    }
    let value = built
        .pieces
        .iter()
        .map(|piece| match piece {
            WordPiece::Text(text) => text.clone(),
            WordPiece::Param(name) => format!("${name}"),
        })
        .collect();
    words.push(RuleWord { value, raw: built.raw, quoted: built.quoted, pieces: built.pieces, place });
}

/// A part of a line: `length` characters from the one at `start`, counted from 0.
pub fn part(line: &TextLine<'_>, start: usize, length: usize) -> Place {
    Place { column: line.place.column + start as u32, length: length.max(1) as u32, ..line.place.clone() }
}

/// The first character of a line that no rule has, with the corrected line.
pub fn odd_character(line: &TextLine<'_>) -> Option<Problem> {
    if line.text.bytes().all(|b| (b' '..0x7f).contains(&b) || b == b'\t') {
        return None;
    }
    let mut in_quotes = false;
    let mut before = ' ';
    for (at, c) in line.text.chars().enumerate() {
        if c == '#' && !in_quotes && before.is_whitespace() {
            return None;
        }
        if c == '"' && before != '\\' {
            in_quotes = !in_quotes;
        }
        before = c;
        let kind = characters::lookalike(c).map(|(kind, _)| kind);
        let odd = c.is_control() && c != '\t'
            || matches!(kind, Some(Kind::Space | Kind::Invisible))
            || !in_quotes && !c.is_ascii();
        if odd {
            let problem =
                Problem::new("typography", format!("has the character {}", characters::describe(c)))
                    .at_place(&part(line, at, 1));
            return Some(match kind {
                Some(_) => problem.help(format!("write `{}`", characters::plain(line.text.trim()))),
                None => problem.help("only text in double quotes may have other characters than ASCII"),
            });
        }
    }
    None
}

/// Writes a value so that iptables-restore reads it as one word.
pub fn quote(value: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:,+=@%~^!*?<>()[]{}|&;#$".contains(c);
    if !value.is_empty() && value.chars().all(safe) {
        return value.to_owned();
    }
    let mut out = String::from("\"");
    for c in value.chars() {
        if c == '"' || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}
