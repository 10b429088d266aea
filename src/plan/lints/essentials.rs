//! What every host needs whatever it serves: its loopback, and neighbour discovery for IPv6.

use super::{FamilyView, plain, say};
use crate::netfilter::{
    ConntrackStates, MatchTest, Packet, PacketDevice, PacketPath, PacketVerdict, TcpFlags, TraceStep,
    simulate,
};
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::iptables::IpFamily;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A port that rulesets do not open by its number.
const SAMPLE_PORT: u16 = 40_000;

/// Neighbour solicitation and advertisement.
const DISCOVERY: [(u8, &str); 2] = [(135, "solicitations"), (136, "advertisements")];

impl FamilyView<'_> {
    /// Neighbour discovery that rules of ours drop. It is told for the host, whatever SSH comes by.
    pub(super) fn neighbour_discovery(&self, warnings: &mut Vec<Warning>) {
        if self.family == IpFamily::V4 || !self.uses_ipv6() || self.closes_ipv6() {
            return;
        }
        let mut dropped: Vec<(String, TraceStep)> = Vec::new();
        for (kind, name) in DISCOVERY {
            let message = Packet { state: ConntrackStates::UNTRACKED, ..Packet::icmp(IpFamily::V6, kind, 0) };
            for (base, what) in [(PacketPath::Input, "to"), (PacketPath::Output, "of")] {
                let packet = self.outside(base, message.clone());
                dropped.extend(
                    self.ours_drops(base, &packet).map(|step| (format!("{name} {what} the host"), step)),
                );
            }
        }
        let Some((_, step)) = dropped.first() else { return };
        let what: Vec<&str> = dropped.iter().map(|(what, _)| what.as_str()).collect();
        let message = WarningMessage::new(format!(
            "IPv6 neighbour discovery ({}) is dropped, so IPv6 works only until \
             the neighbour entries expire",
            what.join(", ")
        ))
        .cause(say(step))
        .fix("put `-p ipv6-icmp -j ACCEPT` before that rule");
        warnings.push(Warning::new(LintCode::NeighbourDiscoveryDropped, message, self.origin_of(step)));
    }

    /// Packets of the host to itself that rules of ours drop.
    pub(super) fn loopback(&self, warnings: &mut Vec<Warning>) {
        let own: IpAddr = match self.family {
            IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
            IpFamily::V6 if self.closes_ipv6() => return,
            IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        let packet = Packet {
            src: Some(own),
            dst: Some(own),
            src_local: Some(true),
            dst_local: Some(true),
            state: ConntrackStates::NEW,
            in_iface: PacketDevice::Absent,
            out_iface: PacketDevice::named("lo"),
            physin: PacketDevice::Absent,
            physout: PacketDevice::Absent,
            ..Packet::tcp(self.family, SAMPLE_PORT, SAMPLE_PORT + 1, TcpFlags::SYN)
        };
        let Some(step) = self.ours_drops(PacketPath::Output, &packet) else { return };
        let message = WarningMessage::new(format!(
            "{}: packets of the host to itself (lo) are dropped, so local \
             services such as DNS stubs and databases fail",
            self.family
        ))
        .cause(say(&step))
        .fix("put `-i lo -j ACCEPT` first in INPUT, and `-o lo -j ACCEPT` first in OUTPUT if OUTPUT drops");
        warnings.push(Warning::new(LintCode::LoopbackDropped, message, self.origin_of(&step)));
    }

    /// Rules of ours that ask for the ICMP of the other family, which no packet here carries.
    pub(super) fn wrong_family(&self, warnings: &mut Vec<Warning>) {
        let (number, written, right) = match self.family {
            IpFamily::V4 => (58, "-p ipv6-icmp", "-p icmp"),
            IpFamily::V6 => (1, "-p icmp", "-p ipv6-icmp"),
        };
        for (table, chain) in self.predicted.managed_chains() {
            for (index, rule) in self.after.rules(table, &chain.name).unwrap_or_default().iter().enumerate() {
                let asks =
                    |test: &MatchTest| matches!(test, MatchTest::Protocol(protocol) if *protocol == number);
                if !rule.matches.iter().any(|one| asks(&one.test)) {
                    continue;
                }
                let message = WarningMessage::new(format!(
                    "{} {table}/{} rule {}: `{}` matches nothing",
                    self.family,
                    plain(&chain.name),
                    index + 1,
                    rule.text
                ))
                .cause(format!("`{written}` is of the other family"))
                .fix(format!("write `{right}`"));
                warnings.push(Warning::new(
                    LintCode::WrongFamily,
                    message,
                    self.rule_origin(table, &chain.name, index + 1),
                ));
            }
        }
    }

    /// Whether the host has, or gets, an IPv6 address that others reach. Without a host it is taken to have one.
    fn uses_ipv6(&self) -> bool {
        let Some(observed) = self.observed else { return true };
        let global = |text: &str| {
            let address = text.split('/').next().and_then(|address| address.parse::<Ipv6Addr>().ok());
            address.is_some_and(|address| !address.is_loopback() && !address.is_unicast_link_local())
        };
        let live = observed.links.by_name.values().flat_map(|link| &link.addresses).any(|a| global(&a.local));
        live || self
            .desired
            .bridges
            .values()
            .flat_map(|bridge| &bridge.addresses)
            .any(|a| global(&a.to_string()))
    }

    /// Rules that drop whatever comes over IPv6 mean it.
    fn closes_ipv6(&self) -> bool {
        let answer = Packet {
            state: ConntrackStates::ESTABLISHED,
            ..Packet::tcp(IpFamily::V6, 443, SAMPLE_PORT, TcpFlags::REPLY)
        };
        let port = self.desired.connection.port.unwrap_or(22);
        let login = Packet {
            state: ConntrackStates::NEW,
            ..Packet::tcp(IpFamily::V6, SAMPLE_PORT, port, TcpFlags::SYN)
        };
        let drops = |packet| {
            simulate(&self.after, &self.context, PacketPath::Input, &self.outside(PacketPath::Input, packet))
                .verdict
                == PacketVerdict::Drop
        };
        drops(answer) && drops(login)
    }
}
