//! What may go wrong, and when.

use crate::common::Cut;
use crate::host::{HOST, Host};
use std::fmt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

macro_rules! names {
    ($(#[$doc_all:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc_all])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant),* }
        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $text),* } }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(self.name()) }
        }
    };
}

pub(crate) use names;

names!(Fault {
    Controller = "controller killed",
    Session = "sshd session killed",
    Guard = "one guard killed",
    Guards = "both guards killed",
    Stopped = "one guard stopped",
    Apply = "apply child killed",
    Hangs = "apply hangs",
    CutBoth = "link cut both ways",
    CutTo = "link cut to the host",
    CutFrom = "link cut from the host",
    CutNew = "new connections dropped",
    Delay = "link delayed both ways",
    DelayFrom = "answers delayed",
    Power = "power cut",
    DiskHangs = "disk hangs",
    DiskFull = "disk full",
    ReadOnly = "/etc read-only",
    Xtables = "xtables lock held",
    Foreign = "foreign writer",
    Tap = "guest started",
    Contrary = "decided otherwise at the console",
    Second = "second controller",
    Stale = "stale conntrack entries",
});

names!(Step {
    Staging = "staging",
    Recorded = "recorded",
    Staged = "staged",
    Armed = "armed",
    Claimed = "claimed",
    Rules = "rules v4",
    Rules6 = "rules v6",
    Closing = "closing keys",
    Result = "result",
    Applied = "applied",
    Decided = "decided",
    Over = "over",
});

impl Step {
    /// Whether the transaction in this folder has come so far.
    pub fn reached(self, t: &Path) -> bool {
        let journal = |word: &str| {
            std::fs::read_to_string(t.join("journal"))
                .is_ok_and(|j| j.lines().any(|l| l.split_once(' ').is_some_and(|(_, s)| s == word)))
        };
        match self {
            Step::Staging => t.join("ssh").exists(),
            Step::Recorded => t.join("generation").exists(),
            Step::Staged => t.join("pre/tables6").exists(),
            Step::Armed => t.join("armed").exists(),
            Step::Claimed => t.join("claim").exists(),
            Step::Rules => journal("iptables"),
            Step::Rules6 => journal("ip6tables"),
            Step::Closing => journal("sysctl, closing"),
            Step::Result => t.join("result").exists(),
            Step::Applied => t.join("applied").exists(),
            Step::Decided => t.join("decision").exists(),
            Step::Over => t.join("done").exists(),
        }
    }
}

impl Step {
    /// The last one that this transaction came to.
    pub fn last(t: &Path) -> Option<Self> {
        Self::ALL.iter().rev().copied().find(|step| step.reached(t))
    }
}

