//! How a host is reached and how it proves that it is well.

use crate::problem::Origin;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How to reach one host over SSH. `None` leaves the user's ssh_config in charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConnection {
    /// Name or address to connect to; the host's name where `address:` is not given.
    pub address: String,
    /// TCP port.
    pub port: Option<u16>,
    /// Login.
    pub user: Option<String>,
    /// How the login becomes root: `become: sudo` is `sudo -n`.
    pub become_root: BecomeMethod,
    /// Private key, absolute.
    pub identity_file: Option<PathBuf>,
    /// known_hosts file, absolute.
    pub known_hosts: Option<PathBuf>,
    /// ProxyJump.
    pub jump: Option<String>,
    /// Further ssh_config options by name.
    pub options: BTreeMap<String, String>,
    /// How long a connection may take to come up.
    pub connect_timeout: Duration,
}

/// How the login becomes root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BecomeMethod {
    /// It is root already.
    #[default]
    No,
    /// `sudo -n`.
    Sudo,
}

/// A check that must pass before an apply is confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmCheck {
    /// What is done.
    pub probe: CheckProbe,
    /// Who does it.
    pub from: CheckFrom,
    /// After this long it has failed.
    pub timeout: Duration,
    /// It decides even if it failed before the apply.
    pub required: bool,
    /// Where it was declared.
    pub origin: Origin,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckProbe {
    /// One echo request to an address is answered.
    Ping(String),
    /// A TCP connection to host and port comes up.
    Tcp(String, u16),
    /// A shell command on the host exits with 0.
    Command(String),
}

/// As people read it.
impl std::fmt::Display for CheckProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ping(address) => write!(f, "ping {address}"),
            Self::Tcp(address, port) => write!(f, "tcp {address} port {port}"),
            Self::Command(command) => write!(f, "command `{command}`"),
        }
    }
}

/// Who does a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckFrom {
    /// The host.
    #[default]
    Host,
    /// The machine kvmfw runs on.
    Controller,
}
