//! The kinds of resource: how each is written, compared and rendered. Pure; knows no host and no file.

pub mod bridge;
pub mod ipset;
pub mod iptables;
pub mod sysctl;

use self::iptables::IpFamily;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kind of a managed resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ResourceKind {
    /// A file in sysctl.d and the live values of its keys.
    Sysctl,
    /// IPv4 rules.
    Iptables,
    /// IPv6 rules.
    Ip6tables,
    /// A set of ipset and its members.
    Ipset,
    /// A bridge, its ports and addresses.
    Bridge,
}

impl ResourceKind {
    /// The YAML key and JSON value of this kind.
    pub fn as_str(self) -> &'static str {
        match self {
            ResourceKind::Sysctl => "sysctl",
            ResourceKind::Iptables => "iptables",
            ResourceKind::Ip6tables => "ip6tables",
            ResourceKind::Ipset => "ipset",
            ResourceKind::Bridge => "bridge",
        }
    }
}

impl From<IpFamily> for ResourceKind {
    fn from(family: IpFamily) -> Self {
        match family {
            IpFamily::V4 => Self::Iptables,
            IpFamily::V6 => Self::Ip6tables,
        }
    }
}
