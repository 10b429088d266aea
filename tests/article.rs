//! The article this project starts from, as one test that must never break: a firewall on the host takes
//! its bridged guests off the net, and each of three cures brings them back.
//!
//! On real hosts of the lab, over v4 and v6 at once, on both backends of iptables. "Reachable" is a new
//! TCP connection and a new UDP flow, never a ping: the classic ruleset accepts all ICMP, so guests that
//! are off the net still answer pings.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::project::{Project, Run};
use common::{Backend, Builder, Lab, SysctlOrder};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const CURES: [&str; 3] = ["bridge-accept-each", "bridge-accept-physdev", "bridge-bypass"];
const G0: [&str; 2] = ["192.168.1.1", "fd00:1::1"];
const G1: [&str; 2] = ["192.168.1.2", "fd00:1::2"];
const NEIGHBOUR: [&str; 2] = ["192.168.1.53", "fd00:1::53"];
const HOST: [&str; 2] = ["192.168.1.254", "fd00:1::fe"];

const SERVE: &str = include_str!("article/serve.py");
const ASK: &str = include_str!("article/ask.py");
const FLOWS: &str = include_str!("article/flows.py");
const FRAGMENTS: &str = include_str!("article/fragments.py");

// --- the tests --------------------------------------------------------------------------------------

#[test]
fn the_story_nft() {
    story(Backend::Nft);
}

#[test]
fn the_story_legacy() {
    story(Backend::Legacy);
}

#[test]
fn every_cure_in_every_order_nft() {
    cures(Backend::Nft);
}

#[test]
fn every_cure_in_every_order_legacy() {
    cures(Backend::Legacy);
}

#[test]
fn fragments_cross_tenants_unless_bridges_are_bypassed_nft() {
    fragments(Backend::Nft);
}

#[test]
fn fragments_cross_tenants_unless_bridges_are_bypassed_legacy() {
    fragments(Backend::Legacy);
}

#[test]
fn a_power_cut_changes_nothing_nft() {
    power_cut(Backend::Nft, SysctlOrder::Systemd, false);
}

#[test]
fn a_power_cut_changes_nothing_legacy() {
    power_cut(Backend::Legacy, SysctlOrder::Procps, false);
}

#[test]
fn a_power_cut_changes_nothing_beside_netfilter_persistent_nft() {
    power_cut(Backend::Nft, SysctlOrder::Procps, true);
}

#[test]
fn a_power_cut_changes_nothing_beside_netfilter_persistent_legacy() {
    power_cut(Backend::Legacy, SysctlOrder::Systemd, true);
}

