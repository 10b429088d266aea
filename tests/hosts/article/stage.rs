//! One host of the lab with everybody who talks over it, and what can be asked of them.

use crate::article::forecast::{dark, silent};
use crate::article::python::Python;
use crate::common::project::{Project, Run};
use crate::common::{self, Backend, Builder, Lab};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub const CURES: [&str; 3] = ["bridge-accept-each", "bridge-accept-physdev", "bridge-bypass"];
const G0: [&str; 2] = ["192.168.1.1", "fd00:1::1"];
pub const G1: [&str; 2] = ["192.168.1.2", "fd00:1::2"];
pub const NEIGHBOUR: [&str; 2] = ["192.168.1.53", "fd00:1::53"];
const HOST: [&str; 2] = ["192.168.1.254", "fd00:1::fe"];

const SERVE: &str = include_str!("serve.py");
const ASK: &str = include_str!("ask.py");
const FLOWS: &str = include_str!("flows.py");

const OUTAGE: [&str; 2] = ["--accept-risk", "guests-unreachable"];

/// A lab of one host with a project for it; somebody answers in both guests, at the neighbour and on
/// the host.
pub struct Stage {
    listeners: Vec<Python>,
    pub project: Project,
    pub lab: Lab,
    /// No flow has a source port that an earlier one had.
    next_port: AtomicU16,
}

impl Stage {
    #[track_caller]
    pub fn up(backend: Backend, builder: Builder) -> Option<Self> {
        if !common::require_root() {
            return None;
        }
        let lab = builder.backend(backend).up();
        for tool in ["iptables", "ip6tables"] {
            let found = lab.host("kvm1", &[tool, "-V"]).ok();
            println!("on the host: {}", found.trim());
            let wanted = match backend {
                Backend::Nft => "nf_tables",
                Backend::Legacy => "legacy",
            };
            assert!(found.contains(wanted), "{tool} on the host is {found}, not {wanted}");
        }
        let project = Project::new(&lab, &["kvm1"], "modules: []\n");
        let mut stage = Self { listeners: Vec::new(), project, lab, next_port: AtomicU16::new(10_000) };
        stage.listen();
        Some(stage)
    }

    pub fn listen(&mut self) {
        self.listeners = vec![
            self.python("g0", SERVE, &["7"]),
            self.python("g1", SERVE, &["7"]),
            self.python("host", SERVE, &["8080"]),
            self.python("neighbour", SERVE, &["53"]),
        ];
    }

    /// Starts Python at a place and waits for its first line, which says that it is ready.
    #[track_caller]
    pub fn python(&self, place: &str, code: &str, args: &[&str]) -> Python {
        let mut command = match place {
            "host" => self.lab.host_command("kvm1"),
            "neighbour" => self.lab.neighbour_command("kvm1"),
            guest => self.lab.guest_command("kvm1", guest),
        };
        command.args(["python3", "-c", code]).args(args);
        Python::start(command)
    }

    pub fn modules(&self, modules: &[&str]) {
        self.modules_of(modules, "bridges: { br123: { manage: false } }\n");
    }

    pub fn modules_of(&self, modules: &[&str], more: &str) {
        self.project.all(&format!("modules: [{}]\n{more}", modules.join(", ")));
    }

    pub fn kvmfw(&self, args: &[&str]) -> Run {
        self.project.kvmfw(&self.lab, args)
    }

    pub fn plan(&self, more: &[&str]) -> Run {
        let mut args = vec!["plan", "--format", "json"];
        args.extend(more);
        self.kvmfw(&args)
    }

    /// Applies, and returns the run's name.
    #[track_caller]
    pub fn apply(&self) -> String {
        self.apply_with(&[])
    }

    /// Applies what cuts guests off: refused until that is accepted.
    #[track_caller]
    pub fn apply_outage(&self) -> String {
        let refused = self.project.apply(&self.lab, &[]).expect(7);
        assert!(refused.stdout.contains("--accept-risk guests-unreachable"), "{}", refused.stdout);
        self.apply_with(&OUTAGE)
    }

    #[track_caller]
    fn apply_with(&self, more: &[&str]) -> String {
        let run = self.project.apply(&self.lab, more).expect(0);
        assert!(run.stdout.contains("changed         1   kvm1"), "{}{}", run.stdout, run.stderr);
        run.run()
    }

    #[track_caller]
    pub fn undo(&self, run: &str) {
        self.kvmfw(&["undo", run, "-y"]).expect(0);
    }

