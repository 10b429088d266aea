//! strace on the sshd of a host: what everything does that comes over SSH, and what outlives it.

use super::Lab;
use super::transaction::wait;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A trace that runs.
pub struct Trace {
    tracer: Child,
    log: PathBuf,
}

/// Begins to trace these calls of a host's sshd and all that descends from it.
pub fn trace(lab: &Lab, host: &str, calls: &str) -> Trace {
    let sshd = fs::read_to_string(lab.dir().join("hosts").join(host).join("pid")).unwrap();
    let sshd = sshd.split_whitespace().next().unwrap();
    let log = lab.dir().join("trace");
    let tracer = Command::new("strace")
        .args(["-f", "-qq", "-e", &format!("trace={calls}"), "-o", log.to_str().unwrap(), "-p", sshd])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let traced = format!("/proc/{sshd}/status");
    wait("the trace", Duration::from_secs(60), || {
        let status = fs::read_to_string(&traced).unwrap();
        (!status.contains("TracerPid:\t0\n")).then_some(())
    });
    Trace { tracer, log }
}

impl Trace {
    /// Ends it, and tells the calls, a line each.
    pub fn end(mut self) -> String {
        Command::new("kill").arg(self.tracer.id().to_string()).status().unwrap();
        self.tracer.wait().unwrap();
        fs::read_to_string(&self.log).unwrap()
    }
}
