//! What a plan takes away is told as what it sets is: in plan, apply, undo, drift, saved plans and `explain --desired`,
//! and each time measured with a packet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;

use common::project::{Project, Run};
use common::transaction::until;
use common::{Backend, Lab, Shell};

const HOST: &str = "kvm1";

/// Nothing is forwarded, pings neither.
const WALL: &str = "\
iptables:\n  filter:\n    FORWARD:\n      rules: |\n        -j DROP\n\
ip6tables:\n  filter:\n    FORWARD:\n      rules: |\n        -j DROP\n\
";

fn bypass() -> String {
    format!("modules: [bridge-bypass]\n{WALL}")
}

const OUTAGE: &str = "--accept-risk=guests-unreachable";

/// The messages of the warnings of one code, of the only host.
fn told(run: &Run, code: &str) -> Vec<String> {
    let json = run.json();
    let all = json["hosts"][0]["warnings"].as_array().unwrap().iter();
    all.filter(|w| w["code"] == code).map(|w| w["message"].as_str().unwrap().to_owned()).collect()
}

/// The risks of all changes of the only host.
fn risks(run: &Run) -> String {
    run.json()["hosts"][0]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["risks"].to_string())
        .collect()
}

/// Taking `bridge-bypass` away cuts guests off, whoever takes it away.
fn the_bypass_goes(shell: Shell, backend: Backend) {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().shell(shell).backend(backend).up();
    let (without, with) = (WALL, &bypass());
    let project = Project::new(&lab, &[HOST], with);
    let accept = "--accept-risk=removes-all";
    let both = [accept, OUTAGE];
    let refused = |run: &Run| {
        assert_eq!(
            (run.code, &run.json()["hosts"][0]["reason"]),
            (7, &"guests-unreachable".into()),
            "{}",
            run.stdout
        );
    };
    let ping = || lab.guest_ping(HOST, "g0", "192.168.1.2");
    let json = ["--format", "json"];
    let dark = |run: &Run, what: &str| {
        let messages = told(run, "guests-unreachable");
        let v4 = messages.iter().find(|message| message.contains("over IPv4"));
        let v4 = v4.unwrap_or_else(|| panic!("{what} is silent: {}", run.stdout));
        assert!(messages.len() == 2 && v4.contains("guests on br123"), "{what}: {messages:?}");
        v4.clone()
    };
    project.apply(&lab, &[]).expect(0);
    assert!(ping(), "the bypass lets guests pass");

    // Plan, saved plan, `explain --desired`: before anything is done.
    project.all(without);
    let saved = project.path().join("saved.plan");
    refused(&project.kvmfw(&lab, &[&["plan", accept], &json[..]].concat()));
    let plan = project
        .kvmfw(&lab, &[&["plan", accept, OUTAGE, "-o", saved.to_str().unwrap()], &json[..]].concat())
        .expect(0);
    let message = dark(&plan, "plan");
    assert!(
        message.contains("bridge-nf-call-iptables goes back to 1") && message.contains("will be"),
        "{message}"
    );
    assert!(risks(&plan).contains("guests-unreachable"), "{}", plan.stdout);
    dark(
        &project.kvmfw(&lab, &[&["show", saved.to_str().unwrap()], &json[..]].concat()).expect(0),
        "a saved plan",
    );
    let explained =
        project.kvmfw(&lab, &[&["explain", "--host", HOST, "--desired"], &json[..]].concat()).expect(0);
    let family = explained.json()["hosts"][0]["bridges"][0]["families"][0].clone();
    assert!(family["filtered"] == true && !family["dark"].is_null(), "{family:#}");
    assert!(ping(), "nothing has been done");

    // The apply says the same, and is right.
    refused(&project.apply(&lab, &[&[accept], &json[..]].concat()));
    assert!(ping(), "nothing has been done");
    dark(&project.apply(&lab, &[&both, &json[..]].concat()).expect(0), "apply");
    assert!(!ping(), "guests are cut off, as was said");

    // So does an undo that takes it away: to before the run that put it there.
    project.all(with);
    let put = project.apply(&lab, &[]).expect(0).run();
    assert!(ping(), "the bypass is back");
    refused(&project.kvmfw(&lab, &[&["undo", &put, "-y"], &json[..]].concat()));
    assert!(ping(), "nothing has been done");
    let undo = project.kvmfw(&lab, &[&["undo", &put, "-y", OUTAGE], &json[..]].concat()).expect(0);
    assert!(dark(&undo, "undo").contains("goes back to 1"), "{}", undo.stdout);
    assert!(!ping(), "guests are cut off, as was said");

    // Drift: somebody sets the key back by hand.
    project.all(with);
    project.apply(&lab, &[]).expect(0);
    assert!(ping());
    assert_eq!(
        told(
            &project.kvmfw(&lab, &[&["plan", "--drift"], &json[..]].concat()).expect(0),
            "guests-unreachable"
        )
        .len(),
        0
    );
    let back = "sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1";
    lab.host(HOST, &["sh", "-c", back]).ok();
    assert!(!ping());
    let drift = project.kvmfw(&lab, &[&["plan", "--drift"], &json[..]].concat()).expect(2);
    assert!(dark(&drift, "drift").contains("are unreachable"), "{}", drift.stdout);
}

