//! What a shell offers for a word: names of hosts, groups, inventories, modules and runs. Nothing
//! here connects, runs an inventory that is a program, or complains: what cannot be read has no names.

use super::runs;
use crate::inventory::{self, Project, ProjectLocation};
use clap::{Arg, Command};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;

/// The variable by which the shell's function asks.
pub(super) const VARIABLE: &str = "KVMFW_COMPLETE";

/// Answers the shell's function and ends; does nothing when it is not the shell that asks.
pub(super) fn answer(command: impl Fn() -> Command) {
    CompleteEnv::with_factory(|| named(command())).var(VARIABLE).complete();
}

/// Says of every argument that is a name what the names are, in all subcommands alike.
fn named(command: Command) -> Command {
    let of = |argument: Arg| {
        let completer = match argument.get_id().as_str() {
            "limit" | "host" | "hosts" => ArgValueCompleter::new(limit),
            "inventory" => ArgValueCompleter::new(inventory),
            "module" => ArgValueCompleter::new(module),
            "param" => ArgValueCompleter::new(param),
            "run" | "retry" => ArgValueCompleter::new(run),
            "what" => ArgValueCompleter::new(run_or_file),
            _ => return argument,
        };
        argument.add(completer)
    };
    command.mut_args(of).mut_subcommands(named)
}

/// `--limit` and hosts: the last of the terms between commas, `&` and `!`.
fn limit(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some((text, project)) = current.to_str().zip(project()) else { return vec![] };
    let start = text.rfind([',', '&', '!']).map_or(0, |at| at + 1);
    let (before, term) = text.split_at(start);
    let groups = project.groups.keys().map(String::as_str).chain(["all"]).collect::<BTreeSet<_>>();
    let groups = groups.into_iter().map(|group| format!("@{group}"));
    let hosts = project.hosts.iter().map(|host| host.name.clone());
    let names = hosts.chain(groups).filter(|name| name.starts_with(term));
    names.map(|name| CompletionCandidate::new(format!("{before}{name}"))).collect()
}

/// `-i`: names below inventories/, then paths.
fn inventory(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = inventory::root(&locate()).map(|root| inventory::inventories(&root.join("inventories")));
    let names = names.unwrap_or_default().into_iter().map(|(name, _)| name).collect();
    let mut all = starting(current, names);
    all.extend(PathCompleter::any().complete(current));
    all
}

/// `-m`: the modules of the project and the shipped ones.
fn module(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(modules) = known_modules() else { return vec![] };
    let right = modules.values().filter(|module| starts(&module.name, current));
    let offer = |module: &std::sync::Arc<inventory::Module>| {
        let first = module.description.as_deref().and_then(|text| text.lines().next()).map(str::to_owned);
        CompletionCandidate::new(&module.name).help(first.map(Into::into))
    };
    right.map(offer).collect()
}

/// `--param`: `MODULE.PARAM=`.
fn param(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(modules) = known_modules() else { return vec![] };
    let all = modules.values().flat_map(|module| module.params.iter().map(move |param| (module, param)));
    let named = all.map(|(module, param)| (format!("{}.{}=", module.name, param.name), &param.doc));
    let right = named.filter(|(name, _)| starts(name, current));
    right.map(|(name, doc)| CompletionCandidate::new(name).help(doc.clone().map(Into::into))).collect()
}

/// A run that this machine has kept, the latest first.
fn run(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut names =
        runs::names(&runs::base(flag(&["--run-dir"], "KVMFW_RUN_DIR").map(PathBuf::from).as_deref()));
    names.reverse();
    starting(current, names)
}

/// `show`: runs, then files.
fn run_or_file(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut all = run(current);
    all.extend(PathCompleter::file().complete(current));
    all
}

fn starting(current: &OsStr, names: Vec<String>) -> Vec<CompletionCandidate> {
    names.into_iter().filter(|name| starts(name, current)).map(CompletionCandidate::new).collect()
}

fn starts(name: &str, current: &OsStr) -> bool {
    current.to_str().is_some_and(|current| name.starts_with(current))
}

/// The project that the line so far means; its inventory only where reading it runs nothing.
fn project() -> Option<Project> {
    match flag(&["--inventory-program"], "") {
        Some(_) => None,
        None => inventory::load(&locate()).ok(),
    }
}

/// The modules, also where there is no inventory.
fn known_modules() -> Option<std::collections::BTreeMap<String, std::sync::Arc<inventory::Module>>> {
    let locate = ProjectLocation { inventory: None, ..locate() };
    inventory::load_text(&locate, "none", "hosts: { none: { } }").ok().map(|project| project.modules)
}

fn locate() -> ProjectLocation {
    ProjectLocation {
        dir: flag(&["-C"], "").map(PathBuf::from),
        inventory: flag(&["-i", "--inventory"], "KVMFW_INVENTORY"),
        home: std::env::var_os("HOME").map(PathBuf::from),
    }
}

/// The value of a flag on the line that is being typed, else that of a variable.
fn flag(names: &[&str], variable: &str) -> Option<String> {
    let words: Vec<String> = std::env::args().skip_while(|word| word != "--").skip(1).collect();
    let given = words.iter().enumerate().find_map(|(at, word)| {
        names.iter().find_map(|name| {
            if word == name {
                return words.get(at + 1).cloned();
            }
            let rest = word.strip_prefix(name)?;
            if name.starts_with("--") {
                rest.strip_prefix('=').map(str::to_owned)
            } else {
                Some(rest.to_owned())
            }
        })
    });
    given.or_else(|| std::env::var(variable).ok()).filter(|value| !value.is_empty())
}
