//! The first look at a host, and the question for its key before it.

use super::BootstrapArgs;
use crate::cli::{CliError, Common, console, prompt};
use crate::engine::{Engine, HostOutcome};
use crate::host_state::Observed;
use crate::resolve::Desired;
use crate::ssh::TransportError;
use crate::ssh::host_key::{self, HostKey, Known};

/// Looks at the host; where ssh does not know its key, that comes first. Who asks for a key does not log in, and an sshd
/// may ban an address for that (PerSourcePenalties): it is asked once, and only where nobody here knows the key.
pub(super) async fn look(
    common: &Common,
    args: &BootstrapArgs,
    engine: Engine,
    desired: Desired,
) -> Result<Result<Box<Observed>, HostOutcome>, CliError> {
    let fail = |error: TransportError| CliError::unreachable(format!("{}: {error}", args.shown()));
    let known = match args.local {
        true => Known::Unclear,
        false => host_key::known(&desired.connection).await,
    };
    let right = args.host_key_fingerprint.as_ref();
    let may_be_right = match &known {
        Known::Keys(keys) => right.is_none_or(|right| keys.contains(right)),
        Known::Nothing => false,
        Known::Unclear => right.is_none(),
    };
    if may_be_right {
        let observed = engine.observe(&desired).await;
        if !observed.as_ref().err().is_some_and(unknown_key) {
            return Ok(observed);
        }
    }
    let key = host_key::fetch(&desired.connection).await.map_err(fail)?;
    match right {
        Some(right) => same(args, &key, right)?,
        None => {
            engine.drain_events().await;
            tokio::task::block_in_place(|| trust(common, args, &key))?
        }
    };
    if !may_be_right && known != Known::Nothing {
        // Known by a key of another kind, perhaps.
        let observed = engine.observe(&desired).await;
        if !observed.as_ref().err().is_some_and(unknown_key) {
            return Ok(observed);
        }
    }
    let file = host_key::remember(&desired.connection, &key).await.map_err(fail)?;
    if !common.quiet {
        console::notice(&format!("Added the host key of {} to {}.", args.shown(), file.display()));
    }
    Ok(engine.observe(&desired).await)
}

fn same(args: &BootstrapArgs, key: &HostKey, right: &str) -> Result<(), CliError> {
    if key.fingerprint == right {
        return Ok(());
    }
    Err(CliError::left_alone(format!(
        "{}: the host key is {} {}, not {right}; nothing was changed",
        args.shown(),
        key.kind,
        key.fingerprint
    )))
}

fn unknown_key(outcome: &HostOutcome) -> bool {
    outcome.message.as_deref().is_some_and(host_key::is_unknown)
}

/// Only a person, or a fingerprint from one, can say that a key is right; `--yes` cannot.
fn trust(common: &Common, args: &BootstrapArgs, key: &HostKey) -> Result<(), CliError> {
    let what = format!("{}: unknown host key {} {}", args.shown(), key.kind, key.fingerprint);
    if common.yes || !prompt::can_ask() {
        return Err(CliError::left_alone(format!(
            "{what}\nVerify it on the host; then pass --host-key-fingerprint {}",
            key.fingerprint
        )));
    }
    console::notice(&what);
    prompt::ask(common, "accept it", "Is this the key of the host?")
}
