//! WHY: what a host does with packets, and why guests are unreachable. Pure: from what was observed,
//! and, if asked, from what is desired.

mod bridges;
mod context;
mod draw;
mod drawing;
mod expectations;
mod log;
mod log_line;
mod mermaid;
mod other_filters;
mod path;
mod remedies;
mod routing;
mod samples;
mod settings;

pub use bridges::{BlockedReport, BridgeReport, FamilyReport, PortReport, UndecidedReport, bridges};
pub use context::{ExplainContext, RulePlace};
pub use draw::svg;
pub use expectations::{
    ExpectationReport, ExpectationState, broken_live, broken_offline, judge_expectation, judge_plan,
};
pub use log::{LogGroup, LogReport, LogSide, read_log};
pub use log_line::LogLine;
pub use mermaid::mermaid;
pub use path::{CommonVerdict, FinalVerdict, HookReport, PacketReport, PacketRoute, RuleHit, packet_reports};
pub use remedies::{GuestRemedy, remedies};
pub use settings::rp_filter;

use serde::Serialize;

/// The answers about one host.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HostExplanation {
    /// The host.
    pub name: String,
    /// `live` or `desired`.
    pub state: &'static str,
    /// Its bridges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<BridgeReport>,
    /// The packets that were asked about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packets: Vec<PacketReport>,
    /// What its log says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogReport>,
    /// The remedies, where guests are unreachable.
    #[serde(rename = "cures", skip_serializing_if = "Vec::is_empty")]
    pub remedies: Vec<GuestRemedy>,
    /// Other tables that packets pass, and that may drop them too.
    #[serde(rename = "others", skip_serializing_if = "Vec::is_empty")]
    pub other_tables: Vec<String>,
}
