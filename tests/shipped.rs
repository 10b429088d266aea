//! The shipped modules and the lab's inventory, as they reach a host.

use kvmfw::desired::{Desired, compile, explain_host};
use kvmfw::inventory::{Locate, Project, load, load_text};
use kvmfw::resource::iptables::Family;

fn project(text: &str) -> Project {
    load_text(&Locate { dir: Some("tests".into()), ..Locate::default() }, "test", text)
        .unwrap_or_else(|problems| panic!("{:#?}", problems.list))
}

fn desired(text: &str) -> Desired {
    let project = project(text);
    let mut all = compile(&project, &["kvm1".to_owned()]).unwrap_or_else(|problems| panic!("{problems:#?}"));
    all.remove(0)
}

/// The chains of a family's filter table in iptables' own language.
fn filter(desired: &Desired, family: Family) -> String {
    let mut out = String::new();
    for (name, chain) in &desired.rules[&family].tables["filter"].chains {
        for rule in &chain.rules {
            out.push_str(&format!("-A {name} {}\n", rule.text));
        }
    }
    out
}

#[test]
fn lab_inventory() {
    let locate =
        Locate { dir: Some(env!("CARGO_MANIFEST_DIR").into()), inventory: Some("lab".into()), home: None };
    let project = load(&locate).unwrap_or_else(|problems| panic!("{:#?}", problems.list));
    let names: Vec<String> = project.hosts.iter().map(|host| host.name.clone()).collect();
    let all = compile(&project, &names).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert_eq!(all.len(), 3);
}
