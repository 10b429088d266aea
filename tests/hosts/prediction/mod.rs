//! The state that a plan predicts is the state that the apply makes, for random sequences of inventories and undos on both
//! backends; what the lints and the impact say before it, they say after it.
//!
//! Each difference is a defect of the product or of its prediction: it gets a case of its own where it is mended.
//!
//!   PREDICTION_SEED=N   the seed; printed, else fixed, and with PREDICTION_RUNS from the clock
//!   PREDICTION_RUNS=N   so many sequences (4), each on a host of its own
//!   PREDICTION_ONLY=N   only sequence N of that seed
//!   PREDICTION_THREADS=N   so many hosts at once (2)
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod compare;
mod inventory;
#[path = "../../chaos/random.rs"]
mod random;

use crate::common::project::Project;
use crate::common::{self, Backend, Lab};
use compare::Prediction;
use inventory::Inventory;
use kvmfw::host::{self, Nonce, Question};
use kvmfw::host_state::{Observed, ProbeSections, observe};
use kvmfw::inventory::{ProjectLocation, load};
use kvmfw::plan::{self, AcceptableRisk, GenerationManifest, HostVerdict, PlanOptions, RestoreTarget};
use kvmfw::problem::LintCode;
use kvmfw::resolve::{Desired, compile};
use random::Random;
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const HOST: &str = "kvm1";

/// Risks that do not stop a sequence. A predicted lockout does: the host would roll back.
const ACCEPTED: &str = "--accept-risk=guests-unreachable,bypass-wrong,removes-all";

/// One step of a sequence.
enum Step {
    Apply(Box<Inventory>),
    UndoTo(u32),
}

/// How steps ended.
#[derive(Default)]
struct Tally {
    applied: AtomicU64,
    unchanged: AtomicU64,
    refused: AtomicU64,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

#[test]
fn a_plan_predicts_the_host() {
    if !common::require_root() {
        return;
    }
    let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() % 1_000_000;
    let runs = number("PREDICTION_RUNS");
    let seed = number("PREDICTION_SEED").unwrap_or_else(|| if runs.is_some() { clock() } else { 20 });
    let (runs, only) = (runs.unwrap_or(4), number("PREDICTION_ONLY"));
    common::tell(&format!("PREDICTION_SEED={seed} PREDICTION_RUNS={runs}"));
    let (next, end) = only.map_or((0, runs), |only| (only, only + 1));
    let (next, tally, wrong) = (AtomicU64::new(next), Tally::default(), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..number("PREDICTION_THREADS").unwrap_or(2) {
            scope.spawn(|| {
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= end {
                        break;
                    }
                    if let Err(text) = sequence(seed, run, &tally) {
                        common::tell(&text);
                        wrong.lock().unwrap().push(text);
                    }
                }
            });
        }
    });
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    common::tell(&format!(
        "{} applied, {} without changes, {} refused (PREDICTION_SEED={seed})",
        count(&tally.applied),
        count(&tally.unchanged),
        count(&tally.refused)
    ));
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} sequences were predicted wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count(&tally.applied) >= (end - only.unwrap_or(0)), "hardly anything was applied");
}

/// A sequence on a new host. The error says how to repeat it.
fn sequence(seed: u64, run: u64, tally: &Tally) -> Result<(), String> {
    let (mut steps, mut all_right) = (String::new(), true);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let random = &mut Random::of(seed, run);
        let backend = if run.is_multiple_of(2) { Backend::Nft } else { Backend::Legacy };
        let lab = Lab::builder().backend(backend).up();
        let project = Project::new(&lab, &[HOST], "{}");
        let mut inventory = Inventory::random(random);
        let mut last = inventory.clone();
        for _ in 0..3 + random.below(4) {
            let step = match generations(&lab) {
                Some(last) if random.one_in(4) => {
                    Step::UndoTo(u32::try_from(random.below(last + 1)).unwrap())
                }
                _ => {
                    inventory =
                        if random.one_in(3) { Inventory::random(random) } else { inventory.edited(random) };
                    Step::Apply(Box::new(inventory.clone()))
                }
            };
            steps += &match &step {
                Step::Apply(inventory) => format!("--- apply\n{}", inventory.yaml()),
                Step::UndoTo(to) => format!("--- undo --to {to}\n"),
            };
            let wrong = match carry_out(&lab, &project, (&step, random.one_in(5)), tally) {
                Some(wrong) => wrong,
                None => {
                    // Edits of it would be refused as well.
                    inventory = last.clone();
                    continue;
                }
            };
            last = inventory.clone();
            all_right &= wrong.is_empty();
            steps.extend(wrong.iter().map(|text| format!("WRONG {text}\n")));
        }
    }));
    let repeat = format!("PREDICTION_SEED={seed} PREDICTION_ONLY={run}");
    if outcome.is_ok() && !all_right {
        return Err(format!("{repeat}\n{steps}"));
    }
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let text = text.unwrap_or_default();
        format!("{repeat}\n{steps}{text}")
    })
}

