//! What boots beside programs that load rules of their own, and rules that cannot load at boot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::Project;
use common::transaction::{ended, held, marked, newest, until, wrap};
use common::{Backend, Lab, Shell};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

const HOST: &str = "kvm1";
const GUESTS: &str = "modules: [host-firewall, bridge-accept-each]\nbridges: { br123: { manage: false } }\n";
/// What a host's own loader loads: everything else is flushed.
const OTHERS: &str = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                      -A INPUT -i lo -m comment --comment others -j ACCEPT\n-A FORWARD -j REJECT\nCOMMIT\n";

fn on_host(lab: &Lab, script: &str) -> String {
    lab.host(HOST, &["sh", "-c", script]).ok()
}

fn write(lab: &Lab, path: &str, text: &str, mode: u32) {
    let path = lab.disk(HOST, path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A unit of the host's own, enabled.
fn unit(lab: &Lab, name: &str, after: &str, start: &str) {
    let text =
        format!("[Unit]\nAfter={after}\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={start}\n");
    write(lab, &format!("/etc/systemd/system/{name}"), &text, 0o644);
    on_host(lab, &format!("ln -s ../{name} /etc/systemd/system/multi-user.target.wants/"));
}

fn settled(lab: &Lab, project: &Project) {
    project.kvmfw(lab, &["plan", "--detailed-exitcode"]).expect(0);
}

/// Every way to load rules at boot that the host may have. Each wipes ours; they are back, beside the others', and told.
#[test]
fn rules_that_a_loader_wipes_at_boot_are_restored() {
    if !common::require_root() {
        return;
    }
    let restore = "iptables-restore </etc/iptables.rules";
    type Prepare<'a> = (&'a str, &'a str, &'a dyn Fn(&Lab));
    let ways: [Prepare<'_>; 5] = [
        (
            "a pre-up line",
            "/etc/network/interfaces:8: `pre-up iptables-restore /etc/iptables.rules`",
            &|lab| {
                on_host(
                    lab,
                    &format!("sed -i '/^iface eth0 inet static/a pre-up {restore}' /etc/network/interfaces"),
                );
            },
        ),
        ("a script of if-pre-up.d", "/etc/network/if-pre-up.d/rules:2: `iptables-restore ", &|lab| {
            write(lab, "/etc/network/if-pre-up.d/rules", &format!("#!/bin/sh\n{restore}\n"), 0o755);
        }),
        ("rc.local", "/etc/rc.local:2: `iptables-restore ", &|lab| {
            write(lab, "/etc/rc.local", &format!("#!/bin/sh\n{restore}\n"), 0o755);
            unit(lab, "rc-local.service", "network.target", "/etc/rc.local");
        }),
        (
            "a script that rc.local calls",
            "/root/fw.sh:2, which /etc/rc.local:2 names: `iptables -F`",
            &|lab| {
                write(
                    lab,
                    "/root/fw.sh",
                    &format!("#!/bin/sh\niptables -F; iptables -X\n{restore}\n"),
                    0o755,
                );
                write(lab, "/etc/rc.local", "#!/bin/sh\n/root/fw.sh\n", 0o755);
                unit(lab, "rc-local.service", "network.target", "/etc/rc.local");
            },
        ),
        ("a unit of its own", "/etc/systemd/system/own.service:6: `iptables-restore ", &|lab| {
            unit(lab, "own.service", "network-online.target ssh.service", &format!("/bin/sh -c '{restore}'"));
        }),
    ];
    for (name, place, prepare) in ways {
        let lab = Lab::up();
        write(&lab, "/etc/iptables.rules", OTHERS, 0o644);
        prepare(&lab);
        let project = Project::new(&lab, &[HOST], GUESTS);
        let first = project.apply(&lab, &[]).expect(0).stderr;
        assert!(first.contains(&format!("[boot-loader] kvm1: {place}")), "{name}: {first}");
        lab.power_cut(HOST);
        lab.boot(HOST);
        let repaired =
            || fs::read_to_string(lab.disk(HOST, "/var/lib/kvmfw/boot.repaired")).unwrap_or_default();
        until(&format!("{name}: a repair"), || repaired().ends_with(" iptables\n"));
        // A script for each interface wipes more than once.
        until(&format!("{name}: the last repair"), || {
            on_host(&lab, "iptables-save").contains("-j KVMFW-FORWARD")
        });
        until(&format!("{name}: as applied"), || {
            project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).code == 0
        });
        let rules = on_host(&lab, "iptables-save");
        assert!(
            rules.contains("-A INPUT -i lo -m comment --comment others -j ACCEPT\n"),
            "{name}: not loaded: {rules}"
        );
        assert!(rules.contains("-A FORWARD -j REJECT"), "{name}: {rules}");
        settled(&lab, &project);
        assert!(lab.guest_ping(HOST, "g0", "192.168.1.2"), "{name}: guests are cut off");
        let status = project.kvmfw(&lab, &["status"]).expect(0).stdout;
        assert!(
            status.contains("active, used at boot") && status.contains("REPAIRED iptables"),
            "{name}: {status}"
        );
        let plan = project.kvmfw(&lab, &["plan"]).expect(0);
        assert!(plan.stdout.contains("boot-repaired"), "{name}: {}", plan.stdout);
        assert!(
            lab.console(HOST).contains("another program had taken away"),
            "{name}: {}",
            lab.console(HOST)
        );
    }
}

