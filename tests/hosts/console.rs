//! At the host's console, without the controller.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::Project;
use common::transaction::until;

const SCRIPT: &str = "/var/lib/kvmfw/kvmfw.sh";

#[test]
fn undo_without_a_number_loads_the_generation_before() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(1).up();
    let first =
        "modules: [host-firewall, bridge-bypass]\nsysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 1 } }\n";
    let project = Project::new(&lab, &["kvm1"], first);
    let original = lab.dump("kvm1");
    project.apply(&lab, &[]).expect(0);
    let one = lab.dump_without("kvm1", &["/etc/kvmfw"]);
    project.all("modules: [host-firewall, bridge-accept-each]\nbridges: { br123: { manage: false } }\n");
    project.apply(&lab, &[]).expect(0);
    assert_ne!(lab.dump_without("kvm1", &["/etc/kvmfw"]), one, "the second apply changed something");

    let said = lab.host("kvm1", &["sh", SCRIPT, "undo"]).ok();
    assert!(said.contains("back at generation 1"), "{said}");
    common::same(&one, &lab.dump_without("kvm1", &["/etc/kvmfw"]), "undo at the console");
    project.all(first);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);

    let said = lab.host("kvm1", &["sh", SCRIPT, "undo", "0"]).ok();
    assert!(said.contains("the state before kvmfw"), "{said}");
    common::same(&original, &lab.dump("kvm1"), "undo 0 at the console");
}

/// The console leaves bridges to the next boot, and says so where the generations differ there; the controller's
/// `--last` goes back and forth.
#[test]
fn the_last_generation_comes_back() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(1).guests(false).up();
    let all = |ageing: u32, ignore: u32| {
        format!(
            "bridges: {{ br123: {{ ageing: {ageing} }} }}\nsysctl: {{ 60-t: {{ net.ipv4.conf.all.arp_ignore: {ignore} }} }}\n"
        )
    };
    let project = Project::new(&lab, &["kvm1"], &all(100, 1));
    project.apply(&lab, &[]).expect(0);
    project.all(&all(100, 0));
    project.apply(&lab, &[]).expect(0);
    project.all(&all(200, 0));
    project.apply(&lab, &[]).expect(0);

    let said = lab.host("kvm1", &["sh", SCRIPT, "undo", "2"]).ok();
    assert_eq!(said, "back at generation 2; bridges stay as they are until the next boot\n");
    let said = lab.host("kvm1", &["sh", SCRIPT, "undo", "1"]).ok();
    assert_eq!(said, "back at generation 1\n");

    project.all(&all(300, 1));
    project.apply(&lab, &[]).expect(0);
    let ageing = || lab.host("kvm1", &["cat", "/sys/class/net/br123/bridge/ageing_time"]).ok();
    assert_eq!(ageing(), "30000\n");
    project.kvmfw(&lab, &["undo", "--last", "-y"]).expect(0);
    assert_eq!(ageing(), "10000\n");
    project.kvmfw(&lab, &["undo", "--last", "-y"]).expect(0);
    assert_eq!(ageing(), "30000\n");
    project.kvmfw(&lab, &["undo", "--last", "--to", "1", "-y"]).expect(3);

    // The controller lists what it did, the newest first.
    let runs = project.kvmfw(&lab, &["runs", "--format", "json"]).expect(0).json();
    let runs: Vec<(&str, bool, u64)> = runs["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| {
            (
                run["command"].as_str().unwrap(),
                run["ended"].as_bool().unwrap(),
                run["summary"]["changed"].as_u64().unwrap(),
            )
        })
        .collect();
    let expected = ["undo", "undo", "apply", "apply", "apply", "apply"].map(|command| (command, true, 1));
    assert_eq!(runs, expected);
    let text = project.kvmfw(&lab, &["runs", "-n", "1"]).expect(0);
    assert!(
        text.stdout.lines().count() == 1 && text.stdout.ends_with("  undo       1 changed\n"),
        "{}",
        text.stdout
    );
    assert!(text.stderr.contains("5 older runs; to show them, use -n 6"), "{}", text.stderr);
}

/// A key that both generations set alike stays as it is; one that they set otherwise goes to what the older one wants,
/// also where keys that are not there stand between its two values.
#[test]
fn undo_leaves_a_key_that_both_want() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(1).guests(false).up();
    let sysctl = |ttl: u8| {
        format!(
            "modules: [host-firewall]\nsysctl:\n  60-t:\n    net.ipv4.conf.all.arp_ignore: 1\n    net.ipv4.ip_default_ttl: {ttl}\n"
        )
    };
    let project = Project::new(&lab, &["kvm1"], &sysctl(65));
    let keys = || {
        ["net/ipv4/conf/all/arp_ignore", "net/ipv4/ip_default_ttl"]
            .map(|key| lab.host("kvm1", &["cat", &format!("/proc/sys/{key}")]).ok().trim().to_owned())
    };
    let original = keys();
    assert_ne!(original[0], "1");
    project.apply(&lab, &[]).expect(0);
    project.all(&sysctl(66));
    project.apply(&lab, &[]).expect(0);
    assert_eq!(keys(), ["1", "66"]);
    lab.host("kvm1", &["sh", SCRIPT, "undo"]).ok();
    assert_eq!(keys(), ["1", "65"]);
    lab.host("kvm1", &["sh", SCRIPT, "undo", "0"]).ok();
    assert_eq!(keys(), original);
}

