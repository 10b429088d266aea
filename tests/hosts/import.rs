//! What `import` prints of a host: it loads, and says everything that is there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::by_hand::{HOST, by_hand, files, import, keep, load, save};
use common::project::Project;
use common::{Backend, Lab, Shell};
use std::fs;

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
        "    unmanaged_chains: [DOCKER-USER, a-chain-name-of-some-26-lett, \"no\"]",
        r"            ! -s 10.99.0.0/16 -p tcp -m tcp --dport 5900:5999 -j DROP",
        "            -m comment --comment \"it\\'s \\\"odd\\\": #1 $$HOME 100%\" -j returns",
        r"            -s 10.5.0.0/16 ! -d 10.0.0.0/8 -j MASQUERADE",
        r"            ! -i eth+ -m state --state NEW -j RETURN",
        r"            -s fe80::/10 -j ACCEPT",
        "        net.ipv4.ip_forward: 1",
        "        net.ipv4.conf.all.arp_ignore: 2",
        "        # net.ipv4.conf.all.arp_ignore = 1: /etc/sysctl.d/60-b.conf is read later and also sets the key",
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
        "70-glob.conf: `net.ipv4.conf.*.rp_filter` is a pattern",
        "jump: last   # unmanaged rules come first",
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
fn the_output_of_import_loads_nft() {
    imports(Backend::Nft);
}

#[test]
fn the_output_of_import_loads_legacy() {
    imports(Backend::Legacy);
}

/// From a host that nobody manages to one that is managed, with no file but what `import` printed.
fn without_an_inventory(user: &str, shell: Shell, backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().shell(shell).backend(backend).guests(false).up();
    by_hand(&lab);
    let before = lab.dump(HOST);
    let project = Project::new(&lab, &[HOST], "").without_inventories();
    let target = format!("{user}@{}:22", lab.address(HOST));
    let files = files(&lab);
    let words = |more: &[&str]| -> String {
        let fixed = ["import", target.as_str()].into_iter();
        let words: Vec<&str> =
            fixed.chain(files.iter().map(String::as_str)).chain(more.iter().copied()).collect();
        project.kvmfw(&lab, &words).expect(0).stdout
    };
    let unnamed = words(&[]);
    assert!(unnamed.contains(&format!("\n  \"{}\":\n", lab.address(HOST))), "{unnamed}");
    let yaml = words(&["--name", HOST]);
    common::same(&before, &lab.dump(HOST), "import changes nothing");
    assert!(!lab.disk(HOST, "/var/lib/kvmfw").exists(), "import left something");
    for words in ["-j REJECT --reject-with icmp-host-prohibited", "net.ipv4.conf.all.arp_ignore: 1", "br123:"]
    {
        assert!(yaml.contains(words), "{words}\n{yaml}");
    }

    // What was printed also says how to log in.
    project.write("inventories/lab.yaml", &yaml);
    let plan = project.kvmfw(&lab, &["plan", "--adopt", "--format", "json"]).expect(0).json();
    assert_eq!((&plan["hosts"][0]["name"], &plan["hosts"][0]["status"]), (&HOST.into(), &"changed".into()));
    project.apply(&lab, &["--adopt"]).expect(0);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    assert!(!save(&lab).contains(" RH-Firewall-1-INPUT"), "{}", save(&lab));
    project.kvmfw(&lab, &["undo", "--to", "0", "-y"]).expect(0);
    common::same(&before, &lab.dump(HOST), "back to the byte");
}

#[test]
fn from_login_and_address_to_a_managed_host() {
    without_an_inventory("root", Shell::Busybox, Backend::Legacy);
}

#[test]
fn from_a_login_with_sudo_to_a_managed_host() {
    without_an_inventory("admin", Shell::Dash, Backend::Nft);
}

#[test]
fn import_names_what_it_leaves_out() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], "");
    let files = files(&lab);
    let [key_flag, key, known_flag, known] = files.each_ref().map(String::as_str);
    let target = format!("root@{}", lab.address(HOST));
    let empty = project.path().join("known_hosts").display().to_string();
    for (args, code, words) in [
        (
            &[HOST, key_flag, key][..],
            3,
            "--identity-file is only for USER@HOST; set it for `kvm1` in the inventory",
        ),
        (&[HOST, known_flag, known], 3, "--known-hosts is only for USER@HOST"),
        (&[HOST, "--name", "other"], 3, "--name is only for USER@HOST"),
        (&["kvm9"], 3, "kvm9"),
        (&["root@10.99.0.11:ssh"], 3, "not a valid port"),
        (&[&target, key_flag, key, known_flag, &empty], 5, "unknown host key"),
        (&[&target, key_flag, &empty, known_flag, known], 5, "--identity-file"),
    ] {
        let run = project.kvmfw(&lab, &[&["import"][..], args].concat()).expect(code);
        assert!(run.stderr.contains(words) && run.stdout.is_empty(), "{args:?}: {run:?}");
    }
    assert!(!fs::exists(&empty).unwrap(), "a key was written down that nobody trusts");
    lab.power_cut(HOST);
    let run = project.kvmfw(&lab, &["import", HOST]).expect(5);
    assert!(run.stdout.is_empty() && run.stderr.contains("kvm1: "), "{run:?}");
}

/// Options of matches and targets with several values: taken, proven, booted, and read back as they are.
#[test]
fn options_with_several_values() {
    if !common::require_root() || !common::require_tools(&["ipset"]) {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    lab.host(HOST, &["ipset", "create", "both", "hash:ip"]).ok();
    let rules = [
        "-p sctp -m sctp --chunk-types any DATA,INIT -j DROP",
        "-p sctp -m sctp ! --chunk-types all DATA:Be -j DROP",
        "-s 192.0.2.9/32 -p tcp -m tcp ! --tcp-flags SYN,RST SYN -j DROP",
        "-m policy --dir in --pol ipsec --strict --proto esp --mode tunnel --next --proto ah -j DROP",
        "-s 192.0.2.9/32 -m set ! --match-set both src,dst --return-nomatch -j DROP",
        "-m recent --set --name old --mask 255.255.255.255 --rsource -j ACCEPT",
        "-m statistic --mode nth --every 3 --packet 0 -j ACCEPT",
        "-j SET --add-set both src --exist --timeout 30",
        "-j SET --map-set both src --map-mark",
    ];
    let text = |rules: &[&str]| {
        let all: String = rules.iter().map(|rule| format!("        {rule}\n")).collect();
        format!("iptables:\n  mangle:\n    PREROUTING:\n      rules: |\n{all}")
    };
    let project = Project::new(&lab, &[HOST], &text(&rules));
    let first = project.apply(&lab, &[]).expect(0).stderr;
    assert_eq!(first.matches("before the set both exists").count(), 3, "{first}");
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    let live = save(&lab);
    for rule in rules {
        assert!(live.contains(&format!("-A KVMFW-PREROUTING {rule}\n")), "{rule}\n{live}");
    }
    // The old form of -m set, which iptables-save prints as the new one.
    project.all(&text(&["-s 192.0.2.9/32 -m set --set both src -j DROP"]));
    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
}
