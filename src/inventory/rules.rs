//! `iptables:` and `ip6tables:` as people write them: tables and chains whose rules are text in blocks.

use super::lints::allowed_rules;
use super::reader::{InventoryReader, Spanned, describe};
use super::save_text;
use crate::problem::{Place, Problem, did_you_mean};
use crate::resource::iptables::chain_writers::reserved_for;
use crate::resource::iptables::expand;
use crate::resource::iptables::extensions::find_target;
use crate::resource::iptables::rule::{self, CheckedRule, RuleContext};
use crate::resource::iptables::text::{self, RuleTemplate, WordPiece};
use crate::resource::iptables::{
    ChainPolicy, IpFamily, JumpPosition, PREFIX, TABLES, builtin_chains, is_administrators, is_builtin,
};
use crate::yaml::{Node, Pair, Style, Value};
use std::sync::Arc;

/// The chain names that are left are 28 less our prefix.
pub(super) const MAX_CHAIN: usize = 22;

/// The keys of a chain.
pub(super) const KEYS: [&str; 5] = ["first", "rules", "last", "policy", "jump"];

/// What one source states about one chain.
#[derive(Clone, Debug)]
pub struct ChainStatement {
    /// iptables or ip6tables.
    pub family: IpFamily,
    /// The table.
    pub table: String,
    /// The chain as the user names it.
    pub name: Spanned<String>,
    /// `policy`.
    pub policy: Option<Spanned<ChainPolicy>>,
    /// `jump`.
    pub hook: Option<Spanned<JumpPosition>>,
    /// `first`, `rules` and `last`.
    pub sections: [Arc<Vec<RuleStatement>>; 3],
}

/// One rule of a source.
#[derive(Clone, Debug)]
pub enum RuleStatement {
    /// Without params, checked.
    Ready(CheckedRule),
    /// With params.
    Template(RuleTemplate),
}

impl ChainStatement {
    fn new(family: IpFamily, table: &str, name: &str, place: &Place) -> Self {
        Self {
            family,
            table: table.to_owned(),
            name: Spanned::new(name.to_owned(), place),
            policy: None,
            hook: None,
            sections: Default::default(),
        }
    }

    /// Whether the chain is a built-in one.
    pub fn builtin(&self) -> bool {
        is_builtin(&self.table, &self.name.value)
    }

    /// Whether one jump rule in the chain of this name enters ours.
    pub fn entered(&self) -> bool {
        self.builtin() || is_administrators(&self.table, &self.name.value)
    }

    /// What rules of this chain are checked against.
    pub fn context(&self) -> RuleContext<'_> {
        RuleContext {
            family: self.family,
            table: &self.table,
            chain: &self.name.value,
            builtin: self.builtin(),
        }
    }
}

/// Reads `iptables:` or `ip6tables:`.
pub fn chains(
    node: &Node,
    family: IpFamily,
    params: &[&str],
    reader: &mut InventoryReader<'_>,
) -> Vec<ChainStatement> {
    if let Value::Str(block) = &node.value {
        if node.style != Style::Literal {
            let message = format!("iptables-save text under `{family}:` has to stand in a block");
            reader.wrong_help(
                "rules-not-a-block",
                &node.place,
                message,
                format!("write `{family}: |` and the text below it"),
            );
            return vec![];
        }
        return save_text::chains(block, &node.place, family, params, reader);
    }
    let mut chains = Vec::new();
    for table in reader.map(node, "tables by name, or a block of iptables-save text") {
        let Some(builtin) = builtin_chains(&table.key) else {
            let tables = TABLES.map(|(name, _)| name);
            let problem = Problem::new("unknown-table", format!("unknown table `{}`", table.key))
                .at_place(&table.key_place);
            reader.problems.push(
                match TABLES.iter().any(|(_, chains)| chains.contains(&table.key.as_str())) {
                    true => problem.help(format!(
                        "the table goes before the chain: `{family}: {{ filter: {{ {}: … }} }}`",
                        table.key
                    )),
                    false => Problem { help: did_you_mean(&table.key, tables), ..problem },
                },
            );
            continue;
        };
        for pair in reader
            .map(&table.value, &format!("chains by name ({}, or a chain of your own)", builtin.join(", ")))
        {
            if let Err(problem) = check_chain(&table.key, &pair.key) {
                reader.problems.push(problem.at_place(&pair.key_place));
                continue;
            }
            chains.push(chain(family, &table.key, pair, params, reader));
        }
    }
    chains
}