#[test]
fn the_bypass_goes_dash_nft() {
    the_bypass_goes(Shell::Dash, Backend::Nft);
}

#[test]
fn the_bypass_goes_busybox_legacy() {
    the_bypass_goes(Shell::Busybox, Backend::Legacy);
}

/// Where a file of the host says otherwise, that is what comes back; and what only the next boot brings is told too.
#[test]
fn removed_keys_return_to_the_values_of_files_and_the_next_boot() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let project = Project::new(&lab, &[HOST], &bypass());
    let host = |command: &str| lab.host(HOST, &["sh", "-c", command]).ok();
    let v4 =
        |run: &Run| told(run, "guests-unreachable").into_iter().find(|message| message.contains("over IPv4"));
    let accept = "--accept-risk=removes-all";
    let plan = || project.kvmfw(&lab, &["plan", accept, OUTAGE, "--format", "json"]).expect(0);
    // It was 0 already, by hand: so it stays until a boot, and no longer.
    host("sysctl -qw net.bridge.bridge-nf-call-iptables=0");
    project.apply(&lab, &[]).expect(0);
    project.all(WALL);
    let message = v4(&plan()).unwrap();
    assert!(
        message.contains("after the next boot, be unreachable")
            && message.contains("no file on the host will set it"),
        "{message}"
    );
    // A file of the host holds it.
    host("echo net.bridge.bridge-nf-call-iptables = 0 >/etc/sysctl.d/10-theirs.conf");
    assert_eq!(v4(&plan()), None);
    host("echo net.bridge.bridge-nf-call-iptables = 1 >/etc/sysctl.d/10-theirs.conf");
    assert!(v4(&plan()).unwrap().contains("goes back to 1"));
    project.apply(&lab, &[accept, OUTAGE]).expect(0);
    assert!(!lab.guest_ping(HOST, "g0", "192.168.1.2"), "as was said");
}

/// The same of one bridge's own switch.
#[test]
fn the_switch_of_one_bridge_goes_back() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let all = |more: &str| format!("{}bridges: {{ br123: {{ ageing: 77{more} }} }}\n", bypass());
    let project = Project::new(&lab, &[HOST], &all(", nf_call_iptables: false"));
    let ping = || lab.guest_ping(HOST, "g0", "192.168.1.2");
    lab.host(HOST, &["ip", "link", "set", "br123", "type", "bridge", "nf_call_iptables", "1"]).ok();
    project.apply(&lab, &[]).expect(0);
    assert!(ping());
    for bridges in [all(""), bypass()] {
        project.all(&bridges);
        let plan = project
            .kvmfw(&lab, &["plan", "--format", "json", "--accept-risk", "removes-all", OUTAGE])
            .expect(0);
        let messages = told(&plan, "guests-unreachable");
        assert!(
            messages.len() == 1 && messages[0].contains("nf_call_iptables of br123 is 1"),
            "{messages:?} {}",
            plan.stdout
        );
    }
    project.apply(&lab, &["--accept-risk", "removes-all", OUTAGE]).expect(0);
    assert!(!ping(), "as was said");
}

/// Guests that the host routes, and forwarding that is switched off: declared, taken away, of one link, of IPv6.
#[test]
fn forwarding_ends() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let on = "sysctl: { 60-fwd: { net.ipv4.ip_forward: 1, net.ipv6.conf.all.forwarding: 1 } }\n";
    let project = Project::new(&lab, &[HOST], on);
    lab.guest(
        HOST,
        "g0",
        &["sh", "-c", "ip route add default via 192.168.1.254; ip -6 route add default via fd00:1::fe"],
    )
    .ok();
    lab.exec(&[
        "sh",
        "-c",
        "ip route add 192.168.1.0/24 via 10.99.0.11; ip -6 route add fd00:1::/64 via fd99::b",
    ])
    .ok();
    // Until then the host asks for no neighbour over IPv6.
    until("duplicate address detection", || {
        lab.host(HOST, &["ip", "-6", "-o", "addr", "show", "tentative"]).ok().is_empty()
    });
    let pings = || [lab.guest_ping(HOST, "g0", "10.99.0.1"), lab.guest_ping(HOST, "g0", "fd99::1")];
    let told_of = |all: &str| {
        project.all(all);
        told(
            &project.kvmfw(&lab, &["plan", "--format", "json", "--accept-risk", "removes-all"]).expect(0),
            "guests-unreachable",
        )
    };
    let names = |messages: &[String], family: &str, key: &str| {
        messages
            .iter()
            .any(|m| m.contains(&format!("over {family}")) && m.contains(key) && m.contains("br123"))
    };
    assert_eq!(told_of(on), Vec::<String>::new());
    project.apply(&lab, &[]).expect(0);
    assert_eq!(pings(), [true, true]);
    // Declared off, of all links and of one.
    let off = told_of(&on.replace("ip_forward: 1", "ip_forward: 0"));
    assert!(off.len() == 1 && names(&off, "IPv4", "net.ipv4.ip_forward goes from 1 to 0"), "{off:?}");
    let off = told_of(&on.replace(": 1 }", ": 0 }"));
    assert!(off.len() == 1 && names(&off, "IPv6", "net.ipv6.conf.all.forwarding"), "{off:?}");
    let of_one = on.replace("1 } }", "1 }, 70-one: { net.ipv4.conf.br123.forwarding: 0 } }");
    let off = told_of(&of_one);
    assert!(off.len() == 1 && names(&off, "IPv4", "net.ipv4.conf.br123.forwarding"), "{off:?}");
    project.apply(&lab, &[]).expect(0);
    assert_eq!(pings(), [false, true], "as was said");
    assert_eq!(told_of(on), Vec::<String>::new());
    project.apply(&lab, &[]).expect(0);
    assert_eq!(pings(), [true, true]);
    // Taken away: both were 0 before kvmfw.
    let off = told_of("");
    assert!(
        off.len() == 2
            && names(&off, "IPv4", "net.ipv4.ip_forward goes back")
            && names(&off, "IPv6", "goes back"),
        "{off:?}"
    );
    let undo = project.kvmfw(&lab, &["undo", "--to", "0", "-y", "--format", "json"]).expect(0);
    assert_eq!(told(&undo, "guests-unreachable").len(), 2, "{}", undo.stdout);
    assert_eq!(pings(), [false, false], "as was said");
    // Drift.
    project.all(on);
    project.apply(&lab, &[]).expect(0);
    lab.host(HOST, &["sysctl", "-qw", "net.ipv4.ip_forward=0"]).ok();
    let drift =
        told(&project.kvmfw(&lab, &["plan", "--drift", "--format", "json"]).expect(2), "guests-unreachable");
    assert!(drift.len() == 1 && names(&drift, "IPv4", "was 1 as applied"), "{drift:?}");
}

