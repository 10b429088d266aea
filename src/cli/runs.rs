//! What the controller keeps: saved plans, and what came of runs.

use super::{Common, exit, setup};
use crate::apply::Planned;
use crate::desired::{self, Desired};
use crate::inventory::Project;
use crate::plan::HostPlan;
use crate::report::{ChangeEntry, Document};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A plan as a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedPlan {
    /// The shape of this file.
    version: u32,
    /// The project folder and inventory it was made from.
    dir: PathBuf,
    inventory: String,
    /// What was shown.
    plan: Document,
    /// What each host with changes would get.
    bundles: BTreeMap<String, Vec<(String, String)>>,
}

/// What a saved plan says about one host.
pub(super) struct SavedHost {
    changes: Vec<ChangeEntry>,
    bundle: Vec<(String, String)>,
}

impl SavedHost {
    /// Whether a plan made now is the saved one.
    pub(super) fn is(&self, plan: &HostPlan) -> bool {
        let same_change = |(saved, now): (&ChangeEntry, &crate::plan::Change)| {
            saved.kind == now.kind
                && saved.resource == now.resource
                && saved.action == now.action
                && saved.diff == now.diff.text()
        };
        self.changes.len() == plan.changes.len()
            && self.changes.iter().zip(&plan.changes).all(same_change)
            && self.bundle == plan.bundle.files
    }
}

impl SavedPlan {
    /// The desired state of the plan's hosts, from the inventory it was made from.
    pub(super) fn desired(&self, common: &Common) -> Result<(Project, Vec<Desired>), u8> {
        let dir = common.dir.clone().or_else(|| Some(self.dir.clone()));
        let project = setup::open(common, dir, Some(self.inventory.clone()))?;
        let known = |name: &str| project.hosts.iter().any(|h| h.name == name);
        let names: Vec<String> =
            self.plan.hosts.iter().map(|h| h.name.clone()).filter(|n| known(n)).collect();
        let desired =
            desired::compile(&project, &names).map_err(|p| setup::report(common, &p, &project.sources))?;
        Ok((project, desired))
    }

    /// What is expected of each host.
    pub(super) fn expected(self) -> super::apply::Expected {
        let mut bundles = self.bundles;
        self.plan
            .hosts
            .into_iter()
            .map(|host| {
                let bundle = bundles.remove(&host.name).unwrap_or_default();
                (host.name, SavedHost { changes: host.changes, bundle })
            })
            .collect()
    }
}

/// Writes a plan.
pub(super) fn save_plan(
    path: &Path,
    project: &Project,
    common: &Common,
    planned: &[Planned],
    document: &Document,
) -> Result<(), u8> {
    let bundles = planned
        .iter()
        .filter_map(|p| p.result.as_ref().ok())
        .filter(|(plan, _)| !plan.changes.is_empty())
        .map(|(plan, _)| (plan.host.clone(), plan.bundle.files.clone()))
        .collect();
    let inventory = common.inventory.clone().unwrap_or_else(|| project.name.clone());
    let saved = SavedPlan {
        version: Document::VERSION,
        dir: project.root.clone(),
        inventory,
        plan: document.clone(),
        bundles,
    };
    let text = serde_json::to_string(&saved).unwrap_or_default();
    write_private(path, &text).map_err(|error| {
        setup::complain(&format!("cannot write {}: {error}", path.display()));
        exit::INTERNAL
    })
}

/// Reads a plan that `plan -o` wrote.
pub(super) fn load_plan(path: &Path) -> Result<SavedPlan, u8> {
    let fail = |error: String| {
        setup::complain(&format!("{} is no saved plan: {error}", path.display()));
        exit::BAD_INPUT
    };
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    let saved: SavedPlan = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
    if saved.version != Document::VERSION {
        return Err(fail(format!(
            "its version is {}, this kvmfw reads {}",
            saved.version,
            Document::VERSION
        )));
    }
    Ok(saved)
}

/// The document in a file: a saved plan, or what was printed with `--format json`.
pub(super) fn load_document(path: &Path) -> Result<Document, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    match serde_json::from_str::<SavedPlan>(&text) {
        Ok(saved) => Ok(saved.plan),
        Err(_) => serde_json::from_str(&text).map_err(|e| format!("neither a saved plan nor a result: {e}")),
    }
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

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // A file that was there keeps its mode otherwise.
    if file.metadata()?.is_file() {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    file.write_all(text.as_bytes())
}
