//! What a hostile host answers to the probe, up to the plan that is made of it.
#![no_main]

use kvmfw::inventory::{self, ProjectLocation};
use kvmfw::host_state::{ProbeSections, observe};
use kvmfw::plan::{self, PlanOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let text = text.replace('\u{1}', "\n@n ");
    let sections = ProbeSections::split(&text, "n");
    let Ok(observed) = observe(&sections, "") else { return };
    let locate = ProjectLocation { dir: Some("/nonexistent".into()), ..ProjectLocation::default() };
    let yaml = "hosts: { a: { bridges: { br0: { ports: [eth0], addresses: ['10.0.0.1/24'], take_addresses: true } } } }\n\
                groups: { all: { modules: [host-firewall, bridge-bypass, bridge-accept-each] } }\n";
    let Ok(project) = inventory::load_text(&locate, "fuzz", yaml) else { return };
    let Ok(desired) = kvmfw::resolve::compile(&project, &["a".to_owned()]) else { return };
    for desired in &desired {
        let _ = plan::host(desired, &observed, &PlanOptions::default());
    }
});
