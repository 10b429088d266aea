//! `plan --drift`: what is otherwise than the last apply left it, and nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, Run};
use common::{Backend, Lab};
use std::fs;

const HOST: &str = "kvm1";
const ALL: &str = "modules: [host-firewall, bridge-accept-each]
bridges: { br123: { ageing: 77, ports: [eth1] } }
sysctl: { 60-fwd: { net.ipv4.ip_forward: 1 }, 60-log: { net.ipv4.conf.all.log_martians: 1 } }
iptables:
  filter:
    OUTPUT:
      policy: DROP
      last: |
        -j ACCEPT
";

fn drift(lab: &Lab, project: &Project) -> Run {
    project.kvmfw(lab, &["plan", "--drift", "--format", "json"])
}

/// Every change as `kind resource action` and its lines that changed.
fn changes(run: &Run) -> Vec<(String, String)> {
    let json = run.json();
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    let of = |c: &serde_json::Value| {
        let diff: Vec<String> =
            text(&c["diff"]).lines().filter(|l| l.starts_with(['+', '-'])).map(str::to_owned).collect();
        (format!("{} {} {}", text(&c["kind"]), text(&c["resource"]), text(&c["action"])), diff.join("\n"))
    };
    json["hosts"][0]["changes"].as_array().unwrap().iter().map(of).collect()
}

fn what_counts(backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(backend).up();
    let project = Project::new(&lab, &[HOST], ALL);
    let sh = |script: &str| lab.host(HOST, &["sh", "-c", script]).ok();
    let none = drift(&lab, &project).expect(0);
    assert_eq!(none.json()["hosts"][0]["warnings"][0]["code"], "not-managed", "{}", none.stdout);
    project.apply(&lab, &[]).expect(0);
    let none = drift(&lab, &project).expect(0);
    assert_eq!((&none.json()["drift"], changes(&none).len()), (&true.into(), 0), "{}", none.stdout);

    // What others do, and what the inventory says by now, is no drift.
    sh(
        "iptables -A INPUT -p tcp --dport 7 -j DROP; iptables -t nat -N THEIRS; ip addr add 192.0.2.99/32 dev br123",
    );
    project.all(&ALL.replace("ageing: 77", "ageing: 78"));
    drift(&lab, &project).expect(0);
    project.all(ALL);

    // Live, and of what boots.
    sh("iptables -D KVMFW-INPUT -j RH-Firewall-1-INPUT 2>/dev/null; iptables -I KVMFW-RH-Firewall-1-INPUT 1 -p tcp --dport 9 -j ACCEPT
        iptables -D FORWARD -m comment --comment kvmfw:hook -j KVMFW-FORWARD; iptables -P OUTPUT ACCEPT
        sysctl -qw net.ipv4.conf.all.log_martians=0; rm /etc/sysctl.d/60-fwd.conf
        ip link set br123 type bridge ageing_time 5000
        rm /etc/systemd/system/sysinit.target.wants/kvmfw.service");
    let before = lab.dump(HOST);
    let run = drift(&lab, &project).expect(2);
    assert_eq!(lab.dump(HOST), before, "it changed something");
    let expected = [
        ("sysctl 60-fwd change", "- net.ipv4.ip_forward = 1"),
        (
            "sysctl 60-log change",
            "- net.ipv4.conf.all.log_martians = 1\n+ net.ipv4.conf.all.log_martians = 0",
        ),
        ("iptables filter/FORWARD change", "- jump rule in FORWARD"),
        ("iptables filter/OUTPUT change", "- policy DROP\n+ policy ACCEPT"),
        ("iptables filter/RH-Firewall-1-INPUT change", "+ -p tcp -m tcp --dport 9 -j ACCEPT"),
        ("bridge br123 change", "- ageing_time 7700\n+ ageing_time 5000"),
        ("iptables boot change", "- /etc/systemd/system/sysinit.target.wants/kvmfw.service"),
    ];
    let found = changes(&run);
    for (what, lines) in expected {
        let change = found.iter().find(|(name, _)| name == what);
        assert_eq!(change.map(|c| c.1.as_str()), Some(lines), "{what}: {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    let human = project.kvmfw(&lab, &["plan", "--drift"]).expect(2);
    assert!(
        human.stdout.contains("Drift: 7 resources on 1 of 1 host are not as applied"),
        "{}",
        human.stdout
    );

    // An apply puts all of it right.
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    project.apply(&lab, &[]).expect(0);
    drift(&lab, &project).expect(0);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    assert!(
        lab.disk(HOST, "/etc/systemd/system/sysinit.target.wants/kvmfw.service").symlink_metadata().is_ok()
    );

    // A file of somebody else in the place of ours, and a bridge that is gone.
    sh(
        "rm /etc/sysctl.d/60-log.conf; echo 'vm.swappiness=10' >/etc/sysctl.d/60-log.conf; ip link set eth1 nomaster",
    );
    let found = changes(&drift(&lab, &project).expect(2));
    assert!(found[0].1.contains("60-log.conf differs from the applied file"), "{found:#?}");
    assert_eq!(found[1], ("bridge br123 change".to_owned(), "- port eth1".to_owned()), "{found:#?}");
}

#[test]
fn drift_counts_managed_state_on_nft() {
    what_counts(Backend::Nft);
}

#[test]
fn drift_counts_managed_state_on_legacy() {
    if std::env::var_os("KVMFW_LONG").is_some() {
        what_counts(Backend::Legacy);
    } else {
        common::tell("\nNIGHTLY: drift on legacy iptables, with KVMFW_LONG=1");
    }
}

/// A rules file that was written over boots other rules, though what is live is right.
#[test]
fn a_changed_boot_file_is_drift() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], ALL);
    project.apply(&lab, &[]).expect(0);
    let file = lab.disk(HOST, "/etc/kvmfw/current/rules.v4");
    // The link is the host's own: its target is below the disk's folder.
    let generation = fs::read_link(lab.disk(HOST, "/etc/kvmfw/current")).unwrap();
    let file = file.parent().unwrap().parent().unwrap().join(generation).join("rules.v4");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("-j REJECT", "-j ACCEPT")).unwrap();
    let run = drift(&lab, &project).expect(2);
    let expected = ("iptables boot change".to_owned(), "- /etc/kvmfw/current/rules.v4".to_owned());
    assert_eq!(changes(&run), [expected]);
    project.apply(&lab, &[]).expect(0);
    drift(&lab, &project).expect(0);

    // Of another inventory's host nothing is told.
    let other = fs::read_to_string(project.path().join("inventories/lab.yaml")).unwrap();
    project.write("inventories/other.yaml", &other);
    let run = project.kvmfw(&lab, &["plan", "--drift", "-i", "other", "--format", "json"]).expect(7);
    assert_eq!(run.json()["hosts"][0]["reason"], "managed-by", "{}", run.stdout);
}

