//! Hosts that somebody made by hand, taken over: `import` says what is there, `--adopt` takes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::project::{Project, Run};
use common::{Backend, Lab, Shell, transaction};
use std::fs;

const HOST: &str = "kvm1";

/// Rules that are easily said wrong: quotes, negation, dollars, what YAML would read otherwise, chains of
/// programs, bridges of programs, a name that is too long, a rule that only counts.
const ODD: &str = r#"*mangle
-A POSTROUTING -p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 10.5.0.0/16 ! -d 10.0.0.0/8 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:LIBVIRT_INP - [0:0]
:DOCKER-USER - [0:0]
:no - [0:0]
:a-chain-name-of-some-26-lett - [0:0]
:returns - [0:0]
-A INPUT -j LIBVIRT_INP
-A INPUT ! -s 10.99.0.0/16 -p tcp -m tcp --dport 5900:5999 -j DROP
-A INPUT -m comment --comment "it's \"odd\": #1 $HOME 100%" -j returns
-A INPUT -j no
-A INPUT -j a-chain-name-of-some-26-lett
-A FORWARD -i br123 -o br123 -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -i virbr0 -j ACCEPT
-A FORWARD -j RETURN
-A no -m limit --limit 3/min -j LOG --log-prefix "no: "
-A no
-A returns ! -i eth+ -m state --state NEW -j RETURN
-A returns -j DOCKER-USER
COMMIT
"#;

fn import(project: &Project, lab: &Lab) -> String {
    project.kvmfw(lab, &["import", HOST]).expect(0).stdout
}

/// Makes what was imported the inventory.
fn keep(project: &Project, yaml: &str) {
    fs::write(project.path().join("inventories/lab.yaml"), yaml).unwrap();
}

fn load(lab: &Lab, command: &str, rules: &str) {
    let script = format!("{command} <<'EOF'\n{rules}EOF\n");
    lab.host(HOST, &["sh", "-c", &script]).ok();
}

fn imports(backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(backend).guests(false).up();
    let project = Project::new(&lab, &[HOST], "");
    load(&lab, "iptables-restore", ODD);
    load(&lab, "ip6tables-restore", "*filter\n-A INPUT -s fe80::/10 -j ACCEPT\nCOMMIT\n");
    let files = "mkdir -p /etc/sysctl.d; printf '# mine\\nnet.ipv4.ip_forward=1\\n-net.ipv4.conf.all.arp_ignore = 1\\n' >/etc/sysctl.d/10-a.conf; \
                 printf 'net.ipv4.conf.all.arp_ignore = 2\\n' >/etc/sysctl.d/60-b.conf; \
                 printf 'net.ipv4.conf.*.rp_filter = 2\\n' >/etc/sysctl.d/70-glob.conf; \
                 printf 'net.ipv4.tcp_rmem = 4096\\t131072 6291456\\n' >/etc/sysctl.conf; \
                 sysctl -q net.ipv4.ip_forward=1 net.ipv4.conf.all.arp_ignore=2 net.ipv4.tcp_rmem='4096 131072 6291456'";
    lab.host(HOST, &["sh", "-c", files]).ok();
    let before = lab.dump(HOST);
    let yaml = import(&project, &lab);
    assert_eq!(lab.dump(HOST), before, "import changed the host");

    keep(&project, &yaml);
    project.kvmfw(&lab, &["check"]).expect(0);
    for line in [
        "    foreign_chains: [DOCKER-USER, a-chain-name-of-some-26-lett, \"no\"]",
        r"            ! -s 10.99.0.0/16 -p tcp -m tcp --dport 5900:5999 -j DROP",
        "            -m comment --comment \"it\\'s \\\"odd\\\": #1 $$HOME 100%\" -j returns",
        r"            -s 10.5.0.0/16 ! -d 10.0.0.0/8 -j MASQUERADE",
        r"            ! -i eth+ -m state --state NEW -j RETURN",
        r"            -s fe80::/10 -j ACCEPT",
        "        net.ipv4.ip_forward: 1",
        "        net.ipv4.conf.all.arp_ignore: 2",
        "        # net.ipv4.conf.all.arp_ignore = 1: /etc/sysctl.d/60-b.conf is read later and sets it too",
        "        net.ipv4.tcp_rmem: \"4096 131072 6291456\"",
    ] {
        assert!(yaml.lines().any(|l| l == line), "{line}\n{yaml}");
    }
    for words in [
        "filter/LIBVIRT_INP (0 rules): libvirt writes it",
        "rule of nat/PREROUTING: `-j DOCKER`: of Docker",
        "`-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE`: of Docker: it names its bridge docker0",
        "rule of filter/FORWARD: `-i virbr0 -j ACCEPT`: of libvirt",
        "chain filter/no (2 rules): ``: a rule that only counts",
        "70-glob.conf: `net.ipv4.conf.*.rp_filter` is no single key",
        "hook: last   # rules of others come first",
    ] {
        assert!(yaml.contains(words), "{words}\n{yaml}");
    }

    // What was left out is all that is left.
    project.apply(&lab, &["--adopt"]).expect(0);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    let save = save(&lab);
    let foreign: Vec<&str> = save.lines().filter(|l| l.starts_with("-A ") && !l.contains("KVMFW-")).collect();
    let left = [
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -i virbr0 -j ACCEPT",
        "-A FORWARD -j RETURN",
        "-A INPUT -j LIBVIRT_INP",
        "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "-A PREROUTING -j DOCKER",
        "-A no -m limit --limit 3/min -j LOG --log-prefix \"no: \"",
        "-A no",
    ];
    assert_eq!(foreign.len(), left.len(), "{foreign:#?}");
    assert!(left.iter().all(|rule| foreign.contains(rule)), "{foreign:#?}");
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    common::same(&before, &lab.dump(HOST), "back to the byte");
}

