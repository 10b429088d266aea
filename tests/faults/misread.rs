//! A file of ours that cannot be read is not an empty one: `cat` is killed, fails, or stops halfway, once, where it reads
//! what a change, a rollback, a boot or an undo goes by.

use crate::common::project::Project;
use crate::common::transaction::{ended, marked, newest, wait};
use crate::common::{self, Lab, same};
use crate::{HOST, LONG, on_host};
use std::fmt::Write as _;

/// What happens to the read, as a line of sh in front of the real program.
const FAULTS: [(&str, &str); 3] = [
    ("killed", "kill -KILL $$"),
    ("an I/O error", "echo 'cat: Input/output error' >&2; exit 1"),
    ("cut off", "/root/real/cat \"$@\" | head -c 300; exit 0"),
];

/// The words of the other tests for one extra port, and more rules than the shell reads without a program.
fn opened(port: u16) -> String {
    let mut text = common::transaction::opened(port);
    for family in ["iptables", "ip6tables"] {
        write!(text, "{family}:\n  filter:\n    INPUT:\n      rules: |\n").unwrap();
        for n in 0..30 {
            writeln!(text, "        -p tcp -m tcp --dport {} -j ACCEPT", 7000 + n).unwrap();
        }
    }
    text
}

fn failing(port: u16) -> String {
    format!("{}checks: [{{ command: 'false', required: true }}]\n", opened(port))
}

fn managed() -> Option<(Lab, Project)> {
    if !common::require_root() {
        return None;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &opened(80));
    project.apply(&lab, &[]).expect(0);
    set_up(&lab);
    Some((lab, project))
}

/// Puts a `cat` in the place of the host's, to last through boots: where `/root/fault` is, a call with the text in
/// `/root/asked` in its arguments meets that fault, and is noted in `/root/met`; unless `/root/always` is there, only once.
fn set_up(lab: &Lab) {
    let script = "#!/bin/sh\n\
        if [ -e /root/fault ]; then\n\
        read -r asked </root/asked\n\
        case $* in *$asked*)\n\
        echo \"$*\" >>/root/met\n\
        if [ -e /root/always ]; then cp /root/fault /root/now; else mv /root/fault /root/now; fi\n\
        . /root/now\n\
        esac\nfi\nexec /root/real/cat \"$@\"\n";
    std::fs::write(lab.disk(HOST, "/root/wrapper"), script).unwrap();
    let unit = "[Unit]\nDefaultDependencies=no\nBefore=kvmfw-early.service kvmfw.service\n[Service]\nType=oneshot\n\
        ExecStart=/bin/mount --bind /root/wrapper /usr/bin/cat\n";
    std::fs::write(lab.disk(HOST, "/etc/systemd/system/wrapper.service"), unit).unwrap();
    on_host(
        lab,
        "mkdir -p /root/real /etc/systemd/system/sysinit.target.wants && cp /usr/bin/cat /root/real/ && chmod 755 /root/wrapper && \
         ln -s ../wrapper.service /etc/systemd/system/sysinit.target.wants/ && mount --bind /root/wrapper /usr/bin/cat",
    );
}

/// From now on a read of a file whose path has this in it meets the fault.
fn meets(lab: &Lab, fault: &str, asked: &str) {
    std::fs::write(lab.disk(HOST, "/root/asked"), format!("{asked}\n")).unwrap();
    std::fs::write(lab.disk(HOST, "/root/fault"), format!("{fault}\n")).unwrap();
}

/// Whether it was met; then there is none any more.
fn was_met(lab: &Lab) -> bool {
    let met = lab.disk(HOST, "/root/met").exists();
    on_host(lab, "rm -f /root/met /root/fault /root/always");
    met
}

fn rules(lab: &Lab) -> String {
    on_host(lab, "iptables-save; ip6tables-save")
}

