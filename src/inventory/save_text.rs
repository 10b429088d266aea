//! A block of `iptables-save` text, as it comes out of an existing `rules.v4`.

use super::reader::{InventoryReader, Spanned};
use super::rules::{ChainStatement, RuleStatement, check_chain, ready};
use crate::characters;
use crate::problem::{Place, Problem, did_you_mean};
use crate::resource::iptables::chain_writers::reserved_for;
use crate::resource::iptables::text::{RuleTemplate, RuleWord, TextLine, lines, odd_character, split};
use crate::resource::iptables::{
    ChainPolicy, IpFamily, PREFIX, TABLES, builtin_chains, is_administrators, is_builtin,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Reads the rules of all tables; counters, headers and `ACCEPT` policies say nothing.
pub fn chains(
    block: &str,
    at: &Place,
    family: IpFamily,
    params: &[&str],
    reader: &mut InventoryReader<'_>,
) -> Vec<ChainStatement> {
    let mut save = SaveReader {
        family,
        table: None,
        chains: Vec::new(),
        index: HashMap::new(),
        rules: Vec::new(),
        unmanaged: BTreeMap::new(),
    };
    for line in lines(block, at) {
        let text = line.text.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if let Some(problem) = odd_character(&line) {
            reader.problems.push(problem);
            // What a header declares is clear all the same; nothing more is to be said about its chain.
            if text.starts_with(['*', ':']) {
                save.line(&characters::plain(text), &line, reader);
            }
        } else {
            save.line(text, &line, reader);
        }
    }
    for (owner, lines) in std::mem::take(&mut save.unmanaged) {
        let Some(first) = lines.first() else { continue };
        let numbers = ranges(lines.iter().map(|place| place.line));
        let plural = if lines.len() == 1 { "line" } else { "lines" };
        let message = format!("has rules of {owner}, which writes them itself");
        reader.wrong_help("foreign-rules", first, message, format!("delete {plural} {numbers}"));
    }
    save.finish(params, reader)
}

struct SaveReader {
    family: IpFamily,
    table: Option<String>,
    chains: Vec<ChainStatement>,
    /// The place of a chain in `chains`, by table and name.
    index: HashMap<(String, String), usize>,
    /// The rules of the chain of the same place in `chains`.
    rules: Vec<Vec<RuleTemplate>>,
    unmanaged: BTreeMap<&'static str, Vec<Place>>,
}

impl SaveReader {
    fn line(&mut self, text: &str, line: &TextLine<'_>, reader: &mut InventoryReader<'_>) {
        if let Some(table) = text.strip_prefix('*') {
            if builtin_chains(table).is_none() {
                let mut problem =
                    Problem::new("unknown-table", format!("unknown table `{table}`")).at_place(&line.place);
                problem.help = did_you_mean(table, TABLES.map(|(name, _)| name));
                reader.problems.push(problem);
            }
            self.table = Some(table.to_owned());
            return;
        }
        if text == "COMMIT" {
            self.table = None;
            return;
        }
        let Some(table) = self.table.clone() else {
            let help = "iptables-save text starts with `*filter`; rules of one chain go under `filter: { INPUT: { rules: | } }`";
            reader.wrong_help("bad-rule", &line.place, format!("`{text}` stands in no table"), help);
            return;
        };
        if builtin_chains(&table).is_none() {
            return;
        }
        if let Some(header) = text.strip_prefix(':') {
            return self.header(&table, header, line, reader);
        }
        let words = match split(line) {
            Ok(words) => words,
            Err(problem) => return reader.problems.push(problem),
        };
        self.rule(&table, words, line, reader);
    }

    fn header(&mut self, table: &str, header: &str, line: &TextLine<'_>, reader: &mut InventoryReader<'_>) {
        let mut words = header.split_whitespace();
        let name = words.next().unwrap_or_default();
        if !is_administrators(table, name) && self.is_reserved(name, &line.place) {
            return;
        }
        let Some(at) = self.chain(table, name, line, reader) else { return };
        let place = self.chains[at].name.place.clone();
        match words.next() {
            Some("DROP") if is_builtin(table, name) => {
                self.chains[at].policy = Some(Spanned::new(ChainPolicy::Drop, &place));
            }
            Some("ACCEPT") if is_builtin(table, name) => {}
            Some("-") if !is_builtin(table, name) => {}
            other => {
                let other = other.unwrap_or_default();
                reader.wrong(
                    "bad-policy",
                    &line.place,
                    format!(
                        "`{other}` is not a valid policy of chain \
                    `{name}`"
                    ),
                );
            }
        }
    }

    fn rule(
        &mut self,
        table: &str,
        mut words: Vec<RuleWord>,
        line: &TextLine<'_>,
        reader: &mut InventoryReader<'_>,
    ) {
        let counter = |word: &RuleWord| {
            let inner = word.value.strip_prefix('[').and_then(|w| w.strip_suffix(']'));
            inner.is_some_and(|inner| inner.chars().all(|c| c.is_ascii_digit() || c == ':'))
        };
        if words.first().is_some_and(counter) {
            words.remove(0);
        }
        let appends = words.first().is_some_and(|w| w.value == "-A" || w.value == "--append");
        let (true, Some(name)) = (appends, words.get(1)) else {
            let message = format!("`{}` is not a line of iptables-save", line.text.trim());
            reader.wrong_help("bad-rule", &line.place, message, "a rule starts with `-A CHAIN`");
            return;
        };
        let name = name.value.clone();
        let jump = words.iter().skip_while(|w| w.value != "-j" && w.value != "-g").nth(1);
        let target = jump.map(|w| w.value.clone()).unwrap_or_default();
        // Whoever makes a chain of the administrator writes the jumps to it, and only those.
        let administrators = is_administrators(table, &name);
        if !administrators && self.is_reserved(&name, &line.place) || self.is_reserved(&target, &line.place) {
            return;
        }
        let words = words.split_off(2);
        let declared = self.position(table, &name);
        let Some(at) = declared
            .or_else(|| is_builtin(table, &name).then(|| self.chain(table, &name, line, reader)).flatten())
        else {
            if check_chain(table, &name).is_ok() {
                let message = format!("chain `{name}` is not declared in table {table}");
                reader.wrong_help(
                    "unknown-chain",
                    &line.place,
                    message,
                    format!("add the line `:{name} - [0:0]`"),
                );
            }
            return;
        };
        let place = words.first().map_or(line.place.clone(), |word| word.place.clone());
        self.rules[at].push(RuleTemplate { words, place });
    }

    fn is_reserved(&mut self, name: &str, place: &Place) -> bool {
        let owner = if name.starts_with(PREFIX) { Some("kvmfw") } else { reserved_for(name) };
        if let Some(owner) = owner {
            self.unmanaged.entry(owner).or_default().push(place.clone());
        }
        owner.is_some()
    }

    fn position(&self, table: &str, name: &str) -> Option<usize> {
        self.index.get(&(table.to_owned(), name.to_owned())).copied()
    }

    fn chain(
        &mut self,
        table: &str,
        name: &str,
        line: &TextLine<'_>,
        reader: &mut InventoryReader<'_>,
    ) -> Option<usize> {
        if let Some(at) = self.position(table, name) {
            return Some(at);
        }
        if let Err(problem) = check_chain(table, name) {
            reader.problems.push(problem.at_place(&line.place));
            return None;
        }
        self.chains.push(ChainStatement {
            family: self.family,
            table: table.to_owned(),
            name: Spanned::new(name.to_owned(), &line.place),
            policy: None,
            hook: None,
            sections: Default::default(),
        });
        self.rules.push(Vec::new());
        self.index.insert((table.to_owned(), name.to_owned()), self.chains.len() - 1);
        Some(self.chains.len() - 1)
    }

    fn finish(mut self, params: &[&str], reader: &mut InventoryReader<'_>) -> Vec<ChainStatement> {
        for (chain, mut templates) in self.chains.iter_mut().zip(self.rules) {
            // Docker ends DOCKER-USER so; it says nothing there.
            let returns = |last: &RuleTemplate| last.words.iter().map(|w| &*w.value).eq(["-j", "RETURN"]);
            if is_administrators(&chain.table, &chain.name.value) && templates.last().is_some_and(returns) {
                templates.pop();
            }
            let rules: Vec<RuleStatement> = templates
                .into_iter()
                .filter_map(|template| ready(template, chain.context(), params, reader))
                .collect();
            chain.sections[1] = Arc::new(rules);
        }
        // A header alone says that the chain exists, which is true of a built-in one everywhere.
        self.chains.retain(|c| !c.entered() || c.policy.is_some() || !c.sections[1].is_empty());
        self.chains
    }
}

/// `3-5, 9` for the numbers 3, 4, 5 and 9.
fn ranges(numbers: impl Iterator<Item = u32>) -> String {
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match spans.last_mut() {
            Some((_, last)) if number == *last + 1 => *last = number,
            Some((_, last)) if number == *last => {}
            _ => spans.push((number, number)),
        }
    }
    let shown = |(from, to): &(u32, u32)| if from == to { format!("{from}") } else { format!("{from}-{to}") };
    spans.iter().map(shown).collect::<Vec<_>>().join(", ")
}
