//! Plans, events and outcomes in; text and JSON out. Knows nothing of how they came about.

mod board;
mod document;
mod explain;
mod fold;
mod human;
mod problems;
mod progress;
mod style;

pub use board::Board;
pub use document::{ChangeEntry, Document, HostEntry, WarningEntry};
pub use explain::explanation_text;
pub use fold::fold_names;
pub use human::{plan_text, recap_text};
pub use problems::{problems_json, problems_text};
pub use progress::{Progress, ProgressMode};
pub use style::{Style, printable};
