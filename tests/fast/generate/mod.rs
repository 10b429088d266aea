//! What `kvmfw generate` writes is true: schemas take and refuse what the readers do, manual pages render.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use crate::common;
mod pages;

use kvmfw::inventory::{ProjectLocation, load_text, module_tests};
use kvmfw::yaml::{self, Node, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const KVMFW: &str = env!("CARGO_BIN_EXE_kvmfw");
const PUBLISHED: &str = "book/src/schema";

fn generate(words: &[&str]) -> String {
    let output = Command::new(KVMFW).arg("generate").args(words).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn schema(name: &str) -> jsonschema::Validator {
    let schema: serde_json::Value = serde_json::from_str(&generate(&["schema", name])).unwrap();
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    assert!(jsonschema::draft7::meta::is_valid(&schema), "{name} is no schema");
    jsonschema::draft7::new(&schema).unwrap()
}

/// YAML as the readers see it, for a schema.
fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(v) => (*v).into(),
        Value::Int(v) => i64::try_from(*v).map_or_else(|_| (*v as f64).into(), Into::into),
        Value::Float(v) => (*v).into(),
        Value::Str(v) | Value::Open(v) => v.clone().into(),
        Value::Seq(items) => items.iter().map(json).collect(),
        Value::Map(pairs) => pairs.iter().map(|p| (p.key.clone(), json(&p.value))).collect(),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Which schema a file below a project is for.
fn kind(path: &str) -> Option<&'static str> {
    let yaml = path.ends_with(".yaml");
    if yaml && path.contains("inventories/") {
        Some("inventory")
    } else if yaml && path.contains("modules/") && path.contains("/tests/") {
        Some("module-test")
    } else if yaml && path.contains("modules/") {
        Some("module")
    } else {
        None
    }
}

struct Schemas(BTreeMap<&'static str, jsonschema::Validator>);

impl Schemas {
    fn new() -> Self {
        Self(["inventory", "module", "module-test"].map(|name| (name, schema(name))).into())
    }

    /// What a schema says against a text; nothing about what is no YAML.
    fn against(&self, kind: &str, text: &str) -> Vec<String> {
        let Ok(node) = yaml::parse(&"it".into(), text) else { return vec![] };
        self.0[kind].iter_errors(&json(&node)).map(|e| format!("{}: {e}", e.instance_path())).collect()
    }
}

#[test]
fn schemas_take_what_the_readers_take() {
    let schemas = Schemas::new();
    let mut refused = Vec::new();
    let mut count = 0;
    for folder in ["modules", "inventories", "tests/cases/desired"] {
        for path in files(Path::new(folder)) {
            let name = path.to_string_lossy().into_owned();
            let Some(kind) = kind(&name) else { continue };
            count += 1;
            let text = fs::read_to_string(path).unwrap();
            refused.extend(schemas.against(kind, &text).into_iter().map(|e| format!("{name}: {e}")));
        }
    }
    // The book's, which its own test reads.
    for path in files(Path::new("book/src")).iter().filter(|p| p.extension().is_some_and(|e| e == "md")) {
        let text = fs::read_to_string(path).unwrap();
        for block in text.split("```yaml\n").skip(1) {
            let body = block.split("```").next().unwrap();
            let Some(kind) = kind(body.lines().next().unwrap()) else { continue };
            count += 1;
            let name = path.display();
            refused.extend(schemas.against(kind, body).into_iter().map(|e| format!("{name}: {e}")));
        }
    }
    assert!(count > 25, "only {count}");
    assert!(refused.is_empty(), "{refused:#?}");
}

/// Cases of bad input that no schema can tell, because it sees one file, and not how it is written.
const UNSEEN: [&str; 1] = [
    // The types of params stand in the module's file.
    "param-types",
];

#[test]
fn schemas_refuse_what_the_readers_refuse() {
    let schemas = Schemas::new();
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in fs::read_dir("tests/cases/bad-input").unwrap() {
        let case = case.unwrap().path();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let said = fs::read_to_string(case.join("expected.txt")).unwrap();
        for path in files(&case) {
            let below = path.strip_prefix(&case).unwrap().to_string_lossy().into_owned();
            let Some(kind) = kind(&below) else { continue };
            let Ok(text) = fs::read_to_string(&path) else { continue };
            if yaml::parse(&"it".into(), &text).is_err() {
                continue;
            }
            let refused = !schemas.against(kind, &text).is_empty();
            // A problem of this file that is about its structure.
            let structural = said.lines().filter(|line| line.starts_with(&below)).any(|line| {
                [
                    "unknown key",
                    "expected ",
                    "is not between",
                    "has no type",
                    "a line break",
                    "address on a range",
                ]
                .iter()
                .any(|w| line.contains(w))
            });
            let unseen = UNSEEN.contains(&name.as_str());
            count += usize::from(refused);
            if structural && !refused && !unseen {
                wrong.push(format!("{name}/{below} is taken by the schema"));
            }
            if refused && unseen {
                wrong.push(format!("{name} is refused by the schema: take it out of UNSEEN"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count >= 30, "only {count} refused");
}

/// What is seldom written, but right: every key there is, and values at the edge of what is taken.
const INVENTORY: &str = r#"
lints: { dead-rule: deny }
extensions: [othermatch]
hosts:
  kvm[01-03,7].dc1: { modules: [all-keys] }
  kvm9:
    address: '2001:db8::9'
    groups: [storage, dc1]
    ssh:
      port: 2222
      user: admin@realm
      become: sudo
      identity_file: ~/.ssh/fleet
      known_hosts: ./known_hosts
      jump: 'me@bastion:2222,[2001:db8::1]:22'
      connect_timeout: 1m 30s
      options: { serveraliveinterval: 5, Compression: true, StrictHostKeyChecking: ask }
groups:
  all:
  dc1: { groups: }
  storage:
    groups: [dc1]
    max_in_flight: 1
    lints: { dead-rule: warn, first-conntrack: allow }
    modules: [host-firewall]
    params: { host-firewall: { allow_tcp: [22, '8000:8010'] }, bridge-bypass: }
    sysctl:
      60-arp:
        net.ipv4.conf.all.arp_ignore: 1
        net/ipv4/conf/eth0.7/arp_filter: '0'
        kernel.core_pattern: '|/bin/true %p'
      empty:
    unmanaged_chains: [DOCKER-USER]
    extensions: [mymatch]
    iptables:
      filter:
        INPUT: { policy: DROP, jump: first }
        FORWARD: { jump: last, first: , rules: , last: }
        my.chain_1-x:
        DOCKER-USER: { jump: first }
    ip6tables: |
      *filter
      -A INPUT -i lo -j ACCEPT
      COMMIT
    ipset:
      admins: { type: 'hash:net', family: inet6, maxelem: 9, comment: true, entries: ['2001:db8::/32 comment "x"', '2001:db8:1::/48 nomatch'] }
      banned: { type: 'hash:ip', hashsize: 64, netmask: 24, timeout: 60, counters: true, forceadd: false, entries: unmanaged }
      ports: { type: 'bitmap:port', range: 0-1023, entries: [22, 80-82] }
      all: { type: 'list:set', size: 8, entries: [admins] }
    bridges:
      br0: { manage: false }
      br2:
        ports: { eth2: { isolated: true, hairpin: false, cost: 7, priority: 32 }, eth3: }
        hello_time: 2
        max_age: 20
        priority: 4096
        group_fwd_mask: 8
        vlan_default_pvid: 30
        multicast_snooping: true
        multicast_querier: false
      br1:
        manage: true
        ports: [eth1]
        addresses: ['192.0.2.7/24', '2001:db8::7/64']
        gateways: [192.0.2.1, '2001:db8::1']
        take_addresses: true
        mac: 52:54:00:aa:bb:cc
        mtu: 9000
        forward_delay: 0
        ageing: 300
        stp: false
        vlan_filtering: true
        vlans: { eth1: [10, { vid: 20, pvid: true, untagged: true }] }
        nf_call_iptables: false
        nf_call_ip6tables: false
        nf_call_arptables: false
    checks:
      - { ping: 192.0.2.1, from: controller, timeout: 5s, required: true }
      - { tcp: '[2001:db8::1]:22' }
      - { command: 'test -e /dev/kvm && true', from: host }
    expect:
      - passes: { from: guest@br0, to: '192.0.2.53:53/udp', bridge: br0, established: true }
      - blocked: { from: 10.0.0.0/8, to: 'host:22', in: br0 }
      - passes: { from: 192.0.2.9, to: 'host:80/tcp', rewritten-to: '192.0.2.10:8080' }
"#;
const MODULE: &str = r#"
description: Every key.
params:
  flag: { type: bool, default: false, doc: On or off. }
  number: { type: int, min: 1, max: 9, default: 5 }
  numbers: { type: list< int >, default: [1] }
  text: { type: string, pattern: 'a*', default: abc }
  nets: { type: list<cidr>, default: [10.0.0.0/8, '2001:db8::/32'] }
  where: { type: ip, default: 192.0.2.1 }
  mac: { type: mac, default: 52:54:00:aa:bb:cc }
  link: { type: iface, default: vnet+ }
  port: { type: port, default: '1:9' }
  level: { type: enum, values: [debug, info], default: info }
  strict: { type: enum, values: [debug, info], default: debug }
sysctl: { 60-x: { net.ipv4.ip_forward: $number } }
iptables: { filter: { INPUT: { policy: DROP } } }
ip6tables:
bridges: { br7: { mtu: $number, stp: $flag, addresses: $nets, ports: [$link] } }
ipset:
  nets: { type: 'hash:net', entries: $nets, maxelem: $number, comment: $flag }
  others: { type: 'hash:ip', family: inet, hashsize: 64, netmask: 24, timeout: 60, counters: true, forceadd: true, entries: unmanaged }
  ports: { type: 'bitmap:port', range: 0-9, entries: [1, '2-3'] }
  list: { type: 'list:set', size: 8, entries: [nets] }
checks: [{ ping: $where, timeout: 5s }]
unmanaged_chains: []
extensions: [MYTARGET]
"#;

const TEST: &str = r#"
every key:
  given: { modules: [host-firewall], params: { host-firewall: { allow_tcp: [22] } }, bridges: { br0: { manage: false } } }
  observed: { iptables: "*filter\nCOMMIT\n", ip6tables: "*filter\nCOMMIT\n", sysctl: { net.bridge.bridge-nf-call-iptables: 1 } }
  iptables: { filter: { INPUT: { last: } } }
  ip6tables: { filter: { FORWARD: } }
  sysctl: { 60-x: { net.ipv4.ip_forward: 1 } }
  packets:
    - { chain: FORWARD, ip: 4, in: eth0, out: eth1, src: 192.0.2.1, dst: 192.0.2.2, tcp: 22, state: NEW, verdict: ACCEPT }
    - { bridge: br0, ip: 6, in: vnet0, icmp: 135/0, state: UNTRACKED, verdict: unknown, by: policy }
    - { chain: INPUT, udp: 53, dst: '2001:db8::1', verdict: REJECT }
    - { chain: OUTPUT, icmp: echo, verdict: DROP }
an error: { given: { modules: [host-firewal] }, error: unknown module }
"#;

fn properties(schema: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match schema {
        serde_json::Value::Object(map) => {
            if let Some(serde_json::Value::Object(named)) = map.get("properties") {
                keys.extend(
                    named
                        .keys()
                        .filter(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
                        .cloned(),
                );
            }
            map.values().for_each(|value| properties(value, keys));
        }
        serde_json::Value::Array(list) => list.iter().for_each(|value| properties(value, keys)),
        _ => {}
    }
}

#[test]
fn schemas_and_readers_take_every_key() {
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("modules/all-keys");
    fs::create_dir_all(&module).unwrap();
    // Values of bridges are checked when they are put in: `9` is no MTU.
    fs::write(module.join("module.yaml"), MODULE.replace("mtu: $number, ", "")).unwrap();
    let locate =
        ProjectLocation { dir: Some(folder.path().into()), home: Some("/home/ops".into()), inventory: None };
    fs::create_dir_all(module.join("tests")).unwrap();
    fs::write(module.join("tests/all.yaml"), TEST).unwrap();
    let project =
        load_text(&locate, "all", INVENTORY).unwrap_or_else(|problems| panic!("{:#?}", problems.list));
    let (tests, _) = module_tests(&project).unwrap_or_else(|problems| panic!("{:#?}", problems.list));
    assert_eq!((tests.len(), tests[0].packets.len()), (2, 4));
    let schemas = Schemas::new();
    for (name, text) in [("inventory", INVENTORY), ("module", MODULE), ("module-test", TEST)] {
        assert_eq!(schemas.against(name, text), [""; 0], "{name}");
        let mut keys = BTreeSet::new();
        properties(&serde_json::from_str(&generate(&["schema", name])).unwrap(), &mut keys);
        keys.retain(|key| !["raw", "mangle", "nat", "security"].contains(&key.as_str()));
        // What groups and modules share is in the inventory's.
        let all = format!("{INVENTORY}{MODULE}{TEST}");
        keys.retain(|key| !all.contains(&format!("{key}:")));
        assert!(keys.is_empty(), "{name}: this test does not use {keys:?}");
    }
}

/// Copies for those who have no kvmfw at hand; `UPDATE_EXPECT=1` rewrites them.
#[test]
fn published_schemas_are_those_of_the_program() {
    let folder = tempfile::tempdir().unwrap();
    generate(&["schema", "--out", folder.path().to_str().unwrap()]);
    let names = |folder: &Path| -> Vec<String> {
        files(folder).iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::create_dir_all(PUBLISHED).unwrap();
        for file in files(folder.path()) {
            fs::copy(&file, Path::new(PUBLISHED).join(file.file_name().unwrap())).unwrap();
        }
    }
    assert_eq!(names(folder.path()), names(Path::new(PUBLISHED)));
    for file in files(folder.path()) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let published = fs::read_to_string(Path::new(PUBLISHED).join(&name)).unwrap();
        assert!(
            fs::read_to_string(&file).unwrap() == published,
            "{name} is old: UPDATE_EXPECT=1 rewrites it"
        );
    }
}

/// The first line of every YAML file of ours tells an editor its schema.
#[test]
fn shipped_yaml_names_its_schema() {
    for folder in ["modules", "inventories"] {
        for path in files(Path::new(folder)).iter().filter(|p| p.extension().is_some_and(|e| e == "yaml")) {
            let text = fs::read_to_string(path).unwrap();
            let first = text.lines().next().unwrap();
            let schema = first
                .strip_prefix("# yaml-language-server: $schema=")
                .unwrap_or_else(|| panic!("{} starts with `{first}`", path.display()));
            let file = path.parent().unwrap().join(schema);
            let right = format!("{}.json", kind(&path.to_string_lossy()).unwrap());
            assert!(file.exists() && schema.ends_with(&right), "{}: {schema}", path.display());
        }
    }
}

/// `plan --format json` against the schema of what it writes is in the tests with hosts; here the book.
#[test]
fn the_output_of_the_book_fits_its_schema() {
    let page = fs::read_to_string("book/src/json.md").unwrap();
    let example = page.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let schema = schema("output");
    let mut document: serde_json::Value = serde_json::from_str(example).unwrap();
    let errors: Vec<String> =
        schema.iter_errors(&document).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?}");
    document["hosts"][0]["status"] = "fine".into();
    assert!(!schema.is_valid(&document));
}

#[test]
fn manual_pages_render_without_warnings() {
    if !common::require_tools(&["groff"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    generate(&["man", "--out", folder.path().to_str().unwrap()]);
    let pages = files(folder.path());
    let name = |page: &PathBuf| page.file_name().unwrap().to_string_lossy().into_owned();
    let names: Vec<String> = pages.iter().map(name).collect();
    for wanted in ["kvmfw.1", "kvmfw-apply.1", "kvmfw-inventory-show.1", "kvmfw-generate-man.1"] {
        assert!(names.iter().any(|n| n == wanted), "{names:?}");
    }
    let main = fs::read_to_string(folder.path().join("kvmfw.1")).unwrap();
    assert_eq!(main, generate(&["man"]));
    for section in ["SH NAME", "SH OPTIONS", "SH SUBCOMMANDS", "SH \"EXIT STATUS\"", "SH \"FILES\""] {
        assert!(main.contains(section), "{section}");
    }
    for page in &pages {
        let groff = Command::new("groff")
            .args(["-man", "-Tutf8", "-Kutf8", "-ww", "-rCHECKSTYLE=2"])
            .arg(page)
            .output();
        let groff = groff.unwrap();
        let said = String::from_utf8_lossy(&groff.stderr).into_owned();
        assert!(groff.status.success() && said.is_empty(), "{}: {said}", name(page));
    }
}
