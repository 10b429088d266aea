//! Rules in the block of an inventory.
#![no_main]

use kvmfw::inventory::{self, ProjectLocation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut yaml = String::from(
        "hosts: { a: { } }\ngroups:\n  all:\n    iptables:\n      filter:\n        INPUT:\n          rules: |\n",
    );
    for line in text.lines() {
        yaml.push_str("            ");
        yaml.push_str(line);
        yaml.push('\n');
    }
    let locate = ProjectLocation { dir: Some("/nonexistent".into()), ..ProjectLocation::default() };
    if let Ok(project) = inventory::load_text(&locate, "fuzz", &yaml) {
        let _ = kvmfw::resolve::compile(&project, &["a".to_owned()]);
    }
});
