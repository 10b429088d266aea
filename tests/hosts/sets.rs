//! Sets of ipset, with real kernels' sets in namespaces: they come before the rules that ask them and go after those, live
//! and at boot; what is not declared stays as it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, host_of};
use common::transaction::until;
use common::{Backend, Lab, Shell};
use kvmfw::problem::Origin;
use kvmfw::resource::ipset::{DeclaredSet, LiveSet, TYPES, plain_member};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

const HOST: &str = "kvm1";

#[track_caller]
fn on_host(lab: &Lab, script: &str) -> String {
    lab.host(HOST, &["sh", "-c", script]).ok()
}

/// All sets of the host, less what moves by itself, in order.
fn sets(lab: &Lab) -> String {
    on_host(
        lab,
        "ipset save | sed -E 's/ (hashsize|bucketsize|initval) [^ ]+//g; s/ timeout [1-9][0-9]*$/ timeout T/' | sort",
    )
}

fn members(lab: &Lab, set: &str) -> Vec<String> {
    let start = format!("add {set} ");
    sets(lab).lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
}

/// What fail2ban has: a set whose members go by themselves, and a rule that asks it.
fn fail2ban(lab: &Lab) {
    on_host(
        lab,
        "ipset create f2b-sshd hash:ip timeout 600; ipset add f2b-sshd 192.0.2.200; \
         iptables -w -I INPUT -p tcp --dport 22 -m set --match-set f2b-sshd src -j REJECT",
    );
}

/// An allowlist for both families, and a blocklist that another program fills.
fn inventory(admins: &str) -> String {
    format!(
        "modules: [host-firewall]\n\
         ipset:\n  admins: {{ type: 'hash:net', entries: [{admins}] }}\n  admins6: {{ type: 'hash:net', family: inet6, entries: ['2001:db8::/32'] }}\n  \
         all-admins: {{ type: 'list:set', entries: [admins, admins6] }}\n  banned: {{ type: 'hash:ip', timeout: 600, entries: unmanaged }}\n\
         iptables:\n  filter:\n    INPUT:\n      first: |\n        -m set --match-set banned src -j DROP\n        \
         -p tcp --dport 16514 -m set --match-set all-admins src -j ACCEPT\n\
         ip6tables:\n  filter:\n    INPUT:\n      first: |\n        -p tcp --dport 16514 -m set --match-set all-admins src -j ACCEPT\n"
    )
}

#[track_caller]
fn settled(lab: &Lab, project: &Project) {
    project.kvmfw(lab, &["plan", "--detailed-exitcode"]).expect(0);
}

