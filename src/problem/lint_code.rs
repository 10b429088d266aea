//! The registry of lints: each code with its severity.

use std::fmt;

/// How much a warning matters. The order is that of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LintSeverity {
    /// Connections or guests are cut off.
    Error,
    /// Something does not work as intended.
    Warning,
    /// Good to know; nothing has to be done.
    Note,
}

macro_rules! lints {
    ($($name:ident = $code:literal, $severity:ident;)*) => {
        /// A kind of warning, with a stable code. The order is that of the codes, by which the warnings of a host are sorted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum LintCode {
            $(#[doc = concat!("`", $code, "`")] $name,)*
        }

        impl LintCode {
            /// All codes in their order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code that users write and programs read.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// How much a warning of this kind matters.
            pub fn severity(self) -> LintSeverity {
                match self { $(Self::$name => LintSeverity::$severity,)* }
            }
        }
    };
}

lints! {
    AdoptedAtBoot = "adopted-at-boot", Warning;
    BootFailed = "boot-failed", Error;
    BootLoader = "boot-loader", Warning;
    BootRepaired = "boot-repaired", Warning;
    BridgeInUse = "bridge-in-use", Note;
    BypassOverridden = "bypass-overridden", Warning;
    BypassUndone = "bypass-undone", Warning;
    BypassWrong = "bypass-wrong", Error;
    ConnectionsCut = "connections-cut", Error;
    ControllerIsGuest = "controller-is-guest", Warning;
    DeadRule = "dead-rule", Warning;
    DroppedElsewhere = "dropped-elsewhere", Warning;
    EmptyList = "empty-list", Note;
    EstablishedMissing = "established-missing", Warning;
    ExpectationBroken = "expectation-broken", Error;
    ExpectationUnknown = "expectation-unknown", Warning;
    FirstConntrack = "first-conntrack", Note;
    GuestsUnreachable = "guests-unreachable", Error;
    InheritedKey = "inherited-key", Note;
    Ipv6Missing = "ipv6-missing", Warning;
    Ipv6Stops = "ipv6-stops", Warning;
    JumpHost = "jump-host", Note;
    JumpHostIsGuest = "jump-host-is-guest", Warning;
    JumpOutranked = "jump-outranked", Warning;
    LeaseRenewalDropped = "lease-renewal-dropped", Warning;
    LeftOut = "left-out", Warning;
    Lockout = "lockout", Error;
    LockoutUnknown = "lockout-unknown", Warning;
    LoopbackDropped = "loopback-dropped", Warning;
    MovedAtBoot = "moved-at-boot", Note;
    NatOnBridged = "nat-on-bridged", Warning;
    NeighbourDiscoveryDropped = "neighbour-discovery-dropped", Warning;
    NoSuchKey = "no-such-key", Warning;
    NotAdopted = "not-adopted", Warning;
    NotAtBoot = "not-at-boot", Note;
    NotManaged = "not-managed", Note;
    OneWayKey = "one-way-key", Warning;
    OpenTransaction = "open-transaction", Warning;
    PortAsksNoMore = "port-asks-no-more", Warning;
    PortRule = "port-rule", Warning;
    PortsApart = "ports-apart", Warning;
    PortsClosed = "ports-closed", Warning;
    RaRouteLost = "ra-route-lost", Warning;
    RouterAdvertisementsDropped = "router-advertisements-dropped", Warning;
    RuleByPort = "rule-by-port", Warning;
    SavedRules = "saved-rules", Warning;
    SessionDies = "session-dies", Note;
    SetInUse = "set-in-use", Note;
    ShadowsUnmanaged = "shadows-unmanaged", Warning;
    SshNotAccepted = "ssh-not-accepted", Warning;
    SysctlOverridden = "sysctl-overridden", Warning;
    UnknownBridge = "unknown-bridge", Warning;
    UnknownSet = "unknown-set", Warning;
    UnlimitedLog = "unlimited-log", Warning;
    Unproven = "unproven", Note;
    Unrecorded = "unrecorded", Error;
    UnusedChain = "unused-chain", Note;
    VlanApart = "vlan-apart", Warning;
    VlansIdle = "vlans-idle", Warning;
    WaitsForChain = "waits-for-chain", Note;
    WriteOnlyKey = "write-only-key", Warning;
    WrongFamily = "wrong-family", Warning;
}

impl LintCode {
    /// The lint of a code; `None` for that of another version of kvmfw.
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|lint| lint.as_str() == code)
    }
}

impl fmt::Display for LintCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::LintCode;

    #[test]
    fn lints_are_sorted_by_their_codes() {
        assert!(LintCode::ALL.is_sorted_by(|a, b| a.as_str() < b.as_str() && a < b));
    }
}