/// (a) to (f): from a host without a firewall to the outage, its log line, and back.
fn story(backend: Backend) {
    let Some(stage) = Stage::up(backend, Lab::builder()) else { return };
    let original = stage.dump();
    stage.guests_are_reachable("before anything");
    stage.host_answers(&[8080, 22], "before anything");

    // Predicted, with the rule and where it is written.
    stage.modules(&["host-firewall"]);
    let plan = stage.plan(&[]).expect(0);
    let shipped =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/modules/host-firewall/module.yaml"))
            .unwrap();
    let line_of = |text: &str| 1 + shipped.lines().position(|l| l.contains(text)).unwrap();
    for (family, rule) in [
        ("IPv4", "-j REJECT --reject-with icmp-host-prohibited"),
        ("IPv6", "-j REJECT --reject-with icmp6-adm-prohibited"),
    ] {
        let warning = dark(&plan, "br123", family);
        assert!(warning.0.contains(&format!("filter/RH-Firewall-1-INPUT rule 5 `{rule}`")), "{warning:?}");
        let place = format!("host-firewall/module.yaml:{}", line_of(rule));
        assert!(warning.1.ends_with(&place), "not {place}: {warning:?}");
    }
    for cure in CURES {
        stage.modules(&["host-firewall", cure]);
        silent(&stage.plan(&[]).expect(0), cure);
    }
    stage.forecast_does_not_go_by_names();
    stage.same(&stage.dump(), &original, "plans change nothing");

    // It happens.
    stage.modules(&["host-firewall"]);
    let firewall = stage.apply();
    stage.guests_are_dark("host-firewall");
    stage.host_answers(&[22], "host-firewall");
    let dark_plan = stage.plan(&[]).expect(0);
    assert!(dark(&dark_plan, "br123", "IPv4").0.contains("are unreachable"), "{}", dark_plan.stdout);

    // The log says who.
    let with_firewall = stage.kept();
    stage.modules(&["host-firewall", "firewall-log"]);
    let log = stage.apply();
    stage.guests_are_dark("host-firewall, firewall-log");
    stage.log_shows_the_bridge();
    stage.log_rules_and_hooks_come_first();

    // Each cure, and back.
    let with_log = stage.kept();
    for cure in CURES {
        stage.modules(&["host-firewall", "firewall-log", cure]);
        silent(&stage.plan(&[]).expect(0), cure);
        let run = stage.apply();
        stage.guests_are_reachable(cure);
        stage.host_answers(&[22], cure);
        stage.undo(&run);
        stage.same(&stage.kept(), &with_log, &format!("undo of {cure}"));
        stage.guests_are_dark("undo of a cure");
    }
    stage.undo(&log);
    stage.same(&stage.kept(), &with_firewall, "undo of firewall-log");
    stage.undo(&firewall);
    stage.same(&stage.dump(), &original, "undo of the first run leaves no trace");
    stage.guests_are_reachable("undo of the first run");

    // All at once, and to the original in one step.
    stage.modules(&["host-firewall", "firewall-log", "bridge-bypass"]);
    stage.apply();
    stage.kvmfw(&["undo", "--to", "0", "-y"]).expect(0);
    stage.same(&stage.dump(), &original, "undo --to 0 leaves no trace");
    stage.guests_are_reachable("undo --to 0");
    stage.host_answers(&[8080, 22], "undo --to 0");
}

/// (d): every permutation of the modules gives the same host, and no change from one cure to another
/// costs a packet.
fn cures(backend: Backend) {
    let Some(stage) = Stage::up(backend, Lab::builder()) else { return };
    let orders = |cure| {
        let [a, b, c] = ["host-firewall", "firewall-log", cure];
        [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]]
    };
    let [each, physdev, bypass] = CURES;
    // That the measure sees an outage where there is one.
    let flows = stage.flows();
    stage.modules(&["host-firewall"]);
    stage.apply();
    let lost = flows.lost();
    assert!(!lost.is_empty(), "an outage, and no flow was lost");
    stage.modules(&orders(each)[0]);
    stage.apply();
    // Every ordered pair of cures once, each time in another order of the modules.
    for (n, (from, to)) in [
        (each, physdev),
        (physdev, bypass),
        (bypass, each),
        (each, bypass),
        (bypass, physdev),
        (physdev, each),
    ]
    .into_iter()
    .enumerate()
    {
        stage.modules(&orders(to)[n]);
        let pings = [G1[0], G1[1], NEIGHBOUR[0]].map(|to| (to, common::flood(&stage.lab, "kvm1", "g0", to)));
        let flows = stage.flows();
        stage.apply();
        let lost = flows.lost();
        assert!(lost.is_empty(), "from {from} to {to}, flows lost:\n{lost}");
        for (address, flood) in pings {
            let (sent, lost) = flood.stop();
            assert!(sent > 20, "only {sent} pings to {address} from {from} to {to}");
            assert_eq!(lost, 0, "of {sent} pings to {address} from {from} to {to}");
        }
        stage.guests_are_reachable(to);
        if n < 3 {
            for order in orders(to) {
                stage.modules(&order);
                let plan = stage.plan(&["--detailed-exitcode"]);
                assert_eq!(plan.code, 0, "{order:?} after {:?}: {}", orders(to)[n], plan.stdout);
            }
        }
    }
}