/// The number of the last generation.
fn generations(lab: &Lab) -> Option<u64> {
    let folder = fs::read_dir(lab.disk(HOST, "/etc/kvmfw/generations")).ok()?;
    folder.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).max()
}

/// Predicts one step, does it, and returns the differences; with `boots`, also those after a reboot. `None`: it was refused.
fn carry_out(
    lab: &Lab,
    project: &Project,
    (step, boots): (&Step, bool),
    tally: &Tally,
) -> Option<Vec<String>> {
    let accept = [AcceptableRisk::GuestsUnreachable, AcceptableRisk::BypassWrong, AcceptableRisk::RemovesAll];
    let options = PlanOptions { accept: accept.into(), ..PlanOptions::default() };
    let (desired, options, args) = match step {
        Step::Apply(inventory) => {
            project.all(&inventory.yaml());
            (desired(project), options, vec!["apply".to_owned()])
        }
        Step::UndoTo(to) => {
            let file = lab.disk(HOST, &format!("/etc/kvmfw/generations/{to}/desired.json"));
            let record = match (to, fs::read_to_string(file)) {
                (0, _) => GenerationManifest::default(),
                (_, Ok(text)) => GenerationManifest::parse(text.trim()).unwrap(),
                (_, Err(_)) => return None,
            };
            let (adopted, files) = (record.adopted.clone(), record.adopted_files.clone());
            let restore = Some(RestoreTarget { generation: *to, adopted, files });
            let options = PlanOptions { purge: *to == 0, restore, ..options };
            (
                record.restore(&desired(project)),
                options,
                vec!["undo".to_owned(), "--to".to_owned(), to.to_string()],
            )
        }
    };
    let before = probe(lab, &desired, &options);
    let plan = plan::compute(&desired, &before, &options);
    if let HostVerdict::Refused(_) = &plan.verdict {
        tally.refused.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    let prediction = Prediction::new(&desired, &before, &plan);
    if plan.verdict == HostVerdict::Changes {
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.extend(["-y", ACCEPTED, "--confirm-timeout", "10s"]);
        let run = project.kvmfw(lab, &args);
        let may_be_cut = [LintCode::LockoutUnknown, LintCode::SessionDies];
        if run.code == 4 && plan.warnings.iter().any(|warning| may_be_cut.contains(&warning.code)) {
            tally.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        if run.code != 0 {
            return Some(vec![format!("the apply ended with {}:\n{}{}", run.code, run.stdout, run.stderr)]);
        }
        tally.applied.fetch_add(1, Ordering::Relaxed);
    } else {
        tally.unchanged.fetch_add(1, Ordering::Relaxed);
    }
    let after = probe(lab, &desired, &options);
    let mut wrong = prediction.compare(lab, &after, &options);
    if boots {
        lab.reboot(HOST);
        prediction.compare_booted(lab, &probe(lab, &desired, &options), &mut wrong);
    }
    Some(wrong)
}

fn desired(project: &Project) -> Desired {
    let location = ProjectLocation {
        dir: Some(project.path().to_owned()),
        home: Some("/root".into()),
        ..ProjectLocation::default()
    };
    let project = load(&location).unwrap_or_else(|error| panic!("{:#?}", error.list));
    compile(&project, &[HOST.to_owned()]).unwrap_or_else(|error| panic!("{error:#?}")).remove(0)
}

/// What the host answers over SSH, as kvmfw reads it.
fn probe(lab: &Lab, desired: &Desired, options: &PlanOptions) -> Observed {
    let (want, keys) = plan::probe_request(desired);
    let question = Question {
        want: [&want[0], &want[1]],
        keys: &keys,
        sets: &plan::set_headers(desired),
        vlans: plan::needs_vlans(desired),
        jump_hosts: "",
        boot_files: options.adopt || options.restore.is_some(),
        packet_settings: false,
        guests: false,
    };
    let nonce = Nonce::fresh().unwrap();
    let document = host::probe(&nonce, &question);
    let config = lab.dir().join("ssh_config");
    let mut ssh = lab.exec_command("ssh");
    // From a pipe, dash would read byte by byte.
    ssh.arg("-F").arg(config).args([HOST, "cat >/run/probe && exec sh /run/probe"]);
    let mut child = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    observe(&ProbeSections::split(&answer, nonce.as_str()), "")
        .unwrap_or_else(|error| panic!("{error}: {answer}{stderr}"))
}
