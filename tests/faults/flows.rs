//! The first rules that ever ask conntrack: connections of the host that were open before live on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::Project;
use common::transaction::{failing, newest, opened, wait};
use common::{Backend, Lab, same};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const HOST: &str = "kvm1";

/// Storage as the host sees it, where the controller stands. `hear` is sent to all the time, `talk`
/// echoes what comes, `idle` says nothing until a file tells it to.
const SERVER: &str = r#"
use strict; use IO::Socket::IP; $| = 1; $SIG{PIPE} = 'IGNORE';
my ($kind, $port, $go) = @ARGV;
my $listen = IO::Socket::IP->new(LocalHost => '::', LocalPort => $port, Listen => 5, V6Only => 0) or die "listen: $!";
print "up\n";
my @peers; for (1, 2) { my $peer = $listen->accept or die; $peer->autoflush(1); push @peers, $peer; }
print "both\n";
if ($kind eq 'talk') {
    for my $peer (@peers) { next if fork; while (sysread($peer, my $got, 1)) { syswrite($peer, $got) } exit }
    wait; wait; exit;
}
if ($kind eq 'idle') { select(undef, undef, undef, 0.05) until -e $go; }
while (1) { for my $peer (@peers) { syswrite($peer, 'x') or exit } select(undef, undef, undef, 0.02); }
"#;

/// The host's end: writes every byte that it gets to a file.
const CLIENT: &str = r#"
use strict; use IO::Socket::IP; my ($kind, $to, $port, $file) = @ARGV;
my $peer = IO::Socket::IP->new(PeerHost => $to, PeerPort => $port) or die "connect: $!"; $peer->autoflush(1);
open(my $out, '>', $file) or die; $out->autoflush(1);
syswrite($peer, 'x') if $kind eq 'talk';
while (sysread($peer, my $got, 1)) {
    syswrite($out, $got);
    if ($kind eq 'talk') { select(undef, undef, undef, 0.02); syswrite($peer, 'x') }
}
"#;

/// The open connections of a host, one of a kind for each family; they end with it.
struct Flows {
    processes: Vec<Child>,
    files: Vec<(String, PathBuf)>,
    go: PathBuf,
}

impl Flows {
    fn open(lab: &Lab) -> Self {
        let go = lab.dir().join("go");
        let (mut processes, mut files) = (Vec::new(), Vec::new());
        for (kind, port) in [("hear", "3260"), ("talk", "3261"), ("idle", "3262")] {
            let log = lab.dir().join(format!("{kind}.log"));
            let mut server = lab.exec_command("perl");
            server.args(["-e", SERVER, kind, port, go.to_str().unwrap()]);
            processes.push(spawn(&mut server, &log));
            wait("a server", Duration::from_secs(20), || said(&log, "up"));
            for to in ["10.99.0.1", "fd99::1"] {
                let name = format!("{kind}-{}", if to.contains(':') { 6 } else { 4 });
                let mut client = lab.host_command(HOST);
                client.args(["perl", "-e", CLIENT, kind, to, port, &format!("/root/{name}")]);
                processes.push(spawn(&mut client, &lab.dir().join(format!("{name}.log"))));
                files.push((name.clone(), lab.disk(HOST, &format!("/root/{name}"))));
            }
            wait("both clients", Duration::from_secs(20), || said(&log, "both"));
        }
        let flows = Self { processes, files, go };
        flows.live("before anything");
        flows
    }

    /// Waits until every connection that is not idle has brought more than now.
    #[track_caller]
    fn live(&self, when: &str) {
        for (name, file) in &self.files {
            if name.starts_with("idle") && !self.go.exists() {
                continue;
            }
            let before = size(file);
            wait(&format!("{when}: more from {name}"), Duration::from_secs(20), || {
                (size(file) > before).then_some(())
            });
        }
    }

