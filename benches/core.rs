//! The pure steps, one by one: YAML load, compile, canonical parse and print, diff, group, render.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "scale/paper.rs"]
mod paper;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use kvmfw::engine::Planned;
use kvmfw::inventory::Project;
use kvmfw::plan::{self, PlanOptions};
use kvmfw::report::{Document, Human, Json, Part, Renderer, Style};
use kvmfw::resolve::{Desired, compile};
use kvmfw::resource::iptables::managed_text;
use kvmfw::resource::iptables::save::SavedTables;
use std::hint::black_box;
use std::sync::Arc;

fn desired(project: &Project) -> Vec<Desired> {
    let names: Vec<String> = project.hosts.iter().map(|host| host.name.clone()).collect();
    compile(project, &names).unwrap()
}

fn load(criterion: &mut Criterion) {
    let text = paper::inventory(1_000, 100);
    criterion.bench_function("bare YAML of 1,000 hosts", |bencher| {
        bencher.iter(|| serde_yaml::from_str::<serde_yaml::Value>(black_box(&text)).unwrap());
    });
    criterion.bench_function("inventory of 1,000 hosts", |bencher| {
        bencher.iter_batched(|| text.clone(), paper::project, BatchSize::LargeInput);
    });
    let project = paper::project(text);
    criterion.bench_function("desired state of 1,000 hosts with 100 rules", |bencher| {
        bencher.iter(|| desired(black_box(&project)));
    });
}

fn rules(criterion: &mut Criterion) {
    let answer = paper::answer(10_000);
    let save = answer.split("rc=0\n").nth(1).and_then(|rest| rest.split("\n@").next()).unwrap();
    criterion.bench_function("parsing what iptables-save says of 10,000 rules", |bencher| {
        bencher.iter(|| SavedTables::parse(black_box(save)).unwrap());
    });
    let parsed = SavedTables::parse(save).unwrap();
    criterion.bench_function("printing it", |bencher| bencher.iter(|| black_box(&parsed).render()));
    let desired = desired(&paper::project(paper::inventory(1, 10_000))).remove(0);
    let wanted = desired.rules.values().next().unwrap();
    criterion.bench_function("printing 10,000 rules that are wanted", |bencher| {
        bencher.iter(|| managed_text::render(black_box(wanted)));
    });
    let observed = paper::observed(&answer);
    criterion.bench_function("diff of a host with 10,000 rules", |bencher| {
        bencher.iter(|| plan::host(black_box(&desired), black_box(&observed), &PlanOptions::default()));
    });
}

fn show(criterion: &mut Criterion) {
    let answer = paper::answer(100);
    let shared = plan::DiffInterner::default();
    let planned: Vec<Planned> = desired(&paper::project(paper::inventory(1_000, 100)))
        .into_iter()
        .map(|desired| {
            let mut plan = plan::host(&desired, &paper::observed(&answer), &PlanOptions::default());
            shared.share(&mut plan);
            Planned {
                desired: Arc::new(desired),
                options: PlanOptions::default(),
                result: Ok(Box::new(plan)),
            }
        })
        .collect();
    criterion.bench_function("the document of 1,000 hosts", |bencher| {
        bencher.iter(|| Document::of_plan(black_box(&planned)));
    });
    let document = Document::of_plan(&planned);
    let human = Human { style: Style::default(), part: Part::Plan, full: false };
    criterion.bench_function("1,000 hosts grouped and shown", |bencher| {
        bencher.iter(|| human.render(black_box(&document)));
    });
    criterion
        .bench_function("1,000 hosts as JSON", |bencher| bencher.iter(|| Json.render(black_box(&document))));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = load, rules, show
}
criterion_main!(benches);
