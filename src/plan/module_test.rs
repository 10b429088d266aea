//! Runs tests of modules: the rules that would come of what is given, and the simulation of packets in
//! them, without any host.

use super::Diff;
use super::canonicalize::canonicalize;
use crate::inventory::{
    ChainStatement, EntryOwner, Host, ModuleTest, PacketPayload, PacketStatement, Project, RuleStatement,
    Spanned, SysctlStatement,
};
use crate::netfilter::{
    ConntrackStates, HostContext, KnownSets, Packet, PacketDevice, PacketPath, PacketTrace, PacketVerdict,
    Ruleset, TcpFlags, simulate,
};
use crate::problem::{Place, Problem};
use crate::resolve::{Desired, compile};
use crate::resource::iptables::save::{SaveChain, SavedTables};
use crate::resource::iptables::{ChainPolicy, DeclaredRules, IpFamily, JUMP_COMMENT, JumpPosition, PREFIX};
use std::sync::Arc;

/// What a module has instead of the name of a host.
const HOST: &str = "host";

/// What a test found wrong; nothing, if it passes.
pub fn module_test(project: &Project, test: &ModuleTest) -> Vec<Problem> {
    let host = Host {
        name: HOST.to_owned(),
        entries: vec![(EntryOwner::Host, Arc::new(test.given.clone()))],
        lineage: Arc::default(),
    };
    let project = Project { hosts: vec![host], groups: Default::default(), ..project.clone() };
    let compiled = match test.wrong.as_slice() {
        [] => compile(&project, &[HOST.to_owned()]),
        wrong => Err(wrong.to_vec()),
    };
    let wrong = match (compiled, &test.error) {
        (Err(problems), Some(wanted)) if problems.iter().any(|p| p.to_string().contains(&wanted.value)) => {
            vec![]
        }
        (Err(problems), _) => problems,
        (Ok(_), Some(wanted)) => {
            vec![failed(
                &wanted.place,
                format!("expected the error `{}`, but there is no error", wanted.value),
            )]
        }
        (Ok(desired), None) => {
            desired.iter().flat_map(|desired| ModuleTestRun { test, desired }.all()).collect()
        }
    };
    let named = |mut problem: Problem| {
        // There is one host, and nobody gave it its name.
        let message = problem.message.trim_end_matches(" on host host");
        problem.message = format!("module {}, `{}`: {message}", test.module, test.name.value);
        problem
    };
    wrong.into_iter().map(named).collect()
}

fn failed(place: &Place, message: String) -> Problem {
    Problem::new("module-test", message).at_place(place)
}

struct ModuleTestRun<'a> {
    test: &'a ModuleTest,
    desired: &'a Desired,
}

