//! Levels of lints against hosts: what is denied refuses, what is allowed is not reported.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::Project;

const HOST: &str = "kvm1";

fn codes(json: &serde_json::Value) -> Vec<&str> {
    let warnings = json["hosts"][0]["warnings"].as_array().unwrap();
    warnings.iter().map(|warning| warning["code"].as_str().unwrap()).collect()
}

#[test]
fn denied_lints_refuse_the_host_and_allowed_ones_are_not_reported() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let all = |lints: &str| {
        format!(
            "lints: {{ {lints} }}\niptables:\n  filter:\n    INPUT:\n      rules: |\n        -p tcp --dport 22 -j ACCEPT\n        \
             -s 10.0.0.0/8 -j DROP\n        -s 10.0.0.1 -j ACCEPT\n"
        )
    };
    let project = Project::new(&lab, &[HOST], &all(""));
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0).json();
    assert!(codes(&plan).contains(&"dead-rule"), "{plan:#}");

    project.all(&all("dead-rule: deny"));
    let before = lab.dump(HOST);
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(7).json();
    let host = &plan["hosts"][0];
    assert_eq!((&host["status"], &host["reason"]), (&"refused".into(), &"lint".into()), "{plan:#}");
    let message = host["message"].as_str().unwrap();
    assert!(message.contains("dead-rule: ") && message.contains("inventories/lab.yaml:"), "{message}");
    let apply = project.kvmfw(&lab, &["apply", "-y"]).expect(7);
    assert!(apply.stdout.contains("lints: { CODE: warn }"), "{}{}", apply.stdout, apply.stderr);
    common::same(&before, &lab.dump(HOST), "a refused apply");

    // The command line outranks the inventory, also in a saved plan.
    let saved = project.path().join("saved.json");
    let saved = saved.to_str().unwrap();
    let plan = project
        .kvmfw(&lab, &["plan", "--allow", "dead-rule", "-o", saved, "--format", "json"])
        .expect(0)
        .json();
    assert!(!codes(&plan).contains(&"dead-rule"), "{plan:#}");
    project.kvmfw(&lab, &["apply", saved]).expect(0);

    // What was applied is refused as well, as long as it is denied; the way back is not.
    project.kvmfw(&lab, &["plan"]).expect(7);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
}
