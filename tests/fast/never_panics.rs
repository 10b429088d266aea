//! Whatever is read, it is refused or taken; nothing panics.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use kvmfw::inventory::{ProjectFiles, SourceFile, assemble, select};
use kvmfw::problem::Place;
use kvmfw::resolve::{compile, explain_host};
use kvmfw::resource::iptables::IpFamily;
use kvmfw::resource::iptables::rule::{RuleContext, check};
use kvmfw::resource::iptables::text::{TextLine, quote, split, templates};
use kvmfw::yaml;
use proptest::prelude::*;
use std::path::PathBuf;

fn read(text: &str) {
    let file = SourceFile { name: "hosts.yaml".into(), folder: PathBuf::from("/x"), text: text.into() };
    let files = ProjectFiles { name: "prod".into(), inventory: vec![file], ..ProjectFiles::default() };
    if let Ok(project) = assemble(files) {
        let hosts: Vec<String> = project.hosts.iter().map(|host| host.name.clone()).collect();
        let _ = compile(&project, &hosts);
        let _ = explain_host(&project, &hosts[0]);
    }
}

fn place() -> Place {
    Place { file: "rule".into(), line: 1, column: 1, length: 1 }
}

/// Pieces of inventories, so that more than the YAML parser is reached.
fn yamlish() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "hosts:",
        "groups:",
        "all:",
        "kvm1",
        "kvm[1-3]",
        ": ",
        "{ ",
        " }",
        "[",
        "]",
        ", ",
        "\n",
        "\n  ",
        "\n    ",
        "\n      ",
        "\n        ",
        "- ",
        "iptables:",
        "ip6tables:",
        "filter:",
        "INPUT:",
        "rules: |",
        "first: |",
        "-j ACCEPT",
        "-s 10.0.0.1",
        "! ",
        "\"",
        "'",
        "#",
        "  # x",
        "\\\n",
        "$bridges",
        "$",
        "$$",
        "ssh:",
        "port: 22",
        "params:",
        "host-firewall:",
        "allow_tcp:",
        "modules:",
        "sysctl:",
        "60-x:",
        "net.ipv4.ip_forward: 1",
        "bridges:",
        "br0:",
        "mtu: 1500",
        "checks:",
        "ping: 192.0.2.1",
        "*filter",
        ":INPUT DROP [0:0]",
        "COMMIT",
        "-A INPUT",
        "&a ",
        "*a",
        "!x ",
        "<<: ",
        "---",
        ">",
        "|",
        "é",
        "–",
        "\u{a0}",
        "\t",
        "?",
        "null",
        "1",
        "true",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

fn ruleish() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "-j",
        "-s",
        "-p",
        "-m",
        "-i",
        "--dport",
        "--comment",
        "--tcp-flags",
        "-A",
        "-jACCEPT",
        "-ptcp",
        "-f",
        "!",
        "!-s",
        "ACCEPT",
        "RETURN",
        "10.0.0.0/8",
        "2001:db8::1",
        "tcp",
        "22",
        "\"",
        "\\",
        "'",
        "--",
        "-",
        "--x=\"y z\"",
        "$a",
        "$$",
        "é",
        "–",
        "\t",
        " ",
        "  ",
        "#",
        "--dport=22",
        "-é",
        "''",
        "--jump=x",
        "-j\"A B\"",
        "$",
        "a$b",
    ]);
    prop::collection::vec((piece, prop::sample::select(vec![" ", "", "  "])), 0..20)
        .prop_map(|pieces| pieces.into_iter().map(|(a, b)| format!("{a}{b}")).collect())
}

/// How many of each: more by hand, `PROPTEST_CASES=100000 cargo test`.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        if let Ok(text) = yaml::text(&"x".into(), bytes) {
            read(&text);
        }
    }

    #[test]
    fn any_text(text in "\\PC{0,80}") {
        read(&text);
        read(&format!("hosts:\n  kvm1:\n    {text}\n"));
        let _ = templates(&text, &place(), &mut Vec::new());
    }

    #[test]
    fn any_inventory(text in yamlish()) {
        read(&text);
        read(&format!("hosts:\n  kvm1:\n    {text}"));
    }

    #[test]
    fn any_rule(text in ruleish()) {
        let mut problems = Vec::new();
        for template in templates(&text, &place(), &mut problems) {
            let context = RuleContext { family: IpFamily::V4, table: "filter", chain: "INPUT", builtin: true };
            let checked = check(&template.words, context, &mut problems);
            // What was taken is one line whose words are those that were checked.
            if let Some(checked) = checked.filter(|_| template.params().next().is_none()) {
                let rule = checked.rule(checked.target());
                prop_assert!(!rule.text.contains('\n'));
                if !rule.text.contains(['$', '#']) {
                    let words = split(&TextLine { text: &rule.text, place: place() }).unwrap();
                    let again = check(&words, context, &mut problems).unwrap();
                    prop_assert_eq!(again.rule(again.target()).text, rule.text);
                }
            }
        }
    }

    #[test]
    fn quoting_comes_back(value in "[ -~]{0,20}") {
        let text = quote(&value).replace('$', "$$");
        prop_assume!(!text.starts_with('#'));
        let words = split(&TextLine { text: &text, place: place() });
        if !value.contains('\\') || !value.contains('$') {
            prop_assert_eq!(&words.unwrap()[0].value, &value);
        }
    }

    #[test]
    fn any_limit(limit in "[-kvm01*?!&@,\\[\\]{} a-z]{0,20}") {
        let file = SourceFile {
            name: "hosts.yaml".into(),
            folder: PathBuf::from("/x"),
            text: "hosts:\n  kvm[01-03]: { groups: [a] }\ngroups: { a: { } }\n".into(),
        };
        let files = ProjectFiles { name: "prod".into(), inventory: vec![file], ..ProjectFiles::default() };
        let project = assemble(files).unwrap();
        if let Ok(hosts) = select(&project, &limit) {
            prop_assert!(!hosts.is_empty());
        }
    }
}

#[test]
fn deep_and_long_is_fast() {
    let started = std::time::Instant::now();
    for text in [
        "[".repeat(1_000_000),
        "{".repeat(1_000_000),
        "- ".repeat(500_000),
        "? ".repeat(500_000),
        (0..3000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(),
        format!("hosts: {{ {} }}", "a: {}, ".repeat(100_000)),
        format!("hosts:\n  kvm1: {{ address: {} }}", "x".repeat(3_000_000)),
    ] {
        read(&text);
    }
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn huge_file() {
    let bytes = vec![b' '; 16 * 1024 * 1024 + 1];
    let problem = yaml::text(&"hosts.yaml".into(), bytes).unwrap_err();
    assert_eq!(problem.code, "too-large");
}
