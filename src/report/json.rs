//! One JSON document.

use super::{Document, Renderer};

/// The document as it is, with a newline at the end.
pub struct Json;

impl Renderer for Json {
    fn render(&self, document: &Document) -> String {
        format!("{}\n", serde_json::to_string_pretty(document).unwrap_or_default())
    }
}
