//! What a plan is worth: empty when all is done, short when much is equal, precise about where things
//! come from, and without a trace on the hosts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, Run};
use common::{Backend, Cut, Lab};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const HOST: &str = "kvm1";

// --- the second plan is empty -----------------------------------------------------------------------

/// A rule as people write it, and as iptables prints it.
struct Row {
    number: u32,
    family: &'static str,
    table: &'static str,
    chain: &'static str,
    written: &'static str,
    printed: &'static str,
}

impl Row {
    fn chain_of_ours(&self) -> String {
        format!("R{}", self.number)
    }
}

/// What kvmfw does not take, though iptables does: it would be cut off without a word (88, 89, 106), read
/// as octal (34), asked of DNS (35), or was pasted from a web page (241); or says the family (253).
const REFUSED: [(u32, &str); 7] = [
    (34, "leading 0 as octal"),
    (35, "localhost"),
    (88, "longer than 29 characters"),
    (89, "longer than 29 characters"),
    (106, "longer than 255 characters"),
    (241, "LEFT DOUBLE QUOTATION MARK"),
    (253, "`-4` is not part of a rule"),
];

fn rows() -> Vec<Row> {
    let text: &'static str = include_str!("../data/canon_written.tsv");
    let rows: Vec<Row> = text
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(|line| {
            let fields: Vec<&'static str> = line.split('\t').collect();
            let mut words = fields[3].splitn(3, ' ').skip(1);
            let (chain, written) = (words.next().unwrap(), words.next().unwrap());
            let printed = fields[4].splitn(3, ' ').nth(2).unwrap_or("");
            let number = fields[0].parse().unwrap();
            Row { number, family: fields[1], table: fields[2], chain, written, printed }
        })
        .collect();
    assert!(rows.len() > 120, "only {} rows", rows.len());
    rows
}

/// One chain for each rule, and in the built-in chain a jump to it that no packet takes: so each is
/// loaded where it belongs, and none of them decides about anything.
fn module(rows: &[&Row]) -> String {
    let mut tree: BTreeMap<(&str, &str), BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for (n, row) in rows.iter().enumerate() {
        let chains = tree.entry((row.family, row.table)).or_default();
        let never = match row.family {
            "4" => format!("-s 192.0.2.{}/32", n + 1),
            _ => format!("-s 2001:db8:ffff::{:x}/128", n + 1),
        };
        chains.entry(row.chain.to_owned()).or_default().push(format!("{never} -j {}", row.chain_of_ours()));
        chains.entry(row.chain_of_ours()).or_default().push(row.written.to_owned());
    }
    let mut yaml = "description: Every rule that was ever measured.\n".to_owned();
    for (family, key) in [("4", "iptables"), ("6", "ip6tables")] {
        let _ = writeln!(yaml, "{key}:");
        for ((_, table), chains) in tree.iter().filter(|((f, _), _)| *f == family) {
            let _ = writeln!(yaml, "  {table}:");
            for (chain, rules) in chains {
                let _ = writeln!(yaml, "    {chain}:\n      rules: |");
                for rule in rules {
                    let _ = writeln!(yaml, "        {rule}");
                }
            }
        }
    }
    yaml
}

