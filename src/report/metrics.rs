//! Metrics in the text format of Prometheus, for the textfile collector of node_exporter.

use super::{Document, HostEntry, Renderer};
use crate::engine::HostStatus;
use crate::problem::LintCode;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The metric that outlives a run: a host that fails now keeps the time of its last success.
const LAST_SUCCESS: &str = "kvmfw_host_last_success_timestamp_seconds";

/// Metrics of a plan or a run.
pub struct Metrics {
    /// What was done: `plan`, `apply`, …
    pub command: &'static str,
    /// When it ended, in seconds since 1970.
    pub time: f64,
    /// How long it took, in seconds.
    pub duration: f64,
    /// Last success of each host, in seconds since 1970, from the metrics before.
    pub last_success: BTreeMap<String, f64>,
}

/// Reads when each host was last a success, from metrics that were written before.
pub fn last_success(text: &str) -> BTreeMap<String, f64> {
    let prefix = format!("{LAST_SUCCESS}{{host=\"");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&prefix)?.rsplit_once("\"} "));
    // Names of hosts have no character that is escaped.
    lines.filter_map(|(host, time)| Some((host.to_owned(), time.parse().ok()?))).collect()
}

/// Whether nothing went wrong on a host; a host that has drifted is no success.
fn is_success(drift: bool, host: &HostEntry) -> bool {
    host.status == HostStatus::Unchanged || host.status == HostStatus::Changed && !drift
}

fn warnings(host: &HostEntry, code: LintCode) -> usize {
    host.warnings.iter().filter(|warning| warning.code == code.as_str()).count()
}

impl Renderer for Metrics {
    fn render(&self, document: &Document) -> String {
        let command = self.command;
        let mut text = String::new();
        let mut metric = |name: &str, help: &str, values: Vec<(String, f64)>| {
            if values.is_empty() {
                return;
            }
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{{{labels}}} {value}");
            }
        };
        let of_command = || format!("command=\"{command}\"");
        metric(
            "kvmfw_run_timestamp_seconds",
            "When the command ended.",
            vec![(of_command(), self.time.round())],
        );
        metric(
            "kvmfw_run_duration_seconds",
            "How long the command took.",
            vec![(of_command(), self.duration)],
        );
        let hosts = HostStatus::ALL.into_iter().map(|status| {
            let count = u32::try_from(document.count(status)).unwrap_or(u32::MAX);
            (format!("command=\"{command}\",status=\"{}\"", status.as_str()), f64::from(count))
        });
        metric("kvmfw_hosts", "Hosts by status.", hosts.collect());
        let each = |value: &dyn Fn(&HostEntry) -> usize| -> Vec<(String, f64)> {
            let value = |host: &HostEntry| f64::from(u32::try_from(value(host)).unwrap_or(u32::MAX));
            document
                .hosts
                .iter()
                .map(|host| (format!("host=\"{}\"", label(&host.name)), value(host)))
                .collect()
        };
        let status = document.hosts.iter().map(|host| {
            let (name, status) = (label(&host.name), host.status.as_str());
            let reason = label(host.reason.as_deref().unwrap_or_default());
            (format!("host=\"{name}\",command=\"{command}\",status=\"{status}\",reason=\"{reason}\""), 1.0)
        });
        metric(
            "kvmfw_host_status",
            "Status of each host, as labels; the value is always 1.",
            status.collect(),
        );
        let changes = |host: &HostEntry| if is_pending(command, host) { host.changes.len() } else { 0 };
        match document.drift {
            true => metric("kvmfw_host_drift", "Changes of each host since its last apply.", each(&changes)),
            false => {
                metric("kvmfw_host_pending_changes", "Changes that each host still needs.", each(&changes))
            }
        }
        metric(
            "kvmfw_host_guests_unreachable",
            "Findings of each host about guests that are, or would be, unreachable.",
            each(&|host| warnings(host, LintCode::GuestsUnreachable)),
        );
        metric(
            "kvmfw_host_expectations_broken",
            "Expectations of each host that do not hold.",
            each(&|host| warnings(host, LintCode::ExpectationBroken)),
        );
        let mut times = self.last_success.clone();
        times.extend(
            document
                .hosts
                .iter()
                .filter(|host| is_success(document.drift, host))
                .map(|h| (h.name.clone(), self.time.round())),
        );
        let times = times.into_iter().map(|(host, time)| (format!("host=\"{}\"", label(&host)), time));
        metric(LAST_SUCCESS, "When a command last succeeded on each host.", times.collect());
        text
    }
}

/// Whether the changes of a host are still to be made: a run has made those of a changed host.
fn is_pending(command: &str, host: &HostEntry) -> bool {
    matches!(command, "plan" | "drift") || host.status != HostStatus::Changed
}

/// A value of a label, as the format wants it.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
