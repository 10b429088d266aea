//! Rulesets of which a half is missing: answers, or SSH.

use super::{View, say, warn};
use crate::netfilter::{Base, Device, Packet, States, Step, TcpFlags, Verdict, walk};
use crate::problem::Warning;
use crate::resource::iptables::PREFIX;

/// A port that no ruleset opens by its number, and one that a client has.
const CLIENT_PORT: u16 = 40_000;

impl View<'_> {
    /// Answers to what the host itself asks: without an accept for ESTABLISHED there are none.
    pub(super) fn established(&self, warnings: &mut Vec<Warning>) {
        let answer = |packet| Packet { state: States::ESTABLISHED, ..packet };
        let samples = [
            ("DNS", answer(Packet::udp(self.family, 53, CLIENT_PORT))),
            ("TCP", answer(Packet::tcp(self.family, 443, CLIENT_PORT, TcpFlags::REPLY))),
        ];
        let dropped: Vec<(&str, Step)> =
            samples.into_iter().filter_map(|(what, packet)| Some((what, self.ours_drops(packet)?))).collect();
        let Some((_, step)) = dropped.first() else { return };
        let what: Vec<&str> = dropped.iter().map(|(what, _)| *what).collect();
        let message = format!(
            "{}: answers to the host's own connections ({}) are dropped by {}; put `-m state --state RELATED,ESTABLISHED \
             -j ACCEPT` before it",
            self.family,
            what.join(", "),
            say(step)
        );
        warnings.push(warn("established-missing", message, self.origin_of(step)));
    }

    /// New SSH connections, where nobody is connected who could be asked for his address.
    pub(super) fn ssh_accepted(&self, warnings: &mut Vec<Warning>) {
        let port = self.desired.connection.port.unwrap_or(22);
        let syn = Packet { state: States::NEW, ..Packet::tcp(self.family, CLIENT_PORT, port, TcpFlags::SYN) };
        let Some(step) = self.ours_drops(syn) else { return };
        let message = format!(
            "{}: no rule before {} accepts SSH (port {port}), from wherever it comes",
            self.family,
            say(&step)
        );
        warnings.push(warn("ssh-not-accepted", message, self.origin_of(&step)));
    }

    /// What of ours drops a packet to the host for certain, from wherever it comes.
    fn ours_drops(&self, packet: Packet) -> Option<Step> {
        let packet = Packet {
            dst_local: Some(true),
            in_iface: Device::Outside,
            out_iface: Device::Absent,
            physout: Device::Absent,
            ..packet
        };
        let found = walk(&self.after, &self.around, Base::Input, &packet);
        let step = found.decided_by.filter(|_| found.verdict == Verdict::Drop)?;
        let declared = self.desired.rules.get(&self.family)?.tables.get(&*step.table)?;
        let ours = match step.index {
            Some(_) => step.chain.starts_with(PREFIX),
            None => declared.policies.contains_key(&*step.chain),
        };
        ours.then_some(step)
    }
}
