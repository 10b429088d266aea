//! An apply between "applied" and the decision.

use crate::machine::{Machine, end};
use std::process::Child;

/// The words of a firewall with one extra port.
pub fn opened(port: u16) -> String {
    format!(
        "modules: [bridge-bypass, host-firewall]\nbridges: {{ br123: {{ manage: false }} }}\nparams: {{ host-firewall: {{ allow_tcp: [22, {port}] }} }}\n"
    )
}

/// The same with a check that waits for /run/go once it is armed, not before the change.
pub fn held(port: u16) -> String {
    let check = "[ ! -e /var/lib/kvmfw/open ] || until [ -e /run/go ]; do sleep 0.2; done";
    format!("{}checks: [{{ command: '{check}', timeout: 600s }}]\n", opened(port))
}

/// An apply that is applied and not decided.
pub struct Window<'a> {
    machine: &'a Machine,
    kvmfw: Child,
    /// The transaction.
    pub id: String,
}

impl<'a> Window<'a> {
    /// Starts an apply of [`held`], however the inventory logs in, and waits for its window.
    #[track_caller]
    pub fn open(machine: &'a Machine, confirm: &str) -> Self {
        machine.sh("rm -f /run/go");
        let kvmfw = machine.spawn(&["apply", "-y", "--apply-timeout", "300s", "--confirm-timeout", confirm]);
        machine.until("[ -e /var/lib/kvmfw/open/applied ]");
        let id = machine.sh("basename $(readlink /var/lib/kvmfw/open)").trim().to_owned();
        Self { machine, kvmfw, id }
    }

    /// A file of the transaction.
    pub fn file(&self, name: &str) -> String {
        let folder = if name == "deadline" { "/run/kvmfw" } else { "/var/lib/kvmfw/txn" };
        self.machine.sh(&format!("cat {folder}/{}/{name}", self.id))
    }

    /// The guard's process, as systemd knows it.
    pub fn guard(&self) -> String {
        let pid = self.machine.sh(&format!("systemctl show -p MainPID --value kvmfw-{}.service", self.id));
        assert_ne!(pid.trim(), "0", "no guard");
        pid.trim().to_owned()
    }

    /// Lets the check pass, and kvmfw come to its end.
    #[track_caller]
    pub fn commit(self) {
        self.machine.sh("touch /run/go");
        end(self.kvmfw, 0);
    }

    /// The controller is gone: nobody is there to confirm.
    pub fn orphan(&mut self) {
        self.kvmfw.kill().unwrap();
        self.kvmfw.wait().unwrap();
    }

    /// Waits for the host to roll back alone, which it may do neither before its deadline nor much later.
    #[track_caller]
    pub fn rolls_back_in_time(&self) {
        let deadline: i64 = self.file("deadline").trim().parse().unwrap();
        self.machine.until(&format!("[ -e /var/lib/kvmfw/txn/{}/decision ]", self.id));
        let up: f64 = self.machine.sh("cut -d ' ' -f 1 /proc/uptime").trim().parse().unwrap();
        #[allow(clippy::cast_possible_truncation, reason = "centiseconds")]
        let late = (up * 100.0) as i64 - deadline;
        assert!((0..6000).contains(&late), "decided {late} hundredths of a second after the deadline");
        self.machine.until(&format!("[ -s /var/lib/kvmfw/txn/{}/done ]", self.id));
        let done = self.file("done");
        assert!(done.starts_with("rolled-back: nobody confirmed"), "{done}");
    }
}

/// What is live after a power cut or a reboot: exactly one of the two ports.
#[track_caller]
pub fn only_open(machine: &Machine, open: u16, shut: u16) {
    let live = machine.sh("iptables-save");
    let has = |port: u16| live.contains(&format!("--dport {port} "));
    assert!(has(open) && !has(shut), "{open}, not {shut}: {live}");
}
