//! The table of extensions has what the iptables of this machine has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use kvmfw::host_state::{ProbeSections, observe};
use kvmfw::import;
use kvmfw::inventory::{ProjectLocation, load_text};
use kvmfw::resolve::compile;
use kvmfw::resource::iptables::IpFamily;
use kvmfw::resource::iptables::extensions::{find_match, find_target};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The folder of a machine's extensions, if it has one.
fn folder() -> Option<PathBuf> {
    let found =
        ["/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib/aarch64-linux-gnu/xtables", "/usr/lib64/xtables"];
    found.iter().map(PathBuf::from).find(|path| path.is_dir())
}

/// The options that the help of an extension prints, `None` if iptables cannot load it.
fn printed(family: IpFamily, kind: &str, name: &str) -> Option<BTreeSet<String>> {
    let output = Command::new(family.key()).args([kind, name, "--help"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // What every rule may have comes first.
    let (_, own) = text.split_once("print package version.")?;
    let start = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let words = own.split("--").skip(1).map(|rest| rest.split(|c| !start(c)).next().unwrap_or_default());
    Some(words.filter(|word| !word.is_empty()).map(|word| format!("--{word}")).collect())
}

#[test]
fn each_extension_of_this_machine_is_in_the_table() {
    let Some(folder) = folder() else {
        eprintln!("SKIPPED: this machine has no folder of xtables extensions");
        return;
    };
    let mut wrong = Vec::new();
    let mut compared = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some((prefix, name)) = file.strip_suffix(".so").and_then(|stem| stem.split_once('_')) else {
            continue;
        };
        let families: &[IpFamily] = match prefix {
            "libxt" => &[IpFamily::V4, IpFamily::V6],
            "libipt" => &[IpFamily::V4],
            "libip6t" => &[IpFamily::V6],
            // Extensions of ebtables and arptables.
            _ => continue,
        };
        // One file for the verdicts, and one for the targets that rewrite addresses.
        if matches!(name, "standard" | "NAT") {
            continue;
        }
        let is_target = name.starts_with(|c: char| c.is_ascii_uppercase());
        let (kind, found) = if is_target { ("-j", find_target(name)) } else { ("-m", find_match(name)) };
        let Some(found) = found else {
            wrong.push(format!("{name} is missing"));
            continue;
        };
        for family in families {
            let Some(options) = printed(*family, kind, name).filter(|_| found.is_of(*family)) else {
                continue;
            };
            compared += 1;
            for option in options.iter().filter(|option| found.option(option, *family).is_none()) {
                wrong.push(format!("{family} {kind} {name}: {option}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if compared == 0 {
        eprintln!("SKIPPED: this machine has no iptables");
    }
}

/// An inventory that was made of a host with an extension of its own passes the check.
#[test]
fn import_declares_what_only_the_host_knows() {
    let answer = "@n host\nhostname=kvm1\nroot=yes\n\n@n rules4\nbackend=nft\n\n@n live4\n*filter\n:INPUT ACCEPT [0:0]\n\
        :own - [0:0]\n-A INPUT -m hostmatch --any -j own\n-A INPUT -j HOSTTARGET --some thing\n\
        -A INPUT -m limit --limit 5/sec --limit-newer 3 -j ACCEPT\n-A own -j DROP\nCOMMIT\n\n\
        @n rules6\nbackend=nft\n\n@n links\n[]\n\n@n end\n";
    let observed = observe(&ProbeSections::split(answer, "n"), "").unwrap();
    let host = ["kvm1".to_owned()];
    let locate = ProjectLocation { home: Some("/home/ops".into()), ..ProjectLocation::default() };
    let project = load_text(&locate, "case", "hosts: { kvm1: {  } }\n").unwrap();
    let desired = compile(&project, &host).unwrap().remove(0);
    let text = import::yaml("kvm1", &desired.connection, &observed);
    assert!(text.contains("\n    extensions: [HOSTTARGET, hostmatch, limit]\n"), "{text}");
    let project = load_text(&locate, "case", &text).unwrap_or_else(|e| panic!("{:#?}", e.list));
    compile(&project, &host).unwrap_or_else(|problems| panic!("{problems:#?}"));
}
