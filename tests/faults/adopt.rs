//! An adoption that is struck while it is open: the host is wholly as it was or wholly as it is to be, what
//! somebody made by hand stands once or not at all, and nobody on the network notices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::by_hand::{HOST, RULES_V4, by_hand, import, keep, plain, save};
use common::project::Project;
use common::transaction::{self, ended, marked, newest, read, start, wait};
use common::{Backend, Flood, Lab, same};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

/// Held open by its check until `/run/go` is there; the check before anything is touched passes.
const HELD: &str =
    "test -e /run/first || { touch /run/first; exit 0; }; until test -e /run/go; do sleep 0.1; done";

/// A host made by hand that has booted so, and the inventory that says the same.
struct Bench {
    lab: Lab,
    project: Project,
    yaml: String,
    /// The host's state and its rules, before anything.
    original: String,
    rules: String,
}

impl Bench {
    /// With iptables-persistent, whose file brings the rules back at each boot.
    fn new(backend: Backend) -> Option<Self> {
        if !common::require_root() {
            return None;
        }
        let lab = Lab::builder().backend(backend).persistent(true).up();
        let project = Project::new(&lab, &[HOST], "");
        by_hand(&lab);
        lab.power_cut(HOST);
        lab.boot(HOST);
        let (original, rules) = (lab.dump(HOST), plain(&save(&lab)));
        for rule in RULES_V4.lines().filter(|line| line.starts_with("-A ")) {
            assert_eq!(rules.matches(rule).count(), 1, "{rule} is not what the host boots\n{rules}");
        }
        let yaml = import(&project, &lab);
        keep(
            &project,
            &format!("{yaml}    checks: [{{ command: '{HELD}', timeout: 30s, required: true }}]\n"),
        );
        Some(Self { lab, project, yaml, original, rules })
    }

    /// An adoption that has come to a step; from `decision` on it was let go.
    fn open(&self, step: &str) -> (Child, PathBuf) {
        let last = newest(&self.lab, HOST);
        let kvmfw = start(&self.lab, &self.project, &["--adopt"]);
        if matches!(step, "decision" | "done") {
            marked(&self.lab, HOST, "applied", last.as_ref());
            self.on_host(": >/run/go");
        }
        let folder = marked(&self.lab, HOST, if step == "iptables" { "claim" } else { step }, last.as_ref());
        if step == "iptables" {
            wait("the rules are being loaded", Duration::from_secs(60), || {
                read(&folder, "journal").lines().any(|line| line.ends_with(" iptables")).then_some(())
            });
        }
        (kvmfw, folder)
    }

    fn on_host(&self, script: &str) -> String {
        self.lab.host(HOST, &["sh", "-c", script]).ok()
    }

    /// Kills the guards of a transaction: the first of them, or all.
    fn kill_guards(&self, folder: &std::path::Path, all: bool) {
        let id = folder.file_name().unwrap().to_string_lossy().into_owned();
        let script = format!(
            "cd /proc; for p in [0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^[^ ]*sh [^ ]*kvmfw.sh guard {id}' && echo $p; done; true"
        );
        let pids = self.on_host(&script);
        let pids: Vec<&str> = pids.split_whitespace().collect();
        assert!(pids.len() >= 2, "there are two guards, not {pids:?}");
        for pid in pids.into_iter().take(if all { usize::MAX } else { 1 }) {
            self.lab.host(HOST, &["kill", "-KILL", pid]);
        }
    }

    /// Two floods that an adoption must not disturb: over the bridge and to the host.
    fn floods(&self) -> [Flood; 2] {
        [("g0", "192.168.1.2"), ("g0", "192.168.1.254")]
            .map(|(from, to)| common::flood(&self.lab, HOST, from, to))
    }

    /// Not a trace of the attempt.
    fn is_old(&self) {
        assert_eq!(plain(&save(&self.lab)), self.rules);
        same(&self.original, &self.lab.dump(HOST), "the host is as it was");
    }

    /// Ours stand, each once, and of what was by hand nothing.
    fn is_new(&self) {
        let save = save(&self.lab);
        for rule in RULES_V4.lines().filter_map(|line| line.strip_prefix("-A ")) {
            let ours = format!("-A KVMFW-{}", rule.replace("-j RH", "-j KVMFW-RH"));
            assert_eq!(save.matches(&ours).count(), 1, "{ours}\n{save}");
        }
        assert!(!save.contains(" RH-Firewall-1-INPUT"), "{save}");
        let file = self.lab.disk(HOST, "/etc/sysctl.d/60-arp.conf");
        assert!(file.is_symlink(), "the file of sysctl.d is not ours");
    }

