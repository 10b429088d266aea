//! Rulesets of which a half is missing: answers, or SSH.

use super::{FamilyView, say};
use crate::netfilter::{ConntrackStates, Packet, PacketPath, TcpFlags, TraceStep};
use crate::problem::{LintCode, Warning, WarningMessage};

/// A port that no ruleset opens by its number, and one that a client has.
const CLIENT_PORT: u16 = 40_000;

impl FamilyView<'_> {
    /// Answers to what the host itself asks: without an accept for ESTABLISHED there are none.
    pub(super) fn missing_established(&self, warnings: &mut Vec<Warning>) {
        let answer = |packet| Packet { state: ConntrackStates::ESTABLISHED, ..packet };
        let samples = [
            ("DNS", answer(Packet::udp(self.family, 53, CLIENT_PORT))),
            ("TCP", answer(Packet::tcp(self.family, 443, CLIENT_PORT, TcpFlags::REPLY))),
        ];
        let dropped: Vec<(&str, TraceStep)> = samples
            .into_iter()
            .filter_map(|(what, packet)| {
                Some((what, self.ours_drops(PacketPath::Input, &self.outside(PacketPath::Input, packet))?))
            })
            .collect();
        let Some((_, step)) = dropped.first() else { return };
        let what: Vec<&str> = dropped.iter().map(|(what, _)| *what).collect();
        let message = WarningMessage::new(format!(
            "{}: answers to the host's own connections ({}) are dropped",
            self.family,
            what.join(", ")
        ))
        .cause(say(step))
        .fix("put `-m state --state RELATED,ESTABLISHED -j ACCEPT` before that rule");
        warnings.push(Warning::new(LintCode::EstablishedMissing, message, self.origin_of(step)));
    }

    /// New SSH connections, where nobody is connected who could be asked for his address.
    pub(super) fn missing_ssh_accept(&self, warnings: &mut Vec<Warning>) {
        let port = self.desired.connection.port.unwrap_or(22);
        let syn = Packet {
            state: ConntrackStates::NEW,
            ..Packet::tcp(self.family, CLIENT_PORT, port, TcpFlags::SYN)
        };
        let Some(step) = self.ours_drops(PacketPath::Input, &self.outside(PacketPath::Input, syn)) else {
            return;
        };
        let message = WarningMessage::new(format!(
            "{}: no rule accepts SSH (port {port}) before everything is dropped",
            self.family
        ))
        .cause(say(&step))
        .fix(format!("accept port {port} before that rule, unless unmanaged rules do"));
        warnings.push(Warning::new(LintCode::SshNotAccepted, message, self.origin_of(&step)));
    }
}
