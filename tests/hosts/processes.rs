//! How many processes kvmfw starts on a host. On a host each is most of a millisecond of CPU, and a fleet waits
//! for all of them; so they are counted, and nothing here looks at a clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::Project;
use common::trace::trace;
use common::transaction::wait;
use std::fmt::Write;
use std::time::Duration;

const HOST: &str = "kvm1";

/// The work of the benchmark (`benches/fleet.py`): the article's ruleset, 100 rules, three keys, one bridge.
fn work() -> String {
    let mut text = String::from(
        "modules: [host-firewall, firewall-log, bridge-accept-each]\nbridges: { br123: { stp: false } }\n\
         sysctl:\n  60-bridge:\n    net.bridge.bridge-nf-call-iptables: 1\n    net.bridge.bridge-nf-call-ip6tables: 1\n    \
         net.bridge.bridge-nf-call-arptables: 0\niptables:\n  filter:\n    INPUT:\n      rules: |\n",
    );
    for n in 0..100 {
        writeln!(text, "        -s 10.{n}.0.0/16 -p tcp -m tcp --dport {} -j ACCEPT", 1000 + n).unwrap();
    }
    text
}

/// The processes that a run started on the host, those of sshd among them, once the last of its guards is gone.
fn started(lab: &Lab, run: impl FnOnce()) -> usize {
    let trace = trace(lab, HOST, "clone,clone3,fork,vfork");
    run();
    let guards = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'kvmfw.sh [g]uard'";
    wait("the guards to end", Duration::from_secs(60), || {
        (lab.host(HOST, &["sh", "-c", guards]).stdout.trim() == "0").then_some(())
    });
    let calls = trace.end();
    // The parent's line: `clone(…) = 4711`, or the rest of it, `<... clone resumed>…) = 4711`.
    calls
        .lines()
        .filter_map(|line| line.rsplit_once(" = "))
        .filter(|(call, pid)| !call.contains("CLONE_THREAD") && pid.parse::<u32>().is_ok_and(|pid| pid > 0))
        .count()
}

fn kept_file(lab: &Lab, path: &str) -> String {
    lab.host(HOST, &["cat", &format!("/etc/kvmfw/{path}")]).ok()
}

/// Some room is left: sshd and the machine's own files under /etc have a part in it, and a busy machine waits some turns longer. An apply has some twenty more than it once
/// had: it records what links have beside addresses, compares that after a rollback, and resolves its neighbours again. Ten more keep a guard apart from what can hang: the copy in
/// memory and its comparison, the question to the disk, and the process that does the guard's work beside the clock for it.
#[test]
fn a_plan_and_an_apply_start_few_processes() {
    if !common::require_root() || !common::require_tools(&["strace"]) {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], &work());
    let told = |what: &str, most: usize, count: usize| {
        eprintln!("{what}: {count} processes");
        assert!(count > 10, "{what}: the trace saw only {count} processes");
        assert!(count <= most, "{what}: {count} processes, and {most} are enough");
    };
    let plan = |pending| drop(project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(pending));
    told("first plan", 45, started(&lab, || plan(2)));
    // Of these, three ask the disk of /etc whether it takes a commit, and the one of /var as well.
    told("first apply", 208, started(&lab, || drop(project.apply(&lab, &[]).expect(0))));
    told("plan, nothing to do", 25, started(&lab, || plan(0)));
    told("apply, nothing to do", 25, started(&lab, || drop(project.apply(&lab, &[]).expect(0))));
    // One rule of one family: the other is not proven anew.
    project.all(&work().replace("--dport 1050 ", "--dport 9050 "));
    told("apply of one rule", 181, started(&lab, || drop(project.apply(&lab, &[]).expect(0))));
    told("plan after it", 25, started(&lab, || plan(0)));
    let rules = |number| kept_file(&lab, &format!("generations/{number}/rules.v6"));
    assert!(rules(2).contains("-A KVMFW-INPUT"), "{}", rules(2));
    assert_eq!(rules(1), rules(2), "what was proven goes along");
}
