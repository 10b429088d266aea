//! What only kvmfw knows of a host, asked of real ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::Project;
use common::{Backend, Lab, Shell, by_hand};
use std::process::Stdio;

const HOST: &str = "kvm1";

/// The messages of a plan's warnings of one code.
fn warnings(json: &serde_json::Value, code: &str) -> Vec<String> {
    let all = json["hosts"][0]["warnings"].as_array().unwrap();
    let of_code = all.iter().filter(|w| w["code"] == code);
    of_code.map(|w| w["message"].as_str().unwrap().to_owned()).collect()
}

/// Evidence against the bypass and sockets, as the probe finds them under every shell.
fn seen_on_the_host(shell: Shell, backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().shell(shell).backend(backend).up();
    let project = Project::new(&lab, &[HOST], "modules: [bridge-bypass]\n");
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0).json();
    assert_eq!(warnings(&plan, "bypass-wrong"), Vec::<String>::new());
    let prepare = "mkdir -p /etc/docker /var/lib/kubelet /etc/ufw; echo '{ \"icc\": false,\n \"x\": 1 }' >/etc/docker/daemon.json; \
                   : >/var/lib/kubelet/config.yaml; echo net/bridge/bridge-nf-call-iptables=1 >/etc/ufw/sysctl.conf; \
                   iptables -A FORWARD -i br123 -o br123 -p tcp --dport 25 -j DROP";
    lab.host(HOST, &["sh", "-c", prepare]).ok();
    lab.host(HOST, &["ip", "link", "set", "br123", "type", "bridge", "nf_call_iptables", "1"]).ok();
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(7).json();
    assert_eq!(plan["hosts"][0]["reason"], "bypass-wrong", "{plan:#}");
    assert!(plan["hosts"][0]["changes"].to_string().contains("bypass-wrong"), "{plan:#}");
    let wrong = warnings(&plan, "bypass-wrong").join("\n");
    for words in [
        "/etc/docker/daemon.json",
        "/var/lib/kubelet/config.yaml",
        "`-i br123 -o br123 -p tcp -m tcp --dport 25 -j DROP`",
    ] {
        assert!(wrong.contains(words), "{words}: {wrong}");
    }
    let undone = warnings(&plan, "bypass-undone").join("\n");
    assert!(undone.contains("/etc/ufw/sysctl.conf"), "{undone}");
    assert!(warnings(&plan, "bypass-overridden").join("\n").contains("br123"), "{plan:#}");
    project.apply(&lab, &["--accept-risk", "bypass-wrong"]).expect(0);

    // What listens on the host, and who is connected with it.
    let serve = "import socket,sys\ns=socket.create_server(('0.0.0.0',16514))\nprint('up',flush=True)\nc=s.accept()\nprint('in',flush=True)\nsys.stdin.read()\n";
    let mut server = lab
        .host_command(HOST)
        .args(["python3", "-c", serve])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(server.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        line
    };
    assert_eq!(line(), "up\n");
    let connect = "import socket,sys\nc=socket.create_connection(('10.99.0.11',16514))\nsys.stdin.read()\n";
    let mut client = lab.exec_command("python3").args(["-c", connect]).stdin(Stdio::piped()).spawn().unwrap();
    assert_eq!(line(), "in\n");
    project.all("iptables:\n  filter:\n    INPUT:\n      rules: |\n        -p tcp --dport 22 -j ACCEPT\n        -j DROP\n");
    let plan =
        project.kvmfw(&lab, &["plan", "--format", "json", "--accept-risk", "removes-all"]).expect(0).json();
    let cut = warnings(&plan, "connections-cut").join("\n");
    assert!(
        cut.contains("filter/INPUT rule 2") && cut.contains("16514/tcp (libvirt over TLS) for 10.99.0.1"),
        "{plan:#}"
    );
    drop((client.stdin.take(), server.stdin.take()));
    client.wait().unwrap();
    server.wait().unwrap();
}

#[test]
fn seen_on_the_host_dash_nft() {
    seen_on_the_host(Shell::Dash, Backend::Nft);
}

