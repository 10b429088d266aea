//! What decides about a packet beside the tables of one family and backend.

use super::outcome::TraceStep;
use super::packet::PacketDevice;
use crate::resource::iptables::IpFamily;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The host around its tables. An empty field is unknown, and makes an answer that needs it
/// unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostContext {
    /// The host's own addresses, each with its device and the prefix of its network, in the order of
    /// the kernel.
    pub addresses: Vec<(String, IpNet)>,
    /// Routes of the main table: the network and the device. Leave it empty where policy routing
    /// decides.
    pub routes: Vec<(IpNet, String)>,
    /// Other tables that packets pass.
    pub other_tables: Vec<OtherTable>,
    /// Which iptables loaded the rules.
    pub backend: Option<IptablesBackend>,
}

/// Which iptables loaded the rules of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IptablesBackend {
    /// iptables-nft, which asks the security table of INPUT behind nat.
    Nft,
    /// iptables-legacy, which asks it before.
    Legacy,
}

/// A table or chain that packets pass and that is not simulated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OtherTable {
    /// What it is called, for people: `nft table inet filter`, `iptables-legacy`, `ebtables`.
    pub name: String,
    /// Where packets meet it.
    pub hooks: Vec<NetfilterHook>,
    /// What it can do.
    pub effect: TableEffect,
}

/// What another table can do to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableEffect {
    /// Drop it: what passes our tables may end there.
    MayDrop,
    /// Rewrite it or drop it: nothing can be said.
    MayRewrite,
    /// Set its mark, which a rule may ask for.
    MayMark,
    /// Take it out of conntrack, whose state a rule may ask for.
    MayUntrack,
}

impl TableEffect {
    /// Whether the packet may end there, whatever our tables say.
    pub fn may_drop(self) -> bool {
        matches!(self, TableEffect::MayDrop | TableEffect::MayRewrite)
    }
}

/// Where packets meet rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NetfilterHook {
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

impl OtherTable {
    /// Whether what a bridge brings to the host, or takes from it, may end there.
    pub fn may_drop_at_bridge(&self) -> bool {
        self.effect.may_drop() && self.hooks.contains(&NetfilterHook::BridgeHost)
    }

    /// As the step that decides a simulation.
    pub fn step(&self) -> TraceStep {
        let text = match self.effect {
            TableEffect::MayDrop => "may drop it",
            TableEffect::MayRewrite => "may rewrite or drop it",
            TableEffect::MayMark => "may set its mark",
            TableEffect::MayUntrack => "may take it out of conntrack",
        };
        TraceStep { table: self.name.as_str().into(), chain: "".into(), index: None, text: text.into() }
    }
}

impl HostContext {
    /// What a frame passes from port to port of a bridge, whether iptables sees it or not.
    pub fn on_bridges(&self) -> Option<&OtherTable> {
        self.other_tables
            .iter()
            .find(|one| one.effect.may_drop() && one.hooks.contains(&NetfilterHook::Bridge))
    }

    /// Whether somebody beside our tables has this effect.
    pub(super) fn may(&self, effect: TableEffect) -> bool {
        self.other_tables.iter().any(|one| one.effect == effect)
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
    pub(super) fn own_addresses(&self, family: IpFamily) -> Vec<IpAddr> {
        let v4 = family == IpFamily::V4;
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
    pub fn device_to(&self, address: IpAddr) -> PacketDevice {
        if self.routes.is_empty() {
            return PacketDevice::Some;
        }
        let fits = self.routes.iter().filter(|(network, _)| network.contains(&address));
        match fits.max_by_key(|(network, _)| network.prefix_len()) {
            Some((_, device)) => PacketDevice::named(device),
            None => PacketDevice::Some,
        }
    }

    /// What REDIRECT and MASQUERADE take for an address on a device: the first that is as far-reaching
    /// as the peer's. `Err` where the device has none for certain.
    pub(super) fn own_address_on(
        &self,
        device: &PacketDevice,
        peer: Option<IpAddr>,
    ) -> Result<Option<IpAddr>, ()> {
        let (PacketDevice::Named(device), Some(peer)) = (device, peer) else { return Ok(None) };
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
