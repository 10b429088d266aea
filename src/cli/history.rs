//! `kvmfw history`: what came of every transaction of a host, and what each generation changed.

use super::output::DiffArgs;
use super::{CliResult, Common, Format, console, exit, load, runs, runtime};
use crate::host;
use crate::host_state::ProbeSections;
use crate::plan::{AdoptionDelta, GenerationManifest};
use crate::protocol;
use crate::report::{ChangeEntry, ImpactEntry, counted, excerpt, impact_lines, printable};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Arguments of `history`.
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Host; a selection as with --limit
    host: String,
    #[command(flatten)]
    diffs: DiffArgs,
}

/// What one host says.
#[derive(Debug, Serialize)]
struct HostHistory {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The generation that boots.
    generation: Option<u32>,
    /// The oldest first.
    history: Vec<Entry>,
}

/// One transaction that was armed, or an undo at the console.
#[derive(Clone, Debug, Serialize)]
struct Entry {
    when: String,
    /// The generation that it made, or went to at the console.
    generation: Option<u32>,
    run: String,
    /// `committed`, `rolled-back`, `released`, `undo`.
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    owner: String,
    /// The hash of the plan, as in the JSON of `plan` and `apply`.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<String>,
    /// What it changed; absent where a record is not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<ChangeEntry>>,
    /// What packets gained and lost by it; absent where the run is not recorded on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    impact: Option<Vec<ImpactEntry>>,
    /// What it took over of others; `changes` has it by chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    adopted: Option<AdoptionDelta>,
    /// What it gave back to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    given_back: Option<AdoptionDelta>,
}

pub(super) fn run(common: &Common, args: &HistoryArgs) -> CliResult {
    let hosts = load::named(common, &args.host)?;
    let (answers, _) =
        runtime::engine(common, runtime::settings(common, "history"), None, |engine| async move {
            engine.request(hosts, host::history, |s| s.get(protocol::END).map(|_| read(s))).await
        })?;
    let mut code = exit::DONE;
    let mut hosts: Vec<HostHistory> = answers
        .into_iter()
        .map(|(name, answer)| match answer {
            Ok(history) => HostHistory { name, ..history },
            Err(outcome) => {
                code = exit::worse(code, exit::of_outcome(&outcome));
                HostHistory { name, error: outcome.message, generation: None, history: Vec::new() }
            }
        })
        .collect();
    add_impact(common, &mut hosts);
    match common.format {
        Format::Json => {
            let document = serde_json::json!({ "version": crate::report::Document::VERSION, "hosts": hosts });
            console::print(&format!("{}\n", serde_json::to_string_pretty(&document).unwrap_or_default()));
        }
        _ => hosts.iter().for_each(|host| console::print(&text(host, args.diffs.full))),
    }
    Ok(code)
}

/// Adds what packets gained and lost by runs that are recorded on this machine. The hosts do not record it.
fn add_impact(common: &Common, hosts: &mut [HostHistory]) {
    let mut recorded: BTreeMap<String, BTreeMap<String, Vec<ImpactEntry>>> = BTreeMap::new();
    for HostHistory { name, history, .. } in hosts {
        for entry in history.iter_mut().filter(|entry| entry.outcome == "committed") {
            // The name comes from a host and becomes a path.
            if !runs::is_name(&entry.run) {
                continue;
            }
            let of_run = recorded.entry(entry.run.clone()).or_insert_with(|| {
                let document = runs::load(&runs::folder(common, &entry.run));
                let hosts = document.map(|document| document.hosts).unwrap_or_default();
                hosts.into_iter().map(|host| (host.name, host.impact)).collect()
            });
            entry.impact = of_run.get(name).cloned();
        }
    }
}

fn read(s: &ProbeSections<'_>) -> HostHistory {
    let records: BTreeMap<u32, GenerationManifest> = s
        .numbered(protocol::RECORD)
        .filter_map(|(number, text)| Some((number, GenerationManifest::parse(text.trim()).ok()?)))
        .collect();
    let mut history: Vec<Entry> = s.get(protocol::HISTORY).unwrap_or("").lines().filter_map(entry).collect();
    // The state before the first entry is the original only if that entry made the first generation.
    let mut before =
        history.first().filter(|e| e.generation == Some(1)).map(|_| GenerationManifest::default());
    for entry in history.iter_mut().filter(|e| matches!(e.outcome.as_str(), "committed" | "undo")) {
        let now = entry.generation.and_then(|n| records.get(&n)).cloned();
        if let (Some(before), Some(now)) = (&before, &now) {
            entry.changes = Some(now.changes_since(before).iter().map(ChangeEntry::of).collect());
            entry.adopted = now.adopted_since(before);
            entry.given_back = before.adopted_since(now);
        }
        before = now;
    }
    let generation = s.get(protocol::CURRENT).and_then(|c| c.trim().parse().ok());
    HostHistory { name: String::new(), error: None, generation, history }
}

