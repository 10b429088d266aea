//! `kvmfw show`

use super::{Code, Common, exit, runs, saved, setup};
use crate::report::{plan_text, recap_text};
use clap::Args;
use std::path::Path;

/// Arguments of `show`.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Saved plans, or the name of a run
    #[arg(required = true, value_name = "FILE|RUN")]
    what: Vec<String>,
}

pub(super) fn run(common: &Common, args: &ShowArgs) -> Code {
    let mut code = exit::DONE;
    for what in &args.what {
        let path = if Path::new(what).exists() {
            Path::new(what).to_owned()
        } else if what.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            runs::folder(common, what).join("result.json")
        } else {
            Path::new(what).to_owned()
        };
        match saved::document(&path) {
            Ok(document) => {
                setup::show(common, &document, |d, style| {
                    if d.run.is_some() {
                        plan_text(d, style) + &recap_text(d, style)
                    } else {
                        plan_text(d, style)
                    }
                });
                if common.detailed_exitcode {
                    code = exit::worse(code, exit::of(&document, exit::CHANGES));
                }
            }
            Err(error) => {
                setup::complain(&format!("{what}: {error} ({})", path.display()));
                return Err(exit::BAD_INPUT);
            }
        }
    }
    Ok(code)
}
