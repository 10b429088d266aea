//! `kvmfw check`

use super::{CliError, CliResult, Common, Format, console, exit, load};
use crate::inventory::{self, Project};
use crate::plan::module_test;
use crate::{plan, report, resolve};
use rayon::prelude::*;
use std::io::IsTerminal;

pub(super) fn run(common: &Common) -> CliResult {
    if let Some(program) = &common.inventory_program {
        return Err(CliError::bad_input(format!(
            "--inventory-program {}: check runs no programs",
            program.display()
        ))
        .hint("save the output of the program to a file and pass it with -i"));
    }
    let project = load::project(common)?;
    let names = load::selected(common, &project)?;
    let desired = resolve::compile(&project, &names).map_err(|p| CliError::problems(p, &project.sources))?;
    let tests = module_tests(&project)?;
    let mut warnings: Vec<_> = desired.iter().flat_map(plan::check).collect();
    warnings.sort();
    warnings.dedup();
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