    /// What comes next works: the adoption, nothing more to do, and all the way back.
    fn goes_on(&self, adopted: bool) {
        keep(&self.project, &self.yaml);
        if !adopted {
            let pending = self.project.kvmfw(&self.lab, &["plan", "--adopt", "--detailed-exitcode"]);
            assert!(pending.expect(2).stdout.contains("(unmanaged)"));
            self.project.apply(&self.lab, &["--adopt"]).expect(0);
        }
        self.is_new();
        for flags in [&["plan", "--detailed-exitcode"][..], &["plan", "--adopt", "--detailed-exitcode"]] {
            self.project.kvmfw(&self.lab, flags).expect(0);
        }
        let status = self.project.kvmfw(&self.lab, &["status"]).expect(0).stdout;
        assert!(!status.contains("OPEN") && !status.contains("locked by"), "{status}");
        self.project.kvmfw(&self.lab, &["undo", "--to", "0", "-y"]).expect(0);
        self.is_old();
    }
}

fn lost_nothing(floods: [Flood; 2]) {
    for flood in floods {
        flood.run_on(100);
        let (sent, lost) = flood.stop();
        assert!(sent > 50 && lost == 0, "{lost} of {sent} lost");
    }
}

fn kill(mut kvmfw: Child) {
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
}

// --- the controller is killed -----------------------------------------------------------------------

fn controller_killed_at(step: &str, backend: Backend) {
    let Some(bench) = Bench::new(backend) else { return };
    let floods = bench.floods();
    let (kvmfw, folder) = bench.open(step);
    kill(kvmfw);
    if step == "generation" {
        // Nothing is armed, so nobody ends it until its time is over, or somebody comes by.
        let run = bench.project.kvmfw(&bench.lab, &["unlock", HOST, "-y"]).expect(0);
        assert!(run.stdout.contains("released before the change started"), "{}", run.stdout);
    }
    let done = ended(&folder);
    lost_nothing(floods);
    let adopted = step == "decision";
    if adopted {
        assert_eq!(done, "committed");
        bench.is_new();
    } else {
        assert!(done.starts_with("rolled-back") || done.starts_with("released"), "{done}");
        bench.is_old();
    }
    bench.goes_on(adopted);
}

#[test]
fn controller_killed_when_staged() {
    controller_killed_at("generation", Backend::Nft);
}

#[test]
fn controller_killed_when_armed() {
    controller_killed_at("armed", Backend::Legacy);
}

#[test]
fn controller_killed_while_rules_are_loaded_nft() {
    controller_killed_at("iptables", Backend::Nft);
}

#[test]
fn controller_killed_while_rules_are_loaded_legacy() {
    controller_killed_at("iptables", Backend::Legacy);
}

#[test]
fn controller_killed_when_applied_nft() {
    controller_killed_at("applied", Backend::Nft);
}

#[test]
fn controller_killed_when_applied_legacy() {
    controller_killed_at("applied", Backend::Legacy);
}

#[test]
fn controller_killed_when_decided() {
    controller_killed_at("decision", Backend::Nft);
}

// --- guards are killed ------------------------------------------------------------------------------

/// The other one goes on: the adoption is kept as if nothing had been.
#[test]
fn one_guard_killed() {
    let Some(bench) = Bench::new(Backend::Nft) else { return };
    let floods = bench.floods();
    let (kvmfw, folder) = bench.open("applied");
    bench.kill_guards(&folder, false);
    bench.on_host(": >/run/go");
    transaction::end(kvmfw).expect(0);
    lost_nothing(floods);
    bench.is_new();
    bench.goes_on(true);
}

/// Nobody is left: the host stays as it is until the next apply, which ends what it finds first.
fn both_guards_and_the_controller_killed(backend: Backend) {
    let Some(bench) = Bench::new(backend) else { return };
    let floods = bench.floods();
    let (kvmfw, folder) = bench.open("applied");
    kill(kvmfw);
    bench.kill_guards(&folder, true);
    bench.is_new_so_far();
    let run = bench.project.kvmfw(&bench.lab, &["apply", "--adopt"]).expect(7);
    assert!(run.stderr.contains("ended an abandoned transaction first"), "{}", run.stderr);
    assert!(ended(&folder).starts_with("rolled-back"));
    lost_nothing(floods);
    bench.is_old();
    bench.goes_on(false);
}

