//! Hosts that somebody made by hand, taken over: `--adopt` takes what `import` has said.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::by_hand::{HOST, by_hand, import, keep, load, plain, save};
use common::project::{Project, Run};
use common::{Backend, Lab, Shell, transaction};
use std::fs;

fn host_of(run: &Run) -> serde_json::Value {
    run.json()["hosts"][0].clone()
}

fn moved_over(backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(backend).up();
    let project = Project::new(&lab, &[HOST], "");
    by_hand(&lab);
    let original = lab.dump(HOST);
    let before = plain(&save(&lab));
    keep(&project, &import(&project, &lab));

    // Without it, the file of others is in the way; with it, everything is said before it is done.
    assert_eq!(
        host_of(&project.kvmfw(&lab, &["plan", "--format", "json"]).expect(7))["reason"],
        "unmanaged-owner"
    );
    let saved = project.path().join("plan.json");
    let plan = project
        .kvmfw(&lab, &["plan", "--adopt", "--format", "json", "-o", saved.to_str().unwrap()])
        .expect(0);
    let host = host_of(&plan);
    let changes: Vec<(&str, &str)> = host["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["resource"].as_str().unwrap(), c["action"].as_str().unwrap()))
        .collect();
    for change in [
        ("filter/INPUT (unmanaged)", "remove"),
        ("filter/FORWARD (unmanaged)", "remove"),
        ("filter/RH-Firewall-1-INPUT (unmanaged)", "remove"),
        ("filter/RH-Firewall-1-INPUT", "add"),
        ("60-arp", "change"),
    ] {
        assert!(changes.contains(&change), "{change:?}: {host:#}");
    }
    assert!(host["changes"].as_array().unwrap().iter().all(|c| c["kind"] != "bridge"), "{host:#}");
    let warnings = host["warnings"].to_string();
    assert!(
        warnings.contains("/etc/iptables/rules.v4 loads the adopted rules again")
            && warnings.contains("line 6-12"),
        "{warnings}"
    );
    common::same(&original, &lab.dump(HOST), "a plan changes nothing");

    // Nothing is lost while it happens, bridged or to the host.
    let floods = [("g0", "192.168.1.2"), ("g0", "192.168.1.254")]
        .map(|(from, to)| common::flood(&lab, HOST, from, to));
    project.kvmfw(&lab, &["apply", saved.to_str().unwrap()]).expect(0);
    for flood in floods {
        // However quick the apply was.
        flood.run_on(100);
        let (sent, lost) = flood.stop();
        assert!(sent > 50 && lost == 0, "{lost} of {sent} lost");
    }
    let after = save(&lab);
    assert!(!after.contains(" RH-Firewall-1-INPUT"), "{after}");
    assert_eq!(after.matches("-A KVMFW-RH-Firewall-1-INPUT").count(), 5, "{after}");
    for flags in [&["plan", "--detailed-exitcode"][..], &["plan", "--adopt", "--detailed-exitcode"]] {
        project.kvmfw(&lab, flags).expect(0);
    }

    // Another apply later, an undo of that one, and all the way back.
    let records = ["/etc/kvmfw"];
    let managed = lab.dump_without(HOST, &records);
    let yaml = fs::read_to_string(project.path().join("inventories/lab.yaml")).unwrap();
    keep(&project, &yaml.replace("--dport 22 -j", "--dport 22:23 -j"));
    let second = project.apply(&lab, &[]).expect(0).run();
    project.kvmfw(&lab, &["undo", &second, "-y"]).expect(0);
    common::same(&managed, &lab.dump_without(HOST, &records), "what was taken stays taken");
    // As the book has it, the boot file has been moved away: the undo says so, and is silent where it is there.
    let moved = |from: &str, to: &str| lab.host(HOST, &["mv", from, to]).ok();
    let boot = ["/etc/iptables/rules.v4", "/root/rules.v4.before-kvmfw"];
    moved(boot[0], boot[1]);
    let json = ["undo", "--to", "0", "-y", "--format", "json"];
    let host = host_of(&project.kvmfw(&lab, &json).expect(0));
    let why = warned(&host, "not-at-boot");
    assert!(
        why.contains("7 unmanaged rules that the undo restores do not load at boot. Cause: /etc/iptables/rules.v4, which loaded them, no longer exists"),
        "{host:#}"
    );
    moved(boot[1], boot[0]);
    assert_eq!(plain(&save(&lab)), before);
    common::same(&original, &lab.dump(HOST), "the undo brought the host back to the byte");
    project.apply(&lab, &["--adopt"]).expect(0);
    let host = host_of(&project.kvmfw(&lab, &json).expect(0));
    assert_eq!(warned(&host, "not-at-boot"), "", "{host:#}");
    common::same(&original, &lab.dump(HOST), "the undo brought the host back to the byte again");
}

#[test]
fn a_host_made_by_hand_is_moved_over_and_back_nft() {
    moved_over(Backend::Nft);
}

#[test]
fn a_host_made_by_hand_is_moved_over_and_back_legacy() {
    moved_over(Backend::Legacy);
}

/// A host made by hand, and the inventory that says the same but for one thing.
fn imported(shell: Shell, backend: Backend) -> (Lab, Project, String) {
    let lab = Lab::builder().shell(shell).backend(backend).guests(false).up();
    let project = Project::new(&lab, &[HOST], "");
    by_hand(&lab);
    let yaml = import(&project, &lab);
    keep(&project, &yaml);
    (lab, project, yaml)
}

fn warned(host: &serde_json::Value, code: &str) -> String {
    let all = host["warnings"].as_array().unwrap().iter().filter(|w| w["code"] == code);
    all.map(|w| format!("{}\n", w["message"].as_str().unwrap())).collect()
}

/// What is not the same to the letter of the kernel stays, and is told.
#[test]
fn rules_that_differ_are_not_adopted() {
    if !common::require_root() {
        return;
    }
    let (lab, project, yaml) = imported(Shell::Dash, Backend::Nft);
    lab.host(HOST, &["iptables", "-A", "OUTPUT", "-d", "203.0.113.0/24", "-j", "REJECT"]).ok();
    lab.host(HOST, &["iptables", "-A", "OUTPUT", "-d", "203.0.113.0/25", "-m", "recent", "--set"]).ok();
    let other = yaml.replace("--dport 22 -j", "--dport 22:23 -j").replace(
        "    iptables:\n      filter:\n",
        "    iptables:\n      filter:\n        OUTPUT:\n          rules: |\n            -d 203.0.113.0/24 -j REJECT\n            \
         -d 203.0.113.0/25 -m recent --set\n",
    );
    keep(&project, &other);
    let host = host_of(&project.kvmfw(&lab, &["plan", "--adopt", "--format", "json"]).expect(0));
    let why = warned(&host, "not-adopted");
    assert!(
        why.contains("`-p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT`, the inventory has"),
        "{why}"
    );
    assert!(why.contains("`-m recent` by its own text"), "{why}");
    project.apply(&lab, &["--adopt"]).expect(0);
    let save = save(&lab);
    assert!(save.contains("-A INPUT -j RH-Firewall-1-INPUT\n"), "{save}");
    assert!(save.contains("-A OUTPUT -d 203.0.113.0/25 -m recent"), "{save}");
    assert!(!save.contains("-A OUTPUT -d 203.0.113.0/24 -j REJECT"), "{save}");

    // A file that sets more than is stated would lose it.
    lab.host(HOST, &["sh", "-c", "echo net.ipv4.conf.all.arp_announce=2 >/etc/sysctl.d/61-more.conf"]).ok();
    keep(
        &project,
        &other.replace("    sysctl:\n", "    sysctl:\n      61-more: { net.ipv4.conf.all.arp_filter: 0 }\n"),
    );
    let host = host_of(&project.kvmfw(&lab, &["plan", "--adopt", "--format", "json"]).expect(7));
    assert_eq!(host["reason"], "unmanaged-owner", "{host:#}");
    assert!(host["message"].to_string().contains("line 1 sets `net.ipv4.conf.all.arp_announce`"), "{host:#}");
}

/// Ours come first, and one rule of others that is not stated would be starved: that is no adoption.
#[test]
fn an_adoption_that_changes_a_verdict_is_refused_with_a_packet() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let rules = "-p tcp -m tcp --dport 22 -j ACCEPT\n-j DROP\n";
    let inventory = |hook: &str| {
        let text: String = rules.lines().map(|rule| format!("        {rule}\n")).collect();
        format!("iptables:\n  filter:\n    INPUT:\n{hook}      rules: |\n{text}")
    };
    let project = Project::new(&lab, &[HOST], &inventory(""));
    let by_hand = "*filter\n-A INPUT -s 203.0.113.0/24 -p udp -m udp --dport 161 -j ACCEPT\n\
                   -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n";
    load(&lab, "iptables-restore", by_hand);
    let before = lab.dump(HOST);
    let host = host_of(&project.kvmfw(&lab, &["apply", "-y", "--adopt", "--format", "json"]).expect(7));
    assert_eq!(host["reason"], "adoption-differs", "{host:#}");
    let why = host["message"].as_str().unwrap();
    assert!(
        why.contains("a UDP packet from 203.0.113.0")
            && why.contains("to port 161 in by eth0 is accepted by"),
        "{why}"
    );
    assert!(why.contains("would be dropped by `-j DROP`"), "{why}");
    common::same(&before, &lab.dump(HOST), "nothing was touched");
    project.all(&inventory("      jump: last\n"));
    project.apply(&lab, &["--adopt"]).expect(0);
    let save = save(&lab);
    let input: Vec<&str> = save.lines().filter(|l| l.starts_with("-A INPUT")).collect();
    assert_eq!(input.len(), 2, "{save}");
    assert!(input[0].contains("--dport 161") && input[1].contains("KVMFW-INPUT"), "{save}");
}

