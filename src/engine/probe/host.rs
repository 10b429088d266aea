//! Probes one host.

use super::jump_addresses::JumpAddresses;
use crate::engine::client::{HostClient, PROBE_TIMEOUT};
use crate::engine::dialer::Dialer;
use crate::engine::events::{EngineEvent, EventSender};
use crate::engine::failures::{observed_or_failed, transport_failed};
use crate::engine::outcome::HostOutcome;
use crate::expectation::PacketEndpoint;
use crate::explain;
use crate::host::{self, Nonce, Question};
use crate::host_state::Observed;
use crate::plan::{self, PlanOptions};
use crate::protocol;
use crate::resolve::Desired;
use crate::ssh::Room;

/// What was observed, with the memory budget that it uses until it is planned.
type Observation = Result<(Box<Observed>, Room), HostOutcome>;

/// Probes a host, and returns its connection. With `recover`, an abandoned transaction is ended first, so that the plan
/// is made against the state that it leaves.
pub(in crate::engine) async fn probe_host(
    dialer: &Dialer,
    events: &EventSender,
    desired: &Desired,
    options: &PlanOptions,
    jump_addresses: &JumpAddresses,
    recover: bool,
) -> (Observation, Option<HostClient>) {
    let host = &desired.host;
    events.emit(EngineEvent::Step(host.clone(), "probing", None));
    let client = match dialer.connect(host, &desired.connection).await {
        Ok(session) => HostClient::new(session),
        Err(error) => return (Err(transport_failed(host, &error)), None),
    };
    let result = observe_over(&client, events, desired, options, jump_addresses).await;
    let is_open = result.as_ref().is_ok_and(|(observed, _)| observed.state.open.is_some());
    if recover && is_open && end_abandoned(&client, events, host).await {
        events.emit(EngineEvent::Note(format!("{host}: ended an abandoned transaction first")));
        // The second answer needs the memory budget of the first one.
        drop(result);
        return (observe_over(&client, events, desired, options, jump_addresses).await, Some(client));
    }
    (result, Some(client))
}

/// Ends a transaction without a living guard. Returns whether there was one.
async fn end_abandoned(client: &HostClient, events: &EventSender, host: &str) -> bool {
    let document = |nonce: &Nonce| host::console(nonce, "recover", "");
    let Ok(response) = client.timed_request(host, events, document, PROBE_TIMEOUT).await else {
        return false;
    };
    response.sections().value(protocol::RECOVERED, "ended") == Some("yes")
}

async fn observe_over(
    client: &HostClient,
    events: &EventSender,
    desired: &Desired,
    options: &PlanOptions,
    jump_addresses: &JumpAddresses,
) -> Observation {
    let host = &desired.host;
    let addresses = if options.drift { "" } else { jump_addresses.get().await };
    let document = |nonce: &Nonce| probe_document(nonce, desired, options, addresses);
    let response = client
        .timed_request(host, events, document, PROBE_TIMEOUT)
        .await
        .map_err(|error| transport_failed(host, &error))?;
    let observed = observed_or_failed(host, response.observed())?;
    Ok((Box::new(observed), response.into_room()))
}

fn probe_document(nonce: &Nonce, desired: &Desired, options: &PlanOptions, jump_addresses: &str) -> String {
    let expects = !desired.expectations.is_empty();
    if options.drift {
        return host::probe_applied(nonce, expects, names_guests(desired));
    }
    let (want, keys) = plan::probe_request(desired);
    let sets = plan::set_headers(desired);
    let question = Question {
        want: [&want[0], &want[1]],
        keys: &with_packet_keys(keys, desired),
        sets: &sets,
        vlans: plan::needs_vlans(desired),
        jump_hosts: jump_addresses,
        // Boot files may load adopted rules again, or may lack rules that a rollback gives back.
        boot_files: options.adopt || options.restore.is_some(),
        packet_settings: expects,
        guests: names_guests(desired),
    };
    host::probe(nonce, &question)
}

/// The document that observes a host once a change is applied, for its expectations.
pub(in crate::engine) fn packets_document(nonce: &Nonce, desired: &Desired) -> String {
    let (_, keys) = plan::probe_request(desired);
    let question = Question {
        want: ["", ""],
        keys: &with_packet_keys(keys, desired),
        sets: "",
        vlans: false,
        jump_hosts: "",
        boot_files: false,
        packet_settings: true,
        guests: names_guests(desired),
    };
    host::probe(nonce, &question)
}

/// Adds the key that counts for every link beside its own.
fn with_packet_keys(mut keys: String, desired: &Desired) -> String {
    if !desired.expectations.is_empty() {
        keys.push_str(&explain::rp_filter("all"));
        keys.push('\n');
    }
    keys
}

/// Whether an expectation may name a guest: programs have to be asked for those.
fn names_guests(desired: &Desired) -> bool {
    let is_name = |end: &PacketEndpoint| matches!(end, PacketEndpoint::Name(_));
    desired.expectations.iter().any(|one| is_name(&one.from) || is_name(&one.to.endpoint))
}