impl Bench {
    /// The rules are taken over, and it is not decided whether for good.
    fn is_new_so_far(&self) {
        let save = save(&self.lab);
        assert!(!save.contains(" RH-Firewall-1-INPUT"), "{save}");
        let status = self.project.kvmfw(&self.lab, &["status"]).expect(0).stdout;
        assert!(status.contains("a transaction is open"), "{status}");
    }
}

#[test]
fn both_guards_and_the_controller_killed_nft() {
    both_guards_and_the_controller_killed(Backend::Nft);
}

#[test]
fn both_guards_and_the_controller_killed_legacy() {
    both_guards_and_the_controller_killed(Backend::Legacy);
}

// --- power is cut -----------------------------------------------------------------------------------

fn power_cut_at(step: &str, backend: Backend) {
    let Some(bench) = Bench::new(backend) else { return };
    let (kvmfw, folder) = bench.open(step);
    bench.lab.power_cut(HOST);
    kill(kvmfw);
    bench.lab.boot(HOST);
    let done = read(&folder, "done");
    assert!(!done.starts_with("committed"), "{done}");
    if step == "generation" {
        // The folder of the candidate may stay behind: there was nothing yet that could boot, and so nobody to
        // take it away.
        assert_eq!(plain(&save(&bench.lab)), bench.rules);
        let now = bench.lab.dump_without(HOST, &["/etc/kvmfw"]);
        same(&bench.original, &now, "the host is as it was, but for /etc/kvmfw");
    } else {
        bench.is_old();
    }
    bench.goes_on(false);
}

#[test]
fn power_cut_when_staged() {
    power_cut_at("generation", Backend::Legacy);
}

#[test]
fn power_cut_when_armed() {
    power_cut_at("armed", Backend::Nft);
}

#[test]
fn power_cut_while_rules_are_loaded_nft() {
    power_cut_at("iptables", Backend::Nft);
}

#[test]
fn power_cut_while_rules_are_loaded_legacy() {
    power_cut_at("iptables", Backend::Legacy);
}

#[test]
fn power_cut_when_applied_nft() {
    power_cut_at("applied", Backend::Nft);
}

#[test]
fn power_cut_when_applied_legacy() {
    power_cut_at("applied", Backend::Legacy);
}

/// Decided, and the boot file was moved away as the plan had asked: it boots what is to be.
fn power_cut_after_the_decision(step: &str, backend: Backend) {
    let Some(bench) = Bench::new(backend) else { return };
    let away = "mv /etc/iptables/rules.v4 /root/";
    let (kvmfw, folder) = bench.open(step);
    bench.on_host(away);
    bench.lab.power_cut(HOST);
    kill(kvmfw);
    bench.lab.boot(HOST);
    assert_eq!(ended(&folder), "committed");
    bench.is_new();
    keep(&bench.project, &bench.yaml);
    bench.project.kvmfw(&bench.lab, &["plan", "--adopt", "--detailed-exitcode"]).expect(0);
    bench.on_host("mv /root/rules.v4 /etc/iptables/");
    bench.goes_on(true);
}

#[test]
fn power_cut_when_decided() {
    power_cut_after_the_decision("decision", Backend::Nft);
}

#[test]
fn power_cut_when_done() {
    power_cut_after_the_decision("done", Backend::Legacy);
}

/// Nobody has moved the boot file away: what was by hand stands beside ours once more, and only once. It is taken
/// over again, and given back once.
fn the_boot_file_brings_them_back(backend: Backend) {
    let Some(bench) = Bench::new(backend) else { return };
    let (kvmfw, _) = bench.open("done");
    transaction::end(kvmfw).expect(0);
    bench.lab.power_cut(HOST);
    bench.lab.boot(HOST);
    let booted = save(&bench.lab);
    for rule in RULES_V4.lines().filter(|line| line.starts_with("-A ")) {
        assert_eq!(booted.matches(rule).count(), 1, "{rule}\n{booted}");
    }
    assert_eq!(booted.matches("-A KVMFW-RH-Firewall-1-INPUT").count(), 5, "{booted}");
    bench.goes_on(false);
}

#[test]
fn the_boot_file_brings_them_back_nft() {
    the_boot_file_brings_them_back(Backend::Nft);
}

#[test]
fn the_boot_file_brings_them_back_legacy() {
    the_boot_file_brings_them_back(Backend::Legacy);
}
