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

pub use bridges::{BridgeStory, DarkStory, DoubtStory, FamilyStory, PortStory, bridges};
pub use cures::{Cure, cures};
pub use draw::svg;
pub use log::{LogGroup, LogStory, Side, read_log};
pub use log_line::LogLine;
pub use mermaid::mermaid;
pub use path::{Fate, Hop, Met, Route, Story, story};
pub use question::{End, Question, Transport, destination};
pub use scene::{Extra, Guests, Place, Programs, Scene};
pub use settings::rp_filter;

use serde::Serialize;

/// What is said about one host.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Explanation {
    /// The host.
    pub name: String,
    /// `live` or `desired`.
    pub state: &'static str,
    /// Its bridges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bridges: Vec<BridgeStory>,
    /// The packets that were asked about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packets: Vec<Story>,
    /// What its log says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogStory>,
    /// Where something is in the dark: the ways out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cures: Vec<Cure>,
    /// Other tables that packets pass, and that may drop them too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
}
