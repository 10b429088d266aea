//! `apply --retry RUN`: the hosts that an earlier run did not bring to its end. From the run's own
//! files where they are; on a runner that has forgotten them, from what the hosts know of the run.

use super::{CliError, Common, console, runs, runtime, shard};
use crate::engine::HostOutcome;
use crate::host;
use crate::host_state::ProbeSections;
use crate::protocol;
use crate::report::fold_names;
use crate::resolve::Desired;
use std::collections::BTreeSet;

/// Those hosts, and those that could not be asked.
type Left = (Vec<Desired>, Vec<HostOutcome>);

pub(super) fn hosts(common: &Common, run: &str, selected: Vec<Desired>) -> Result<Left, CliError> {
    let run = runs::name(run)?;
    let all = selected.len();
    let folder = runs::folder(common, &run);
    let (hosts, left) = if folder.exists() {
        let document = runs::load(&folder)
            .map_err(|error| CliError::bad_input(format!("--retry {run}: {error} ({})", folder.display())))?;
        let names: BTreeSet<&str> =
            document.hosts.iter().filter(|h| runs::is_for_retry(h)).map(|h| h.name.as_str()).collect();
        let hosts: Vec<Desired> = selected.into_iter().filter(|d| names.contains(d.host.as_str())).collect();
        let there: BTreeSet<&str> = hosts.iter().map(|d| d.host.as_str()).collect();
        // Of a run over all, each shard has its part.
        let sharded = matches!(shard::chosen(common), Ok(Some(shard)) if shard.count > 1);
        let away: Vec<&str> = names.difference(&there).filter(|_| !sharded).copied().collect();
        if !away.is_empty() {
            let message = format!(
                "--retry {run}: that run also left {}, which {} not selected here or not in this inventory",
                fold_names(&away),
                if away.len() == 1 { "is" } else { "are" },
            );
            if hosts.is_empty() {
                // Another inventory, or a slip in --limit: to have nothing to do would pass for done.
                return Err(CliError::bad_input(message));
            }
            console::notice(&message);
        }
        (hosts, Vec::new())
    } else {
        ask(common, &run, selected)?
    };
    if !common.quiet {
        console::notice(&format!("retry of {run}: {} of {all} hosts", hosts.len() + left.len()));
    }
    Ok((hosts, left))
}

/// What a host knows of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Knows {
    /// That it was committed.
    Committed,
    /// That it was there, and was not.
    Tried,
    /// Nothing, but of these.
    Others(Vec<String>),
}

/// The hosts that do not know the run, or know it without a commit.
fn ask(common: &Common, run: &str, selected: Vec<Desired>) -> Result<Left, CliError> {
    let hosts = selected.iter().map(|d| (d.connection.clone(), d.host.clone())).collect();
    let name = run.to_owned();
    let (answers, _) =
        runtime::engine(common, runtime::settings(common, "retry"), None, |engine| async move {
            let document = move |nonce: &host::Nonce| host::target(nonce, &name, "");
            engine.request(hosts, document, read).await
        })?;
    if !answers.iter().any(|(_, answer)| matches!(answer, Ok(Knows::Committed | Knows::Tried))) {
        // A slip in the name must not become an apply to everything.
        let others = answers.into_iter().filter_map(|(_, answer)| match answer {
            Ok(Knows::Others(runs)) => Some(runs),
            _ => None,
        });
        let next = runs::near(common, run, others.flatten())
            .unwrap_or_else(|| "if that run reached no host, run kvmfw apply without --retry".to_owned());
        return Err(CliError::bad_input(format!(
            "--retry {run}: no record of such a run here or on a host that answered"
        ))
        .hint(next));
    }
    let (mut again, mut left) = (Vec::new(), Vec::new());
    for (desired, (_, answer)) in selected.into_iter().zip(answers) {
        match answer {
            Ok(Knows::Committed) => {}
            Ok(_) => again.push(desired),
            Err(outcome) => left.push(outcome),
        }
    }
    Ok((again, left))
}

fn read(s: &ProbeSections<'_>) -> Option<Knows> {
    s.get(protocol::END)?;
    Some(match (s.value(protocol::TARGET, "unknown"), s.value(protocol::TARGET, "tried")) {
        (Some("run"), None) => Knows::Others(s.values(protocol::TARGET, "run").map(str::to_owned).collect()),
        (Some("run"), Some(_)) => Knows::Tried,
        _ => Knows::Committed,
    })
}
