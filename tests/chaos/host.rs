//! One lab host, its project, and a way past kvmfw to its processes and its disk.

use crate::common::project::{Project, Run};
use crate::common::{self, Backend, Lab, Shell};
use crate::desired::{Desired, Sick};
use crate::random::Random;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

pub const HOST: &str = "kvm1";

pub struct Host {
    pub lab: Lab,
    pub project: Project,
    /// Whether it takes itself for run by systemd.
    pub services: bool,
    /// What somebody typed at its console and that may still run.
    typed: RefCell<Vec<Child>>,
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in self.typed.borrow_mut().iter_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Host {
    pub fn up(random: &mut Random) -> Self {
        let backend = random.of_these(&[Backend::Nft, Backend::Legacy]);
        let shell = random.of_these(&[Shell::Dash, Shell::Bash, Shell::Busybox]);
        let persistent = random.one_in(2);
        let services = random.one_in(2) && Path::new("/usr/bin/systemd-run").exists();
        let lab = Lab::builder().backend(backend).shell(shell).persistent(persistent);
        let lab = lab.services(services).image(has_loop()).up();
        Self::with(lab, services)
    }

    /// One that is like every other: nft, dash, no systemd, a disk that keeps everything.
    pub fn plain() -> Self {
        Self::with(Lab::builder().up(), false)
    }

    fn with(lab: Lab, services: bool) -> Self {
        let project = Project::new(&lab, &[HOST], "{}");
        let host = Self { lab, project, services, typed: RefCell::default() };
        // Rules of somebody else, which boot as well.
        let unit = "[Unit]\nDefaultDependencies=no\nBefore=network-pre.target\n[Service]\nType=oneshot\nExecStart=/etc/others.sh\n[Install]\nWantedBy=multi-user.target\n";
        let script = "#!/bin/sh\nfor i in iptables ip6tables; do\n$i -N LIBVIRT_FWX; $i -A LIBVIRT_FWX -i virbr0 -o virbr0 -j ACCEPT; $i -A FORWARD -j LIBVIRT_FWX\ndone\nexit 0\n";
        let dir = host.lab.disk(HOST, "/etc/systemd/system");
        fs::write(dir.join("others.service"), unit).unwrap();
        fs::create_dir_all(dir.join("multi-user.target.wants")).unwrap();
        let _ = std::os::unix::fs::symlink(
            "../others.service",
            dir.join("multi-user.target.wants/others.service"),
        );
        fs::write(host.lab.disk(HOST, "/etc/others.sh"), script).unwrap();
        host.lab.host(HOST, &["chmod", "755", "/etc/others.sh"]).ok();
        host.lab.reboot(HOST);
        host
    }

    /// PID 1 of the host, as it is called here.
    fn init(&self) -> String {
        let path = self.lab.dir().join("hosts").join(HOST).join("pid");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split(' ').next().unwrap_or_default().to_owned()
    }

    /// A path as the host's processes see it, mounts and all.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init()))
    }

    pub fn sh(&self, script: &str) -> common::Output {
        self.lab.host(HOST, &["bash", "-c", script])
    }