impl ModuleTestRun<'_> {
    fn all(&self) -> Vec<Problem> {
        let chains = self.test.chains.iter().filter_map(|chain| self.chain(chain));
        let files = self.test.sysctl.iter().filter_map(|file| self.file(file));
        let mut wrong: Vec<Problem> = chains.chain(files).collect();
        for family in IpFamily::ALL {
            let rules =
                Ruleset::with_sets(&self.predicted(family), &KnownSets::declared(self.desired.sets.values()));
            let packets = self.test.packets.iter().filter(|packet| packet.families.contains(&family));
            wrong.extend(packets.filter_map(|packet| self.packet(packet, family, &rules)));
        }
        wrong
    }

    /// A chain as it was stated against what comes of it, policy first.
    fn chain(&self, wanted: &ChainStatement) -> Option<Problem> {
        let mut expected: Vec<String> = Vec::new();
        expected.extend(wanted.policy.iter().map(|policy| format!("policy {}", policy.value)));
        for rule in wanted.sections.iter().flat_map(|section| section.iter()) {
            if let RuleStatement::Ready(checked) = rule {
                expected.push(checked.rule(checked.target()).text);
            }
        }
        let table = self.desired.rules.get(&wanted.family).and_then(|rules| rules.tables.get(&wanted.table));
        let name = &wanted.name.value;
        let mut found: Vec<String> = Vec::new();
        if wanted.policy.is_some() {
            found.extend(
                table.and_then(|t| t.policies.get(name)).map(|(policy, _)| format!("policy {policy}")),
            );
        }
        let chain = table.and_then(|t| t.chains.get(&format!("{PREFIX}{name}")));
        found.extend(
            chain.into_iter().flat_map(|chain| chain.rules.iter()).map(|rule| rule.text.replace(PREFIX, "")),
        );
        let what = format!("{} {}/{name}", wanted.family, wanted.table);
        differs(&wanted.name, &what, &expected, &found)
    }

    fn file(&self, wanted: &SysctlStatement) -> Option<Problem> {
        let line = |key: &dyn std::fmt::Display, value: &str| format!("{key} = {value}");
        let mut expected: Vec<String> =
            wanted.entries.iter().map(|(key, value)| line(key, &value.value)).collect();
        let file = self.desired.sysctl.get(&wanted.name.value);
        let mut found: Vec<String> = file
            .into_iter()
            .flat_map(|file| &file.entries)
            .map(|entry| line(&entry.key, &entry.value))
            .collect();
        expected.sort();
        found.sort();
        differs(&wanted.name, &format!("sysctl file {}", wanted.name.value), &expected, &found)
    }

    /// The rules that are there with ours put in as an apply would.
    fn predicted(&self, family: IpFamily) -> SavedTables {
        let mut save = self.test.saves.get(&family).cloned().unwrap_or_default();
        let nothing = DeclaredRules::default();
        let rules = self.desired.rules.get(&family).unwrap_or(&nothing);
        for (name, declared) in &rules.tables {
            let table = save.tables.entry(name.clone()).or_default();
            let hooked = declared.chains.values().filter_map(|chain| Some(&chain.jump.as_ref()?.0));
            let builtin = declared.policies.keys().chain(hooked);
            for chain in builtin {
                if table.chain(chain).is_none() {
                    let policy = Some(ChainPolicy::Accept);
                    table.insert(SaveChain { name: chain.clone(), policy, odd_policy: None, rules: vec![] });
                }
            }
            for (chain, (policy, _)) in &declared.policies {
                if let Some(mut found) = table.chain(chain).cloned() {
                    found.policy = Some(*policy);
                    table.insert(found);
                }
            }
            for (chain, declared) in &declared.chains {
                let rules = declared.rules.iter().flat_map(|rule| canonicalize(&rule.text)).collect();
                table.insert(SaveChain { name: chain.clone(), policy: None, odd_policy: None, rules });
                let Some((builtin, hook)) = &declared.jump else { continue };
                let Some(there) = table.rules_mut(builtin) else { continue };
                let rule = format!("-m comment --comment \"{JUMP_COMMENT}\" -j {chain}");
                let at = if *hook == JumpPosition::Last { there.len() } else { 0 };
                there.insert(at, rule);
            }
        }
        save
    }

    /// Whether bridged frames meet the rules: by what is wanted, else by what is observed; unless
    /// one of them says otherwise they do, as where br_netfilter is loaded.
    fn frames_are_seen(&self, family: IpFamily) -> bool {
        let key = format!("net/bridge/bridge-nf-call-{family}");
        let wanted =
            self.desired.sysctl.values().flat_map(|f| &f.entries).find(|entry| entry.key.path() == key);
        let live = self.test.live.iter().flat_map(|file| &file.entries).find(|(k, _)| k.path() == key);
        let value = wanted.map(|entry| entry.value.as_str()).or(live.map(|(_, value)| value.value.as_str()));
        value.is_none_or(|value| value.trim() != "0")
    }

    fn packet(&self, wanted: &PacketStatement, family: IpFamily, rules: &Ruleset) -> Option<Problem> {
        let (found, by) = if wanted.bridge.is_some() && !self.frames_are_seen(family) {
            ("ACCEPT", format!("bridge-nf-call-{family} is 0: no rule sees bridged frames"))
        } else {
            verdict(&sent(wanted, family, rules))
        };
        let right =
            found == wanted.verdict && wanted.by.as_ref().is_none_or(|part| by.contains(part.as_str()));
        if right {
            return None;
        }
        let expected = match &wanted.by {
            Some(part) => format!("{} by `{part}`", wanted.verdict),
            None => wanted.verdict.clone(),
        };
        let version = if family == IpFamily::V4 { "IPv4" } else { "IPv6" };
        Some(failed(&wanted.place, format!("expected {expected}, the {version} packet gets {found}: {by}")))
    }
}

