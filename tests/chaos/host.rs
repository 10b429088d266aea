//! One lab host, its project, and a way past kvmfw to its processes and its disk.

use crate::common::project::{Project, Run};
use crate::common::{self, Backend, Lab, Shell};
use crate::desired::Desired;
use crate::random::Random;
use std::fs;
use std::path::{Path, PathBuf};

pub const HOST: &str = "kvm1";

pub struct Host {
    pub lab: Lab,
    pub project: Project,
}

impl Host {
    pub fn up(random: &mut Random) -> Self {
        let backend = random.of_these(&[Backend::Nft, Backend::Legacy]);
        let shell = random.of_these(&[Shell::Dash, Shell::Bash, Shell::Busybox]);
        let lab = Lab::builder().backend(backend).shell(shell).persistent(random.one_in(2)).up();
        let project = Project::new(&lab, &[HOST], "{}");
        let host = Self { lab, project };
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
        let init = self.init();
        let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let Some(own) = space(&init) else { return Vec::new() };
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|e| e.file_name().into_string().ok())
            .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()) && *pid != init)
            .filter(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line: Vec<u8> = line.into_iter().map(|b| if b == 0 { b' ' } else { b }).collect();
                String::from_utf8_lossy(&line).contains(contains) && space(pid).as_ref() == Some(&own)
            })
            .filter_map(|pid| pid.parse().ok())
            .collect()
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

    /// Whether somebody watches an open transaction.
    pub fn guarded(&self) -> bool {
        !self.processes("/kvmfw.sh guard ").is_empty()
    }

    /// Live state: all but our own records.
    pub fn dump(&self) -> String {
        // The connection's own traces and, on hosts with iptables-persistent, nothing else moves.
        let dump = self.lab.dump_without(HOST, &["/etc/kvmfw", "/etc/mtab"]);
        // A bridge that is made anew gets a new MAC.
        let plain = dump.lines().filter(|l| !(l.contains("br9") && l.contains("fe80::"))).map(|l| {
            if !l.starts_with("br9 ") {
                return l.to_owned();
            }
            let mut words: Vec<&str> = l.split(' ').collect();
            for word in ["link/ether", "bridge_id", "designated_root"] {
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
        self.project.all(&desired.yaml(false));
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
