//! Every process that the host scripts start for an operation, struck once in each way, in turn; complete, not sampled.
//!
//!   EXHAUSTIVE_SHARD=I/N  only each N-th target, from the I-th on (1/100; 1/1 is all)
//!   EXHAUSTIVE_OP=NAME,…  only these operations
//!   EXHAUSTIVE_BLOW=NAME,… only these blows (birth, end, exec, read; not stop, which costs a deadline each time)
//!   EXHAUSTIVE_ONLY=LABEL only this process
//!   EXHAUSTIVE_THREADS=N  so many operations at once (2); most of their time is deadlines, so a quiet machine can do more

use crate::common::project::Run;
use crate::common::{self, without_empty_tables};
use crate::desired::{Desired, Sick};
use crate::fault::{names, wait, wait_for_end};
use crate::host::{HOST, Host};
use crate::tracer::{self, Blow, Record, Target};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

names!(
    /// What is done to a host while one of its processes is struck.
    Operation {
    First = "first apply",
    Zero = "undo to 0",
    Next = "apply",
    Failing = "apply that is rolled back",
    Undo = "undo",
    Console = "undo at the console",
    Boot = "boot",
    Recovery = "boot with an open transaction",
});

impl Operation {
    /// Whether the host goes to another state when nothing is struck.
    fn changes(self) -> bool {
        !matches!(self, Self::Failing | Self::Boot | Self::Recovery)
    }
}

/// How often a thread says how far it is.
const PROGRESS_PAUSE: Duration = Duration::from_secs(120);

/// How often a target may not come up before it counts as missed.
const TRIES: u32 = 3;

/// A state of a host: what is live, and what boots.
#[derive(Clone)]
struct State {
    live: String,
    boots: String,
}

impl State {
    fn of(host: &Host) -> Self {
        Self { live: host.dump(), boots: without_numbers(&host.boots()) }
    }

    fn is_live(&self, live: &str) -> bool {
        without_empty_tables(&self.live) == without_empty_tables(live)
    }
}

/// Numbers of generations and texts of an inventory are not state.
fn without_numbers(boots: &str) -> String {
    let lines =
        boots.lines().filter(|l| !l.starts_with("\"desired.json\"") && !l.starts_with([' ', '{', '}']));
    lines.filter(|l| !l.starts_with("\"before\"")).collect::<Vec<_>>().join("\n")
}

/// An operation on a host of its own, with the states between which it goes.
struct Stage {
    operation: Operation,
    host: Host,
    from: Desired,
    to: Desired,
    old: State,
    new: State,
}

impl Stage {
    fn set_up(operation: Operation) -> Self {
        let host = Host::plain();
        let (from, mut to) = (Desired::numbered(0), Desired::numbered(1));
        // At the console bridges stay as they are.
        to.bridge = operation == Operation::Console;
        // What the first apply leaves for good (loaded tables, inherited keys) is in both states then.
        host.settle(&to);
        let empty = State { live: String::new(), boots: String::new() };
        let mut stage = Self { operation, host, from, to, old: empty.clone(), new: empty };
        stage.back();
        stage.old = State::of(&stage.host);
        if operation.changes() {
            let (run, _) = stage.strike(None);
            assert_eq!(run.code, 0, "{operation}: {}{}", run.stdout, run.stderr);
            stage.new = State::of(&stage.host);
            stage.back();
            stage.old = State::of(&stage.host);
        }
        stage
    }

    /// Brings the host to where the operation begins.
    fn back(&self) {
        let original = || {
            let run =
                self.host.project.kvmfw(&self.host.lab, &["undo", "--to", "0", "-y", "--format", "json"]);
            assert!(run.code == 0, "undo to 0: {}{}", run.stdout, run.stderr);
        };
        match self.operation {
            Operation::First => original(),
            Operation::Zero
            | Operation::Next
            | Operation::Failing
            | Operation::Boot
            | Operation::Recovery => {
                self.host.settle(&self.from);
            }
            Operation::Undo | Operation::Console => {
                self.host.settle(&self.to);
                self.host.settle(&self.from);
            }
        }
    }

    fn run_plain(&self) -> Run {
        let lab = &self.host.lab;
        let (apply, undo) = (
            ["apply", "-y", "--apply-timeout", "8s", "--confirm-timeout", "4s", "--format", "json"],
            [
                "undo",
                "--to",
                "0",
                "-y",
                "--apply-timeout",
                "8s",
                "--confirm-timeout",
                "4s",
                "--format",
                "json",
            ],
        );
        match self.operation {
            Operation::First => {
                self.host.project.all(&self.from.yaml(Sick::No));
                self.host.project.kvmfw(lab, &apply)
            }
            Operation::Next => {
                self.host.project.all(&self.to.yaml(Sick::No));
                self.host.project.kvmfw(lab, &apply)
            }
            Operation::Failing => {
                self.host.project.all(&self.to.yaml(Sick::Check));
                self.host.project.kvmfw(lab, &apply)
            }
            Operation::Zero => self.host.project.kvmfw(lab, &undo),
            Operation::Undo => {
                let to = self.host.before().to_string();
                let mut undo = undo;
                undo[2] = &to;
                self.host.project.kvmfw(lab, &undo)
            }
            Operation::Console | Operation::Boot | Operation::Recovery => unreachable!("not over SSH"),
        }
    }

