//! Which rules a frame meets that a bridge carries from port to port.

use crate::resource::iptables::IpFamily;

/// What is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramePayload {
    /// IPv4 or IPv6.
    Ip(IpFamily),
    /// ARP for IPv4.
    Arp,
    /// Anything else.
    Other,
}

/// A frame, as br_netfilter looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeFrame {
    /// What is in it.
    pub payload: FramePayload,
    /// It has a VLAN tag.
    pub tagged: bool,
}

/// The rules that a frame meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameRules {
    /// Those of iptables or ip6tables.
    Ip(IpFamily),
    /// Those of arptables.
    Arp,
}

/// The switches of br_netfilter, for one bridge: each is on where the key for all bridges is, or the bridge's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeSwitches {
    /// `bridge-nf-call-iptables`, `nf_call_iptables`.
    pub iptables: bool,
    /// `bridge-nf-call-ip6tables`, `nf_call_ip6tables`.
    pub ip6tables: bool,
    /// `bridge-nf-call-arptables`, `nf_call_arptables`.
    pub arptables: bool,
    /// `bridge-nf-filter-vlan-tagged`, which no bridge has of its own: without it no rule is asked about a
    /// frame with a tag.
    pub tagged: bool,
}

impl BridgeSwitches {
    /// The rules that a frame meets; `None` is: it passes all of them by.
    pub fn rules(self, frame: BridgeFrame) -> Option<FrameRules> {
        if frame.tagged && !self.tagged {
            return None;
        }
        let (on, rules) = match frame.payload {
            FramePayload::Ip(IpFamily::V4) => (self.iptables, FrameRules::Ip(IpFamily::V4)),
            FramePayload::Ip(IpFamily::V6) => (self.ip6tables, FrameRules::Ip(IpFamily::V6)),
            FramePayload::Arp => (self.arptables, FrameRules::Arp),
            FramePayload::Other => return None,
        };
        on.then_some(rules)
    }
}
