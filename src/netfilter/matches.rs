//! The conditions of a rule.

use super::packet::{ConntrackStates, FlowDirection, TcpFlags};
use super::sets::SetMembership;
use crate::resource::iptables::protocols;
use std::borrow::Cow;
use std::net::IpAddr;

/// One condition of a rule. All of a rule's conditions have to hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleMatch {
    /// With `!` in front.
    pub negated: bool,
    /// What is asked.
    pub test: MatchTest,
}

/// What a condition asks, before any `!`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MatchTest {
    /// `-s`.
    Source(MaskedNetwork),
    /// `-d`.
    Destination(MaskedNetwork),
    /// `--src-range`.
    SourceRange(IpAddr, IpAddr),
    /// `--dst-range`.
    DestinationRange(IpAddr, IpAddr),
    /// `-i`.
    In(DevicePattern),
    /// `-o`.
    Out(DevicePattern),
    /// `-p`.
    Protocol(u8),
    /// `-f`: a fragment that is not the first.
    Fragment,
    /// `--sport` and `--sports`.
    SourcePorts(Vec<PortRange>),
    /// `--dport` and `--dports`.
    DestinationPorts(Vec<PortRange>),
    /// `--ports`: either of the two.
    AnyPorts(Vec<PortRange>),
    /// `--tcp-flags`: of the flags in `mask`, those in `set` and no other are set.
    TcpFlags {
        /// The flags that are looked at.
        mask: u8,
        /// Those that have to be set.
        set: u8,
    },
    /// `--icmp-type` and `--icmpv6-type`; without a type it is `any`.
    Icmp {
        /// The protocol number of ICMP or ICMPv6.
        protocol: u8,
        /// The type, and the code if one is asked for.
        kind: Option<(u8, Option<u8>)>,
    },
    /// `-m state` and `-m conntrack`, all options of one.
    Conntrack(ConntrackTest),
    /// `--physdev-in`.
    PhysIn(DevicePattern),
    /// `--physdev-out`.
    PhysOut(DevicePattern),
    /// `--physdev-is-in`.
    PhysIsIn,
    /// `--physdev-is-out`.
    PhysIsOut,
    /// `--physdev-is-bridged`.
    PhysIsBridged,
    /// `--mark`.
    Mark {
        /// What the masked mark has to be.
        value: u32,
        /// The mask.
        mask: u32,
    },
    /// `-m addrtype --src-type`.
    SourceKind(Vec<AddressKind>),
    /// `-m addrtype --dst-type`.
    DestinationKind(Vec<AddressKind>),
    /// `--length`: the bytes of the packet with its IP header, both bounds included.
    Length(u16, u16),
    /// `--match-set` of a set whose members are known.
    InSet(SetMembership),
    /// Anything that is not modelled, as it was written.
    Unknown(String),
}

/// What is asked of conntrack at once: where it has no entry for a packet, only the state counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConntrackTest {
    /// `--state`, `--ctstate`.
    pub states: Option<StateList>,
    /// `--ctdir`, and whether `!` stands before it.
    pub direction: Option<(FlowDirection, bool)>,
    /// Other options, which are not modelled.
    pub other: Option<String>,
}

/// The states that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateList {
    /// With `!` in front.
    pub negated: bool,
    /// The states proper.
    pub states: ConntrackStates,
    /// `SNAT` is among them.
    pub snat: bool,
    /// `DNAT` is among them.
    pub dnat: bool,
}

/// What `-m addrtype` calls an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// One of the host's own.
    Local,
    /// One of a machine.
    Unicast,
    /// To all of a network.
    Broadcast,
    /// To a group.
    Multicast,
    /// One of the others (ANYCAST, UNREACHABLE …).
    Other,
}

/// An address and a mask, which need not be a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaskedNetwork {
    v6: bool,
    address: u128,
    mask: u128,
}

/// Both families as a number, which is IPv6's or that of an IPv4 address.
fn number(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(address) => (false, u32::from(address).into()),
        IpAddr::V6(address) => (true, address.into()),
    }
}

