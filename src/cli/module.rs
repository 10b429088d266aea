//! `kvmfw module`

use super::{CliError, CliResult, Common, Format, console, exit, load};
use crate::files::{self, Readers};
use crate::inventory::{self, Module, ParamDeclaration, shown};
use crate::problem::did_you_mean;
use clap::{Args, Subcommand};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Arguments of `module`.
#[derive(Debug, Args)]
pub(super) struct ModuleArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the modules of the project and the shipped ones
    List,
    /// Show a module with its params
    Show {
        /// The module
        #[arg(id = "module", value_name = "NAME")]
        name: String,
    },
    /// Write a new module with a test into modules/
    New {
        /// Name of the new module
        #[arg(id = "new_module", value_name = "NAME")]
        name: String,
    },
}

/// A module that does something and can be tested as it is.
const NEW: &str = "\
description: |
  What this module is for.
params:
  allow_tcp: { type: list<port>, default: [443], doc: TCP ports open to the world. }
iptables:
  filter:
    INPUT:
      rules: |
        -p tcp --dport $allow_tcp -j ACCEPT
ip6tables:
  filter:
    INPUT:
      rules: |
        -p tcp --dport $allow_tcp -j ACCEPT
";

/// The test of the new module.
const NEW_TEST: &str = "\
its port is open:
  packets:
    - { chain: INPUT, tcp: 443, verdict: ACCEPT }
";

pub(super) fn run(common: &Common, args: &ModuleArgs) -> CliResult {
    match &args.what {
        What::List => list(common, &modules(common)?),
        What::Show { name } => show(common, name, &modules(common)?),
        What::New { name } => new(common, name, &modules(common)?),
    }
}

type Modules = BTreeMap<String, Arc<Module>>;

/// The modules, also where there is no inventory.
fn modules(common: &Common) -> Result<Modules, CliError> {
    let location = load::locate(common.dir.clone(), None);
    let project = inventory::load_text(&location, "none", "hosts: { none: { } }").map_err(CliError::from)?;
    Ok(project.modules)
}

fn list(common: &Common, modules: &Modules) -> CliResult {
    if common.format == Format::Json {
        let list: Vec<_> = modules.values().map(|module| as_json(module, false)).collect();
        return document(&serde_json::json!({ "version": VERSION, "modules": list }));
    }
    let width = modules.keys().map(String::len).max().unwrap_or_default();
    for module in modules.values() {
        let source = if is_shipped(module) { "shipped" } else { "project" };
        console::print(&format!("{:width$}  {source}  {}\n", module.name, first_sentence(module)));
    }
    Ok(exit::DONE)
}

fn show(common: &Common, name: &str, modules: &Modules) -> CliResult {
    let Some(module) = modules.get(name) else {
        let near = did_you_mean(name, modules.keys().map(String::as_str));
        return Err(CliError::bad_input(format!("there is no module `{}`", name.escape_debug()))
            .hint(near.unwrap_or_else(|| "list them with `kvmfw module list`".to_owned())));
    };
    if common.format == Format::Json {
        return document(&serde_json::json!({ "version": VERSION, "module": as_json(module, true) }));
    }
    console::print(&format!("{}  ({})\n\n", module.name, module.file));
    for line in module.description.iter().flat_map(|text| text.lines()) {
        console::print(&format!("  {line}\n"));
    }
    if !module.params.is_empty() {
        console::print("\nParams:\n");
    }
    for param in &module.params {
        console::print(&format!("  {}: {}", param.name, value(param)));
        console::print(&param.doc.as_ref().map_or_else(|| "\n".to_owned(), |doc| format!("  # {doc}\n")));
    }
    console::print(&format!("\n{}", module.text));
    Ok(exit::DONE)
}

fn new(common: &Common, name: &str, modules: &Modules) -> CliResult {
    let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !is_name {
        return Err(CliError::bad_input(format!(
            "`{}` is not a valid name of a module",
            name.escape_debug()
        ))
        .hint("use letters, digits, `-`, `_` and `.`"));
    }
    if let Some(module) = modules.get(name) {
        return Err(CliError::bad_input(format!("there is a module `{name}` already: {}", module.file)));
    }
    let root =
        inventory::root(&load::locate(common.dir.clone(), None)).unwrap_or_else(|_| PathBuf::from("."));
    let folder = root.join("modules").join(name);
    let fail =
        |error: std::io::Error| CliError::internal(format!("cannot write {}: {error}", folder.display()));
    if folder.exists() {
        return Err(CliError::bad_input(format!("{} exists already", folder.display())));
    }
    files::folder(&folder.join("tests"), Readers::Everybody).map_err(fail)?;
    files::write(&folder.join("module.yaml"), Readers::Everybody, NEW).map_err(fail)?;
    files::write(&folder.join("tests/basic.yaml"), Readers::Everybody, NEW_TEST).map_err(fail)?;
    console::print(&format!("{}\n", folder.join("module.yaml").display()));
    if !common.quiet {
        console::notice(&format!("Add `modules: [{name}]` to a group or a host, and run kvmfw check."));
    }
    Ok(exit::DONE)
}

const VERSION: u32 = crate::report::Document::VERSION;

fn document(value: &serde_json::Value) -> CliResult {
    console::print(&format!("{}\n", serde_json::to_string_pretty(value).unwrap_or_default()));
    Ok(exit::DONE)
}

fn as_json(module: &Module, whole: bool) -> serde_json::Value {
    let param = |param: &ParamDeclaration| serde_json::json!({ "name": param.name, "default": param.default.as_ref().map(shown), "doc": param.doc });
    let mut json = serde_json::json!({
        "name": module.name,
        "file": &*module.file,
        "shipped": is_shipped(module),
        "description": module.description,
        "params": module.params.iter().map(param).collect::<Vec<_>>(),
    });
    if whole {
        json["text"] = (&*module.text).into();
    }
    json
}

fn is_shipped(module: &Module) -> bool {
    module.file.starts_with("kvmfw:")
}

/// The value where nobody gives one.
fn value(param: &ParamDeclaration) -> String {
    param.default.as_ref().map_or_else(|| "has to be given".to_owned(), shown)
}

/// The first sentence of the description, on one line.
fn first_sentence(module: &Module) -> String {
    let text = module.description.as_deref().unwrap_or("").split_whitespace().collect::<Vec<_>>().join(" ");
    match text.split_once(". ") {
        Some((first, _)) => format!("{first}."),
        None => text,
    }
}
