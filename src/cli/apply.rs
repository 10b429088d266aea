//! `kvmfw apply`

use super::lint_args::LintArgs;
use super::output::{DiffArgs, Output, Stream};
use super::saved::SavedPlan;
use super::{CliError, CliResult, Common, Format, console, exit, load, prompt, retry, runs, runtime};
use crate::engine::{
    Budget, Engine, EngineSettings, HostOutcome, HostStatus, LoginProof, PlanMode, parse_batches,
};
use crate::plan::{AcceptableRisk, PlanOptions};
use crate::report::{Document, Human, Part, Renderer};
use crate::resolve::Desired;
use crate::ssh::Via;
use clap::Args;
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Flags of `apply`.
#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// Saved plan, which is applied exactly and without a prompt
    file: Option<PathBuf>,
    #[command(flatten)]
    lints: LintArgs,
    #[command(flatten)]
    rollout: RolloutArgs,
    /// Reassign hosts that another inventory manages to this one
    #[arg(long)]
    reassign: bool,
    /// Adopt existing unmanaged rules and files that are equivalent; undo restores them
    #[arg(long)]
    adopt: bool,
    /// Only hosts that failed, rolled back, were skipped, or were left unreachable or unknown in an earlier run
    #[arg(long, value_name = "RUN", conflicts_with = "file")]
    retry: Option<String>,
}

/// Risks that are predicted and do not refuse a host.
#[derive(Clone, Debug, Args)]
pub(super) struct AcceptArgs {
    /// Proceed despite this predicted risk: lockout, guests-unreachable, bypass-wrong, removes-all
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = parse_risk)]
    accept_risk: Vec<AcceptableRisk>,
}

impl AcceptArgs {
    pub(super) fn set(&self) -> BTreeSet<AcceptableRisk> {
        self.accept_risk.iter().copied().collect()
    }
}

fn parse_risk(text: &str) -> Result<AcceptableRisk, String> {
    AcceptableRisk::ALL
        .into_iter()
        .find(|risk| risk.as_str().replace('_', "-") == text.replace('_', "-"))
        .ok_or_else(|| {
            "unknown risk; valid risks: lockout, guests-unreachable, bypass-wrong, removes-all".to_owned()
        })
}

/// How a run goes over the hosts.
#[derive(Clone, Debug, Args)]
pub(super) struct RolloutArgs {
    /// Batch sizes; the last one repeats
    #[arg(long, value_name = "N|P%,…", default_value = "1,10%,100%")]
    batch: String,
    /// Start no further hosts after this many failures [default: 1; an undo continues]
    #[arg(long, value_name = "N|P%")]
    max_fail: Option<Budget>,
    /// Change nothing when more hosts than this are unreachable
    #[arg(long, value_name = "N|P%", default_value = "10%")]
    max_unreachable: Budget,
    /// Time limit for applying the change; then the host rolls back
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    apply_timeout: Duration,
    /// Time limit for the confirm over a new connection; then the host rolls back
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    confirm_timeout: Duration,
    /// Confirm again after this delay before the host commits
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    soak: Duration,
    #[command(flatten)]
    pub(super) accept: AcceptArgs,
    #[command(flatten)]
    pub(super) diffs: DiffArgs,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a valid duration; write it like `60s` or `2m`"))
}

impl RolloutArgs {
    pub(super) fn settings(
        &self,
        common: &Common,
        run: &str,
        max_fail: Budget,
    ) -> Result<EngineSettings, CliError> {
        let batches =
            parse_batches(&self.batch).map_err(|error| CliError::bad_input(format!("--batch: {error}")))?;
        if self.apply_timeout.is_zero() || self.confirm_timeout.is_zero() {
            return Err(CliError::bad_input("--apply-timeout and --confirm-timeout must be longer than 0s"));
        }
        Ok(EngineSettings {
            batches,
            max_fail: self.max_fail.unwrap_or(max_fail),
            max_unreachable: self.max_unreachable,
            apply_timeout: self.apply_timeout,
            confirm_timeout: self.confirm_timeout,
            soak: self.soak,
            ..runtime::settings(common, run)
        })
    }
}