fn every_row(backend: Backend) {
    if !common::require_root() {
        return;
    }
    let rows = rows();
    let taken: Vec<&Row> = rows.iter().filter(|r| !REFUSED.iter().any(|(n, _)| *n == r.number)).collect();
    let lab = Lab::builder().backend(backend).guests(false).up();
    let project = Project::new(&lab, &[HOST], "modules: [canon]\n");
    project.module("canon", &module(&taken));
    project.kvmfw(&lab, &["check"]).expect(0);
    let run = project.kvmfw(&lab, &["apply", "-y"]).expect(0);
    assert!(run.stdout.contains("changed         1"), "{}", run.stdout);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);

    let live = ["iptables-save", "ip6tables-save"].map(|tool| lab.host(HOST, &[tool]).ok());
    for row in &taken {
        let line = format!("-A KVMFW-{} {}", row.chain_of_ours(), row.printed);
        let line = line.trim_end();
        let text = &live[usize::from(row.family == "6")];
        let is = text.lines().filter(|l| l.contains(&format!("-A KVMFW-{} ", row.chain_of_ours())));
        assert!(
            text.lines().any(|l| l == line),
            "row {}: not {line} but {:?}",
            row.number,
            is.collect::<Vec<_>>()
        );
    }

    // What was proven once is not proven again; so another rule, and the plan is about that one alone.
    project.all("modules: [canon]\niptables:\n  filter:\n    MORE:\n      rules: |\n        -j ACCEPT\n");
    let plan = project.kvmfw(&lab, &["plan", "--detailed-exitcode", "--format", "json"]).expect(2);
    let changes = plan.json()["hosts"][0]["changes"].clone();
    let names: Vec<&str> =
        changes.as_array().unwrap().iter().map(|c| c["resource"].as_str().unwrap()).collect();
    assert_eq!(names, ["filter/MORE"], "{changes:#}");
}

#[test]
fn the_second_plan_is_empty_for_every_rule() {
    every_row(Backend::Nft);
}

#[test]
fn the_second_plan_is_empty_for_every_rule_on_legacy() {
    every_row(Backend::Legacy);
}

#[test]
fn rules_that_kvmfw_does_not_accept() {
    if !common::require_root() {
        return;
    }
    let rows = rows();
    let lab = Lab::builder().guests(false).up();
    for (number, why) in REFUSED {
        let row = rows.iter().find(|r| r.number == number).unwrap();
        let project = Project::new(&lab, &[HOST], "modules: [canon]\n");
        project.module("canon", &module(&[row]));
        let check = project.kvmfw(&lab, &["check"]).expect(3);
        assert!(check.stderr.contains("modules/canon/module.yaml"), "{}", check.stderr);
        assert!(check.stderr.contains(why), "row {number}: no `{why}` in {}", check.stderr);
    }
}

/// Applies, plans to nothing, and takes it all back.
#[track_caller]
fn settles(lab: &Lab, project: &Project) -> Run {
    let before = lab.dump(HOST);
    project.kvmfw(lab, &["plan", "--detailed-exitcode"]).expect(2);
    let run = project.apply(lab, &[]).expect(0);
    let plan = project.kvmfw(lab, &["plan", "--detailed-exitcode"]);
    assert_eq!(plan.code, 0, "the second plan is not empty:\n{}{}", plan.stdout, plan.stderr);
    project.kvmfw(lab, &["undo", "--to", "0", "-y"]).expect(0);
    let after = lab.dump(HOST);
    let lost = before.lines().filter(|l| !after.contains(l)).map(|l| format!("- {l}\n"));
    let new = after.lines().filter(|l| !before.contains(l)).map(|l| format!("+ {l}\n"));
    assert!(before == after, "undo --to 0 left:\n{}{}", lost.collect::<String>(), new.collect::<String>());
    run
}

#[test]
fn sysctl_values_of_all_shapes() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    // Several values in one, with the gaps that people write; a key with a dot in a name; booleans.
    let project = Project::new(
        &lab,
        &[HOST],
        "sysctl:
  60-net:
    net.ipv4.ip_forward: 1
    net.ipv4.ip_local_port_range: 20000   60000
    net.ipv4.tcp_rmem: '4096 131072 6291456'
    net.ipv4.tcp_wmem: 4096  16384 4194304
    net.ipv4.ping_group_range: '0 2147483647'
    net.ipv4.conf.all.arp_ignore: 1
    net/ipv4/conf/br123/rp_filter: 2
    net.ipv6.conf.default.accept_ra: 0
    net.ipv4.tcp_congestion_control: reno
    net.ipv4.ip_local_reserved_ports: '8080-8090,9000'
  61-bridge:
    net.bridge.bridge-nf-call-iptables: 0
    net.bridge.bridge-nf-call-arptables: 0
    net.netfilter.nf_conntrack_tcp_timeout_established: 86400
",
    );
    settles(&lab, &project);
}

