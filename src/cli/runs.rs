//! What the controller keeps of a run, below the run directory: the plan, the events, the result.

use super::{Common, setup};
use crate::report::Document;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

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

/// Keeps what came of a run. That this fails must not hide how the hosts are.
pub(super) fn keep(common: &Common, run: &str, document: &Document) {
    let folder = folder(common, run);
    let kept = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .and_then(|()| write_private(&folder.join("result.json"), &document.json()));
    if let Err(error) = kept {
        setup::complain(&format!("cannot keep the run in {}: {error}", folder.display()));
    }
}

/// Writes a file that only its owner may read.
pub(super) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // A file that was there keeps its mode otherwise.
    if file.metadata()?.is_file() {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    file.write_all(text.as_bytes())
}
