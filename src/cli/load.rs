//! The project, its inventory, and the hosts that the flags select.

use super::{CliError, Common, console, program, shard};
use crate::inventory::{self, HostConnection, Project, ProjectLocation};
use crate::resolve::{self, Desired};
use std::path::PathBuf;

/// Where a project and its inventory are looked for.
pub fn locate(dir: Option<PathBuf>, inventory: Option<String>) -> ProjectLocation {
    ProjectLocation { dir, inventory, home: std::env::var_os("HOME").map(PathBuf::from) }
}

/// The project in a folder, with the inventory that the flags name: a file, a folder, or what a program prints.
///
/// Only `--inventory-program` runs anything. Whether a file of the project may be executed is up to whoever wrote it, and
/// that can be the author of a merge request.
pub fn open(common: &Common, dir: Option<PathBuf>, inventory: Option<String>) -> Result<Project, CliError> {
    let Some(path) = &common.inventory_program else {
        return inventory::load(&locate(dir, inventory)).map_err(CliError::from);
    };
    let text = program::run(path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    inventory::load_text(&locate(dir, None), &name, &text).map_err(CliError::from)
}

/// The project that the flags name.
pub fn project(common: &Common) -> Result<Project, CliError> {
    if common.inventory_program.is_some() && common.inventory.is_some() {
        return Err(CliError::bad_input(
            "--inventory-program and --inventory (or KVMFW_INVENTORY) both name an inventory",
        )
        .hint("give one of them"));
    }
    let project = open(common, common.dir.clone(), common.inventory.clone())?;
    if !common.quiet {
        project.notices.iter().for_each(|n| console::notice(n));
    }
    Ok(project)
}

/// The names of the hosts that are selected, in the order of the inventory.
pub fn selected(common: &Common, project: &Project) -> Result<Vec<String>, CliError> {
    let limit = common.limit.as_deref().unwrap_or("*");
    let mut names =
        inventory::select(project, limit).map_err(|p| CliError::problems(vec![p], &project.sources))?;
    let shard = shard::chosen(common).map_err(CliError::bad_input)?;
    if let Some(shard) = shard.filter(|s| s.count > 1) {
        let all = names.len();
        names.retain(|name| shard.has(name));
        if !common.quiet {
            console::notice(&format!(
                "shard {shard}: {} of {all} hosts; batches and budgets count within the shard",
                names.len()
            ));
        }
    }
    Ok(names)
}

/// The desired state of every selected host. The whole inventory is checked first: an error in
/// another host's part is found now, not when its turn comes.
pub fn desired(common: &Common) -> Result<(Project, Vec<Desired>), CliError> {
    let project = project(common)?;
    let names = selected(common, &project)?;
    let all: Vec<String> = project.hosts.iter().map(|h| h.name.clone()).collect();
    let mut desired =
        resolve::compile(&project, &all).map_err(|p| CliError::problems(p, &project.sources))?;
    let names: std::collections::BTreeSet<&String> = names.iter().collect();
    desired.retain(|d| names.contains(&d.host));
    Ok((project, desired))
}

/// How to reach the hosts that an argument names.
pub fn named(common: &Common, hosts: &str) -> Result<Vec<(HostConnection, String)>, CliError> {
    let project = project(common)?;
    let names =
        inventory::select(&project, hosts).map_err(|p| CliError::problems(vec![p], &project.sources))?;
    let desired = resolve::compile(&project, &names).map_err(|p| CliError::problems(p, &project.sources))?;
    Ok(desired.into_iter().map(|d| (d.connection, d.host)).collect())
}