#[test]
fn import_says_what_is_there_and_loads_nft() {
    imports(Backend::Nft);
}

#[test]
fn import_says_what_is_there_and_loads_legacy() {
    imports(Backend::Legacy);
}

// --- taking over ------------------------------------------------------------------------------------

/// The article's host: one chain by hand, entered from INPUT and FORWARD, loaded at boot.
const RULES_V4: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:RH-Firewall-1-INPUT - [0:0]
-A INPUT -j RH-Firewall-1-INPUT
-A FORWARD -j RH-Firewall-1-INPUT
-A RH-Firewall-1-INPUT -i lo -j ACCEPT
-A RH-Firewall-1-INPUT -p icmp -m icmp --icmp-type any -j ACCEPT
-A RH-Firewall-1-INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A RH-Firewall-1-INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT
-A RH-Firewall-1-INPUT -j REJECT --reject-with icmp-host-prohibited
COMMIT
";

/// The host with its rules, live and in the boot file, and a sysctl file of its own.
fn by_hand(lab: &Lab) {
    let script = format!(
        "mkdir -p /etc/iptables; cat >/etc/iptables/rules.v4 <<'EOF'\n{RULES_V4}EOF\niptables-restore </etc/iptables/rules.v4\n\
         printf '# by hand\\nnet.ipv4.conf.all.arp_ignore = 1\\n' >/etc/sysctl.d/60-arp.conf; chmod 640 /etc/sysctl.d/60-arp.conf\n\
         sysctl -q net.ipv4.conf.all.arp_ignore=1"
    );
    lab.host(HOST, &["sh", "-c", &script]).ok();
}

fn save(lab: &Lab) -> String {
    lab.host(HOST, &["iptables-save"]).ok()
}

/// What the host's own iptables says less counters and dates.
fn plain(save: &str) -> String {
    let lines = save.lines().filter(|l| !l.starts_with('#')).map(|l| l.split(" [").next().unwrap());
    lines.map(|l| format!("{l}\n")).collect()
}

fn host_of(run: &Run) -> serde_json::Value {
    run.json()["hosts"][0].clone()
}

