//! "Own text": what is wanted of a host's rules, in the form that the host's script takes. What it
//! means stands at the top of `src/host/iptables.sh`.

use super::{DeclaredRules, JumpPosition};
use std::fmt::Write as _;

/// The own text of the declared rules of one family; empty when nothing is declared.
pub fn render(rules: &DeclaredRules) -> String {
    let mut text = String::new();
    for (name, table) in &rules.tables {
        if table.chains.is_empty() && table.policies.is_empty() {
            continue;
        }
        let _ = writeln!(text, "*{name}");
        for (chain, (policy, _)) in &table.policies {
            let _ = writeln!(text, ":{chain} {policy}");
        }
        for chain in table.chains.keys() {
            let _ = writeln!(text, ":{chain} -");
        }
        for (chain, declared) in &table.chains {
            if let Some((builtin, hook)) = &declared.jump {
                let place = match hook {
                    JumpPosition::Any => "any",
                    JumpPosition::First => "first",
                    JumpPosition::Last => "last",
                };
                let _ = writeln!(text, "^{builtin} {place} {chain}");
            }
        }
        for (chain, declared) in &table.chains {
            for rule in declared.rules.iter() {
                if let Some(module) = rule.module {
                    let _ = write!(text, "?{module} ");
                }
                let _ = writeln!(text, "-A {chain} {}", rule.text);
            }
        }
        text.push_str("COMMIT\n");
    }
    text
}