/// Each alone and all together, on a bridge that is there and on one that is not.
#[test]
fn bridges_with_every_attribute() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let filters = lab.host(HOST, &["sh", "-c", "ip link set br123 type bridge vlan_filtering 0"]).success();
    let mut attributes = vec![
        "mtu: 1400",
        "stp: true",
        "forward_delay: 4",
        "ageing: 120",
        "nf_call_iptables: true",
        "nf_call_ip6tables: true",
        "nf_call_arptables: true",
        "addresses: ['192.0.2.1/24', '2001:db8:5::1/64']",
        "mac: '02:00:00:00:00:05'",
    ];
    if filters {
        attributes.push("vlan_filtering: true");
    }
    let project = Project::new(&lab, &[HOST], "");
    for attribute in &attributes {
        // A pinned MAC and a set MTU of a bridge that is there cannot be unpinned: said as one-way.
        let there = !attribute.starts_with("mac") && !attribute.starts_with("mtu");
        project.all(&format!("bridges: {{ {}: {{ {attribute} }} }}\n", if there { "br123" } else { "br9" }));
        settles(&lab, &project);
    }
    project.all("bridges: { br123: { stp: true, forward_delay: 4 } }\n");
    settles(&lab, &project);
    project.all(&format!("bridges: {{ br9: {{ {}, gateways: [192.0.2.254] }} }}\n", attributes.join(", ")));
    settles(&lab, &project);
}

#[test]
fn the_management_link_moves_into_a_bridge() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(
        &lab,
        &[HOST],
        "bridges: { brmgmt: { ports: [eth0], take_addresses: true, stp: false } }\n",
    );
    let run = settles(&lab, &project);
    assert!(run.stderr.contains("! on SSH path"), "{}", run.stderr);
}

#[test]
fn unmanaged_inserts_are_not_a_change() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let base = "modules: [host-firewall, bridge-accept-each]\nbridges: { br123: { manage: false } }\n";
    let project = Project::new(&lab, &[HOST], base);
    project.apply(&lab, &[]).expect(0);
    for tool in ["iptables", "ip6tables"] {
        lab.host(HOST, &[tool, "-I", "FORWARD", "-i", "virbr0", "-j", "ACCEPT"]).ok();
        lab.host(HOST, &[tool, "-A", "INPUT", "-i", "docker0", "-j", "DROP"]).ok();
    }
    let plan = project.kvmfw(&lab, &["plan", "--detailed-exitcode", "--format", "json"]).expect(0);
    let warnings = plan.json()["hosts"][0]["warnings"].clone();
    let outranked: Vec<_> =
        warnings.as_array().unwrap().iter().filter(|w| w["code"] == "jump-outranked").collect();
    assert_eq!(outranked.len(), 2, "{warnings:#}");
    assert!(outranked[0]["message"].as_str().unwrap().contains("-i virbr0 -j ACCEPT"), "{warnings:#}");

    // Whoever wants to be first has to say so, and it is done once.
    project.all(&format!("{base}iptables: {{ filter: {{ FORWARD: {{ jump: first }} }} }}\n"));
    let plan = project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    assert!(plan.stdout.contains("iptables filter/FORWARD"), "{}", plan.stdout);
    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(0);
    let forward = lab.host(HOST, &["iptables", "-S", "FORWARD"]).ok();
    assert!(forward.lines().nth(1).unwrap().ends_with("-j KVMFW-FORWARD"), "{forward}");
    assert!(forward.contains("-A FORWARD -i virbr0 -j ACCEPT"), "{forward}");
}

// --- what it says -----------------------------------------------------------------------------------

