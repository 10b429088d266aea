//! One JSON object for each line: what happens while it happens. `--format jsonl` prints the lines, a
//! run keeps the same ones as `events.jsonl`.

use super::document::{ChangeEntry, ImpactEntry, WarningEntry};
use super::{Document, HostEntry, Renderer};
use crate::engine::{EngineEvent, HostStatus, STRAGGLER};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One line of the stream.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// What.
    #[serde(flatten)]
    pub event: EventEntry,
}

/// What a line tells; more kinds and more keys may come.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventEntry {
    /// The first line of every stream.
    Start {
        /// Version of this format; increases when readers have to change.
        version: u32,
        /// Version of kvmfw.
        kvmfw: String,
        /// `plan`, `drift`, `apply`, `undo`, `repair`, `bootstrap` or `show`.
        command: String,
        /// Name of the run, if hosts may be changed.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        run: Option<String>,
    },
    /// The probes start.
    Observing {
        /// Number of hosts.
        hosts: usize,
    },
    /// The probe of a host has succeeded or failed.
    Observed {
        /// Name of the host.
        host: String,
        /// Reason for the failure.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        error: Option<String>,
    },
    /// The plan of a host, with the keys of a host in the JSON document. A `straggler` has a second one after the
    /// line `applying`, which replaces the first.
    Planned {
        /// Status of the host; `changed` if there are changes.
        #[serde(flatten)]
        outcome: HostStatusFields,
        /// Hash of the plan.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        plan: Option<String>,
        /// Changes of the host.
        changes: Vec<ChangeEntry>,
        /// What packets gain and lose.
        #[serde(default)]
        #[schemars(required)]
        impact: Vec<ImpactEntry>,
        /// Warnings about the host.
        warnings: Vec<WarningEntry>,
    },
    /// The first hosts are about to be changed.
    Applying {
        /// Number of hosts.
        hosts: usize,
        /// Number of failures after which no further host is started.
        max_fail: usize,
    },
    /// A batch starts.
    Batch {
        /// Number of the batch, counted from 1.
        number: usize,
        /// Number of batches, as far as known: all stragglers together count as one.
        of: usize,
    },
    /// A host starts a step of its transaction.
    Step {
        /// Name of the host.
        host: String,
        /// `probing` before the line `applying`, and of a straggler also after it; `staging`, `applying`,
        /// `confirming` and `soaking` after it.
        step: String,
        /// Seconds after which the guard rolls back without a further message.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        guard: Option<u64>,
    },
    /// A host is finished.
    Done {
        /// Outcome of the host.
        #[serde(flatten)]
        outcome: HostStatusFields,
    },
    /// A remark; with `-v` also each connection.
    Note {
        /// Text for people.
        message: String,
    },
    /// The input is invalid; no host was probed.
    Error {
        /// Stable code of the problem.
        code: String,
        /// Text for people.
        message: String,
        /// `file:line:column`.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        place: Option<String>,
        /// How to correct the input.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        help: Option<String>,
    },
    /// The last line, with the number of hosts in each status and the exit code.
    Summary {
        /// Counts, as in the JSON document.
        #[schemars(with = "BTreeMap<String, u64>")]
        summary: serde_json::Map<String, serde_json::Value>,
        /// Exit code of kvmfw.
        exit: u8,
    },
}

/// Status of a host with its reason, as a plan and the end of a host have it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HostStatusFields {
    /// Name of the host.
    pub host: String,
    /// Status in a plan (`changed` if there are changes), or outcome of a run.
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
}

impl HostStatusFields {
    fn of(host: &HostEntry) -> Self {
        let HostEntry { name, status, reason, message, hint, .. } = host.clone();
        Self { host: name, status, reason, message, hint }
    }