pub(super) fn run(common: &Common, args: &ApplyArgs) -> CliResult {
    let saved = match &args.file {
        Some(path) => {
            if common.limit.is_some()
                || common.shard.is_some()
                || common.inventory.is_some() && std::env::var_os("KVMFW_INVENTORY").is_none()
            {
                return Err(CliError::bad_input(
                    "apply FILE takes no --limit, --shard or --inventory: the hosts are in the plan",
                ));
            }
            Some(SavedPlan::load(path)?)
        }
        None => None,
    };
    let (mut desired, allowed) = match &saved {
        Some(saved) => (saved.desired(common)?, saved.options()),
        None => (load::desired(common)?.1, PlanOptions::default()),
    };
    let of_saved = saved.as_ref().map(|saved| saved.lints.clone()).unwrap_or_default();
    of_saved.and(&args.lints).apply(&mut desired)?;
    let mut accept = args.rollout.accept.set();
    accept.extend(&allowed.accept);
    let reassign = args.reassign || allowed.reassign;
    let options = PlanOptions {
        reassign,
        accept,
        adopt: args.adopt || allowed.adopt,
        all_flows: common.verbose > 0,
        ..allowed
    };
    let (desired, left) = match &args.retry {
        Some(run) => retry::hosts(common, run, desired)?,
        None => (desired, Vec::new()),
    };
    let hosts = desired.into_iter().map(|d| (d, options.clone())).collect();
    let todo = ApplyRequest { hosts, saved, left, max_fail: Budget::Hosts(1), local: None };
    carry_out(common, &args.rollout, "apply", todo)
}

/// What is to be carried out.
pub(super) struct ApplyRequest {
    pub hosts: Vec<(Desired, PlanOptions)>,
    /// The plan that was saved: what comes out otherwise now is left alone.
    pub saved: Option<SavedPlan>,
    /// Hosts that are left out, and why.
    pub left: Vec<HostOutcome>,
    /// Where the user did not say it.
    pub max_fail: Budget,
    /// This machine is the host; what proves that one still gets in.
    pub local: Option<LoginProof>,
}

/// Plans, shows, asks, applies, and shows what came of it.
pub(super) fn carry_out(
    common: &Common,
    rollout: &RolloutArgs,
    command: &'static str,
    todo: ApplyRequest,
) -> CliResult {
    let run = runtime::run_name()?;
    let mut settings = rollout.settings(common, &run, todo.max_fail)?;
    let ApplyRequest { hosts, saved, left, local, .. } = todo;
    let alone = local.is_some();
    if alone {
        settings = EngineSettings { via: Via::Local, proof: local, ..settings };
    }
    let output = Output::begin(common, (command, rollout.diffs), Some(&run))?;
    let stream = output.stream();
    let (outcomes, interrupted) = runtime::engine(common, settings, Some(output.stream()), |engine| {
        work(common, (command, rollout.diffs, &run), engine, &stream, hosts, saved)
    })?;
    let mut outcomes = match outcomes {
        Ok(outcomes) => outcomes,
        Err(error) => {
            drop(stream);
            return Err(output.leave(error));
        }
    };
    outcomes.extend(left);
    let mut document = Document::of_run(&run, &outcomes);
    let idle =
        |o: &HostOutcome| o.plan.is_none() || matches!(o.status, HostStatus::Unchanged | HostStatus::Refused);
    if outcomes.iter().all(idle) {
        // No transaction was opened: there is no run to undo or to look at.
        document.run = None;
    } else {
        document.next = runs::next(command, &document).filter(|_| !alone);
        runs::keep(common, &run, &document);
    }
    stream.rest(&document);
    drop(stream);
    // Hosts that failed or are unknown matter more than that somebody pressed a key.
    let code = exit::of(&document, exit::DONE);
    let worse = [exit::UNKNOWN, exit::FAILED].contains(&code);
    let code = if interrupted && !worse { exit::INTERRUPTED } else { code };
    Ok(output.end(&document, Part::Recap, code))
}

async fn work(
    common: &Common,
    (command, diffs, run): (&str, DiffArgs, &str),
    mut engine: Engine,
    stream: &Stream,
    hosts: Vec<(Desired, PlanOptions)>,
    saved: Option<SavedPlan>,
) -> Result<Vec<HostOutcome>, CliError> {
    let asks = saved.is_none() && !common.yes;
    if let Some(saved) = saved {
        engine.set_plan_check(Arc::new(move |plan| saved.hold(plan)));
    }
    let planned = engine.plan(hosts, if asks { PlanMode::Interactive } else { PlanMode::Unattended }).await;
    let mut document = Document::of_plan(&planned);
    stream.planned(&document);
    if document.count(HostStatus::Changed) > 0 {
        engine.drain_events().await;
        if common.format == Format::Human {
            let style = console::style(common, std::io::stderr().is_terminal());
            console::notice(&Human { style, part: Part::Plan, full: diffs.full }.render(&document));
        }
        if asks {
            let (some, all) = (document.count(HostStatus::Changed), planned.len());
            let question = format!("Apply to {some} of {all} {}?", if all == 1 { "host" } else { "hosts" });
            if let Err(error) = tokio::task::block_in_place(|| prompt::ask(common, command, &question)) {
                engine.close().await;
                return Err(error);
            }
        }
        document.run = Some(run.to_owned());
        stream.keep_in(&runs::begin(common, run, &document));
    }
    Ok(engine.apply(planned).await)
}
