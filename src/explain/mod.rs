//! WHY: what a host does with packets, and why guests cannot be reached. Pure: from what was observed,
//! and, if asked, from what is desired.

mod beside;
mod bridges;
mod cures;
mod draw;
mod drawing;
mod log;
mod log_line;
mod mermaid;
mod path;
mod question;
mod routing;
mod scene;
mod settings;

pub use bridges::{BlockedReport, BridgeReport, FamilyReport, PortReport, UndecidedReport, bridges};
pub use cures::{GuestRemedy, cures};
pub use draw::svg;
pub use log::{LogGroup, LogReport, LogSide, read_log};
pub use log_line::LogLine;
pub use mermaid::mermaid;
pub use path::{FinalVerdict, HookReport, PacketReport, PacketRoute, RuleHit, story};
pub use question::{PacketEndpoint, PacketQuery, PacketTransport, destination};
pub use scene::{ExplainContext, ExplainProbe, GuestsByPort, OtherPrograms, RulePlace};
pub use settings::rp_filter;

use serde::Serialize;

/// What is said about one host.
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
    /// Where something is in the dark: the ways out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cures: Vec<GuestRemedy>,
    /// Other tables that packets pass, and that may drop them too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
}
