//! The pages of the book on moving from other tools, walked through: the host is what the page says
//! it is, and what the page says to do is done.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::Project;
use std::fs;

const HOST: &str = "kvm1";

#[test]
fn from_a_bare_rules_v4() {
    if common::require_root() {
        walk("moving-rules.md", false);
    }
}

#[test]
fn from_a_host_made_by_hand() {
    if common::require_root() {
        walk("taking-over.md", false);
    }
}

#[test]
fn from_ansible() {
    if common::require_root() {
        walk("moving-ansible.md", false);
    }
}

#[test]
fn from_puppet() {
    if common::require_root() {
        walk("moving-puppet.md", true);
    }
}

/// Code blocks of a part of a page with what stands after the fence.
fn blocks(text: &str) -> Vec<(String, String)> {
    let fenced = text.split("```").skip(1).step_by(2);
    fenced
        .map(|block| block.split_once('\n').unwrap())
        .map(|(kind, body)| (kind.into(), body.into()))
        .collect()
}

/// The file that a block is, by its first line.
fn path(body: &str) -> &str {
    body.lines().next().unwrap().trim_start_matches("# ")
}

/// Rules that libvirt makes when it starts.
const LIBVIRT: [&str; 3] =
    ["-N LIBVIRT_INP", "-A LIBVIRT_INP -p udp -m udp --dport 53 -j ACCEPT", "-I INPUT -j LIBVIRT_INP"];

/// Does what a page says. With `libvirt` there are rules of a program that runs on, and they stay.
fn walk(page: &str, libvirt: bool) {
    let lab = Lab::builder().persistent(true).up();
    let project = Project::new(&lab, &[HOST], "modules: []");
    let text = fs::read_to_string(format!("book/src/{page}")).unwrap();
    let (there, back) = text.split_once("**Undo.**").unwrap_or_else(|| panic!("{page}: no way back"));
    let blocks = blocks(there);

    // As the other tool left it, and booted since.
    for (_, body) in blocks.iter().filter(|(kind, _)| kind == "text") {
        fs::write(lab.disk(HOST, path(body)), body).unwrap();
    }
    lab.reboot(HOST);
    let before = foreign(&lab);
    assert!(!before.is_empty(), "the old rules are not live");
    assert!(lab.guest_ping(HOST, "g0", "192.168.1.2"), "guests are dark before anything is done");

    for rule in LIBVIRT.iter().filter(|_| libvirt) {
        lab.host(HOST, &["sh", "-c", &format!("iptables {rule}")]).ok();
    }
    let mut plans = Vec::new();
    for (kind, body) in &blocks {
        match kind.as_str() {
            "yaml" => {
                let key = format!(
                    "user: root, identity_file: {0}/id_ed25519, known_hosts: {0}/known_hosts",
                    lab.dir().display()
                );
                let yaml = body.replace("192.0.2.11", &lab.address(HOST)).replace("user: root", &key);
                project.write(path(body), &yaml);
            }
            "console" => {
                typed(body).for_each(|line| step(&lab, &project, line, &mut plans));
            }
            _ => {}
        }
    }
    assert!(plans.len() >= 2, "{page} has no plan before and after");
    // Before anything is done, a plan tells of the old rules: that ours stand before them, or that they go.
    let first =
        blocks.iter().flat_map(|(_, body)| body.lines()).find(|line| line.starts_with("$ kvmfw plan"));
    let told = if first.is_some_and(|line| line.ends_with(" --adopt")) {
        "filter/INPUT (unmanaged)"
    } else {
        "shadows-unmanaged"
    };
    assert!(plans[0].contains(told), "the old rules are not told of ({told}): {}", plans[0]);
    let last = plans.last().unwrap();
    let of_others: Vec<&str> = last.lines().filter(|line| line.contains("shadows-unmanaged")).collect();
    assert!(last.contains("No changes.") && of_others.len() == usize::from(libvirt), "{last}");
    assert!(of_others.iter().all(|line| line.contains("`-j LIBVIRT_INP`")), "{last}");

    let stay = foreign(&lab);
    assert_eq!(
        stay.lines().filter(|line| line.contains("LIBVIRT")).count(),
        if libvirt { 2 } else { 0 },
        "{stay}"
    );

    // It lasts, and nothing of the old comes back.
    lab.reboot(HOST);
    project.kvmfw(&lab, &["plan", "-i", "prod", "--detailed-exitcode"]).expect(0);
    assert_eq!(foreign(&lab), "", "left or come back");
    assert!(lab.guest_ping(HOST, "g0", "192.168.1.2"), "guests are dark");
    assert!(lab.guest_ping(HOST, "g0", "192.168.1.53"), "the way out is dark");

    // And back: what was there is there again, also after a boot.
    for (_, body) in self::blocks(back).iter().filter(|(kind, _)| kind == "console") {
        typed(body).for_each(|line| step(&lab, &project, line, &mut plans));
    }
    assert_eq!(foreign(&lab), before, "not as it was");
    lab.reboot(HOST);
    assert_eq!(foreign(&lab), before, "not as it was after a boot");
}

/// What is typed in a console; what is answered there comes after it.
fn typed(body: &str) -> impl Iterator<Item = &str> {
    let prompt = |line: &&str| line.starts_with("$ ") || line.starts_with("kvm1# ");
    assert!(body.lines().next().is_some_and(|line| prompt(&line)), "nobody types anything: {body}");
    body.lines().filter(prompt)
}

/// One line of a console: `$` where kvmfw runs, `kvm1#` on the host.
fn step(lab: &Lab, project: &Project, line: &str, plans: &mut Vec<String>) {
    if let Some(command) = line.strip_prefix("$ kvmfw ") {
        let mut words: Vec<&str> = command.split(' ').collect();
        if ["apply", "undo"].contains(&words[0]) {
            words.push("-y");
        }
        let run = project.kvmfw(lab, &words).expect(0);
        if words[0] == "plan" {
            plans.push(run.stdout);
        }
    } else if let Some(command) = line.strip_prefix("kvm1# ") {
        let output = lab.host(HOST, &["sh", "-c", &format!("set -eu; {command}")]);
        assert!(output.success(), "{line}: {}", output.stderr);
    } else {
        panic!("whose line is that: {line}");
    }
}

/// Rules that are not ours.
fn foreign(lab: &Lab) -> String {
    let live = lab.host(HOST, &["iptables-save"]).ok();
    live.lines().filter(|l| l.starts_with("-A") && !l.contains("KVMFW-")).map(|l| format!("{l}\n")).collect()
}
