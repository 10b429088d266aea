//! Lint levels as they are written: `lints:` of an inventory, group or host, and `# kvmfw: allow(CODE)` of a rule.

use super::reader::{InventoryReader, Spanned};
use crate::problem::{LintCode, LintLevel, Origin, Place, Problem, did_you_mean};
use crate::resource::iptables::text::{self, RuleTemplate};
use crate::yaml::Node;

/// A level that is stated for a lint.
#[derive(Clone, Debug)]
pub struct LintStatement {
    /// The lint.
    pub code: Spanned<LintCode>,
    /// The level.
    pub level: LintLevel,
}

/// Reads `lints: { CODE: LEVEL }`.
pub(super) fn lints(node: &Node, reader: &mut InventoryReader<'_>) -> Vec<LintStatement> {
    let mut statements = Vec::new();
    for pair in reader.map(node, "lint levels by code") {
        let code = match LintCode::parse(&pair.key) {
            Some(code) => Some(code),
            None => {
                reader.problems.push(unknown(&pair.key, &pair.key_place));
                None
            }
        };
        let Some(word) = reader.line(&pair.value, "`allow`, `warn` or `deny`").map(str::to_owned) else {
            continue;
        };
        let level = LintLevel::ALL.into_iter().find(|level| level.as_str() == word);
        if level.is_none() {
            let message = format!("`{}` is not a lint level", word.escape_debug());
            reader.wrong_help(
                "bad-lint-level",
                &pair.value.place,
                message,
                "write `allow`, `warn` or `deny`",
            );
        }
        if let (Some(code), Some(level)) = (code, level) {
            statements.push(LintStatement { code: Spanned::new(code, &pair.key_place), level });
        }
    }
    statements
}

fn unknown(code: &str, place: &Place) -> Problem {
    let mut problem =
        Problem::new("unknown-lint", format!("unknown lint `{}`", code.escape_debug())).at_place(place);
    problem.help = did_you_mean(code, LintCode::ALL.iter().map(|lint| lint.as_str()))
        .or_else(|| Some("the lints are listed in the book, page lints".to_owned()));
    problem
}

/// The comment of a line of rules that speaks to kvmfw, with the column where it starts.
fn annotation(line: &str) -> Option<(usize, &str)> {
    let at = line.find("# kvmfw:")?;
    let before = &line[..at];
    let is_comment = before.trim().is_empty() || before.ends_with("  ") || before.ends_with('\t');
    let in_quotes = before.matches('"').count() % 2 == 1;
    (is_comment && !in_quotes).then(|| (before.chars().count(), line[at + "# kvmfw:".len()..].trim()))
}

/// The warnings that comments allow: `# kvmfw: allow(CODE, …) why`, behind a rule or on the line above it.
pub(super) fn allowed_rules(
    block: &str,
    at: &Place,
    rules: &[RuleTemplate],
    problems: &mut Vec<Problem>,
) -> Vec<(Origin, LintCode)> {
    let mut allowed = Vec::new();
    for line in text::lines(block, at) {
        let Some((column, words)) = annotation(line.text) else { continue };
        let start = column as u32;
        let place = Place {
            column: line.place.column + start,
            length: line.place.length.saturating_sub(start).max(1),
            ..line.place.clone()
        };
        let Some((codes, _)) = words.strip_prefix("allow(").and_then(|rest| rest.split_once(')')) else {
            let problem =
                Problem::new("bad-annotation", format!("`{}` is not an annotation", words.escape_debug()));
            problems.push(problem.at_place(&place).help("write `# kvmfw: allow(CODE) why`"));
            continue;
        };
        let on_its_own = line.text.trim_start().starts_with('#');
        let rule = match on_its_own {
            true => rules.iter().find(|rule| rule.place.line > line.place.line),
            false => rules.iter().rev().find(|rule| rule.place.line <= line.place.line),
        };
        for code in codes.split(',').map(str::trim) {
            match (LintCode::parse(code), rule) {
                (Some(code), Some(rule)) => allowed.push((rule.place.origin(), code)),
                (Some(code), None) => {
                    let message = format!("no rule follows that could cause `{code}`");
                    problems.push(Problem::new("bad-annotation", message).at_place(&place));
                }
                (None, _) => problems.push(unknown(code, &place)),
            }
        }
    }
    allowed
}
