//! One run: a change, a fault on its way, and what came of it.

use crate::PER_LAB;
use crate::common::project::Run;
use crate::desired::{Desired, Sick};
use crate::fault::{Fault, Step, wait, wait_for_end};
use crate::gate::Gate;
use crate::host::{Host, has_loop};
use crate::invariants;
use crate::random::Random;
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

/// What is going to happen; all of it follows from seed and number.
pub struct Plan {
    pub to: Desired,
    pub fault: Fault,
    pub step: Step,
    /// Why it is to be rolled back, fault or not.
    pub sick: Sick,
    /// How long a fault lasts that lasts; no longer than the transaction.
    pub lasts: Duration,
    /// Whether power is cut in the end, to see what boots.
    pub boot: bool,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { to, fault, step, sick, lasts, boot } = self;
        write!(f, "{fault} at `{step}`, {sick}, lasts {lasts:?}, boot {boot}, to {to:?}")
    }
}

/// How a run ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The fault struck at this step; whether the new state is there.
    Struck(Step, bool),
    /// The transaction did not come to the step, or went by one at which the fault means something.
    Missed,
    Broken,
}

/// Of all those that a variable names, with commas between them; without it all.
fn chosen<T: Copy>(variable: &str, all: &[T], text: impl Fn(T) -> &'static str) -> Vec<T> {
    let Ok(wanted) = std::env::var(variable) else { return all.to_vec() };
    let find = |name: &str| all.iter().copied().find(|one| text(*one) == name);
    wanted.split(',').map(|n| find(n).unwrap_or_else(|| panic!("{variable}: no `{n}`"))).collect()
}

/// Every fault at every step where it can be done, in an order of its own for each round.
fn cell(seed: u64, number: u64) -> (Fault, Step) {
    let mut faults = chosen("CHAOS_FAULT", Fault::ALL, Fault::name);
    faults.retain(|f| *f != Fault::DiskHangs || has_loop());
    let steps = chosen("CHAOS_STEP", Step::ALL, Step::name);
    let cells = faults.iter().flat_map(|f| f.steps().iter().map(|s| (*f, *s)));
    let mut cells: Vec<_> = cells.filter(|(_, step)| steps.contains(step)).collect();
    assert!(!cells.is_empty(), "no such fault at such a step");
    let many = cells.len() as u64;
    let mut random = Random::of(seed ^ 0xce11, number / many);
    for n in (1..many).rev() {
        cells.swap(usize::try_from(n).unwrap(), usize::try_from(random.below(n + 1)).unwrap());
    }
    cells[usize::try_from(number % many).unwrap()]
}

pub fn plan(seed: u64, number: u64) -> Plan {
    let mut random = Random::of(seed, number + 1_000_000);
    let (fault, step) = cell(seed, number);
    let from = (!number.is_multiple_of(PER_LAB)).then(|| plan_to(seed, number - 1));
    let to = Desired::random(&mut Random::of(seed ^ 0xd5, number), from.as_ref());
    let sick = chosen("CHAOS_SICK", Sick::ALL, Sick::name);
    let sick = match random.of_these(&sick) {
        // Three in four are well.
        _ if sick.len() > 1 && !random.one_in(4) => Sick::No,
        // Every port that a confirm may come from is taken for an open connection: none proves anything.
        Sick::LockOut if fault == Fault::Stale => Sick::Check,
        // Nobody is left who could take it back, and nobody can come to say so: a host with systemd starts its
        // guard again, this one has none.
        Sick::LockOut if fault == Fault::Guards => Sick::Check,
        one => one,
    };
    let lasts = Duration::from_millis(random.of_these(match () {
        () if step < Step::Armed => &[100, 500],
        // Beyond all deadlines: what is half done has to be undone.
        () if matches!(fault, Fault::Hangs | Fault::Stopped | Fault::DiskHangs) => &[1000, 12_000, 12_000],
        () => &[300, 1000, 8000],
    }));
    Plan { to, fault, step, sick, lasts, boot: random.one_in(6) }
}

fn plan_to(seed: u64, number: u64) -> Desired {
    plan(seed, number).to
}

fn said(child: Child, started: Instant) -> Run {
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    }
}

const APPLY: [&str; 8] =
    ["apply", "-y", "--apply-timeout", "8s", "--confirm-timeout", "4s", "--format", "json"];

pub fn carry_out(host: &Host, plan: &Plan, known: &mut HashMap<Desired, String>) -> Seen {
    let Plan { fault, step, .. } = *plan;
    fault.prepare(host);
    let before = host.dump();
    let booted_before = host.boots();
    let earlier = host.transactions();
    host.project.all(&plan.to.yaml(plan.sick));
    let started = Instant::now();
    let mut kvmfw = host.project.spawn(&host.lab, &APPLY);
    let fresh = || host.transactions().into_iter().find(|t| !earlier.contains(t));
    let mut folder: Option<PathBuf> = None;
    let mut over = false;
    let mut gate = None;
    let reached = wait(Duration::from_secs(60), || {
        if folder.is_none() {
            folder = fresh();
            gate = folder.as_ref().filter(|_| step == Step::Claimed).and_then(|t| Gate::shut(t));
        }
        over = kvmfw.try_wait().unwrap().is_some();
        over || folder.as_ref().is_some_and(|t| step.reached(t))
    }) && folder.as_ref().is_some_and(|t| step.reached(t));
    let mut second = None;
    let mut struck = None;
    if let (true, Some(t)) = (reached, &folder) {
        // Those who could go on stand still meanwhile. They may have gone on until then: what counts is
        // where they stand.
        let mut still = host.processes("/kvmfw.sh ");
        host.signal("-STOP", &still);
        if let Some(gate) = &gate {
            gate.put_away();
        }
        struck = Step::last(t).filter(|step| fault.steps().contains(step));
        if struck.is_some() {
            let held = fault.strike(host, t, &mut kvmfw);
            still.retain(|pid| !held.contains(pid));
        }
        host.signal("-CONT", &still);
    }
    if let Some(gate) = &mut gate {
        gate.open();
    }
    if let (Some(_), Some(t)) = (struck, &folder) {
        if fault == Fault::Second {
            second = Some(host.project.kvmfw(&host.lab, &APPLY));
        }
        if fault.lasts() {
            let end = Instant::now() + plan.lasts;
            wait_for_end(plan.lasts, || Instant::now() >= end || t.join("done").exists());
            fault.mend(host);
        }
        if fault == Fault::Power {
            host.lab.boot(crate::host::HOST);
        }
    }
    let run = said(kvmfw, started);
    // What was killed before it was armed holds the lock until its time is up; unlock is the way.
    let folder = folder.map(|t| host.path("/var/lib/kvmfw/txn").join(t.file_name().unwrap()));
    if let Some(t) = &folder {
        if !t.join("armed").exists() && !t.join("done").exists() {
            host.project.kvmfw(&host.lab, &["unlock", crate::host::HOST, "-y"]);
        }
        wait_for_end(Duration::from_secs(60), || t.join("done").exists() || !host.guarded());
        // Nothing is compared while anything of ours is still at its last words.
        wait_for_end(Duration::from_secs(60), || !host.busy());
    }
    fault.clear(host, struck.is_some());
    let look = invariants::Look { host, plan, before, booted_before, folder, struck, run, second };
    let new = look.check(known);
    if struck.is_none() {
        crate::common::tell(&format!("not struck: {plan}"));
    }
    struck.map_or(Seen::Missed, |step| Seen::Struck(step, new))
}