fn moved_over(backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(backend).up();
    let project = Project::new(&lab, &[HOST], "");
    by_hand(&lab);
    let original = lab.dump(HOST);
    let before = plain(&save(&lab));
    keep(&project, &import(&project, &lab));

    // Without it, the file of others is in the way; with it, everything is said before it is done.
    assert_eq!(
        host_of(&project.kvmfw(&lab, &["plan", "--format", "json"]).expect(7))["reason"],
        "foreign_owner"
    );
    let saved = project.path().join("plan.json");
    let plan = project
        .kvmfw(&lab, &["plan", "--adopt", "--format", "json", "-o", saved.to_str().unwrap()])
        .expect(0);
    let host = host_of(&plan);
    let changes: Vec<(&str, &str)> = host["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["resource"].as_str().unwrap(), c["action"].as_str().unwrap()))
        .collect();
    for change in [
        ("filter/INPUT of others", "remove"),
        ("filter/FORWARD of others", "remove"),
        ("filter/RH-Firewall-1-INPUT of others", "remove"),
        ("filter/RH-Firewall-1-INPUT", "add"),
        ("60-arp", "change"),
    ] {
        assert!(changes.contains(&change), "{change:?}: {host:#}");
    }
    assert!(host["changes"].as_array().unwrap().iter().all(|c| c["kind"] != "bridge"), "{host:#}");
    let warnings = host["warnings"].to_string();
    assert!(
        warnings.contains("/etc/iptables/rules.v4 loads what is taken over")
            && warnings.contains("line 6-12"),
        "{warnings}"
    );
    common::same(&original, &lab.dump(HOST), "a plan changes nothing");

    // Nothing is lost while it happens, bridged or to the host.
    let floods = [("g0", "192.168.1.2"), ("g0", "192.168.1.254")]
        .map(|(from, to)| common::flood(&lab, HOST, from, to));
    project.kvmfw(&lab, &["apply", saved.to_str().unwrap()]).expect(0);
    for flood in floods {
        // However quick the apply was.
        flood.run_on(100);
        let (sent, lost) = flood.stop();
        assert!(sent > 50 && lost == 0, "{lost} of {sent} lost");
    }
    let after = save(&lab);
    assert!(!after.contains(" RH-Firewall-1-INPUT"), "{after}");
    assert_eq!(after.matches("-A KVMFW-RH-Firewall-1-INPUT").count(), 5, "{after}");
    for flags in [&["plan", "--detailed-exitcode"][..], &["plan", "--adopt", "--detailed-exitcode"]] {
        project.kvmfw(&lab, flags).expect(0);
    }

    // Another apply later, an undo of that one, and all the way back.
    let records = ["/etc/kvmfw"];
    let managed = lab.dump_without(HOST, &records);
    let yaml = fs::read_to_string(project.path().join("inventories/lab.yaml")).unwrap();
    keep(&project, &yaml.replace("--dport 22 -j", "--dport 22:23 -j"));
    let second = project.apply(&lab, &[]).expect(0).run();
    project.kvmfw(&lab, &["undo", &second, "-y"]).expect(0);
    common::same(&managed, &lab.dump_without(HOST, &records), "what was taken stays taken");
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    assert_eq!(plain(&save(&lab)), before);
    common::same(&original, &lab.dump(HOST), "the undo brought the host back to the byte");
}

#[test]
fn a_host_made_by_hand_is_moved_over_and_back_nft() {
    moved_over(Backend::Nft);
}

#[test]
fn a_host_made_by_hand_is_moved_over_and_back_legacy() {
    moved_over(Backend::Legacy);
}

/// A host made by hand, and the inventory that says the same but for one thing.
fn imported(shell: Shell, backend: Backend) -> (Lab, Project, String) {
    let lab = Lab::builder().shell(shell).backend(backend).guests(false).up();
    let project = Project::new(&lab, &[HOST], "");
    by_hand(&lab);
    let yaml = import(&project, &lab);
    keep(&project, &yaml);
    (lab, project, yaml)
}

fn warned(host: &serde_json::Value, code: &str) -> String {
    let all = host["warnings"].as_array().unwrap().iter().filter(|w| w["code"] == code);
    all.map(|w| format!("{}\n", w["message"].as_str().unwrap())).collect()
}

/// What is not the same to the letter of the kernel stays, and is told.
#[test]
fn what_differs_is_not_taken() {
    if !common::require_root() {
        return;
    }
    let (lab, project, yaml) = imported(Shell::Dash, Backend::Nft);
    lab.host(HOST, &["iptables", "-A", "OUTPUT", "-d", "203.0.113.0/24", "-j", "REJECT"]).ok();
    lab.host(HOST, &["iptables", "-A", "OUTPUT", "-d", "203.0.113.0/25", "-m", "recent", "--set"]).ok();
    let other = yaml.replace("--dport 22 -j", "--dport 22:23 -j").replace(
        "    iptables:\n      filter:\n",
        "    iptables:\n      filter:\n        OUTPUT:\n          rules: |\n            -d 203.0.113.0/24 -j REJECT\n            \
         -d 203.0.113.0/25 -m recent --set\n",
    );
    keep(&project, &other);
    let host = host_of(&project.kvmfw(&lab, &["plan", "--adopt", "--format", "json"]).expect(0));
    let why = warned(&host, "not-adopted");
    assert!(
        why.contains("`-p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT`, and ours says"),
        "{why}"
    );
    assert!(why.contains("`-m recent` by its own text"), "{why}");
    project.apply(&lab, &["--adopt"]).expect(0);
    let save = save(&lab);
    assert!(save.contains("-A INPUT -j RH-Firewall-1-INPUT\n"), "{save}");
    assert!(save.contains("-A OUTPUT -d 203.0.113.0/25 -m recent"), "{save}");
    assert!(!save.contains("-A OUTPUT -d 203.0.113.0/24 -j REJECT"), "{save}");

    // A file that sets more than is stated would lose it.
    lab.host(HOST, &["sh", "-c", "echo net.ipv4.conf.all.arp_announce=2 >/etc/sysctl.d/61-more.conf"]).ok();
    keep(
        &project,
        &other.replace("    sysctl:\n", "    sysctl:\n      61-more: { net.ipv4.conf.all.arp_filter: 0 }\n"),
    );
    let host = host_of(&project.kvmfw(&lab, &["plan", "--adopt", "--format", "json"]).expect(7));
    assert_eq!(host["reason"], "foreign_owner", "{host:#}");
    assert!(host["message"].to_string().contains("line 1 sets `net.ipv4.conf.all.arp_announce`"), "{host:#}");
}

/// Ours come first, and one rule of others that is not stated would be starved: that is no adoption.
#[test]
fn what_would_change_a_verdict_is_refused_with_a_packet() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let rules = "-p tcp -m tcp --dport 22 -j ACCEPT\n-j DROP\n";
    let inventory = |hook: &str| {
        let text: String = rules.lines().map(|rule| format!("        {rule}\n")).collect();
        format!("iptables:\n  filter:\n    INPUT:\n{hook}      rules: |\n{text}")
    };
    let project = Project::new(&lab, &[HOST], &inventory(""));
    let by_hand = "*filter\n-A INPUT -s 203.0.113.0/24 -p udp -m udp --dport 161 -j ACCEPT\n\
                   -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n";
    load(&lab, "iptables-restore", by_hand);
    let before = lab.dump(HOST);
    let host = host_of(&project.kvmfw(&lab, &["apply", "-y", "--adopt", "--format", "json"]).expect(7));
    assert_eq!(host["reason"], "adoption_differs", "{host:#}");
    let why = host["message"].as_str().unwrap();
    assert!(
        why.contains("a UDP packet from 203.0.113.0")
            && why.contains("to port 161 in by eth0 is accepted by"),
        "{why}"
    );
    assert!(why.contains("would be dropped by `-j DROP`"), "{why}");
    common::same(&before, &lab.dump(HOST), "nothing was touched");
    project.all(&inventory("      hook: last\n"));
    project.apply(&lab, &["--adopt"]).expect(0);
    let save = save(&lab);
    let input: Vec<&str> = save.lines().filter(|l| l.starts_with("-A INPUT")).collect();
    assert_eq!(input.len(), 2, "{save}");
    assert!(input[0].contains("--dport 161") && input[1].contains("KVMFW-INPUT"), "{save}");
}

