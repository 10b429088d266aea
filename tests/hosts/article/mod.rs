//! The article this project starts from, as one test that must never break: a firewall on the host takes
//! its bridged guests off the net, and each of three cures brings them back.
//!
//! On real hosts of the lab, over v4 and v6 at once, on both backends of iptables. "Reachable" is a new
//! TCP connection and a new UDP flow, never a ping: the classic ruleset accepts all ICMP, so guests that
//! are off the net still answer pings.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use crate::common;
mod forecast;
mod python;
mod stage;

use self::forecast::{dark, silent};
use self::stage::{CURES, G1, NEIGHBOUR, Stage};
use common::{Backend, Lab, SysctlOrder};

const FRAGMENTS: &str = include_str!("fragments.py");

#[test]
fn the_story_nft() {
    story(Backend::Nft);
}

#[test]
fn the_story_legacy() {
    story(Backend::Legacy);
}

#[test]
fn every_cure_in_every_order_nft() {
    cures(Backend::Nft);
}

#[test]
fn every_cure_in_every_order_legacy() {
    cures(Backend::Legacy);
}

#[test]
fn fragments_cross_tenants_unless_bridges_are_bypassed_nft() {
    fragments(Backend::Nft);
}

#[test]
fn fragments_cross_tenants_unless_bridges_are_bypassed_legacy() {
    fragments(Backend::Legacy);
}

#[test]
fn a_power_cut_changes_nothing_nft() {
    power_cut(Backend::Nft, SysctlOrder::Systemd, false);
}

#[test]
fn a_power_cut_changes_nothing_legacy() {
    power_cut(Backend::Legacy, SysctlOrder::Procps, false);
}

#[test]
fn a_power_cut_changes_nothing_beside_netfilter_persistent_nft() {
    power_cut(Backend::Nft, SysctlOrder::Procps, true);
}

#[test]
fn a_power_cut_changes_nothing_beside_netfilter_persistent_legacy() {
    power_cut(Backend::Legacy, SysctlOrder::Systemd, true);
}

/// (a) to (f): from a host without a firewall to the outage, its log line, and back.
fn story(backend: Backend) {
    let Some(stage) = Stage::up(backend, Lab::builder()) else { return };
    let original = stage.dump();
    stage.guests_are_reachable("before anything");
    stage.host_answers(&[8080, 22], "before anything");

    // Predicted, with the rule and where it is written.
    stage.modules(&["host-firewall"]);
    let plan = stage.plan(&[]).expect(7);
    let shipped =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/modules/host-firewall/module.yaml"))
            .unwrap();
    let line_of = |text: &str| 1 + shipped.lines().position(|l| l.contains(text)).unwrap();
    for (family, rule) in [
        ("IPv4", "-j REJECT --reject-with icmp-host-prohibited"),
        ("IPv6", "-j REJECT --reject-with icmp6-adm-prohibited"),
    ] {
        let warning = dark(&plan, "br123", family);
        assert!(warning.0.contains(&format!("filter/RH-Firewall-1-INPUT rule 5 `{rule}`")), "{warning:?}");
        let place = format!("host-firewall/module.yaml:{}", line_of(rule));
        assert!(warning.1.ends_with(&place), "not {place}: {warning:?}");
    }
    for cure in CURES {
        stage.modules(&["host-firewall", cure]);
        silent(&stage.plan(&[]).expect(0), cure);
    }
    stage.forecast_does_not_go_by_names();
    stage.same(&stage.dump(), &original, "plans change nothing");

    // It happens.
    stage.modules(&["host-firewall"]);
    let firewall = stage.apply_outage();
    stage.guests_are_dark("host-firewall");
    stage.host_answers(&[22], "host-firewall");
    let dark_plan = stage.plan(&[]).expect(0);
    assert!(dark(&dark_plan, "br123", "IPv4").0.contains("are unreachable"), "{}", dark_plan.stdout);

    // The log says who.
    let with_firewall = stage.kept();
    stage.modules(&["host-firewall", "firewall-log"]);
    let log = stage.apply();
    stage.guests_are_dark("host-firewall, firewall-log");
    stage.log_shows_the_bridge();
    stage.log_rules_and_hooks_come_first();

    // Each cure, and back.
    let with_log = stage.kept();
    for cure in CURES {
        stage.modules(&["host-firewall", "firewall-log", cure]);
        silent(&stage.plan(&[]).expect(0), cure);
        let run = stage.apply();
        stage.guests_are_reachable(cure);
        stage.host_answers(&[22], cure);
        stage.undo_outage(&run);
        stage.same(&stage.kept(), &with_log, &format!("undo of {cure}"));
        stage.guests_are_dark("undo of a cure");
    }
    stage.undo(&log);
    stage.same(&stage.kept(), &with_firewall, "undo of firewall-log");
    stage.undo(&firewall);
    stage.same(&stage.dump(), &original, "undo of the first run leaves no trace");
    stage.guests_are_reachable("undo of the first run");

    // All at once, and to the original in one step.
    stage.modules(&["host-firewall", "firewall-log", "bridge-bypass"]);
    stage.apply();
    stage.kvmfw(&["undo", "--to", "0", "-y"]).expect(0);
    stage.same(&stage.dump(), &original, "undo --to 0 leaves no trace");
    stage.guests_are_reachable("undo --to 0");
    stage.host_answers(&[8080, 22], "undo --to 0");
}

