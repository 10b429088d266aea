//! The chaos runner: random changes of random hosts, a random fault at a random step of the
//! transaction, and then what must hold whatever happened.
//!
//!   CHAOS_SEED=N   the seed; printed, else from the clock
//!   CHAOS_RUNS=N   how many runs (50)
//!   CHAOS_ONLY=N   only run N of that seed, on a fresh host that is brought to where run N began
//!   CHAOS_THREADS=N  so many hosts at once (2); most of their time is deadlines, so a quiet machine can do more
//!   CHAOS_FAULT=NAME,… CHAOS_STEP=NAME,… CHAOS_SICK=NAME,…  only these faults, steps, ills of the change
//!   CHAOS_STOP=1   ends after the first violation
//!   CHAOS_BOOK=FILE  writes the table as a page of the book, after every twenty runs
//!   KVMFW=PROGRAM  the program under test
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod desired;
mod exhaustive;
mod fault;
mod gate;
mod host;
mod invariants;
mod random;
mod run;
mod table;
mod tracer;

use random::Random;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use table::Table;

/// So many runs share a lab; the first of them meets a host that was never managed.
const PER_LAB: u64 = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: no number")))
}

#[test]
fn nothing_breaks_the_promise() {
    if !common::require_root() {
        return;
    }
    let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() % 1_000_000;
    let seed = number("CHAOS_SEED").unwrap_or_else(clock);
    let runs = number("CHAOS_RUNS").unwrap_or(50);
    let only = number("CHAOS_ONLY");
    let threads = if only.is_some() { 1 } else { number("CHAOS_THREADS").unwrap_or(2) };
    common::tell(&format!("CHAOS_SEED={seed} CHAOS_RUNS={runs}"));
    let start = std::time::Instant::now();
    let next = AtomicU64::new(0);
    let table = Mutex::new(Table::new());
    let violations = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let batch = match only {
                        Some(run) if next.fetch_add(1, Ordering::Relaxed) == 0 => run..run + 1,
                        Some(_) => break,
                        None => {
                            let first = next.fetch_add(1, Ordering::Relaxed) * PER_LAB;
                            first..runs.min(first + PER_LAB)
                        }
                    };
                    if batch.is_empty() {
                        break;
                    }
                    several(seed, batch, &table, &violations);
                    if let Some(path) = std::env::var_os("CHAOS_BOOK") {
                        let page = table.lock().unwrap().page(seed, violations.lock().unwrap().len());
                        std::fs::write(path, page).unwrap();
                    }
                }
            });
        }
    });
    let table = table.into_inner().unwrap();
    let violations = violations.into_inner().unwrap();
    common::tell(&format!(
        "{}{} runs in {:.0} s, {} violations (CHAOS_SEED={seed})",
        table.text(),
        table.runs(),
        start.elapsed().as_secs_f64(),
        violations.len()
    ));
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    common::tell("");
    assert!(table.missed() * 20 <= table.runs(), "{} runs did not come to their step", table.missed());
}

/// Runs on one host, one after the other, each beginning where the last one ended.
fn several(seed: u64, batch: std::ops::Range<u64>, table: &Mutex<Table>, violations: &Mutex<Vec<String>>) {
    let mut host: Option<host::Host> = None;
    let mut known = HashMap::new();
    for number in batch {
        if std::env::var_os("CHAOS_STOP").is_some() && !violations.lock().unwrap().is_empty() {
            return;
        }
        let plan = run::plan(seed, number);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if host.is_none() {
                host = Some(host::Host::up(&mut Random::of(seed, number / PER_LAB)));
                known.clear();
                if number % PER_LAB != 0 {
                    host.as_ref().unwrap().settle(&run::plan(seed, number - 1).to);
                }
            }
            run::carry_out(host.as_ref().unwrap(), &plan, &mut known)
        }));
        match outcome {
            Ok(seen) => table.lock().unwrap().count(&plan, seen),
            Err(panic) => {
                let why = panic.downcast_ref::<String>().cloned();
                let why = why.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                let traces = host.as_ref().map(host::Host::traces).unwrap_or_default();
                let text = format!(
                    "VIOLATION: CHAOS_SEED={seed} CHAOS_ONLY={number}: {plan}\n{}\n{traces}",
                    why.unwrap_or_default()
                );
                common::tell(&text);
                violations.lock().unwrap().push(text.lines().take(2).collect::<Vec<_>>().join("\n"));
                table.lock().unwrap().count(&plan, run::Seen::Broken);
                // What comes next shall not suffer from it.
                host = None;
            }
        }
    }
}
