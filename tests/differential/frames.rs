//! Which frames of a bridge meet rules at all: every sort of frame under every setting of the switches, with
//! rules that drop whatever they are asked about.

use crate::common;
use crate::world::World;
use kvmfw::netfilter::{BridgeFrame, BridgeSwitches, FramePayload, IptablesBackend};
use kvmfw::resource::iptables::IpFamily;
use serde_json::json;

/// For all bridges, and for this one.
#[derive(Clone, Copy)]
enum Where {
    All,
    Own,
}

const PAYLOADS: [(FramePayload, &str); 4] = [
    (FramePayload::Ip(IpFamily::V4), "4"),
    (FramePayload::Ip(IpFamily::V6), "6"),
    (FramePayload::Arp, "arp"),
    (FramePayload::Other, "other"),
];

#[test]
fn frames_meet_the_rules_that_the_switches_say() {
    if !common::require_root() || !common::require_tools(&["arptables-legacy"]) {
        return;
    }
    let mut world = World::up();
    for family in IpFamily::ALL {
        world.load(IptablesBackend::Legacy, family, "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n").unwrap();
    }
    world.host(&["arptables-legacy", "-P", "FORWARD", "DROP"], "").unwrap();
    let mut wrong = Vec::new();
    let (mut id, mut arrived) = (0, 0);
    for bits in 0..16 {
        let on = |bit: u32| bits >> bit & 1 == 1;
        let switches = BridgeSwitches { iptables: on(0), ip6tables: on(1), arptables: on(2), tagged: on(3) };
        for place in [Where::All, Where::Own] {
            turn(&world, switches, place);
            for (payload, name) in PAYLOADS {
                for tagged in [false, true] {
                    id += 1;
                    let seen = !world.send(&order(id, payload, tagged)).is_empty();
                    arrived += u32::from(seen);
                    let told = switches.rules(BridgeFrame { payload, tagged });
                    if seen != told.is_none() {
                        let how = if matches!(place, Where::All) { "for all bridges" } else { "for br0" };
                        wrong.push(format!(
                            "{name}, tag {tagged}, {switches:?} {how}: told {told:?}, arrived {seen}"
                        ));
                    }
                }
            }
        }
    }
    common::tell(&format!("{id} frames: {arrived} arrived, {} wrong", wrong.len()));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(arrived > 50 && id - u64::from(arrived) > 50, "one-sided frames");
}

/// The switch for tagged frames there is for all bridges alone.
fn turn(world: &World, switches: BridgeSwitches, place: Where) {
    let knobs = [("ip", switches.iptables), ("ip6", switches.ip6tables), ("arp", switches.arptables)];
    for (name, on) in knobs {
        let all = on && matches!(place, Where::All);
        let own = u8::from(on && matches!(place, Where::Own)).to_string();
        world.sysctl(&format!("net.bridge.bridge-nf-call-{name}tables"), all.into());
        let command = ["ip", "link", "set", "br0", "type", "bridge", &format!("nf_call_{name}tables"), &own];
        world.host(&command, "").unwrap();
    }
    world.sysctl("net.bridge.bridge-nf-filter-vlan-tagged", switches.tagged.into());
}

/// From one port of the bridge to the other.
fn order(id: u64, payload: FramePayload, tagged: bool) -> serde_json::Value {
    let mut order = json!({ "id": id, "at": "g0", "mac": "g1", "family": 4 });
    match payload {
        FramePayload::Ip(family) => {
            let (number, ends) = match family {
                IpFamily::V4 => (4, ["10.0.0.1", "10.0.0.2"]),
                IpFamily::V6 => (6, ["fd00::1", "fd00::2"]),
            };
            order["family"] = number.into();
            let more = json!({ "src": ends[0], "dst": ends[1], "protocol": 17, "sport": 1000, "dport": 53 });
            order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        }
        FramePayload::Arp => order["frame"] = "arp".into(),
        FramePayload::Other => order["frame"] = "other".into(),
    }
    if tagged {
        order["vlan"] = crate::flow::VLAN.into();
    }
    order
}