#[test]
fn equal_changes_are_one_block() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let all = "modules: [host-firewall, bridge-accept-each]\nbridges: { br123: { manage: false } }\nsysctl: { 60-arp: { net.ipv4.conf.all.arp_ignore: 1 } }\n";
    let project = Project::new(&lab, &["kvm1", "kvm2", "kvm3"], all);
    let plan = project.kvmfw(&lab, &["plan"]).expect(0);
    let blocks: Vec<&str> = plan.stdout.lines().filter(|l| l.starts_with("+ ")).collect();
    assert!(blocks.iter().all(|b| b.contains("kvm[1-3] (3 hosts)")), "{}", plan.stdout);
    // INPUT, FORWARD and the chain of the module, twice, and the file.
    assert_eq!(blocks.len(), 7, "{}", plan.stdout);
    let summary = "\nPlan: 21 to add, 0 to change, 0 to remove on 3 of 3 hosts.";
    assert!(plan.stdout.contains(summary), "{}", plan.stdout);

    // One of them is elsewhere already: the other two stay together.
    project.apply(&lab, &["--limit", "kvm2"]).expect(0);
    let plan = project.kvmfw(&lab, &["plan"]).expect(0);
    assert!(plan.stdout.contains("kvm[1,3] (2 hosts)"), "{}", plan.stdout);
    assert!(!plan.stdout.contains("kvm2"), "{}", plan.stdout);
    let json = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0).json();
    let changes = |n: usize| json["hosts"][n]["changes"].clone();
    assert_eq!(changes(0), changes(2));
    assert_eq!((json["hosts"][1]["status"].as_str(), changes(1)), (Some("unchanged"), serde_json::json!([])));
}

#[test]
fn every_rule_has_its_origin_and_the_path_of_ssh_is_marked() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(
        &lab,
        &[HOST],
        "modules: [mine]\niptables:\n  filter:\n    INPUT:\n      rules: |\n        -p tcp --dport 8006 -j ACCEPT\n    OUTPUT:\n      rules: |\n        -d 192.0.2.9 -j ACCEPT\nsysctl: { 60-arp: { net.ipv4.conf.all.arp_ignore: 1 } }\n",
    );
    project.module(
        "mine",
        "description: Mine.\niptables:\n  filter:\n    FORWARD:\n      rules: |\n        # a comment counts as a line\n        -i eth7 -j DROP\n",
    );
    let plan = project.kvmfw(&lab, &["plan"]).expect(0);
    let line = |text: &str| {
        plan.stdout.lines().find(|l| l.contains(text)).unwrap_or_else(|| panic!("no {text}: {}", plan.stdout))
    };
    assert!(
        line("-p tcp -m tcp --dport 8006 -j ACCEPT").ends_with("# inventories/lab.yaml:11"),
        "{}",
        plan.stdout
    );
    assert!(line("-i eth7 -j DROP").ends_with("# modules/mine/module.yaml:7"), "{}", plan.stdout);
    assert!(line("net.ipv4.conf.all.arp_ignore = 1").contains("inventories/lab.yaml:15"), "{}", plan.stdout);
    assert!(line("filter/INPUT").contains("on SSH path"), "{}", plan.stdout);
    assert!(!line("filter/FORWARD").contains("on SSH path"), "{}", plan.stdout);

    let json = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0).json();
    for change in json["hosts"][0]["changes"].as_array().unwrap() {
        let origins = change["origin"].as_array().unwrap();
        assert!(!origins.is_empty(), "{change:#}");
        for origin in origins {
            let origin = origin.as_str().unwrap();
            let (file, line) = origin.rsplit_once(':').unwrap();
            assert!(project.path().join(file).exists() && line.parse::<u32>().is_ok(), "{origin}");
        }
        let risky = change["risks"].as_array().unwrap().iter().any(|r| r == "management-path");
        let on_path = ["filter/INPUT", "filter/OUTPUT"].contains(&change["resource"].as_str().unwrap());
        assert_eq!(risky, on_path, "{change:#}");
    }
}

