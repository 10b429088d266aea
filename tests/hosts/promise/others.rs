//! Others: their rules, their guests, their ports.

use crate::common::project::Project;
use crate::common::transaction::{end, newest, opened, start};
use crate::common::{self, Backend, Lab};
use crate::promise::{HOST, marked, ports};
use std::time::Instant;

/// The rules of libvirt, Docker and fail2ban, the way they come: a chain, and a jump put first.
fn foreign(lab: &Lab, family: &str, who: &str) {
    let run = |args: &[&str]| {
        let mut line = vec![family];
        line.extend(args);
        lab.host(HOST, &line).ok();
    };
    match who {
        "libvirt" => {
            run(&["-N", "LIBVIRT_FWX"]);
            run(&["-A", "LIBVIRT_FWX", "-i", "virbr0", "-o", "virbr0", "-j", "ACCEPT"]);
            run(&["-I", "FORWARD", "-j", "LIBVIRT_FWX"]);
        }
        "docker" => {
            run(&["-N", "DOCKER-USER"]);
            run(&["-A", "DOCKER-USER", "-i", "docker0", "-j", "RETURN"]);
            run(&["-I", "FORWARD", "-j", "DOCKER-USER"]);
            run(&["-t", "nat", "-N", "DOCKER"]);
            run(&["-t", "nat", "-I", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER"]);
        }
        _ => {
            run(&["-N", "f2b-sshd"]);
            run(&["-A", "f2b-sshd", "-j", "RETURN"]);
            run(&["-I", "INPUT", "-p", "tcp", "-m", "multiport", "--dports", "22", "-j", "f2b-sshd"]);
        }
    }
}

/// Everything in the tables that is not ours, in its order.
fn of_others(lab: &Lab) -> String {
    let mut all = String::new();
    for tool in ["iptables-save", "ip6tables-save"] {
        let text = lab.host(HOST, &[tool]).ok();
        for line in text.lines().filter(|l| !l.contains("KVMFW-") && !l.starts_with('#')) {
            all += line.split(" [").next().unwrap();
            all.push('\n');
        }
    }
    all
}

fn others_stay(backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(backend).up();
    for family in ["iptables", "ip6tables"] {
        foreign(&lab, family, "libvirt");
    }
    let before = of_others(&lab);
    let project = Project::new(&lab, &[HOST], &opened(80));
    project.apply(&lab, &[]).expect(0);
    assert_eq!(of_others(&lab), before, "an apply changed rules of others");

    // In the window of one that is rolled back.
    project.all(&format!(
        "{}checks: [{{ command: 'sleep 3; test ! -e /run/bad', timeout: 10s }}]\n",
        opened(81)
    ));
    let last = newest(&lab, HOST);
    let kvmfw = start(&lab, &project, &[]);
    marked(&lab, "applied", last.as_ref());
    lab.host(HOST, &["touch", "/run/bad"]).ok();
    for family in ["iptables", "ip6tables"] {
        foreign(&lab, family, "docker");
    }
    let during = of_others(&lab);
    assert_ne!(during, before);
    end(kvmfw).expect(4);
    assert_eq!(of_others(&lab), during, "a rollback changed rules of others");

    // In the window of one that lasts.
    lab.host(HOST, &["rm", "/run/bad"]).ok();
    let last = newest(&lab, HOST);
    let kvmfw = start(&lab, &project, &[]);
    marked(&lab, "applied", last.as_ref());
    for family in ["iptables", "ip6tables"] {
        foreign(&lab, family, "fail2ban");
    }
    let after = of_others(&lab);
    assert_ne!(after, during);
    end(kvmfw).expect(0);
    assert_eq!(of_others(&lab), after, "a commit changed rules of others");
    // They stand above our hooks now, which is no change of ours.
    project.all(&opened(81));
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);

    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert_eq!(of_others(&lab), after, "an undo changed rules of others");
    assert!(!lab.host(HOST, &["iptables-save"]).ok().contains("KVMFW"), "something of ours is left");
}

#[test]
fn unmanaged_rules_stay_as_they_are() {
    others_stay(Backend::Nft);
}

#[test]
fn unmanaged_rules_stay_as_they_are_on_legacy() {
    others_stay(Backend::Legacy);
}

/// `KVMFW_LONG=1`: 100 applies and 20 rollbacks; else 20 and 4.
#[test]
fn guests_notice_nothing() {
    if !common::require_root() {
        return;
    }
    let applies = if std::env::var_os("KVMFW_LONG").is_some() { 100 } else { 20 };
    let lab = Lab::up();
    let cures = ["bridge-accept-each", "bridge-accept-physdev", "bridge-bypass"];
    // Every apply is a change: of the rules, of the cure, and of the bridge itself.
    let change = |n: usize, more: &str| {
        format!(
            "modules: [{}, host-firewall, firewall-log]\nbridges: {{ br123: {{ ageing: {} }} }}\nparams: {{ host-firewall: {{ allow_tcp: [22, {}] }} }}\n{more}",
            cures[n % 3],
            100 + n % 2,
            1000 + n,
        )
    };
    let project = Project::new(&lab, &[HOST], &change(0, ""));
    let there = ports(&lab);
    assert!(there.contains(&("vnet0".to_owned(), "br123".to_owned())), "{there:?}");
    let floods =
        ["192.168.1.2", "192.168.1.53", "fd00:1::2"].map(|to| (to, common::flood(&lab, HOST, "g0", to)));
    let started = Instant::now();
    for n in 0..applies {
        if n % 5 == 4 {
            project.all(&change(n + 1, "checks: [{ command: 'false', required: true }]"));
            project.apply(&lab, &[]).expect(4);
            assert_eq!(ports(&lab), there, "after a rollback");
        }
        project.all(&change(n, ""));
        let run = project.apply(&lab, &[]).expect(0);
        assert!(run.stdout.contains("changed         1"), "{}", run.stdout);
        assert_eq!(ports(&lab), there, "after an apply");
    }
    // One is sent every 10 ms, later where the machine is busy; fewer than one in 50 ms would be no measure.
    let enough = started.elapsed().as_millis() / 50;
    for (to, flood) in floods {
        let (sent, lost) = flood.stop();
        assert!(u128::from(sent) > enough, "only {sent} of {enough} sent to {to}");
        assert_eq!(lost, 0, "of {sent} to {to}");
    }
}