/// Why a name cannot be that of a chain in a table.
pub fn check_chain(table: &str, name: &str) -> Result<(), Problem> {
    if is_builtin(table, name) || is_administrators(table, name) {
        return Ok(());
    }
    let bad = |message: String, help: Option<String>| {
        Err(Problem { help, ..Problem::new("bad-chain-name", message) })
    };
    let builtin = builtin_chains(table).unwrap_or_default();
    if let Some(meant) = builtin.iter().find(|chain| chain.eq_ignore_ascii_case(name)) {
        return bad(format!("chain `{name}` is written `{meant}`"), Some(format!("write `{meant}`")));
    }
    if TABLES.iter().any(|(_, chains)| chains.contains(&name)) {
        return bad(
            format!("table {table} has no chain `{name}`"),
            Some(format!("it has {}", builtin.join(", "))),
        );
    }
    if name.starts_with(PREFIX) {
        let plain = name.trim_start_matches(PREFIX);
        return bad(
            format!("chain `{name}` has the prefix that kvmfw adds"),
            Some(format!("write `{plain}`")),
        );
    }
    if let Some(owner) = reserved_for(name) {
        return bad(
            format!("chain `{name}` belongs to {owner}, and kvmfw writes no unmanaged chains"),
            Some(format!(
                "put the rules into a separate chain; to jump to `{name}`, add it to `unmanaged_chains`"
            )),
        );
    }
    if find_target(name).is_some() {
        return bad(format!("chain `{name}` has the name of a target"), None);
    }
    let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
        return bad(
            format!("`{}` is not a valid chain name", name.escape_debug()),
            Some("use letters, digits, `_`, `.` and `-`, starting with a letter or digit".into()),
        );
    }
    if name.len() > MAX_CHAIN {
        return bad(
            format!("chain `{name}` is longer than {MAX_CHAIN} characters"),
            Some(format!("iptables takes 28, and kvmfw adds `{PREFIX}`")),
        );
    }
    Ok(())
}

fn chain(
    family: IpFamily,
    table: &str,
    pair: &Pair,
    params: &[&str],
    reader: &mut InventoryReader<'_>,
) -> ChainStatement {
    let mut chain = ChainStatement::new(family, table, &pair.key, &pair.key_place);
    if !matches!(pair.value.value, Value::Map(_) | Value::Null) {
        let message = format!(
            "expected `first`, `rules` or `last` in chain `{}`, found {}",
            pair.key,
            describe(&pair.value)
        );
        let block = block_form(&pair.value, reader);
        let help = format!("rules are text in a block\n{}:\n  rules: |\n{}", pair.key, indent(&block, 4));
        reader.wrong_help("rules-not-a-block", &pair.value.place, message, help);
        return chain;
    }
    for field in reader.fields(&pair.value, "a chain", &KEYS) {
        let section = match field.key.as_str() {
            "first" => 0,
            "rules" => 1,
            "last" => 2,
            "policy" => {
                chain.policy = policy(field, &chain, reader);
                continue;
            }
            "jump" => {
                chain.hook = hook(field, &chain, reader);
                continue;
            }
            _ => continue,
        };
        chain.sections[section] = Arc::new(section_rules(field, &chain, params, reader));
    }
    chain
}

fn policy(
    field: &Pair,
    chain: &ChainStatement,
    reader: &mut InventoryReader<'_>,
) -> Option<Spanned<ChainPolicy>> {
    let text = reader.line(&field.value, "the policy")?;
    let place = &field.value.place;
    if !chain.builtin() {
        let message = format!("chain `{}` is not built-in, so it has no policy", chain.name.value);
        reader.wrong_help("bad-policy", place, message, format!("end it with `-j {text}`"));
        return None;
    }
    match text {
        "ACCEPT" => Some(Spanned::new(ChainPolicy::Accept, place)),
        "DROP" => Some(Spanned::new(ChainPolicy::Drop, place)),
        _ => {
            let mut problem =
                Problem::new("bad-policy", format!("`{text}` is not a valid policy")).at_place(place);
            problem.help = did_you_mean(text, ["ACCEPT", "DROP"]);
            reader.problems.push(problem);
            None
        }
    }
}

