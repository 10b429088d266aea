//! `kvmfw inventory`

use super::{CliError, CliResult, Common, Format, console, exit, load};
use crate::report::{Fact, facts_text};
use crate::resolve;
use clap::{Args, Subcommand};
use std::io::IsTerminal;

/// Arguments of `inventory`.
#[derive(Debug, Args)]
pub(super) struct InventoryArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the selected hosts with their groups
    List,
    /// Show every resolved value of a host with its source
    Show {
        /// The host
        host: String,
    },
}

pub(super) fn run(common: &Common, args: &InventoryArgs) -> CliResult {
    let project = load::project(common)?;
    match &args.what {
        What::List => {
            let names = load::selected(common, &project)?;
            let hosts: Vec<_> = project.hosts.iter().filter(|h| names.contains(&h.name)).collect();
            let groups = |h: &crate::inventory::Host| -> Vec<String> {
                h.lineage.iter().map(|(_, g)| g.name.clone()).collect()
            };
            if common.format == Format::Json {
                let list: Vec<_> =
                    hosts.iter().map(|h| serde_json::json!({"name": h.name, "groups": groups(h)})).collect();
                let document = serde_json::json!({"version": crate::report::Document::VERSION, "inventory": project.name, "hosts": list});
                console::print(&format!("{}\n", serde_json::to_string_pretty(&document).unwrap_or_default()));
            } else {
                for host in hosts {
                    console::print(&format!("{}  {}\n", host.name, groups(host).join(" ")));
                }
            }
        }
        What::Show { host } => {
            let name = crate::inventory::select(&project, host)
                .map_err(|p| CliError::problems(vec![p], &project.sources))?;
            resolve::compile(&project, &name).map_err(|p| CliError::problems(p, &project.sources))?;
            for name in name {
                let facts = resolve::explain_host(&project, &name);
                if common.format == Format::Json {
                    let list: Vec<_> = facts
                        .iter()
                        .map(|f| serde_json::json!({"path": f.0, "value": f.1, "origin": f.2.to_string()}))
                        .collect();
                    let document = serde_json::json!({"version": crate::report::Document::VERSION, "host": name, "values": list});
                    console::print(&format!(
                        "{}\n",
                        serde_json::to_string_pretty(&document).unwrap_or_default()
                    ));
                } else {
                    let facts: Vec<Fact> = facts
                        .into_iter()
                        .map(|(path, value, origin)| (path, value, origin.to_string()))
                        .collect();
                    let style = console::style(common, std::io::stdout().is_terminal());
                    console::print(&facts_text(&facts, style));
                }
            }
        }
    }
    Ok(exit::DONE)
}