#[test]
fn an_apply_does_not_take_unread_rules_for_none() {
    let Some((lab, project)) = managed() else { return };
    let before = lab.dump(HOST);
    for (name, fault) in FAULTS {
        for family in ["4", "6"] {
            project.all(&opened(81));
            meets(&lab, fault, &format!("generations/2/rules.v{family}"));
            let run = project.apply(&lab, &["--format", "json"]).expect(4);
            assert!(was_met(&lab), "{name}: nobody read rules.v{family}");
            let host = &run.json()["hosts"][0];
            assert_eq!(host["status"], "rolled-back", "{name}: {host}");
            assert!(host["message"].as_str().unwrap().contains("cannot be read"), "{name}: {host}");
            same(&before, &lab.dump(HOST), name);
        }
    }
    project.apply(&lab, &[]).expect(0);
    assert!(rules(&lab).contains("--dport 81 "), "{}", rules(&lab));
}

#[test]
fn a_rollback_does_not_take_an_unread_snapshot_for_an_empty_one() {
    let Some((lab, project)) = managed() else { return };
    let before = lab.dump(HOST);
    for (name, fault) in FAULTS {
        for file in ["pre/own4", "pre/own6"] {
            project.all(&failing(81));
            meets(&lab, fault, file);
            let run = project.apply(&lab, &["--format", "json"]);
            let folder = newest(&lab, HOST).unwrap();
            assert!(ended(&folder).starts_with("rolled-back"), "{name}");
            assert!(was_met(&lab), "{name}: nobody read {file}");
            // Also told so, or told that it is not known yet.
            assert!([4, 6].contains(&run.code), "{name}: {}", run.stdout);
            same(&before, &lab.dump(HOST), name);
        }
    }
}

/// What never can be read is never said to be rolled back, and the rules that are live stay.
#[test]
fn a_snapshot_that_stays_unread_is_a_rollback_that_failed() {
    let Some((lab, project)) = managed() else { return };
    let before = lab.dump(HOST);
    let last = newest(&lab, HOST);
    project.all(&failing(81));
    std::fs::write(lab.disk(HOST, "/root/always"), "").unwrap();
    meets(&lab, FAULTS[0].1, "pre/own4");
    let run = project.apply(&lab, &["--format", "json"]).expect(6);
    assert_eq!(run.json()["hosts"][0]["reason"], "rollback-failed", "{}", run.stdout);
    let folder = marked(&lab, HOST, "decision", last.as_ref());
    assert!(!folder.join("done").exists(), "it was said to be over");
    assert!(rules(&lab).contains("-A KVMFW-RH-Firewall-1-INPUT"), "{}", rules(&lab));
    assert!(was_met(&lab));
    assert!(ended(&folder).starts_with("rolled-back"));
    same(&before, &lab.dump(HOST), "once it can be read");
}

#[test]
fn a_boot_does_not_take_unread_rules_for_none() {
    let Some((lab, project)) = managed() else { return };
    for (name, fault) in FAULTS {
        std::fs::write(lab.disk(HOST, "/root/always"), "").unwrap();
        meets(&lab, fault, "current/rules.v4");
        lab.power_cut(HOST);
        lab.boot(HOST);
        assert!(was_met(&lab), "{name}: nobody read the rules");
        assert!(lab.console(HOST).contains("rules did not load"), "{name}: {}", lab.console(HOST));
        // Once they can be read, the second stage of the boot loads them.
        wait("the rules", LONG, || rules(&lab).contains("--dport 80 ").then_some(()));
        wait("no failure on record", LONG, || {
            (!lab.disk(HOST, "/var/lib/kvmfw/boot.failed").exists()).then_some(())
        });
        project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
        assert!(!lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "status"]).stdout.is_empty());
        // And the unit that could not, started once more, is well.
        lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "boot-load"]).ok();
        assert!(rules(&lab).contains("--dport 80 "), "{name}: {}", rules(&lab));
    }
}