    /// As [`Flows::live`], and the idle ones speak up from now on.
    #[track_caller]
    fn all_live(&self, when: &str) {
        fs::write(&self.go, "").unwrap();
        self.live(when);
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn spawn(command: &mut Command, log: &Path) -> Child {
    let log = fs::File::create(log).unwrap();
    let error = log.try_clone().unwrap();
    command.stdin(Stdio::null()).stdout(log).stderr(error).spawn().unwrap()
}

fn said(log: &Path, line: &str) -> Option<()> {
    fs::read_to_string(log).unwrap_or_default().lines().any(|l| l == line).then_some(())
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |m| m.len())
}

fn rules(lab: &Lab) -> String {
    ["iptables-save", "ip6tables-save"].map(|tool| lab.host(HOST, &[tool]).ok()).concat()
}

fn warned(lab: &Lab, project: &Project) -> Vec<String> {
    let json = project.kvmfw(lab, &["plan", "--format", "json"]).expect(0).json();
    let warnings = json["hosts"][0]["warnings"].as_array().cloned().unwrap_or_default();
    let codes = warnings.iter().map(|w| w["code"].as_str().unwrap().to_owned());
    codes.filter(|c| ["first-conntrack", "established-missing"].contains(&c.as_str())).collect()
}

/// What is not saved is announced, once.
#[test]
fn connections_that_will_die_are_announced() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], &opened(80));
    assert_eq!(warned(&lab, &project), ["first-conntrack"; 2], "one for each family");
    project.all(
        "iptables:\n  filter:\n    INPUT:\n      policy: DROP\n      rules: |\n        -p tcp --dport 22 -j ACCEPT\n",
    );
    assert_eq!(warned(&lab, &project), ["established-missing"]);
    project.all(&opened(80));
    project.apply(&lab, &[]).expect(0);
    project.all(&opened(81));
    assert_eq!(warned(&lab, &project), [""; 0]);
}

fn survive(backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(backend).guests(false).up();
    let flows = Flows::open(&lab);
    let project = Project::new(&lab, &[HOST], &opened(80));
    assert!(!rules(&lab).contains("--ctstate") && !rules(&lab).contains("--state"), "{}", rules(&lab));
    project.apply(&lab, &[]).expect(0);
    // What is let pass for their sake is no drift.
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    flows.live("after the first apply");
    // Nor is it lost by a second apply or a rollback, while the idle ones are still silent.
    let before = lab.dump(HOST);
    project.all(&failing(81));
    project.apply(&lab, &[]).expect(4);
    same(&before, &lab.dump(HOST), "after a rollback");
    project.all(&opened(81));
    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    flows.all_live("after the second apply");
    // A new connection to the host's own port of that number does not ride along.
    let knock = lab.exec(&["nc", "-z", "-w", "1", &lab.address(HOST), "3260"]);
    assert!(!knock.success(), "a new connection passes");
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert!(!rules(&lab).contains("KVMFW"), "something of ours is left: {}", rules(&lab));
    flows.live("after the undo");
}

#[test]
fn t27_open_connections_survive_the_first_conntrack_rule() {
    survive(Backend::Nft);
}

#[test]
fn t27_open_connections_survive_the_first_conntrack_rule_on_legacy() {
    survive(Backend::Legacy);
}

/// They live through a first apply that is rolled back, which leaves nothing behind.
#[test]
fn t27_open_connections_survive_a_rollback_of_the_first_conntrack_rule() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let flows = Flows::open(&lab);
    let project = Project::new(&lab, &[HOST], &failing(80));
    let before = lab.dump_without(HOST, &["/proc/sys/net/netfilter"]);
    project.apply(&lab, &[]).expect(4);
    same(&before, &lab.dump_without(HOST, &["/proc/sys/net/netfilter"]), "after a rollback");
    assert!(newest(&lab, HOST).is_some());
    flows.all_live("after the rollback");
}

/// The measure: the very rules without care do cut what only hears and what is idle.
#[test]
fn t27_without_the_warm_up_they_die() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let flows = Flows::open(&lab);
    let text = "*filter\n-A INPUT -m state --state ESTABLISHED -j ACCEPT\n-A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n";
    fs::write(lab.disk(HOST, "/root/rules"), text).unwrap();
    lab.host(HOST, &["iptables-restore", "/root/rules"]).ok();
    fs::write(&flows.go, "").unwrap();
    let idle = &flows.files.iter().find(|(name, _)| name == "idle-4").unwrap().1;
    // The other family has no rules: when its idle connection has brought a lot, this one had its chance.
    let other = &flows.files.iter().find(|(name, _)| name == "idle-6").unwrap().1;
    wait("a lot from the other family", Duration::from_secs(20), || (size(other) > 50).then_some(()));
    assert_eq!(size(idle), 0, "an idle connection lived on by itself");
}
