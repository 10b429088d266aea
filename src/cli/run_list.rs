//! `kvmfw runs`

use super::{CliResult, Common, Format, console, exit, runs};
use crate::report::printable;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;

/// Arguments of `runs`.
#[derive(Debug, Args)]
pub(super) struct RunsArgs {
    /// Show only the newest N runs
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    newest: usize,
}

/// One run that is recorded here.
#[derive(Debug, Serialize)]
struct RunSummary {
    run: String,
    /// `apply`, `undo` or `bootstrap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    /// It has come to its end. Otherwise it goes on, or its controller died.
    ended: bool,
    /// Number of hosts in each status.
    summary: BTreeMap<String, u64>,
}

pub(super) fn run(common: &Common, args: &RunsArgs) -> CliResult {
    let base = runs::base(common.run_dir.as_deref());
    let mut names = runs::names(&base);
    names.retain(|name| runs::is_name(name));
    names.reverse();
    let all = names.len();
    names.truncate(args.newest);
    let list: Vec<RunSummary> = names.into_iter().map(|run| summary(common, run)).collect();
    if common.format == Format::Json {
        let document = serde_json::json!({ "version": crate::report::Document::VERSION, "runs": list });
        console::print(&format!("{}\n", serde_json::to_string_pretty(&document).unwrap_or_default()));
        return Ok(exit::DONE);
    }
    if list.is_empty() {
        console::print(&format!("No runs are recorded in {}.\n", printable(&base.display().to_string())));
        return Ok(exit::DONE);
    }
    let width = list.iter().map(|one| one.run.len()).max().unwrap_or_default();
    for one in &list {
        let command = one.command.as_deref().unwrap_or("-");
        console::print(&printable(&format!("{:width$}  {command:9}  {}", one.run, result(one))));
        console::print("\n");
    }
    if all > list.len() && !common.quiet {
        console::notice(&format!("{} older runs; to show them, use -n {all}", all - list.len()));
    }
    Ok(exit::DONE)
}

/// `2 changed, 1 rolled-back`.
fn result(run: &RunSummary) -> String {
    let counts: Vec<String> = run.summary.iter().map(|(status, count)| format!("{count} {status}")).collect();
    match (run.ended, counts.is_empty()) {
        (false, true) => "not ended".to_owned(),
        (false, false) => format!("not ended; so far {}", counts.join(", ")),
        (true, true) => "no hosts".to_owned(),
        (true, false) => counts.join(", "),
    }
}

fn summary(common: &Common, run: String) -> RunSummary {
    let folder = runs::folder(common, &run);
    let document = runs::load(&folder).ok();
    let counts =
        document.iter().flat_map(|document| &document.summary).filter(|(status, _)| *status != "hosts");
    let counts = counts.filter_map(|(status, count)| Some((status.clone(), count.as_u64()?)));
    RunSummary {
        command: runs::command(&folder),
        ended: runs::has_ended(&folder),
        summary: counts.filter(|(_, count)| *count > 0).collect(),
        run,
    }
}