/// Forward again to the generation that had taken them: they stand beside ours, and nobody says that they are taken.
#[test]
fn an_undo_to_an_adopting_generation_adopts_nothing() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let rules = "-p tcp -m tcp --dport 22 -j ACCEPT";
    let all = format!("iptables:\n  filter:\n    INPUT:\n      rules: |\n        {rules}\n");
    let project = Project::new(&lab, &[HOST], &all);
    load(&lab, "iptables-restore", &format!("*filter\n-A INPUT {rules}\nCOMMIT\n"));
    let before = lab.dump(HOST);
    project.apply(&lab, &[]).expect(0);
    // Something else changes too, so that there is a way back and forth.
    project.all(&all.replace("rules: |", "rules: |\n        -p tcp -m tcp --dport 23 -j ACCEPT"));
    project.apply(&lab, &["--adopt"]).expect(0);
    let theirs = || save(&lab).matches(&format!("-A INPUT {rules}")).count();
    let taken = || {
        let json = project.kvmfw(&lab, &["status", "--format", "json"]).expect(0).json();
        json["hosts"][0]["adopted"].as_array().unwrap().len()
    };
    assert_eq!((theirs(), taken()), (0, 1));
    project.kvmfw(&lab, &["undo", "--to", "1", "-y"]).expect(0);
    assert_eq!((theirs(), taken()), (1, 0));
    let forward = project.kvmfw(&lab, &["undo", "--to", "2", "-y"]).expect(0);
    assert!(
        !forward.stdout.contains("(unmanaged)") && !forward.stderr.contains("(unmanaged)"),
        "{forward:?}"
    );
    assert_eq!((theirs(), taken()), (1, 0));
    let history = project.kvmfw(&lab, &["history", HOST]).expect(0).stdout;
    assert_eq!(
        (history.matches("  adopted ").count(), history.matches("  returned ").count()),
        (1, 1),
        "{history}"
    );
    project.apply(&lab, &["--adopt"]).expect(0);
    assert_eq!((theirs(), taken()), (0, 1));
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    common::same(&before, &lab.dump(HOST), "back to the byte");
}