/// What is left out is what cannot load, in every backend; all else filters, and what was left out follows by itself.
#[test]
fn a_rule_that_cannot_load_yet_keeps_no_other_out() {
    if !common::require_root() || !common::require_tools(&["ipset"]) {
        return;
    }
    for (backend, shell) in
        [(Backend::Nft, Shell::Dash), (Backend::Legacy, Shell::Busybox), (Backend::Nft, Shell::Bash)]
    {
        let lab = Lab::builder().backend(backend).shell(shell).up();
        let service = "iptables -w -N OTHERS; ipset create -exist badguys hash:ip";
        on_host(&lab, &service.replace("-N OTHERS", "-N OTHERS 2>/dev/null || true"));
        let rules = "modules: [host-firewall]\niptables:\n  filter:\n    FORWARD:\n      first: |\n        -i eth0 -j OTHERS\n    \
                     INPUT:\n      first: |\n        -m set --match-set badguys src -j DROP\nunmanaged_chains: [OTHERS]\n";
        let project = Project::new(&lab, &[HOST], rules);
        on_host(&lab, "iptables -w -A INPUT -m set --match-set badguys src -j DROP");
        let import = project.kvmfw(&lab, &["import", HOST]).expect(0).stdout;
        // It is there and empty: whoever fills it is another program.
        assert!(import.contains("badguys: { type: 'hash:ip', entries: unmanaged }"), "{import}");
        assert!(!import.contains("Needs the set"), "{import}");
        on_host(&lab, "iptables -w -F INPUT");
        let first = project.apply(&lab, &["--accept-risk=guests-unreachable"]).expect(0).stderr;
        for what in ["the chain OTHERS", "the set badguys"] {
            assert!(first.contains(&format!("cannot load at boot before {what} exists")), "{first}");
        }
        let before = on_host(&lab, "iptables-save | grep -v '^[#:]'");
        lab.power_cut(HOST);
        lab.boot(HOST);
        let live = on_host(&lab, "iptables-save");
        assert!(
            live.contains("-A KVMFW-RH-Firewall-1-INPUT -j REJECT"),
            "{backend:?}: the host is open: {live}"
        );
        assert!(live.contains("-j KVMFW-INPUT") && live.contains("-j KVMFW-FORWARD"), "{backend:?}: {live}");
        assert!(!live.contains("OTHERS") && !live.contains("badguys"), "{live}");
        assert!(lab.console(HOST).contains("[FAILED] kvmfw.service"), "{}", lab.console(HOST));
        let status = project.kvmfw(&lab, &["status"]).expect(0).stdout;
        assert!(
            status.contains("NOT LOADED iptables filter -A KVMFW-FORWARD -i eth0 -j OTHERS: "),
            "{status}"
        );
        assert!(
            status.contains(
                "NOT LOADED iptables filter -A KVMFW-INPUT -m set --match-set badguys src -j DROP: "
            ),
            "{status}"
        );
        let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).json();
        let warnings = plan["hosts"][0]["warnings"].as_array().unwrap();
        let left: Vec<_> = warnings.iter().filter(|w| w["code"] == "left-out").collect();
        assert_eq!(left.len(), 2, "{plan:#}");
        assert!(
            left.iter().all(|w| w["origin"].as_str().unwrap().starts_with("inventories/lab.yaml:")),
            "{left:#?}"
        );
        // One comes, then the other: each follows by itself, at its place.
        let on = |what: &str| on_host(&lab, "iptables-save").contains(what);
        on_host(&lab, "ipset create badguys hash:ip");
        until("the rule with the set", || on("--match-set badguys"));
        assert!(!on("-j OTHERS"));
        on_host(&lab, "iptables -w -N OTHERS");
        until("the rule with the chain", || on("-j OTHERS"));
        assert_eq!(on_host(&lab, "iptables-save | grep -v '^[#:]'"), before, "{backend:?}");
        settled(&lab, &project);
        let status = project.kvmfw(&lab, &["status"]).expect(0).stdout;
        assert!(status.contains("active, used at boot") && !status.contains("NOT LOADED"), "{status}");
    }
}

