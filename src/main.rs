//! The kvmfw command.

use std::process::ExitCode;

fn main() -> ExitCode {
    kvmfw::cli::run()
}