    /// Does it, with a process struck; without a target everything is written down.
    fn strike(&self, target: Option<&Target>) -> (Run, Record) {
        let lab = &self.host.lab;
        let done = match self.operation {
            Operation::Boot => {
                lab.power_cut(HOST);
                tracer::follow(lab, target, &["boot", HOST])
            }
            Operation::Recovery => {
                self.leave_open();
                tracer::follow(lab, target, &["boot", HOST])
            }
            Operation::Console => {
                let to = self.host.before().to_string();
                tracer::follow(
                    lab,
                    target,
                    &["host", HOST, "--", "sh", "/var/lib/kvmfw/kvmfw.sh", "undo", &to],
                )
            }
            _ => {
                let tracer = tracer::attach(lab, target);
                let run = self.run_plain();
                self.calm(target);
                return (run, tracer.end());
            }
        };
        self.calm(target);
        done
    }

    /// Takes the power from the host while a change is live and undecided.
    fn leave_open(&self) {
        let host = &self.host;
        let earlier = host.transactions();
        host.project.all(&self.to.yaml(Sick::Check));
        let apply = ["apply", "-y", "--apply-timeout", "8s", "--confirm-timeout", "30s"];
        let mut kvmfw = host.project.spawn(&host.lab, &apply);
        let fresh = || host.transactions().into_iter().find(|t| !earlier.contains(t));
        let live = wait(Duration::from_secs(60), || fresh().is_some_and(|t| t.join("result").exists()));
        host.lab.power_cut(HOST);
        let _ = kvmfw.kill();
        let _ = kvmfw.wait();
        assert!(live, "the change did not come up");
    }

    /// Waits until nothing of ours runs any more, less a process that hangs because it was struck so.
    fn calm(&self, target: Option<&Target>) {
        let host = &self.host;
        let over = |t: &std::path::PathBuf| t.join("done").exists();
        if target.is_some_and(|t| t.blow == Blow::Stop) {
            wait_for_end(Duration::from_secs(90), || !host.busy() || host.transactions().iter().all(over));
        } else {
            wait_for_end(Duration::from_secs(90), || !host.busy());
        }
        // What was struck before it was armed holds the lock until its time is up; unlock is the way.
        if host.transactions().iter().any(|t| !over(t) && !t.join("armed").exists()) {
            host.project.kvmfw(&host.lab, &["unlock", HOST, "-y"]);
            wait_for_end(Duration::from_secs(60), || !host.busy());
        }
    }

