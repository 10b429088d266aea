//! The one model of everything that is shown: JSON prints it, text renders it, a run keeps it.

use crate::engine::{HostOutcome, HostStatus, Planned};
use crate::impact::{FlowVerdict, ImpactLine};
use crate::plan::{Change, ChangeAction, ChangeRisk, Diff, DiffLine, HostPlan, HostVerdict, ResourceKind};
use crate::problem::{Origin, WarningMessage};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Result of a plan or a run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Document {
    /// Version of this format; increases when readers have to change.
    pub version: u32,
    /// Name of the run, if hosts were changed or may have been.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run: Option<String>,
    /// Names of the runs, if several results were merged.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub runs: Vec<String>,
    /// `changes` are differences from the last apply; nothing is proposed.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub drift: bool,
    /// Command for the remaining hosts of an apply.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<String>,
    /// Remark about the plan as a whole: no host answered, so nothing was planned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
    /// Number of hosts, and of hosts in each status.
    #[schemars(with = "BTreeMap<String, u64>")]
    pub summary: serde_json::Map<String, serde_json::Value>,
    /// Hosts in the order of the inventory.
    pub hosts: Vec<HostEntry>,
}

/// One host.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HostEntry {
    /// Name of the host.
    pub name: String,
    /// Status in a plan, or outcome of a run.
    pub status: HostStatus,
    /// Stable code of the reason.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Explanation for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message: Option<String>,
    /// Next step for the operator.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
    /// Hash of the plan, if there are changes; also recorded in the host's history.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plan: Option<String>,
    /// Changes of the host.
    pub changes: Vec<ChangeEntry>,
    /// What packets gain and lose; flows whose verdict stays the same are absent.
    #[serde(default)]
    #[schemars(required)]
    pub impact: Vec<ImpactEntry>,
    /// Flows whose verdict stays the same, with `-v`; only within this process.
    #[serde(skip)]
    pub unchanged_flows: Vec<ImpactEntry>,
    /// Warnings about the host.
    pub warnings: Vec<WarningEntry>,
}

/// One change of one host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct ChangeEntry {
    /// Kind of the resource.
    pub kind: ResourceKind,
    /// Name of the resource: `filter/INPUT`, `60-arp`, `br123`; `filter/INPUT (unmanaged)` are the rules of that chain
    /// that `--adopt` adopts (`remove`) or an undo restores (`add`).
    pub resource: String,
    /// Effect on the resource.
    pub action: ChangeAction,
    /// Lines of the diff, each with a sign and a space before it.
    pub diff: Arc<str>,
    /// `file:line` of the desired lines; for unmanaged rules, of the equal managed rules.
    pub origin: Arc<[String]>,
    /// Risks of the change.
    pub risks: Vec<ChangeRisk>,
    /// Lines with their origins; only within this process.
    #[serde(skip)]
    pub lines: Arc<Vec<DiffLine>>,
}

/// What becomes of some packets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ImpactEntry {
    /// The packets: `guests on br123, new TCP, IPv4`.
    pub flow: String,
    /// What becomes of them before the change; of drift, as applied.
    pub before: FlowVerdict,
    /// What becomes of them after it; of drift, now.
    pub after: FlowVerdict,
    /// The rule, policy or sysctl key that decides afterwards; for `unknown`, what cannot be simulated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<String>,
    /// `file:line` where that was declared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin: Option<String>,
}

/// One warning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct WarningEntry {
    /// Stable code of the lint.
    pub code: String,
    /// Finding, cause and fix.
    #[schemars(with = "String")]
    pub message: WarningMessage,
    /// `file:line` of the cause.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin: Option<String>,
}

impl Document {
    /// The version this kvmfw writes.
    pub const VERSION: u32 = 2;

    /// Its JSON Schema, draft-07. Keys may come, so others than these are allowed.
    pub fn schema() -> serde_json::Value {
        let settings = schemars::generate::SchemaSettings::draft07();
        settings.into_generator().into_root_schema_for::<Document>().to_value()
    }

