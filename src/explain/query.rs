//! What is asked: from where to where, as people write it.

use std::net::IpAddr;

/// One end of a packet's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PacketEndpoint {
    /// The host itself.
    Host,
    /// An address.
    Address(IpAddr),
    /// A device of the host, a port of a bridge, or a guest.
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
            (PacketEndpoint::Address(address), _) => address.to_string(),
            (PacketEndpoint::Name(name), _) => name.clone(),
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
    /// An end without a port: `vnet0`, `192.0.2.1`, `host`.
    ///
    /// Errors: it has a character that no name has.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "host" {
            return Ok(PacketEndpoint::Host);
        }
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = inner.parse() {
            return Ok(PacketEndpoint::Address(address));
        }
        let fits = |c: char| c.is_alphanumeric() || "._-@".contains(c);
        if text.is_empty() || !text.chars().all(fits) {
            return Err(format!(
                "`{}` is not an address or the name of a device, a port or a guest",
                text.escape_debug()
            ));
        }
        Ok(PacketEndpoint::Name(text.to_owned()))
    }

    /// As it was written.
    pub fn shown(&self) -> String {
        match self {
            PacketEndpoint::Host => "the host".to_owned(),
            PacketEndpoint::Address(address) => address.to_string(),
            PacketEndpoint::Name(name) => name.clone(),
        }
    }
}

/// `192.168.1.1:53/udp`, `[fd00::1]:80`, `vnet1/icmp`, `host:22` taken apart: end, port, protocol.
///
/// Errors: what is wrong with it, for the user.
pub fn destination(text: &str) -> Result<(PacketEndpoint, Option<u16>, PacketTransport), String> {
    let (place, transport) = match text.rsplit_once('/') {
        Some((place, word)) => match PacketTransport::parse(word) {
            Some(transport) => (place, transport),
            None => return Err(format!("`{}`: the protocol is tcp, udp or icmp", word.escape_debug())),
        },
        None => (text, PacketTransport::Tcp),
    };
    if place.parse::<IpAddr>().is_ok() || place.ends_with(']') {
        return Ok((PacketEndpoint::parse(place)?, None, transport));
    }
    let (end, port) = match place.rsplit_once(':') {
        Some((end, port)) => {
            let number =
                port.parse().map_err(|_| format!("`{}` is not a valid port", port.escape_debug()))?;
            (end, Some(number))
        }
        None => (place, None),
    };
    if port.is_some() && transport == PacketTransport::Icmp {
        return Err("icmp has no ports".to_owned());
    }
    Ok((PacketEndpoint::parse(end)?, port, transport))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_as_people_write_them() {
        let address = |text: &str| PacketEndpoint::Address(text.parse().unwrap());
        let name = |text: &str| PacketEndpoint::Name(text.to_owned());
        for (text, end, port, transport) in [
            ("192.168.1.1:53/udp", address("192.168.1.1"), Some(53), PacketTransport::Udp),
            ("192.168.1.1", address("192.168.1.1"), None, PacketTransport::Tcp),
            ("fd00::1", address("fd00::1"), None, PacketTransport::Tcp),
            ("[fd00::1]:80", address("fd00::1"), Some(80), PacketTransport::Tcp),
            ("[fd00::1]/icmp", address("fd00::1"), None, PacketTransport::Icmp),
            ("vnet1:22/tcp", name("vnet1"), Some(22), PacketTransport::Tcp),
            ("host:22", PacketEndpoint::Host, Some(22), PacketTransport::Tcp),
        ] {
            assert_eq!(destination(text), Ok((end, port, transport)), "{text}");
        }
        for wrong in ["", "a b", "192.168.1.1:http", "192.168.1.1/sctp", "1.2.3.4:5/icmp", "x:99999"] {
            assert!(destination(wrong).is_err(), "{wrong}");
        }
    }
}
