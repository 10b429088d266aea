//! `expect:` against hosts: before a change, once it is applied, in drift and in an undo.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::Lab;
use common::project::{Project, Run};

const HOST: &str = "kvm1";
const JSON: [&str; 2] = ["--format", "json"];

/// The messages of warnings of a code, of the only host.
fn warnings(run: &Run, code: &str) -> Vec<String> {
    let json = run.json();
    let all = json["hosts"][0]["warnings"].as_array().unwrap();
    let of_code = all.iter().filter(|warning| warning["code"] == code);
    of_code.map(|warning| warning["message"].as_str().unwrap().to_owned()).collect()
}

fn of_host<'j>(json: &'j serde_json::Value, key: &str) -> &'j str {
    json["hosts"][0][key].as_str().unwrap_or_else(|| panic!("{key}: {json:#}"))
}

/// Guests talk, and nobody reaches libvirtd from the uplinks.
const EXPECT: &str = "\
expect:
  - passes: { from: guest@br123, to: 'guest@br123:80' }
  - blocked: { from: 10.99.0.0/24, to: 'host:16509/tcp' }
  - passes: { from: 10.99.0.1, to: 'host:22' }
";

fn rules(forward: &str) -> String {
    let closed = "-p tcp --dport 16509 -j REJECT";
    format!(
        "{EXPECT}iptables:\n  filter:\n    INPUT:\n      rules: |\n        {closed}\n    FORWARD:\n      rules: |\n        {forward}\n"
    )
}

#[test]
fn a_change_that_breaks_an_expectation_is_refused() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], EXPECT);
    // Nothing is managed yet, and libvirtd is open: refused even though nothing would change.
    let plan = project.kvmfw(&lab, &[&["plan"], &JSON[..]].concat()).expect(7).json();
    assert_eq!((of_host(&plan, "status"), of_host(&plan, "reason")), ("refused", "expectation"), "{plan:#}");
    let message = of_host(&plan, "message");
    assert!(
        message.contains("the expectation `blocked: 10.99.0.0/24 to host:16509/tcp` (inventories/lab.yaml:")
            && message.contains("to the host port 16509 over IPv4 passes"),
        "{message}"
    );

    project.all(&rules("-i br9 -j ACCEPT"));
    let plan = project.kvmfw(&lab, &[&["plan"], &JSON[..]].concat()).expect(0);
    let impact = plan.json()["hosts"][0]["impact"].to_string();
    assert!(impact.contains("expectation `blocked: 10.99.0.0/24 to host:16509/tcp`"), "{impact}");
    assert!(warnings(&plan, "expectation-unknown").is_empty(), "{}", plan.stdout);
    project.apply(&lab, &[]).expect(0);
    project.kvmfw(&lab, &["plan"]).expect(0);

    // Guests are cut off: a risk, and beside it an expectation that no flag accepts.
    project.all(&rules("-p tcp --dport 80 -m physdev --physdev-in vnet1 -j DROP"));
    let before = lab.dump(HOST);
    let plan = project.kvmfw(&lab, &["apply", "-y", "--accept-risk", "guests-unreachable"]).expect(7);
    let text = plan.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        text.contains("passes: guest@br123 to guest@br123:80")
            && text.contains("from vnet1 to vnet0 port 80 over IPv4 is blocked by filter/FORWARD rule 1"),
        "{text}"
    );
    common::same(&before, &lab.dump(HOST), "a refused apply");
}

#[test]
fn a_host_that_breaks_an_expectation_once_it_is_changed_rolls_back() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    // The check stands for another program, which opens the port after the plan was made.
    let open = "-s 10.99.0.77 -p tcp --dport 16509 -j ACCEPT";
    let other = format!("checks:\n  - command: 'iptables -C INPUT {open} || iptables -I INPUT {open}'\n");
    let project = Project::new(&lab, &[HOST], &format!("{other}{}", rules("-i br9 -j ACCEPT")));
    // The first apply puts its jump rule above that of the other program.
    project.apply(&lab, &[]).expect(0);
    lab.host(HOST, &["sh", "-c", &format!("iptables -D INPUT {open}")]).ok();
    project.all(&format!("{other}{}", rules("-i br8 -j ACCEPT")));
    let apply = project.apply(&lab, &[&JSON[..]].concat());
    let json = apply.expect(4).json();
    assert_eq!(of_host(&json, "status"), "rolled-back", "{json:#}");
    let message = of_host(&json, "message");
    assert!(
        message.contains("the expectation `blocked: 10.99.0.0/24 to host:16509/tcp`")
            && message.contains("from 10.99.0.77"),
        "{message}"
    );

    // It is drift as well, though no managed rule has changed; and an undo is not kept from going back.
    let drift = project.kvmfw(&lab, &[&["plan", "--drift"], &JSON[..]].concat()).expect(2);
    let broken = warnings(&drift, "expectation-broken").join("\n");
    assert!(broken.contains("filter/INPUT rule 1 `-s 10.99.0.77/32"), "{}", drift.stdout);
    let human = project.kvmfw(&lab, &["plan", "--drift"]).expect(2).stdout;
    assert!(human.contains("`blocked: 10.99.0.0/24 to host:16509/tcp` does not hold"), "{human}");
    let undo = project.kvmfw(&lab, &[&["undo", "--to", "0", "-y"], &JSON[..]].concat()).expect(0);
    assert!(!warnings(&undo, "expectation-broken").is_empty(), "{}", undo.stdout);
}

