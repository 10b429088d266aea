//! `kvmfw import`: a host as it is, as the inventory that says the same.

use super::explain::{ask_about, hosts};
use super::{CliError, CliResult, Common, console, exit, load, reach};
use crate::host_state::Observed;
use crate::import;
use crate::inventory;
use crate::resolve::{self, Desired};
use clap::Args;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Host: a name in the inventory, or USER@HOST for a host outside the inventory
    #[arg(value_name = "HOST")]
    host: String,
    /// Name of USER@HOST in the printed inventory [default: HOST]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    files: reach::Files,
}

pub(super) fn run(common: &Common, args: &ImportArgs) -> CliResult {
    let (hosts, _) = hosts(common, &args.host, &args.files, args.name.as_ref())?;
    let [desired] = hosts.as_slice() else {
        return Err(CliError::bad_input(format!(
            "import takes one host; `{}` names {}",
            args.host.escape_debug(),
            hosts.len()
        )));
    };
    // Which files there are has to be known before their keys can be asked for.
    let first = ask(common, desired, String::new())?;
    let keys = import::keys(&first);
    let observed = if keys.is_empty() { first } else { ask(common, desired, keys)? };
    let yaml = import::yaml(&desired.host, &desired.connection, &observed);
    loads(common, &yaml)?;
    console::print(&yaml);
    Ok(exit::DONE)
}

fn ask(common: &Common, desired: &Desired, keys: String) -> Result<Observed, CliError> {
    let answer = ask_about(common, "import", desired, (Default::default(), keys, String::new()), false)??;
    Ok(answer.0)
}

/// What is printed has to load; where it does not, that is a defect, and is said.
fn loads(common: &Common, yaml: &str) -> Result<(), CliError> {
    let locate = load::locate(common.dir.clone(), None);
    let project = inventory::load_text(&locate, "import", yaml).map_err(CliError::from).and_then(|project| {
        let names: Vec<String> = project.hosts.iter().map(|h| h.name.clone()).collect();
        resolve::compile(&project, &names).map_err(|p| CliError::problems(p, &project.sources))
    });
    project.map(|_| ()).map_err(|error| {
        error.defect(format!(
            "internal error: the printed inventory is not valid, see above; please report it\n{yaml}"
        ))
    })
}
