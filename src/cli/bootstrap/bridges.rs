//! Which bridges of the host `$bridges` stands for.

use super::BootstrapArgs;
use crate::cli::{CliError, Common, console, prompt};
use crate::host_state::{HostLink, Observed};
use crate::inventory::{HostStanza, Project};
use crate::plan::bridge_maker;
use crate::report::printable;
use std::collections::BTreeSet;

/// The bridges for `$bridges`: those that were named, else those on the host, after a question.
pub(super) fn propose(
    common: &Common,
    args: &BootstrapArgs,
    observed: &Observed,
    stanza: &HostStanza,
    project: &Project,
    before: &BTreeSet<String>,
) -> Result<Vec<String>, CliError> {
    let all: Vec<&HostLink> = observed.links.bridges().collect();
    if let Some(none) = args.bridge.iter().find(|name| !all.iter().any(|link| link.name == **name)) {
        let names: Vec<&str> = all.iter().map(|link| link.name.as_str()).collect();
        return Err(CliError::bad_input(format!(
            "the host has no bridge `{}`; its bridges: {}",
            none.escape_debug(),
            if names.is_empty() { "none".to_owned() } else { printable(&names.join(", ")) }
        )));
    }
    let asks = stanza.modules.iter().any(|m| project.modules.get(m).is_some_and(|m| m.uses_bridges));
    if !asks || !args.bridge.is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<&HostLink> = all
        .into_iter()
        .filter(|link| bridge_maker(&link.name, observed).is_none() && !before.contains(&link.name))
        .collect();
    if found.is_empty() {
        if before.is_empty() {
            return Err(CliError::bad_input("the host has no bridge for $bridges")
                .hint("name one with --bridge, or remove that module"));
        }
        return Ok(Vec::new());
    }
    let shown: Vec<String> = found
        .iter()
        .map(|link| {
            let ports: Vec<&str> = observed.links.ports(&link.name).map(|p| p.name.as_str()).collect();
            printable(&format!("{} ({})", link.name, ports.join(" ")))
        })
        .collect();
    console::notice(&format!(
        "The modules have rules for each of $bridges. Bridges on the host: {}",
        shown.join(", ")
    ));
    prompt::ask(common, "use them for $bridges", "Use them for $bridges?")?;
    Ok(found.into_iter().map(|link| link.name.clone()).collect())
}
