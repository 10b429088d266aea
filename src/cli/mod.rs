//! The command line: one file for each subcommand, each thin.

mod apply;
mod bootstrap;
mod check;
mod complete;
mod exit;
mod explain;
mod generate;
mod history;
mod import;
mod inventory;
mod output;
mod plan;
mod program;
mod reach;
mod retry;
mod runs;
mod saved;
mod setup;
mod shard;
mod show;
mod status;
mod undo;
mod unlock;

use crate::report::{GITHUB_LIMIT, LEAST_LIMIT, ProgressMode, outlet};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;
use std::process::ExitCode;

/// Plan and apply sysctl, iptables and bridges on KVM hosts over SSH. A host that can no longer be
/// reached puts itself back.
#[derive(Debug, Parser)]
#[command(name = "kvmfw", version = env!("KVMFW_VERSION"), max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check inventory and modules without any connection
    Check,
    /// Show what apply would change; changes nothing
    Plan(plan::PlanArgs),
    /// Change hosts; each rolls back if it cannot be reached afterwards
    Apply(apply::ApplyArgs),
    /// Show a saved plan or a past run again
    Show(show::ShowArgs),
    /// Show each host's transactions: who won, what is live, what boots
    Status,
    /// Show what came of each transaction of a host, and what each generation changed
    History(history::HistoryArgs),
    /// Go back to the state before a run, or to a generation (0 is the original)
    Undo(undo::UndoArgs),
    /// End a transaction that was left open on a host
    Unlock(unlock::UnlockArgs),
    /// Say why a host's guests cannot be reached, or what becomes of one packet
    Explain(explain::ExplainArgs),
    /// Print what a host has now as an inventory: its rules, sysctl files and bridges
    Import(import::ImportArgs),
    /// Set up one host without an inventory, and print the one to keep
    Bootstrap(bootstrap::BootstrapArgs),
    /// Look at the inventory
    Inventory(inventory::InventoryArgs),
    /// Write what editors, shells and `man` read: schemas, completions, manual pages
    Generate(generate::GenerateArgs),
}

/// What every subcommand takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
struct Common {
    /// Project folder, with inventories/ and modules/ [default: here or the nearest parent]
    #[arg(short = 'C', value_name = "DIR", value_hint = ValueHint::DirPath, global = true)]
    dir: Option<PathBuf>,
    /// Inventory: a name below inventories/, or a path
    #[arg(short, long, value_name = "NAME", env = "KVMFW_INVENTORY", global = true)]
    inventory: Option<String>,
    /// Run FILE with the word --list and read the inventory that it prints; instead of -i
    #[arg(long, value_name = "FILE", value_hint = ValueHint::ExecutablePath, global = true)]
    inventory_program: Option<PathBuf>,
    /// Only these hosts: names, globs, @group, kvm[01-09], &and, !not, separated by commas
    #[arg(short, long, value_name = "HOSTS", global = true)]
    limit: Option<String>,
    /// Only part I of N of these hosts, by name; job engines' own variables count too
    #[arg(long, value_name = "I/N", value_parser = shard::parse, global = true)]
    shard: Option<shard::Shard>,
    /// How results are written
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
    /// Also write what came of each host as JUnit XML
    #[arg(long, value_name = "FILE", global = true)]
    junit: Option<PathBuf>,
    /// The most bytes that markdown may have; what does not fit is left out and counted
    #[arg(long, value_name = "BYTES", default_value_t = GITHUB_LIMIT, value_parser = markdown_limit, global = true)]
    markdown_limit: usize,
    /// When to colour
    #[arg(long, value_enum, default_value_t, global = true)]
    color: When,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t, global = true)]
    progress: ProgressWhen,
    /// Say more: each connection to a host, and how long it took
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Say less: no progress
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Do not ask
    #[arg(short, long, global = true)]
    yes: bool,
    /// How many hosts at once
    #[arg(short, long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..), global = true)]
    parallel: u16,
    /// Exit with 2 when there are changes
    #[arg(long, global = true)]
    detailed_exitcode: bool,
    /// Where runs are kept [default: $XDG_STATE_HOME/kvmfw/runs]
    #[arg(long, value_name = "DIR", env = "KVMFW_RUN_DIR", value_hint = ValueHint::DirPath, global = true)]
    run_dir: Option<PathBuf>,
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Human,
    /// One document.
    Json,
    /// Events, one JSON object for each line, while they happen.
    Jsonl,
    /// A comment for a merge request.
    Markdown,
    /// A drawing of the host, from explain.
    Svg,
    /// The same as a Mermaid flowchart.
    Mermaid,
}

