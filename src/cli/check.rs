//! `kvmfw check`

use super::lint_args::LintArgs;
use super::{CliError, CliResult, Common, Format, HostsArgs, console, exit, load};
use crate::inventory::{self, Project};
use crate::plan::module_test;
use crate::problem::Problem;
use crate::resolve::Desired;
use crate::{explain, plan, report, resolve};
use clap::Args;
use rayon::prelude::*;
use std::io::IsTerminal;

/// Flags of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) hosts: HostsArgs,
    #[command(flatten)]
    lints: LintArgs,
}

pub(super) fn run(common: &Common, args: &CheckArgs) -> CliResult {
    if let Some(program) = &common.inventory_program {
        return Err(CliError::bad_input(format!(
            "--inventory-program {}: check runs no programs",
            program.display()
        ))
        .hint("save the output of the program to a file and pass it with -i"));
    }
    let project = load::project(common)?;
    let names = load::selected(common, &project)?;
    let mut desired =
        resolve::compile(&project, &names).map_err(|p| CliError::problems(p, &project.sources))?;
    args.lints.apply(&mut desired)?;
    let tests = module_tests(&project)?;
    let mut warnings: Vec<_> = desired.iter().flat_map(plan::check).collect();
    warnings.sort();
    warnings.dedup();
    let denied = denied(&desired);
    if !denied.is_empty() {
        return Err(CliError::problems(denied, &project.sources));
    }
    match common.format {
        Format::Json => {
            let list: Vec<_> = warnings
                .iter()
                .map(|w| {
                    serde_json::json!({"code": w.code.as_str(), "message": w.message, "origin": w.origin.as_ref().map(ToString::to_string)})
                })
                .collect();
            let document = serde_json::json!({
                "version": crate::report::Document::VERSION, "errors": [], "warnings": list, "hosts": desired.len(), "tests": tests,
            });
            console::print(&format!("{}\n", serde_json::to_string_pretty(&document).unwrap_or_default()));
        }
        _ => {
            let style = console::style(common, std::io::stdout().is_terminal());
            console::print(&report::warnings_text(&warnings, style));
            console::print(&format!("{}: {}, no errors.\n", project.name, report::hosts(desired.len())));
            if tests > 0 {
                console::print(&format!("{tests} module tests passed.\n"));
            }
        }
    }
    Ok(exit::DONE)
}

/// What hosts deny, and expectations that declared rules break; each once.
fn denied(desired: &[Desired]) -> Vec<Problem> {
    let of_host = |desired: &Desired| -> Vec<Problem> {
        let broken = explain::broken_offline(desired).into_iter().map(|(expectation, detail)| {
            let message = format!("the expectation `{expectation}` does not hold: {detail}");
            let place = &expectation.origin;
            Problem::new("expectation", message)
                .at(&place.file, place.line, 1, 1)
                .help("correct the rules, or the expectation")
        });
        let warnings = plan::check(desired);
        let denied = desired.lints.denied(&warnings).into_iter().map(|warning| {
            let problem = Problem::new(warning.code.as_str(), warning.message.finding.clone());
            let problem = match &warning.origin {
                Some(origin) => problem.at(&origin.file, origin.line, 1, 1),
                None => problem,
            };
            let fix = warning.message.fix.clone();
            problem.help(fix.unwrap_or_else(|| format!("correct it, or do not deny `{}`", warning.code)))
        });
        broken.chain(denied).collect()
    };
    inventory::sorted(desired.iter().flat_map(of_host).collect())
}

/// Runs the tests of the project's modules; gives back how many passed.
fn module_tests(project: &Project) -> Result<usize, CliError> {
    let (tests, sources) = inventory::module_tests(project).map_err(CliError::from)?;
    let wrong: Vec<_> = tests.par_iter().flat_map_iter(|test| module_test(project, test)).collect();
    if wrong.is_empty() {
        return Ok(tests.len());
    }
    let sources = project.sources.clone().into_iter().chain(sources).collect();
    Err(CliError::problems(wrong, &sources))
}