fn the_life_of_sets(backend: Backend, shell: Shell) {
    if !common::require_root() || !common::require_tools(&["ipset"]) {
        return;
    }
    let lab = Lab::builder().backend(backend).shell(shell).guests(false).up();
    fail2ban(&lab);
    let before = sets(&lab);
    let project = Project::new(&lab, &[HOST], &inventory("10.0.0.0/8, 192.0.2.7/32"));

    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0).json();
    let host = host_of(&plan, HOST);
    let of = |name: &str| {
        let all = host["changes"].as_array().unwrap();
        all.iter().find(|c| c["kind"] == "ipset" && c["resource"] == name).cloned().unwrap_or_default()
    };
    assert_eq!(of("admins")["action"], "add", "{plan:#}");
    assert!(of("admins")["diff"].as_str().unwrap().contains("+ 10.0.0.0/8\n+ 192.0.2.7\n"), "{plan:#}");
    assert!(of("banned")["diff"].as_str().unwrap().contains("+ entries unmanaged"), "{plan:#}");
    let warnings = host["warnings"].as_array().unwrap();
    assert!(
        !warnings.iter().any(|w| w["code"] == "not-at-boot" || w["code"] == "unknown-set"),
        "{warnings:#?}"
    );
    assert_eq!(sets(&lab), before, "a plan made sets");

    project.apply(&lab, &[]).expect(0);
    settled(&lab, &project);
    assert_eq!(members(&lab, "admins"), ["10.0.0.0/8", "192.0.2.7"]);
    assert_eq!(members(&lab, "all-admins"), ["admins", "admins6"]);
    for tool in ["iptables-save", "ip6tables-save"] {
        assert!(on_host(&lab, tool).contains("--match-set all-admins src -j ACCEPT"), "{tool}");
    }

    // Another program fills its set, and ours change beside it.
    on_host(&lab, "ipset add banned 192.0.2.66; ipset add banned 192.0.2.67 timeout 0");
    settled(&lab, &project);
    project.all(&inventory("10.0.0.0/9, 192.0.2.7/32"));
    let change = project.kvmfw(&lab, &["plan"]).expect(0).stdout;
    assert!(change.contains("- 10.0.0.0/8") && change.contains("+ 10.0.0.0/9"), "{change}");
    let run = project.apply(&lab, &[]).expect(0).run();
    assert_eq!(members(&lab, "admins"), ["10.0.0.0/9", "192.0.2.7"]);
    assert_eq!(members(&lab, "banned"), ["192.0.2.66 timeout T", "192.0.2.67 timeout 0"]);

    // Drift of ours is told; what others do to theirs is none.
    project.kvmfw(&lab, &["plan", "--drift", "--detailed-exitcode"]).expect(0);
    on_host(&lab, "ipset del admins 192.0.2.7");
    let drift = project.kvmfw(&lab, &["plan", "--drift", "--detailed-exitcode"]).expect(2).stdout;
    assert!(drift.contains("- 192.0.2.7"), "{drift}");
    let status = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(status.contains("ipset"), "{status}");
    project.apply(&lab, &[]).expect(0);

    // Back to the members before, with those of others where they are.
    project.kvmfw(&lab, &["undo", &run, "-y"]).expect(0);
    assert_eq!(members(&lab, "admins"), ["10.0.0.0/8", "192.0.2.7"]);
    assert_eq!(members(&lab, "banned").len(), 2);
    project.apply(&lab, &[]).expect(0);

    // At a boot they are there before the rules, and nothing is left out.
    lab.power_cut(HOST);
    lab.boot(HOST);
    assert_eq!(members(&lab, "admins"), ["10.0.0.0/9", "192.0.2.7"], "{}", lab.console(HOST));
    assert!(members(&lab, "banned").is_empty());
    assert!(lab.console(HOST).contains("[  OK  ] kvmfw.service"), "{}", lab.console(HOST));
    settled(&lab, &project);
    // Whoever takes them away after it finds them back.
    on_host(&lab, "ipset flush admins");
    until("the members that were taken away", || members(&lab, "admins") == ["10.0.0.0/9", "192.0.2.7"]);
    until("the record of it", || {
        project.kvmfw(&lab, &["status"]).expect(0).stdout.contains("REPAIRED ipset")
    });

    // One that a rule of others asks stays, and that is told.
    fail2ban(&lab);
    on_host(&lab, "iptables -w -I INPUT -m set --match-set admins src -j ACCEPT");
    project.all("modules: [host-firewall]\n");
    let plan = project.kvmfw(&lab, &["plan"]).stdout;
    assert!(plan.contains("the set `admins` stays on the host"), "{plan}");
    on_host(&lab, "iptables -w -D INPUT 1");
    // Gone with their rules; others stay.
    project.all("modules: [host-firewall]\n");
    let risk = ["--accept-risk", "removes-all"];
    let refused = project.kvmfw(&lab, &["apply", "-y"]).expect(7);
    assert!(refused.stdout.contains("ipset") || refused.stderr.contains("ipset"), "{refused:?}");
    project.apply(&lab, &risk).expect(0);
    assert_eq!(sets(&lab), before);
    settled(&lab, &project);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert_eq!(sets(&lab), before);
    assert!(!lab.disk(HOST, "/etc/kvmfw").exists());
}

#[test]
fn sets_come_before_their_rules_and_go_after_them() {
    the_life_of_sets(Backend::Nft, Shell::Dash);
}

