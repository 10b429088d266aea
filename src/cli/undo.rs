//! `kvmfw undo`: an apply of an older generation, guarded like any other.

use super::apply::{ApplyRequest, RolloutArgs, carry_out};
use super::{CliResult, Common, load, runs, runtime};
use crate::engine::{Budget, HostOutcome, HostStatus};
use crate::host;
use crate::plan::{AcceptableRisk, GenerationManifest, PlanOptions, RestoreTarget};
use crate::protocol;
use clap::Args;
use std::collections::BTreeSet;

/// Arguments of `undo`.
#[derive(Debug, Args)]
pub(super) struct UndoArgs {
    /// The run to undo
    #[arg(required_unless_present_any = ["to", "last"], conflicts_with_all = ["to", "last"])]
    run: Option<String>,
    /// The generation to return to; 0 is the baseline and removes all traces of kvmfw
    #[arg(long, value_name = "N")]
    to: Option<u32>,
    /// Return each host to the generation before its current one
    #[arg(long, conflicts_with = "to")]
    last: bool,
    #[command(flatten)]
    rollout: RolloutArgs,
}

/// Which generation a host goes to, and what that wants.
#[derive(Clone, Debug)]
enum Target {
    /// It has no such generation, or none that can be read.
    Unknown(String),
    /// The run was never committed there; whether it was there at all, and the runs that were.
    Strange {
        tried: bool,
        runs: Vec<String>,
    },
    /// The run is open there.
    Open,
    Original,
    Generation(u32, Box<GenerationManifest>),
}

pub(super) fn run(common: &Common, args: &UndoArgs) -> CliResult {
    let name = args.run.as_deref().map_or(Ok(String::new()), runs::name)?;
    let to = match args.to {
        _ if args.last => "last".to_owned(),
        to => to.map_or_else(String::new, |n| n.to_string()),
    };
    // Whoever goes back knows that what came later goes away.
    let mut accept = args.rollout.accept.set();
    accept.insert(AcceptableRisk::RemovesAll);
    // What fails on one host must not keep the others in a state that is to be left.
    go_back(
        common,
        &args.rollout,
        accept,
        Return { command: "undo", name, to, max_fail: Budget::Percent(100) },
    )
}

/// Where hosts go back to, and how.
pub(super) struct Return {
    /// `undo` or `repair`.
    pub command: &'static str,
    /// The run whose predecessor is meant; empty without one.
    pub name: String,
    /// The generation by number, `last` or `current`; empty with a run.
    pub to: String,
    /// Where the user did not say it.
    pub max_fail: Budget,
}

/// Returns hosts to an older generation, or to their current one.
pub(super) fn go_back(
    common: &Common,
    rollout: &RolloutArgs,
    accept: BTreeSet<AcceptableRisk>,
    back: Return,
) -> CliResult {
    let Return { command, name, to, max_fail } = back;
    let (_, desired) = load::desired(common)?;
    let hosts = desired.iter().map(|d| (d.connection.clone(), d.host.clone())).collect();
    let settings = runtime::settings(common, command);
    let run = name.clone();
    let (asked, _) = runtime::engine(common, settings, None, |engine| async move {
        let document = move |nonce: &host::Nonce| host::target(nonce, &run, &to);
        engine.request(hosts, document, read).await
    })?;
    let options = PlanOptions { accept, all_flows: common.verbose > 0, ..PlanOptions::default() };
    let near =
        nobody_knows(&asked).then(|| runs::near(common, &name, asked.iter().flat_map(known))).flatten();
    let somebody = !nobody_knows(&asked);
    let mut hosts = Vec::new();
    let mut left = Vec::new();
    for (desired, (host, target)) in desired.into_iter().zip(asked) {
        match target {
            Ok(Target::Original) => {
                let options =
                    PlanOptions { purge: true, restore: Some(RestoreTarget::default()), ..options.clone() };
                hosts.push((GenerationManifest::default().restore(&desired), options));
            }
            Ok(Target::Generation(generation, record)) => {
                let (adopted, files) = (record.adopted.clone(), record.adopted_files.clone());
                let back = Some(RestoreTarget { generation, adopted, files });
                hosts.push((record.restore(&desired), PlanOptions { restore: back, ..options.clone() }));
            }
            Ok(Target::Open) => left.push(
                HostOutcome::new(&host, HostStatus::Refused)
                    .reason("locked")
                    .message("the run is not decided on this host: its guard commits or rolls back")
                    .hint(format!(
                        "to roll back at once, run kvmfw unlock {host}; to see its state, run kvmfw \
                        status"
                    )),
            ),
            Ok(Target::Strange { tried: true, .. }) => {
                let message = "the run was not committed on this host; nothing to undo";
                left.push(HostOutcome::new(host, HostStatus::Unchanged).message(message));
            }
            Ok(Target::Strange { .. }) if somebody => {
                let message = "no record of the run on this host; nothing to undo";
                left.push(HostOutcome::new(host, HostStatus::Unchanged).message(message));
            }
            Ok(Target::Strange { .. }) => {
                let outcome = refused(host, "run");
                left.push(match &near {
                    Some(near) => outcome.hint(near),
                    None => outcome,
                });
            }
            Ok(Target::Unknown(what)) if command == "repair" && what == "generation" => {
                let message = "nothing was ever applied to this host; nothing to repair";
                left.push(HostOutcome::new(host, HostStatus::Unchanged).message(message));
            }
            Ok(Target::Unknown(what)) => left.push(refused(host, &what)),
            Err(outcome) => left.push(outcome),
        }
    }
    let todo = ApplyRequest { hosts, saved: None, left, max_fail, local: None };
    carry_out(common, rollout, command, todo)
}

fn refused(host: String, what: &str) -> HostOutcome {
    HostOutcome::new(host, HostStatus::Refused)
        .reason("nothing-to-undo")
        .message(format!("the host has no such {what}; nothing to undo"))
}

/// What the hosts said.
type Answers = [(String, Result<Target, HostOutcome>)];

/// Whether the run is one that no host that answered has seen: more likely a slip than a run.
fn nobody_knows(answers: &Answers) -> bool {
    let strange = |(_, answer): &_| matches!(answer, Err(_) | Ok(Target::Strange { tried: false, .. }));
    answers.iter().all(strange)
}

/// The runs that a host knows instead.
fn known((_, answer): &(String, Result<Target, HostOutcome>)) -> Vec<String> {
    match answer {
        Ok(Target::Strange { runs, .. }) => runs.clone(),
        _ => Vec::new(),
    }
}

fn read(s: &crate::host_state::ProbeSections<'_>) -> Option<Target> {
    s.get(protocol::END)?;
    if s.value(protocol::TARGET, "unknown") == Some("run") {
        if s.value(protocol::TARGET, "open").is_some() {
            return Some(Target::Open);
        }
        let runs = s.values(protocol::TARGET, "run").map(str::to_owned).collect();
        return Some(Target::Strange { tried: s.value(protocol::TARGET, "tried").is_some(), runs });
    }
    if let Some(what) = s.value(protocol::TARGET, "unknown") {
        return Some(Target::Unknown(what.to_owned()));
    }
    let to: u32 = s.value(protocol::TARGET, "to")?.parse().ok()?;
    if to == 0 {
        return Some(Target::Original);
    }
    match GenerationManifest::parse(s.get(protocol::RECORD)?.trim()) {
        Ok(record) => Some(Target::Generation(to, Box::new(record))),
        Err(error) => Some(Target::Unknown(format!("generation that can be read ({error})"))),
    }
}
