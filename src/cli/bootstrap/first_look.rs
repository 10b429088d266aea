//! The first look at a host, and the question for its key before it.

use super::BootstrapArgs;
use crate::apply::{Engine, HostOutcome};
use crate::cli::{Code, Common, exit, setup};
use crate::desired::Desired;
use crate::observe::Observed;
use crate::transport::TransportError;
use crate::transport::host_key::{self, HostKey};

/// Looks at the host; where ssh does not know its key, that comes first.
pub(super) async fn look(
    common: &Common,
    args: &BootstrapArgs,
    engine: Engine,
    desired: Desired,
) -> Result<Result<Box<Observed>, HostOutcome>, u8> {
    let fail = |error: TransportError| {
        setup::complain(&format!("{}: {error}", args.shown()));
        exit::UNREACHABLE
    };
    let mut key = None;
    if let Some(right) = &args.host_key_fingerprint {
        let found = host_key::fetch(&desired.connection).await.map_err(fail)?;
        if found.fingerprint != *right {
            setup::complain(&format!(
                "{}: the host key is {} {}, not {right}; nothing was done",
                args.shown(),
                found.kind,
                found.fingerprint
            ));
            return Err(exit::LEFT_ALONE);
        }
        key = Some(found);
    }
    let observed = engine.look(&desired).await;
    if !observed.as_ref().err().is_some_and(unknown_key) {
        return Ok(observed);
    }
    let key = match key {
        Some(key) => key,
        None => {
            let found = host_key::fetch(&desired.connection).await.map_err(fail)?;
            engine.drained().await;
            tokio::task::block_in_place(|| trust(common, args, &found))?;
            found
        }
    };
    let file = host_key::remember(&desired.connection, &key).await.map_err(fail)?;
    if !common.quiet {
        setup::complain(&format!("The key of {} is in {} now.", args.shown(), file.display()));
    }
    Ok(engine.look(&desired).await)
}

fn unknown_key(outcome: &HostOutcome) -> bool {
    outcome.message.as_deref().is_some_and(host_key::is_unknown)
}

/// Only a person, or a fingerprint from one, can say that a key is right; `--yes` cannot.
fn trust(common: &Common, args: &BootstrapArgs, key: &HostKey) -> Code {
    let what = format!("{}: its host key is not known yet: {} {}", args.shown(), key.kind, key.fingerprint);
    if common.yes || !setup::can_ask() {
        setup::complain(&format!(
            "{what}\nIf that is the right one, say so: --host-key-fingerprint {}",
            key.fingerprint
        ));
        return Err(exit::LEFT_ALONE);
    }
    setup::complain(&what);
    setup::ask(common, "Is that the right one?")
}