/// (d): every permutation of the modules gives the same host, and no change from one cure to another
/// costs a packet.
fn cures(backend: Backend) {
    let Some(stage) = Stage::up(backend, Lab::builder()) else { return };
    let orders = |cure| {
        let [a, b, c] = ["host-firewall", "firewall-log", cure];
        [[a, b, c], [a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]]
    };
    let [each, physdev, bypass] = CURES;
    // That the measure sees an outage where there is one.
    let flows = stage.flows();
    stage.modules(&["host-firewall"]);
    stage.apply_outage();
    let lost = flows.lost();
    assert!(!lost.is_empty(), "an outage, and no flow was lost");
    stage.modules(&orders(each)[0]);
    stage.apply();
    // Every ordered pair of cures once, each time in another order of the modules.
    for (n, (from, to)) in [
        (each, physdev),
        (physdev, bypass),
        (bypass, each),
        (each, bypass),
        (bypass, physdev),
        (physdev, each),
    ]
    .into_iter()
    .enumerate()
    {
        stage.modules(&orders(to)[n]);
        let pings = [G1[0], G1[1], NEIGHBOUR[0]].map(|to| (to, common::flood(&stage.lab, "kvm1", "g0", to)));
        let flows = stage.flows();
        stage.apply();
        let lost = flows.lost();
        assert!(lost.is_empty(), "from {from} to {to}, flows lost:\n{lost}");
        for (address, flood) in pings {
            let (sent, lost) = flood.stop();
            assert!(sent > 20, "only {sent} pings to {address} from {from} to {to}");
            assert_eq!(lost, 0, "of {sent} pings to {address} from {from} to {to}");
        }
        stage.guests_are_reachable(to);
        if n < 3 {
            for order in orders(to) {
                stage.modules(&order);
                let plan = stage.plan(&["--detailed-exitcode"]);
                assert_eq!(plan.code, 0, "{order:?} after {:?}: {}", orders(to)[n], plan.stdout);
            }
        }
    }
}

/// (g): two tenants with equal addresses on two bridges. One sends the first fragment of a message, the
/// other a whole message in two fragments under the same identification: who gets what?
fn fragments(backend: Backend) {
    let Some(stage) = Stage::up(backend, Lab::builder().bridges(2)) else { return };
    // So that no packet waits for its neighbour's MAC.
    for (guest, address) in [("g0", G1[0]), ("g0", G1[1]), ("g2", G1[0]), ("g2", G1[1])] {
        assert!(stage.lab.guest_ping("kvm1", guest, address), "{guest} reaches {address}");
    }
    let own = "AACC".repeat(14) + &"aacc".repeat(10) + "\n";
    let mixed = "CCAA".repeat(14) + &"aacc".repeat(10) + "\n";
    for (n, cure) in [None, Some(CURES[0]), Some(CURES[1]), Some(CURES[2])].into_iter().enumerate() {
        let modules: Vec<&str> = ["host-firewall"].into_iter().chain(cure).collect();
        stage.modules_of(&modules, "bridges: { br123: { manage: false }, br124: { manage: false } }\n");
        if cure.is_some() {
            stage.apply()
        } else {
            stage.apply_outage()
        };
        for version in ["4", "6"] {
            let mut near = stage.python("g1", FRAGMENTS, &[version, "receive"]);
            let mut far = stage.python("g3", FRAGMENTS, &[version, "receive"]);
            let id = (0x4b00 + n).to_string();
            for (guest, more) in [
                ("g2", vec!["head", id.as_str(), "C"]),
                ("g0", vec!["both", id.as_str(), "A"]),
                ("g2", vec!["end"]),
                ("g0", vec!["end"]),
            ] {
                let mut command = vec!["python3", "-c", FRAGMENTS, version];
                command.extend(more);
                stage.lab.guest("kvm1", guest, &command).ok();
            }
            let got = (near.rest(), far.rest());
            // The kernel takes the two first fragments for one, and the tail for the end of either.
            let wanted = match cure {
                Some("bridge-bypass") => (own.clone(), String::new()),
                _ => (String::new(), mixed.clone()),
            };
            assert_eq!(got, wanted, "under {modules:?}, IPv{version}: (the peer, the other tenant) got");
        }
    }
}

/// (h): what was confirmed is what boots.
fn power_cut(backend: Backend, order: SysctlOrder, persistent: bool) {
    let Some(mut stage) = Stage::up(backend, Lab::builder().sysctl_order(order).persistent(persistent))
    else {
        return;
    };
    if persistent {
        // Foreign rules that its boot reads, with a flush of the table that ours are in too.
        let rules = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
                     -A FORWARD -s 203.0.113.7/32 -j DROP\nCOMMIT\n";
        std::fs::write(stage.lab.disk("kvm1", "/etc/iptables/rules.v4"), rules).unwrap();
        stage.power_cut();
        let there = stage.lab.host("kvm1", &["iptables", "-S", "FORWARD"]).ok();
        assert!(there.contains("203.0.113.7"), "netfilter-persistent loads its file: {there}");
    }
    let original = stage.dump();
    for cure in CURES {
        stage.modules(&["host-firewall", "firewall-log", cure]);
        stage.apply();
        stage.guests_are_reachable(cure);
        let before = stage.dump();
        stage.power_cut();
        stage.same(&stage.dump(), &before, &format!("{cure}, after a power cut"));
        stage.guests_are_reachable(&format!("{cure}, after a power cut"));
        let plan = stage.plan(&["--detailed-exitcode"]);
        assert_eq!(plan.code, 0, "{cure}, after a power cut: {}", plan.stdout);
    }
    stage.kvmfw(&["undo", "--to", "0", "-y"]).expect(0);
    stage.same(&stage.dump(), &original, "undo --to 0");
    stage.power_cut();
    stage.same(&stage.dump(), &original, "undo --to 0 and a power cut");
    stage.guests_are_reachable("undo --to 0 and a power cut");
}

// --- the stage --------------------------------------------------------------------------------------
