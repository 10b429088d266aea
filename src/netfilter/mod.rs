//! Simulates what the rules of a host do to a packet that was not sent.
//!
//! [`Ruleset`] holds the parsed rules of an `iptables-save`. A [`Packet`] holds the known fields of a
//! packet, and [`simulate`] evaluates it in raw, mangle, nat and filter. A match that is not modelled,
//! or that needs an unknown field, is *unknown*: the simulation then follows both branches. The
//! verdict is `Accept` or `Drop` only if every branch agrees.
//!
//! The analyses build on it: whether rules cut SSH ([`ssh_lockout`]), whether they block frames between
//! the ports of a bridge ([`blocked_between_ports`]), which rules never match ([`shadowed_rules`]), and
//! whether two rulesets treat every packet alike ([`prove_equivalent`]).
//!
//! [`PacketTrace::stages`] records each hook and each rule that matched.
//!
//! [`HostContext`] holds what decides outside the tables of one family and backend: addresses and
//! routes, which NAT needs, and other tables that may drop (the other backend, native nft, ebtables).
//! [`BridgeSwitches`] decide which frames of a bridge meet rules at all. Sets of ipset decide where
//! their members are known ([`KnownSets`]).
//! Not modelled: a full conntrack table, and the reverse path filter.

mod answer;
mod bridge_reachability;
mod chain;
mod equivalence;
#[cfg(test)]
mod fixtures;
mod frame;
mod host_context;
mod lockout;
mod matches;
mod nat_hypothesis;
mod outcome;
mod overlap;
mod packet;
mod partition;
mod rewrite;
mod rule;
mod ruleset;
mod sets;
mod shadowed;
mod simulate;
mod trace;

pub use answer::Tristate;
pub use bridge_reachability::{
    BridgeBlocked, BridgeUndecided, BridgeView, blocked_between_ports, packets_between_ports,
    undecided_between_ports,
};
pub use equivalence::{VerdictDifference, covers, prove_equivalent};
pub use frame::{BridgeFrame, BridgeSwitches, FramePayload, FrameRules};
pub use host_context::{HostContext, IptablesBackend, NetfilterHook, OtherTable, TableEffect};
pub use lockout::{SshArrival, SshCase, SshPath, SshSummary, SshVerdict, ssh_arrival, ssh_lockout};
pub use matches::{
    AddressKind, ConntrackTest, DevicePattern, MaskedNetwork, MatchTest, PortRange, RuleMatch, StateList,
};
pub use outcome::{PacketVerdict, TraceStep};
pub use packet::{
    ConnectionNat, ConntrackStates, FlowDirection, FragmentPart, NatEndpoint, Packet, PacketDevice, TcpFlags,
};
pub use rewrite::{NatRewrite, RewriteAddress, RewritePart};
pub use rule::{ParsedRule, RuleTarget};
pub use ruleset::Ruleset;
pub use sets::{KnownSets, SetMembership};
pub use shadowed::{ShadowedRule, shadowed_rules};
pub use simulate::{PacketPath, PacketTrace, simulate, simulate_chain};
pub use trace::{MatchedRule, SkipReason, TraceStage};