/// A line of the host's history: when, generation, run, outcome, who, plan.
fn entry(line: &str) -> Option<Entry> {
    let mut parts = line.split('\t');
    let mut part = || parts.next().filter(|p| !p.is_empty()).map(str::to_owned);
    let when = part()?;
    let generation = part()?.parse().ok();
    let run = part()?;
    let outcome = part()?;
    let (outcome, reason) = match outcome.split_once(": ") {
        Some((outcome, reason)) => (outcome.to_owned(), Some(reason.to_owned())),
        None => (outcome, None),
    };
    Some(Entry {
        when,
        generation,
        run,
        outcome,
        reason,
        owner: part().unwrap_or_default(),
        plan: part(),
        changes: None,
        impact: None,
        adopted: None,
        given_back: None,
    })
}

fn text(host: &HostHistory, full: bool) -> String {
    let mut text = match (&host.error, host.generation) {
        (Some(error), _) => format!("{}: NO ANSWER {}\n", host.name, printable(error)),
        (None, Some(generation)) => format!("{}: generation {generation} is used at boot\n", host.name),
        (None, None) => format!("{}: not managed\n", host.name),
    };
    for entry in &host.history {
        let generation = match entry.generation {
            Some(n) if entry.outcome == "committed" => format!("generation {n}"),
            Some(n) if entry.outcome == "undo" => format!("back at generation {n}"),
            _ => entry.outcome.replace('-', " "),
        };
        let _ = write!(
            text,
            "\n{generation}  {}  by {}  run {}",
            printable(&entry.when),
            printable(&entry.owner),
            printable(&entry.run)
        );
        if let Some(plan) = &entry.plan {
            let _ = write!(text, "  plan {}", printable(plan));
        }
        text.push('\n');
        if let Some(reason) = &entry.reason {
            let _ = writeln!(text, "  {}", printable(reason));
        }
        for (verb, took) in [("adopted", &entry.adopted), ("returned", &entry.given_back)] {
            if let Some(took) = took {
                let _ = writeln!(text, "  {verb} {}", printable(&words(took)));
            }
        }
        for change in entry.changes.iter().flatten() {
            let _ = writeln!(text, "  {} {}", change.kind.as_str(), printable(&change.resource));
            for line in excerpt(change.lines(), full) {
                let _ = writeln!(text, "    {} {}", line.sign, printable(&line.text));
            }
        }
        for (n, line) in impact_lines(entry.impact.as_deref().unwrap_or_default()).iter().enumerate() {
            let _ = writeln!(text, "{}    {line}", if n == 0 { "  impact\n" } else { "" });
        }
        // A record that is kept and has no changes is that of an apply to a host that had drifted.
        if entry.changes.as_ref().is_some_and(Vec::is_empty) {
            text.push_str("  as before; drift was repaired\n");
        }
        let decided = matches!(entry.outcome.as_str(), "committed" | "undo");
        if decided && entry.changes.is_none() {
            text.push_str("  (the record of its changes is gone)\n");
        }
    }
    let committed = host.history.iter().filter(|entry| entry.outcome == "committed");
    let unknown = committed.filter(|entry| entry.impact.is_none()).count();
    if unknown > 0 {
        let runs = counted(unknown, "run");
        let _ = writeln!(text, "\nThe impact of {runs} is not recorded on this machine.");
    }
    text
}

/// `7 rules and 1 chain of others, loaded at boot by /etc/iptables/rules.v4; the file 60-arp of sysctl.d`.
fn words(took: &AdoptionDelta) -> String {
    let count = |n: usize, one: &str| (n > 0).then(|| counted(n, one));
    let rules = [count(took.rules, "rule"), count(took.chains, "chain")].into_iter().flatten();
    let mut rules = rules.collect::<Vec<_>>().join(" and ");
    if !rules.is_empty() && !took.from.is_empty() {
        let from: Vec<&str> = took.from.iter().map(String::as_str).collect();
        let _ = write!(rules, ", loaded at boot by {}", from.join(", "));
    }
    let files = (!took.files.is_empty()).then(|| {
        let noun = if took.files.len() == 1 { "the file" } else { "the files" };
        format!("{noun} {} of sysctl.d", took.files.join(", "))
    });
    [Some(rules).filter(|rules| !rules.is_empty()), files]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ")
}