impl Fault {
    /// Steps at which it can be done.
    pub fn steps(self) -> &'static [Step] {
        match self {
            // The disk is to fill up after the host has promised to end it.
            Fault::DiskFull | Fault::ReadOnly => &Step::ALL[3..],
            Fault::Xtables => &Step::ALL[..9],
            Fault::Apply | Fault::Hangs => &Step::ALL[4..8],
            // Who was first has decided; before the change is there only the guard decides.
            Fault::Contrary => &[Step::Applied, Step::Decided],
            _ => Step::ALL,
        }
    }

    /// What has to stand before the run begins.
    pub fn prepare(self, host: &Host) {
        match self {
            Fault::DiskFull => {
                host.sh("mkdir -p /var/lib/kvmfw && mkdir /run/small && mount -t tmpfs -o size=32m,mode=700 small /run/small && cp -a /var/lib/kvmfw/. /run/small && mount --move /run/small /var/lib/kvmfw").ok();
            }
            Fault::ReadOnly => {
                host.sh("mount --bind /etc /etc").ok();
            }
            Fault::Stale => {
                host.lab.exec(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40015"]).ok();
            }
            _ => {}
        }
    }

    /// Does it. The host's own processes stand still meanwhile; returns those that go on doing so.
    pub fn strike(self, host: &Host, t: &Path, kvmfw: &mut Child) -> Vec<u32> {
        let id = t.file_name().unwrap().to_string_lossy().into_owned();
        match self {
            Fault::Controller => {
                let _ = kvmfw.kill();
            }
            Fault::Session => {
                let mut all = host.processes("sshd-session: ");
                all.extend(host.processes("sshd: root"));
                if host.services {
                    // With all that it started, as a login manager does.
                    all.extend(host.in_sessions());
                }
                host.signal("-KILL", &all);
            }
            Fault::Guard => kill_guard(host, &id),
            Fault::Guards => host.signal("-KILL", &host.processes(&format!("/kvmfw.sh guard {id}"))),
            Fault::Stopped => return acting_guard(host, &id).into_iter().collect(),
            Fault::Apply => host.signal("-KILL", &host.processes(&format!("/kvmfw.sh apply {id}"))),
            Fault::Hangs => return host.processes(&format!("/kvmfw.sh apply {id}")),
            Fault::CutBoth => host.lab.cut(HOST, Cut::Both),
            Fault::CutTo => host.lab.cut(HOST, Cut::To),
            Fault::CutFrom => host.lab.cut(HOST, Cut::From),
            Fault::CutNew => host.lab.cut(HOST, Cut::New),
            // Without netem: slower than the timeouts allow for a while, then there again.
            Fault::Delay | Fault::DelayFrom => {
                host.sh(&format!("tc qdisc replace dev eth0 root {SLOW}")).ok();
                if self == Fault::Delay {
                    let slow = format!("tc qdisc replace dev {HOST} root {SLOW}");
                    host.lab.exec(&["sh", "-c", &slow]).ok();
                }
            }
            Fault::Power => host.lab.power_cut(HOST),
            Fault::DiskHangs => freeze(host, "-f"),
            Fault::DiskFull => {
                host.sh("cat /dev/zero >/var/lib/kvmfw/filler 2>/dev/null; true").ok();
            }
            Fault::ReadOnly => {
                // Somebody may have a file open for writing at this very moment.
                host.sh("for i in $(seq 100); do mount -o remount,ro,bind /etc 2>/dev/null && exit 0; sleep 0.01; done; exit 0").ok();
            }
            Fault::Xtables => {
                host.sh("setsid flock /run/xtables.lock sleep 777 </dev/null >/dev/null 2>&1 & for i in $(seq 100); do flock -n /run/xtables.lock true || exit 0; sleep 0.01; done; exit 0").ok();
            }
            Fault::Foreign => {
                host.sh("for i in iptables ip6tables; do $i -w 10 -I FORWARD -m comment --comment somebody -j ACCEPT || exit 1; done").ok();
            }
            Fault::Tap => {
                host.sh("ip link add tap9 type veth peer name tap9p && for b in br9 br123; do ip link set tap9 master $b up 2>/dev/null && exit 0; done; exit 1").ok();
            }
            Fault::Contrary => {
                let rolls_back = fs_word(t, "decision") == "rollback";
                let command = if rolls_back { "confirm" } else { "rollback" };
                host.console(command, &id);
                // Past its decision it waits for the guard; who takes over finds whatever there is.
                let waits = || !host.processes(&format!("flock /run/kvmfw/{id}/guard.lock")).is_empty();
                assert!(wait(Duration::from_secs(20), waits), "the console's {command} did not come to wait");
                kill_guard(host, &id);
            }
            Fault::Second => {}
            Fault::Stale => {
                host.sh("for p in $(seq 40000 40015); do conntrack -I -p tcp -s 10.99.0.1 -d 10.99.0.11 --sport $p --dport 22 --state ESTABLISHED -t 300 -u SEEN_REPLY,ASSURED; done 2>/dev/null; true").ok();
            }
        }
        Vec::new()
    }

    /// Whether it goes on until [`Fault::mend`].
    pub fn lasts(self) -> bool {
        use Fault::{CutBoth, CutFrom, CutNew, CutTo, Delay, DelayFrom};
        use Fault::{DiskFull, DiskHangs, Hangs, ReadOnly, Stopped, Xtables};
        let of_link = matches!(self, CutBoth | CutTo | CutFrom | CutNew | Delay | DelayFrom);
        of_link || matches!(self, DiskFull | DiskHangs | Hangs | ReadOnly | Stopped | Xtables)
    }

    /// Ends it.
    pub fn mend(self, host: &Host) {
        match self {
            Fault::Hangs => host.signal("-CONT", &host.processes("/kvmfw.sh apply ")),
            Fault::Stopped => host.signal("-CONT", &host.processes("/kvmfw.sh guard ")),
            Fault::DiskHangs => freeze(host, "-u"),
            Fault::CutBoth | Fault::CutTo | Fault::CutFrom | Fault::CutNew => host.lab.mend(HOST),
            Fault::Delay | Fault::DelayFrom => {
                host.sh("tc qdisc del dev eth0 root").ok();
                if self == Fault::Delay {
                    host.lab.exec(&["tc", "qdisc", "del", "dev", HOST, "root"]).ok();
                }
            }
            Fault::DiskFull => {
                host.sh("rm -f /var/lib/kvmfw/filler").ok();
            }
            Fault::ReadOnly => {
                host.sh("mount -o remount,rw,bind /etc").ok();
            }
            Fault::Xtables => host.signal("-KILL", &host.processes("sleep 777")),
            _ => {}
        }
    }

    /// Takes away what [`Fault::prepare`] put there, and what it did if it `struck`; after the transaction.
    pub fn clear(self, host: &Host, struck: bool) {
        match self {
            Fault::DiskFull => {
                host.sh("mkdir -p /run/small && mount --move /var/lib/kvmfw /run/small && rm -rf /var/lib/kvmfw/* && cp -a /run/small/. /var/lib/kvmfw && sync -f /var/lib/kvmfw && umount -l /run/small && rmdir /run/small").ok();
            }
            Fault::ReadOnly => {
                host.sh("umount -l /etc").ok();
            }
            Fault::Stale => {
                host.lab.exec(&["sysctl", "-qw", "net.ipv4.ip_local_port_range=32768 60999"]).ok();
                host.sh("conntrack -D -p tcp --dport 22 >/dev/null 2>&1; true").ok();
            }
            Fault::Foreign if struck => {
                host.sh("for i in iptables ip6tables; do $i -w 10 -D FORWARD -m comment --comment somebody -j ACCEPT || exit 1; done").ok();
            }
            Fault::Tap => {
                // What the guests of a host hang on is not for us to take away. A bridge that was never made to last goes,
                // and then that is said.
                host.sh("[ ! -e /sys/class/net/tap9 ] || { ip -o link show tap9 | grep -q ' master ' || grep -qs 'tap9 has become a port of br9, which went with this change' /var/lib/kvmfw/txn/*/reason || { ip -o link show tap9; exit 1; }; ip link del tap9; }").ok();
            }
            _ => {}
        }
    }
}