#[test]
fn sets_on_legacy_and_busybox() {
    the_life_of_sets(Backend::Legacy, Shell::Busybox);
}

/// A rollback and the console leave sets as they were, members of others with the time that they have left included.
#[test]
fn a_rollback_restores_sets_exactly() {
    if !common::require_root() || !common::require_tools(&["ipset"]) {
        return;
    }
    let lab = Lab::builder().shell(Shell::Bash).guests(false).up();
    fail2ban(&lab);
    let project = Project::new(&lab, &[HOST], &inventory("10.0.0.0/8"));
    project.apply(&lab, &[]).expect(0);
    on_host(&lab, "ipset add banned 192.0.2.66; ipset add banned 192.0.2.67 timeout 0");
    let before = sets(&lab);
    // Members change, one set comes, one with members of others goes, options change.
    let other = "modules: [host-firewall]\nipset:\n  admins: { type: 'hash:net', comment: true, maxelem: 100, entries: [10.0.0.0/8 comment \"x y\"] }\n  \
                 new: { type: 'hash:ip,port', entries: ['192.0.2.1,udp:53'] }\n\
                 iptables:\n  filter:\n    INPUT:\n      first: |\n        -m set --match-set new src,dst -j ACCEPT\n";
    project.all(&format!("{other}checks: [{{ command: 'false', required: true }}]\n"));
    project.apply(&lab, &[]).expect(4);
    assert_eq!(sets(&lab), before, "after a rollback");
    project.all(other);
    project.apply(&lab, &[]).expect(0);
    settled(&lab, &project);
    assert_eq!(members(&lab, "admins"), ["10.0.0.0/8 comment \"x y\""]);
    assert!(!sets(&lab).contains("create banned "));
    // At the console there is no plan: the generations tell.
    on_host(&lab, "sh /var/lib/kvmfw/kvmfw.sh undo 1");
    assert_eq!(members(&lab, "admins"), ["10.0.0.0/8"]);
    assert!(!sets(&lab).contains("create new ") && sets(&lab).contains("create banned "), "{}", sets(&lab));
    on_host(&lab, "sh /var/lib/kvmfw/kvmfw.sh undo 0");
    assert_eq!(sets(&lab).lines().filter(|line| line.starts_with("create ")).count(), 1, "{}", sets(&lab));
}

