//! Saved plans: what was planned, from which files, and how each host was. Applied exactly, or not at all.

use super::lint_args::LintArgs;
use super::{CliError, Common, load, runs, runtime};
use crate::engine::{HostOutcome, HostStatus, Planned};
use crate::inventory::Project;
use crate::plan::{AcceptableRisk, HostPlan, HostVerdict, PlanOptions, digest};
use crate::report::{Document, Line, document_of};
use crate::resolve::{self, Desired};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A plan as a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedPlan {
    /// The shape of this file.
    version: u32,
    /// The kvmfw that made it.
    kvmfw: String,
    /// When, in UTC.
    made: String,
    /// The project folder that it was made in.
    dir: PathBuf,
    /// The inventory: a name, or a path, relative to the project folder where it lies in it.
    inventory: String,
    /// The inventory was what this program printed. A plan never has it run: it may come from anybody.
    #[serde(default)]
    program: Option<String>,
    /// Digests of every file that was read, by name.
    sources: BTreeMap<String, String>,
    /// `--reassign` was given.
    #[serde(default)]
    reassign: bool,
    /// `--adopt` was given.
    #[serde(default)]
    adopt: bool,
    /// `--accept-risk` was given for these.
    #[serde(default)]
    accept_risk: Vec<String>,
    /// `--deny` and `--allow` were given.
    #[serde(default)]
    pub(super) lints: LintArgs,
    /// How the hosts with changes were.
    hosts: BTreeMap<String, Seen>,
    /// What was shown.
    pub(super) plan: Document,
}

/// A host as the plan saw it.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    /// The generation that booted.
    generation: Option<u32>,
    /// Of what the plan touches.
    fingerprint: String,
}

impl SavedPlan {
    /// The shape that this kvmfw writes and applies.
    const VERSION: u32 = 1;

    pub(super) fn of(
        project: &Project,
        common: &Common,
        (options, lints): (&PlanOptions, &LintArgs),
        planned: &[Planned],
        document: &Document,
    ) -> Self {
        let plans = planned.iter().filter_map(|p| p.result.as_ref().ok());
        let hosts = plans
            .filter(|plan| may_be_applied(&plan.verdict))
            .map(|plan| {
                let seen = Seen { generation: plan.generation, fingerprint: plan.fingerprint() };
                (plan.host.clone(), seen)
            })
            .collect();
        Self {
            version: Self::VERSION,
            kvmfw: env!("CARGO_PKG_VERSION").to_owned(),
            made: runtime::now(),
            dir: project.root.clone(),
            inventory: inventory_name(project, common),
            program: common.inventory_program.as_ref().map(|path| path.display().to_string()),
            sources: digests(project),
            reassign: options.reassign,
            adopt: options.adopt,
            lints: lints.clone(),
            accept_risk: options.accept.iter().map(|risk| risk.as_str().to_owned()).collect(),
            hosts,
            plan: document.clone(),
        }
    }

