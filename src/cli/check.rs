//! `kvmfw check`

use super::{Code, Common, Format, exit, setup};
use crate::{desired, plan};

pub(super) fn run(common: &Common) -> Code {
    let project = setup::project(common)?;
    let names = setup::selected(common, &project)?;
    let desired =
        desired::compile(&project, &names).map_err(|p| setup::report(common, &p, &project.sources))?;
    let mut warnings: Vec<_> = desired.iter().flat_map(plan::check).collect();
    warnings.sort();
    warnings.dedup();
    match common.format {
        Format::Json => {
            let list: Vec<_> = warnings
                .iter()
                .map(|w| {
                    serde_json::json!({"code": w.code, "message": w.message, "origin": w.origin.as_ref().map(ToString::to_string)})
                })
                .collect();
            let document = serde_json::json!({
                "version": crate::report::Document::VERSION, "errors": [], "warnings": list, "hosts": desired.len(),
            });
            setup::print(&format!("{}\n", serde_json::to_string_pretty(&document).unwrap_or_default()));
        }
        Format::Human => {
            for warning in &warnings {
                let origin = warning.origin.as_ref().map_or_else(String::new, |o| format!(" ({o})"));
                setup::print(&format!("! {}: {}{origin}\n", warning.code, warning.message));
            }
            setup::print(&format!("{}: {} hosts, no errors.\n", project.name, desired.len()));
        }
    }
    Ok(exit::DONE)
}
