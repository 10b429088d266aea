//! The harness over the lab (`tests/lab`): hosts that are real except for being namespaces.
//!
//! A test starts with `if !common::require_root() { return; }`, makes its own [`Lab`] and may change
//! everything in it: labs share nothing and are taken down on drop.

#![allow(dead_code, unused_imports, missing_docs)] // every test binary uses another part of it
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod all_shells;
pub mod by_hand;
mod dump;
mod flood;
pub mod project;
mod skip;
pub mod terminal;
pub mod trace;
pub mod transaction;

pub use dump::{same, without_empty_tables};
pub use flood::{Flood, flood};
pub use skip::{require_root, require_tools, tell};

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a command did.
#[derive(Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// Its stdout, after a check that it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{}\nstdout: {}\nstderr: {}", self.status, self.stdout, self.stderr);
        self.stdout
    }
}

/// Which iptables a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Nft,
    Legacy,
}

/// What `/bin/sh` is on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    Dash,
    Bash,
    Busybox,
}

/// Whose order a host's boot reads `sysctl.d` in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysctlOrder {
    Systemd,
    Procps,
}

/// Which part of the traffic between controller and host is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Both,
    /// What the controller sends.
    To,
    /// What the host sends.
    From,
    /// New TCP connections to the host.
    New,
}

/// A lab to be; see [`Lab::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    hosts: u32,
    backend: Backend,
    shell: Shell,
    sysctl_order: SysctlOrder,
    bridges: u32,
    persistent: bool,
    guests: bool,
    image: bool,
    services: bool,
}

impl Builder {
    pub fn hosts(mut self, hosts: u32) -> Self {
        self.hosts = hosts;
        self
    }

    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = backend;
        self
    }

    pub fn shell(mut self, shell: Shell) -> Self {
        self.shell = shell;
        self
    }

    pub fn sysctl_order(mut self, order: SysctlOrder) -> Self {
        self.sysctl_order = order;
        self
    }

    pub fn bridges(mut self, bridges: u32) -> Self {
        self.bridges = bridges;
        self
    }

    /// Whether the hosts have iptables-persistent.
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = persistent;
        self
    }

    pub fn guests(mut self, guests: bool) -> Self {
        self.guests = guests;
        self
    }

    /// Whether each disk is a filesystem of its own, which loses in a power cut what was not synced.
    pub fn image(mut self, image: bool) -> Self {
        self.image = image;
        self
    }

    /// Whether the hosts take themselves for run by systemd, with a stand-in for `systemd-run`.
    pub fn services(mut self, services: bool) -> Self {
        self.services = services;
        self
    }

    /// Brings the lab up, in a folder of its own.
    #[track_caller]
    pub fn up(self) -> Lab {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let lab = Lab { dir: PathBuf::from(format!("/run/lab-t-{}-{n}", std::process::id())) };
        let hosts = self.hosts.to_string();
        let bridges = self.bridges.to_string();
        let mut args = vec![
            "up",
            "-n",
            &hosts,
            "--bridges",
            &bridges,
            "--backend",
            match self.backend {
                Backend::Nft => "nft",
                Backend::Legacy => "legacy",
            },
            "--shell",
            match self.shell {
                Shell::Dash => "dash",
                Shell::Bash => "bash",
                Shell::Busybox => "busybox",
            },
            "--sysctl-order",
            match self.sysctl_order {
                SysctlOrder::Systemd => "systemd",
                SysctlOrder::Procps => "procps",
            },
            "--persistent",
            if self.persistent { "yes" } else { "no" },
            "--disk",
            if self.image { "image" } else { "folder" },
            "--services",
            if self.services { "yes" } else { "no" },
        ];
        if !self.guests {
            args.push("--no-guests");
        }
        lab.must(&args, &[]);
        lab
    }
}

/// A running lab; dropping it takes it down. With `LAB_KEEP` set it stays, to be looked at.
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
}

impl Lab {
    /// One host, nft, dash, one bridge, guests, no iptables-persistent: what is not said stays so.
    pub fn builder() -> Builder {
        Builder {
            hosts: 1,
            backend: Backend::Nft,
            shell: Shell::Dash,
            sysctl_order: SysctlOrder::Systemd,
            bridges: 1,
            persistent: false,
            guests: true,
            image: false,
            services: false,
        }
    }

    /// Brings up a lab of one host with everything as [`Lab::builder`] has it.
    #[track_caller]
    pub fn up() -> Self {
        Self::builder().up()
    }

    /// Where the lab keeps its files: `id_ed25519`, `known_hosts`, `ssh_config`, `hosts/NAME/…`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path on a host's disk, as seen from here; the host may be down.
    pub fn disk(&self, host: &str, path: &str) -> PathBuf {
        self.dir.join("hosts").join(host).join("disk").join(path.trim_start_matches('/'))
    }

    /// What a host's boots and its sshd have printed.
    pub fn console(&self, host: &str) -> String {
        std::fs::read_to_string(self.dir.join("hosts").join(host).join("console.log")).unwrap_or_default()
    }

