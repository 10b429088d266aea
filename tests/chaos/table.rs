//! Counts per fault and step.

use crate::fault::{Fault, Step};
use crate::run::{Plan, Seen};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

/// What the page says before the numbers.
const HEAD: &str = "\
# Chaos

<!-- Written by CHAOS_BOOK=book/src/chaos.md cargo test --test chaos. -->

Random changes of random hosts (nft or legacy, dash, bash or busybox, with and without `systemd-run`), with a
random fault at a random step of the transaction. One change in four must be rolled back: one of its checks fails, or it
blocks new SSH connections. In a power cut, the disk of a host loses all writes that were not synced. After each run:

- the host answers a new SSH connection;
- its live state is exactly the old or exactly the new one, and so is its boot state;
- ports of guests and unmanaged rules are unchanged, and guests reach each other;
- the output and the exit code of kvmfw agree with `status` and with the state of the host; no process of kvmfw is left on the host;
- the next apply succeeds. (If all processes died before arming, it needs `unlock` first.)

A cell counts the runs that ended with the old / new state. In an empty cell, the fault has no meaning at that step.";

#[derive(Default)]
pub struct Table {
    /// Runs that came to the step: ended old, ended new.
    counts: BTreeMap<(Fault, Step), [u64; 2]>,
    runs: u64,
    missed: u64,
    late: u64,
    commit: String,
}

impl Table {
    /// An empty one, of the commit that is checked out now.
    pub fn new() -> Self {
        let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
        let commit = commit.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        Self { commit, ..Self::default() }
    }

    pub fn count(&mut self, plan: &Plan, seen: Seen) {
        self.runs += 1;
        match seen {
            Seen::Struck(step, new) => {
                self.counts.entry((plan.fault, step)).or_default()[usize::from(new)] += 1;
                self.late += u64::from(step != plan.step);
            }
            Seen::Missed => self.missed += 1,
            Seen::Broken => {}
        }
    }

    pub fn runs(&self) -> u64 {
        self.runs
    }

    pub fn missed(&self) -> u64 {
        self.missed
    }

    fn cell(&self, fault: Fault, step: Step) -> String {
        if !fault.steps().contains(&step) {
            return String::new();
        }
        let [old, new] = self.counts.get(&(fault, step)).copied().unwrap_or_default();
        format!("{old}/{new}")
    }

    /// For the screen.
    pub fn text(&self) -> String {
        let mut text = format!("{:26}", "old/new");
        for step in Step::ALL {
            let _ = write!(text, " {step:>9.9}");
        }
        for fault in Fault::ALL {
            let _ = write!(text, "\n{fault:26}");
            for step in Step::ALL {
                let _ = write!(text, " {:>9}", self.cell(*fault, *step));
            }
        }
        let _ = writeln!(
            text,
            "\n{} runs struck a later step than was meant, and count there; {} struck nothing",
            self.late, self.missed
        );
        text
    }

    /// For the book.
    pub fn page(&self, seed: u64, violations: usize) -> String {
        let commit = &self.commit;
        let mut page = format!(
            "{HEAD}\n\nSeed {seed}, commit {commit}: {} runs, {violations} violations. {} struck a later step than was meant, and count\nthere; {} struck nothing.\n\n| fault |",
            self.runs, self.late, self.missed
        );
        for step in Step::ALL {
            let _ = write!(page, " {step} |");
        }
        page += "\n|---|";
        page += &"---|".repeat(Step::ALL.len());
        for fault in Fault::ALL {
            let _ = write!(page, "\n| {fault} |");
            for step in Step::ALL {
                let _ = write!(page, " {} |", self.cell(*fault, *step));
            }
        }
        page.push('\n');
        page
    }
}
