//! `expect:` without hosts: what is refused as input, and what `check` can decide by the inventory alone.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::fs;
use std::process::{Command, Output};

/// `kvmfw check` of an inventory with one host, whose entry has these lines, and a module `web`.
fn check(host: &str, module: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("inventories")).unwrap();
    fs::create_dir_all(folder.path().join("modules/web")).unwrap();
    let lines: String = host.lines().map(|line| format!("    {line}\n")).collect();
    fs::write(folder.path().join("inventories/prod.yaml"), format!("hosts:\n  kvm1:\n{lines}")).unwrap();
    fs::write(folder.path().join("modules/web/module.yaml"), module).unwrap();
    Command::new(env!("CARGO_BIN_EXE_kvmfw")).arg("check").current_dir(folder.path()).output().unwrap()
}

/// Rules of INPUT, keys, and a bridge.
const HOST: &str = "\
iptables:
  filter:
    INPUT:
      rules: |
        -p tcp -s 10.1.2.3 --dport 22 -j ACCEPT
        -p tcp --dport 22 -j DROP
        -p tcp --dport 80 -j ACCEPT
        -p tcp --dport 443 -j REJECT
        -p icmp -j ACCEPT
    FORWARD:
      rules: |
        -i br1 -o br1 -j DROP
        -i br2 -o br2 -m physdev --physdev-in eth2 -j ACCEPT
        -i br2 -o br2 -j DROP
bridges:
  br0: { ports: [eth0], addresses: [192.0.2.1/24] }
  br1: { ports: [eth1] }
  br2: { ports: [eth2] }
";

const BYPASS: &str =
    "sysctl: { 60-b: { net.bridge.bridge-nf-call-iptables: 0, net.bridge.bridge-nf-call-ip6tables: 0 } }\n";
const FILTER: &str = "sysctl: { 60-b: { net.bridge.bridge-nf-call-iptables: 1 } }\n";

#[test]
fn check_says_what_the_inventory_alone_decides() {
    for (keys, expectation, broken) in [
        ("", "passes: { from: 10.1.2.3, to: 'host:22' }", None),
        ("", "blocked: { from: 192.0.2.0/24, to: 'host:22/tcp' }", None),
        ("", "passes: { from: 192.0.2.7, to: 'host:80' }", None),
        ("", "blocked: { from: uplink@br0, to: 'host:443' }", None),
        ("", "passes: { from: uplink@br0, to: host/icmp, bridge: br0 }", None),
        // An address, a network with one exception, and a port that is not written.
        (
            "",
            "passes: { from: 192.0.2.7, to: 'host:22' }",
            Some("192.0.2.7 to the host port 22 over IPv4 is blocked by filter/INPUT rule 2"),
        ),
        (
            "",
            "blocked: { from: 10.0.0.0/8, to: 'host:22' }",
            Some("from 10.1.2.3 to the host port 22 over IPv4 passes by filter/INPUT rule 1"),
        ),
        ("", "blocked: { from: 192.0.2.7, to: host/tcp }", Some("to the host port 80 over IPv4 passes")),
        ("", "blocked: { from: 192.0.2.7, to: host }", Some("passes by filter/INPUT rule")),
        // Whether bridged frames meet rules has to be stated.
        ("", "passes: { from: guest@br1, to: uplink@br1 }", None),
        (
            FILTER,
            "passes: { from: guest@br1, to: 'uplink@br1:80' }",
            Some("is blocked by filter/FORWARD rule 1"),
        ),
        (BYPASS, "passes: { from: guest@br1, to: uplink@br1 }", None),
        (BYPASS, "blocked: { from: guest@br1, to: guest@br1 }", Some("passes: bridged frames meet no rule")),
        // From a port by name, and from one that other rules meet.
        (FILTER, "passes: { from: uplink@br2, to: 'guest@br2:80' }", None),
        (FILTER, "blocked: { from: eth2, to: 'guest@br2:80/udp' }", Some("passes by filter/FORWARD rule 2")),
        (FILTER, "blocked: { from: guest@br2, to: 'uplink@br2:80/udp' }", None),
        // The host decides: no rule meets them, or the host's addresses are not known.
        ("", "passes: { from: 192.0.2.7, to: 'host:25' }", None),
        ("", "blocked: { from: 192.0.2.7, to: 'host:25' }", None),
        ("", "blocked: { from: 192.0.2.7, to: '198.51.100.1:80' }", None),
        ("", "blocked: { from: guest@virbr9, to: 'host:80' }", None),
    ] {
        let output = check(&format!("expect:\n  - {expectation}\n{keys}{HOST}"), "description: none\n");
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let code = output.status.code().unwrap();
        match broken {
            None => assert!(
                code == 0 && !stdout.contains("expectation"),
                "{expectation}: {code}: {stdout}{stderr}"
            ),
            Some(words) => {
                let text = stderr.split_whitespace().collect::<Vec<_>>().join(" ").replace(" │ ", " ");
                assert!(
                    code == 3 && text.contains(words) && text.contains("[inventories/prod.yaml:4:"),
                    "{expectation}: {code}: {stdout}{text}"
                );
            }
        }
    }
}