/// A set that is there already is not ours: it is left alone, or taken over and given back.
#[test]
fn an_unmanaged_set_is_left_alone_unless_adopted() {
    if !common::require_root() || !common::require_tools(&["ipset"]) {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(
        &lab,
        "ipset create office hash:net; ipset add office 10.1.0.0/16; ipset create crowdsec hash:ip timeout 300; \
         ipset add crowdsec 192.0.2.9",
    );
    let before = sets(&lab);
    let stated = |kind: &str, crowdsec: &str| {
        let entries = if kind == "hash:ip" { "10.1.0.1" } else { "10.1.0.0/16, 10.2.0.0/16" };
        format!(
            "modules: [host-firewall]\nipset:\n  office: {{ type: '{kind}', entries: [{entries}] }}\n  crowdsec: {{ type: 'hash:ip', timeout: {crowdsec}, entries: unmanaged }}\n"
        )
    };
    let project = Project::new(&lab, &[HOST], &stated("hash:net", "300"));
    for (yaml, more, reason) in [
        (stated("hash:net", "300"), "", "unmanaged-owner"),
        (stated("hash:ip", "300"), "--adopt", "set-type"),
        (stated("hash:net", "60"), "--adopt", "set-options"),
    ] {
        project.all(&yaml);
        let mut args = vec!["plan", "--format", "json"];
        args.extend(Some(more).filter(|more| !more.is_empty()));
        let plan = project.kvmfw(&lab, &args).json();
        assert_eq!(host_of(&plan, HOST)["reason"], reason, "{plan:#}");
    }
    project.all(&stated("hash:net", "300"));
    project.apply(&lab, &["--adopt"]).expect(0);
    settled(&lab, &project);
    assert_eq!(members(&lab, "office"), ["10.1.0.0/16", "10.2.0.0/16"]);
    assert_eq!(members(&lab, "crowdsec"), ["192.0.2.9 timeout T"]);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert_eq!(sets(&lab), before);

    on_host(
        &lab,
        "ipset create f2b-x hash:ip; ipset create timed hash:ip timeout 0; ipset create some list:set; ipset add some f2b-x; \
         ipset create all list:set; ipset add all office",
    );
    let import = project.kvmfw(&lab, &["import", HOST]).expect(0).stdout;
    assert!(import.contains("timed: { type: 'hash:ip', timeout: 0, entries: unmanaged }"), "{import}");
    // A set that is left out is not declared, and so cannot be in a list that is.
    assert!(import.contains("some: { type: 'list:set', entries: unmanaged }"), "{import}");
    assert!(import.contains("all: { type: 'list:set', entries: ['office'] }"), "{import}");
    assert!(import.contains("office: { type: 'hash:net', entries: ['10.1.0.0/16'] }\n"), "{import}");
    assert!(import.contains("crowdsec: { type: 'hash:ip', timeout: 300, entries: unmanaged }"), "{import}");
}

/// What a generation says is what every boot makes. So where it is to say something else there is a change, also where
/// the sets on the host are so already.
#[test]
fn a_difference_from_the_generation_is_a_change() {
    if !common::require_root() || !common::require_tools(&["ipset"]) {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(
        &lab,
        "ipset create office hash:net; ipset add office 10.1.0.0/16; ipset create crowdsec hash:ip timeout 300",
    );
    let before = sets(&lab);
    let stated = |office: &str, more: &str| {
        format!(
            "modules: [host-firewall]\nipset:\n  office: {{ type: 'hash:net', entries: {office} }}\n  \
             crowdsec: {{ type: 'hash:ip', timeout: 300, entries: unmanaged }}\n{more}"
        )
    };
    let current = || on_host(&lab, "cat /etc/kvmfw/current/sets");
    let changed = |project: &Project, arguments: &[&str], lines: &[&str]| {
        let plan =
            project.kvmfw(&lab, &[&["plan", "--detailed-exitcode"], arguments].concat()).expect(2).stdout;
        for line in lines {
            assert!(plan.contains(line), "{line}: {plan}");
        }
    };
    // Sets that are as declared become ours, and those of other programs are made at boot from now on.
    let project = Project::new(&lab, &[HOST], "modules: [host-firewall]\n");
    project.apply(&lab, &[]).expect(0);
    project.all(&stated("[10.1.0.0/16]", ""));
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(7);
    changed(&project, &["--adopt"], &["+ entries unmanaged", "+ entries declared, 1"]);
    project.apply(&lab, &["--adopt"]).expect(0);
    settled(&lab, &project);
    assert!(current().contains("create office ") && current().contains("keep crowdsec "), "{}", current());

    // Members given into the hands of another program are not swapped away at the next boot.
    project.all(&stated("unmanaged", ""));
    changed(&project, &[], &["- entries declared, 1", "+ entries unmanaged"]);
    let given = project.apply(&lab, &[]).expect(0).run();
    settled(&lab, &project);
    assert!(current().contains("keep office ") && !current().contains("add office"), "{}", current());
    on_host(&lab, "ipset add office 10.9.0.0/16");
    settled(&lab, &project);

    // Nor taken back without being asked, and what was in it comes back.
    project.all(&stated("[10.1.0.0/16]", ""));
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).json();
    assert_eq!(host_of(&plan, HOST)["reason"], "unmanaged-owner", "{plan:#}");
    let taken = project.apply(&lab, &["--adopt"]).expect(0).run();
    assert_eq!(members(&lab, "office"), ["10.1.0.0/16"]);
    settled(&lab, &project);
    project.kvmfw(&lab, &["undo", &taken, "-y"]).expect(0);
    assert_eq!(members(&lab, "office"), ["10.1.0.0/16", "10.9.0.0/16"]);
    assert!(current().contains("keep office "), "{}", current());
    project.kvmfw(&lab, &["undo", &given, "-y"]).expect(0);
    assert_eq!(members(&lab, "office"), ["10.1.0.0/16"]);

    // Another program that makes its set anew otherwise is drift.
    project.kvmfw(&lab, &["plan", "--drift", "--detailed-exitcode"]).expect(0);
    on_host(&lab, "ipset destroy crowdsec; ipset create crowdsec hash:net timeout 300");
    let drift = project.kvmfw(&lab, &["plan", "--drift", "--detailed-exitcode"]).expect(2).stdout;
    assert!(drift.contains("+ hash:net"), "{drift}");
    on_host(&lab, "ipset destroy crowdsec; ipset create crowdsec hash:ip timeout 300");

    // A set that is gone and declared no more is not made again at boot.
    project.all(&stated("[10.1.0.0/16]", "  short: { type: 'hash:ip', entries: [192.0.2.1] }\n"));
    project.apply(&lab, &[]).expect(0);
    on_host(&lab, "ipset destroy short");
    project.all(&stated("[10.1.0.0/16]", ""));
    changed(&project, &[], &["short"]);
    project.apply(&lab, &[]).expect(0);
    assert!(!current().contains(" short "), "{}", current());

    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    let mut after = before.lines().chain(["add office 10.9.0.0/16"]).collect::<Vec<_>>();
    after.sort_unstable();
    assert_eq!(sets(&lab).lines().collect::<Vec<_>>(), after);
}

/// A set of many members that is not ours costs nothing while the boot is watched.
#[test]
fn unmanaged_sets_are_not_read_repeatedly() {
    if !common::require_root() || !common::require_tools(&["ipset"]) {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], &inventory("10.0.0.0/8"));
    project.apply(&lab, &[]).expect(0);
    let calls = "#!/bin/sh\n[ -e /run/calls ] && echo \"$@\" >>/run/calls\nexec /run/ipset.real \"$@\"\n";
    instead_of_ipset(&lab, calls);
    on_host(&lab, "chmod 755 /run/ipset.other; : >/run/calls; ipset flush admins; : >/run/calls");
    project.kvmfw(&lab, &["status"]).expect(0);
    let calls = on_host(&lab, "cat /run/calls");
    assert!(!calls.is_empty() && !calls.lines().any(|call| call == "save"), "{calls}");
    let status = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(status.contains("ipset"), "{status}");
}