    /// The text of its file.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a plan that is to be applied.
    pub(super) fn load(path: &Path) -> Result<Self, CliError> {
        let fail =
            |error: String| CliError::bad_input(format!("{}: cannot be applied: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| {
            let hint = match (error.kind(), path.to_str()) {
                (std::io::ErrorKind::NotFound, Some(name)) if runs::looks_like_host(name) => {
                    format!("; to limit the run to hosts, use `kvmfw apply -l {name}`")
                }
                _ => String::new(),
            };
            fail(format!("{error}{hint}"))
        })?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
            let inventory = path.extension().is_some_and(|extension| extension == "yaml");
            fail(match inventory {
                true => "an inventory is not a saved plan; use `kvmfw apply -i INVENTORY`".to_owned(),
                false => format!("not a saved plan: {error}"),
            })
        })?;
        match value["version"].as_u64() {
            Some(version) if version != u64::from(Self::VERSION) => {
                return Err(fail(format!(
                    "version {version} is not supported, this kvmfw applies version {}; run kvmfw plan again",
                    Self::VERSION
                )));
            }
            _ => {}
        }
        let saved: Self =
            serde_json::from_value(value).map_err(|e| fail(format!("not a saved plan: {e}")))?;
        if saved.kvmfw != env!("CARGO_PKG_VERSION") {
            return Err(fail(format!(
                "made by kvmfw {}, and this is {}; run kvmfw plan again",
                saved.kvmfw,
                env!("CARGO_PKG_VERSION")
            )));
        }
        Ok(saved)
    }

    /// The desired state of the plan's hosts, from the very files that it was made from.
    pub(super) fn desired(&self, common: &Common) -> Result<Vec<Desired>, CliError> {
        let here = std::env::current_dir().ok();
        let project_here = here.as_deref().and_then(|here| {
            here.ancestors().find(|dir| dir.join("inventories").is_dir() || dir.join("modules").is_dir())
        });
        let dir = common.dir.as_deref().or(project_here).unwrap_or(&self.dir);
        let inventory = match self.inventory.strip_prefix(INSIDE) {
            Some(path) => dir.join(path).display().to_string(),
            None => self.inventory.clone(),
        };
        self.same_program(common)?;
        let project = load::open(common, Some(dir.to_path_buf()), Some(inventory))?;
        let other = differences(&self.sources, &digests(&project));
        if !other.is_empty() {
            return Err(CliError::bad_input(format!(
                "The plan was made from different files than those in {}; nothing was touched:\n  {}\nRun \
                kvmfw plan again, or apply the plan in a folder with the original files (-C DIR; the plan was \
                made in {}).",
                dir.display(),
                other.join("\n  "),
                self.dir.display()
            )));
        }
        let all: Vec<String> = project.hosts.iter().map(|h| h.name.clone()).collect();
        // All of them: that a host is the way to others shows only in those.
        let mut desired =
            resolve::compile(&project, &all).map_err(|p| CliError::problems(p, &project.sources))?;
        let names: BTreeSet<&String> = self.plan.hosts.iter().map(|h| &h.name).collect();
        desired.retain(|d| names.contains(&d.host));
        Ok(desired)
    }

    /// Whether the inventory comes from a program now if it did when the plan was made.
    fn same_program(&self, common: &Common) -> Result<(), CliError> {
        let wrong = match (&self.program, &common.inventory_program) {
            (Some(program), None) => format!(
                "The plan's inventory was printed by a program, and kvmfw runs a program only if the command \
                line names it: add --inventory-program {program}"
            ),
            (None, Some(_)) => {
                "--inventory-program: the plan's inventory was not printed by a program".to_owned()
            }
            _ => return Ok(()),
        };
        Err(CliError::bad_input(wrong))
    }

    /// What the user allowed when it was made.
    pub(super) fn options(&self) -> PlanOptions {
        let accepted = |risk: &AcceptableRisk| self.accept_risk.iter().any(|name| name == risk.as_str());
        let accept = AcceptableRisk::ALL.into_iter().filter(accepted).collect();
        PlanOptions { reassign: self.reassign, adopt: self.adopt, accept, ..PlanOptions::default() }
    }

    /// A saved plan is applied exactly or not at all: a host that is not as it was is left alone, with this outcome.
    pub(super) fn hold(&self, plan: &HostPlan) -> Option<HostOutcome> {
        let message = self.stale(plan)?;
        let outcome = HostOutcome::new(&plan.host, HostStatus::Refused).reason("stale").message(message);
        Some(outcome.hint("nothing was touched; run kvmfw plan again"))
    }

    /// Why the plan is not for the host as it is now.
    fn stale(&self, now: &HostPlan) -> Option<String> {
        if now.verdict != HostVerdict::Changes {
            // Nothing to do is right if there was nothing to do; a host that refuses says why itself.
            let applied = now.verdict == HostVerdict::Unchanged && self.hosts.contains_key(&now.host);
            return applied
                .then(|| "this plan was already applied, or the host already matches it".to_owned());
        }
        let Some(seen) = self.hosts.get(&now.host) else {
            let then = self.plan.hosts.iter().find(|h| h.name == now.host);
            return Some(match then.map(|h| h.status) {
                Some(HostStatus::Unchanged) => {
                    "the host had no changes when the plan was made, and now it has".to_owned()
                }
                Some(status) => {
                    format!("the plan has no changes for this host, whose status was {}", status.words())
                }
                None => "the host is not in the plan".to_owned(),
            });
        };
        if seen.fingerprint == now.fingerprint() {
            return None;
        }
        Some(if seen.generation == now.generation {
            "resources of the plan have changed on the host since the plan was made".to_owned()
        } else {
            let number = |n: Option<u32>| n.map_or_else(|| "none".to_owned(), |n| n.to_string());
            format!(
                "this plan or another change was applied to the host since the plan was made (generation {} \
                then, {} now)",
                number(seen.generation),
                number(now.generation)
            )
        })
    }
}