    /// What has to be so whatever was struck.
    fn check(&self, target: &Target, run: &Run, boot: bool) -> Result<bool, String> {
        let host = &self.host;
        let fail = |what: String| Err(format!("{what}\nkvmfw: {} {}{}", run.code, run.stdout, run.stderr));
        let config = host.lab.dir().join("ssh_config");
        let fresh = host.lab.exec(&["ssh", "-F", config.to_str().unwrap(), HOST, "true"]);
        if !fresh.success() {
            return fail(format!("the host answers no new SSH connection: {}", fresh.stderr));
        }
        if !host.lab.guest_ping(HOST, "g0", "192.168.1.2") {
            return fail("guests do not reach each other".into());
        }
        if matches!(self.operation, Operation::Boot | Operation::Recovery) {
            return self.check_boot().or_else(fail);
        }
        if host.path("/var/lib/kvmfw/open").is_symlink() {
            return fail("a transaction was left open".into());
        }
        if self.operation == Operation::Console && run.code != 0 {
            // Nobody guards it: whoever types it reads that it failed, and types it again.
            let to = self.host.before().to_string();
            let again = host.lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "undo", &to]);
            if !again.success() && !self.old.is_live(&host.dump()) {
                return fail(format!("a second undo at the console fails: {}{}", again.stdout, again.stderr));
            }
            return Ok(again.success());
        }
        let mut live = host.dump();
        let mut boots = without_numbers(&host.boots());
        if boot {
            host.lab.power_cut(HOST);
            host.lab.boot(HOST);
            let booted = host.dump();
            // An undo at the console leaves bridges until the next boot, and says so.
            let bridges =
                self.operation == Operation::Console && run.stdout.contains("bridges stay as they are");
            let is_same = match bridges {
                true => without_bridge(&live) == without_bridge(&booted),
                false => without_empty_tables(&live) == without_empty_tables(&booted),
            };
            if !is_same {
                return fail(format!("the boot differs from what was live:\n{}", difference(&live, &booted)));
            }
            // What the bridges are now is no longer what the undo left.
            live = if bridges { live } else { booted };
            boots = without_numbers(&host.boots());
        }
        let is_new = match (self.new.is_live(&live), self.old.is_live(&live)) {
            (true, false) => true,
            (_, true) => false,
            (false, false) => {
                return fail(format!(
                    "neither the old state nor the new one is live; old:\n{}\nnew:\n{}",
                    difference(&self.old.live, &live),
                    difference(&self.new.live, &live)
                ));
            }
        };
        let kept = if is_new { &self.new.boots } else { &self.old.boots };
        if boots != *kept {
            return fail(format!(
                "live is new: {is_new}, and what boots is not: {}",
                difference(kept, &boots)
            ));
        }
        if self.operation == Operation::Console {
            return if is_new {
                Ok(true)
            } else {
                fail("the console told success, and nothing changed".into())
            };
        }
        let json: Option<serde_json::Value> = serde_json::from_str(&run.stdout).ok();
        let status =
            json.and_then(|j| Some(j["hosts"][0]["status"].as_str()?.to_owned())).unwrap_or_default();
        let told = match status.as_str() {
            "changed" => Some(true),
            "unknown" => None,
            "rolled-back" | "failed" | "refused" | "unreachable" => Some(false),
            other => return fail(format!("{target}: kvmfw has no status of it (`{other}`)")),
        };
        if told.is_some_and(|told| told != is_new) {
            return fail(format!("kvmfw told `{status}`, and live is new: {is_new}"));
        }
        Ok(is_new)
    }
}

impl Stage {
    /// What a boot left: the old state, or something that the host tells of.
    fn check_boot(&self) -> Result<bool, String> {
        let host = &self.host;
        let mut live = String::new();
        // What a unit left undone the second stage does.
        let as_before = wait_for_end(Duration::from_secs(20), || {
            live = host.dump();
            self.old.is_live(&live) && without_numbers(&host.boots()) == self.old.boots
        });
        if as_before {
            return Ok(false);
        }
        let status = host.project.kvmfw(&host.lab, &["status", "--format", "json"]);
        let told = serde_json::from_str::<serde_json::Value>(&status.stdout)
            .is_ok_and(|json| json["hosts"][0]["boot_failed"].is_string());
        if told {
            return Ok(false);
        }
        let lost = difference(&self.old.live, &live);
        Err(format!("the boot left another state and does not tell:\n{lost}\n{}", status.stdout))
    }
}

/// What is live, less the attributes of the bridge.
fn without_bridge(dump: &str) -> Vec<&str> {
    without_empty_tables(dump).into_iter().filter(|line| !line.starts_with("br123 ")).collect()
}

fn difference(one: &str, other: &str) -> String {
    let (one, other) = (without_empty_tables(one), without_empty_tables(other));
    let gone = one.iter().filter(|l| !other.contains(l)).map(|l| format!("- {l}"));
    let new = other.iter().filter(|l| !one.contains(l)).map(|l| format!("+ {l}"));
    let mut lines: Vec<String> = gone.chain(new).collect();
    // A link that comes or goes has hundreds of keys of its own.
    lines.sort_by_key(|line| line.contains("/proc/sys/"));
    lines.truncate(20);
    lines.join("\n")
}

/// Names in a variable, with commas between them; without it all.
fn chosen(variable: &str, name: &str) -> bool {
    std::env::var(variable).map_or(true, |names| names.split(',').any(|one| one == name))
}

fn shard() -> (usize, usize) {
    let whole = std::env::var_os("KVMFW_LONG").is_some();
    let text =
        std::env::var("EXHAUSTIVE_SHARD").unwrap_or_else(|_| if whole { "1/1" } else { "1/100" }.into());
    let (number, of) = text.split_once('/').expect("EXHAUSTIVE_SHARD=I/N");
    (number.parse().unwrap(), of.parse().unwrap())
}

/// How many operations are worked on at once.
fn threads() -> usize {
    std::env::var("EXHAUSTIVE_THREADS").map_or(2, |text| text.parse().unwrap())
}

