//! The command line: one file for each subcommand, each thin.

mod apply;
mod bootstrap;
mod check;
mod complete;
mod console;
mod error;
mod exit;
mod explain;
mod generate;
mod history;
mod import;
mod inventory;
mod lint_args;
mod load;
mod module;
mod output;
mod plan;
mod program;
mod prompt;
mod reach;
mod repair;
mod retry;
mod run_list;
mod runs;
mod runtime;
mod saved;
mod shard;
mod show;
mod status;
mod undo;
mod unlock;
mod usage;

use self::error::CliError;
use crate::report::{GITHUB_LIMIT, LEAST_LIMIT, ProgressMode, outlet};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;
use std::process::ExitCode;

/// Plan and apply sysctl, iptables and bridges on KVM hosts over SSH. A host that becomes unreachable rolls itself back.
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
    /// Check the inventory and the modules offline
    Check(check::CheckArgs),
    /// Show the changes that apply would make
    Plan(plan::PlanArgs),
    /// Change hosts; a host that becomes unreachable rolls itself back
    Apply(apply::ApplyArgs),
    /// Show a saved plan or a past run
    Show(show::ShowArgs),
    /// Show the active and the next-boot generation, and recent transactions
    Status(status::StatusArgs),
    /// Show the change history of a host
    History(history::HistoryArgs),
    /// Return to the state before a run, or to a generation (0 is the baseline)
    Undo(undo::UndoArgs),
    /// Return hosts to what their last apply left, where they differ from it
    Repair(repair::RepairArgs),
    /// Roll back a transaction that was left open on a host
    Unlock(unlock::UnlockArgs),
    /// Explain why guests are unreachable, or trace one packet
    Explain(explain::ExplainArgs),
    /// Print an inventory of the present rules, sysctl files and bridges of a host
    Import(import::ImportArgs),
    /// Configure one host without an inventory, and print the inventory for it
    Bootstrap(bootstrap::BootstrapArgs),
    /// List the runs that are recorded on this machine
    Runs(run_list::RunsArgs),
    /// List, show and write modules
    Module(module::ModuleArgs),
    /// Inspect the resolved inventory
    Inventory(inventory::InventoryArgs),
    /// Generate JSON Schemas, shell completions and manual pages
    Generate(generate::GenerateArgs),
}

/// What every subcommand takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
struct Common {
    /// Project folder, with inventories/ and modules/ [default: the current folder or the nearest parent]
    #[arg(short = 'C', value_name = "DIR", value_hint = ValueHint::DirPath, global = true)]
    dir: Option<PathBuf>,
    /// Inventory: a name below inventories/, or a path
    #[arg(short, long, value_name = "NAME", env = "KVMFW_INVENTORY", global = true)]
    inventory: Option<String>,
    /// Run `FILE --list` and read the inventory that it prints; replaces -i
    #[arg(long, value_name = "FILE", value_hint = ValueHint::ExecutablePath, global = true)]
    inventory_program: Option<PathBuf>,
    /// Select hosts: names, globs, @group, kvm[01-09], &and, !not, separated by commas
    #[arg(short, long, value_name = "HOSTS", global = true)]
    limit: Option<String>,
    /// Process shard I of N of the hosts, by name [default: the CI's variables, such as CI_NODE_INDEX]
    #[arg(long, value_name = "I/N", value_parser = shard::parse, global = true)]
    shard: Option<shard::Shard>,
    /// Output format
    #[arg(long, value_enum, default_value_t, global = true)]
    format: Format,
    /// Also write per-host results as JUnit XML
    #[arg(long, value_name = "FILE", global = true)]
    junit: Option<PathBuf>,
    /// Also write metrics for the textfile collector of Prometheus' node_exporter
    #[arg(long, value_name = "FILE", global = true)]
    metrics: Option<PathBuf>,
    /// Maximum size of Markdown in bytes; larger output is truncated with a note
    #[arg(long, value_name = "BYTES", default_value_t = GITHUB_LIMIT, value_parser = markdown_limit, global = true)]
    markdown_limit: usize,
    /// When to use colours
    #[arg(long, value_enum, default_value_t, global = true)]
    color: When,
    /// Progress display
    #[arg(long, value_enum, default_value_t, global = true)]
    progress: ProgressWhen,
    /// Verbose: show each connection to a host with its duration, and flows that do not change in the impact
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Quiet: no progress
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Skip the confirmation prompt
    #[arg(short, long, global = true)]
    yes: bool,
    /// Maximum number of hosts at once
    #[arg(short, long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..), global = true)]
    parallel: u16,
    /// Exit with code 2 when changes are pending
    #[arg(long, global = true)]
    detailed_exitcode: bool,
    /// Folder for the records of runs [default: $XDG_STATE_HOME/kvmfw/runs]
    #[arg(long, value_name = "DIR", env = "KVMFW_RUN_DIR", value_hint = ValueHint::DirPath, global = true)]
    run_dir: Option<PathBuf>,
}

