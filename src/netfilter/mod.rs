//! The packet walk: what the rules of a host do to a packet that nobody has sent yet.
//!
//! [`Ruleset`] is what a host's `iptables-save` says, read into rules. A [`Packet`] says what is
//! known of a packet, and [`walk`] takes it through raw, mangle, nat and filter. Whatever a rule
//! asks that is not modelled, or not known, has the answer *unknown*: the walk then follows both
//! branches, and says `Accept` or `Drop` only when every branch does.
//!
//! On top of it stand the questions that an operator has: will these rules cut my SSH
//! ([`ssh_lockout`]), will the guests on this bridge go dark ([`guests_dark`]), and which rules can
//! never match ([`dead_rules`]), and do two rulesets treat every packet alike ([`same_verdicts`]).
//!
//! What a walk met on its way is told hook by hook and rule by rule ([`Walk::trace`]).
//!
//! What decides beside the tables of one family and backend stands in [`Surroundings`]: addresses and
//! routes, which NAT needs, and other tables that may drop (the other backend, native nft, ebtables).
//! Which frames of a bridge meet rules at all is said by [`Switches`].
//! Sets of ipset decide where their members are known ([`Sets`]).
//! Not seen: a full conntrack table, what the reverse path filter drops.

mod chain;
mod dead;
mod disjoint;
#[cfg(test)]
mod fixtures;
mod frame;
mod guests;
mod lockout;
mod matches;
mod names;
mod nat;
mod outcome;
mod packet;
mod rule;
mod ruleset;
mod same;
mod sets;
mod surroundings;
mod test;
mod trace;
mod translate;
mod walk;

pub use dead::{Dead, dead_rules};
pub use frame::{Frame, Payload, Rules, Switches};
pub use guests::{BridgeView, Dark, Doubt, guest_packets, guests_dark, guests_in_doubt};
pub use lockout::{Arrival, SshCase, SshPath, SshSummary, SshVerdict, ssh_arrival, ssh_lockout};
pub use matches::{AddressKind, Conntrack, Match, Network, Pattern, PortRange, StateList, Test};
pub use nat::{Part, Rewrite, To};
pub use outcome::{Step, Verdict};
pub use packet::{Device, Direction, End, Fragment, Packet, States, TcpFlags, Translation};
pub use rule::{Rule, Target};
pub use ruleset::Ruleset;
pub use same::{Difference, covers, same_verdicts};
pub use sets::{InSet, Sets};
pub use surroundings::{Backend, Bystander, Effect, Hook, Surroundings};
pub use test::Answer;
pub use trace::{Met, Skipped, Stage};
pub use walk::{Base, Walk, walk, walk_chain};
