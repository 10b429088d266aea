//! What only kvmfw knows of a host, asked of real ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::project::Project;
use common::{Backend, Lab, Shell};
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
    assert_eq!(plan["hosts"][0]["reason"], "bypass_wrong", "{plan:#}");
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
    project.apply(&lab, &["--accept-risk", "bypass_wrong"]).expect(0);

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