#[test]
fn an_unreachable_host_does_not_stop_the_others() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().hosts(3).guests(false).up();
    let project = Project::new(&lab, &["kvm1", "kvm2", "kvm3"], "modules: [host-firewall]\n");
    lab.cut("kvm2", Cut::Both);
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(5);
    let statuses = |run: &Run| -> Vec<String> {
        let json = run.json();
        let hosts = json["hosts"].as_array().unwrap().iter();
        hosts.map(|h| format!("{} {}", h["name"].as_str().unwrap(), h["status"].as_str().unwrap())).collect()
    };
    assert_eq!(statuses(&plan), ["kvm1 changed", "kvm2 unreachable", "kvm3 changed"]);
    let run = project.apply(&lab, &["--max-unreachable", "1", "--format", "json"]).expect(5);
    assert_eq!(statuses(&run), ["kvm1 changed", "kvm2 unreachable", "kvm3 changed"]);
    let host = run.json()["hosts"][1].clone();
    assert!(host["message"].as_str().is_some_and(|m| m.contains("10.99.0.12")), "{host}");
    lab.mend("kvm2");
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0);
    assert_eq!(statuses(&plan), ["kvm1 unchanged", "kvm2 changed", "kvm3 unchanged"]);
}

// --- what it does not do ----------------------------------------------------------------------------

/// Everything a plan could leave behind: state, times of files, connections, modules.
fn traces(lab: &Lab) -> String {
    let script =
        "find /etc /var /run /root -xdev ! -path '/run/lab*' -printf '%T@ %p\\n' 2>/dev/null | sort -k2
        ip netns list; ls /dev/shm /tmp
        # Of connections those that are not SSH's own.
        grep -v -e 'port=22 ' /proc/net/nf_conntrack 2>/dev/null | sed 's/ [0-9]* ESTABLISHED//'
        cut -d' ' -f1 /proc/modules | sort
        sort /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null; :";
    let kept = lab.host(HOST, &["sh", "-c", script]).ok();
    format!("{}{kept}", lab.dump(HOST))
}

fn a_plan_leaves_no_trace(backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().backend(backend).up();
    let change = "modules: [host-firewall, firewall-log, bridge-accept-physdev, bridge-bypass]
bridges: { br123: { ageing: 77 }, br9: { addresses: ['192.0.2.1/24'] } }
sysctl: { 60-fwd: { net.ipv4.ip_forward: 1 } }
iptables:
  nat:
    POSTROUTING:
      rules: |
        -s 192.0.2.0/24 -j MASQUERADE
";
    let project = Project::new(&lab, &[HOST], change);
    for _ in 0..2 {
        // On a new host first, then on a managed one with changes pending.
        let before = traces(&lab);
        for args in [
            &["plan", "--detailed-exitcode"][..],
            &["plan", "--format", "json", "-o", "/dev/null"],
            &["status"],
        ] {
            let run = project.kvmfw(&lab, args);
            assert!([0, 2].contains(&run.code), "{args:?}: {}{}", run.stdout, run.stderr);
        }
        let after = traces(&lab);
        let new = after.lines().filter(|l| !before.lines().any(|b| b == *l)).collect::<Vec<_>>();
        let lost = before.lines().filter(|l| !after.lines().any(|b| b == *l)).collect::<Vec<_>>();
        assert!(before == after, "a plan left {new:#?} and took {lost:#?}");
        project.all("modules: [host-firewall, bridge-accept-each]\nbridges: { br123: { manage: false } }\n");
        project.apply(&lab, &[]).expect(0);
        project.all(change);
    }
}

#[test]
fn a_plan_changes_nothing() {
    a_plan_leaves_no_trace(Backend::Nft);
}

#[test]
fn a_plan_changes_nothing_on_legacy() {
    a_plan_leaves_no_trace(Backend::Legacy);
}

/// nft shows some matches of iptables with braces, as it shows sets that iptables cannot show.
#[test]
fn a_native_set_is_told_from_a_match_of_iptables() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let project = Project::new(&lab, &[HOST], "modules: [host-firewall]\n");
    lab.host(HOST, &["iptables", "-A", "INPUT", "-m", "time", "--weekdays", "Mon,Tue", "-j", "ACCEPT"]).ok();
    project.kvmfw(&lab, &["plan", "--detailed-exitcode"]).expect(2);
    lab.host(HOST, &["nft", "add rule ip filter INPUT tcp dport { 7, 9 } accept"]).ok();
    let plan = project.kvmfw(&lab, &["plan", "--format", "json"]).expect(7);
    let host = plan.json()["hosts"][0].clone();
    assert_eq!(host["reason"], "native-nft", "{host:#}");
}