/// What was taken away by hand comes back, guarded and on record; nothing else of the inventory does.
#[test]
fn a_repair_returns_to_what_was_applied() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(2).guests(false).up();
    let wanted = "modules: [host-firewall]\nsysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 1 } }\n";
    let project = Project::new(&lab, &["kvm1", "kvm2"], wanted);
    // A host that was never managed has nothing to repair.
    let json = project.kvmfw(&lab, &["repair", "-y", "--format", "json"]).expect(0).json();
    assert!(json["hosts"].to_string().contains("nothing was ever applied to this host"), "{json:#}");
    project.apply(&lab, &[]).expect(0);
    let applied = lab.dump_without("kvm1", &["/etc/kvmfw", "/var/lib/kvmfw"]);

    // The inventory has gone on meanwhile, and a repair does not follow it.
    project.all("modules: []\nsysctl: { 60-t: { net.ipv4.conf.all.arp_ignore: 2 } }\n");
    let by_hand = "iptables -D INPUT 1; iptables -F KVMFW-RH-Firewall-1-INPUT; echo 0 >/proc/sys/net/ipv4/conf/all/arp_ignore; \
                   rm /etc/sysctl.d/60-t.conf; iptables -A INPUT -s 192.0.2.9 -j DROP";
    lab.host("kvm1", &["sh", "-c", by_hand]).ok();
    project.kvmfw(&lab, &["repair"]).expect(7);
    // Metrics say what differs, then that it no longer does, and when each host was last as it should be.
    let file = project.path().join("kvmfw.prom");
    let metric = |name: &str| {
        let text = std::fs::read_to_string(&file).unwrap();
        let value =
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
        value.unwrap_or_else(|| panic!("no {name} in\n{text}"))
    };
    let name = file.to_str().unwrap();
    project.kvmfw(&lab, &["plan", "--drift", "--metrics", name]).expect(2);
    assert!(metric("kvmfw_host_drift{host=\"kvm1\"}") > 1.0);
    assert_eq!(metric("kvmfw_host_drift{host=\"kvm2\"}"), 0.0);
    assert_eq!(metric("kvmfw_hosts{command=\"drift\",status=\"changed\"}"), 1.0);
    let last = metric("kvmfw_host_last_success_timestamp_seconds{host=\"kvm2\"}");
    let json = project.kvmfw(&lab, &["repair", "-y", "--format", "json", "--metrics", name]).expect(0).json();
    assert_eq!(metric("kvmfw_host_pending_changes{host=\"kvm1\"}"), 0.0);
    assert_eq!(
        metric("kvmfw_host_status{host=\"kvm1\",command=\"repair\",status=\"changed\",reason=\"\"}"),
        1.0
    );
    // A host that is not asked keeps the time of its last success.
    project.kvmfw(&lab, &["plan", "kvm1", "--accept-risk", "removes-all", "--metrics", name]).expect(0);
    assert!(metric("kvmfw_host_last_success_timestamp_seconds{host=\"kvm2\"}") >= last && last > 1.7e9);
    assert!(metric("kvmfw_run_duration_seconds{command=\"plan\"}") > 0.0);
    project.kvmfw(&lab, &["status", "--metrics", name]).expect(3);
    project.kvmfw(&lab, &["plan", "--metrics", "/nonexistent/x.prom"]).expect(3);
    assert!(!project.path().join(".kvmfw.prom.new").exists());
    let status = |host: usize| json["hosts"][host]["status"].as_str().unwrap();
    assert_eq!((status(0), status(1)), ("changed", "unchanged"), "{json:#}");
    lab.host("kvm1", &["iptables", "-D", "INPUT", "-s", "192.0.2.9", "-j", "DROP"]).ok();
    common::same(&applied, &lab.dump_without("kvm1", &["/etc/kvmfw", "/var/lib/kvmfw"]), "a repair");
    project.kvmfw(&lab, &["plan", "--drift", "kvm1"]).expect(0);
    let again = project.kvmfw(&lab, &["repair", "kvm1", "-y", "--format", "json"]).expect(0).json();
    assert_eq!(again["hosts"][0]["status"], "unchanged", "{again:#}");
}
