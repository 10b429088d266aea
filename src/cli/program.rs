//! An inventory that is a program: what it prints is read.

use super::CliError;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// A program that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs it with `--list`, as Ansible runs its own, and gives back what it printed.
///
/// Errors: it cannot be run, fails, hangs, or prints no text; all are said.
pub(super) fn run(path: &Path) -> Result<String, CliError> {
    let fail = |why: String| CliError::bad_input(format!("{}: {why}", path.display()));
    let path_of: PathBuf = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| fail(format!("cannot be run: {error}")))?;
    let output = runtime.block_on(async {
        let mut command = tokio::process::Command::new(path_of);
        command.arg("--list").stdin(Stdio::null()).kill_on_drop(true);
        tokio::time::timeout(LIMIT, command.output()).await
    });
    let output = match output {
        Err(_) => return Err(fail(format!("has not ended after {}s", LIMIT.as_secs()))),
        Ok(Err(error)) => return Err(fail(format!("cannot be run: {error}"))),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last =
            said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it printed no error message");
        return Err(fail(format!("failed ({}): {}", output.status, crate::report::printable(last))));
    }
    String::from_utf8(output.stdout).map_err(|_| fail("its output is not UTF-8 text".to_owned()))
}
