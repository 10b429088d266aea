//! EXPECT: packets as people write them, and what they are expected to do.

mod query;

pub use query::{PacketDestination, PacketEndpoint, PacketQuery, PacketTransport};

use crate::problem::Origin;
use std::fmt;
use std::net::IpAddr;

/// What packets are expected to do: an entry of `expect:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// What is expected.
    pub verdict: ExpectedVerdict,
    /// Where the packets come from.
    pub from: PacketEndpoint,
    /// Where they go to. Without a protocol and a port, every protocol is meant; with a port alone, TCP.
    pub to: PacketDestination,
    /// The device by which they come in, to be routed.
    pub device: Option<String>,
    /// The bridge that they cross.
    pub bridge: Option<String>,
    /// They belong to connections that are open.
    pub established: bool,
    /// What NAT has to make of their destination.
    pub rewritten_to: Option<RewrittenDestination>,
    /// `guest@br0 to 192.0.2.53:53/udp`, as it was written.
    pub text: String,
    /// Where it was written.
    pub origin: Origin,
}

/// What a packet is expected to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExpectedVerdict {
    /// It reaches its destination.
    Passes,
    /// It is dropped or rejected.
    Blocked,
}

/// A destination that NAT puts in the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewrittenDestination {
    /// The address.
    pub address: IpAddr,
    /// The port; `None` for any.
    pub port: Option<u16>,
}

impl ExpectedVerdict {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Passes, Self::Blocked];

    /// `passes`, `blocked`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passes => "passes",
            Self::Blocked => "blocked",
        }
    }
}

impl RewrittenDestination {
    /// Reads `192.0.2.1` and `192.0.2.1:80`.
    ///
    /// Errors: what is wrong with it, for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        match PacketDestination::parse(text)? {
            PacketDestination { endpoint: PacketEndpoint::Address(address), port, transport: None } => {
                Ok(Self { address, port })
            }
            _ => Err(format!("`{}` is not an address, or an address and a port", text.escape_debug())),
        }
    }
}

impl fmt::Display for RewrittenDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (address, None) => address.fmt(f),
            (IpAddr::V4(address), Some(port)) => write!(f, "{address}:{port}"),
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}"),
        }
    }
}

impl Expectation {
    /// The protocols that are meant.
    pub fn transports(&self) -> &'static [PacketTransport] {
        use PacketTransport::{Icmp, Tcp, Udp};
        match (self.to.transport, self.to.port) {
            (None, None) => &[Tcp, Udp, Icmp],
            (Some(Tcp), _) | (None, Some(_)) => &[Tcp],
            (Some(Udp), _) => &[Udp],
            (Some(Icmp), _) => &[Icmp],
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.verdict.as_str(), self.text)?;
        self.rewritten_to.map_or(Ok(()), |to| write!(f, ", rewritten to {to}"))
    }
}
