//! Reading the output line by line, in one pass.

use super::{ChainPolicy, RuleWords, SaveChain, SaveError, SaveTable, SavedTables};

/// What nft's iptables-save prints, on stdout and with exit code 0, instead of a table that has
/// native rules in it, or before one that has base chains that are none of iptables.
const INCOMPATIBLE: (&str, [&str; 2]) = (
    "# Table `",
    [
        "' is incompatible, use 'nft' tool.",
        "' contains incompatible base-chains, use 'nft' tool to list them.",
    ],
);

pub(super) fn parse(text: &str) -> Result<SavedTables, SaveError> {
    let mut save = SavedTables::default();
    let mut open: Option<(String, SaveTable)> = None;
    let mut last = 0;
    for (index, line) in text.lines().enumerate() {
        last = index + 1;
        step(line, &mut save, &mut open).map_err(|message| SaveError { line: last, message })?;
    }
    match open {
        // A channel that broke must not look like a host with fewer rules.
        Some((table, _)) => Err(SaveError {
            line: last,
            message: format!("the output ends inside table {table}, without COMMIT"),
        }),
        None => Ok(save),
    }
}

fn step(line: &str, save: &mut SavedTables, open: &mut Option<(String, SaveTable)>) -> Result<(), String> {
    let line = line.trim_end_matches([' ', '\t']);
    let (start, ends) = INCOMPATIBLE;
    let named = line.strip_prefix(start).and_then(|rest| ends.iter().find_map(|end| rest.strip_suffix(end)));
    if let Some(table) = named {
        save.incompatible.push(table.to_owned());
        return Ok(());
    }
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    match (line.strip_prefix('*'), open.as_mut()) {
        (Some(name), None) => {
            if name.is_empty() || save.tables.contains_key(name) {
                return Err(format!("table {name:?} stands here twice or has no name"));
            }
            *open = Some((name.to_owned(), SaveTable::default()));
            Ok(())
        }
        (Some(_), Some((table, _))) => Err(format!("a table begins inside table {table}")),
        (None, None) => Err(format!("{} stands outside of any table", shown(line))),
        (None, Some(_)) if line == "COMMIT" => {
            save.tables.extend(open.take());
            Ok(())
        }
        (None, Some((_, table))) => match line.strip_prefix(':') {
            Some(declaration) => declare(declaration, table),
            None => append(line, table),
        },
    }
}

/// `INPUT ACCEPT [0:0]`, where the counters may be missing.
fn declare(text: &str, table: &mut SaveTable) -> Result<(), String> {
    let text = match text.rsplit_once(' ') {
        Some((rest, last)) if last.starts_with('[') => rest,
        _ => text,
    };
    let (name, word) =
        text.split_once(' ').filter(|(name, _)| !name.is_empty()).ok_or("a chain without name or policy")?;
    if table.chain(name).is_some() {
        return Err(format!("chain {name} stands here twice"));
    }
    let (policy, odd_policy) = match word {
        "ACCEPT" => (Some(ChainPolicy::Accept), None),
        "DROP" => (Some(ChainPolicy::Drop), None),
        "-" => (None, None),
        odd => (None, Some(odd.to_owned())),
    };
    table.insert(SaveChain { name: name.to_owned(), policy, odd_policy, rules: Vec::new() });
    Ok(())
}

/// `[0:0] -A INPUT -j ACCEPT`, where the counters may be missing.
fn append(line: &str, table: &mut SaveTable) -> Result<(), String> {
    let rule = match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, rule)) => rule,
        None => line,
    };
    let rest = rule.strip_prefix("-A ").ok_or_else(|| format!("{} is not a rule", shown(line)))?;
    let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let rules =
        table.rules_mut(name).ok_or_else(|| format!("a rule of chain {name}, which is not declared"))?;
    // A comment can hold a newline, and iptables-save prints it as it is: what follows would be
    // read as rules that nobody has.
    if let Some(error) = RuleWords::new(text).find_map(Result::err) {
        return Err(error.to_string());
    }
    rules.push(text.trim_matches([' ', '\t']).to_owned());
    Ok(())
}

/// The beginning of a line, escaped: it came from a host.
fn shown(line: &str) -> String {
    format!("{:?}", line.chars().take(60).collect::<String>())
}
