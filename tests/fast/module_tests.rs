//! `kvmfw check` runs the tests of modules: they pass here, and say plainly what is otherwise.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use std::fs;
use std::path::Path;
use std::process::Command;

/// What check says in a project, and its code.
fn check(folder: &Path) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kvmfw"))
        .args(["check", "--color", "never", "-C"])
        .arg(folder)
        .env("COLUMNS", "200")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

/// A project with one module and its test.
fn project(module: &str, test: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("inventories/prod.yaml", "hosts: { kvm1: }\n"),
        ("modules/mine/module.yaml", module),
        ("modules/mine/tests/it.yaml", test),
    ] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn every_shipped_module_has_tests_with_packets_and_they_pass() {
    for module in fs::read_dir("modules").unwrap() {
        let folder = module.unwrap().path().join("tests");
        let texts: String = fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
            .collect();
        assert!(texts.contains("verdict: ACCEPT"), "{} has no packets", folder.display());
    }
    let (code, said) = check(Path::new("."));
    assert_eq!(code, 0, "{said}");
    let count: usize = said.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(count >= 12 && said.ends_with(" module tests passed.\n"), "{said}");
}

const MODULE: &str = "
params: { port: { type: port, default: 80 } }
sysctl: { 60-x: { net.ipv4.ip_forward: 1 } }
iptables:
  filter:
    INPUT:
      policy: DROP
      rules: |
        -p tcp --dport $port -j ACCEPT
        -s 10.0.0.0/8,192.168.0.0/16 -j web
    web:
      rules: |
        -m tcp -p tcp --dport 443 -j ACCEPT
        -p udp -j REJECT
";

/// One wrong thing of each kind, and what is said of it.
const OTHERWISE: [(&str, &[&str]); 8] = [
    (
        "iptables:\n    filter:\n      web:\n        rules: |\n          -p udp -j DROP\n",
        &[
            "iptables filter/web differs",
            "it.yaml:4:7",
            "- -p udp -j DROP",
            "+ -p udp -j REJECT",
            "+ -m tcp -p tcp --dport 443 -j ACCEPT",
        ],
    ),
    ("iptables: { filter: { INPUT: { policy: ACCEPT } } }", &["- policy ACCEPT", "+ policy DROP"]),
    (
        "sysctl: { 60-x: { net.ipv4.ip_forward: 0 } }",
        &["- net.ipv4.ip_forward = 0", "+ net.ipv4.ip_forward = 1"],
    ),
    (
        "packets: [{ chain: INPUT, ip: 4, tcp: 81, src: 192.0.2.1, verdict: ACCEPT }]",
        &["expected ACCEPT, the IPv4 packet gets DROP: filter/INPUT policy DROP", "it.yaml:3:13"],
    ),
    (
        "packets: [{ chain: INPUT, ip: 4, udp: 53, src: 192.168.7.1, verdict: DROP }]",
        &["gets REJECT: filter/web rule 2: -p udp -j REJECT"],
    ),
    (
        // Who sends it is not said, and a rule asks for it.
        "packets: [{ chain: INPUT, ip: 4, tcp: 443, verdict: ACCEPT }]",
        &["gets unknown: filter/INPUT rule 2: -s 10.0.0.0/8 -j web"],
    ),
    ("error: no such thing", &["expected the error `no such thing`, but there is no error"]),
    (
        "packets: [{ chain: INPUT, ip: 4, tcp: 80, verdict: ACCEPT, by: policy }]",
        &["expected ACCEPT by `policy`, the IPv4 packet gets ACCEPT: filter/INPUT rule 1"],
    ),
];

#[test]
fn drift_is_shown_with_its_line() {
    for (expected, wanted) in OTHERWISE {
        let folder = project(
            MODULE,
            &format!("it works:\n  {expected}\n").replace("packets:", "given: { }\n  packets:"),
        );
        let (code, said) = check(folder.path());
        assert_eq!(code, 3, "{expected}: {said}");
        // Long lines are broken.
        let flat = |text: &str| text.replace('│', "").split_whitespace().collect::<String>();
        let said = flat(&said);
        for part in wanted {
            assert!(said.contains(&flat(part)), "{expected}: no `{part}` in\n{said}");
        }
        assert!(said.contains("modulemine,`itworks`"), "{said}");
    }
}

/// A file of tests is read as strictly as any other.
#[test]
fn a_wrong_file_of_tests_is_refused_with_its_line() {
    for (test, wanted) in [
        ("a:\n  packts: []\n", "it.yaml:2:3: unknown key `packts`"),
        ("a:\n  given: { }\n", "this test expects nothing"),
        ("a: { packets: [{ chain: INPUT, tcp: 80 }] }\n", "this packet has no expected verdict"),
        ("a: { packets: [{ tcp: 80, verdict: DROP }] }\n", "this packet has no chain"),
        ("a: { packets: [{ chain: INPT, verdict: DROP }] }\n", "did you mean `INPUT`?"),
        (
            "a: { packets: [{ chain: INPUT, icmp: 8, verdict: DROP }] }\n",
            "types of ICMP are not those of ICMPv6",
        ),
        ("a: { packets: [{ chain: INPUT, tcp: 1, udp: 1, verdict: DROP }] }\n", "carries one of"),
        ("a: { given: { address: 192.0.2.1 }, error: x }\n", "unknown key `address` in what is given"),
        ("a: { given: { modules: [mien] }, packets: [] }\n", "did you mean `mine`?"),
        ("a: { observed: { iptables: nonsense }, packets: [] }\n", "is not output of iptables-save"),
        ("a: { iptables: { filter: { INPUT: { rules: -j ACCEPT } } } }\n", "rules are text in a block"),
    ] {
        let folder = project(MODULE, test);
        let output = Command::new(env!("CARGO_BIN_EXE_kvmfw"))
            .args(["check", "--format", "json", "-C"])
            .arg(folder.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(3), "{test}");
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let said: Vec<String> = document["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| {
                let file = e["file"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
                format!(
                    "{file}:{}:{}: {} {}",
                    e["line"],
                    e["column"],
                    e["message"].as_str().unwrap(),
                    e["help"]
                )
            })
            .collect();
        assert!(said.iter().any(|line| line.contains(wanted)), "{test}: {said:#?}");
    }
}
