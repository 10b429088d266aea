//! An inventory that anybody may have sent as a merge request.
#![no_main]

use kvmfw::inventory::{self, ProjectLocation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let locate = ProjectLocation { dir: Some("/nonexistent".into()), ..ProjectLocation::default() };
    if let Ok(project) = inventory::load_text(&locate, "fuzz", text) {
        if let Ok(names) = inventory::select(&project, "*") {
            let few: Vec<String> = names.into_iter().take(4).collect();
            let _ = kvmfw::resolve::compile(&project, &few);
        }
    }
});
