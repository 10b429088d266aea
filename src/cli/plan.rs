//! `kvmfw plan`

use super::apply::AcceptArgs;
use super::saved::SavedPlan;
use super::{Code, Common, exit, runs, setup};
use crate::plan::Options;
use crate::report::{Document, plan_text};
use clap::Args;
use std::path::PathBuf;

/// Flags of `plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Save the plan, to be applied exactly
    #[arg(short, long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Plan hosts that another inventory manages
    #[arg(long)]
    take_over: bool,
    #[command(flatten)]
    accept: AcceptArgs,
}

pub(super) fn run(common: &Common, args: &PlanArgs) -> Code {
    let (project, desired) = setup::desired(common)?;
    let options = Options { take_over: args.take_over, accept: args.accept.set(), ..Options::default() };
    let hosts = desired.into_iter().map(|d| (d, options.clone())).collect();
    let settings = setup::settings(common, "plan");
    let (planned, _) =
        setup::engine(common, settings, |mut engine| async move { engine.plan(hosts, false).await })?;
    let document = Document::of_plan(&planned);
    if let Some(path) = &args.out {
        let saved = SavedPlan::of(&project, common, &options, &planned, &document);
        runs::write_private(path, &saved.text()).map_err(|error| {
            setup::complain(&format!("cannot write {}: {error}", path.display()));
            exit::INTERNAL
        })?;
        setup::complain(&format!("Saved to {0}. Run `kvmfw apply {0}`.", path.display()));
    }
    setup::show(common, &document, plan_text);
    Ok(exit::of(&document, if common.detailed_exitcode { exit::CHANGES } else { exit::DONE }))
}