impl MaskedNetwork {
    /// `10.0.0.0/8`, `10.0.0.0/255.0.255.0`, `2001:db8::1`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, mask) = match text.split_once('/') {
            Some((address, mask)) => (address, Some(mask)),
            None => (text, None),
        };
        let (v6, address) = number(address.parse().ok()?);
        let bits: u32 = if v6 { 128 } else { 32 };
        let full = u128::MAX >> (128 - bits);
        let mask = match mask {
            None => full,
            Some(mask) => match mask.parse::<u32>() {
                Ok(length) if length <= bits => full & full.checked_shl(bits - length).unwrap_or(0),
                Ok(_) => return None,
                Err(_) => {
                    let (mask_v6, mask) = number(mask.parse().ok()?);
                    (mask_v6 == v6).then_some(mask)?
                }
            },
        };
        Some(Self { v6, address: address & mask, mask })
    }

    /// Whether it is IPv6, the address and the mask.
    pub(super) fn parts(&self) -> (bool, u128, u128) {
        (self.v6, self.address, self.mask)
    }

    /// Its lowest address.
    pub fn first(&self) -> IpAddr {
        match self.v6 {
            true => IpAddr::V6(self.address.into()),
            false => IpAddr::V4(u32::try_from(self.address).unwrap_or_default().into()),
        }
    }

    /// Whether it holds nothing but loopback addresses.
    pub fn is_loopback(&self) -> bool {
        match self.v6 {
            true => self.mask == u128::MAX && self.address == 1,
            false => self.mask >> 24 == 0xff && self.address >> 24 == 127,
        }
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (v6, address) = number(address);
        v6 == self.v6 && address & self.mask == self.address
    }
}

/// A device name, where a `+` at the end stands for any rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DevicePattern(pub String);

impl DevicePattern {
    /// Whether a name fits.
    pub fn fits(&self, name: &str) -> bool {
        match self.0.strip_suffix('+') {
            Some(prefix) => name.starts_with(prefix),
            None => name == self.0,
        }
    }
}

/// Ports from one to the other, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange(pub u16, pub u16);

impl PortRange {
    fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once(':').unwrap_or((text, text));
        Some(Self(from.parse().ok()?, to.parse().ok()?))
    }

    fn parse_list(text: &str) -> Option<Vec<Self>> {
        text.split(',').map(Self::parse).collect()
    }

    /// Whether a port lies in it.
    pub fn contains(self, port: u16) -> bool {
        (self.0..=self.1).contains(&port)
    }
}

/// The condition of an option that stands before any `-m`.
pub(super) fn head(option: &str, value: &str) -> Option<MatchTest> {
    Some(match option {
        "-s" => MatchTest::Source(MaskedNetwork::parse(value)?),
        "-d" => MatchTest::Destination(MaskedNetwork::parse(value)?),
        "-i" => MatchTest::In(DevicePattern(value.to_owned())),
        "-o" => MatchTest::Out(DevicePattern(value.to_owned())),
        // 0 stands for every protocol.
        "-p" => MatchTest::Protocol(protocols::number(value).filter(|number| *number != 0)?),
        _ => return None,
    })
}

