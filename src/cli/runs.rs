//! What the controller keeps of a run, in a folder below the run directory: `plan.json` and
//! `events.jsonl` from before the first host is changed, `result.json` at its end.

use super::{CliError, Common, console, saved};
use crate::engine::HostStatus;
use crate::files::{self, Readers};
use crate::problem::closest;
use crate::report::{Document, EventEntry, HostEntry, Json, Line, Renderer, fold_events, with_stragglers};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What was planned, as `--format json` shows a plan.
const PLAN: &str = "plan.json";
/// What happened, line by line.
pub(super) const EVENTS: &str = "events.jsonl";
/// What came of it, as `--format json` shows a run.
const RESULT: &str = "result.json";

/// Whether a word can be the name of a run.
pub(super) fn is_name(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Where a run is kept.
pub(super) fn folder(common: &Common, run: &str) -> PathBuf {
    base(common.run_dir.as_deref()).join(run)
}

/// The runs that are kept in a folder, the oldest first.
pub(super) fn names(base: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// ``did you mean `RUN`?``: the run nearest to one that there is not, of those kept here and others that
/// are known.
pub(super) fn near(common: &Common, wrong: &str, others: impl Iterator<Item = String>) -> Option<String> {
    let mut known = names(&base(common.run_dir.as_deref()));
    known.extend(others);
    // A run that is kept here and that no host knows was not mistyped.
    known.retain(|run| run != wrong);
    closest(wrong, known.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"))
}

/// Where runs are kept.
pub(super) fn base(given: Option<&Path>) -> PathBuf {
    given.map(Path::to_path_buf).unwrap_or_else(|| {
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        let home = || {
            std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from).join(".local/state")
        };
        state.unwrap_or_else(home).join("kvmfw/runs")
    })
}

/// Makes a run's folder with its plan. That this fails must not hold up the run: the hosts know it too.
pub(super) fn begin(common: &Common, run: &str, plan: &Document) -> PathBuf {
    let folder = folder(common, run);
    let made = files::folder(&folder, Readers::Owner);
    warn_unless_recorded(
        &folder,
        made.and_then(|()| files::write(&folder.join(PLAN), Readers::Owner, &Json.render(plan))),
    );
    folder
}

/// Keeps what came of a run. That this fails must not hide how the hosts are.
pub(super) fn keep(common: &Common, run: &str, document: &Document) {
    let folder = folder(common, run);
    warn_unless_recorded(&folder, files::write(&folder.join(RESULT), Readers::Owner, &Json.render(document)));
}

fn warn_unless_recorded(folder: &Path, result: std::io::Result<()>) {
    if let Err(error) = result {
        console::notice(&format!("{}: cannot record the run: {error}", folder.display()));
    }
}

/// What came of a run, also where its controller did not live to write it down.
///
/// Errors: there are no files of it, or they cannot be read; a sentence.
pub(super) fn load(folder: &Path) -> Result<Document, String> {
    let result = saved::document(&folder.join(RESULT));
    // It may be cut off as well.
    if result.is_ok() || !folder.join(PLAN).exists() {
        return result;
    }
    let plan = saved::document(&folder.join(PLAN))?;
    let events = std::fs::read(folder.join(EVENTS)).map_err(|e| e.to_string())?;
    // Where the machine fell, the last line may end within a character.
    let events = String::from_utf8_lossy(&events);
    let mut document = fold_events(&plan, &events);
    let first = events.lines().next().and_then(|line| serde_json::from_str::<Line>(line).ok());
    if let Some(EventEntry::Start { command, .. }) = first.map(|line| line.event) {
        document.next = next(&command, &document);
    }
    Ok(document)
}

/// Whether a run has come to its end.
pub(super) fn has_ended(folder: &Path) -> bool {
    folder.join(RESULT).exists()
}

/// The command of a run.
pub(super) fn command(folder: &Path) -> Option<String> {
    let events = events(folder)?;
    match serde_json::from_str::<Line>(events.lines().next()?).ok()?.event {
        EventEntry::Start { command, .. } => Some(command),
        _ => None,
    }
}

/// What was planned in a run, as it was shown, also while it went on.
pub(super) fn plan(folder: &Path) -> Option<Document> {
    let plan = saved::document(&folder.join(PLAN)).ok()?;
    let mut plan = with_stragglers(&plan, &events(folder).unwrap_or_default());
    // The run it became is no part of what was shown.
    plan.run = None;
    Some(plan)
}

/// The events of a run, as they were told.
pub(super) fn events(folder: &Path) -> Option<String> {
    Some(String::from_utf8_lossy(&std::fs::read(folder.join(EVENTS)).ok()?).into_owned())
}

/// What brings a run to its end, where something of it is left.
pub(super) fn next(command: &str, document: &Document) -> Option<String> {
    let run =
        document.run.as_ref().filter(|_| command == "apply" && document.hosts.iter().any(is_for_retry))?;
    Some(format!("kvmfw apply --retry {run}"))
}

/// Whether a run has to come back to a host.
pub(super) fn is_for_retry(host: &HostEntry) -> bool {
    matches!(
        host.status,
        HostStatus::Failed
            | HostStatus::RolledBack
            | HostStatus::Unreachable
            | HostStatus::Unknown
            | HostStatus::Skipped
    )
}

/// The name of a run as a user gave it.
///
/// Errors: it cannot be one.
pub(super) fn name(word: &str) -> Result<String, CliError> {
    if is_name(word) {
        return Ok(word.to_owned());
    }
    Err(CliError::bad_input(format!("`{}` is not the name of a run", word.escape_debug()))
        .hint("list runs with `kvmfw runs` or `kvmfw history HOST`"))
}

/// Whether a word looks like the name of a host and not like that of a file.
pub(super) fn looks_like_host(word: &str) -> bool {
    !word.is_empty() && !word.contains(['/', '\\']) && !word.ends_with(".json")
}

/// Opens a file that only its owner may read, to be written at its end.
pub(super) fn append(path: &Path) -> Option<File> {
    match files::append(path, Readers::Owner) {
        Ok(file) => Some(file),
        Err(error) => {
            console::notice(&format!("{}: cannot record the events of the run: {error}", path.display()));
            None
        }
    }
}