/// (g): two tenants with equal addresses on two bridges. One sends the first fragment of a message, the
/// other a whole message in two fragments under the same identification: who gets what?
fn fragments(backend: Backend) {
    let Some(stage) = Stage::up(backend, Lab::builder().bridges(2)) else { return };
    // So that no packet waits for its neighbour's MAC.
    for (guest, address) in [("g0", G1[0]), ("g0", G1[1]), ("g2", G1[0]), ("g2", G1[1])] {
        assert!(stage.lab.guest_ping("kvm1", guest, address), "{guest} reaches {address}");
    }
    let own = "AACC".repeat(14) + &"aacc".repeat(10) + "\n";
    let mixed = "CCAA".repeat(14) + &"aacc".repeat(10) + "\n";
    for (n, cure) in [None, Some(CURES[0]), Some(CURES[1]), Some(CURES[2])].into_iter().enumerate() {
        let modules: Vec<&str> = ["host-firewall"].into_iter().chain(cure).collect();
        stage.modules_of(&modules, "bridges: { br123: { manage: false }, br124: { manage: false } }\n");
        stage.apply();
        for version in ["4", "6"] {
            let mut near = stage.python("g1", FRAGMENTS, &[version, "receive"]);
            let mut far = stage.python("g3", FRAGMENTS, &[version, "receive"]);
            let id = (0x4b00 + n).to_string();
            for (guest, more) in [
                ("g2", vec!["head", id.as_str(), "C"]),
                ("g0", vec!["both", id.as_str(), "A"]),
                ("g2", vec!["end"]),
                ("g0", vec!["end"]),
            ] {
                let mut command = vec!["python3", "-c", FRAGMENTS, version];
                command.extend(more);
                stage.lab.guest("kvm1", guest, &command).ok();
            }
            let got = (near.rest(), far.rest());
            // The kernel takes the two first fragments for one, and the tail for the end of either.
            let wanted = match cure {
                Some("bridge-bypass") => (own.clone(), String::new()),
                _ => (String::new(), mixed.clone()),
            };
            assert_eq!(got, wanted, "under {modules:?}, IPv{version}: (the peer, the other tenant) got");
        }
    }
}

/// (h): what was confirmed is what boots.
fn power_cut(backend: Backend, order: SysctlOrder, persistent: bool) {
    let Some(mut stage) = Stage::up(backend, Lab::builder().sysctl_order(order).persistent(persistent))
    else {
        return;
    };
    if persistent {
        // Foreign rules that its boot reads, with a flush of the table that ours are in too.
        let rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                     -A FORWARD -s 203.0.113.7/32 -j DROP\nCOMMIT\n";
        std::fs::write(stage.lab.disk("kvm1", "/etc/iptables/rules.v4"), rules).unwrap();
        stage.power_cut();
        let there = stage.lab.host("kvm1", &["iptables", "-S", "FORWARD"]).ok();
        assert!(there.contains("203.0.113.7"), "netfilter-persistent loads its file: {there}");
    }
    let original = stage.dump();
    for cure in CURES {
        stage.modules(&["host-firewall", "firewall-log", cure]);
        stage.apply();
        stage.guests_are_reachable(cure);
        let before = stage.dump();
        stage.power_cut();
        stage.same(&stage.dump(), &before, &format!("{cure}, after a power cut"));
        stage.guests_are_reachable(&format!("{cure}, after a power cut"));
        let plan = stage.plan(&["--detailed-exitcode"]);
        assert_eq!(plan.code, 0, "{cure}, after a power cut: {}", plan.stdout);
    }
    stage.kvmfw(&["undo", "--to", "0", "-y"]).expect(0);
    stage.same(&stage.dump(), &original, "undo --to 0");
    stage.power_cut();
    stage.same(&stage.dump(), &original, "undo --to 0 and a power cut");
    stage.guests_are_reachable("undo --to 0 and a power cut");
}

