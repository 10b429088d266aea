//! `kvmfw unlock`

use super::{CliResult, Common, console, exit, load, prompt, runtime};
use crate::engine::TransactionState;
use crate::host;
use crate::protocol;
use crate::report::printable;
use clap::Args;

/// Arguments of `unlock`.
#[derive(Debug, Args)]
pub(super) struct UnlockArgs {
    /// The host
    host: String,
}

pub(super) fn run(common: &Common, args: &UnlockArgs) -> CliResult {
    let hosts = load::named(common, &args.host)?;
    let names: Vec<&str> = hosts.iter().map(|(_, host)| host.as_str()).collect();
    prompt::ask(common, "unlock", &format!("Roll back the open transaction on {}?", names.join(", ")))?;
    let (answers, _) =
        runtime::engine(common, runtime::settings(common, "unlock"), None, |engine| async move {
            let document = |nonce: &host::Nonce| host::console(nonce, "unlock", "unlocked by the operator");
            engine
                .request(hosts, document, |s| {
                    s.get(protocol::END).map(|_| TransactionState::read(s).unwrap_or(TransactionState::None))
                })
                .await
        })?;
    let mut code = exit::DONE;
    for (host, answer) in answers {
        let text = match answer {
            Ok(state) => {
                if !state.is_final() {
                    code = exit::worse(code, exit::UNKNOWN);
                }
                state.words()
            }
            Err(outcome) => {
                code = exit::worse(code, exit::of_outcome(&outcome));
                outcome.message.unwrap_or_default()
            }
        };
        console::print(&format!("{host}: {}\n", printable(&text)));
    }
    Ok(code)
}