impl Format {
    fn as_str(self) -> &'static str {
        match self {
            Format::Human => "human",
            Format::Json => "json",
            Format::Jsonl => "jsonl",
            Format::Markdown => "markdown",
            Format::Svg => "svg",
            Format::Mermaid => "mermaid",
        }
    }
}

fn markdown_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if limit >= LEAST_LIMIT => Ok(limit),
        _ => Err(format!("`{text}` is no number of bytes from {LEAST_LIMIT} up")),
    }
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum When {
    /// On a terminal, unless NO_COLOR or TERM=dumb says no.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ProgressWhen {
    /// Bars on a terminal, else lines.
    #[default]
    Auto,
    /// Bars.
    Bar,
    /// Lines.
    Plain,
    /// Nothing.
    None,
}

impl ProgressWhen {
    fn mode(self, quiet: bool, terminal: bool) -> ProgressMode {
        match self {
            _ if quiet => ProgressMode::None,
            ProgressWhen::Auto | ProgressWhen::Bar if terminal => ProgressMode::Bar,
            // Asked for or not: a bar that nobody can see would take the lines along.
            ProgressWhen::Auto | ProgressWhen::Bar | ProgressWhen::Plain => ProgressMode::Plain,
            ProgressWhen::None => ProgressMode::None,
        }
    }
}

/// Runs the command line; the whole of `main`.
pub fn run() -> ExitCode {
    complete::answer(Cli::command);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own code for bad usage is 2, which here means that changes are pending.
            let code = if error.use_stderr() { exit::BAD_INPUT } else { exit::DONE };
            usage(&error);
            return ExitCode::from(code);
        }
    };
    let common = &cli.common;
    if matches!(common.format, Format::Json | Format::Jsonl) {
        outlet::stdout_is_json();
    }
    if let Err(code) = output::supported(common, &cli.command) {
        return ExitCode::from(code);
    }
    // How the hosts are matters more than what could be said of it.
    let touches = matches!(
        cli.command,
        Command::Apply(_) | Command::Undo(_) | Command::Unlock(_) | Command::Bootstrap(_)
    );
    let code = match cli.command {
        Command::Check => check::run(common),
        Command::Plan(args) => plan::run(common, &args),
        Command::Apply(args) => apply::run(common, &args),
        Command::Show(args) => show::run(common, &args),
        Command::Status => status::run(common),
        Command::History(args) => history::run(common, &args),
        Command::Undo(args) => undo::run(common, &args),
        Command::Unlock(args) => unlock::run(common, &args),
        Command::Explain(args) => explain::run(common, &args),
        Command::Import(args) => import::run(common, &args),
        Command::Bootstrap(args) => bootstrap::run(common, &args),
        Command::Inventory(args) => inventory::run(common, &args),
        Command::Generate(args) => generate::run(&args, Cli::command()),
    };
    match code.unwrap_or_else(|code| code) {
        exit::DONE | exit::CHANGES if setup::result_lost() && !touches => ExitCode::from(exit::INTERNAL),
        code => ExitCode::from(code),
    }
}

/// Shows the help that was asked for, or what is wrong with the arguments.
fn usage(error: &clap::Error) {
    let text = error.render();
    if error.use_stderr() {
        // It quotes arguments, which may come from anywhere.
        outlet::err(&text.to_string());
    } else if setup::colors_stdout() {
        let _ = outlet::out(&outlet::stamped(&text.ansi().to_string()));
    } else {
        let _ = outlet::out(&text.to_string());
    }
}

/// A subcommand's exit code, either way: `Err` only lets `?` leave early.
type Code = Result<u8, u8>;