/// Rules that somebody puts in while a change is open stay his, whatever comes of it; and what was by hand
/// stands again where it stood.
fn strangers(shell: Shell, backend: Backend) {
    if !common::require_root() {
        return;
    }
    let (lab, project, yaml) = imported(shell, backend);
    lab.host(HOST, &["iptables", "-A", "INPUT", "-s", "203.0.113.1/32", "-j", "DROP"]).ok();
    let original = lab.dump(HOST);
    let before = plain(&save(&lab));
    let held =
        "test -e /run/first || { touch /run/first; exit 0; }; until test -e /run/go; do sleep 0.1; done";
    let check = |command: &str| {
        format!("{yaml}    checks: [{{ command: '{command}', timeout: 30s, required: true }}]\n")
    };

    // Rolled back with nobody there: as it was.
    keep(&project, &check("false"));
    project.apply(&lab, &["--adopt"]).expect(4);
    common::same(&original, &lab.dump(HOST), "rolled back to the byte");

    // With somebody there: his stay, ours stand in front of the same rule again.
    keep(&project, &check(&format!("{held}; false")));
    let last = transaction::newest(&lab, HOST);
    let apply = transaction::start(&lab, &project, &["--adopt"]);
    transaction::marked(&lab, HOST, "applied", last.as_ref());
    assert!(!save(&lab).contains("-A INPUT -j RH-Firewall-1-INPUT"));
    let put = "iptables -I INPUT -s 203.0.113.9/32 -j DROP && iptables -A INPUT -s 203.0.113.10/32 -j DROP && : >/run/go";
    lab.host(HOST, &["sh", "-c", put]).ok();
    assert_eq!(transaction::end(apply).code, 4);
    let his = before.replace("-A INPUT -j RH", "-A INPUT -s 203.0.113.9/32 -j DROP\n-A INPUT -j RH").replace(
        "-A INPUT -s 203.0.113.1/32 -j DROP\n",
        "-A INPUT -s 203.0.113.1/32 -j DROP\n-A INPUT -s 203.0.113.10/32 -j DROP\n",
    );
    assert_eq!(plain(&save(&lab)), his);
    // Ours would come before his: that is no adoption now.
    let refused = host_of(&project.kvmfw(&lab, &["plan", "--adopt", "--format", "json"]).expect(7));
    let why = refused["message"].as_str().unwrap();
    assert!(why.contains("would come before `-s 203.0.113.9/32 -j DROP`"), "{why}");
    let away = "iptables -D INPUT -s 203.0.113.9/32 -j DROP && iptables -D INPUT -s 203.0.113.10/32 -j DROP";
    lab.host(HOST, &["sh", "-c", away]).ok();

    // Somebody writes into the chain that is to go, after it was proven: nothing of his is lost.
    let put = "test -e /run/second || { touch /run/second; iptables -A RH-Firewall-1-INPUT -s 203.0.113.11/32 -j ACCEPT; }";
    keep(&project, &check(put));
    let run = project.apply(&lab, &["--adopt"]).expect(4);
    assert!(run.stdout.contains("may have changed meanwhile"), "{}", run.stdout);
    let his =
        before.replace("prohibited\n", "prohibited\n-A RH-Firewall-1-INPUT -s 203.0.113.11/32 -j ACCEPT\n");
    assert_eq!(plain(&save(&lab)), his);
    lab.host(HOST, &["iptables", "-D", "RH-Firewall-1-INPUT", "-s", "203.0.113.11/32", "-j", "ACCEPT"]).ok();

    // Kept, with somebody there; then back from the console.
    keep(&project, &check(held));
    lab.host(HOST, &["rm", "-f", "/run/first", "/run/go"]).ok();
    let last = transaction::newest(&lab, HOST);
    let apply = transaction::start(&lab, &project, &["--adopt"]);
    transaction::marked(&lab, HOST, "applied", last.as_ref());
    lab.host(HOST, &["sh", "-c", "iptables -I INPUT -s 203.0.113.12/32 -j DROP && : >/run/go"]).ok();
    assert_eq!(transaction::end(apply).code, 0);
    assert!(save(&lab).contains("203.0.113.12"));
    assert!(!save(&lab).contains(" RH-Firewall"));
    lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "undo", "0"]).ok();
    let now = plain(&save(&lab));
    let his = before.replace("-A INPUT -j RH", "-A INPUT -s 203.0.113.12/32 -j DROP\n-A INPUT -j RH");
    assert_eq!(now, his);
    let file = lab.host(HOST, &["stat", "-c", "%a %F", "/etc/sysctl.d/60-arp.conf"]).ok();
    assert_eq!(file.trim(), "640 regular file");
}

#[test]
fn unmanaged_rules_stay_nft() {
    strangers(Shell::Dash, Backend::Nft);
}

#[test]
fn unmanaged_rules_stay_legacy_busybox() {
    strangers(Shell::Busybox, Backend::Legacy);
}
