//! `kvmfw status`

use super::{CliResult, Common, Format, HostsArgs, console, exit, load, runtime};
use crate::host;
use crate::host_state::ProbeSections;
use crate::protocol;
use crate::report::{counted, printable};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) hosts: HostsArgs,
}

/// What one host says.
#[derive(Debug, Serialize)]
struct StatusReport {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    generation: Option<String>,
    managed_by: Option<String>,
    open: Option<String>,
    /// What is wrong with the guard of the open transaction.
    guard: Option<String>,
    lock: Option<String>,
    boot_failed: Option<String>,
    /// Rules that the host cannot load yet, and why: `PROGRAM TABLE RULE: REASON`.
    boot_left: Vec<String>,
    /// When rules were put back that other programs had taken away since the boot: `TIME PROGRAM`.
    boot_repaired: Vec<String>,
    /// What is live otherwise than the generation says; not looked at while a transaction is open.
    differs: Vec<String>,
    /// What has rules of ours live, but no record of them.
    unrecorded: Vec<String>,
    /// Files without which the generation does not boot whole, and which are not there; as `differs`.
    boot_missing: Vec<String>,
    /// What the generation that boots has taken over of others, and brings back where it is undone.
    adopted: Vec<Adopted>,
    transactions: Vec<TransactionStatus>,
    /// The last lines of the host's history, the newest last; `kvmfw history` has all.
    history: Vec<String>,
}

/// Rules of others that a generation took over.
#[derive(Debug, Serialize)]
struct Adopted {
    generation: u32,
    rules: usize,
}

/// One transaction, the newest last.
#[derive(Debug, Serialize)]
struct TransactionStatus {
    id: String,
    state: String,
    owner: String,
}

pub(super) fn run(common: &Common) -> CliResult {
    let (_, desired) = load::desired(common)?;
    let hosts = desired.into_iter().map(|d| (d.connection, d.host)).collect();
    let (answers, _) =
        runtime::engine(common, runtime::settings(common, "status"), None, |engine| async move {
            engine
                .request(
                    hosts,
                    |nonce| host::console(nonce, "status", ""),
                    |s| s.get(protocol::END).map(|_| read(s)),
                )
                .await
        })?;
    let mut code = exit::DONE;
    let hosts: Vec<StatusReport> = answers
        .into_iter()
        .map(|(name, answer)| match answer {
            Ok(status) => StatusReport { name, ..status },
            Err(outcome) => {
                code = exit::worse(code, exit::of_outcome(&outcome));
                StatusReport { name, error: outcome.message, ..empty() }
            }
        })
        .collect();
    match common.format {
        Format::Json => {
            let document = serde_json::json!({ "version": crate::report::Document::VERSION, "hosts": hosts });
            console::print(&format!("{}\n", serde_json::to_string_pretty(&document).unwrap_or_default()));
        }
        _ => hosts.iter().for_each(show),
    }
    Ok(code)
}

fn empty() -> StatusReport {
    StatusReport {
        name: String::new(),
        error: None,
        generation: None,
        managed_by: None,
        open: None,
        guard: None,
        lock: None,
        boot_failed: None,
        boot_left: Vec::new(),
        unrecorded: Vec::new(),
        boot_repaired: Vec::new(),
        differs: Vec::new(),
        boot_missing: Vec::new(),
        adopted: Vec::new(),
        transactions: Vec::new(),
        history: Vec::new(),
    }
}

fn read(s: &ProbeSections<'_>) -> StatusReport {
    let text = |key| s.value(protocol::STATUS, key).map(str::to_owned);
    let transactions = s.get(protocol::TRANSACTIONS).unwrap_or("").lines().filter_map(|line| {
        let mut parts = line.split('\t');
        Some(TransactionStatus {
            id: parts.next().filter(|p| !p.is_empty())?.to_owned(),
            state: parts.next()?.to_owned(),
            owner: parts.next()?.to_owned(),
        })
    });
    StatusReport {
        generation: text("generation"),
        managed_by: text("inventory"),
        open: text("open"),
        guard: text("guard"),
        lock: s.get(protocol::LOCK).map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()),
        boot_failed: text("boot_failed"),
        boot_left: s.values(protocol::STATUS, "boot_left").map(|line| line.replace('\t', ": ")).collect(),
        boot_repaired: s.values(protocol::STATUS, "boot_repaired").map(str::to_owned).collect(),
        differs: s.values(protocol::STATUS, "differs").map(str::to_owned).collect(),
        unrecorded: s.values(protocol::STATUS, "unrecorded").map(str::to_owned).collect(),
        boot_missing: s.values(protocol::STATUS, "boot_missing").map(str::to_owned).collect(),
        adopted: s.values(protocol::STATUS, "adopted").filter_map(adopted).collect(),
        transactions: transactions.collect(),
        history: s
            .get(protocol::HISTORY)
            .unwrap_or("")
            .lines()
            .filter(|l| !l.is_empty())
            .map(str::to_owned)
            .collect(),
        ..empty()
    }
}

