//! `kvmfw show`

use super::{CliError, CliResult, Common, Format, console, exit, output, runs, saved};
use crate::report::Document;
use clap::Args;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Arguments of `show`.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Saved plans, saved output of --format json or jsonl, or names of runs; several are combined
    #[arg(required = true, value_name = "FILE|RUN")]
    what: Vec<String>,
    #[command(flatten)]
    diffs: output::DiffArgs,
}

pub(super) fn run(common: &Common, args: &ShowArgs) -> CliResult {
    let mut documents = Vec::new();
    for what in &args.what {
        documents.push(load(common, what).map_err(|error| CliError::bad_input(format!("{what}: {error}")))?);
    }
    let several = documents.len() > 1;
    let document = match documents.pop() {
        Some(one) if !several => one,
        last => Document::together(documents.into_iter().chain(last).collect()),
    };
    let mut seen = BTreeSet::new();
    for host in document.hosts.iter().filter(|h| !seen.insert(&h.name)) {
        console::notice(&format!(
            "{} is in more than one of these files and is counted once for each",
            host.name
        ));
    }
    let code = exit::of(
        &document,
        if common.detailed_exitcode || document.drift { exit::CHANGES } else { exit::DONE },
    );
    // What happened is told as it was told then.
    if let ([what], Format::Jsonl) = (&args.what[..], common.format)
        && let Some(events) = folder(common, what).and_then(|folder| runs::events(&folder))
    {
        console::print(&events);
        return Ok(code);
    }
    let plan = match &args.what[..] {
        [what] if common.format == Format::Human => folder(common, what).and_then(|f| runs::plan(&f)),
        _ => None,
    };
    output::show(common, ("show", args.diffs), plan.as_ref(), &document, code)
}

/// The folder of a run, where it is one that is meant.
fn folder(common: &Common, what: &str) -> Option<PathBuf> {
    let path = Path::new(what);
    if path.exists() {
        return path.is_dir().then(|| path.to_owned());
    }
    runs::is_name(what).then(|| runs::folder(common, what))
}

fn load(common: &Common, what: &str) -> Result<Document, String> {
    let path = Path::new(what);
    if path.is_dir() {
        return runs::load(path);
    }
    if path.exists() || !runs::is_name(what) {
        return saved::document(path);
    }
    let folder = runs::folder(common, what);
    if !folder.exists() {
        let next = runs::near(common, what, std::iter::empty()).unwrap_or_else(|| {
            "the hosts have records too: run kvmfw status or kvmfw history HOST".to_owned()
        });
        let base = folder.parent().unwrap_or(&folder);
        return Err(format!("not a file and not a run recorded in {}; {next}", base.display()));
    }
    runs::load(&folder)
}
