//! Counts per fault and step.

use crate::fault::{Fault, Step};
use crate::run::{Plan, Seen};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

#[derive(Default)]
pub struct Table {
    /// Runs that came to the step: ended old, ended new.
    counts: BTreeMap<(Fault, Step), [u64; 2]>,
    runs: u64,
    missed: u64,
}

impl Table {
    pub fn count(&mut self, plan: &Plan, seen: Seen) {
        self.runs += 1;
        let cell = self.counts.entry((plan.fault, plan.step)).or_default();
        match seen {
            Seen::Old => cell[0] += 1,
            Seen::New => cell[1] += 1,
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
        let _ = writeln!(text, "\n{} runs ended before their step", self.missed);
        text
    }

    /// For the book.
    pub fn page(&self, seed: u64, violations: usize) -> String {
        let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
        let commit = commit.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        let mut page = format!(
            "# Chaos\n\n<!-- Written by CHAOS_BOOK=book/src/chaos.md cargo test --test chaos. -->\n\nRandom changes, with a random fault at a random step of the transaction. After each run the host answers a new SSH\nconnection, its live state and what it boots are exactly the old or exactly the new ones, what was said is true, and the\nnext apply works.\n\nSeed {seed}, commit {commit}: {} runs, {violations} violations. {} runs ended before they came to their step. A cell says\nhow many runs ended old / new; an empty one is a fault that means nothing at that step.\n\n| fault |",
            self.runs, self.missed
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
