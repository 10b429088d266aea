//! A packet as people write it: from where to where, and what it is.

use crate::resource::iptables::address::is_mac;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

/// One end of a packet's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PacketEndpoint {
    /// The host itself.
    Host,
    /// An address.
    Address(IpAddr),
    /// Each address of a network.
    Network(IpNet),
    /// Each guest of a bridge.
    Guest(String),
    /// Each port of a bridge that is not a guest's.
    Uplink(String),
    /// A device of the host, a port of a bridge, or a guest by its name or MAC address.
    Name(String),
}

/// The protocol above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketTransport {
    /// TCP, the first segment of a connection.
    Tcp,
    /// UDP.
    Udp,
    /// A ping.
    Icmp,
}

/// A packet that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketQuery {
    /// Where it comes from.
    pub from: Option<PacketEndpoint>,
    /// Where it goes to.
    pub to: PacketEndpoint,
    /// Its source address, where `from` does not say it.
    pub source: Option<IpAddr>,
    /// The port it goes to.
    pub port: Option<u16>,
    /// What it is.
    pub transport: PacketTransport,
    /// The device it comes in by, to be routed.
    pub device: Option<String>,
    /// The bridge that it crosses.
    pub bridge: Option<String>,
    /// It belongs to a connection that is open, in the direction it was opened.
    pub established: bool,
}

impl PacketQuery {
    /// The destination as `--to` takes it.
    pub fn destination(&self) -> String {
        let end = match (&self.to, self.port) {
            (PacketEndpoint::Host, _) => "host".to_owned(),
            (PacketEndpoint::Address(IpAddr::V6(address)), Some(_)) => format!("[{address}]"),
            (PacketEndpoint::Network(network @ IpNet::V6(_)), Some(_)) => format!("[{network}]"),
            (end, _) => end.to_string(),
        };
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        let transport = match self.transport {
            PacketTransport::Tcp => String::new(),
            other => format!("/{}", other.as_str()),
        };
        format!("{end}{port}{transport}")
    }
}

impl PacketTransport {
    /// `tcp`, `udp`, `icmp`.
    pub fn as_str(self) -> &'static str {
        match self {
            PacketTransport::Tcp => "tcp",
            PacketTransport::Udp => "udp",
            PacketTransport::Icmp => "icmp",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [PacketTransport::Tcp, PacketTransport::Udp, PacketTransport::Icmp]
            .into_iter()
            .find(|t| t.as_str() == word)
    }
}

impl PacketEndpoint {
    /// An end without a port: `vnet0`, `192.0.2.1`, `10.0.0.0/8`, `host`, `guest@br0`.
    ///
    /// Errors: it is none of these, for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "host" {
            return Ok(PacketEndpoint::Host);
        }
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = inner.parse() {
            return Ok(PacketEndpoint::Address(address));
        }
        if let Some((address, _)) = inner.split_once('/')
            && address.parse::<IpAddr>().is_ok()
        {
            return network(inner).map(PacketEndpoint::Network);
        }
        if is_mac(text) {
            return Ok(PacketEndpoint::Name(text.to_ascii_lowercase()));
        }
        let is_name =
            |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "._-@".contains(c));
        match text.split_once('@') {
            Some(("guest", bridge)) if is_name(bridge) => Ok(PacketEndpoint::Guest(bridge.to_owned())),
            Some(("uplink", bridge)) if is_name(bridge) => Ok(PacketEndpoint::Uplink(bridge.to_owned())),
            Some(("guest" | "uplink", _)) => {
                Err(format!("`{}` names no bridge; write `guest@br0` or `uplink@br0`", text.escape_debug()))
            }
            _ if is_name(text) && !text.starts_with('-') => Ok(PacketEndpoint::Name(text.to_owned())),
            _ => Err(format!(
                "`{}` is not an address, a network, `host`, `guest@BRIDGE`, `uplink@BRIDGE`, or the name of a device, \
                 a port or a guest",
                text.escape_debug()
            )),
        }
    }

    /// Whether it is IPv4; `None` where both families are meant.
    pub fn is_ipv4(&self) -> Option<bool> {
        match self {
            PacketEndpoint::Address(address) => Some(address.is_ipv4()),
            PacketEndpoint::Network(network) => Some(network.addr().is_ipv4()),
            _ => None,
        }
    }
}

/// A network in which no bit behind the prefix is set: another one is a slip.
fn network(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpNet>() {
        Ok(network) if network.trunc() == network => Ok(network),
        Ok(network) => Err(format!(
            "`{text}` is an address with a prefix length, not a network; write `{}` or `{}`",
            network.trunc(),
            network.addr()
        )),
        Err(_) => Err(format!("`{}` is not a valid network", text.escape_debug())),
    }
}

