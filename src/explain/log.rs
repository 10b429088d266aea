//! Kernel log lines, grouped: which rule wrote them, about whose packets, and what becomes of those.

use super::context::{ExplainContext, RulePlace};
use super::log_line::LogLine;
use super::path::{FinalVerdict, final_verdict};
use crate::host_state::SshEnds;
use crate::netfilter::{RuleTarget, TraceStep};
use crate::resource::iptables::save::tokens;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogReport {
    /// Lines of the LOG target.
    pub packets: usize,
    /// Lines about something else.
    pub others: usize,
    /// The groups, the most frequent first; the operator's own SSH is last.
    pub groups: Vec<LogGroup>,
}

/// Packets that a person would call the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogGroup {
    /// How many lines.
    pub count: usize,
    /// The rule that wrote them, where the host has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<RulePlace>,
    /// The prefix of the lines, or what stands before `IN=`.
    pub prefix: String,
    /// The bridge that the packets cross.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Device and bridge port that they come in by.
    pub from: LogSide,
    /// The same for where they go.
    pub to: LogSide,
    /// `udp`, `tcp`, …
    pub protocol: String,
    /// The port they go to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// So many ports, where the rest of many stand together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<usize>,
    /// One of them: `192.168.1.1 → 192.168.1.53`.
    pub example: String,
    /// What becomes of such a packet with the rules that are live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<FinalVerdict>,
    /// What would, with the desired ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<FinalVerdict>,
    /// The SSH connections by which the operator came, who wants to see the rest first.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub own_ssh: bool,
}

/// Where packets come in or leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LogSide {
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
pub fn read_log(
    text: &str,
    live: Option<&ExplainContext<'_>>,
    desired: Option<&ExplainContext<'_>>,
) -> LogReport {
    let mut found: BTreeMap<_, BTreeMap<_, (usize, LogLine)>> = BTreeMap::new();
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
        // Rules ask for these too, so that one of a group may pass and another die.
        let asked = (line.src, line.dst, line.icmp, line.opens);
        found.entry(key).or_default().entry(asked).or_insert((0, line)).0 += 1;
    }
    let mut groups: Vec<LogGroup> = Vec::new();
    for lines in found.into_values() {
        let mut of_key: Vec<LogGroup> = Vec::new();
        for (count, line) in lines.into_values() {
            let group = group(count, &line, live, desired);
            let same = |other: &&mut LogGroup| {
                (&other.rule, &other.live, &other.desired, other.own_ssh)
                    == (&group.rule, &group.live, &group.desired, group.own_ssh)
            };
            match of_key.iter_mut().find(same) {
                Some(other) => other.count += group.count,
                None => of_key.push(group),
            }
        }
        groups.extend(of_key);
    }
    let order = |group: &LogGroup| (group.own_ssh, std::cmp::Reverse(group.count));
    groups.sort_by_key(order);
    let mut groups = folded(groups);
    groups.sort_by_key(order);
    LogReport { packets, others, groups }
}

/// So many groups that differ in their port alone stand for themselves: a scan of ports has thousands.
const PORTS: usize = 5;

/// Puts those together that differ in their port alone, but for the most frequent, which come first.
fn folded(groups: Vec<LogGroup>) -> Vec<LogGroup> {
    let alike = |a: &LogGroup, b: &LogGroup| {
        (&a.rule, &a.prefix, &a.from, &a.to, &a.protocol, &a.live, &a.desired, a.own_ssh)
            == (&b.rule, &b.prefix, &b.from, &b.to, &b.protocol, &b.live, &b.desired, b.own_ssh)
            && a.port.is_some() == b.port.is_some()
    };
    // Of each sort: how many there were, and where the rest stands.
    let mut sorts: Vec<(LogGroup, usize, usize)> = Vec::new();
    let mut kept: Vec<LogGroup> = Vec::new();
    for group in groups {
        let Some((_, seen, rest)) = sorts.iter_mut().find(|(first, ..)| alike(first, &group)) else {
            sorts.push((group.clone(), 1, 0));
            kept.push(group);
            continue;
        };
        *seen += 1;
        if *seen <= PORTS + 1 || group.port.is_none() {
            *rest = kept.len();
            kept.push(group);
        } else if let Some(together) = kept.get_mut(*rest) {
            together.count += group.count;
            together.port = None;
            together.ports = Some(*seen - PORTS);
        }
    }
    kept
}

