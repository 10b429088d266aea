//! The same on every kind of host: each shell as /bin/sh, both backends, root and `sudo -n` logins.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::Project;
use common::{Backend, Lab, Shell};
use std::time::Duration;

const ALL: &str = "\
modules: [host-firewall, bridge-accept-each]
bridges: { br123: { addresses: ['192.168.1.250/24'] } }
sysctl:
  60-test: { net.ipv4.conf.all.arp_ignore: 1, net.ipv4.ip_local_port_range: '20000 30000' }
";

/// Bad: new connections to SSH die, old ones live.
const LOCKOUT: &str = "\
iptables:
  filter:
    INPUT:
      rules: |
        -m state --state ESTABLISHED -j ACCEPT
        -p tcp --dport 22 -j DROP
";

fn apply_and_roll_back(shell: Shell, backend: Backend, ssh: &str) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(1).shell(shell).backend(backend).up();
    let project = Project::new(&lab, &["kvm1"], ALL);
    project.all_with_ssh(ssh, ALL);
    let original = lab.dump("kvm1");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    common::same(&original, &lab.dump("kvm1"), "a plan changes nothing");

    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    assert!(lab.guest_ping("kvm1", "g0", "192.168.1.2"), "guests reach each other");
    let good = lab.dump("kvm1");

    project.all_with_ssh(ssh, &format!("{ALL}{LOCKOUT}"));
    let bad = project.apply(&lab, &["--accept-risk", "lockout"]).expect(4);
    assert!(bad.stdout.contains("ROLLED BACK"), "{}", bad.stdout);
    common::same(&good, &lab.dump("kvm1"), "rolled back to the byte");

    project.all_with_ssh(ssh, ALL);
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    common::same(&original, &lab.dump("kvm1"), "an undo to 0 leaves no trace");
}

#[test]
fn dash_nft_root() {
    apply_and_roll_back(Shell::Dash, Backend::Nft, "user: root");
}

#[test]
fn bash_nft_sudo() {
    apply_and_roll_back(Shell::Bash, Backend::Nft, "user: admin, become: sudo");
}

#[test]
fn busybox_legacy_root() {
    apply_and_roll_back(Shell::Busybox, Backend::Legacy, "user: root");
}

#[test]
fn dash_legacy_sudo() {
    apply_and_roll_back(Shell::Dash, Backend::Legacy, "user: admin, become: sudo");
}

/// Without sudo an ordinary login is refused, with the way out.
#[test]
fn a_login_without_root_is_refused() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(1).up();
    let project = Project::new(&lab, &["kvm1"], ALL);
    project.all_with_ssh("user: admin", ALL);
    let run = project.apply(&lab, &["--format", "json"]).expect(7);
    let host = &run.json()["hosts"][0];
    assert_eq!(host["status"], "refused", "{host}");
    assert_eq!(host["reason"], "no-privilege", "{host}");
    assert!(host["message"].as_str().unwrap().contains("become: sudo"), "{host}");
}

/// What an rc file leaves behind: functions that bash exports in the place of programs, variables that change what
/// programs do, limits, a mask, a descriptor, a job that holds the streams of the session open.
const RC: &str = "\
for f in cat grep awk sed ip sync mv ln rm cp readlink sort head tail flock setsid timeout iptables-save iptables-restore sh env; do
	eval \"$f() { :; }; export -f $f\"
done
export IFS=x ENV=/root/.env BASH_ENV=/root/.env GREP_OPTIONS=-v POSIXLY_CORRECT=1 LC_ALL=tr_TR.UTF-8 AWKPATH=/nowhere CDPATH=/ PATH=/nowhere
export CLEAN=1 OVER= NONCE=- VAR=/nowhere ETC=/nowhere T=/nowhere TMPDIR=/nowhere
umask 777
ulimit -S -n 32
ulimit -S -f 0
exec 7>&1 9>&2
/usr/bin/sleep 1000 &
cd /proc
";

fn with_rc(shell: Shell) -> Option<(Lab, Project)> {
    if !common::require_root() {
        return None;
    }
    let lab = Lab::builder().hosts(1).shell(shell).up();
    std::fs::write(lab.disk("kvm1", "/root/.bashrc"), RC).unwrap();
    std::fs::write(lab.disk("kvm1", "/root/.env"), "exit 3\n").unwrap();
    let project = Project::new(&lab, &["kvm1"], ALL);
    Some((lab, project))
}

fn an_rc_file_changes_nothing(shell: Shell) {
    let Some((lab, project)) = with_rc(shell) else { return };
    let done = project.apply(&lab, &[]).expect(0);
    assert!(done.took < Duration::from_secs(50), "something was waited for: {:?}", done.took);
    let rules = lab.host("kvm1", &["/usr/sbin/iptables-save"]).ok();
    assert!(rules.contains("-A KVMFW-RH-Firewall-1-INPUT"), "{rules}");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    project.all(&format!("{ALL}{LOCKOUT}"));
    let good = lab.dump("kvm1");
    let bad = project.apply(&lab, &["--accept-risk", "lockout"]).expect(4);
    assert!(bad.stdout.contains("ROLLED BACK"), "{}", bad.stdout);
    common::same(&good, &lab.dump("kvm1"), "rolled back to the byte");
    // At the console the same environment is met by the script itself.
    let console = RC.replace("/usr/bin/sleep 1000 &", "");
    let console = format!("{console}/bin/sh /var/lib/kvmfw/kvmfw.sh undo 0");
    let undo = lab.host("kvm1", &["/bin/bash", "-c", &console]);
    assert!(undo.success() && undo.stdout.contains("back at the state before"), "{undo:?}");
    let rules = lab.host("kvm1", &["/usr/sbin/iptables-save"]).ok();
    assert!(!rules.contains("KVMFW"), "{rules}");
    assert!(!lab.disk("kvm1", "/etc/kvmfw").exists(), "something of it is left");
}

#[test]
fn an_rc_file_changes_nothing_where_sh_is_bash() {
    an_rc_file_changes_nothing(Shell::Bash);
}

#[test]
fn an_rc_file_changes_nothing_where_sh_is_dash() {
    an_rc_file_changes_nothing(Shell::Dash);
}

#[test]
fn an_rc_file_changes_nothing_where_sh_is_busybox() {
    an_rc_file_changes_nothing(Shell::Busybox);
}