/// iptables does not always name the rule that fails: then it is found, and the others are loaded.
#[test]
fn a_rule_that_nobody_names_is_found() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], GUESTS);
    project.apply(&lab, &[]).expect(0);
    // A kernel that lost a match says so only when the table is committed.
    let script = "#!/bin/sh\ntext=$(cat)\ncase $text in *' icmp '*) echo 'iptables-restore: line 9 failed' >&2; exit 1 ;; esac\n\
                  printf '%s\\n' \"$text\" | exec /usr/sbin/iptables-nft-restore \"$@\"\n";
    wrap(&lab, HOST, "iptables-restore", script);
    lab.power_cut(HOST);
    lab.boot(HOST);
    let rules = on_host(&lab, "iptables-save");
    assert!(
        rules.contains("-A KVMFW-RH-Firewall-1-INPUT -j REJECT") && rules.contains("--dport 22 "),
        "{rules}"
    );
    assert!(!rules.contains(" icmp "), "{rules}");
    let status = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert_eq!(status.matches("NOT LOADED iptables filter").count(), 1, "{status}");
}

/// Somebody who takes the rules away for ever is not fought for ever, and that is told; unmanaged rules stay.
#[test]
fn repairs_end() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], GUESTS);
    project.apply(&lab, &[]).expect(0);
    unit(
        &lab,
        "fighter.service",
        "ssh.service",
        "/bin/sh -c 'while sleep 0.2; do iptables -w -F INPUT; done'",
    );
    let path = lab.disk(HOST, "/etc/systemd/system/fighter.service");
    fs::write(
        &path,
        fs::read_to_string(&path).unwrap().replace("Type=oneshot\nRemainAfterExit=yes", "Type=simple"),
    )
    .unwrap();
    lab.power_cut(HOST);
    lab.boot(HOST);
    let failed = || fs::read_to_string(lab.disk(HOST, "/var/lib/kvmfw/boot.failed")).unwrap_or_default();
    until("it gives up", || failed().contains("again and again; after 10 repairs"));
    let status = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(
        status.contains("REPAIRED iptables 10 times")
            && status.contains("BOOT FAILED iptables: another program"),
        "{status}"
    );
}