fn group(
    count: usize,
    line: &LogLine,
    live: Option<&ExplainContext<'_>>,
    desired: Option<&ExplainContext<'_>>,
) -> LogGroup {
    let rule = live.and_then(|scene| writer(scene, line));
    let prefix = rule.as_ref().and_then(|place| log_prefix(&place.text));
    let side = |device: &str, port: &Option<String>| LogSide {
        device: (!device.is_empty()).then(|| device.to_owned()),
        port: port.clone(),
        guest: port.as_ref().and_then(|port| live?.observed.guests.get(port).cloned()),
    };
    let end = |scene: &ExplainContext<'_>| {
        final_verdict(scene, line.family(), line.base(), &line.packet(), line.bridge())
    };
    LogGroup {
        count,
        prefix: prefix.unwrap_or_else(|| said_prefix(&line.head).to_owned()),
        rule,
        bridge: line.bridge().map(str::to_owned),
        from: side(&line.input, &line.physin),
        to: side(&line.output, &line.physout),
        protocol: line.protocol.clone(),
        port: line.dport,
        ports: None,
        example: format!("{} → {}", line.src, line.dst),
        live: live.map(end),
        desired: desired.map(end),
        own_ssh: live
            .and_then(|scene| scene.observed.facts.ssh.as_ref())
            .is_some_and(|ends| is_between(line, ends)),
    }
}

/// Whether a packet is one of SSH between the two ends by which the host was reached, either way.
fn is_between(line: &LogLine, ends: &SshEnds) -> bool {
    let port = Some(ends.server_port);
    line.protocol == "tcp"
        && ((line.src, line.dst, line.dport) == (ends.client, ends.server, port)
            || (line.src, line.dst, line.sport) == (ends.server, ends.client, port))
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
fn writer(scene: &ExplainContext<'_>, line: &LogLine) -> Option<RulePlace> {
    let family = line.family();
    let set = scene.sets.get(&family)?;
    let mut best: Option<(usize, TraceStep)> = None;
    for step in super::path::rule_hits(set, scene.host_context(family), line.base(), &line.packet()) {
        let is_log = set
            .rules(&step.table, &step.chain)
            .and_then(|rules| rules.get(step.index?.checked_sub(1)?))
            .is_some_and(|rule| rule.target == RuleTarget::Continue);
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

    /// What scans ports is one thing; what is frequent stands for itself.
    #[test]
    fn a_scan_is_one_group() {
        let line = |port: u16| {
            format!(
                "IN=eth0 OUT= MAC=02 SRC=10.0.0.1 DST=10.0.0.2 LEN=56 PROTO=TCP SPT=4001 DPT={port} WINDOW=1 RES=0x00 SYN URGP=0\n"
            )
        };
        let lines = |ports: std::ops::Range<u16>| ports.map(line).collect::<String>();
        let told = |text: &str| {
            let story = read_log(text, None, None);
            story.groups.iter().map(|g| (g.count, g.port, g.ports)).collect::<Vec<_>>()
        };
        let six: Vec<_> = (1..7).map(|port| (1, Some(port), None)).collect();
        assert_eq!(told(&lines(1..7)), six);
        let scan = told(&(lines(1..1001) + &lines(22..23) + &lines(80..81)));
        assert_eq!(scan.len(), 6);
        assert_eq!(
            (scan[0], scan[1], scan[2]),
            ((995, None, Some(995)), (2, Some(22), None), (2, Some(80), None))
        );
        assert_eq!(scan.iter().map(|(count, ..)| count).sum::<usize>(), 1002);
        // Another device is another group.
        let other = lines(1..1001).replace("eth0", "eth1");
        assert_eq!(told(&(lines(1..1001) + &other)).len(), 12);
    }

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