    /// The same of an undo.
    #[track_caller]
    pub fn undo_outage(&self, run: &str) {
        let refused = self.kvmfw(&["undo", run, "-y"]).expect(7);
        assert!(refused.stdout.contains("--accept-risk guests-unreachable"), "{}", refused.stdout);
        self.kvmfw(&[&["undo", run, "-y"][..], &OUTAGE].concat()).expect(0);
    }

    /// The host's state.
    pub fn dump(&self) -> String {
        settled(&self.lab.dump("kvm1"))
    }

    /// The host's state less our own record of it.
    pub fn kept(&self) -> String {
        settled(&self.lab.dump_without("kvm1", &["/etc/kvmfw"]))
    }

    /// Power off, power on, and whoever listened does so again.
    #[track_caller]
    pub fn power_cut(&mut self) {
        self.listeners.clear();
        self.lab.power_cut("kvm1");
        self.lab.boot("kvm1");
        self.listen();
    }

    #[track_caller]
    pub fn same(&self, is: &str, was: &str, when: &str) {
        assert!(
            is == was,
            "{when}, not as before:\n{}\nconsole: {}",
            difference(was, is),
            self.lab.console("kvm1")
        );
    }

    /// What comes of new flows from a place, a line each.
    #[track_caller]
    pub fn ask(&self, place: &str, questions: &[String]) -> String {
        let many = u16::try_from(questions.len()).unwrap();
        let first = self.next_port.fetch_add(many, Ordering::Relaxed);
        assert!(first < 32_000, "out of ports");
        let first = first.to_string();
        let mut command = vec!["python3", "-c", ASK, &first];
        command.extend(questions.iter().map(String::as_str));
        match place {
            "neighbour" => self.lab.neighbour("kvm1", &command).ok(),
            guest => self.lab.guest("kvm1", guest, &command).ok(),
        }
    }

    /// New flows of both kinds and families between guests, and both ways past the bridge's uplink.
    #[track_caller]
    pub fn ask_all(&self) -> String {
        let both = |addresses: [&'static str; 2], port: u16| {
            addresses.into_iter().flat_map(move |a| ["tcp", "udp"].map(|kind| format!("{kind} {a} {port}")))
        };
        let from_g0: Vec<String> = both(G1, 7).chain(both(NEIGHBOUR, 53)).collect();
        let from_neighbour: Vec<String> = both(G0, 7).chain(both(G1, 7)).collect();
        let answers = std::thread::scope(|scope| {
            let inner = scope.spawn(|| self.ask("g0", &from_g0));
            let outer = self.ask("neighbour", &from_neighbour);
            inner.join().expect("g0 asks") + &outer
        });
        assert_eq!(answers.lines().count(), 16, "{answers}");
        answers
    }

    /// (a). Waits a little: v6 may still be at neighbour discovery.
    #[track_caller]
    pub fn guests_are_reachable(&self, when: &str) {
        let mut answers = String::new();
        eventually(&format!("{when}: guests are reachable"), || {
            answers = self.ask_all();
            if answers.lines().all(|l| l.ends_with(" answered")) { Ok(()) } else { Err(answers.clone()) }
        });
    }

    /// (b). Not one new flow gets through; pings do, as the ruleset says.
    #[track_caller]
    pub fn guests_are_dark(&self, when: &str) {
        let answers = self.ask_all();
        assert!(!answers.lines().any(|l| l.ends_with(" answered")), "{when}: not all dark:\n{answers}");
        for address in G1 {
            assert!(self.lab.guest_ping("kvm1", "g0", address), "{when}: ICMP to {address} is accepted");
        }
    }

    /// (e). On these ports and on no other; SSH and ICMP for real.
    #[track_caller]
    pub fn host_answers(&self, open: &[u16], when: &str) {
        let questions: Vec<String> =
            HOST.iter().flat_map(|a| [8080, 22].map(|p| format!("tcp {a} {p}"))).collect();
        eventually(&format!("{when}: of 8080 and 22, open are {open:?}"), || {
            let answers = self.ask("neighbour", &questions);
            let as_told = |line: &str| {
                let is_open = open.iter().any(|p| line.contains(&format!(" {p} ")));
                assert!(is_open || !line.ends_with(" answered"), "{when}: {line}");
                // Rejected, not dropped.
                let rejected = line.ends_with("No route to host") || line.ends_with("Permission denied");
                if is_open { line.ends_with(" answered") } else { rejected }
            };
            if answers.lines().all(as_told) { Ok(()) } else { Err(answers) }
        });
        for address in HOST {
            let ping = self.lab.neighbour("kvm1", &["ping", "-n", "-c1", "-W1", address]);
            assert!(ping.success(), "{when}: ping {address}: {}", ping.stdout);
        }
        let config = self.lab.dir().join("ssh_config");
        let ssh = self.lab.exec(&["ssh", "-F", config.to_str().unwrap(), "kvm1", "uname", "-n"]);
        assert_eq!(ssh.ok(), "kvm1\n", "{when}: over SSH");
    }