/// Hosts as arguments.
#[derive(Debug, Default, Args)]
struct HostsArgs {
    /// Hosts, as with --limit
    #[arg(value_name = "HOSTS", conflicts_with = "limit")]
    hosts: Vec<String>,
}

impl Command {
    /// The hosts that stand as arguments.
    fn hosts(&self) -> &[String] {
        match self {
            Command::Check(args) => &args.hosts.hosts,
            Command::Plan(args) => &args.hosts.hosts,
            Command::Status(args) => &args.hosts.hosts,
            Command::Repair(args) => &args.hosts.hosts,
            _ => &[],
        }
    }
}

/// Output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Human-readable text.
    #[default]
    Human,
    /// A single JSON document.
    Json,
    /// Events as they happen, one JSON object per line.
    Jsonl,
    /// Markdown for merge-request comments.
    Markdown,
    /// Drawing of a host (explain only).
    Svg,
    /// Mermaid flowchart of a host (explain only).
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
        _ => Err(format!("`{text}` is not a number of bytes of at least {LEAST_LIMIT}")),
    }
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum When {
    /// On a terminal, unless NO_COLOR or TERM=dumb is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Progress display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ProgressWhen {
    /// Bars on a terminal, lines elsewhere.
    #[default]
    Auto,
    /// Bars.
    Bar,
    /// Lines.
    Plain,
    /// No progress.
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
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(mut error) => {
            usage::with_tip(&mut error);
            // clap's own code for bad usage is 2, which here means that changes are pending.
            let code = if error.use_stderr() { exit::BAD_INPUT } else { exit::DONE };
            explain_usage(&error);
            return ExitCode::from(code);
        }
    };
    if !cli.command.hosts().is_empty() {
        cli.common.limit = Some(cli.command.hosts().join(","));
    }
    let common = &cli.common;
    if matches!(common.format, Format::Json | Format::Jsonl) {
        outlet::stdout_is_json();
    }
    // How the hosts are matters more than what could be said of it.
    let touches = matches!(
        cli.command,
        Command::Apply(_)
            | Command::Undo(_)
            | Command::Repair(_)
            | Command::Unlock(_)
            | Command::Bootstrap(_)
    );
    let result = output::supported(common, &cli.command).and_then(|()| match cli.command {
        Command::Check(args) => check::run(common, &args),
        Command::Plan(args) => plan::run(common, &args),
        Command::Apply(args) => apply::run(common, &args),
        Command::Show(args) => show::run(common, &args),
        Command::Status(_) => status::run(common),
        Command::History(args) => history::run(common, &args),
        Command::Undo(args) => undo::run(common, &args),
        Command::Repair(args) => repair::run(common, &args),
        Command::Unlock(args) => unlock::run(common, &args),
        Command::Explain(args) => explain::run(common, &args),
        Command::Import(args) => import::run(common, &args),
        Command::Bootstrap(args) => bootstrap::run(common, &args),
        Command::Runs(args) => run_list::run(common, &args),
        Command::Module(args) => module::run(common, &args),
        Command::Inventory(args) => inventory::run(common, &args),
        Command::Generate(args) => generate::run(&args, Cli::command()),
    });
    let code = result.unwrap_or_else(|error| {
        error.print(common);
        error.exit_code()
    });
    match code {
        exit::DONE | exit::CHANGES if console::result_lost() && !touches => ExitCode::from(exit::INTERNAL),
        code => ExitCode::from(code),
    }
}

/// Shows the help that was asked for, or what is wrong with the arguments.
fn explain_usage(error: &clap::Error) {
    let text = error.render();
    if error.use_stderr() {
        // It quotes arguments, which may come from anywhere.
        outlet::err(&text.to_string());
    } else if console::colors_stdout() {
        let _ = outlet::out(&outlet::stamped(&text.ansi().to_string()));
    } else {
        let _ = outlet::out(&text.to_string());
    }
}

/// Result of a command: the exit code of what it printed, or the error that ends it.
type CliResult = Result<u8, CliError>;