/// Ten thousand and more: a plan says how many, and none of it is slow.
#[test]
fn big_sets_are_summed_up() {
    if !common::require_root() || !common::require_tools(&["ipset"]) {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let big = |count: u32, also: &str| {
        let mut text =
            String::from("modules: [host-firewall]\nipset:\n  big:\n    type: 'hash:net'\n    entries:\n");
        for n in 0..count {
            writeln!(text, "      - 10.{}.{}.0/24", n / 256, n % 256).unwrap();
        }
        text + also
    };
    let project = Project::new(&lab, &[HOST], &big(12_000, ""));
    let plan = project.kvmfw(&lab, &["plan"]).expect(0).stdout;
    assert!(plan.contains("… and 11980 more"), "{plan}");
    assert!(plan.lines().count() < 120, "{} lines", plan.lines().count());
    project.apply(&lab, &[]).expect(0);
    settled(&lab, &project);
    assert_eq!(members(&lab, "big").len(), 12_000);
    project.all(&big(12_000, "      - 192.0.2.0/24\n"));
    let plan = project.kvmfw(&lab, &["plan"]).expect(0).stdout;
    assert!(plan.contains("12000 unchanged") && plan.contains("+ 192.0.2.0/24"), "{plan}");
    project.apply(&lab, &[]).expect(0);
    assert_eq!(members(&lab, "big").len(), 12_001);
}

/// Whether a packet passes is decided by the members of sets that are ours, and not known of others.
#[test]
fn explain_and_the_lockout_know_the_members() {
    if !common::require_root() || !common::require_tools(&["ipset"]) {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let controller = lab.address(HOST);
    let network = controller.rsplit_once('.').unwrap().0;
    let rules = |entries: &str, set: &str| {
        format!(
            "ipset: {{ admins: {{ type: 'hash:net', entries: [{entries}] }} }}\n\
             iptables:\n  filter:\n    INPUT:\n      policy: DROP\n      rules: |\n        -i lo -j ACCEPT\n        \
             -m set --match-set {set} src -j ACCEPT\n"
        )
    };
    let project = Project::new(&lab, &[HOST], &rules(&format!("{network}.1/32"), "admins"));
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).json();
    assert_eq!(host_of(&plan, HOST)["status"], "changed", "{plan:#}");
    project.apply(&lab, &[]).expect(0);
    let verdict = |from: &str| {
        let to = format!("{controller}:22/tcp");
        let args = ["explain", "--host", HOST, "--from", from, "--to", &to, "--format", "json"];
        let json = project.kvmfw(&lab, &args).expect(0).json();
        json["hosts"][0]["packets"][0]["fate"]["verdict"].as_str().unwrap().to_owned()
    };
    let other = format!("{network}.77");
    assert_eq!(verdict(&format!("{network}.1")), "passes");
    assert_eq!(verdict(&other), "dropped");
    // What others fill may hold it or not.
    on_host(
        &lab,
        "ipset create others hash:net; iptables -w -I INPUT -m set --match-set others src -j ACCEPT",
    );
    assert_eq!(verdict(&other), "unknown");
    on_host(&lab, "iptables -w -D INPUT 1");
    // Without the controller in it nobody comes in any more: that is certain, and refused.
    project.all(&rules("198.51.100.0/24", "admins"));
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).json();
    let host = host_of(&plan, HOST);
    assert_eq!((&host["status"], &host["reason"]), (&"refused".into(), &"lockout".into()), "{plan:#}");
}