    /// The same as the entry of a document.
    fn entry(self) -> HostEntry {
        let Self { host: name, status, reason, message, hint } = self;
        HostEntry {
            name,
            status,
            reason,
            message,
            hint,
            plan: None,
            changes: Vec::new(),
            impact: Vec::new(),
            unchanged_flows: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Line {
    /// The version of the stream that this kvmfw writes.
    pub const VERSION: u32 = 2;

    /// Its JSON Schema, draft-07. Keys and events may come, so others than these are allowed.
    pub fn schema() -> serde_json::Value {
        let settings = schemars::generate::SchemaSettings::draft07();
        settings.into_generator().into_root_schema_for::<Line>().to_value()
    }

    /// The line, with its end.
    pub fn text(&self) -> String {
        format!("{}\n", serde_json::to_string(self).unwrap_or_default())
    }
}

impl EventEntry {
    /// The first line.
    pub fn start(command: &str, run: Option<&str>) -> Self {
        Self::Start {
            version: Line::VERSION,
            kvmfw: env!("CARGO_PKG_VERSION").to_owned(),
            command: command.to_owned(),
            run: run.map(str::to_owned),
        }
    }

    /// Lines of an event of the engine.
    pub fn of(event: &EngineEvent) -> Vec<Self> {
        vec![match event {
            EngineEvent::Observing(hosts) => Self::Observing { hosts: *hosts },
            EngineEvent::Observed(host, error) => Self::Observed { host: host.clone(), error: error.clone() },
            EngineEvent::Planned(plans) => {
                return plans.iter().map(|plan| Self::planned(&HostEntry::of_plan(plan))).collect();
            }
            EngineEvent::Applying { hosts, max_fail } => {
                Self::Applying { hosts: *hosts, max_fail: *max_fail }
            }
            EngineEvent::Batch { number, of } => Self::Batch { number: *number, of: *of },
            EngineEvent::Step(host, step, guard) => {
                Self::Step { host: host.clone(), step: (*step).to_owned(), guard: guard.map(|g| g.as_secs()) }
            }
            EngineEvent::Done(outcome) => Self::Done {
                outcome: HostStatusFields {
                    host: outcome.host.clone(),
                    status: outcome.status,
                    reason: outcome.reason.clone(),
                    message: outcome.message.clone(),
                    hint: outcome.hint.clone(),
                },
            },
            EngineEvent::Note(message) | EngineEvent::Detail(message) => {
                Self::Note { message: message.clone() }
            }
            EngineEvent::Drain(_) => return Vec::new(),
        }]
    }

    /// What a plan says of a host.
    pub fn planned(host: &HostEntry) -> Self {
        Self::Planned {
            outcome: HostStatusFields::of(host),
            plan: host.plan.clone(),
            changes: host.changes.clone(),
            impact: host.impact.clone(),
            warnings: host.warnings.clone(),
        }
    }

    /// How a host ended.
    pub fn done(host: &HostEntry) -> Self {
        Self::Done { outcome: HostStatusFields::of(host) }
    }
}

/// Renders a finished document as the events that make it.
pub struct Jsonl {
    /// When.
    pub time: String,
    /// The exit code that goes with it.
    pub exit: u8,
}

impl Renderer for Jsonl {
    fn render(&self, document: &Document) -> String {
        let mut events = vec![EventEntry::start("show", document.run.as_deref())];
        events.extend(document.hosts.iter().map(EventEntry::planned));
        if document.is_run() {
            events.extend(document.hosts.iter().map(EventEntry::done));
        }
        events.push(EventEntry::Summary { summary: document.summary.clone(), exit: self.exit });
        let line = |event| Line { time: self.time.clone(), event }.text();
        events.into_iter().map(line).collect()
    }
}

/// What can be read of a stream: its last line may be cut off, and what cannot be read tells nothing.
fn entries(events: &str) -> impl Iterator<Item = EventEntry> {
    events.lines().filter_map(|line| Some(serde_json::from_str::<Line>(line).ok()?.event))
}

/// What was planned in a run, with the plans of those hosts that had not answered when the others began.
pub fn with_stragglers(plan: &Document, events: &str) -> Document {
    let mut later = BTreeMap::new();
    for event in entries(events) {
        if let EventEntry::Planned { outcome, plan, changes, impact, warnings } = event {
            let name = outcome.host.clone();
            later.insert(name, HostEntry { plan, changes, impact, warnings, ..outcome.entry() });
        }
    }
    let entry = |host: &HostEntry| match later.remove(&host.name) {
        Some(outcome) if host.reason.as_deref() == Some(STRAGGLER) => outcome,
        _ => host.clone(),
    };
    let mut document = Document::new(plan.run.clone(), plan.hosts.iter().map(entry).collect());
    document.drift = plan.drift;
    document
}

/// What came of a run whose controller did not live to say it: from its plan and its events.
pub fn fold_events(plan: &Document, events: &str) -> Document {
    let mut done = BTreeMap::new();
    let mut begun = BTreeSet::new();
    for event in entries(events) {
        match event {
            EventEntry::Done { outcome } => drop(done.insert(outcome.host.clone(), outcome)),
            // A probe changes nothing, and a straggler is still probed while other hosts are changed.
            EventEntry::Step { host, step, .. } if step != "probing" => drop(begun.insert(host)),
            _ => {}
        }
    }
    let plan = with_stragglers(plan, events);
    let said = |text: &str| Some(text.to_owned());
    let end = |host: &HostEntry| {
        let interrupted = HostStatusFields { reason: said("interrupted"), ..HostStatusFields::of(host) };
        let outcome = match done.get(&host.name) {
            Some(outcome) => outcome.clone(),
            None if begun.contains(&host.name) => HostStatusFields {
                status: HostStatus::Unknown,
                message: said("kvmfw ended before this host reported its outcome; its guard decides"),
                hint: said("kvmfw status"),
                ..interrupted
            },
            None if host.status == HostStatus::Changed => HostStatusFields {
                status: HostStatus::Skipped,
                message: said("kvmfw ended before this host was started"),
                hint: None,
                ..interrupted
            },
            None if host.reason.as_deref() == Some(STRAGGLER) => HostStatusFields {
                message: said("kvmfw ended before this host answered"),
                ..HostStatusFields::of(host)
            },
            None => HostStatusFields::of(host),
        };
        let HostEntry { plan, changes, impact, warnings, .. } = host.clone();
        HostEntry { plan, changes, impact, warnings, ..outcome.entry() }
    };
    Document::new(plan.run.clone(), plan.hosts.iter().map(end).collect())
}

/// What a stream of events tells, complete or cut off.
///
/// Errors: it is none, or it tells of wrong input; a sentence.
pub fn document_of(events: &str) -> Result<Document, String> {
    let lines: Vec<EventEntry> = entries(events).collect();
    let Some(EventEntry::Start { version, command, run, .. }) = lines.first() else {
        return Err("not a stream of events".to_owned());
    };
    if *version > Line::VERSION {
        return Err(format!(
            "version {version} is not supported, this kvmfw reads version {} and older",
            Line::VERSION
        ));
    }
    let (mut hosts, mut changing, mut ended) = (Vec::new(), false, Vec::new());
    let mut known = BTreeSet::new();
    for event in &lines {
        match event.clone() {
            // The second entry of a straggler is found below.
            EventEntry::Planned { outcome, plan, changes, impact, warnings }
                if known.insert(outcome.host.clone()) =>
            {
                hosts.push(HostEntry { plan, changes, impact, warnings, ..outcome.entry() });
            }
            // Hosts that were not planned: they could not be asked which they are.
            EventEntry::Done { outcome } => ended.push(outcome),
            EventEntry::Applying { hosts, .. } => changing |= hosts > 0,
            EventEntry::Error { message, place, .. } => {
                let place = place.map_or_else(String::new, |place| format!("{place}: "));
                return Err(format!("the stream reports wrong input: {place}{message}"));
            }
            _ => {}
        }
    }
    let is_run = !ended.is_empty() || changing;
    hosts.extend(
        ended.into_iter().filter(|outcome| !known.contains(&outcome.host)).map(HostStatusFields::entry),
    );
    let mut plan = Document::new(run.clone().filter(|_| changing), hosts);
    plan.drift = command == "drift";
    Ok(if is_run { fold_events(&plan, events) } else { plan })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::HostOutcome;

    #[test]
    fn lines_as_they_are_published() {
        let line = |event| Line { time: "2026-11-24T12:00:00Z".into(), event }.text();
        assert_eq!(
            line(EventEntry::Step { host: "kvm1".into(), step: "confirming".into(), guard: Some(60) }),
            "{\"time\":\"2026-11-24T12:00:00Z\",\"event\":\"step\",\"host\":\"kvm1\",\"step\":\"confirming\",\"guard\":60}\n"
        );
        let outcome = HostOutcome::new("kvm1", HostStatus::RolledBack).reason("rolled-back");
        assert_eq!(
            line(EventEntry::of(&EngineEvent::Done(outcome)).remove(0)),
            "{\"time\":\"2026-11-24T12:00:00Z\",\"event\":\"done\",\"host\":\"kvm1\",\"status\":\"rolled-back\",\"reason\":\"rolled-back\"}\n"
        );
    }

    #[test]
    fn a_run_that_was_cut_off() {
        let names = ["kvm1", "kvm2", "kvm3", "kvm4"];
        let outcomes = names.map(|n| HostOutcome::new(n, HostStatus::Changed));
        let mut plan = Document::of_run("r1", &outcomes);
        plan.hosts[3].status = HostStatus::Unreachable;
        let line = |event| Line { time: String::new(), event }.text();
        let step = |host: &str, step: &str| {
            line(EventEntry::Step { host: host.into(), step: step.into(), guard: None })
        };
        let events = [
            step("kvm3", "probing"),
            line(EventEntry::Applying { hosts: 3, max_fail: 1 }),
            step("kvm1", "staging"),
            line(EventEntry::done(&plan.hosts[0])),
            step("kvm2", "staging"),
            "{\"time\":\"2026".to_owned(),
        ];
        let end = fold_events(&plan, &events.concat());
        let statuses: Vec<HostStatus> = end.hosts.iter().map(|h| h.status).collect();
        let all = [HostStatus::Changed, HostStatus::Unknown, HostStatus::Skipped, HostStatus::Unreachable];
        assert_eq!(statuses, all);

        // The same from the stream alone.
        let mut stream = line(EventEntry::start("apply", Some("r1")));
        plan.hosts.iter().for_each(|host| stream += &line(EventEntry::planned(host)));
        let alone = document_of(&(stream.clone() + &events.concat())).unwrap();
        assert_eq!(alone.run.as_deref(), Some("r1"));
        assert_eq!(alone.hosts.iter().map(|h| h.status).collect::<Vec<_>>(), all);
        // Before anything was touched there is no run.
        assert_eq!(document_of(&stream).unwrap().run, None);
        assert!(document_of("{}\n").is_err());
    }

    /// A host that had not answered when the others began tells its plan later, and may then be changed as well.
    #[test]
    fn a_run_that_was_cut_off_with_a_host_that_was_late() {
        let line = |event| Line { time: String::new(), event }.text();
        let step =
            |step: &str| line(EventEntry::Step { host: "kvm2".into(), step: step.into(), guard: None });
        let plan = Document::of_run(
            "r1",
            &[
                HostOutcome::new("kvm1", HostStatus::Changed),
                HostOutcome::new("kvm2", HostStatus::Unreachable).reason(STRAGGLER).message("no answer yet"),
            ],
        );
        let changed = Document::of_run("r1", &[HostOutcome::new("kvm2", HostStatus::Changed)]);
        let then = HostEntry { plan: Some("h2".into()), ..changed.hosts[0].clone() };
        let stream = [
            line(EventEntry::start("apply", Some("r1"))),
            plan.hosts.iter().map(|host| line(EventEntry::planned(host))).collect(),
            line(EventEntry::Applying { hosts: 2, max_fail: 1 }),
            line(EventEntry::done(&plan.hosts[0])),
            step("probing"),
            line(EventEntry::planned(&then)),
            step("staging"),
        ];
        for (lines, status, planned) in [
            (5, HostStatus::Unreachable, None),
            (6, HostStatus::Skipped, Some("h2")),
            (7, HostStatus::Unknown, Some("h2")),
        ] {
            let events = stream[..lines].concat();
            for end in [fold_events(&plan, &events), document_of(&events).unwrap()] {
                let host = &end.hosts[1];
                assert_eq!((host.status, host.plan.as_deref()), (status, planned), "after {lines} lines");
                let message = host.message.as_deref().unwrap();
                assert!(message.starts_with("kvmfw ended before"), "after {lines} lines: {message}");
                assert_eq!(end.hosts.len(), 2);
            }
        }
        let shown = with_stragglers(&plan, &stream.concat());
        assert_eq!((shown.hosts[1].status, shown.count(HostStatus::Changed)), (HostStatus::Changed, 2));
    }

    #[test]
    fn a_stream_that_names_wrong_input() {
        let error = EventEntry::Error {
            code: "bad-limit".into(),
            message: "`x` matches no host".into(),
            place: None,
            help: None,
        };
        let stream: String = [EventEntry::start("check", None), error]
            .into_iter()
            .map(|event| Line { time: String::new(), event }.text())
            .collect();
        assert_eq!(document_of(&stream).unwrap_err(), "the stream reports wrong input: `x` matches no host");
    }
}
