//! Two controllers at once.

use crate::common::project::Project;
use crate::common::transaction::{end, opened, read, start, wait};
use crate::common::{self, Lab};
use crate::promise::{HOST, id_of, marked, slow};
use std::time::Duration;

#[test]
fn two_at_once() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let first = Project::new(&lab, &[HOST], &slow(80));
    let second = Project::new(&lab, &[HOST], &opened(81));
    let kvmfw = start(&lab, &first, &[]);
    let folder = marked(&lab, "generation", None);
    // While it looks, while it is armed, while it waits: never two.
    for mark in ["generation", "applied"] {
        wait(mark, Duration::from_secs(30), || folder.join(mark).exists().then_some(()));
        let run = second.apply(&lab, &["--format", "json"]).expect(7);
        let host = run.json()["hosts"][0].clone();
        assert_eq!(
            (host["status"].as_str(), host["reason"].as_str()),
            (Some("refused"), Some("locked")),
            "{host}"
        );
        let holder = format!("{} ({}", read(&folder, "owner"), id_of(&folder));
        assert!(host["message"].as_str().unwrap().contains(&holder), "{holder} is not named: {host}");
    }
    let run = end(kvmfw).expect(0);
    assert!(run.stdout.contains("changed         1"), "{}", run.stdout);
    first.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    second.apply(&lab, &[]).expect(0);
}