    /// Folders of transactions.
    pub fn transactions(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.path("/var/lib/kvmfw/txn"));
        folder.map(|f| f.flatten().map(|e| e.path()).collect()).unwrap_or_default()
    }

    /// Processes of the host by what their command line contains: pids as they are called here.
    pub fn processes(&self, contains: &str) -> Vec<u32> {
        self.all_processes(|pid| file_of(pid, "cmdline").contains(contains))
    }

    /// Processes that came out of an SSH session.
    pub fn in_sessions(&self) -> Vec<u32> {
        self.all_processes(|pid| file_of(pid, "environ").contains(" SSH_CONNECTION="))
    }

    fn all_processes(&self, wanted: impl Fn(u32) -> bool) -> Vec<u32> {
        let Ok(init) = self.init().parse() else { return Vec::new() };
        let (mut all, mut todo) = (Vec::new(), vec![init]);
        // Whoever lost its parent is a child of PID 1; what is typed comes in from outside.
        todo.extend(self.typed.borrow().iter().map(Child::id));
        while let Some(pid) = todo.pop() {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let children = tasks.map(|t| fs::read_to_string(t.path().join("children")).unwrap_or_default());
            let children: Vec<u32> = children
                .flat_map(|c| c.split(' ').filter_map(|c| c.parse().ok()).collect::<Vec<_>>())
                .collect();
            all.extend(children.iter().copied().filter(|c| wanted(*c)));
            todo.extend(children);
        }
        all
    }

    /// A command typed at its console, which may take its time.
    pub fn console(&self, command: &str, id: &str) {
        let mut shell = self.lab.host_command(HOST);
        shell
            .args(["sh", "/var/lib/kvmfw/kvmfw.sh", command, id])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.typed.borrow_mut().push(shell.spawn().unwrap());
    }

    pub fn signal(&self, signal: &str, pids: &[u32]) {
        if pids.is_empty() {
            return;
        }
        let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
        let _ = std::process::Command::new("kill")
            .arg(signal)
            .args(pids)
            .stderr(std::process::Stdio::null())
            .status();
    }

    /// The generation that an undo of the last apply goes back to.
    pub fn before(&self) -> u64 {
        let before = fs::read_to_string(self.path("/etc/kvmfw/current/before")).unwrap_or_default();
        before.trim().parse().unwrap_or_else(|_| panic!("`{before}` is not a generation"))
    }

    /// Whether anything of ours runs on it, less what watches the rules for some minutes after a boot.
    pub fn busy(&self) -> bool {
        for child in self.typed.borrow_mut().iter_mut() {
            let _ = child.try_wait();
        }
        let watches = self.processes("/kvmfw.sh boot-settle");
        self.processes("/kvmfw.sh ").iter().any(|pid| !watches.contains(pid))
    }

    /// Whether somebody watches an open transaction.
    pub fn guarded(&self) -> bool {
        !self.processes("/kvmfw.sh guard ").is_empty()
    }

    /// Live state: all but our own records.
    pub fn dump(&self) -> String {
        // The connection's own traces and, on hosts with iptables-persistent, nothing else moves.
        let dump = self.lab.dump_without(HOST, &["/etc/kvmfw", "/etc/mtab"]);
        // A bridge that is made anew gets a new MAC, one without ports finds out late that it has no
        // carrier, and one that had a port keeps that one's limits.
        let plain = dump
            .lines()
            .filter(|l| !(l.contains("br9") && (l.contains("fe80::") || l.contains("multicast ff00::"))))
            .map(|l| {
                if !l.starts_with("br9 ") {
                    return if l.contains(" dev br9 ") { l.replace(" linkdown", "") } else { l.to_owned() };
                }
                let mut words: Vec<&str> = l.split(' ').filter(|w| !w.starts_with('<')).collect();
                for word in
                    ["link/ether", "bridge_id", "designated_root", "state", "tso_max_size", "tso_max_segs"]
                {
                    if let Some(at) = words.iter().position(|w| *w == word) {
                        words.remove(at + 1);
                    }
                }
                words.join(" ")
            });
        plain.collect::<Vec<_>>().join("\n") + "\n"
    }

    /// What boots, as kvmfw keeps it.
    pub fn boots(&self) -> String {
        fn walk(folder: &Path, out: &mut Vec<String>) {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    walk(&path, out);
                } else if !path.ends_with("owner") {
                    out.push(format!(
                        "{:?} {}",
                        path.file_name().unwrap(),
                        fs::read_to_string(&path).unwrap_or_default()
                    ));
                }
            }
        }
        let mut all = Vec::new();
        let etc = self.path("/etc/kvmfw");
        if let Ok(current) = fs::read_link(etc.join("current")) {
            walk(&etc.join(current), &mut all);
        }
        all.sort();
        all.join("\n")
    }

    /// Brings it to a state, without a fault.
    #[track_caller]
    pub fn settle(&self, desired: &Desired) -> Run {
        self.project.all(&desired.yaml(Sick::No));
        let args = ["apply", "-y", "--apply-timeout", "30s", "--confirm-timeout", "30s", "--format", "json"];
        let run = self.project.kvmfw(&self.lab, &args);
        assert_eq!(run.code, 0, "the next apply needs help:\n{}{}", run.stdout, run.stderr);
        run
    }

    /// What is left to look at after a violation.
    pub fn traces(&self) -> String {
        let script = "cd /var/lib/kvmfw; echo open: $(readlink open); cat lock boot.failed; tail -n 5 history; for t in $(ls -1t txn | head -n 2); do echo \"== $t\"; cd txn/$t; tail -n 12 journal log error reason done decision claim generation; cd ../..; done";
        let output = self.sh(script);
        let console = self.lab.console(HOST);
        let last: Vec<&str> = console
            .lines()
            .filter(|l| !l.contains("publickey") && !l.contains("isconnect"))
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .take(40)
            .collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        format!("{}{}\nconsole:\n{}", output.stdout, output.stderr, last.join("\n"))
    }
}

/// One of those texts of a process in which zeros divide the words.
fn file_of(pid: u32, name: &str) -> String {
    let text = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let text: Vec<u8> = text.into_iter().map(|b| if b == 0 { b' ' } else { b }).collect();
    format!(" {}", String::from_utf8_lossy(&text))
}

/// Whether a host can have a disk that loses what was not synced. Without loop devices all is kept, and
/// a sync that is missing stays unseen.
pub fn has_loop() -> bool {
    static HAS: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        let free = std::process::Command::new("losetup").arg("-f").output();
        let has = free.is_ok_and(|o| o.status.success());
        if !has {
            common::tell("SKIPPED: no loop devices, so power cuts keep what was never synced");
        }
        has
    });
    *HAS
}
