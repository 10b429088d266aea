//! Kernel log lines, grouped: which rule wrote them, about whose packets, and what becomes of those.

use super::log_line::LogLine;
use super::path::{Fate, fate};
use super::scene::{Place, Scene};
use crate::netfilter::{Step, Target};
use crate::resource::iptables::save::tokens;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogStory {
    /// Lines of the LOG target.
    pub packets: usize,
    /// Lines about something else.
    pub others: usize,
    /// The groups, the most frequent first.
    pub groups: Vec<LogGroup>,
}

/// Packets that a person would call the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogGroup {
    /// How many lines.
    pub count: usize,
    /// The rule that wrote them, where the host has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Place>,
    /// The prefix of the lines, or what stands before `IN=`.
    pub prefix: String,
    /// The bridge that the packets cross.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Device and bridge port that they come in by.
    pub from: Side,
    /// The same for where they go.
    pub to: Side,
    /// `udp`, `tcp`, …
    pub protocol: String,
    /// The port they go to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// One of them: `192.168.1.1 → 192.168.1.53`.
    pub example: String,
    /// What becomes of such a packet with the rules that are live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Fate>,
    /// What would, with the desired ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<Fate>,
}

/// Where packets come in or leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Side {
    /// The device; `None` is the host itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The port of the bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The guest behind that port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
}

/// Reads lines and groups them. Without a scene nothing is known of rules and guests.
pub fn read_log(text: &str, live: Option<&Scene<'_>>, desired: Option<&Scene<'_>>) -> LogStory {
    let mut found: BTreeMap<_, (usize, LogLine)> = BTreeMap::new();
    let (mut packets, mut others) = (0, 0);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let Some(line) = LogLine::parse(line) else {
            others += 1;
            continue;
        };
        packets += 1;
        let key = (
            said_prefix(&line.head).to_owned(),
            (line.input.clone(), line.output.clone(), line.physin.clone(), line.physout.clone()),
            (line.family(), line.protocol.clone(), line.dport),
        );
        found.entry(key).or_insert((0, line)).0 += 1;
    }
    let mut groups: Vec<LogGroup> =
        found.into_values().map(|(count, line)| group(count, &line, live, desired)).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    LogStory { packets, others, groups }
}

fn group(count: usize, line: &LogLine, live: Option<&Scene<'_>>, desired: Option<&Scene<'_>>) -> LogGroup {
    let rule = live.and_then(|scene| writer(scene, line));
    let prefix = rule.as_ref().and_then(|place| log_prefix(&place.text));
    let side = |device: &str, port: &Option<String>| Side {
        device: (!device.is_empty()).then(|| device.to_owned()),
        port: port.clone(),
        guest: port.as_ref().and_then(|port| live?.guests.get(port).cloned()),
    };
    let end = |scene: &Scene<'_>| fate(scene, line.family(), line.base(), &line.packet(), line.bridge());
    LogGroup {
        count,
        prefix: prefix.unwrap_or_else(|| said_prefix(&line.head).to_owned()),
        rule,
        bridge: line.bridge().map(str::to_owned),
        from: side(&line.input, &line.physin),
        to: side(&line.output, &line.physout),
        protocol: line.protocol.clone(),
        port: line.dport,
        example: format!("{} → {}", line.src, line.dst),
        live: live.map(end),
        desired: desired.map(end),
    }
}

/// What stands before `IN=`, less time and host, as far as one can tell.
fn said_prefix(head: &str) -> &str {
    let head = head.rsplit_once("kernel: ").map_or(head, |(_, rest)| rest);
    let rest = head.trim_start();
    match rest.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, rest)) if time.trim().chars().all(|c| c.is_ascii_digit() || c == '.') => rest,
        _ => rest,
    }
}

/// The rule that wrote a line: a LOG that the packet meets and whose prefix stands there. Of several the
/// one with the longest prefix.
fn writer(scene: &Scene<'_>, line: &LogLine) -> Option<Place> {
    let family = line.family();
    let set = scene.sets.get(&family)?;
    let mut best: Option<(usize, Step)> = None;
    for step in super::path::met(set, scene.around(family), line.base(), &line.packet()) {
        let is_log = set
            .rules(&step.table, &step.chain)
            .and_then(|rules| rules.get(step.index?.checked_sub(1)?))
            .is_some_and(|rule| rule.target == Target::Continue);
        let Some(prefix) = log_prefix(&step.text).filter(|_| is_log) else { continue };
        if line.head.ends_with(&prefix) && best.as_ref().is_none_or(|(length, _)| prefix.len() > *length) {
            best = Some((prefix.len(), step));
        }
    }
    best.map(|(_, step)| scene.place(family, &step))
}

/// The prefix of a LOG or NFLOG rule; of another rule `None`.
fn log_prefix(rule: &str) -> Option<String> {
    let words = tokens(rule).ok()?;
    let target = words.iter().position(|word| word == "-j").and_then(|at| words.get(at + 1))?;
    if target != "LOG" {
        return None;
    }
    let at = words.iter().position(|word| word == "--log-prefix");
    Some(at.and_then(|at| words.get(at + 1)).map(|word| word.to_string()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_with_and_without_time() {
        for (head, prefix) in [
            ("Nov 24 10:00:01 kvm1 kernel: [  812.33] Firewall INPUT: ", "Firewall INPUT: "),
            ("[  812.33] Firewall INPUT: ", "Firewall INPUT: "),
            ("kernel: Firewall INPUT: ", "Firewall INPUT: "),
            ("[UFW BLOCK] ", "[UFW BLOCK] "),
            ("", ""),
        ] {
            assert_eq!(said_prefix(head), prefix, "{head}");
        }
        assert_eq!(
            log_prefix("-p tcp -j LOG --log-prefix \"Firewall INPUT: \""),
            Some("Firewall INPUT: ".to_owned())
        );
        assert_eq!(log_prefix("-j LOG"), Some(String::new()));
        assert_eq!(log_prefix("-j ACCEPT"), None);
    }
}