/// NAT that meets bridged frames: peers see the host, and where it does not forward nobody sees the guest.
#[test]
fn nat_meets_bridged_frames() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::up();
    let nat = |rule: &str| format!("iptables:\n  nat:\n    POSTROUTING:\n      rules: |\n        {rule}\n");
    let project = Project::new(&lab, &[HOST], &nat("-j MASQUERADE"));
    let ping = || lab.guest_ping(HOST, "g0", "192.168.1.2");
    let plan = || told(&project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0), "nat-on-bridged");
    assert!(ping());
    let messages = plan();
    assert!(
        messages.len() == 1
            && messages[0].contains("between the ports of br123")
            && messages[0].contains("appear to their peers as the host")
            && messages[0].contains("guests are cut off"),
        "{messages:?}"
    );
    project.apply(&lab, &[]).expect(0);
    assert!(!ping(), "as was said");
    lab.host(HOST, &["sysctl", "-qw", "net.ipv4.ip_forward=1"]).ok();
    assert!(plan()[0].contains("answers go through the host"));
    lab.host(HOST, &["sysctl", "-qw", "net.ipv4.ip_forward=0"]).ok();
    for cure in [
        nat("-m physdev ! --physdev-is-bridged -j MASQUERADE"),
        nat("! -d 192.168.1.0/24 -j MASQUERADE"),
        format!("modules: [bridge-bypass]\n{}", nat("-j MASQUERADE")),
    ] {
        project.all(&cure);
        assert_eq!(plan(), Vec::<String>::new(), "{cure}");
        project.apply(&lab, &[]).expect(0);
        assert!(ping(), "{cure}");
    }
}

/// A link that is made while a key of `conf.default` is otherwise keeps it: the plan says so, and so does the undo.
#[test]
fn links_keep_what_they_inherit() {
    if !common::require_root() {
        return;
    }
    let lab = Lab::builder().guests(false).up();
    let stated =
        "sysctl: { 60-d: { net.ipv4.conf.default.arp_ignore: 2, net.ipv6.conf.default.accept_ra: 0 } }\n";
    let project = Project::new(&lab, &[HOST], stated);
    let plan = told(&project.kvmfw(&lab, &["plan", "--format", "json"]).expect(0), "inherited-key");
    assert_eq!(plan.len(), 2, "{plan:#?}");
    assert!(plan[0].starts_with("net.ipv4.conf.default.arp_ignore = 2 is inherited by links"), "{plan:#?}");
    project.apply(&lab, &[]).expect(0);
    lab.host(HOST, &["ip", "link", "add", "new0", "type", "veth", "peer", "name", "new1"]).ok();
    let undo = told(
        &project.kvmfw(&lab, &["undo", "--to", "0", "-y", "--format", "json"]).expect(0),
        "inherited-key",
    );
    let back = "net.ipv4.conf.default.arp_ignore goes back to 0, but links created while it was 2 keep the inherited value";
    assert!(undo.len() == 2 && undo[0].starts_with(back), "{undo:#?}");
    let keys = "sysctl -n net.ipv4.conf.new0.arp_ignore net.ipv6.conf.new0.accept_ra net.ipv4.conf.default.arp_ignore";
    assert_eq!(lab.host(HOST, &["sh", "-c", keys]).ok(), "2\n0\n0\n");
}
