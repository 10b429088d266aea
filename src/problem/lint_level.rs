//! What users decide about lints: levels for a host, and exceptions for single rules.

use super::{LintCode, LintSeverity, Origin, Warning};
use std::collections::{BTreeMap, BTreeSet};

/// What a warning of a lint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LintLevel {
    /// It is not shown.
    Allow,
    /// It is shown.
    Warn,
    /// It is shown, and refuses the host.
    Deny,
}

impl LintLevel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Warn, Self::Deny];

    /// The word in an inventory.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Warn => "warn",
            Self::Deny => "deny",
        }
    }
}

/// The levels that hold for one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LintPolicy {
    /// The level of each lint that has another one than [`LintLevel::Warn`].
    pub levels: BTreeMap<LintCode, LintLevel>,
    /// Rules that are allowed to cause a warning.
    pub allowed_rules: BTreeSet<(Origin, LintCode)>,
    /// Every lint without a level of its own is denied, except those that only inform.
    pub deny_warnings: bool,
}

impl LintPolicy {
    /// What a warning does.
    pub fn level(&self, warning: &Warning) -> LintLevel {
        let origin = warning.origin.as_ref();
        if origin.is_some_and(|at| self.allowed_rules.contains(&(at.clone(), warning.code))) {
            return LintLevel::Allow;
        }
        match self.levels.get(&warning.code) {
            Some(level) => *level,
            None if self.deny_warnings && warning.code.severity() != LintSeverity::Note => LintLevel::Deny,
            None => LintLevel::Warn,
        }
    }

    /// Takes away the warnings that are allowed.
    pub fn drop_allowed(&self, warnings: &mut Vec<Warning>) {
        warnings.retain(|warning| self.level(warning) != LintLevel::Allow);
    }

    /// Those of the warnings that are denied.
    pub fn denied<'w>(&self, warnings: &'w [Warning]) -> Vec<&'w Warning> {
        warnings.iter().filter(|warning| self.level(warning) == LintLevel::Deny).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_decision_about_a_warning_counts() {
        let at = |line| Origin::new("m.yaml", line);
        let warning = |code, line| Warning::new(code, "finding".to_owned(), Some(at(line)));
        let policy = LintPolicy {
            levels: [(LintCode::DeadRule, LintLevel::Deny), (LintCode::Ipv6Missing, LintLevel::Allow)].into(),
            allowed_rules: [(at(3), LintCode::DeadRule)].into(),
            deny_warnings: true,
        };
        for (code, line, level) in [
            (LintCode::DeadRule, 2, LintLevel::Deny),
            (LintCode::DeadRule, 3, LintLevel::Allow),
            (LintCode::Ipv6Missing, 3, LintLevel::Allow),
            (LintCode::PortsClosed, 3, LintLevel::Deny),
            (LintCode::FirstConntrack, 3, LintLevel::Warn),
        ] {
            assert_eq!(policy.level(&warning(code, line)), level, "{code} at line {line}");
        }
        let mut warnings = vec![warning(LintCode::DeadRule, 2), warning(LintCode::DeadRule, 3)];
        policy.drop_allowed(&mut warnings);
        assert_eq!(warnings, [warning(LintCode::DeadRule, 2)]);
        assert_eq!(policy.denied(&warnings).len(), 1);
    }
}