    /// The address of a host's `eth0`, as the lab gives it to `kvmN`.
    pub fn address(&self, host: &str) -> String {
        let n: u32 = host.strip_prefix("kvm").and_then(|n| n.parse().ok()).expect("kvmN");
        if n <= 240 { format!("10.99.0.{}", 10 + n) } else { format!("10.99.1.{}", n - 240) }
    }

    /// Runs a command on a host, past its network: works behind any lockout.
    pub fn host<S: AsRef<OsStr>>(&self, host: &str, command: &[S]) -> Output {
        self.run(&["host", host], command)
    }

    pub fn guest<S: AsRef<OsStr>>(&self, host: &str, guest: &str, command: &[S]) -> Output {
        self.run(&["guest", host, guest], command)
    }

    pub fn neighbour<S: AsRef<OsStr>>(&self, host: &str, command: &[S]) -> Output {
        self.run(&["neighbour", host], command)
    }

    /// Runs a command where the controller stands, with this process's environment.
    pub fn exec<S: AsRef<OsStr>>(&self, command: &[S]) -> Output {
        self.run(&["exec"], command)
    }

    /// As [`Lab::exec`], for a test that wants to set the environment, feed stdin or kill it: the
    /// command's process is the one that is spawned.
    pub fn exec_command<S: AsRef<OsStr>>(&self, program: S) -> Command {
        let mut command = self.command(&["exec"]);
        command.arg("--").arg(program);
        command
    }

    /// As [`Lab::guest`], not yet run.
    pub fn guest_command(&self, host: &str, guest: &str) -> Command {
        let mut command = self.command(&["guest", host, guest]);
        command.arg("--");
        command
    }

    /// As [`Lab::neighbour`], not yet run.
    pub fn neighbour_command(&self, host: &str) -> Command {
        let mut command = self.command(&["neighbour", host]);
        command.arg("--");
        command
    }

    /// As [`Lab::host`], not yet run.
    pub fn host_command(&self, host: &str) -> Command {
        let mut command = self.command(&["host", host]);
        command.arg("--");
        command
    }

    #[track_caller]
    pub fn cut(&self, host: &str, how: Cut) {
        let how = match how {
            Cut::Both => "both",
            Cut::To => "to",
            Cut::From => "from",
            Cut::New => "new",
        };
        self.must(&["cut", host, how], &[]);
    }

    #[track_caller]
    pub fn mend(&self, host: &str) {
        self.must(&["mend", host], &[]);
    }

    /// Takes the power from a host: processes and kernel state are gone, the disk is kept.
    #[track_caller]
    pub fn power_cut(&self, host: &str) {
        self.must(&["power-cut", host], &[]);
    }

    /// Boots a host that is down, and returns when its sshd listens.
    #[track_caller]
    pub fn boot(&self, host: &str) {
        self.must(&["boot", host], &[]);
    }

    /// SIGTERM to all, then as [`Lab::power_cut`] and [`Lab::boot`].
    #[track_caller]
    pub fn reboot(&self, host: &str) {
        self.must(&["reboot", host], &[]);
    }

    #[track_caller]
    pub fn guests(&self, host: &str, start: bool) {
        self.must(&["guests", host, if start { "start" } else { "stop" }], &[]);
    }

    /// The host's state as text: two are equal if and only if the states are.
    #[track_caller]
    pub fn dump(&self, host: &str) -> String {
        self.dump_without(host, &[])
    }

    /// As [`Lab::dump`], without these paths below `/etc` or `/proc/sys`.
    #[track_caller]
    pub fn dump_without(&self, host: &str, exclude: &[&str]) -> String {
        let mut args = vec!["dump", host];
        for path in exclude {
            args.extend(["--exclude", path]);
        }
        self.must(&args, &[])
    }

    /// The kernel's log lines about this host's and its guests' packets.
    #[track_caller]
    pub fn klog(&self, host: &str) -> String {
        self.must(&["klog", host], &[])
    }

    /// Whether one ping gets through, in a second.
    pub fn guest_ping(&self, host: &str, from: &str, addr: &str) -> bool {
        self.guest(host, from, &["ping", "-n", "-c1", "-W1", addr]).success()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("/bin/bash");
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/lab.sh"))
            .args(args)
            .arg("--dir")
            .arg(&self.dir)
            .stdin(Stdio::null());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, args: &[&str], tail: &[S]) -> Output {
        let mut command = self.command(args);
        if !tail.is_empty() {
            command.arg("--").args(tail);
        }
        let output = command.output().expect("bash runs");
        Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    fn must(&self, args: &[&str], tail: &[&str]) -> String {
        let output = self.run(args, tail);
        assert!(output.success(), "lab.sh {args:?}: {}\n{}{}", output.status, output.stdout, output.stderr);
        output.stdout
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::env::var_os("LAB_KEEP").is_some() {
            eprintln!("the lab stays up: tests/lab/lab.sh down --dir {}", self.dir.display());
            return;
        }
        let output = self.run::<&str>(&["down"], &[]);
        if !output.success() {
            eprintln!("lab.sh down --dir {}: {}", self.dir.display(), output.stderr);
        }
    }
}