// --- the stage --------------------------------------------------------------------------------------

/// A lab of one host with a project for it; somebody answers in both guests, at the neighbour and on
/// the host.
struct Stage {
    listeners: Vec<Python>,
    project: Project,
    lab: Lab,
    /// No flow has a source port that an earlier one had.
    next_port: AtomicU16,
}

impl Stage {
    #[track_caller]
    fn up(backend: Backend, builder: Builder) -> Option<Self> {
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

    fn listen(&mut self) {
        self.listeners = vec![
            self.python("g0", SERVE, &["7"]),
            self.python("g1", SERVE, &["7"]),
            self.python("host", SERVE, &["8080"]),
            self.python("neighbour", SERVE, &["53"]),
        ];
    }

    /// Starts Python at a place and waits for its first line, which says that it is ready.
    #[track_caller]
    fn python(&self, place: &str, code: &str, args: &[&str]) -> Python {
        let mut command = match place {
            "host" => self.lab.host_command("kvm1"),
            "neighbour" => self.lab.neighbour_command("kvm1"),
            guest => self.lab.guest_command("kvm1", guest),
        };
        command.args(["python3", "-c", code]).args(args);
        Python::start(command)
    }

    fn modules(&self, modules: &[&str]) {
        self.modules_of(modules, "bridges: { br123: { manage: false } }\n");
    }

    fn modules_of(&self, modules: &[&str], more: &str) {
        self.project.all(&format!("modules: [{}]\n{more}", modules.join(", ")));
    }

    fn kvmfw(&self, args: &[&str]) -> Run {
        self.project.kvmfw(&self.lab, args)
    }

    fn plan(&self, more: &[&str]) -> Run {
        let mut args = vec!["plan", "--format", "json"];
        args.extend(more);
        self.kvmfw(&args)
    }

    /// Applies, and returns the run's name.
    #[track_caller]
    fn apply(&self) -> String {
        let run = self.project.apply(&self.lab, &[]).expect(0);
        assert!(run.stdout.contains("changed         1   kvm1"), "{}{}", run.stdout, run.stderr);
        run.run()
    }

    #[track_caller]
    fn undo(&self, run: &str) {
        self.kvmfw(&["undo", run, "-y"]).expect(0);
    }

    /// The host's state.
    fn dump(&self) -> String {
        settled(&self.lab.dump("kvm1"))
    }

    /// The host's state less our own record of it.
    fn kept(&self) -> String {
        settled(&self.lab.dump_without("kvm1", &["/etc/kvmfw"]))
    }

    /// Power off, power on, and whoever listened does so again.
    #[track_caller]
    fn power_cut(&mut self) {
        self.listeners.clear();
        self.lab.power_cut("kvm1");
        self.lab.boot("kvm1");
        self.listen();
    }

    #[track_caller]
    fn same(&self, is: &str, was: &str, when: &str) {
        assert!(
            is == was,
            "{when}, not as before:\n{}\nconsole: {}",
            difference(was, is),
            self.lab.console("kvm1")
        );
    }

    /// What comes of new flows from a place, a line each.
    #[track_caller]
    fn ask(&self, place: &str, questions: &[String]) -> String {
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
    fn ask_all(&self) -> String {
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
    fn guests_are_reachable(&self, when: &str) {
        let mut answers = String::new();
        eventually(&format!("{when}: guests are reachable"), || {
            answers = self.ask_all();
            if answers.lines().all(|l| l.ends_with(" answered")) { Ok(()) } else { Err(answers.clone()) }
        });
    }

    /// (b). Not one new flow gets through; pings do, as the ruleset says.
    #[track_caller]
    fn guests_are_dark(&self, when: &str) {
        let answers = self.ask_all();
        assert!(!answers.lines().any(|l| l.ends_with(" answered")), "{when}: not all dark:\n{answers}");
        for address in G1 {
            assert!(self.lab.guest_ping("kvm1", "g0", address), "{when}: ICMP to {address} is accepted");
        }
    }

    /// (e). On these ports and on no other; SSH and ICMP for real.
    #[track_caller]
    fn host_answers(&self, open: &[u16], when: &str) {
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
    fn forecast_does_not_go_by_names(&self) {
        let shipped = include_str!("../modules/host-firewall/module.yaml");
        self.project.module("office-rules", &shipped.replace("RH-Firewall-1-INPUT", "STAFF-ONLY"));
        let list = |cure: Option<&str>| {
            let modules: Vec<&str> = ["office-rules"].into_iter().chain(cure).collect();
            self.modules_of(
                &modules,
                "params: { office-rules: { allow_tcp: [22] } }\nbridges: { br123: { manage: false } }\n",
            );
            self.plan(&[]).expect(0)
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
    fn log_shows_the_bridge(&self) {
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
    fn log_rules_and_hooks_come_first(&self) {
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
    fn flows(&self) -> Python {
        let mut args = vec!["7"];
        args.extend(G1);
        self.python("g0", FLOWS, &args)
    }
}

// --- small helpers ----------------------------------------------------------------------------------

/// A Python program that runs beside the test, ended on drop.
struct Python {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Python {
    #[track_caller]
    fn start(mut command: Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn().expect("bash runs");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("reads");
        assert_eq!(line, "ready\n", "{command:?}");
        Self { child, stdin, stdout }
    }

    /// Closes its stdin, and returns all it still says.
    fn rest(&mut self) -> String {
        drop(self.stdin.take());
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("reads");
        text
    }

    /// Ends [`Stage::flows`]: those that got no answer, a line each.
    #[track_caller]
    fn lost(mut self) -> String {
        let text = self.rest();
        let begun: u32 = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        assert!(begun > 40, "too few flows to tell: {text}");
        text.lines().skip(1).map(|line| format!("{line}\n")).collect()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}

/// Message and origin of the forecast for a bridge and a family, of which there must be one.
#[track_caller]
fn dark(plan: &Run, bridge: &str, family: &str) -> (String, String) {
    let found: Vec<_> = forecasts(plan)
        .into_iter()
        .filter(|(message, _)| message.contains(bridge) && message.contains(family))
        .collect();
    assert_eq!(found.len(), 1, "forecasts for {bridge} over {family} in {}", plan.stdout);
    found.into_iter().next().unwrap()
}

#[track_caller]
fn silent(plan: &Run, cure: &str) {
    assert!(forecasts(plan).is_empty(), "a forecast in spite of {cure}: {}", plan.stdout);
}

#[track_caller]
fn forecasts(plan: &Run) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let document = plan.json();
    let hosts = document["hosts"].as_array().expect("hosts");
    assert_eq!(hosts.len(), 1, "{}", plan.stdout);
    let warnings = hosts[0]["warnings"].as_array().expect("warnings");
    let dark = warnings.iter().filter(|w| w["code"] == "guests-dark");
    dark.map(|w| (text(&w["message"]), text(&w["origin"]))).collect()
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
    let mut text = String::new();
    let mut legacy = false;
    let mut table = String::new();
    for line in dump.lines() {
        if line.starts_with("== ") {
            legacy = line.ends_with("-legacy");
        }
        if !legacy || line.starts_with("== ") {
            text += &format!("{line}\n");
            continue;
        }
        table += &format!("{line}\n");
        if line == "COMMIT" {
            let empty =
                |l: &str| l.starts_with('*') || l == "COMMIT" || l.starts_with(':') && l.ends_with(" ACCEPT");
            if !table.lines().all(empty) {
                text += &table;
            }
            table.clear();
        }
    }
    text
}

/// The lines that two texts do not share.
fn difference(was: &str, is: &str) -> String {
    similar::TextDiff::from_lines(was, is).unified_diff().context_radius(0).to_string()
}
