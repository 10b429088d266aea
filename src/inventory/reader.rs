//! Reading typed values out of a YAML tree, collecting every problem instead of stopping at the first.

use crate::characters;
use crate::problem::{LintCode, Origin, Place, Problem, did_you_mean};
use crate::yaml::{Node, Pair, Style, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No list is longer; what people write by hand is far below.
pub const MAX_ITEMS: usize = 10_000;

/// Collects problems while a file is read.
pub struct InventoryReader<'a> {
    /// What is wrong so far.
    pub problems: Vec<Problem>,
    /// The text of the file, for the fixes that quote it.
    pub text: &'a str,
    /// Whether there is a `$` in the file at all.
    pub dollars: bool,
    /// The folder of the file: relative paths in it start here.
    pub folder: &'a Path,
    /// What `~/` stands for.
    pub home: Option<&'a Path>,
    /// Sets whose entries are the value of a param, which is put in before they are read.
    pub sets_of_params: Vec<String>,
    /// Rules of the text just read that a comment allows to cause a warning.
    pub allowed_rules: Vec<(Origin, LintCode)>,
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

impl<T> Spanned<T> {
    /// A value at a place.
    pub fn new(value: T, place: &Place) -> Self {
        Self { value, place: place.clone() }
    }
}

/// What a node is, for messages.
pub fn describe(node: &Node) -> String {
    match &node.value {
        Value::Null => "nothing".into(),
        Value::Bool(v) => format!("`{v}`"),
        Value::Int(v) => format!("the number `{v}`"),
        Value::Float(v) => format!("the number `{v}`"),
        Value::Str(v) if v.lines().count() > 1 => "a text of several lines".into(),
        Value::Str(v) => format!("`{}`", v.trim_end().chars().take(80).collect::<String>()),
        Value::Seq(_) => "a list".into(),
        Value::Map(_) => "a map".into(),
        Value::Open(name) => format!("`${name}`"),
    }
}

impl<'a> InventoryReader<'a> {
    /// A reader of one file.
    pub fn new(text: &'a str, folder: &'a Path, home: Option<&'a Path>) -> Self {
        Self {
            problems: Vec::new(),
            text,
            dollars: text.contains('$'),
            folder,
            home,
            sets_of_params: Vec::new(),
            allowed_rules: Vec::new(),
        }
    }

    /// Adds a problem at a place.
    pub fn wrong(&mut self, code: &'static str, place: &Place, message: impl Into<String>) {
        self.problems.push(Problem::new(code, message).at_place(place));
    }

    /// Adds a problem with the next step.
    pub fn wrong_help(
        &mut self,
        code: &'static str,
        place: &Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.problems.push(Problem::new(code, message).at_place(place).help(help));
    }

    /// Adds the problem that a node is not of the type that it should be.
    pub fn expected(&mut self, node: &Node, what: &str) {
        if !matches!(node.value, Value::Open(_)) {
            self.wrong("wrong-type", &node.place, format!("expected {what}, found {}", describe(node)));
        }
    }

    /// The entries of a map; nothing is an empty map.
    pub fn map<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Pair] {
        match &node.value {
            Value::Map(pairs) => pairs,
            Value::Null => &[],
            Value::Seq(items) => {
                let message = format!("expected {what}, found a list");
                let names: Vec<_> = items
                    .iter()
                    .map_while(|item| match &item.value {
                        Value::Str(name) if !name.contains(['\n', ' ', ':']) => {
                            Some(format!("{name}: {{ … }}"))
                        }
                        _ => None,
                    })
                    .collect();
                match names.first() {
                    Some(first) if names.len() == items.len() => {
                        self.wrong_help(
                            "wrong-type",
                            &node.place,
                            message,
                            format!("write a map: `{first}`"),
                        );
                    }
                    _ => self.wrong("wrong-type", &node.place, message),
                }
                &[]
            }
            Value::Str(text) if node.style == Style::Plain && text.contains(':') => {
                let message = format!("expected {what}, found {}", describe(node));
                self.wrong_help("wrong-type", &node.place, message, "put a space after `:`");
                &[]
            }
            _ => {
                self.expected(node, what);
                &[]
            }
        }
    }

    /// The entries of a map that has no more than [`MAX_ITEMS`].
    pub fn short_map<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Pair] {
        let pairs = self.map(node, what);
        if pairs.len() > MAX_ITEMS {
            self.wrong(
                "too-large",
                &node.place,
                format!("has {} entries, more than {MAX_ITEMS}", pairs.len()),
            );
            return &[];
        }
        pairs
    }

    /// The entries of a map all of whose keys are known.
    pub fn fields<'n>(&mut self, node: &'n Node, what: &str, known: &[&str]) -> &'n [Pair] {
        self.fields_in_words(node, what, known, &[])
    }

    /// The same where other programs have other words for a key.
    pub fn fields_in_words<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        known: &[&str],
        words: &[(&str, &str)],
    ) -> &'n [Pair] {
        let pairs = self.map(node, what);
        for pair in pairs {
            if !known.contains(&pair.key.as_str()) {
                let mut problem =
                    Problem::new("unknown-key", format!("unknown key `{}` in {what}", pair.key))
                        .at_place(&pair.key_place);
                let plain = pair.key.replace('-', "_").to_ascii_lowercase();
                let meant = words.iter().find(|(word, _)| *word == plain).map(|(_, meant)| *meant);
                let meant = meant.or_else(|| known.iter().copied().find(|key| *key == plain));
                problem.help = meant
                    .map(|meant| format!("write `{meant}`"))
                    .or_else(|| did_you_mean(&pair.key, known.iter().copied()));
                self.problems.push(problem);
            }
        }
        pairs
    }

    /// The items of a list; nothing is an empty list.
    pub fn list<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        self.list_up_to(node, what, MAX_ITEMS)
    }

    /// The items of a list that has no more than `most`.
    pub fn list_up_to<'n>(&mut self, node: &'n Node, what: &str, most: usize) -> &'n [Node] {
        match &node.value {
            Value::Seq(items) if items.len() > most => {
                self.wrong(
                    "too-large",
                    &node.place,
                    format!("{what} has {} items, more than {most}", items.len()),
                );
                &[]
            }
            Value::Seq(items) => items,
            Value::Null => &[],
            Value::Int(one) => {
                let message = format!("expected {what}, found {}", describe(node));
                self.wrong_help("wrong-type", &node.place, message, format!("write `[{one}]`"));
                &[]
            }
            Value::Str(one) if node.style == Style::Plain => {
                let message = format!("expected {what}, found `{one}`");
                self.wrong_help("wrong-type", &node.place, message, format!("write `[{one}]`"));
                &[]
            }
            _ => {
                self.expected(node, what);
                &[]
            }
        }
    }

    /// Text of one line, without characters that cannot be seen.
    pub fn line<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        let Value::Str(text) = &node.value else {
            self.expected(node, what);
            return None;
        };
        self.clean(text, &node.place, what).then_some(text)
    }

    /// Whether a text is one line without control characters and look-alikes.
    pub fn clean(&mut self, text: &str, place: &Place, what: &str) -> bool {
        if text.contains('\n') {
            self.wrong("newline", place, format!("{what} has a line break"));
            return false;
        }
        if text.is_empty() {
            self.wrong("wrong-type", place, format!("{what} is empty"));
            return false;
        }
        let odd = text.chars().find(|c| c.is_control() || characters::lookalike(*c).is_some());
        if let Some(odd) = odd {
            let message = format!("{what} contains the character {}", characters::describe(odd));
            let mut problem = Problem::new("typography", message).at_place(place);
            if characters::lookalike(odd).is_some() {
                problem.help = Some(format!("write `{}`", characters::plain(text).trim()));
            }
            self.problems.push(problem);
        }
        odd.is_none()
    }

    /// A name made of the given characters, which does not start with a dash.
    pub fn word<'n>(&mut self, node: &'n Node, what: &str, extra: &str) -> Option<&'n str> {
        let text = self.line(node, what)?;
        self.is_word(text, &node.place, what, extra).then_some(text)
    }

    /// Whether a text is a name made of letters, digits and the given characters.
    pub fn is_word(&mut self, text: &str, place: &Place, what: &str, extra: &str) -> bool {
        if text.starts_with('-') {
            self.wrong(
                "injection",
                place,
                format!("`{text}` starts with a dash: it would be taken as an option"),
            );
            return false;
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !extra.contains(*c)) {
            let shown = if bad == ' ' { "a space".into() } else { characters::describe(bad) };
            self.wrong("bad-name", place, format!("{what} `{}` has {shown}", text.escape_debug()));
            return false;
        }
        true
    }

    /// `true` or `false`.
    pub fn bool(&mut self, node: &Node) -> Option<bool> {
        match &node.value {
            Value::Bool(v) => Some(*v),
            Value::Str(text) => {
                let meant = match text.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "y" | "enabled" | "true" => Some(true),
                    "no" | "off" | "n" | "disabled" | "false" => Some(false),
                    _ => None,
                };
                let message = format!("expected `true` or `false`, found the text `{}`", text.escape_debug());
                match meant {
                    Some(meant) => self.wrong_help(
                        "wrong-type",
                        &node.place,
                        message,
                        format!("write `{meant}` without quotes"),
                    ),
                    None => self.wrong("wrong-type", &node.place, message),
                }
                None
            }
            Value::Int(number @ (0 | 1)) => {
                let message = format!("expected `true` or `false`, found the number `{number}`");
                self.wrong_help("wrong-type", &node.place, message, format!("write `{}`", *number == 1));
                None
            }
            _ => {
                self.expected(node, "`true` or `false`");
                None
            }
        }
    }

    /// A number between two bounds.
    pub fn int(&mut self, node: &Node, what: &str, low: i128, high: i128) -> Option<i128> {
        match &node.value {
            Value::Int(v) if (low..=high).contains(v) => Some(*v),
            Value::Int(v) => {
                self.wrong(
                    "out-of-range",
                    &node.place,
                    format!("{what} `{v}` is not between {low} and {high}"),
                );
                None
            }
            Value::Str(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '_') => {
                let plain = text.replace('_', "");
                let plain = plain.trim_start_matches('0');
                let message = format!("expected a number as {what}, found the text `{text}`");
                let help = format!("write `{}` without quotes", if plain.is_empty() { "0" } else { plain });
                self.wrong_help("wrong-type", &node.place, message, help);
                None
            }
            _ => {
                self.expected(node, &format!("a number as {what}"));
                None
            }
        }
    }

    /// A duration like `5s` between a second and ten minutes.
    pub fn duration(&mut self, node: &Node, what: &str) -> Option<Duration> {
        let text = match &node.value {
            Value::Int(number) => {
                let message = format!("expected a duration as {what}, found the number `{number}`");
                self.wrong_help("wrong-type", &node.place, message, format!("write `{number}s`"));
                return None;
            }
            _ => self.line(node, what)?,
        };
        match humantime::parse_duration(text) {
            Ok(duration) if (1..=600).contains(&duration.as_secs()) => Some(duration),
            Ok(_) => {
                self.wrong("out-of-range", &node.place, format!("{what} `{text}` is not between 1s and 10m"));
                None
            }
            Err(_) => {
                let message = format!("`{text}` is not a valid duration");
                self.wrong_help("wrong-type", &node.place, message, "write it as `5s` or `1m`");
                None
            }
        }
    }

    /// A path; `~/` is the home folder, a relative one starts at the file's folder.
    pub fn path(&mut self, node: &Node, what: &str) -> Option<PathBuf> {
        let text = self.line(node, what)?;
        if text.starts_with('-') {
            self.wrong("injection", &node.place, format!("{what} `{text}` starts with a dash"));
            return None;
        }
        // ssh itself would expand these.
        if text.contains(['%', '$', '"']) {
            self.wrong("injection", &node.place, format!("{what} `{text}` has a character that ssh expands"));
            return None;
        }
        if let Some(rest) = text.strip_prefix("~/") {
            return match self.home {
                Some(home) => Some(home.join(rest)),
                None => {
                    self.wrong("no-home", &node.place, format!("{what} `{text}`: HOME is not set"));
                    None
                }
            };
        }
        if text.starts_with('~') {
            let message = format!("{what} `{text}` is in another user's home folder");
            self.wrong_help("bad-path", &node.place, message, "write `~/…` or an absolute path");
            return None;
        }
        let joined = self.folder.join(text);
        // `./x` and `x` are one file.
        Some(joined.components().collect())
    }

    /// Names in a list.
    pub fn names(&mut self, node: &Node, what: &str, extra: &str) -> Vec<Spanned<String>> {
        let mut names: Vec<Spanned<String>> = Vec::new();
        for item in self.list(node, &format!("a list of {what}s")) {
            let Some(name) = self.word(item, what, extra) else { continue };
            if names.iter().any(|n| n.value == name) {
                self.wrong("duplicate", &item.place, format!("{what} `{name}` is defined twice"));
                continue;
            }
            names.push(Spanned::new(name.to_owned(), &item.place));
        }
        names
    }
}