/// Whoever frees a host from the console may find its disk full; what makes that so has often locked him out, too.
#[test]
fn an_undo_needs_no_disk() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let run = |script: &str| lab.host("kvm1", &["sh", "-c", script]).ok();
    run(
        "for d in /var/lib/kvmfw /etc/kvmfw; do mkdir -p $d && mount -t tmpfs -o size=8m none $d || exit; done",
    );
    let of = |ttl: u8, port: u16| {
        format!(
            "modules: [host-firewall]\nparams: {{ host-firewall: {{ allow_tcp: [22, {port}] }} }}\n\
             sysctl: {{ 60-t: {{ net.ipv4.ip_default_ttl: {ttl} }} }}\n"
        )
    };
    let project = Project::new(&lab, &["kvm1"], &of(65, 65));
    project.apply(&lab, &[]).expect(0);
    let live = || {
        run(
            "iptables-save | grep '^-A KVMFW'; ip6tables-save | grep '^-A KVMFW'; cat /proc/sys/net/ipv4/ip_default_ttl",
        )
    };
    let one = live();
    project.all(&of(66, 66));
    project.apply(&lab, &[]).expect(0);
    assert!(one.contains("--dport 65 ") && one != live(), "{one}");
    let two = live();

    run("cat /dev/zero >/var/lib/kvmfw/full 2>/dev/null; :");
    let said = lab.host("kvm1", &["sh", SCRIPT, "undo"]).ok();
    assert!(said.contains("back at generation 1"), "{said}");
    assert_eq!(live(), one);
    // What does not boot is not told as if it did.
    run("mount -o remount,ro /etc/kvmfw");
    let said = lab.host("kvm1", &["sh", SCRIPT, "undo", "2"]);
    assert_eq!((said.success(), live()), (false, two.clone()), "{said:?}");
    assert!(said.stderr.contains("the next boot loads generation 1"), "{said:?}");
    run("mount -o remount,rw /etc/kvmfw; rm /var/lib/kvmfw/full");
    lab.host("kvm1", &["sh", SCRIPT, "undo", "2"]).ok();
    assert_eq!((live(), run("readlink /etc/kvmfw/current")), (two, "generations/2\n".to_owned()));
}

/// A power cut while the last of us went: what is left over of it goes at the next boot, or with the next apply.
#[test]
fn leftovers_of_an_undo_to_the_baseline_are_removed() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(1).guests(false).up();
    let project = Project::new(&lab, &["kvm1"], "modules: [host-firewall]\n");
    let gone = lab.disk("kvm1", "/var/lib/kvmfw.gone");
    std::fs::create_dir_all(gone.join("txn/old")).unwrap();
    project.kvmfw(&lab, &["plan"]).expect(0);
    assert!(gone.exists(), "a plan changes nothing");
    project.apply(&lab, &[]).expect(0);
    assert!(!gone.exists(), "after an apply");
    std::fs::create_dir_all(gone.join("txn/old")).unwrap();
    lab.power_cut("kvm1");
    lab.boot("kvm1");
    assert!(!gone.exists(), "after a boot");
    std::fs::create_dir_all(gone.join("txn/old")).unwrap();
    lab.host("kvm1", &["sh", SCRIPT, "undo", "0"]).ok();
    assert!(!gone.exists() && !lab.disk("kvm1", "/var/lib/kvmfw").exists(), "after an undo at the console");
}

/// An undo to the original is over once its folder has moved away; the apply that comes then has a new one at the
/// same place, which the guard of the undo leaves alone.
#[test]
fn an_apply_right_after_an_undo_to_the_baseline() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(1).guests(false).up();
    let project = Project::new(&lab, &["kvm1"], "modules: [host-firewall]\n");
    project.apply(&lab, &[]).expect(0);
    // The first that removes what has moved away waits.
    let slow = "printf '#!/bin/sh\\ncase \"$*\" in *kvmfw.gone*) mkdir /run/slow && until [ -e /run/go ]; do sleep 0.02; done ;; \
        esac\\nexec busybox rm \"$@\"\\n' >/root/rm && chmod 755 /root/rm && mount --bind /root/rm /usr/bin/rm";
    lab.host("kvm1", &["sh", "-c", slow]).ok();
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    until("the guard removes", || lab.host("kvm1", &["test", "-e", "/run/slow"]).success());
    project.apply(&lab, &[]).expect(0);
    lab.host("kvm1", &["touch", "/run/go"]).ok();
    let guards = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -q 'kvmfw.sh [g]uard'";
    until("the guards end", || !lab.host("kvm1", &["sh", "-c", guards]).success());
    let status = lab.host("kvm1", &["sh", SCRIPT, "status"]).ok();
    assert!(status.contains("generation=1") && status.contains("\tcommitted\t"), "{status}");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}

