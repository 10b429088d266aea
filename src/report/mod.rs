//! Plans, events and outcomes in; text and JSON out. Knows nothing of how they came about.

mod board;
mod document;
mod excerpt;
mod explain;
mod facts;
mod findings;
mod fold;
mod group;
mod human;
mod impact;
mod json;
mod jsonl;
mod junit;
mod markdown;
mod metrics;
pub mod outlet;
mod problems;
mod progress;
mod screen;
mod severity;
mod style;

pub use board::Board;
pub use document::{ChangeEntry, Document, HostEntry, ImpactEntry, WarningEntry};
pub use excerpt::excerpt;
pub use explain::explanation_text;
pub use facts::{Fact, facts_text};
pub use findings::warnings_text;
pub use fold::fold_names;
pub use human::{Human, Part, counted, hosts};
pub use impact::impact_lines;
pub use json::Json;
pub use jsonl::{EventEntry, Jsonl, Line, document_of, fold_events, with_stragglers};
pub use junit::Junit;
pub use markdown::{GITHUB_LIMIT, LEAST_LIMIT, Markdown};
pub use metrics::{Metrics, last_success};
pub use problems::{problems_json, problems_jsonl, problems_text};
pub use progress::{Progress, ProgressMode, print_above_progress, print_final};
pub use style::{Style, printable};

/// A form in which a document is written; each has a file of its own.
pub trait Renderer {
    /// The document in this form, complete.
    fn render(&self, document: &Document) -> String;
}
