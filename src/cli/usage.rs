//! Tips for arguments that clap can only reject: words that other tools use for the same thing.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Adds the kvmfw way of saying what was probably meant.
pub(super) fn with_tip(error: &mut clap::Error) {
    let words = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => vec![word.clone()],
        Some(ContextValue::Strings(words)) => words.clone(),
        _ => Vec::new(),
    };
    let tip = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            words(ContextKind::InvalidSubcommand).first().and_then(|word| of_command(word))
        }
        ErrorKind::UnknownArgument => {
            words(ContextKind::InvalidArg).first().and_then(|word| of_argument(word))
        }
        ErrorKind::MissingRequiredArgument
            if words(ContextKind::InvalidArg).iter().any(|word| word == "<RUN>") =>
        {
            Some(
                "name the run, or the generation with --to N, or use --last; `kvmfw history HOST` lists runs and generations"
                    .to_owned(),
            )
        }
        _ => None,
    };
    let Some(tip) = tip else { return };
    // clap's own guesses are by spelling, and these words are no misspellings.
    error.remove(ContextKind::SuggestedSubcommand);
    error.remove(ContextKind::SuggestedArg);
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
}

fn of_command(word: &str) -> Option<String> {
    let tip = match word {
        "destroy" | "remove" | "uninstall" => "to remove all traces of kvmfw, use `kvmfw undo --to 0`",
        "diff" | "preview" | "dry-run" => "to show pending changes, use `kvmfw plan`",
        "rollback" | "revert" | "restore" => "to return to an earlier state, use `kvmfw undo`",
        "validate" | "lint" => "to check the inventory offline, use `kvmfw check`",
        "init" => {
            "to start from a live host, use `kvmfw import HOST` or `kvmfw bootstrap USER@HOST -m MODULE`"
        }
        "version" => "to print the version, use `kvmfw --version`",
        _ => return None,
    };
    Some(tip.to_owned())
}

fn of_argument(word: &str) -> Option<String> {
    match word {
        "--dryrun" | "--dry-run" | "--check" | "--noop" => {
            Some("to show pending changes without applying them, use `kvmfw plan`".to_owned())
        }
        word if !word.starts_with('-') => Some(format!("to select hosts, use `-l {}`", word.escape_debug())),
        _ => None,
    }
}