fn hook(
    field: &Pair,
    chain: &ChainStatement,
    reader: &mut InventoryReader<'_>,
) -> Option<Spanned<JumpPosition>> {
    let text = reader.line(&field.value, "the jump")?;
    let place = &field.value.place;
    if !chain.entered() {
        let message = format!("chain `{}` is not built-in, so it has no jump rule", chain.name.value);
        reader.wrong_help("bad-jump", place, message, "it is entered by the rules that jump to it");
        return None;
    }
    match text {
        "first" => Some(Spanned::new(JumpPosition::First, place)),
        "last" => Some(Spanned::new(JumpPosition::Last, place)),
        _ => {
            let help = "write `first` or `last`, or leave it out";
            reader.wrong_help("bad-jump", place, format!("`{text}` is not a place for a jump rule"), help);
            None
        }
    }
}

fn section_rules(
    field: &Pair,
    chain: &ChainStatement,
    params: &[&str],
    reader: &mut InventoryReader<'_>,
) -> Vec<RuleStatement> {
    let node = &field.value;
    match &node.value {
        Value::Null | Value::Open(_) => vec![],
        Value::Str(block) if node.style == Style::Literal => {
            let templates = text::templates(block, &node.place, &mut reader.problems);
            let allowed = allowed_rules(block, &node.place, &templates, &mut reader.problems);
            reader.allowed_rules.extend(allowed);
            templates
                .into_iter()
                .filter_map(|template| ready(template, chain.context(), params, reader))
                .collect()
        }
        _ => {
            let what = match (&node.value, node.style) {
                (Value::Seq(_), _) => "a list",
                (_, Style::Folded) => "a folded block",
                (Value::Str(_), _) => "one line of YAML",
                _ => "no text",
            };
            let message =
                format!("rules are text in a block `|`, this is {what}, in which YAML changes rules");
            let help = format!("write\n{}: |\n{}", field.key, indent(&block_form(node, reader), 2));
            reader.wrong_help("rules-not-a-block", &node.place, message, help);
            vec![]
        }
    }
}

/// Checks a rule as far as it is known without values of params.
pub fn ready(
    template: RuleTemplate,
    context: RuleContext<'_>,
    params: &[&str],
    reader: &mut InventoryReader<'_>,
) -> Option<RuleStatement> {
    let before = reader.problems.len();
    for word in &template.words {
        for piece in &word.pieces {
            if let WordPiece::Param(name) = piece
                && !params.contains(&name.as_str())
            {
                reader.problems.push(expand::unknown(word, name, params.iter().copied()));
            }
        }
    }
    let checked = rule::check(&template.words, context, &mut reader.problems);
    if reader.problems.len() > before {
        return None;
    }
    if template.params().next().is_some() {
        return Some(RuleStatement::Template(template));
    }
    checked.map(RuleStatement::Ready)
}

/// The rules of a node as they stand in the file, before YAML changed them.
fn block_form(node: &Node, reader: &InventoryReader<'_>) -> String {
    // Each looks through the whole file: enough for a person, and not a way to keep kvmfw busy.
    let text = if reader.problems.len() < 100 { reader.text } else { "" };
    let line = |at: u32| text.lines().nth(at as usize - 1).unwrap_or_default();
    match &node.value {
        Value::Seq(items) => {
            let mut lines: Vec<u32> = items.iter().map(|item| item.place.line).collect();
            lines.dedup();
            let rules = lines.iter().map(|at| {
                let source = line(*at).trim();
                let flow = source.find('[').filter(|_| items.iter().any(|i| i.place.line == node.place.line));
                match flow {
                    Some(start) => source[start + 1..].trim_end_matches(']').trim(),
                    None => source.strip_prefix("- ").unwrap_or(source).trim(),
                }
            });
            rules.map(unquoted).collect::<Vec<_>>().join("\n")
        }
        Value::Str(_) if node.style == Style::Folded => {
            let column = node.place.column as usize - 1;
            let lines = text.lines().skip(node.place.line as usize - 1);
            let inside =
                lines.take_while(|l| l.len() > column && l.as_bytes()[..column].iter().all(|b| *b == b' '));
            inside.map(str::trim).collect::<Vec<_>>().join("\n")
        }
        Value::Str(text) if node.style != Style::Plain => text.trim().to_owned(),
        _ => {
            let rest: String = line(node.place.line).chars().skip(node.place.column as usize - 1).collect();
            rest.trim().trim_end_matches('}').trim().to_owned()
        }
    }
}

fn unquoted(rule: &str) -> &str {
    let inner = |quote| rule.strip_prefix(quote).and_then(|r: &str| r.strip_suffix(quote));
    inner('\'').or_else(|| inner('"')).unwrap_or(rule)
}

fn indent(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}", "")).collect::<Vec<_>>().join("\n")
}