    /// A document about these hosts.
    pub fn new(run: Option<String>, mut hosts: Vec<HostEntry>) -> Self {
        // Equal changes of many hosts are one text in memory too.
        let mut texts: HashSet<Arc<str>> = HashSet::new();
        for change in hosts.iter_mut().flat_map(|host| &mut host.changes) {
            match texts.get(&change.diff) {
                Some(text) => change.diff = text.clone(),
                None => {
                    texts.insert(change.diff.clone());
                }
            }
        }
        let mut summary = serde_json::Map::new();
        summary.insert("hosts".into(), hosts.len().into());
        for status in HostStatus::ALL {
            let count = hosts.iter().filter(|h| h.status == status).count();
            summary.insert(status.as_str().into(), count.into());
        }
        Self {
            version: Self::VERSION,
            run,
            runs: Vec::new(),
            drift: false,
            next: None,
            note: None,
            summary,
            hosts,
        }
    }

    /// What a plan found.
    pub fn of_plan(planned: &[Planned]) -> Self {
        let mut texts = Texts::default();
        let hosts = planned.iter().map(|one| HostEntry::of_planned(one, &mut texts)).collect();
        let mut document = Self::new(None, hosts);
        document.note =
            document.without_answers().then(|| "no host answered: nothing was planned".to_owned());
        document
    }

    /// Whether there are hosts, and none of them answered.
    pub fn without_answers(&self) -> bool {
        !self.hosts.is_empty() && self.answered() == 0
    }

    /// How many hosts answered.
    pub fn answered(&self) -> usize {
        self.hosts.len() - self.count(HostStatus::Unreachable) - self.count(HostStatus::Unknown)
    }

    /// What has drifted; there is no plan that a hash could name.
    pub fn of_drift(planned: &[Planned]) -> Self {
        let mut document = Self::of_plan(planned);
        document.drift = true;
        document.note = document.note.map(|_| "no host answered: nothing was compared".to_owned());
        document.hosts.iter_mut().for_each(|host| host.plan = None);
        document
    }

    /// What came of hosts outside of any run.
    pub fn of_outcomes(outcomes: &[HostOutcome]) -> Self {
        Self::new(None, entries(outcomes))
    }

    /// What a run did.
    pub fn of_run(run: &str, outcomes: &[HostOutcome]) -> Self {
        Self::new(Some(run.to_owned()), entries(outcomes))
    }

    /// How many hosts have a status.
    pub fn count(&self, status: HostStatus) -> usize {
        self.hosts.iter().filter(|h| h.status == status).count()
    }

    /// Whether hosts were changed, or may have been.
    pub fn is_run(&self) -> bool {
        self.run.is_some() || !self.runs.is_empty()
    }

    /// Several as one, as of shards: the hosts of all, in the order given.
    pub fn together(documents: Vec<Document>) -> Self {
        let mut runs: Vec<String> = Vec::new();
        for run in documents.iter().flat_map(|d| d.run.iter().chain(&d.runs)) {
            if !runs.contains(run) {
                runs.push(run.clone());
            }
        }
        let drift = documents.iter().any(|d| d.drift);
        let mut one = Self::new(None, documents.into_iter().flat_map(|d| d.hosts).collect());
        one.drift = drift;
        match runs.len() {
            1 => one.run = runs.pop(),
            _ => one.runs = runs,
        }
        one
    }
}

/// What equal plans say, each text made once.
#[derive(Default)]
struct Texts<'a> {
    /// Equal plans share the lines of their diffs. The diff that is kept beside its text keeps the address its own.
    diffs: HashMap<*const Vec<DiffLine>, (&'a Diff, Arc<str>)>,
    origins: HashMap<&'a [Origin], Arc<[String]>>,
}

impl<'a> Texts<'a> {
    fn entry(&mut self, change: &'a Change) -> ChangeEntry {
        let diff = &change.diff;
        let known = self.diffs.entry(Arc::as_ptr(&diff.lines));
        let text = known.or_insert_with(|| (diff, diff.text().into())).1.clone();
        let origin = self.origins.entry(&change.origin).or_insert_with(|| places(&change.origin)).clone();
        ChangeEntry::with(change, text, origin)
    }
}

fn places(origins: &[Origin]) -> Arc<[String]> {
    origins.iter().map(ToString::to_string).collect()
}

fn entries(outcomes: &[HostOutcome]) -> Vec<HostEntry> {
    let mut texts = Texts::default();
    outcomes.iter().map(|outcome| HostEntry::of_outcome(outcome, &mut texts)).collect()
}

