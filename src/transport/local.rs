//! This machine as the host.

use super::{Answer, TransportError, exchange};
use std::process::Stdio;
use tokio::process::Command;

/// `sh` on this machine, which has to run kvmfw as root.
pub struct LocalSession;

impl LocalSession {
    pub(super) async fn run(&self, document: &str) -> Result<Answer, TransportError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(TransportError::Privilege("run kvmfw as root to change this machine".into()));
        }
        let mut child = Command::new("/bin/sh")
            .arg("-s")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| TransportError::Here(format!("cannot run /bin/sh: {e}")))?;
        let answer = exchange(child.stdin.take(), child.stdout.take(), child.stderr.take(), document).await?;
        let _ = child.wait().await;
        Ok(answer)
    }
}
