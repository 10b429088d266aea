//! Spanning tree, timers, filtering, MTU and MAC: each only where it is declared, and back to what it
//! was when it is declared no more.

use super::RefusalCause;
use super::planner::BridgePlanner;
use crate::host_state::HostLink;
use crate::resource::bridge::{BRIDGE_ATTRIBUTES, DEFAULT_PVID};

/// Whether the ageing time that is shown is one of the moment: while its spanning tree changes, a bridge forgets after
/// twice the forward delay, and shows that in the place of what is set.
pub(super) fn ages_fast(link: &HostLink) -> bool {
    let number = |attribute| link.number(attribute).unwrap_or(0);
    number("topology_change") == 1 && number("ageing_time") == 2 * number("forward_delay")
}

fn unsettled(link: &HostLink) -> RefusalCause {
    let seconds = |attribute| link.number(attribute).unwrap_or(0) / 100;
    (
        "topology-change",
        format!(
            "bridge {}: its spanning tree is changing, and meanwhile the kernel does not show the configured \
             ageing time, which an undo needs; run kvmfw plan again in {} s",
            link.name,
            seconds("max_age") + seconds("forward_delay") + 1
        ),
    )
}

impl BridgePlanner<'_> {
    pub(super) fn attributes(&mut self, there: Option<&HostLink>) -> Result<(), RefusalCause> {
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
        let further = BRIDGE_ATTRIBUTES.iter().map(|known| {
            let value = bridge.attributes.get(known.key).map(|value| (value * known.scale).to_string());
            (known.word, value)
        });
        for (attribute, wanted) in list.into_iter().chain(further) {
            let mut live = number(attribute).map(|v| v.to_string());
            if let Some(link) = there.filter(|link| attribute == "ageing_time" && ages_fast(link)) {
                live = self.as_set_before(attribute);
                if live.is_none() && wanted.is_some() {
                    return Err(unsettled(link));
                }
            }
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
            if let (DEFAULT_PVID, Some(live)) = (attribute, live.as_ref().filter(|live| **live != wanted)) {
                return Err(self.moves_ports(live, &wanted));
            }
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
        Ok(())
    }

    /// The kernel gives all ports of a bridge the new default, taps of guests among them, and no undo could tell which of
    /// them had the old one on purpose.
    fn moves_ports(&self, live: &str, wanted: &str) -> RefusalCause {
        let name = &self.bridge.name;
        (
            "unsupported",
            format!(
                "bridge {name}: `{DEFAULT_PVID}` is {live} on the host, and {wanted} would move all ports of the bridge that \
                 have VLAN {live} by default, guests too; state {live}, or change it by hand with `ip link set dev {name} type \
                 bridge {DEFAULT_PVID} {wanted}` and plan again"
            ),
        )
    }

    /// What an attribute is by an earlier apply of ours.
    fn as_set_before(&self, attribute: &str) -> Option<String> {
        let start = format!("link set dev {} type bridge {attribute} ", self.bridge.name);
        self.owned.boot.iter().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
    }

    /// Below 1280 the kernel ends IPv6 on a link: addresses, routes and settings are gone, and nothing brings all of them
    /// back.
    pub(super) fn check_mtu(&self, there: Option<&HostLink>) -> Result<(), RefusalCause> {
        let Some(mtu) = self.bridge.mtu.filter(|mtu| *mtu < 1280) else { return Ok(()) };
        let ports = self.bridge.ports.iter().filter_map(|port| self.links.by_name.get(port));
        for link in there.into_iter().chain(ports).filter(|link| link.mtu >= 1280) {
            // A port that carries the bridge's frames needs none of its own that is link-local.
            let is_port = link.name != self.bridge.name;
            let in_use =
                link.addresses.iter().find(|a| a.family == "inet6" && !(is_port && a.scope == "link"));
            if let Some(address) = in_use {
                return Err((
                    "unsupported",
                    format!(
                        "bridge {}: an mtu of {mtu} would remove {} and all of IPv6 from {}, because IPv6 \
                         needs 1280; raise the mtu, or disable IPv6 on {} first \
                         (net.ipv6.conf.{}.disable_ipv6)",
                        self.bridge.name, address.local, link.name, link.name, link.name
                    ),
                ));
            }
        }
        Ok(())
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
