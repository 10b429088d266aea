//! `kvmfw generate`: what other programs read about kvmfw.

use super::{CliError, CliResult, complete, console, exit};
use crate::files::{self, Readers};
use crate::inventory;
use crate::report::{Document, Line};
use clap::{Args, Command, Subcommand, ValueEnum, ValueHint};
use clap_complete::env::{EnvCompleter, Fish, Zsh};
use clap_mangen::Man;
use std::path::{Path, PathBuf};

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write a JSON Schema (draft-07), for editors and checks
    Schema {
        /// Schema to write
        #[arg(value_enum, required_unless_present = "out")]
        name: Option<Schema>,
        /// Write into this folder; all schemas if no NAME is given
        #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        out: Option<PathBuf>,
    },
    /// Write shell completions, including hosts, groups, modules and runs
    Completions {
        /// Shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the manual pages: kvmfw.1 to stdout, or one per command into a folder
    Man {
        /// Write into this folder
        #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        out: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Schema {
    /// An inventory file
    Inventory,
    /// A module.yaml
    Module,
    /// Tests of a module, modules/NAME/tests/*.yaml
    ModuleTest,
    /// Output of `--format json` of plan, apply, undo and show: version 2
    Output,
    /// One line of the output of `--format jsonl`
    Events,
}

impl Schema {
    fn name(self) -> &'static str {
        match self {
            Schema::Inventory => "inventory",
            Schema::Module => "module",
            Schema::ModuleTest => "module-test",
            Schema::Output => "output",
            Schema::Events => "events",
        }
    }

    fn text(self) -> String {
        let schema = match self {
            Schema::Output => Some(Document::schema()),
            Schema::Events => Some(Line::schema()),
            named => inventory::schema(named.name()),
        };
        schema.map(|schema| format!("{schema:#}\n")).unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    /// source <(kvmfw generate completions bash)
    Bash,
    /// source <(kvmfw generate completions zsh)
    Zsh,
    /// kvmfw generate completions fish | source
    Fish,
}

pub(super) fn run(args: &GenerateArgs, command: Command) -> CliResult {
    match &args.what {
        What::Schema { name, out: None } => console::print(&name.map(Schema::text).unwrap_or_default()),
        What::Schema { name, out: Some(folder) } => {
            let chosen = name.map_or_else(|| Schema::value_variants().to_vec(), |name| vec![name]);
            write(folder, chosen.iter().map(|schema| (format!("{}.json", schema.name()), schema.text())))?;
        }
        What::Completions { shell } => console::print(&completions(*shell)),
        What::Man { out: None } => {
            console::print(&pages(command).into_iter().next().map(|(_, text)| text).unwrap_or_default());
        }
        What::Man { out: Some(folder) } => write(folder, pages(command).into_iter())?,
    }
    Ok(exit::DONE)
}

/// Writes files into a folder that may not be there yet.
fn write(folder: &Path, files: impl Iterator<Item = (String, String)>) -> Result<(), CliError> {
    let fail = |path: &Path, error: std::io::Error| {
        CliError::internal(format!("cannot write {}: {error}", path.display()))
    };
    files::folder(folder, Readers::Everybody).map_err(|error| fail(folder, error))?;
    for (name, text) in files {
        let path = folder.join(name);
        files::write(&path, Readers::Everybody, &text).map_err(|error| fail(&path, error))?;
    }
    Ok(())
}

/// What a shell has to read.
fn completions(shell: Shell) -> String {
    let engine: &dyn EnvCompleter = match shell {
        // The engine's own cuts words where bash does: `@group` would not be one.
        Shell::Bash => return include_str!("complete.bash").to_owned(),
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = engine.write_registration(complete::VARIABLE, "kvmfw", "kvmfw", "kvmfw", &mut text);
    let mut text = String::from_utf8_lossy(&text).trim_start().to_owned();
    if matches!(shell, Shell::Zsh) {
        // In a folder of fpath zsh takes the file for the function itself, and calls it at the first word.
        text.push_str("[[ $funcstack[1] == _kvmfw ]] && _clap_dynamic_completer_kvmfw || true\n");
    }
    text
}

/// The manual pages by file name, kvmfw.1 first.
fn pages(command: Command) -> Vec<(String, String)> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(command, &mut pages);
    pages
}

fn add_pages(command: Command, pages: &mut Vec<(String, String)>) {
    let inner: Vec<Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect();
    let page = Man::new(command).manual("kvmfw").source(concat!("kvmfw ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = page
        .render_title(&mut text)
        .and_then(|()| page.render_name_section(&mut text))
        .and_then(|()| page.render_synopsis_section(&mut text))
        .and_then(|()| page.render_description_section(&mut text))
        .and_then(|()| page.render_options_section(&mut text))
        .and_then(|()| if inner.is_empty() { Ok(()) } else { page.render_subcommands_section(&mut text) });
    let own = if pages.is_empty() { sections() } else { ".SH \"SEE ALSO\"\n\\fBkvmfw\\fR(1)\n".to_owned() };
    pages.push((page.get_filename(), String::from_utf8_lossy(&text).into_owned() + &own));
    inner.into_iter().for_each(|command| add_pages(command, pages));
}

/// What the manual of kvmfw as a whole has beside flags and subcommands.
fn sections() -> String {
    let list = |title: &str, items: &[(String, &str)]| {
        let items: String = items
            .iter()
            .map(|(name, text)| format!(".TP\n\\fB{}\\fR\n{}\n", roff(name), roff(text)))
            .collect();
        format!(".SH \"{title}\"\n{items}")
    };
    let codes = exit::MEANINGS.map(|(code, meaning)| (code.to_string(), meaning));
    let files = [
        ("inventories/NAME.yaml, inventories/NAME/*.yaml", "Hosts and groups."),
        ("modules/NAME/module.yaml", "A module of the project."),
        ("$XDG_STATE_HOME/kvmfw/runs", "Records of runs, on the machine that ran kvmfw."),
        ("/etc/kvmfw, /var/lib/kvmfw", "On a host: generations, boot state and transactions."),
        ("/var/lib/kvmfw/kvmfw.sh", "On a host: status, confirm, rollback, undo and unlock at the console."),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), text));
    list("EXIT STATUS", &codes) + &list("FILES", &files)
}

/// Text as roff takes it.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('`', "")
}
