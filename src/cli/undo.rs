//! `kvmfw undo`: an apply of an older generation, guarded like any other.

use super::apply::{RolloutArgs, Work, carry_out};
use super::{Code, Common, runs, setup};
use crate::apply::{Budget, HostOutcome, Status};
use crate::plan::{Acceptable, Back, Options, Record};
use crate::remote;
use clap::Args;

/// Arguments of `undo`.
#[derive(Debug, Args)]
pub(super) struct UndoArgs {
    /// The run to go back to before
    #[arg(required_unless_present = "to", conflicts_with = "to")]
    run: Option<String>,
    /// The generation to go to; 0 is the state before kvmfw, and leaves no trace
    #[arg(long, value_name = "N")]
    to: Option<u32>,
    #[command(flatten)]
    rollout: RolloutArgs,
}

/// Which generation a host goes to, and what that wants.
#[derive(Clone, Debug)]
enum Target {
    Unknown(String),
    Original,
    Generation(u32, Box<Record>),
}

pub(super) fn run(common: &Common, args: &UndoArgs) -> Code {
    let run = args.run.as_deref().map_or(Ok(String::new()), runs::name)?;
    let to = args.to.map_or_else(String::new, |n| n.to_string());
    let (_, desired) = setup::desired(common)?;
    let hosts = desired.iter().map(|d| (d.connection.clone(), d.host.clone())).collect();
    let settings = setup::settings(common, "undo");
    let (asked, _) = setup::engine(common, settings, None, |engine| async move {
        let document = move |nonce: &remote::Nonce| remote::target(nonce, &run, &to);
        engine.ask(hosts, document, read).await
    })?;
    // Whoever goes back knows that what came later goes away.
    let mut accept = args.rollout.accept.set();
    accept.insert(Acceptable::RemovesAll);
    let options = Options { accept, ..Options::default() };
    let mut hosts = Vec::new();
    let mut left = Vec::new();
    for (desired, (host, target)) in desired.into_iter().zip(asked) {
        match target {
            Ok(Target::Original) => {
                let options = Options { zero: true, back: Some(Back::default()), ..options.clone() };
                hosts.push((Record::default().restore(&desired), options));
            }
            Ok(Target::Generation(generation, record)) => {
                let back = Some(Back { generation, adopted: record.adopted.clone() });
                hosts.push((record.restore(&desired), Options { back, ..options.clone() }));
            }
            Ok(Target::Unknown(what)) => left.push(
                HostOutcome::new(host, Status::Refused)
                    .reason("nothing_to_undo")
                    .message(format!("the host knows no such {what}; nothing to undo there")),
            ),
            Err(outcome) => left.push(outcome),
        }
    }
    // What fails on one host must not keep the others in a state that is to be left.
    let todo = Work { hosts, saved: None, left, max_fail: Budget::Percent(100), local: None };
    carry_out(common, &args.rollout, "undo", todo)
}

fn read(s: &crate::observe::Sections<'_>) -> Option<Target> {
    s.get("end")?;
    if let Some(what) = s.value("target", "unknown") {
        return Some(Target::Unknown(what.to_owned()));
    }
    let to: u32 = s.value("target", "to")?.parse().ok()?;
    if to == 0 {
        return Some(Target::Original);
    }
    match Record::parse(s.get("record")?.trim()) {
        Ok(record) => Some(Target::Generation(to, Box::new(record))),
        Err(error) => Some(Target::Unknown(format!("generation that can be read ({error})"))),
    }
}