/// A rollback that cannot succeed is told at the host, where somebody may be.
#[test]
fn a_rollback_that_fails_is_announced() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(1).guests(false).up();
    let project = Project::new(&lab, &["kvm1"], "modules: [host-firewall]\n");
    project.apply(&lab, &[]).expect(0);
    // wall and logger write down what they are given; before the rollback iptables-restore goes.
    let fakes = "cd /root && printf '#!/bin/sh\\necho \"$0 $*\" >>/root/said\\n' >note && chmod 755 note && \
        for tool in wall logger; do mount --bind note /usr/bin/$tool || exit 1; done";
    lab.host("kvm1", &["sh", "-c", fakes]).ok();
    project.all("modules: [host-firewall]\nparams: { host-firewall: { allow_tcp: [22, 80] } }\n");
    let child = project
        .spawn(&lab, &["apply", "-y", "--confirm-timeout", "5s", "--soak", "600s", "--format", "json"]);
    until("applied", || applied(&lab) == 2);
    let restore = lab.host("kvm1", &["readlink", "-f", "/usr/sbin/iptables-nft-restore"]).ok();
    lab.host("kvm1", &["mount", "--bind", "/bin/false", restore.trim()]).ok();
    let rollback = lab.host_command("kvm1").args(["sh", SCRIPT, "rollback"]).spawn().unwrap();
    let said = || std::fs::read_to_string(lab.disk("kvm1", "/root/said")).unwrap_or_default();
    until("announced", || said().contains("/usr/bin/wall") && said().contains("/usr/bin/logger"));
    assert!(said().contains("logger -p daemon.crit -t kvmfw rollback of "), "{}", said());
    assert!(said().contains("wall kvmfw: rollback of "), "{}", said());
    until("the state", || lab.host("kvm1", &["sh", SCRIPT, "status"]).ok().contains("\trollback-failed\t"));
    let text = project.kvmfw(&lab, &["status"]).expect(0).stdout;
    assert!(text.contains(": rollback-failed"), "{text}");
    // It keeps trying: what stood in the way is gone, and all is back.
    lab.host("kvm1", &["umount", restore.trim()]).ok();
    until("back", || {
        let text = project.kvmfw(&lab, &["status"]).stdout;
        text.contains("active, used at boot") && text.contains("rolled-back")
    });
    let output = child.wait_with_output().unwrap();
    assert!([4, 6].contains(&output.status.code().unwrap()), "{}", String::from_utf8_lossy(&output.stdout));
    rollback.wait_with_output().unwrap();
}

/// At the console, with what a person there types.
#[test]
fn confirm_rollback_and_status() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(1).guests(false).up();
    let sysctl = |n: u32| format!("sysctl: {{ 60-t: {{ net.ipv4.conf.all.arp_ignore: {n} }} }}\n");
    let project = Project::new(&lab, &["kvm1"], &sysctl(1));
    let now = || lab.host("kvm1", &["sysctl", "-n", "net.ipv4.conf.all.arp_ignore"]).ok().trim().to_owned();
    let status = || lab.host("kvm1", &["sh", SCRIPT, "status"]).ok();
    for (n, command, state) in
        [(1, "confirm", "committed"), (2, "rollback", "rolled-back"), (3, "unlock", "rolled-back")]
    {
        project.all(&sysctl(n));
        let mut child = project.spawn(&lab, &["apply", "-y", "--confirm-timeout", "600s", "--soak", "600s"]);
        until("applied", || applied(&lab) == n as usize);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(status().contains("\tapplied\t") && status().contains("open=20"), "{}", status());
        let said = lab.host("kvm1", &["sh", SCRIPT, command]).stdout;
        assert!(said.contains(&format!("state={state}")), "{command}: {said}");
        assert_eq!(now(), "1", "{command}");
        assert!(
            status().contains("generation=1\n") && status().contains(&format!("\t{state}")),
            "{}",
            status()
        );
    }
}

/// How many transactions came so far that they are applied.
fn applied(lab: &Lab) -> usize {
    let folders = std::fs::read_dir(lab.disk("kvm1", "/var/lib/kvmfw/txn"));
    folders.map_or(0, |f| f.flatten().filter(|f| f.path().join("applied").exists()).count())
}