#[test]
fn guests_have_names_and_destinations_are_rewritten() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let guests = "mkdir -p /run/libvirt/qemu; for n in 0 1; do \
         echo \"<domain><target dev='vda'/><target dev='vnet$n'/></domain>\" >/run/libvirt/qemu/web$n.xml; done";
    lab.host(HOST, &["sh", "-c", guests]).ok();
    let mac = lab.host(HOST, &["cat", "/sys/class/net/vnet0/address"]).ok();
    let card = format!("52{}", &mac.trim()[2..]);
    let inventory = |expect: &str| {
        format!(
            "sysctl: {{ 60-f: {{ net.ipv4.ip_forward: 1 }} }}\nexpect:\n{expect}iptables:\n  nat:\n    PREROUTING:\n      rules: |\n        \
             -d 10.99.0.11 -p tcp --dport 8080 -j DNAT --to-destination 192.168.1.9:80\n  filter:\n    FORWARD:\n      rules: |\n        \
             -m physdev --physdev-in vnet0 -p udp --dport 53 -j DROP\n"
        )
    };
    let dnat = |to: &str| {
        format!("  - passes: {{ from: 10.99.0.1, to: '10.99.0.11:8080', rewritten-to: '{to}' }}\n")
    };
    let project = Project::new(&lab, &[HOST], "modules: []\n");
    for (expectation, words) in [
        ("  - passes: { from: web1, to: '192.168.1.53:53/udp' }\n".to_owned(), ""),
        ("  - blocked: { from: web0, to: '192.168.1.53:53/udp' }\n".to_owned(), ""),
        (format!("  - blocked: {{ from: '{card}', to: '192.168.1.53:53/udp' }}\n"), ""),
        (
            "  - passes: { from: web0, to: '192.168.1.53:53/udp' }\n".to_owned(),
            "from vnet0 to 192.168.1.53 port 53",
        ),
        (
            "  - passes: { from: guest@br123, to: '192.168.1.53:53/udp' }\n".to_owned(),
            "from vnet0 to 192.168.1.53 port 53",
        ),
        (dnat("192.168.1.9:80"), ""),
        (dnat("192.168.1.9"), ""),
        (dnat("192.168.1.9:81"), "and goes to 192.168.1.9:80"),
        (dnat("192.168.1.8"), "and goes to 192.168.1.9:80"),
    ] {
        project.all(&inventory(&expectation));
        let code = if words.is_empty() { 0 } else { 7 };
        let plan = project.kvmfw(&lab, &[&["plan"], &JSON[..]].concat()).expect(code);
        assert!(warnings(&plan, "expectation-unknown").is_empty(), "{expectation}: {}", plan.stdout);
        if code == 7 {
            let json = plan.json();
            assert!(of_host(&json, "message").contains(words), "{expectation}: {json:#}");
        }
    }
    // What is not known is said, and refuses nothing.
    project.all(&inventory(
        "  - passes: { from: nobody, to: 'host:22' }\n  - passes: { from: guest@br7, to: 'host:22' }\n",
    ));
    let plan = project.kvmfw(&lab, &[&["plan"], &JSON[..]].concat()).expect(0);
    let unknown = warnings(&plan, "expectation-unknown").join("\n");
    assert!(
        unknown.contains("kvm1 has no device, port or guest `nobody`")
            && unknown.contains("kvm1 has no bridge br7"),
        "{}",
        plan.stdout
    );

    // explain takes the same words, and shows a packet for each way in which it ends.
    project.all(&inventory("  - passes: { from: web1, to: '192.168.1.53:53/udp' }\n"));
    project.apply(&lab, &[]).expect(0);
    let explain = |from: &str, to: &str| {
        let args = ["explain", "--host", HOST, "--from", from, "--to", to];
        let json = project.kvmfw(&lab, &[&args[..], &JSON].concat()).expect(0).json();
        let packets = json["hosts"][0]["packets"].as_array().unwrap().clone();
        let verdicts = packets.iter().map(|one| {
            format!("{} {}", one["packet"].as_str().unwrap(), one["fate"]["verdict"].as_str().unwrap())
        });
        verdicts.collect::<Vec<_>>()
    };
    assert_eq!(
        explain("guest@br123", "192.168.1.53:53/udp"),
        [
            "the first udp packet from vnet0 to 192.168.1.53 port 53 dropped",
            "the first udp packet from vnet1 to 192.168.1.53 port 53 passes"
        ]
    );
    assert_eq!(
        explain("10.99.0.0/24", "host:22"),
        ["a new tcp connection from 10.99.0.1 to the host port 22 passes"]
    );
}