/// Puts something else in the place of ipset, for one host only.
fn instead_of_ipset(lab: &Lab, script: &str) {
    let make = format!(
        "cp /usr/sbin/ipset /run/ipset.real; printf '%s' '{script}' >/run/ipset.other; chmod 755 /run/ipset.real; \
         mount --bind /run/ipset.other /usr/sbin/ipset"
    );
    on_host(lab, &make);
}

/// Without the tool a host is refused with the package that has it, and nothing of its rules is touched.
#[test]
fn a_host_without_ipset_is_refused_with_the_package() {
    if !common::require_root() || !common::require_tools(&["ipset"]) {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    // Not executable, as good as not there.
    instead_of_ipset(&lab, "");
    let project = Project::new(&lab, &[HOST], &inventory("10.0.0.0/8"));
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).json();
    let host = host_of(&plan, HOST);
    assert_eq!(host["reason"], "missing-tool", "{plan:#}");
    let message = host["message"].as_str().unwrap();
    assert!(message.contains("the host has no ipset; install it: apt-get install ipset"), "{message}");
    project.kvmfw(&lab, &["apply", "-y"]).expect(7);
    assert!(!on_host(&lab, "iptables-save").contains("KVMFW"));
}

/// An ipset that dies half way through is a failed apply, and the sets are as before; one that dies in the rollback is
/// tried again.
#[test]
fn an_ipset_that_dies_changes_nothing_in_the_end() {
    if !common::require_root() || !common::require_tools(&["ipset"]) {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], &inventory("10.0.0.0/8"));
    project.apply(&lab, &[]).expect(0);
    let before = sets(&lab);
    // The first restore outside of a dry run makes half of the sets and dies, the next one dies at once.
    let dies = "#!/bin/sh\nif [ \"$1\" = restore ] && [ -e /var/lib/kvmfw/open ] && [ ! -e /run/died2 ]; then\n\
                if [ -e /run/died ]; then : >/run/died2; else : >/run/died; head -n 3 | /run/ipset.real restore; fi\nkill -9 $$\nfi\n\
                exec /run/ipset.real \"$@\"\n";
    instead_of_ipset(&lab, dies);
    on_host(&lab, "chmod 755 /run/ipset.other");
    project.all(&inventory("10.0.0.0/9, 192.0.2.1, 192.0.2.2, 192.0.2.3"));
    let run = project.apply(&lab, &[]).expect(4);
    on_host(&lab, "test -e /run/died2");
    assert!(run.stdout.contains("ipset did not come to its end"), "{}", run.stdout);
    assert_eq!(sets(&lab), before);
    project.apply(&lab, &[]).expect(0);
    assert_eq!(members(&lab, "admins").len(), 4);
    settled(&lab, &project);
}