/// `GENERATION RULES`.
fn adopted(text: &str) -> Option<Adopted> {
    let (generation, rules) = text.split_once(' ')?;
    Some(Adopted { generation: generation.parse().ok()?, rules: rules.parse().ok()? })
}

/// How often rules were put back since the boot, a line for each program.
fn repairs(all: &[String]) -> String {
    let mut programs: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for (time, program) in all.iter().filter_map(|line| line.split_once(' ')) {
        let (count, last) = programs.entry(program).or_default();
        *count += 1;
        *last = time;
    }
    let line = |(program, (count, last)): (&str, (usize, &str))| {
        let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
        format!(
            "  REPAIRED {} {times} since the boot, last at {}: another program took the rules away\n",
            printable(program),
            printable(last)
        )
    };
    programs.into_iter().map(line).collect()
}

fn show(host: &StatusReport) {
    let mut text = format!("{}: ", host.name);
    if let Some(error) = &host.error {
        text.push_str(&format!("NO ANSWER {}", printable(error)));
    } else if let Some(generation) = &host.generation {
        let which = format!(
            "generation {} (inventory {})",
            printable(generation),
            printable(host.managed_by.as_deref().unwrap_or("?"))
        );
        if host.open.is_some() {
            text.push_str(&format!("{which}: used at boot; a transaction is open"));
        } else {
            let boots = host.boot_missing.is_empty();
            text.push_str(&match (host.differs.is_empty(), boots) {
                (true, true) => format!("{which}: active, used at boot"),
                (true, false) => format!("{which}: active, but NOT COMPLETE AT BOOT"),
                (false, boots) => format!(
                    "{which}: {}; the live state of {} differs; run kvmfw plan",
                    if boots { "used at boot" } else { "NOT COMPLETE AT BOOT" },
                    printable(&host.differs.join(", "))
                ),
            });
        }
    } else if host.open.is_some() {
        text.push_str("not managed, also at boot; a transaction is open");
    } else if host.unrecorded.is_empty() {
        text.push_str("not managed");
    } else {
        text.push_str(&format!(
            "NO RECORD, but {} has live rules of kvmfw; run kvmfw plan",
            printable(&host.unrecorded.join(", "))
        ));
    }
    text.push('\n');
    for path in &host.boot_missing {
        text.push_str(&format!("  MISSING {}; run kvmfw plan\n", printable(path)));
    }
    for Adopted { generation, rules } in &host.adopted {
        let rules = counted(*rules, "rule");
        text.push_str(&format!("  {rules} adopted by generation {generation}\n"));
    }
    if let Some(open) = &host.open {
        let state = host.transactions.iter().find(|t| t.id == *open).map_or("?", |t| &t.state);
        text.push_str(&format!("  OPEN transaction {}: {}\n", printable(open), printable(state)));
    }
    if let Some(guard) = &host.guard {
        text.push_str(&format!("  GUARD {}\n", printable(guard)));
    }
    if let Some(lock) = &host.lock {
        text.push_str(&format!("  locked by {}\n", printable(lock)));
    }
    if let Some(failed) = &host.boot_failed {
        text.push_str(&format!("  BOOT FAILED {}\n", printable(failed)));
    }
    for left in &host.boot_left {
        text.push_str(&format!("  NOT LOADED {}\n", printable(left)));
    }
    text.push_str(&repairs(&host.boot_repaired));
    for t in &host.transactions {
        text.push_str(&format!(
            "  {}  {}  by {}\n",
            printable(&t.id),
            printable(&t.state),
            printable(&t.owner)
        ));
    }
    // What is over and has left its folder, or was done at the console, is known by the history only.
    let shown = |line: &String| host.transactions.iter().any(|t| line.contains(&format!("\t{}\t", t.id)));
    for line in host.history.iter().filter(|line| !shown(line)) {
        let words: Vec<String> = line.split('\t').map(printable).collect();
        if let [when, generation, run, outcome, owner, ..] = &words[..] {
            text.push_str(&format!("  {when}  generation {generation}  {run}  {outcome}  by {owner}\n"));
        }
    }
    console::print(&text);
}