/// Whether a plan has something for a host, maybe only once a risk is accepted.
fn may_be_applied(verdict: &HostVerdict) -> bool {
    match verdict {
        HostVerdict::Changes => true,
        HostVerdict::Unchanged => false,
        HostVerdict::Refused(refusal) => {
            AcceptableRisk::ALL.iter().any(|risk| risk.as_str() == refusal.reason)
        }
    }
}

/// Begins the path of an inventory that lies in the project folder.
const INSIDE: &str = "./";

/// The inventory as `-i` names it, good also where the project lies elsewhere.
fn inventory_name(project: &Project, common: &Common) -> String {
    let Some(given) = &common.inventory else { return project.name.clone() };
    let named = ["", ".yaml"]
        .iter()
        .any(|ext| project.root.join("inventories").join(format!("{given}{ext}")).exists());
    if named || !Path::new(given).exists() {
        return given.clone();
    }
    let path = std::path::absolute(given).unwrap_or_else(|_| PathBuf::from(given));
    match path.strip_prefix(&project.root) {
        Ok(inside) => format!("{INSIDE}{}", inside.display()),
        Err(_) => path.display().to_string(),
    }
}

fn digests(project: &Project) -> BTreeMap<String, String> {
    project.sources.iter().map(|(name, text)| (name.to_string(), digest([&**text]))).collect()
}

/// What is otherwise than it was, a line for each file.
fn differences(then: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let word = |name: &String| match (then.get(name), now.get(name)) {
        (Some(then), Some(now)) if then == now => None,
        (Some(_), Some(_)) => Some("has changed"),
        (Some(_), None) => Some("is gone"),
        (None, _) => Some("is new"),
    };
    names.into_iter().filter_map(|name| Some(format!("{name} {}", word(name)?))).collect()
}

/// The document in a file: a saved plan of any age, or what was printed with `--format json` or `jsonl`.
pub(super) fn document(path: &Path) -> Result<Document, String> {
    #[derive(Deserialize)]
    struct Shown {
        plan: Document,
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    if text.lines().next().is_some_and(|line| serde_json::from_str::<Line>(line).is_ok()) {
        return document_of(&text);
    }
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| format!("not a saved plan or a result: {e}"))?;
    let document = match value.get("plan").is_some_and(serde_json::Value::is_object) {
        true => serde_json::from_value::<Shown>(value).map(|shown| shown.plan),
        false => serde_json::from_value(value),
    };
    let document = document.map_err(|e| format!("not a saved plan or a result: {e}"))?;
    if document.version > Document::VERSION {
        return Err(format!(
            "version {} is not supported, this kvmfw reads version {} and older",
            document.version,
            Document::VERSION
        ));
    }
    Ok(document)
}