#[test]
fn expectations_of_modules_take_params() {
    let module = "description: web\nparams:\n  target: { type: string, default: 'host:80' }\n\
        expect:\n  - passes: { from: 192.0.2.7, to: $target }\n";
    assert_eq!(check(&format!("modules: [web]\n{HOST}"), module).status.code(), Some(0));
    let broken =
        check(&format!("modules: [web]\nparams: {{ web: {{ target: 'host:443' }} }}\n{HOST}"), module);
    let stderr = String::from_utf8_lossy(&broken.stderr);
    assert!(broken.status.code() == Some(3) && stderr.contains("modules/web/module.yaml"), "{stderr}");
}

#[test]
fn bad_expectations_are_refused_with_their_place() {
    for (expectation, words) in [
        ("passes: { from: guest@br0 }", "`passes` needs `to`"),
        ("blocked: { to: host }", "`blocked` needs `from`"),
        ("{ }", "an expectation has no verdict"),
        ("{ passes: { from: host, to: br0 }, blocked: { from: host, to: br0 } }", "more than one verdict"),
        ("pases: { from: host, to: br0 }", "did you mean `passes`"),
        ("passes: { form: host, to: br0 }", "did you mean `from`"),
        ("passes: { from: 10.0.0.1/8, to: host }", "write `10.0.0.0/8` or `10.0.0.1`"),
        ("passes: { from: 10.0.0.1, to: '[fd00::1]:80' }", "are of different families"),
        ("passes: { from: 10.0.0.1, to: 'host:99999' }", "`99999` is not a valid port"),
        ("passes: { from: 10.0.0.1, to: 'host:80/sctp' }", "the protocol is tcp, udp or icmp"),
        ("passes: { from: 10.0.0.1, to: 'host:80/icmp' }", "icmp has no ports"),
        ("passes: { from: 'a b', to: host }", "`a b` is not an address, a network"),
        ("passes: { from: [host], to: host }", "expected"),
        ("passes: { from: 10.0.0.1, to: 'host:80', rewritten-to: web }", "`web` is not an address"),
        (
            "blocked: { from: 10.0.0.1, to: 'host:80', rewritten-to: 10.0.0.2 }",
            "a blocked packet is not rewritten",
        ),
        ("passes: host", "expected"),
    ] {
        let output = check(&format!("expect:\n  - {expectation}\n{HOST}"), "description: none\n");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = stderr.split_whitespace().collect::<Vec<_>>().join(" ").replace(" │ ", " ");
        assert!(
            output.status.code() == Some(3)
                && text.contains(words)
                && text.contains("[inventories/prod.yaml:4:"),
            "{expectation}: {text}"
        );
    }
}
