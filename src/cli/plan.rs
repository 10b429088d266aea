//! `kvmfw plan`

use super::apply::AcceptArgs;
use super::lint_args::LintArgs;
use super::output::{DiffArgs, Output};
use super::saved::SavedPlan;
use super::{CliError, CliResult, Common, HostsArgs, console, exit, load, runtime};
use crate::engine::PlanMode;
use crate::files::{self, Readers};
use crate::plan::PlanOptions;
use crate::report::{Document, Part};
use clap::Args;
use std::path::PathBuf;

/// Flags of `plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) hosts: HostsArgs,
    /// Save the plan for `kvmfw apply FILE`
    #[arg(short, long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also plan hosts that another inventory manages
    #[arg(long)]
    reassign: bool,
    /// Show differences from the last apply instead of planned changes; exit with code 2 if there are any
    #[arg(long, conflicts_with_all = ["out", "reassign", "accept_risk", "adopt"])]
    drift: bool,
    /// Adopt existing unmanaged rules and files that are equivalent
    #[arg(long)]
    adopt: bool,
    #[command(flatten)]
    accept: AcceptArgs,
    #[command(flatten)]
    lints: LintArgs,
    #[command(flatten)]
    diffs: DiffArgs,
}

pub(super) fn run(common: &Common, args: &PlanArgs) -> CliResult {
    let (project, mut desired) = load::desired(common)?;
    args.lints.apply(&mut desired)?;
    let options = PlanOptions {
        reassign: args.reassign,
        accept: args.accept.set(),
        drift: args.drift,
        adopt: args.adopt,
        all_flows: common.verbose > 0,
        ..PlanOptions::default()
    };
    let hosts = desired.into_iter().map(|d| (d, options.clone())).collect();
    let command = if args.drift { "drift" } else { "plan" };
    let output = Output::begin(common, (command, args.diffs), None)?;
    let settings = runtime::settings(common, "plan");
    let (planned, _) = runtime::engine(common, settings, Some(output.stream()), |mut engine| async move {
        engine.plan(hosts, PlanMode::DryRun).await
    })?;
    let document = if args.drift { Document::of_drift(&planned) } else { Document::of_plan(&planned) };
    if let Some(path) = &args.out {
        let saved = SavedPlan::of(&project, common, (&options, &args.lints), &planned, &document);
        files::write(path, Readers::Owner, &saved.text())
            .map_err(|error| CliError::internal(format!("cannot write {}: {error}", path.display())))?;
    }
    output.stream().planned(&document);
    let code =
        exit::of(&document, if common.detailed_exitcode || args.drift { exit::CHANGES } else { exit::DONE });
    let code = output.end(&document, Part::Plan, code);
    if let Some(path) = args.out.as_ref().map(|path| path.display()) {
        console::notice(&format!("Saved to {path}. Run `kvmfw apply {path}`."));
    }
    Ok(code)
}