/// Slower than anything needs.
const SLOW: &str = "tbf rate 64kbit burst 4kb limit 200kb";

/// The guard that holds the lock.
fn acting_guard(host: &Host, id: &str) -> Option<u32> {
    let holds =
        |pid: &u32| std::fs::read_link(format!("/proc/{pid}/fd/9")).is_ok_and(|p| p.ends_with("kvmfw/lock"));
    host.processes(&format!("/kvmfw.sh guard {id}")).into_iter().find(holds)
}

fn kill_guard(host: &Host, id: &str) {
    host.signal("-KILL", &acting_guard(host, id).into_iter().collect::<Vec<_>>());
}

/// The disk of the host: whoever writes to it waits in the kernel, where no signal reaches it.
fn freeze(host: &Host, how: &str) {
    let disk = host.lab.disk(HOST, "/");
    assert!(Command::new("fsfreeze").arg(how).arg(&disk).status().unwrap().success(), "fsfreeze {how}");
}

fn fs_word(t: &Path, file: &str) -> String {
    std::fs::read_to_string(t.join(file)).unwrap_or_default().trim().to_owned()
}

/// Waits for something to become so.
pub fn wait(limit: Duration, so: impl FnMut() -> bool) -> bool {
    poll(limit, Duration::from_micros(500), so)
}

/// The same for what may take seconds and is looked for among all processes: looking shall not keep the machine busy.
pub fn wait_for_end(limit: Duration, so: impl FnMut() -> bool) -> bool {
    poll(limit, Duration::from_millis(20), so)
}

fn poll(limit: Duration, interval: Duration, mut so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !so() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(interval);
    }
    true
}