/// The condition of one option of a match extension.
pub(super) fn option(extension: &str, option: &str, values: &[Cow<'_, str>]) -> Option<MatchTest> {
    let one = || match values {
        [value] => Some(value.as_ref()),
        _ => None,
    };
    let flag = |test: MatchTest| values.is_empty().then_some(test);
    Some(match (extension, option) {
        ("tcp" | "udp", "--sport" | "--source-port") => {
            MatchTest::SourcePorts(vec![PortRange::parse(one()?)?])
        }
        ("tcp" | "udp", "--dport" | "--destination-port") => {
            MatchTest::DestinationPorts(vec![PortRange::parse(one()?)?])
        }
        ("tcp", "--syn") => flag(MatchTest::TcpFlags { mask: 0b10111, set: 0b10 })?,
        ("tcp", "--tcp-flags") => {
            let [mask, set] = values else { return None };
            MatchTest::TcpFlags { mask: TcpFlags::bits(mask)?, set: TcpFlags::bits(set)? }
        }
        ("multiport", "--sports" | "--source-ports") => {
            MatchTest::SourcePorts(PortRange::parse_list(one()?)?)
        }
        ("multiport", "--dports" | "--destination-ports") => {
            MatchTest::DestinationPorts(PortRange::parse_list(one()?)?)
        }
        ("multiport", "--ports") => MatchTest::AnyPorts(PortRange::parse_list(one()?)?),
        ("icmp", "--icmp-type") => MatchTest::Icmp { protocol: 1, kind: icmp(one()?)? },
        ("icmp6", "--icmpv6-type") => MatchTest::Icmp { protocol: 58, kind: icmp(one()?)? },
        ("physdev", "--physdev-in") => MatchTest::PhysIn(DevicePattern(one()?.to_owned())),
        ("physdev", "--physdev-out") => MatchTest::PhysOut(DevicePattern(one()?.to_owned())),
        ("physdev", "--physdev-is-in") => flag(MatchTest::PhysIsIn)?,
        ("physdev", "--physdev-is-out") => flag(MatchTest::PhysIsOut)?,
        ("physdev", "--physdev-is-bridged") => flag(MatchTest::PhysIsBridged)?,
        ("mark", "--mark") => {
            let (value, mask) = masked(one()?)?;
            MatchTest::Mark { value, mask }
        }
        ("iprange", "--src-range") => range(one()?, MatchTest::SourceRange)?,
        ("iprange", "--dst-range") => range(one()?, MatchTest::DestinationRange)?,
        ("length", "--length") => {
            let (least, most) = one()?.split_once(':').unwrap_or((one()?, one()?));
            let bound = |text: &str, open: u16| if text.is_empty() { Some(open) } else { text.parse().ok() };
            MatchTest::Length(bound(least, 0)?, bound(most, u16::MAX)?)
        }
        ("addrtype", "--src-type") => MatchTest::SourceKind(kinds(one()?)),
        ("addrtype", "--dst-type") => MatchTest::DestinationKind(kinds(one()?)),
        _ => return None,
    })
}

/// `0x10/0xff`, `0x10`: value and mask, in hexadecimal or decimal.
pub(super) fn masked(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

fn icmp(text: &str) -> Option<Option<(u8, Option<u8>)>> {
    if text == "any" {
        return Some(None);
    }
    Some(Some(match text.split_once('/') {
        Some((kind, code)) => (kind.parse().ok()?, Some(code.parse().ok()?)),
        None => (text.parse().ok()?, None),
    }))
}

/// All options of one `-m state` or `-m conntrack`.
pub(super) fn conntrack<'a>(
    options: impl Iterator<Item = (bool, &'a str, &'a [Cow<'a, str>])>,
) -> ConntrackTest {
    let mut asked = ConntrackTest { states: None, direction: None, other: None };
    for (negated, option, values) in options {
        let value = values.first().map_or("", AsRef::as_ref);
        let known = match (option, value) {
            ("--state" | "--ctstate", list) => {
                asked.states = states(list, negated);
                asked.states.is_some()
            }
            ("--ctdir", "ORIGINAL") => {
                asked.direction = Some((FlowDirection::Original, negated));
                true
            }
            ("--ctdir", "REPLY") => {
                asked.direction = Some((FlowDirection::Reply, negated));
                true
            }
            _ => false,
        };
        if !known {
            let not = if negated { "! " } else { "" };
            asked.other = Some(format!("{not}{option} {}", values.join(" ")));
        }
    }
    asked
}

fn states(list: &str, negated: bool) -> Option<StateList> {
    let mut found = StateList { negated, states: ConntrackStates::NONE, snat: false, dnat: false };
    for name in list.split(',') {
        match name {
            "SNAT" => found.snat = true,
            "DNAT" => found.dnat = true,
            name => found.states = found.states | ConntrackStates::named(name)?,
        }
    }
    Some(found)
}

fn range(text: &str, test: fn(IpAddr, IpAddr) -> MatchTest) -> Option<MatchTest> {
    let (from, to) = text.split_once('-')?;
    Some(test(from.parse().ok()?, to.parse().ok()?))
}

fn kinds(list: &str) -> Vec<AddressKind> {
    let kind = |name| match name {
        "LOCAL" => AddressKind::Local,
        "UNICAST" => AddressKind::Unicast,
        "BROADCAST" => AddressKind::Broadcast,
        "MULTICAST" => AddressKind::Multicast,
        _ => AddressKind::Other,
    };
    list.split(',').map(kind).collect()
}
