//! Hosts that somebody made by hand, taken over: `import` says what is there, `--adopt` takes it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::project::Project;
use common::{Backend, Lab};
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
}

#[test]
fn import_says_what_is_there_and_loads_nft() {
    imports(Backend::Nft);
}

#[test]
fn import_says_what_is_there_and_loads_legacy() {
    imports(Backend::Legacy);
}
