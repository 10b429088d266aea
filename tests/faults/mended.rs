//! What was found in use and mended.

use crate::common::project::Project;
use crate::common::transaction::{ended, held, marked, newest, opened, start, wait, wrap};
use crate::common::{self, Backend, Lab};
use crate::{HOST, LONG, kill_where, managed, on_host, settled};
use std::fs;

/// A power cut can leave a file empty. Without its number no generation may be thrown away.
#[test]
fn an_empty_generation_file_costs_no_generation() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let last = newest(&lab, HOST);
    let before = lab.dump(HOST);
    project.all(&held(81));
    let mut kvmfw = start(&lab, &project, &[]);
    let folder = marked(&lab, HOST, "applied", last.as_ref());
    kvmfw.kill().unwrap();
    kvmfw.wait().unwrap();
    let id = folder.file_name().unwrap().to_string_lossy().into_owned();
    assert!(kill_where(&lab, &format!("kvmfw.sh guard {id}")) >= 2, "no guards");
    fs::write(folder.join("generation"), "").unwrap();
    project.kvmfw(&lab, &["unlock", HOST, "-y"]).expect(0);
    assert!(ended(&folder).starts_with("rolled-back"));
    assert!(on_host(&lab, "ls /etc/kvmfw/generations").lines().any(|l| l == "1"), "generation 1 is gone");
    assert_eq!(on_host(&lab, "iptables-save | grep -c 'dport 81 ' || true").trim(), "0");
    drop(before);
    project.all(&opened(80));
    settled(&lab, &project);
}

/// A save that fails is not an empty host.
#[test]
fn a_failing_iptables_save_is_not_an_empty_host() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    let rules = on_host(&lab, "iptables-nft-save | grep -v '^[#:]'");
    wrap(&lab, HOST, "iptables-save", "#!/bin/sh\necho broken >&2\nexit 1\n");
    project.all(&opened(81));
    let run = project.apply(&lab, &[]);
    assert!([4, 7].contains(&run.code), "{}: {}{}", run.code, run.stdout, run.stderr);
    assert!(newest(&lab, HOST).is_none_or(|t| t.join("done").exists()), "something is open");
    assert_eq!(on_host(&lab, "iptables-nft-save | grep -v '^[#:]'"), rules);
    wrap(&lab, HOST, "iptables-save", "#!/bin/sh\nexec /usr/sbin/iptables-nft-save \"$@\"\n");
    project.apply(&lab, &[]).expect(0);
}

/// The routes that moved with an address boot again from a generation that did not move them.
#[test]
fn routes_that_moved_boot_from_the_second_generation_too() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    on_host(&lab, "ip route add 203.0.113.0/24 via 10.99.0.1");
    let bridge = "bridges: { brmgmt: { ports: [eth0], take_addresses: true, stp: false } }\n";
    let project = Project::new(&lab, &[HOST], bridge);
    project.apply(&lab, &[]).expect(0);
    let route = || on_host(&lab, "ip route show 203.0.113.0/24");
    assert!(route().contains("brmgmt"), "{}", route());
    let boots = || fs::read_to_string(lab.disk(HOST, "/etc/kvmfw/current/boot.bridges")).unwrap();
    assert!(boots().contains("203.0.113.0/24"), "{}", boots());
    project.all(&format!("{bridge}sysctl: {{ 60-t: {{ net.ipv4.conf.all.arp_ignore: 1 }} }}\n"));
    project.apply(&lab, &[]).expect(0);
    assert!(boots().contains("203.0.113.0/24"), "lost in the second generation: {}", boots());
    lab.power_cut(HOST);
    lab.boot(HOST);
    assert!(
        route().contains("brmgmt"),
        "not there after a boot with\n{}\n{}",
        boots(),
        on_host(&lab, "ip route; ip -br address")
    );
    settled(&lab, &project);
}

/// The guard that says that the lock is held and dies of it at once is heard.
#[test]
fn the_word_of_a_guard_that_ends_at_once_is_read() {
    let Some((lab, project)) = managed(Backend::Nft) else { return };
    project.all(&opened(81));
    on_host(&lab, "echo 'somebody (x, since then)' >/var/lib/kvmfw/lock");
    let mut command = lab.host_command(HOST);
    command.args([
        "flock",
        "/var/lib/kvmfw/lock",
        "sh",
        "-c",
        "touch /run/held; until test -e /run/free; do sleep 0.05; done",
    ]);
    let mut holder = command.spawn().unwrap();
    wait("the lock is held", LONG, || lab.host(HOST, &["test", "-e", "/run/held"]).success().then_some(()));
    for _ in 0..5 {
        let run = project.apply(&lab, &["--format", "json"]).expect(7);
        assert_eq!(run.json()["hosts"][0]["reason"], "locked", "{}", run.stdout);
        assert!(run.stdout.contains("somebody"), "{}", run.stdout);
    }
    on_host(&lab, "touch /run/free");
    holder.wait().unwrap();
    project.apply(&lab, &[]).expect(0);
}

/// The record of a generation is lost. Nobody plans as if nothing there were ours, or says that nothing ever was.
#[test]
fn a_generation_without_its_record_is_not_planned_against() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let one = "bridges: { br9: { addresses: ['192.0.2.1/24'] } }\n";
    let project = Project::new(&lab, &[HOST], one);
    project.apply(&lab, &[]).expect(0);
    let before = lab.dump_without(HOST, &["/etc/kvmfw"]);
    project.all(&format!("{one}sysctl: {{ 60-t: {{ net.ipv4.conf.all.arp_ignore: 1 }} }}\n"));
    project.apply(&lab, &[]).expect(0);
    for lost in [": >", "rm "] {
        on_host(&lab, &format!("{lost}/etc/kvmfw/generations/2/desired.json"));
        let all = lab.dump(HOST);
        for args in [
            &["plan", "--format", "json"][..],
            &["plan", "--drift", "--format", "json"],
            &["apply", "-y", "--format", "json"],
            &["undo", "--to", "1", "-y", "--format", "json"],
        ] {
            let json = project.kvmfw(&lab, args).expect(7).json();
            assert_eq!(json["hosts"][0]["reason"], "unreadable-record", "{args:?}: {json:#}");
        }
        common::same(&all, &lab.dump(HOST), "nothing was to be done");
    }
    // The way out that they name.
    on_host(&lab, "sh /var/lib/kvmfw/kvmfw.sh undo");
    common::same(&before, &lab.dump_without(HOST, &["/etc/kvmfw"]), "after an undo at the console");
    project.all(one);
    settled(&lab, &project);
    lab.power_cut(HOST);
    lab.boot(HOST);
    settled(&lab, &project);
}