/// While a transaction is open nobody repairs, and a repair holds up no transaction.
#[test]
fn an_open_transaction_is_left_alone() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], GUESTS);
    project.apply(&lab, &[]).expect(0);
    lab.power_cut(HOST);
    lab.boot(HOST);
    project.all(&held(81));
    let earlier = newest(&lab, HOST);
    let args = ["apply", "-y", "--apply-timeout", "30s", "--confirm-timeout", "60s"];
    let mut child = project.spawn(&lab, &args);
    let folder = marked(&lab, HOST, "applied", earlier.as_ref());
    // Between two looks of the second stage stands a `sleep`.
    let pauses = "for p in /proc/[0-9]*; do
        case $(tr '\\0' ' ' <$p/cmdline) in *'kvmfw.sh boot-settle'*) ;; *) continue ;; esac
        for c in $(cat $p/task/*/children); do case $(cat /proc/$c/comm) in sleep) echo $c ;; esac; done
    done 2>/dev/null";
    let mut seen = BTreeSet::new();
    until("the second stage looks three times", || {
        seen.extend(on_host(&lab, pauses).split_whitespace().map(str::to_owned));
        seen.len() > 3
    });
    assert!(on_host(&lab, "iptables-save").contains("--dport 81 "), "taken back while it was open");
    on_host(&lab, "touch /run/go");
    assert_eq!(ended(&folder), "committed");
    assert!(child.wait().unwrap().success());
    assert!(!lab.disk(HOST, "/var/lib/kvmfw/boot.repaired").exists());
    // Undone, nothing of ours comes back, and nobody is left who would bring it.
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    let runs = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'boot-settl[e]' || true";
    until("the second stage ends", || on_host(&lab, runs).trim() == "0");
    assert!(!on_host(&lab, "iptables-save").contains("KVMFW"));
}

/// Without the record live rules are a change, whether or not they are as wanted; the apply makes them boot again.
#[test]
fn live_rules_without_a_record_are_a_change() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], GUESTS);
    project.apply(&lab, &[]).expect(0);
    let rules = on_host(&lab, "iptables-save | grep -v '^[#:]'");
    on_host(&lab, "rm -rf /etc/kvmfw");
    let plan = project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2).stdout;
    assert!(plan.contains("/etc/kvmfw/current, the boot state") && plan.contains("unrecorded"), "{plan}");
    let drift = project.kvmfw(&lab, &["plan", "--drift", "--detailed-exitcode"]).expect(2).stdout;
    assert!(drift.contains("unrecorded") && !drift.contains("nothing was ever applied"), "{drift}");
    let status = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(status.contains("NO RECORD, but iptables, ip6tables has live rules of kvmfw"), "{status}");
    project.apply(&lab, &[]).expect(0);
    settled(&lab, &project);
    lab.power_cut(HOST);
    lab.boot(HOST);
    assert_eq!(on_host(&lab, "iptables-save | grep -v '^[#:]'"), rules);
    settled(&lab, &project);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert!(!on_host(&lab, "iptables-save").contains("KVMFW"));
}

/// Another program saved the rules while ours were live. It is told as long as they are in its file, and above all by
/// the undo, after which the next boot brings them back.
#[test]
fn managed_rules_in_unmanaged_files_are_reported() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).persistent(true).up();
    write(&lab, "/etc/iptables/rules.v4", OTHERS, 0o644);
    let project = Project::new(&lab, &[HOST], GUESTS);
    let first = project.apply(&lab, &[]).expect(0).stderr;
    assert!(
        first.contains(
            "[boot-loader] kvm1: netfilter-persistent.service replaces whole tables from /etc/iptables/rules.v4"
        ),
        "{first}"
    );
    assert!(!first.contains("saved-rules"), "{first}");
    on_host(&lab, "iptables-save >/etc/iptables/rules.v4");
    let plan = project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0).stdout;
    assert!(plan.contains("[saved-rules] kvm1: /etc/iptables/rules.v4:"), "{plan}");
    let undo = project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert!(
        undo.stderr.contains("the next boot, or another load of that file, brings them back after this undo"),
        "{}",
        undo.stderr
    );
    lab.power_cut(HOST);
    lab.boot(HOST);
    assert!(on_host(&lab, "iptables-save").contains("KVMFW-INPUT"), "they did not come back");
    let status = project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2).stdout;
    assert!(
        status.contains("unrecorded") && status.contains("/etc/kvmfw/current, the boot state"),
        "{status}"
    );
    // The way to clean it that is named.
    on_host(&lab, "sed -i /KVMFW-/d /etc/iptables/rules.v4");
    lab.power_cut(HOST);
    lab.boot(HOST);
    assert!(!on_host(&lab, "iptables-save").contains("KVMFW-"));
}

/// What is found of loaders that no lab runs: cron, units with drop-ins, files with a flush for nft. What only looks like
/// one is not named.
#[test]
fn other_loaders_are_named() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    write(&lab, "/etc/cron.d/rules", "# iptables -F\n@reboot root iptables-restore /etc/fw.rules\n", 0o644);
    write(&lab, "/etc/fw.rules", OTHERS, 0o644);
    write(
        &lab,
        "/etc/systemd/system/ssh.service.d/rules.conf",
        "[Service]\nExecStartPost=/sbin/iptables -F FORWARD\n",
        0o644,
    );
    write(&lab, "/etc/own.nft", "#!/usr/sbin/nft -f\nflush ruleset\n", 0o644);
    unit(&lab, "own.service", "ssh.service", "/usr/sbin/nft -f /etc/own.nft");
    write(
        &lab,
        "/etc/network/if-up.d/fine",
        "#!/bin/sh\niptables-restore -n </etc/fw.rules\niptables -F MINE\nls /etc/network /etc\n",
        0o755,
    );
    write(&lab, "/etc/systemd/system/disabled.service", "[Service]\nExecStart=/sbin/iptables -F\n", 0o644);
    let project = Project::new(&lab, &[HOST], GUESTS);
    let plan = project.kvmfw(&lab, &["plan"]).expect(0).stdout;
    for place in [
        "/etc/cron.d/rules:2: `@reboot root iptables-restore /etc/fw.rules`",
        "/etc/systemd/system/ssh.service.d/rules.conf:2: `/sbin/iptables -F FORWARD`",
        "/etc/own.nft:2, which /etc/systemd/system/own.service:6 names: `flush ruleset`",
    ] {
        assert!(plan.contains(&format!("[boot-loader] kvm1: {place}")), "{place}: {plan}");
    }
    assert_eq!(plan.matches("boot-loader").count(), 3, "{plan}");
}

/// After a first apply that was rolled back, going to the original leaves nothing, not even the record of the attempt.
#[test]
fn an_attempt_leaves_no_trace_after_an_undo() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let before = lab.dump(HOST);
    let project = Project::new(
        &lab,
        &[HOST],
        &format!("{GUESTS}checks: [{{ command: '[ ! -e /var/lib/kvmfw/open ]', required: true }}]\n"),
    );
    project.apply(&lab, &[]).expect(4);
    assert!(lab.disk(HOST, "/var/lib/kvmfw").exists(), "not as it was meant");
    project.all(GUESTS);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    until("the last trace goes", || !lab.disk(HOST, "/var/lib/kvmfw").exists());
    common::same(&before, &lab.dump(HOST), "after an attempt and an undo");
}

/// A table that does not load at all is told as that, not as a program that takes rules away; the other tables filter, and
/// it follows as soon as it can.
#[test]
fn a_table_that_does_not_load_keeps_no_other_out() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let rules =
        format!("{GUESTS}iptables:\n  raw:\n    PREROUTING:\n      rules: |\n        -i lo -j ACCEPT\n");
    let project = Project::new(&lab, &[HOST], &rules);
    project.apply(&lab, &[]).expect(0);
    let real = "exec /usr/sbin/iptables-nft-restore \"$@\"\n";
    let broken = format!(
        "#!/bin/sh\ntext=$(cat)\ncase $text in *'*raw'*) echo x >>/run/tries; echo 'iptables-restore: unable to initialize table' >&2; exit 3 ;; esac\n\
         printf '%s\\n' \"$text\" | {real}"
    );
    wrap(&lab, HOST, "iptables-restore", &broken);
    lab.power_cut(HOST);
    lab.boot(HOST);
    let live = on_host(&lab, "iptables-save");
    assert!(
        live.contains("-A KVMFW-RH-Firewall-1-INPUT -j REJECT") && live.contains("-j KVMFW-INPUT"),
        "{live}"
    );
    let tries = || on_host(&lab, "wc -l </run/tries").trim().parse::<u32>().unwrap();
    until("it is tried again", || tries() > 12);
    let status = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(
        status.contains("BOOT FAILED iptables: raw: iptables-restore: unable to initialize table"),
        "{status}"
    );
    assert!(!status.contains("REPAIRED"), "{status}");
    fs::write(lab.disk(HOST, "/etc/alternatives/iptables-restore"), format!("#!/bin/sh\n{real}")).unwrap();
    until("the table", || on_host(&lab, "iptables-save").contains("-A KVMFW-PREROUTING -i lo -j ACCEPT"));
    until("the record of it", || !lab.disk(HOST, "/var/lib/kvmfw/boot.failed").exists());
    settled(&lab, &project);
}

/// The administrator's own rules in a chain that Docker makes: loaded before it is there, in it as soon as it is, put back
/// after a flush, and gone with an undo that leaves the chain as it was.
#[test]
fn rules_of_docker_user_wait_for_the_chain() {
    if !common::require_root() {
        return;
    }
    let rules = "iptables:\n  filter:\n    DOCKER-USER:\n      rules: |\n        -s 10.9.9.0/24 -j RETURN\n        \
                 -i eth1 -p tcp --dport 8080 -j DROP\n";
    let docker = "iptables -w -N DOCKER-USER; iptables -w -A DOCKER-USER -j RETURN; iptables -w -I FORWARD -j DOCKER-USER";
    let remove =
        "iptables -w -D FORWARD -j DOCKER-USER; iptables -w -F DOCKER-USER; iptables -w -X DOCKER-USER";
    let hook =
        "-A DOCKER-USER -m comment --comment \"kvmfw:hook\" -j KVMFW-DOCKER-USER\n-A DOCKER-USER -j RETURN\n";
    for (backend, shell) in [(Backend::Nft, Shell::Dash), (Backend::Legacy, Shell::Busybox)] {
        let lab = Lab::builder().backend(backend).shell(shell).guests(false).up();
        let project = Project::new(&lab, &[HOST], rules);
        let save = || on_host(&lab, "iptables-save");
        let waits = || {
            let plan = project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0).stdout;
            assert!(plan.contains("waits-for-chain") && plan.contains("until Docker creates it"), "{plan}");
            let live = save();
            assert!(live.contains("-A KVMFW-DOCKER-USER -s 10.9.9.0/24 -j RETURN\n"), "{live}");
            assert!(!live.contains(":DOCKER-USER "), "{live}");
        };
        project.apply(&lab, &[]).expect(0);
        waits();
        // A rule of ours that jumps there has to wait for the chain before it is planned, and says how else.
        project.all("unmanaged_chains: [DOCKER-USER]\niptables:\n  filter:\n    FORWARD:\n      rules: |\n        -i eth1 -j DOCKER-USER\n");
        let refused = project.kvmfw(&lab, &["plan"]).stdout;
        assert!(
            refused.contains("start that program first, or write the rules under `DOCKER-USER`"),
            "{refused}"
        );
        project.all(rules);
        on_host(&lab, docker);
        let plan = project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2).stdout;
        assert!(plan.contains("+ jump rule in DOCKER-USER"), "{plan}");
        project.apply(&lab, &[]).expect(0);
        settled(&lab, &project);
        assert!(save().contains(hook), "{}", save());
        // Behind the RETURN of Docker ours would never be asked.
        project.all(&rules.replace("    DOCKER-USER:\n", "    DOCKER-USER:\n      jump: last\n"));
        let last = project.kvmfw(&lab, &["plan"]).expect(0).stdout;
        assert!(last.contains("jump-outranked") && last.contains("decides first: `-j RETURN`"), "{last}");
        project.all(rules);
        // Back to where the chain was not there, while it is, and forward again while it is not.
        on_host(&lab, remove);
        settled(&lab, &project);
        lab.power_cut(HOST);
        lab.boot(HOST);
        waits();
        let failed = lab.disk(HOST, "/var/lib/kvmfw/boot.failed");
        assert!(!failed.exists(), "{}", fs::read_to_string(&failed).unwrap_or_default());
        on_host(&lab, docker);
        until("the rules are entered", || save().contains(hook));
        settled(&lab, &project);
        let repaired = lab.disk(HOST, "/var/lib/kvmfw/boot.repaired");
        assert!(!repaired.exists(), "nobody took anything away: {}", lab.console(HOST));
        assert!(lab.console(HOST).contains("a chain that iptables rules of kvmfw waited for is there now"));
        on_host(&lab, "iptables -w -F DOCKER-USER; iptables -w -A DOCKER-USER -j RETURN");
        until("the rules are back", || save().contains(hook) && repaired.exists());
        settled(&lab, &project);
        project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
        let live = save();
        assert!(!live.contains("KVMFW") && live.contains("-A DOCKER-USER -j RETURN\n"), "{live}");
    }
}