/// Minus is what was expected, plus what came.
fn differs(name: &Spanned<String>, what: &str, expected: &[String], found: &[String]) -> Option<Problem> {
    if expected == found {
        return None;
    }
    let lines = |lines: &[String]| -> Vec<(String, Option<crate::problem::Origin>)> {
        lines.iter().map(|line| (line.clone(), None)).collect()
    };
    let diff = Diff::compute(expected, &lines(found)).text();
    let help = format!("`-` is expected, `+` is the result\n{}", diff.trim_end());
    Some(failed(&name.place, format!("{what} differs")).help(help))
}

fn sent(wanted: &PacketStatement, family: IpFamily, rules: &Ruleset) -> PacketTrace {
    let new = wanted.state == "NEW";
    let bare = match wanted.carries {
        PacketPayload::Something => Packet::new(family),
        PacketPayload::Tcp(port) => {
            Packet::tcp(family, 40_000, port, if new { TcpFlags::SYN } else { TcpFlags::ACK })
        }
        PacketPayload::Udp(port) => Packet::udp(family, 40_000, port),
        PacketPayload::Echo => Packet::icmp(family, if family == IpFamily::V4 { 8 } else { 128 }, 0),
        PacketPayload::Icmp(kind, code) => Packet::icmp(family, kind, code),
    };
    let device =
        |name: &Option<String>, default: &str| PacketDevice::named(name.as_deref().unwrap_or(default));
    let [src, dst] = wanted.ends;
    let packet = Packet {
        src,
        dst,
        state: ConntrackStates::named(&wanted.state).unwrap_or(ConntrackStates::ALL),
        ..bare
    };
    let (base, packet) = match (&wanted.bridge, wanted.chain.as_str()) {
        (Some(bridge), _) => {
            let port = |name: &Option<String>| name.as_ref().map_or(PacketDevice::Some, PacketDevice::named);
            let (physin, physout) = (port(&wanted.input), port(&wanted.output));
            let (in_iface, out_iface) = (PacketDevice::named(bridge), PacketDevice::named(bridge));
            (PacketPath::Forward, Packet { in_iface, out_iface, physin, physout, bridged: true, ..packet })
        }
        (None, "INPUT") => {
            let in_iface = device(&wanted.input, "eth0");
            (
                PacketPath::Input,
                Packet { in_iface, out_iface: PacketDevice::Absent, dst_local: Some(true), ..routed(packet) },
            )
        }
        (None, "OUTPUT") => {
            let out_iface = device(&wanted.output, "eth0");
            (
                PacketPath::Output,
                Packet { in_iface: PacketDevice::Absent, out_iface, src_local: Some(true), ..routed(packet) },
            )
        }
        _ => {
            let (in_iface, out_iface) = (device(&wanted.input, "eth0"), device(&wanted.output, "eth1"));
            (PacketPath::Forward, Packet { in_iface, out_iface, ..routed(packet) })
        }
    };
    simulate(rules, &HostContext::default(), base, &packet)
}

/// No port of a bridge has to do with it.
fn routed(packet: Packet) -> Packet {
    Packet { physin: PacketDevice::Absent, physout: PacketDevice::Absent, ..packet }
}

/// The verdict in the words of rules, and what it comes from.
fn verdict(trace: &PacketTrace) -> (&'static str, String) {
    let by = trace
        .decided_by
        .as_ref()
        .map_or("no rule and no policy".to_owned(), |step| step.to_string().replace(PREFIX, ""));
    let word = match trace.verdict {
        PacketVerdict::Accept => "ACCEPT",
        PacketVerdict::Drop if by.contains("-j REJECT") => "REJECT",
        PacketVerdict::Drop => "DROP",
        PacketVerdict::Unknown => "unknown",
    };
    (word, by)
}