/// Runs ipset in a network namespace of its own; what it printed, or why it failed.
fn alone(script: &str, input: &str) -> Result<String, String> {
    let mut unshare = Command::new("unshare");
    unshare
        .args(["-n", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = unshare.spawn().unwrap();
    // One that fails early does not read to the end.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// What passes `check` the kernel takes, and prints it as kvmfw writes it: else every apply of it would fail, because the
/// sets are never those that were wanted.
#[test]
fn members_that_check_accepts_are_what_ipset_prints() {
    if !common::require_root() || !common::require_tools(&["ipset", "unshare"]) {
        return;
    }
    let v4 = "192.0.2.1 0.0.0.0 0.0.0.1 0.0.0.0/32 0.0.0.0/30 0.0.0.0-0.0.0.3 192.0.2.0/30 255.255.255.255 127.0.0.1 0.0.0.0/1 \
              128.0.0.0/1 0.0.0.0/0 0.0.0.0-255.255.255.255 10.0.0.0-10.0.2.255 10.1.2.3/8";
    let v6 = ":: ::1 ::5 ::/128 ::/1 ::/0 ::/96 ::1:0 ::ffff:1.2.3.4 ::1.2.3.4 ::1.2.3.4/120 ::ffff:0:0/96 64:ff9b::1.2.3.4 \
              2001:DB8:0:0:1::/80 1:0:0:2:0:0:0:3 1:0:2:3:4:5:6:7 fe80::1/64 2001:db8::1/128";
    let ports = "80 0 65535 tcp:0 udp:53-54 sctp:5 udplite:5";
    let each = |first: &str, then: &[&str]| {
        then.iter().fold(first.split(' ').map(str::to_owned).collect::<Vec<_>>(), |all, part| {
            all.iter().flat_map(|one| part.split(' ').map(move |next| format!("{one},{next}"))).collect()
        })
    };
    let mut cases: Vec<(String, Vec<String>)> = Vec::new();
    for (family, addresses, few) in
        [("inet", v4, "0.0.0.0 192.0.2.0/31"), ("inet6", v6, ":: ::1 2001:db8::/32")]
    {
        let of =
            |kind: &str, options: &str| format!("{kind} family {family} {options}").trim_end().to_owned();
        let plain = each(addresses, &[]);
        for bits in
            [1, 8, 24, 31, 32, 64, 127, 128].into_iter().filter(|bits| family == "inet6" || *bits <= 32)
        {
            cases.push((of("hash:ip", &format!("netmask {bits}")), plain.clone()));
        }
        for options in ["", "maxelem 1", "timeout 0", "timeout 2147483", "counters forceadd"] {
            cases.push((of("hash:ip", options), plain.clone()));
        }
        let words = ["nomatch", "comment \"\"", "comment \" a  b \"", "nomatch comment \"#é timeout 7\""];
        let with = |word: &&str| plain.iter().map(|one| format!("{one} {word}")).collect::<Vec<_>>();
        let worded: Vec<String> = words.iter().flat_map(with).collect();
        for options in ["comment", "timeout 60 counters comment"] {
            cases.push((of("hash:net", options), worded.clone()));
            cases.push((of("hash:ip", options), worded.clone()));
        }
        cases.push((of("hash:net", ""), plain));
        cases.push((of("hash:ip,port", ""), each(addresses, &[ports])));
        cases.push((of("hash:net,port", ""), each(addresses, &[ports])));
        cases.push((of("hash:ip,port,ip", ""), each(addresses, &["80", few])));
        cases.push((of("hash:ip,port,net", ""), each(few, &["80", addresses])));
        cases.push((of("hash:net,net", ""), each(addresses, &[few])));
        cases.push((of("hash:net,iface", ""), each(addresses, &["lo physdev:eth0 abcdefghijklmno a.b-c"])));
    }
    for range in ["10.0.0.0-10.0.255.255", "0.0.0.0-0.0.0.255", "10.0.0.1-10.0.0.2"] {
        let members = each("0.0.0.0 10.0.0.1 10.0.0.1-10.0.0.2 10.0.255.255 0.0.0.255 10.0.0.0/30", &[]);
        cases.push((format!("bitmap:ip range {range}"), members));
    }
    for range in ["0-65535", "5-5", "0-1"] {
        cases.push((format!("bitmap:port range {range} timeout 0 counters"), each("0 1 5 65535 5-7", &[])));
    }
    for size in [1, 2, 3, 4, 9, 65535] {
        cases.push((format!("list:set size {size}"), each("member", &[])));
    }
    cases.push((
        "list:set comment".to_owned(),
        vec!["member comment \"\"".into(), "member comment \"x\"".into()],
    ));

    let types = TYPES.map(|(name, _)| format!("{name}\n")).concat();
    let known = alone(
        "while read -r type; do case $type in bitmap:ip) r=\"range 10.0.0.0/24\" ;; bitmap:*) r=\"range 0-9\" ;; *) r= ;; esac; \
         ipset create x $type $r 2>/dev/null && echo $type && ipset destroy x; done; :",
        &types,
    )
    .unwrap();
    let (mut sets, mut text) = (BTreeMap::new(), "create member hash:ip\n".to_owned());
    for (options, members) in &cases {
        let shape = LiveSet::parse(options).shape().unwrap();
        if !known.lines().any(|name| name == shape.kind.as_str()) {
            continue;
        }
        for member in members {
            let Ok(entries) = shape.members(member) else { continue };
            let fits = entries.len() <= shape.capacity();
            let name = format!("s{}", sets.len());
            let entries = Some(Arc::new(entries));
            let set = DeclaredSet {
                name: name.clone(),
                shape: shape.clone(),
                entries,
                origin: Origin::new("x", 1),
            };
            if fits {
                text.push_str(&set.render());
                sets.insert(name, (set, format!("{options}: {member}")));
            }
        }
    }
    assert!(sets.len() > 400, "{}", sets.len());
    let saved = alone("ipset restore && ipset save", &text).unwrap_or_else(|error| {
        let line = error.split("line ").nth(1).and_then(|rest| rest.split(':').next()?.parse::<usize>().ok());
        panic!("{error}: {:?}", line.and_then(|line| text.lines().nth(line - 1)));
    });
    let mut live: BTreeMap<&str, (LiveSet, Vec<String>)> = BTreeMap::new();
    for line in saved.lines() {
        let (word, rest) = line.split_once(' ').unwrap();
        let (name, rest) = rest.split_once(' ').unwrap();
        match word {
            "create" => drop(live.insert(name, (LiveSet::parse(rest), Vec::new()))),
            _ => live.get_mut(name).unwrap().1.push(plain_member(rest)),
        }
    }
    for (name, (set, case)) in &sets {
        let (is, members) = &live[name.as_str()];
        assert!(
            set.is_same_type(is) && set.has_options_of(is),
            "{case}: {} is {}",
            set.options(),
            is.options
        );
        assert!(set.differing(is).is_empty(), "{case}: {} is {}", set.options(), is.options);
        let sorted = |members: &[String]| {
            let mut members: Vec<String> = members.iter().map(|member| plain_member(member)).collect();
            members.sort();
            members
        };
        assert_eq!(sorted(set.entries.as_ref().unwrap()), sorted(members), "{case}");
    }
}
