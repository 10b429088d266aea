//! `kvmfw unlock`

use super::{Code, Common, exit, setup};
use crate::apply::TransactionState;
use crate::remote;
use clap::Args;

/// Arguments of `unlock`.
#[derive(Debug, Args)]
pub(super) struct UnlockArgs {
    /// The host
    host: String,
}

pub(super) fn run(common: &Common, args: &UnlockArgs) -> Code {
    let project = setup::project(common)?;
    let names = crate::inventory::select(&project, &args.host)
        .map_err(|p| setup::report(common, &[p], &project.sources))?;
    let desired =
        crate::desired::compile(&project, &names).map_err(|p| setup::report(common, &p, &project.sources))?;
    let hosts: Vec<_> = desired.into_iter().map(|d| (d.connection, d.host)).collect();
    setup::ask(common, &format!("Roll back whatever is open on {}?", names.join(", ")))?;
    let (answers, _) = setup::engine(common, setup::settings(common, "unlock"), |engine| async move {
        let document = |nonce: &remote::Nonce| remote::console(nonce, "unlock", "unlocked by the operator");
        engine
            .ask(hosts, document, |s| Some(TransactionState::read(s).unwrap_or(TransactionState::None)))
            .await
    })?;
    let mut code = exit::DONE;
    for (host, answer) in answers {
        let text = match answer {
            Ok(TransactionState::None) => "nothing is open".to_owned(),
            Ok(TransactionState::RolledBack(reason)) => format!("rolled back ({reason})"),
            Ok(TransactionState::Released(_)) => "released; nothing had been touched".to_owned(),
            Ok(TransactionState::Committed) => "was decided already, and lasts".to_owned(),
            Ok(other) => {
                code = exit::UNKNOWN;
                format!("{other:?}")
            }
            Err(outcome) => {
                code = exit::UNREACHABLE;
                outcome.message.unwrap_or_default()
            }
        };
        setup::print(&format!("{host}: {text}\n"));
    }
    Ok(code)
}
