//! What decides about a packet beside the tables of one family and backend.

use super::outcome::Step;
use super::packet::Device;
use crate::resource::iptables::Family;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The host around its tables. What is left empty is not known, and makes an answer that needs it
/// unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The host's own addresses, each with its device and the prefix of its network, in the order of
    /// the kernel.
    pub addresses: Vec<(String, IpNet)>,
    /// Routes of the main table: the network and the device. Leave it empty where policy routing
    /// decides.
    pub routes: Vec<(IpNet, String)>,
    /// Other tables that packets pass.
    pub bystanders: Vec<Bystander>,
    /// Which iptables loaded the rules.
    pub backend: Option<Backend>,
}

/// Which iptables loaded the rules of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// iptables-nft, which asks the security table of INPUT behind nat.
    Nft,
    /// iptables-legacy, which asks it before.
    Legacy,
}

/// A table or chain that the walk does not read, and that packets pass too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bystander {
    /// What it is called, for people: `nft table inet filter`, `iptables-legacy`, `ebtables`.
    pub name: String,
    /// Where packets meet it.
    pub hooks: Vec<Hook>,
    /// What it can do.
    pub effect: Effect,
}

/// What a bystander can do to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Drop it: what passes our tables may end there.
    MayDrop,
    /// Rewrite it or drop it: nothing can be said.
    MayRewrite,
    /// Set its mark, which a rule may ask for.
    MayMark,
    /// Take it out of conntrack, whose state a rule may ask for.
    MayUntrack,
}

impl Effect {
    /// Whether the packet may end there, whatever our tables say.
    pub fn may_end_it(self) -> bool {
        matches!(self, Effect::MayDrop | Effect::MayRewrite)
    }
}

/// Where packets meet rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To the host.
    Input,
    /// Through the host.
    Forward,
    /// From the host.
    Output,
    /// After routing.
    Postrouting,
    /// What a bridge forwards, whether iptables sees it or not: ebtables, arptables, tables of the `bridge` family, and
    /// those at a device.
    Bridge,
    /// What a bridge brings to the host or takes from it: ebtables and tables of the `bridge` family.
    BridgeHost,
}

impl Bystander {
    /// Whether what a bridge brings to the host, or takes from it, may end there.
    pub fn may_end_at_bridge(&self) -> bool {
        self.effect.may_end_it() && self.hooks.contains(&Hook::BridgeHost)
    }

    /// As the step that a walk ends at.
    pub fn step(&self) -> Step {
        let text = match self.effect {
            Effect::MayDrop => "may drop it",
            Effect::MayRewrite => "may rewrite or drop it",
            Effect::MayMark => "may set its mark",
            Effect::MayUntrack => "may take it out of conntrack",
        };
        Step { table: self.name.as_str().into(), chain: "".into(), index: None, text: text.into() }
    }
}

impl Surroundings {
    /// What a frame passes from port to port of a bridge, whether iptables sees it or not.
    pub fn on_bridges(&self) -> Option<&Bystander> {
        self.bystanders.iter().find(|one| one.effect.may_end_it() && one.hooks.contains(&Hook::Bridge))
    }

    /// Whether somebody beside our tables has this effect.
    pub(super) fn may(&self, effect: Effect) -> bool {
        self.bystanders.iter().any(|one| one.effect == effect)
    }

    /// Whether an address is one of the host's own.
    pub fn is_local(&self, address: IpAddr) -> Option<bool> {
        if address.is_loopback() {
            return Some(true);
        }
        let same = |(_, own): &(String, IpNet)| own.addr() == address;
        (!self.addresses.is_empty()).then(|| self.addresses.iter().any(same))
    }

    /// The addresses of a family that the host has; none where they are not known.
    pub(super) fn own(&self, family: Family) -> Vec<IpAddr> {
        let v4 = family == Family::V4;
        let own = self.addresses.iter().map(|(_, own)| own.addr()).filter(|own| own.is_ipv4() == v4);
        let mut all: Vec<IpAddr> = own.collect();
        if !all.is_empty() {
            all.push(if v4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        all
    }

    /// Whether an address is the broadcast address of one of the host's networks.
    pub fn is_broadcast(&self, address: IpAddr) -> Option<bool> {
        let all = |(_, own): &(String, IpNet)| match own {
            // A network of two or one has none.
            IpNet::V4(own) => own.prefix_len() < 31 && IpAddr::V4(own.broadcast()) == address,
            IpNet::V6(_) => false,
        };
        (address.is_ipv6() || !self.addresses.is_empty()).then(|| self.addresses.iter().any(all))
    }

    /// The device that leads to an address.
    pub fn device_to(&self, address: IpAddr) -> Device {
        if self.routes.is_empty() {
            return Device::Some;
        }
        let fits = self.routes.iter().filter(|(network, _)| network.contains(&address));
        match fits.max_by_key(|(network, _)| network.prefix_len()) {
            Some((_, device)) => Device::named(device),
            None => Device::Some,
        }
    }

    /// What REDIRECT and MASQUERADE take for an address on a device: the first that is as far-reaching
    /// as the peer's. `Err` where the device has none for certain.
    pub(super) fn own_on(&self, device: &Device, peer: Option<IpAddr>) -> Result<Option<IpAddr>, ()> {
        let (Device::Named(device), Some(peer)) = (device, peer) else { return Ok(None) };
        if self.addresses.is_empty() {
            return Ok(None);
        }
        let link_local = |address: IpAddr| match address {
            IpAddr::V6(address) => address.is_unicast_link_local(),
            IpAddr::V4(_) => false,
        };
        let mut fit = self.addresses.iter().filter(|(name, own)| {
            **name == **device
                && own.addr().is_ipv4() == peer.is_ipv4()
                && link_local(own.addr()) == link_local(peer)
        });
        match (fit.next(), fit.next()) {
            (None, _) => Err(()),
            (Some((_, only)), None) => Ok(Some(only.addr())),
            // Which of several is first is the kernel's secret where some are secondary.
            _ => Ok(None),
        }
    }
}
