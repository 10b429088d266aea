//! What can be known for sure to be wrong with a rule before any host is asked.

use super::extensions::find_target;
use super::loaded::{ExtensionProblem, LoadedExtensions};
use super::options::OptionParser;
use super::text::RuleWord;
use super::{DeclaredRule, IpFamily};
use crate::problem::{Place, Problem};

/// Where a rule stands.
#[derive(Clone, Copy, Debug)]
pub struct RuleContext<'a> {
    /// iptables or ip6tables.
    pub family: IpFamily,
    /// The table.
    pub table: &'a str,
    /// The chain as the user names it.
    pub chain: &'a str,
    /// Whether that is a built-in one.
    pub builtin: bool,
}

/// A rule that was checked, cut where a chain name may have to be made ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRule {
    /// The text up to the target; all of it if there is no target.
    pub before: String,
    /// The target or chain as the user names it, and where.
    pub target: Option<(String, Place)>,
    /// Whether the target is one of iptables, not a chain.
    pub extension: bool,
    /// The text after the target.
    pub after: String,
    /// Where the rule starts.
    pub place: Place,
    /// The module that loading it pulls in.
    pub module: Option<&'static str>,
    /// What is wrong with the rule unless an extension is declared.
    pub undeclared: Vec<ExtensionProblem>,
}

impl CheckedRule {
    /// The rule with its target spelled as it is on the host.
    pub fn rule(&self, target: &str) -> DeclaredRule {
        let mut text = String::with_capacity(self.before.len() + target.len() + self.after.len());
        text.push_str(&self.before);
        if self.target.is_some() {
            text.push_str(target);
        }
        text.push_str(&self.after);
        DeclaredRule { text, origin: self.place.origin(), module: self.module }
    }

    /// The target's name, empty if there is none.
    pub fn target(&self) -> &str {
        self.target.as_ref().map_or("", |(name, _)| name)
    }
}

/// Checks a rule. A word with params left in it is taken as right.
///
/// Returns `None` if there was a problem. Problems that a declared extension takes away are in the result.
pub fn check(
    words: &[RuleWord],
    context: RuleContext<'_>,
    problems: &mut Vec<Problem>,
) -> Option<CheckedRule> {
    let first = words.first()?;
    let before = problems.len();
    let mut parser = OptionParser {
        words,
        at: 0,
        context,
        before,
        problems,
        out: Vec::new(),
        target: None,
        loaded: LoadedExtensions::new(context.family),
        undeclared: Vec::new(),
        asked: Vec::new(),
    };
    parser.run();
    let OptionParser { out, target, loaded, undeclared, .. } = parser;
    if problems.len() > before {
        return None;
    }
    let join = |words: &[RuleWord]| words.iter().map(|w| w.raw.as_str()).collect::<Vec<_>>().join(" ");
    let module = loaded.names.iter().any(|m| m == "physdev").then_some("br_netfilter");
    let length: usize = out.iter().map(|w| w.raw.len() + 1).sum();
    if length > 8000 {
        problems.push(Problem::new("bad-rule", "is too long for one rule").at_place(&first.place));
        return None;
    }
    Some(match target {
        None => CheckedRule {
            before: join(&out),
            target: None,
            extension: false,
            after: String::new(),
            place: first.place.clone(),
            module,
            undeclared,
        },
        Some(at) => {
            let mut before = join(&out[..at]);
            let mut after = join(&out[at + 1..]);
            before.push(' ');
            if !after.is_empty() {
                after.insert(0, ' ');
            }
            let target = Some((out[at].value.clone(), out[at].place.clone()));
            let extension = find_target(&out[at].value).is_some();
            let place = first.place.clone();
            CheckedRule { before, target, extension, after, place, module, undeclared }
        }
    })
}
