//! Rules that write a line to the log for each packet that anybody sends.

use super::{FamilyView, plain};
use crate::netfilter::{
    ConntrackStates, DevicePattern, MatchTest, Packet, PacketDevice, PacketPath, ParsedRule, RuleMatch,
    TcpFlags, TraceStage, TraceStep, Tristate, simulate,
};
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::iptables::save::{jump, tokens};
use crate::resource::iptables::{IpFamily, PREFIX};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Targets that log each packet they get.
const LOGS: [&str; 3] = ["LOG", "NFLOG", "ULOG"];

/// Matches that bound how often a rule matches.
const LIMITS: [&str; 2] = ["limit", "hashlimit"];

/// Senders of the open network: addresses that no rule names as trusted, private or invalid.
const STRANGER: Ipv4Addr = Ipv4Addr::new(11, 22, 33, 44);
const STRANGER6: Ipv6Addr = Ipv6Addr::new(0x2a00, 0x1122, 0x33, 0, 0, 0, 0, 0x44);

/// A port that no rule names, beside those that rules name.
const SAMPLE_PORT: u16 = 48_879;

/// Ports and devices that are tried: each costs a simulation.
const MOST_TRIED: usize = 8;

impl FamilyView<'_> {
    /// Rules of ours that log new packets of the open network without a limit, once for each chain.
    pub(super) fn unlimited_log(&self, warnings: &mut Vec<Warning>) {
        if !self.has_unlimited_log() {
            return;
        }
        let mut found: BTreeMap<(String, String), TraceStep> = BTreeMap::new();
        for packet in self.strangers_packets() {
            for base in [PacketPath::Input, PacketPath::Forward] {
                let packet = on_path(base, &packet);
                for stage in simulate(&self.after, &self.context, base, &packet).stages {
                    for step in unlimited_steps(&stage).into_iter().filter(|step| !self.is_allowed(step)) {
                        let chain = (step.table.to_string(), step.chain.to_string());
                        let first = found.entry(chain).or_insert_with(|| step.clone());
                        if step.index < first.index {
                            *first = step;
                        }
                    }
                }
            }
        }
        for ((table, chain), step) in found {
            let finding = format!(
                "{} {table}/{}: new packets from the open network are logged without a limit",
                self.family,
                plain(&chain)
            );
            let cause = match step.index {
                Some(index) => format!("rule {index}: `{}`", step.text),
                None => step.text.to_string(),
            };
            let message = WarningMessage::new(finding).cause(cause).fix(
                "add `-m limit --limit 5/min` to the rule, or write `# kvmfw: allow(unlimited-log) WHY` behind it",
            );
            warnings.push(Warning::new(LintCode::UnlimitedLog, message, self.origin_of(&step)));
        }
    }

    /// Whether a managed chain logs without a limit at all; most do not, and cost no simulation.
    fn has_unlimited_log(&self) -> bool {
        self.predicted.managed_chains().any(|(table, chain)| {
            let rules = chain.rules.iter().enumerate();
            rules.filter(|(_, rule)| logs(rule) && !has_limit(rule)).any(|(at, _)| {
                let origin = self.rule_origin(table, &chain.name, at + 1);
                origin.is_none_or(|origin| !self.allows(&origin))
            })
        })
    }

    fn is_allowed(&self, step: &TraceStep) -> bool {
        self.origin_of(step).is_some_and(|origin| self.allows(&origin))
    }

    fn allows(&self, origin: &crate::problem::Origin) -> bool {
        self.desired.lints.allowed_rules.contains(&(origin.clone(), LintCode::UnlimitedLog))
    }

    /// New packets of a stranger: of each protocol, to the ports and by the devices that managed rules name.
    fn strangers_packets(&self) -> Vec<Packet> {
        let mut ports = vec![SAMPLE_PORT];
        let mut devices = vec![PacketDevice::Outside];
        for (table, chain) in self.predicted.managed_chains() {
            for rule in self.after.rules(table, &chain.name).unwrap_or_default() {
                collect(rule, &mut ports, &mut devices);
            }
        }
        let echo = if self.family == IpFamily::V4 { 8 } else { 128 };
        let mut packets = vec![Packet::icmp(self.family, echo, 0)];
        for port in ports {
            packets.push(Packet::tcp(self.family, SAMPLE_PORT, port, TcpFlags::SYN));
            packets.push(Packet::udp(self.family, SAMPLE_PORT, port));
        }
        let source = match self.family {
            IpFamily::V4 => IpAddr::V4(STRANGER),
            IpFamily::V6 => IpAddr::V6(STRANGER6),
        };
        let by = |device: &PacketDevice, packet: &Packet| Packet {
            src: Some(source),
            src_local: Some(false),
            in_iface: device.clone(),
            state: ConntrackStates::NEW,
            ..packet.clone()
        };
        devices.iter().flat_map(|device| packets.iter().map(|packet| by(device, packet))).collect()
    }
}

/// Adds the ports and the devices that a rule asks for.
fn collect(rule: &ParsedRule, ports: &mut Vec<u16>, devices: &mut Vec<PacketDevice>) {
    for RuleMatch { test, .. } in rule.matches.iter().filter(|one| !one.negated) {
        match test {
            MatchTest::DestinationPorts(ranges) => {
                for range in ranges {
                    if ports.len() < MOST_TRIED && !ports.contains(&range.0) {
                        ports.push(range.0);
                    }
                }
            }
            MatchTest::In(DevicePattern(name)) if name != "lo" && devices.len() < MOST_TRIED => {
                let device = PacketDevice::named(name.replace('+', "0"));
                if !devices.contains(&device) {
                    devices.push(device);
                }
            }
            _ => {}
        }
    }
}

/// The packet on its way to the host, or through it.
fn on_path(base: PacketPath, packet: &Packet) -> Packet {
    let is_input = base == PacketPath::Input;
    let out_iface = if is_input { PacketDevice::Absent } else { PacketDevice::Some };
    Packet { dst_local: Some(is_input), out_iface, physout: PacketDevice::Absent, ..packet.clone() }
}

/// The rules of ours that surely log the packet, where neither they nor the jumps to their chain have a limit.
fn unlimited_steps(stage: &TraceStage) -> Vec<TraceStep> {
    let mut found = Vec::new();
    // Whether the jump at each depth is limited.
    let mut jumps: Vec<bool> = Vec::new();
    for met in &stage.matched {
        jumps.truncate(met.depth);
        let is_limited = has_limit(&met.step.text);
        let is_open = !is_limited && jumps.iter().all(|limited| !limited);
        jumps.push(is_limited);
        if is_open
            && met.answer == Tristate::Yes
            && met.step.chain.starts_with(PREFIX)
            && logs(&met.step.text)
        {
            found.push(met.step.clone());
        }
    }
    found
}

fn logs(rule: &str) -> bool {
    jump(rule).is_some_and(|jump| LOGS.contains(&&*jump.target))
}

fn has_limit(rule: &str) -> bool {
    let words = tokens(rule).unwrap_or_default();
    words.windows(2).any(|pair| pair[0] == "-m" && LIMITS.contains(&&*pair[1]))
}
