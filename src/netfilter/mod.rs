//! The packet walk: what the rules of a host do to a packet that nobody has sent yet.
//!
//! [`Ruleset`] is what a host's `iptables-save` says, read into rules. A [`Packet`] says what is
//! known of a packet, and [`walk`] takes it through raw, mangle, nat and filter. Whatever a rule
//! asks that is not modelled, or not known, has the answer *unknown*: the walk then follows both
//! branches, and says `Accept` or `Drop` only when every branch does.
//!
//! On top of it stand the questions that an operator has: will these rules cut my SSH
//! ([`ssh_lockout`]), will the guests on this bridge go dark ([`guests_dark`]), and which rules can
//! never match ([`dead_rules`]).
//!
//! Not seen here, and to be looked at by the caller: the other backend, other nft tables,
//! ebtables, the contents of ipsets, a full conntrack table.

mod dead;
#[cfg(test)]
mod fixtures;
mod guests;
mod lockout;
mod matches;
mod names;
mod outcome;
mod packet;
mod rule;
mod ruleset;
mod test;
mod walk;

pub use dead::{Dead, dead_rules};
pub use guests::{BridgeView, Dark, guests_dark};
pub use lockout::{SshCase, SshPath, SshSummary, SshVerdict, ssh_lockout};
pub use matches::{Match, Network, Pattern, PortRange, Test};
pub use outcome::{Step, Verdict};
pub use packet::{Device, Packet, States, TcpFlags};
pub use rule::{Rule, Target};
pub use ruleset::Ruleset;
pub use test::Answer;
pub use walk::{Base, Walk, walk, walk_chain};
