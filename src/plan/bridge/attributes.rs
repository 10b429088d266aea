//! Spanning tree, timers, filtering, MTU and MAC: each only where it is declared, and back to what it
//! was when it is declared no more.

use super::declared::Work;
use crate::observe::Link;

impl Work<'_> {
    pub(super) fn attributes(&mut self, there: Option<&Link>) {
        let bridge = self.bridge;
        let flag = |value: Option<bool>| value.map(|v| i64::from(v).to_string());
        let number = |attribute: &str| there.and_then(|l| l.number(attribute));
        let list = [
            ("stp_state", flag(bridge.stp)),
            ("forward_delay", bridge.forward_delay.map(|v| (v * 100).to_string())),
            ("ageing_time", bridge.ageing.map(|v| (v * 100).to_string())),
            ("vlan_filtering", flag(bridge.vlan_filtering)),
            ("nf_call_iptables", flag(bridge.nf_call_iptables)),
            ("nf_call_ip6tables", flag(bridge.nf_call_ip6tables)),
            ("nf_call_arptables", flag(bridge.nf_call_arptables)),
        ];
        for (attribute, wanted) in list {
            let live = number(attribute).map(|v| v.to_string());
            let fresh = match attribute {
                "stp_state" | "forward_delay" => Some("0".to_owned()),
                _ => None,
            };
            let set = |value: &str| format!("link set dev {} type bridge {attribute} {value}", bridge.name);
            let Some(wanted) = wanted else {
                // STP raises a delay that is too short for it, and leaves it so.
                let raised = attribute == "forward_delay" && bridge.stp == Some(true);
                if let (true, Some(live)) = (raised, &live) {
                    if number("stp_state") == Some(0) {
                        self.was(attribute, live, set(live));
                    }
                    continue;
                }
                self.attribute_back(attribute, live.as_ref(), &set);
                continue;
            };
            let now = if there.is_none() { fresh } else { live.clone() };
            let holds = now.as_ref() == Some(&wanted);
            self.step(set(&wanted), holds);
            if let Some(live) = &live {
                self.old.push(format!("{attribute} {live}"));
                if !holds {
                    self.was(attribute, live, set(live));
                }
            }
            self.wanted(format!("{attribute} {wanted}"));
        }
        let mtu = bridge.mtu.map(|m| m.to_string());
        self.link_attribute("mtu", &bridge.name, mtu.clone());
        for port in &bridge.ports {
            self.link_attribute("mtu", port, mtu.clone());
        }
        self.link_attribute("address", &bridge.name, bridge.mac.clone());
    }

    /// Notes how an attribute was before we set it, and the line that sets it so again.
    fn was(&mut self, attribute: &str, live: &str, back: String) {
        self.back.push(back);
        self.owned.attributes.entry(attribute.to_owned()).or_insert_with(|| live.to_owned());
    }

    /// MTU or MAC of the bridge or one of its ports.
    fn link_attribute(&mut self, attribute: &str, link: &str, wanted: Option<String>) {
        let word = if attribute == "address" { "mac" } else { attribute };
        let label = if *link == self.bridge.name { word.to_owned() } else { format!("{link} {word}") };
        let live = self.links.by_name.get(link).and_then(|l| match attribute {
            "mtu" => Some(l.mtu.to_string()),
            _ => l.mac.clone(),
        });
        let set = |value: &str| format!("link set dev {link} {attribute} {value}");
        let Some(wanted) = wanted else {
            self.attribute_back(&label, live.as_ref(), &set);
            return;
        };
        let holds = live.as_ref() == Some(&wanted);
        self.step(set(&wanted), holds);
        if let Some(live) = &live {
            self.old.push(format!("{label} {live}"));
            if !holds {
                self.was(&label, live, set(live));
            }
        }
        self.wanted(format!("{label} {wanted}"));
    }

    /// An attribute that we set once and that is declared no more.
    fn attribute_back(&mut self, label: &str, live: Option<&String>, set: &dyn Fn(&str) -> String) {
        let (Some(original), Some(live)) = (self.owned.attributes.remove(label), live) else { return };
        if *live != original {
            self.plan.forward.push(set(&original));
            self.back.push(set(live));
            self.old.push(format!("{label} {live}"));
            self.new.push((format!("{label} {original}   (as before)"), None));
        }
    }
}