#[test]
fn seen_on_the_host_busybox_legacy() {
    seen_on_the_host(Shell::Busybox, Backend::Legacy);
}

/// The old ruleset by hand, with a log line first, as a boot file has it.
const OLD: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:RH-Firewall-1-INPUT - [0:0]
-A INPUT -j RH-Firewall-1-INPUT
-A FORWARD -j LOG --log-prefix \"Firewall FORWARD: \"
-A FORWARD -j RH-Firewall-1-INPUT
-A RH-Firewall-1-INPUT -i lo -j ACCEPT
-A RH-Firewall-1-INPUT -p icmp -m icmp --icmp-type any -j ACCEPT
-A RH-Firewall-1-INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A RH-Firewall-1-INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT
-A RH-Firewall-1-INPUT -j REJECT --reject-with icmp-host-prohibited
COMMIT
";

/// Why are my guests unreachable? Asked of a host that kvmfw has never managed.
fn the_question(shell: Shell, backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().shell(shell).backend(backend).up();
    std::fs::create_dir_all(lab.disk(HOST, "/etc/iptables")).unwrap();
    std::fs::write(lab.disk(HOST, "/etc/iptables/rules.v4"), OLD).unwrap();
    lab.host(HOST, &["iptables-restore", "/etc/iptables/rules.v4"]).ok();
    let guest = "mkdir -p /run/libvirt/qemu; echo \"<domain><target dev='vda'/><target dev='vnet0'/></domain>\" >/run/libvirt/qemu/web1.xml";
    lab.host(HOST, &["sh", "-c", guest]).ok();
    let project = Project::new(&lab, &[HOST], "modules: [host-firewall, bridge-accept-physdev]\n");
    let before = lab.dump(HOST);

    let text = project.kvmfw(&lab, &["explain", "--host", HOST]).expect(0).stdout;
    for words in [
        "vnet0 (web1)",
        "IPv4  UNREACHABLE",
        "by filter/RH-Firewall-1-INPUT rule 5 `-j REJECT --reject-with icmp-host-prohibited` (/etc/iptables/rules.v4:13)",
        "IPv6  open",
        "frames with a VLAN tag meet no rule: bridge-nf-filter-vlan-tagged is 0",
        "bridge-accept-each",
        "bridge-accept-physdev",
        "bridge-bypass",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json = project.kvmfw(&lab, &["explain", "--host", HOST, "--format", "json"]).expect(0).json();
    let dark = &json["hosts"][0]["bridges"][0]["families"][0]["dark"];
    assert_eq!(
        (&dark["by"]["chain"], &dark["by"]["rule"]),
        (&"RH-Firewall-1-INPUT".into(), &5.into()),
        "{json:#}"
    );

    // One packet: by the guest's name, now and as desired.
    let ask = |more: &[&str]| {
        let args = [&["explain", "--host", HOST, "--format", "json"][..], more].concat();
        project.kvmfw(&lab, &args).expect(0).json()["hosts"][0]["packets"][0].clone()
    };
    let packet = ["--from", "web1", "--to", "192.168.1.53:53/udp"];
    let now = ask(&packet);
    assert_eq!(
        (&now["fate"]["verdict"], &now["route"]["kind"]),
        (&"dropped".into(), &"bridged".into()),
        "{now:#}"
    );
    let hop = now["hops"]
        .as_array()
        .unwrap()
        .iter()
        .find(|hop| hop["chain"] == "FORWARD" && hop["table"] == "filter");
    let rules: Vec<_> =
        hop.unwrap()["rules"].as_array().unwrap().iter().map(|rule| rule["rule"].clone()).collect();
    assert_eq!(rules, [1, 2, 5], "the LOG, the jump, the REJECT: {now:#}");
    let then = ask(&[&packet[..], &["--desired"]].concat());
    assert_eq!(then["fate"]["verdict"], "passes", "{then:#}");
    assert!(then["fate"]["by"]["origin"].as_str().unwrap().contains("bridge-accept-physdev"), "{then:#}");
    // The same as a test: what is unknown meets no expectation.
    for (question, expected, code, words) in [
        (&packet[..], "blocked", 0, ""),
        (
            &packet,
            "passes",
            2,
            "kvm1: the packet was expected to pass, but it is blocked by filter/RH-Firewall-1-INPUT rule 5",
        ),
        (&["--from", "10.99.0.1", "--to", "host:22"], "passes", 0, ""),
        (
            &["--from", "10.99.0.1", "--to", "host:22"],
            "blocked",
            2,
            "kvm1: the packet was expected to be blocked, but it passes",
        ),
        (&["--from", "vnet0", "--to", "192.168.1.2"], "passes", 2, "but its verdict is unknown"),
        (&["--from", "vnet0", "--to", "192.168.1.2"], "blocked", 2, "but its verdict is unknown"),
    ] {
        let args = [&["explain", "--host", HOST, "--expect", expected][..], question].concat();
        let run = project.kvmfw(&lab, &args).expect(code);
        assert!(run.stderr.contains(words) && run.stderr.is_empty() == words.is_empty(), "{}", run.stderr);
    }
    project.kvmfw(&lab, &["explain", "--host", HOST, "--expect", "passes"]).expect(3);
    for (more, verdict) in [
        (["--from", "10.99.0.1", "--to", "host:22"], "passes"),
        (["--from", "10.99.0.1", "--to", "10.99.0.11:80"], "dropped"),
        (["--from", "host", "--to", "10.99.0.1:80"], "passes"),
        (["--in", "eth0", "--to", "192.168.1.1:80"], "dropped"),
        (["--from", "vnet0", "--to", "192.168.1.2"], "unknown"),
        (["--from", "vnet0", "--to", "192.168.1.2/icmp"], "passes"),
    ] {
        assert_eq!(ask(&more)["fate"]["verdict"], verdict, "{more:?}");
    }
    for wrong in [
        &["--from", "vnet9", "--to", "vnet1"][..],
        &["--from", "vnet0", "--to", "1.2.3.4:http"],
        &["--bridge", "br9"],
    ] {
        project.kvmfw(&lab, &[&["explain", "--host", HOST][..], wrong].concat()).expect(3);
    }

    // What the kernel logs about it.
    let send = "import socket\nfor i in range(4): socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'x',('192.168.1.53',53))";
    lab.guest(HOST, "g0", &["python3", "-c", send]).ok();
    let log = project.path().join("kern.log");
    std::fs::write(&log, lab.klog(HOST)).unwrap();
    let args = ["explain", "--host", HOST, "--format", "json", "--log", log.to_str().unwrap()];
    let json = project.kvmfw(&lab, &args).expect(0).json();
    let groups = json["hosts"][0]["log"]["groups"].as_array().unwrap().clone();
    let group =
        groups.iter().find(|g| g["protocol"] == "udp" && g["port"] == 53 && g["from"]["port"] == "vnet0");
    let group = group.unwrap_or_else(|| panic!("{json:#}"));
    assert_eq!(
        (&group["count"], &group["bridge"], &group["from"]["guest"]),
        (&4.into(), &"br123".into(), &"web1".into()),
        "{group:#}"
    );
    assert_eq!(
        (&group["rule"]["chain"], &group["rule"]["rule"]),
        (&"FORWARD".into(), &1.into()),
        "{group:#}"
    );
    assert_eq!(
        (&group["live"]["verdict"], &group["desired"]["verdict"]),
        (&"dropped".into(), &"passes".into()),
        "{group:#}"
    );

    common::same(&before, &lab.dump(HOST), "explain changes nothing");

    // Drawn: who hangs where, and where packets die.
    let svg = project.kvmfw(&lab, &["explain", "--host", HOST, "--format", "svg"]).expect(0).stdout;
    for words in [
        "<svg ",
        "web1",
        "vnet1",
        "eth1",
        "br123",
        "by filter/RH-Firewall-1-INPUT rule 5",
        "(/etc/iptables/rules.v4:13)",
        "class=\"cut\"",
        "IPv6 through",
        "on the way: filter/FORWARD<",
    ] {
        assert!(svg.contains(words), "{words}: {svg}");
    }
    let mermaid = project.kvmfw(&lab, &["explain", "--host", HOST, "--format", "mermaid"]).expect(0).stdout;
    for words in ["flowchart LR", "web1", "b0 --x b0f0", "b0 --> b0f1", "class b0f0 dark"] {
        assert!(mermaid.contains(words), "{words}: {mermaid}");
    }
    project.kvmfw(&lab, &["plan", "--format", "svg"]).expect(3);

    // Tags, ARP: each has a switch.
    let bridge = || {
        let json = project.kvmfw(&lab, &["explain", "--host", HOST, "--format", "json"]).expect(0).json();
        let bridge = json["hosts"][0]["bridges"][0].clone();
        (bridge["tagged"].as_bool().unwrap(), bridge["arptables"].as_bool().unwrap())
    };
    assert_eq!(bridge(), (false, true));
    let turn = "sysctl -w net.bridge.bridge-nf-filter-vlan-tagged=1 net.bridge.bridge-nf-call-arptables=0";
    lab.host(HOST, &["sh", "-c", turn]).ok();
    assert_eq!(bridge(), (true, false));
    lab.host(HOST, &["ip", "link", "set", "br123", "type", "bridge", "nf_call_arptables", "1"]).ok();
    assert_eq!(bridge(), (true, true));

    // Out of netfilter nothing is dark.
    lab.host(HOST, &["sysctl", "-w", "net.bridge.bridge-nf-call-iptables=0"]).ok();
    let text = project.kvmfw(&lab, &["explain", "--host", HOST]).expect(0).stdout;
    assert!(text.contains("IPv4  open  no rule of the host sees bridged frames"), "{text}");
    assert!(!text.contains("Possible fixes"), "{text}");
}

#[test]
fn why_are_my_guests_unreachable_dash_nft() {
    the_question(Shell::Dash, Backend::Nft);
}

#[test]
fn why_are_my_guests_unreachable_busybox_legacy() {
    the_question(Shell::Busybox, Backend::Legacy);
}

/// The same question of a host that is in no inventory: one command, and nothing written first.
fn asked_by_login_and_address(user: &str, shell: Shell, backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().shell(shell).backend(backend).up();
    std::fs::create_dir_all(lab.disk(HOST, "/etc/iptables")).unwrap();
    std::fs::write(lab.disk(HOST, "/etc/iptables/rules.v4"), OLD).unwrap();
    lab.host(HOST, &["iptables-restore", "/etc/iptables/rules.v4"]).ok();
    let project = Project::new(&lab, &[HOST], "").without_inventories();
    let before = lab.dump(HOST);
    let target = format!("{user}@{}", lab.address(HOST));
    let files = by_hand::files(&lab);
    let ask = |more: &[&str], code: i32| {
        let fixed = ["explain", "--host", target.as_str()].into_iter();
        let words: Vec<&str> =
            fixed.chain(files.iter().map(String::as_str)).chain(more.iter().copied()).collect();
        project.kvmfw(&lab, &words).expect(code)
    };
    let text = ask(&[], 0).stdout;
    for words in [
        "IPv4  UNREACHABLE",
        "by filter/RH-Firewall-1-INPUT rule 5 `-j REJECT --reject-with icmp-host-prohibited` (/etc/iptables/rules.v4:13)",
        "bridge-accept-each",
        "bridge-accept-physdev",
        "bridge-bypass",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json = ask(&["--from", "vnet0", "--to", "192.168.1.53:53/udp", "--format", "json"], 0).json();
    assert_eq!(json["hosts"][0]["packets"][0]["fate"]["verdict"], "dropped", "{json:#}");

    // The journal of the host is read over the same connection; what is desired nobody has said.
    ask(&["--log"], 0);
    let run = ask(&["--desired"], 3);
    assert!(run.stderr.contains("--desired needs a host of the inventory"), "{}", run.stderr);
    common::same(&before, &lab.dump(HOST), "explain changes nothing");
    assert!(!lab.disk(HOST, "/var/lib/kvmfw").exists(), "explain left something");
}

#[test]
fn explain_of_a_host_without_an_inventory() {
    asked_by_login_and_address("root", Shell::Busybox, Backend::Legacy);
}

#[test]
fn explain_of_a_host_without_an_inventory_with_sudo() {
    asked_by_login_and_address("admin", Shell::Dash, Backend::Nft);
}

/// Guests by the names that virsh has for them, and the lines of the host's own journal: their answers as they print them.
fn virsh_and_the_journal(shell: Shell, backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().shell(shell).backend(backend).up();
    let project = Project::new(&lab, &[HOST], "");
    let bin = lab.disk(HOST, "/root/bin");
    std::fs::create_dir_all(&bin).unwrap();
    let line = "Nov 26 01:00:00 kvm1 kernel: mine: IN=br123 OUT=br123 PHYSIN=vnet0 PHYSOUT=eth1 MAC=02 SRC=192.168.1.1 DST=192.168.1.53 LEN=56 \
                TOS=0x00 PREC=0x00 TTL=64 ID=1 DF PROTO=UDP SPT=4001 DPT=53 LEN=36";
    let domains = " Interface   Type     Source   Model    MAC\n-----------------------------------------------------------\n";
    for (name, says) in [
        (
            "virsh",
            format!(
                "case $* in\n'list --name') printf 'web 1\\ndb\\n\\n' ;;\n'domiflist web 1') printf '{domains} vnet0       bridge   br123    virtio   52:54:00:00:00:01\\n\\n' ;;\n\
                 'domiflist db') printf '{domains} vnet1       bridge   br123    virtio   52:54:00:00:00:02\\n -           bridge   br9      virtio   52:54:00:00:00:03\\n\\n' ;;\n\
                 *) exit 1 ;;\nesac",
                domains = domains.replace('\n', "\\n")
            ),
        ),
        (
            "journalctl",
            format!(
                "[ \"$1\" = -k ] || exit 1\nprintf '%s\\n' '{line}' 'Nov 26 kvm1 kernel: eth0: link up' '{line}'"
            ),
        ),
        ("systemctl", "exit 1".to_owned()),
    ] {
        std::fs::write(bin.join(name), format!("#!/bin/sh\n{says}\n")).unwrap();
    }
    // A file of libvirt, which is not asked where virsh answers.
    let prepare = "chmod 755 /root/bin/*; mount --bind /root/bin /usr/local/bin; \
                   for file in journalctl systemctl; do [ ! -e /usr/bin/$file ] || mount --bind /root/bin/$file /usr/bin/$file; done; mkdir -p /run/systemd/system /run/libvirt/qemu; \
                   echo \"<target dev='vnet0'/>\" >/run/libvirt/qemu/other.xml; iptables -A FORWARD -j LOG --log-prefix 'mine: '; iptables -P FORWARD DROP";
    lab.host(HOST, &["sh", "-c", prepare]).ok();
    let json = project.kvmfw(&lab, &["explain", "--host", HOST, "--format", "json"]).expect(0).json();
    let ports = json["hosts"][0]["bridges"][0]["ports"].as_array().unwrap().clone();
    let guests: Vec<_> = ports.iter().map(|port| (port["name"].as_str(), port["guest"].as_str())).collect();
    assert_eq!(guests, [(Some("eth1"), None), (Some("vnet0"), Some("web 1")), (Some("vnet1"), Some("db"))]);
    let json =
        project.kvmfw(&lab, &["explain", "--host", HOST, "--log", "--format", "json"]).expect(0).json();
    let log = &json["hosts"][0]["log"];
    let group = &log["groups"][0];
    assert_eq!(
        (&log["packets"], &group["count"], &group["from"]["guest"]),
        (&2.into(), &2.into(), &"web 1".into())
    );
    assert_eq!(
        (&group["rule"]["rule"], &group["live"]["verdict"]),
        (&1.into(), &"dropped".into()),
        "{log:#}"
    );
}

#[test]
fn virsh_and_the_journal_dash_nft() {
    virsh_and_the_journal(Shell::Dash, Backend::Nft);
}

#[test]
fn virsh_and_the_journal_busybox_legacy() {
    virsh_and_the_journal(Shell::Busybox, Backend::Legacy);
}
