//! What a plan says of guests that will go dark.

use crate::common::project::Run;

/// Message and origin of the forecast for a bridge and a family, of which there must be one.
#[track_caller]
pub fn dark(plan: &Run, bridge: &str, family: &str) -> (String, String) {
    let found: Vec<_> = forecasts(plan)
        .into_iter()
        .filter(|(message, _)| message.contains(bridge) && message.contains(family))
        .collect();
    assert_eq!(found.len(), 1, "forecasts for {bridge} over {family} in {}", plan.stdout);
    found.into_iter().next().unwrap()
}

#[track_caller]
pub fn silent(plan: &Run, cure: &str) {
    assert!(forecasts(plan).is_empty(), "a forecast in spite of {cure}: {}", plan.stdout);
}

#[track_caller]
fn forecasts(plan: &Run) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let document = plan.json();
    let hosts = document["hosts"].as_array().expect("hosts");
    assert_eq!(hosts.len(), 1, "{}", plan.stdout);
    let warnings = hosts[0]["warnings"].as_array().expect("warnings");
    let dark = warnings.iter().filter(|w| w["code"] == "guests-unreachable");
    dark.map(|w| (text(&w["message"]), text(&w["origin"]))).collect()
}