impl fmt::Display for PacketEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PacketEndpoint::Host => f.write_str("the host"),
            PacketEndpoint::Address(address) => address.fmt(f),
            PacketEndpoint::Network(network) => network.fmt(f),
            PacketEndpoint::Guest(bridge) => write!(f, "guest@{bridge}"),
            PacketEndpoint::Uplink(bridge) => write!(f, "uplink@{bridge}"),
            PacketEndpoint::Name(name) => f.write_str(name),
        }
    }
}

/// Where a packet goes to: `192.168.1.1:53/udp`, `10.0.0.0/8:22`, `[fd00::1]:80`, `vnet1/icmp`, `host:22`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketDestination {
    /// The end.
    pub endpoint: PacketEndpoint,
    /// The port.
    pub port: Option<u16>,
    /// The protocol; `None` where it is not written.
    pub transport: Option<PacketTransport>,
}

impl PacketDestination {
    /// Reads it.
    ///
    /// Errors: what is wrong with it, for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (place, transport) = match text.rsplit_once('/') {
            // What follows the `/` of a network is its prefix length, and maybe a port.
            Some((_, word)) if word.starts_with(|c: char| c.is_ascii_digit()) => (text, None),
            Some((place, word)) => match PacketTransport::parse(word) {
                Some(transport) => (place, Some(transport)),
                None => return Err(format!("`{}`: the protocol is tcp, udp or icmp", word.escape_debug())),
            },
            None => (text, None),
        };
        let alone = place.parse::<IpAddr>().is_ok()
            || place.parse::<IpNet>().is_ok()
            || place.ends_with(']')
            || is_mac(place);
        let (end, port) = match place.rsplit_once(':').filter(|_| !alone) {
            Some((end, port)) => match port.parse() {
                Ok(0) | Err(_) => return Err(format!("`{}` is not a valid port", port.escape_debug())),
                Ok(number) => (end, Some(number)),
            },
            None => (place, None),
        };
        if port.is_some() && transport == Some(PacketTransport::Icmp) {
            return Err("icmp has no ports".to_owned());
        }
        Ok(Self { endpoint: PacketEndpoint::parse(end)?, port, transport })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_as_people_write_them() {
        let address = |text: &str| PacketEndpoint::Address(text.parse().unwrap());
        let network = |text: &str| PacketEndpoint::Network(text.parse().unwrap());
        let name = |text: &str| PacketEndpoint::Name(text.to_owned());
        let (tcp, udp, icmp) =
            (Some(PacketTransport::Tcp), Some(PacketTransport::Udp), Some(PacketTransport::Icmp));
        for (text, endpoint, port, transport) in [
            ("192.168.1.1:53/udp", address("192.168.1.1"), Some(53), udp),
            ("192.168.1.1", address("192.168.1.1"), None, None),
            ("fd00::1", address("fd00::1"), None, None),
            ("[fd00::1]:80", address("fd00::1"), Some(80), None),
            ("[fd00::1]/icmp", address("fd00::1"), None, icmp),
            ("10.0.0.0/8", network("10.0.0.0/8"), None, None),
            ("10.0.0.0/8:22/tcp", network("10.0.0.0/8"), Some(22), tcp),
            ("10.0.0.0/8/icmp", network("10.0.0.0/8"), None, icmp),
            ("[fd00::/8]:22", network("fd00::/8"), Some(22), None),
            ("fd00::/8", network("fd00::/8"), None, None),
            ("vnet1:22/tcp", name("vnet1"), Some(22), tcp),
            ("52:54:00:AA:BB:cc", name("52:54:00:aa:bb:cc"), None, None),
            ("52:54:00:aa:bb:cc:22/tcp", name("52:54:00:aa:bb:cc"), Some(22), tcp),
            ("host:22", PacketEndpoint::Host, Some(22), None),
            ("guest@br0:22", PacketEndpoint::Guest("br0".to_owned()), Some(22), None),
            ("uplink@br0", PacketEndpoint::Uplink("br0".to_owned()), None, None),
        ] {
            assert_eq!(
                PacketDestination::parse(text),
                Ok(PacketDestination { endpoint, port, transport }),
                "{text}"
            );
        }
        for wrong in [
            "",
            "a b",
            "192.168.1.1:http",
            "192.168.1.1/sctp",
            "1.2.3.4:5/icmp",
            "x:99999",
            "x:0",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "guest@",
            "-x",
        ] {
            assert!(PacketDestination::parse(wrong).is_err(), "{wrong}");
        }
    }
}