    /// Copies of the module under other names, in the project: the forecast is about rules.
    pub fn forecast_does_not_go_by_names(&self) {
        let shipped = include_str!("../../../modules/host-firewall/module.yaml");
        self.project.module("office-rules", &shipped.replace("RH-Firewall-1-INPUT", "STAFF-ONLY"));
        let list = |cure: Option<&str>| {
            let modules: Vec<&str> = ["office-rules"].into_iter().chain(cure).collect();
            self.modules_of(
                &modules,
                "params: { office-rules: { allow_tcp: [22] } }\nbridges: { br123: { manage: false } }\n",
            );
            self.plan(&[]).expect(if cure.is_some() { 0 } else { 7 })
        };
        let plan = list(None);
        for family in ["IPv4", "IPv6"] {
            let warning = dark(&plan, "br123", family);
            assert!(warning.0.contains("filter/STAFF-ONLY rule 5 `-j REJECT"), "{warning:?}");
            assert!(warning.1.contains("modules/office-rules/module.yaml:"), "{warning:?}");
        }
        for cure in CURES {
            silent(&list(Some(cure)), cure);
        }
    }

    /// (c), the lines themselves.
    #[track_caller]
    pub fn log_shows_the_bridge(&self) {
        for (neighbour, family) in NEIGHBOUR.into_iter().zip(["v4", "v6"]) {
            self.ask("g0", &[format!("udp {neighbour} 53")]);
            let source = if family == "v4" { "SRC=192.168.1.1 " } else { "SRC=fd00:0001:" };
            eventually(&format!("the kernel log tells of the {family} datagram"), || {
                let log = self.lab.klog("kvm1");
                let said = log.lines().any(|l| {
                    l.contains("Firewall FORWARD: IN=br123 OUT=br123 PHYSIN=vnet0 PHYSOUT=eth1 ")
                        && l.contains(source)
                        && l.contains(" PROTO=UDP ")
                        && l.contains(" DPT=53 ")
                });
                if said { Ok(()) } else { Err(log) }
            });
        }
    }

    /// (c), where the rules stand.
    #[track_caller]
    pub fn log_rules_and_hooks_come_first(&self) {
        for tool in ["iptables", "ip6tables"] {
            for chain in ["INPUT", "FORWARD"] {
                let first = |chain: &str| {
                    let rules = self.lab.host("kvm1", &[tool, "-S", chain]).ok();
                    rules.lines().find(|l| l.starts_with("-A")).unwrap_or_default().to_owned()
                };
                let (hook, log) = (first(chain), first(&format!("KVMFW-{chain}")));
                assert!(hook.ends_with(&format!("-j KVMFW-{chain}")), "{tool} {chain} begins with {hook}");
                let wanted = format!("-A KVMFW-{chain} -j LOG --log-prefix \"Firewall {chain}: \"");
                assert_eq!(log, wanted, "{tool} KVMFW-{chain}");
            }
        }
    }

    /// New flows from one guest to the other, all the time.
    pub fn flows(&self) -> Python {
        let mut args = vec!["7"];
        args.extend(G1);
        self.python("g0", FLOWS, &args)
    }
}

/// Tries again until it is so, for five seconds.
#[track_caller]
fn eventually(what: &str, mut so: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    loop {
        match so() {
            Ok(()) => return,
            Err(seen) => {
                assert!(
                    start.elapsed() < Duration::from_secs(5),
                    "not within 5 s: {what}; last seen:\n{seen}"
                );
            }
        }
    }
}

/// A dump less the tables of the legacy backend that hold nothing and accept everything: the kernel makes
/// such a table when it is first asked for, and has no way to unmake it.
fn settled(dump: &str) -> String {
    common::without_empty_tables(dump).join("\n") + "\n"
}

/// The lines that two texts do not share.
fn difference(was: &str, is: &str) -> String {
    similar::TextDiff::from_lines(was, is).unified_diff().context_radius(0).to_string()
}