/// Rules that somebody puts in while a change is open stay his, whatever comes of it; and what was by hand
/// stands again where it stood.
fn strangers(shell: Shell, backend: Backend) {
    if !common::require_root() {
        return;
    }
    let (lab, project, yaml) = imported(shell, backend);
    lab.host(HOST, &["iptables", "-A", "INPUT", "-s", "203.0.113.1/32", "-j", "DROP"]).ok();
    let original = lab.dump(HOST);
    let before = plain(&save(&lab));
    let held =
        "test -e /run/first || { touch /run/first; exit 0; }; until test -e /run/go; do sleep 0.1; done";
    let check = |command: &str| {
        format!("{yaml}    checks: [{{ command: '{command}', timeout: 30s, required: true }}]\n")
    };

    // Rolled back with nobody there: as it was.
    keep(&project, &check("false"));
    project.apply(&lab, &["--adopt"]).expect(4);
    common::same(&original, &lab.dump(HOST), "rolled back to the byte");

    // With somebody there: his stay, ours stand in front of the same rule again.
    keep(&project, &check(&format!("{held}; false")));
    let last = transaction::newest(&lab, HOST);
    let apply = transaction::start(&lab, &project, &["--adopt"]);
    transaction::marked(&lab, HOST, "applied", last.as_ref());
    assert!(!save(&lab).contains("-A INPUT -j RH-Firewall-1-INPUT"));
    let put = "iptables -I INPUT -s 203.0.113.9/32 -j DROP && iptables -A INPUT -s 203.0.113.10/32 -j DROP && : >/run/go";
    lab.host(HOST, &["sh", "-c", put]).ok();
    assert_eq!(transaction::end(apply).code, 4);
    let his = before.replace("-A INPUT -j RH", "-A INPUT -s 203.0.113.9/32 -j DROP\n-A INPUT -j RH").replace(
        "-A INPUT -s 203.0.113.1/32 -j DROP\n",
        "-A INPUT -s 203.0.113.1/32 -j DROP\n-A INPUT -s 203.0.113.10/32 -j DROP\n",
    );
    assert_eq!(plain(&save(&lab)), his);
    // Ours would come before his: that is no adoption now.
    let refused = host_of(&project.kvmfw(&lab, &["plan", "--adopt", "--format", "json"]).expect(7));
    let why = refused["message"].as_str().unwrap();
    assert!(why.contains("would come before `-s 203.0.113.9/32 -j DROP`"), "{why}");
    let away = "iptables -D INPUT -s 203.0.113.9/32 -j DROP && iptables -D INPUT -s 203.0.113.10/32 -j DROP";
    lab.host(HOST, &["sh", "-c", away]).ok();

    // Somebody writes into the chain that is to go, after it was proven: nothing of his is lost.
    let put = "test -e /run/second || { touch /run/second; iptables -A RH-Firewall-1-INPUT -s 203.0.113.11/32 -j ACCEPT; }";
    keep(&project, &check(put));
    let run = project.apply(&lab, &["--adopt"]).expect(4);
    assert!(run.stdout.contains("may have changed meanwhile"), "{}", run.stdout);
    let his =
        before.replace("prohibited\n", "prohibited\n-A RH-Firewall-1-INPUT -s 203.0.113.11/32 -j ACCEPT\n");
    assert_eq!(plain(&save(&lab)), his);
    lab.host(HOST, &["iptables", "-D", "RH-Firewall-1-INPUT", "-s", "203.0.113.11/32", "-j", "ACCEPT"]).ok();

    // Kept, with somebody there; then back from the console.
    keep(&project, &check(held));
    lab.host(HOST, &["rm", "-f", "/run/first", "/run/go"]).ok();
    let last = transaction::newest(&lab, HOST);
    let apply = transaction::start(&lab, &project, &["--adopt"]);
    transaction::marked(&lab, HOST, "applied", last.as_ref());
    lab.host(HOST, &["sh", "-c", "iptables -I INPUT -s 203.0.113.12/32 -j DROP && : >/run/go"]).ok();
    assert_eq!(transaction::end(apply).code, 0);
    assert!(save(&lab).contains("203.0.113.12"));
    assert!(!save(&lab).contains(" RH-Firewall"));
    lab.host(HOST, &["sh", "/var/lib/kvmfw/kvmfw.sh", "undo", "0"]).ok();
    let now = plain(&save(&lab));
    let his = before.replace("-A INPUT -j RH", "-A INPUT -s 203.0.113.12/32 -j DROP\n-A INPUT -j RH");
    assert_eq!(now, his);
    let file = lab.host(HOST, &["stat", "-c", "%a %F", "/etc/sysctl.d/60-arp.conf"]).ok();
    assert_eq!(file.trim(), "640 regular file");
}

#[test]
fn strangers_keep_their_rules_nft() {
    strangers(Shell::Dash, Backend::Nft);
}

#[test]
fn strangers_keep_their_rules_legacy_busybox() {
    strangers(Shell::Busybox, Backend::Legacy);
}