#[test]
fn an_undo_does_not_take_unread_rules_for_none() {
    let Some((lab, project)) = managed() else { return };
    project.all(&opened(81));
    project.apply(&lab, &[]).expect(0);
    let before = rules(&lab);
    for (name, fault) in FAULTS {
        meets(&lab, fault, "generations/1/rules.v4");
        let undo = lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "undo"]);
        assert!(was_met(&lab), "{name}: nobody read the rules");
        assert!(!undo.success() && undo.stderr.contains("cannot be read"), "{name}: {undo:?}");
        assert_eq!(without_counters(&rules(&lab)), without_counters(&before), "{name}");
    }
    lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "undo"]).ok();
    assert!(!rules(&lab).contains("--dport 81 "), "{}", rules(&lab));
}

/// Counters and dates move by themselves.
fn without_counters(save: &str) -> String {
    let lines = save.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| format!("{}\n", line.split(" [").next().unwrap())).collect()
}

/// Who asked for a rollback is told right, whatever is killed on the way.
#[test]
fn a_reason_that_is_not_read_is_not_another_one() {
    let Some((lab, project)) = managed() else { return };
    let last = newest(&lab, HOST);
    project.all(&format!(
        "{}checks: [{{ command: 'test -e /run/first || {{ touch /run/first; exit 0; }}; until test -e /run/go; do sleep 0.1; done', timeout: 30s }}]\n",
        opened(81)
    ));
    let mut kvmfw = project.spawn(&lab, &["apply", "-y", "--confirm-timeout", "60s"]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    // The first of all, whatever it reads.
    meets(&lab, FAULTS[0].1, "");
    let unlock = project.kvmfw(&lab, &["unlock", HOST, "-y"]);
    was_met(&lab);
    assert_eq!(ended(&folder), "rolled-back: unlocked by the operator", "{}{}", unlock.stdout, unlock.stderr);
}

/// What ends the shell of a boot unit, or a program of it, is told; the unit alone says it only in the journal.
#[test]
fn a_boot_that_could_not_look_for_links_says_so() {
    let Some((lab, project)) = managed() else { return };

    project.all(
        &opened(80).replace(
            "br123: { manage: false }",
            "br123: { manage: false }, br9: { addresses: [192.0.2.1/24] }",
        ),
    );
    project.apply(&lab, &[]).expect(0);
    let unit = "[Unit]\nDefaultDependencies=no\nBefore=kvmfw-bridges.service\n[Service]\nType=oneshot\n\
        ExecStart=/bin/mount --bind /root/ip /usr/sbin/ip\n";
    std::fs::write(lab.disk(HOST, "/etc/systemd/system/wrapper.service"), unit).unwrap();
    on_host(
        &lab,
        "cp -L /usr/sbin/ip /root/real/ip && printf '#!/bin/sh\\n[ \"$*\" != \"-o addr show\" ] || kill -KILL $$\\nexec /root/real/ip \"$@\"\\n' >/root/ip && chmod 755 /root/ip",
    );
    lab.reboot(HOST);
    let status = project.kvmfw(&lab, &["status", "--format", "json"]);
    let failed = status.json()["hosts"][0]["boot_failed"].to_string();
    assert!(failed.contains("links that are there cannot be read"), "{failed}");
    // Any other end of the shell.
    let kvmfw = lab.disk(HOST, "/var/lib/kvmfw/kvmfw.sh");
    let script = std::fs::read_to_string(&kvmfw).unwrap();
    std::fs::write(&kvmfw, script.replace("\nboot_bridges() {\n", "\nboot_bridges() {\n: \"$unheard_of\"\n"))
        .unwrap();
    lab.reboot(HOST);
    let status = project.kvmfw(&lab, &["status", "--format", "json"]);
    let failed = status.json()["hosts"][0]["boot_failed"].to_string();
    assert!(failed.contains("boot_bridges: ended with status"), "{failed}");
}
