//! What must hold after any fault.

use crate::common::project::Run;
use crate::desired::{Desired, Sick};
use crate::fault::{Fault, Step};
use crate::host::{HOST, Host};
use crate::run::Plan;
use std::collections::HashMap;
use std::path::PathBuf;

pub struct Look<'a> {
    pub host: &'a Host,
    pub plan: &'a Plan,
    pub before: String,
    pub booted_before: String,
    pub folder: Option<PathBuf>,
    /// Where the transaction stood when the fault struck.
    pub struck: Option<Step>,
    pub run: Run,
    pub second: Option<Run>,
}

impl Look<'_> {
    fn violated(&self, what: &str) -> ! {
        let Run { code, stdout, stderr, took } = &self.run;
        let second =
            self.second.as_ref().map(|s| format!("\nthe second said {}: {}{}", s.code, s.stdout, s.stderr));
        panic!("{what}\nkvmfw said {code} after {took:?}: {stdout}{stderr}{}", second.unwrap_or_default())
    }

    fn same(&self, one: &str, other: &str, what: &str) {
        let (one, other) =
            (crate::common::without_empty_tables(one), crate::common::without_empty_tables(other));
        if one != other {
            let lines: Vec<String> = difference(&one, &other);
            self.violated(&format!("{what}\n{}", lines.join("\n")));
        }
    }

    fn status(&self, run: &Run) -> String {
        let json: Option<serde_json::Value> = serde_json::from_str(&run.stdout).ok();
        json.and_then(|j| Some(j["hosts"][0]["status"].as_str()?.to_owned())).unwrap_or_default()
    }

    /// All of it. `true`: the new state is there, `false`: the old one.
    pub fn check(&self, known: &mut HashMap<Desired, String>) -> bool {
        let host = self.host;
        let config = host.lab.dir().join("ssh_config");
        let fresh = host.lab.exec(&["ssh", "-F", config.to_str().unwrap(), HOST, "true"]);
        if !fresh.success() {
            self.violated(&format!("the host answers no fresh SSH connection: {}", fresh.stderr));
        }

        // An open transaction that nobody watches is allowed only where all guards were killed.
        let open = host.path("/var/lib/kvmfw/open").is_symlink();
        if open && self.plan.fault != Fault::Guards {
            self.violated("a transaction was left open");
        }
        let mut truth = self.told(open);
        if !open && host.busy() {
            self.violated(&format!("something of ours runs on: {:?}", host.processes("/kvmfw.sh ")));
        }

        let mut live = host.dump();
        self.of_others(&live);
        let mut boots = host.boots();
        if self.plan.boot || self.plan.fault == Fault::Power && self.folder.is_some() {
            host.lab.power_cut(HOST);
            host.lab.boot(HOST);
            let booted = host.dump();
            if !open {
                self.same(&live, &booted, "what boots is not what is live");
            }
            live = booted;
            boots = host.boots();
        }

        if open {
            if !self.plan.boot {
                // An apply ends it before its question, which nobody answers here.
                let run = host.project.kvmfw(&host.lab, &["apply"]);
                if ![0, 7].contains(&run.code) {
                    self.violated(&format!("an apply does not end it: {}{}", run.stdout, run.stderr));
                }
                live = host.dump();
                boots = host.boots();
            }
            truth = self.told(false);
        }

        // The same again without a fault: what new looks like.
        self.next_apply();
        let new_live = host.dump();
        self.of_others(&new_live);
        let new_boots = host.boots();
        let missing = self.plan.to.missing(&new_live);
        if !missing.is_empty() {
            self.violated(&format!("the next apply left out: {}", missing.join(", ")));
        }
        if let Some(expected) = known.get(&self.plan.to) {
            self.same(expected, &new_live, "the same desired state looked otherwise before");
        }
        known.insert(self.plan.to, new_live.clone());

        let table = |dump: &str| crate::common::without_empty_tables(dump).join("\n");
        let is_new = table(&live) == table(&new_live);
        if !is_new {
            self.same(&self.before, &live, "neither the old state nor the new one is live");
        }
        let kept = if is_new { &new_boots } else { &self.booted_before };
        if without_text(&boots) != without_text(kept) {
            self.violated(&format!(
                "live is {}, but that is not what is kept for the boot",
                if is_new { "new" } else { "old" }
            ));
        }
        if let Some(truth) = truth
            && truth != is_new
        {
            self.violated(&format!("said to be {}, but live is {}", word(truth), word(is_new)));
        }
        if self.plan.sick != Sick::No && is_new {
            self.violated("a change that must not last was made to last");
        }
        is_new
    }

    /// What belongs to others is there, whatever came of the change: a state that lost it would be new
    /// and wrong.
    fn of_others(&self, dump: &str) {
        for port in ["vnet0", "vnet1", "eth1"] {
            let line = dump.lines().find(|l| l.starts_with(&format!("{port} "))).unwrap_or("");
            if !line.contains(" master br123 ") {
                self.violated(&format!("{port} is no port of br123 any more: {line}"));
            }
        }
        for rule in ["-A LIBVIRT_FWX -i virbr0 -o virbr0 -j ACCEPT", "-A FORWARD -j LIBVIRT_FWX"] {
            let times = dump.lines().filter(|l| *l == rule).count();
            if times != 2 {
                self.violated(&format!("an unmanaged rule is there {times} times, not twice: {rule}"));
            }
        }
        if !self.host.lab.guest_ping(HOST, "g0", "192.168.1.2") {
            self.violated("guests do not reach each other");
        }
    }

    fn next_apply(&self) {
        let run = self.host.project.path().join("inventories/lab.yaml");
        assert!(run.exists());
        self.host.settle(&self.plan.to);
    }

    /// What was said: whether the new state is there. Checks that all who speak say the same.
    fn told(&self, open: bool) -> Option<bool> {
        let run = self.host.project.kvmfw(&self.host.lab, &["status", "--format", "json"]);
        if run.code != 0 {
            self.violated(&format!("status: {}{}", run.stdout, run.stderr));
        }
        let json = run.json();
        let id = self.folder.as_ref()?.file_name().unwrap().to_string_lossy().into_owned();
        let transactions = json["hosts"][0]["transactions"].as_array().cloned().unwrap_or_default();
        let state = transactions
            .iter()
            .find(|t| t["id"] == id.as_str())
            .and_then(|t| t["state"].as_str())
            .unwrap_or("")
            .to_owned();
        if open {
            if json["hosts"][0]["open"] != id.as_str() {
                self.violated(&format!("status does not say that it is open: {}", run.stdout));
            }
            return None;
        }
        let by_host = match state.split(':').next().unwrap() {
            "committed" => true,
            "rolled-back" | "released" | "staged" => false,
            // Nothing of it had to last yet.
            "" if self.plan.fault == Fault::Power && self.struck < Some(Step::Armed) => false,
            _ => self.violated(&format!("status says `{state}` of it")),
        };
        let said = self.status(&self.run);
        let code = match said.as_str() {
            "changed" => 0,
            "rolled-back" | "failed" => 4,
            "unreachable" => 5,
            "unknown" => 6,
            "refused" => 7,
            _ => self.run.code,
        };
        if code != self.run.code {
            self.violated(&format!("it exits with {} for {said}", self.run.code));
        }
        let said = match said.as_str() {
            "changed" => Some(true),
            "rolled-back" | "failed" | "refused" | "unreachable" => Some(false),
            _ => None,
        };
        if said.is_some_and(|s| s != by_host) {
            self.violated(&format!("kvmfw said {}, the host says {state}", word(!by_host)));
        }
        // The second one may have had its turn after the first.
        let second = self.second.as_ref().is_some_and(|s| self.status(s) == "changed");
        Some(by_host || second)
    }
}

fn word(new: bool) -> &'static str {
    if new { "new" } else { "old" }
}

/// The record has the inventory's words in it, and a check among them is no difference of state.
fn without_text(kept: &str) -> String {
    kept.lines()
        .filter(|l| !l.starts_with("\"desired.json\"") && !l.starts_with([' ', '{', '}']))
        .collect::<Vec<_>>()
        .join("\n")
}

fn difference(one: &[&str], other: &[&str]) -> Vec<String> {
    let gone = one.iter().filter(|l| !other.contains(l)).map(|l| format!("- {l}"));
    let new = other.iter().filter(|l| !one.contains(l)).map(|l| format!("+ {l}"));
    let all: Vec<String> = gone.chain(new).collect();
    // A link has some two hundred keys of its own; they come and go with it.
    let (keys, mut rest): (Vec<String>, Vec<String>) =
        all.into_iter().partition(|l| l.contains("/br9/") || l.contains("/tap9/"));
    rest.extend(keys.first().map(|k| format!("{k} … and {} more", keys.len() - 1)));
    rest
}