impl HostEntry {
    /// What a plan says of its host.
    pub fn of_plan(plan: &HostPlan) -> Self {
        Self::of_host_plan(plan, &mut Texts::default())
    }

    fn of_planned<'a>(planned: &'a Planned, texts: &mut Texts<'a>) -> Self {
        match &planned.result {
            Ok(plan) => Self::of_host_plan(plan, texts),
            Err(outcome) => Self::of_outcome(outcome, texts),
        }
    }

    fn of_host_plan<'a>(plan: &'a HostPlan, texts: &mut Texts<'a>) -> Self {
        let (status, reason, message, hint) = match &plan.verdict {
            HostVerdict::Unchanged => (HostStatus::Unchanged, None, None, None),
            HostVerdict::Changes => (HostStatus::Changed, None, None, None),
            HostVerdict::Refused(refusal) => {
                let status = if refusal.is_failure() { HostStatus::Failed } else { HostStatus::Refused };
                let hint = refusal.hint().map(str::to_owned);
                (status, Some(refusal.reason.clone()), Some(refusal.message.clone()), hint)
            }
        };
        Self { name: plan.host.clone(), status, reason, message, hint, ..Self::details(plan, texts) }
    }

    fn of_outcome<'a>(outcome: &'a HostOutcome, texts: &mut Texts<'a>) -> Self {
        let details = outcome.plan.as_deref().map(|plan| Self::details(plan, texts));
        let (plan, changes, impact, unchanged_flows, warnings) = details
            .map_or_else(Default::default, |d| (d.plan, d.changes, d.impact, d.unchanged_flows, d.warnings));
        Self {
            name: outcome.host.clone(),
            status: outcome.status,
            reason: outcome.reason.clone(),
            message: outcome.message.clone(),
            hint: outcome.hint.clone(),
            plan,
            changes,
            impact,
            unchanged_flows,
            warnings,
        }
    }

    fn details<'a>(plan: &'a HostPlan, texts: &mut Texts<'a>) -> Self {
        let (impact, unchanged_flows) =
            plan.impact.iter().map(ImpactEntry::from).partition(ImpactEntry::is_change);
        Self {
            name: plan.host.clone(),
            status: HostStatus::Unchanged,
            reason: None,
            message: None,
            hint: None,
            plan: (!plan.changes.is_empty()).then(|| plan.transaction_files.hash()),
            changes: plan.changes.iter().map(|change| texts.entry(change)).collect(),
            impact,
            unchanged_flows,
            warnings: plan
                .warnings
                .iter()
                .map(|w| WarningEntry {
                    code: w.code.as_str().to_owned(),
                    message: w.message.clone(),
                    origin: w.origin.as_ref().map(ToString::to_string),
                })
                .collect(),
        }
    }
}

impl ImpactEntry {
    fn is_change(&self) -> bool {
        self.before != self.after
    }
}

impl From<&ImpactLine> for ImpactEntry {
    fn from(line: &ImpactLine) -> Self {
        Self {
            flow: line.flow.clone(),
            before: line.before,
            after: line.after,
            by: line.by.clone(),
            origin: line.origin.as_ref().map(ToString::to_string),
        }
    }
}

impl ChangeEntry {
    /// The entry of a change.
    pub fn of(change: &Change) -> Self {
        Self::with(change, change.diff.text().into(), places(&change.origin))
    }

    fn with(change: &Change, diff: Arc<str>, origin: Arc<[String]>) -> Self {
        Self {
            kind: change.kind,
            resource: change.resource.clone(),
            action: change.action,
            diff,
            origin,
            risks: change.risks.clone(),
            lines: change.diff.lines.clone(),
        }
    }

    /// The lines; those of a document that was read back have no origins.
    pub fn lines(&self) -> Vec<DiffLine> {
        if !self.lines.is_empty() {
            return self.lines.to_vec();
        }
        self.diff
            .lines()
            .filter_map(|line| {
                let mut chars = line.chars();
                let sign = chars.next()?;
                Some(DiffLine { sign, text: chars.as_str().strip_prefix(' ')?.to_owned(), origin: None })
            })
            .collect()
    }
}