/// One operation with the targets of a shard. Returns how many were struck, and violations.
fn strike_all(operation: Operation, (number, of): (usize, usize), seen: &Mutex<Vec<String>>) -> usize {
    let mut stage = Stage::set_up(operation);
    let (_, record) = stage.strike(None);
    stage.back();
    let blows = std::env::var("EXHAUSTIVE_BLOW").unwrap_or_else(|_| "birth,end,exec,read".into());
    let blows: Vec<&str> = blows.split(',').collect();
    let targets: Vec<Target> = record
        .targets()
        .into_iter()
        .filter(|t| blows.contains(&t.blow.name()))
        .filter(|t| std::env::var("EXHAUSTIVE_ONLY").map_or(true, |only| only == t.label))
        .collect();
    common::tell(&format!("{operation}: {} targets", targets.len()));
    if std::env::var_os("EXHAUSTIVE_LIST").is_some() {
        let line = |t: &Target| format!("{t} ({})", record.program(&t.label).unwrap_or("a subshell"));
        common::tell(&targets.iter().map(line).collect::<Vec<_>>().join("\n"));
    }
    let mut struck = 0;
    let mut told = Instant::now();
    for (n, target) in targets.iter().enumerate().filter(|(n, _)| n % of == number - 1) {
        let begun = Instant::now();
        if told.elapsed() > PROGRESS_PAUSE {
            told = begun;
            common::tell(&format!(
                "{operation}: {n} of {} targets, {struck} struck by this thread",
                targets.len()
            ));
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..TRIES {
                let (run, traced) = stage.strike(Some(target));
                if let Some(pid) = traced.struck() {
                    let checked = stage.check(target, &run, n % 6 == 0);
                    if target.blow == Blow::Stop {
                        stage.host.signal("-KILL", &[pid]);
                    }
                    let is_new = checked?;
                    stage.back();
                    let back = stage.host.dump();
                    if !stage.old.is_live(&back) {
                        return Err(format!("the way back leaves:\n{}", difference(&stage.old.live, &back)));
                    }
                    return Ok(Some(is_new));
                }
                stage.back();
            }
            Ok(None)
        }));
        let program = record.program(&target.label).unwrap_or("a subshell");
        let program: String = program.chars().take(100).collect();
        let outcome = outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
        });
        let took = begun.elapsed().as_secs_f32();
        match outcome {
            Ok(Some(is_new)) => {
                struck += 1;
                if took > 15.0 {
                    common::tell(&format!("{operation}: {target} ({program}): new {is_new}, {took:.0} s"));
                }
            }
            Ok(None) if is_a_turn_of_a_wait(&program) || is_a_read_of_a_twin(target, &program) => {
                common::tell(&format!("not started this time: {operation}: {target} ({program})"));
            }
            Ok(None) => seen.lock().unwrap().push(format!("MISSED: {operation}: {target} ({program})")),
            Err(why) => {
                let text = format!(
                    "VIOLATION: {operation}: {target} ({program}), {took:.0} s\n{why}\n{}",
                    stage.host.traces()
                );
                common::tell(&text);
                seen.lock().unwrap().push(text.lines().take(3).collect::<Vec<_>>().join("\n"));
                // What comes next shall not suffer from it.
                drop(stage);
                stage = Stage::set_up(operation);
            }
        }
    }
    struck
}

#[test]
fn each_process_is_struck_once() {
    if !common::require_root() || !common::require_tools(&["cc"]) {
        return;
    }
    let all = Operation::ALL.iter().copied();
    let operations: Vec<Operation> = all.filter(|one| chosen("EXHAUSTIVE_OP", one.name())).collect();
    // A long shard of an operation is cut into parts, each with a host of its own.
    let (number, of) = shard();
    let parts = if of < 20 { threads() } else { 1 };
    let part = |operation, n| (operation, (number + n * of, of * parts));
    let work = operations.into_iter().flat_map(|one| (0..parts).map(move |n| part(one, n))).collect();
    let (next, struck, seen): (Mutex<Vec<_>>, _, _) =
        (Mutex::new(work), Mutex::new(0), Mutex::new(Vec::<String>::new()));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                loop {
                    let Some((operation, part)) = next.lock().unwrap().pop() else { break };
                    let count = strike_all(operation, part, &seen);
                    *struck.lock().unwrap() += count;
                }
            });
        }
    });
    let (struck, seen) = (struck.into_inner().unwrap(), seen.into_inner().unwrap());
    common::tell(&format!(
        "{struck} processes struck in {:.0} s, {} findings",
        start.elapsed().as_secs_f32(),
        seen.len()
    ));
    assert!(seen.is_empty(), "{}", seen.join("\n"));
    assert!(struck > 0, "nothing was struck");
}

/// Whether it is what a guard reads itself: a lock decides which of the twins does the work, so that differs from run to run.
fn is_a_read_of_a_twin(target: &Target, program: &str) -> bool {
    target.blow == Blow::Read && program.contains("/kvmfw.sh guard ")
}

/// Whether it is one turn of a loop that waits: how many there are goes by the clock, and differs from run to run.
fn is_a_turn_of_a_wait(program: &str) -> bool {
    program.starts_with("sleep ") || program.ends_with("/guard.lock true")
}
