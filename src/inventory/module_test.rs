//! Tests of modules, `modules/NAME/tests/*.yaml`: what is given and observed, and what is to come of it.

use super::checks;
use super::entry::{EntryOwner, InventoryEntry, entry};
use super::project::{Project, unknown_names};
use super::reader::{InventoryReader, Spanned};
use super::resources::{self, SysctlStatement};
use super::rules::{self, ChainStatement};
use crate::problem::{Place, Problem, did_you_mean};
use crate::resource::iptables::IpFamily;
use crate::resource::iptables::save::SavedTables;
use crate::yaml::{Node, Style, Value};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The keys of a test.
pub(super) const KEYS: [&str; 7] =
    ["given", "observed", "iptables", "ip6tables", "sysctl", "packets", "error"];
/// The keys of what is observed.
pub(super) const OBSERVED: [&str; 3] = ["iptables", "ip6tables", "sysctl"];
/// The keys of a packet.
pub(super) const PACKET: [&str; 13] =
    ["chain", "bridge", "ip", "in", "out", "src", "dst", "tcp", "udp", "icmp", "state", "verdict", "by"];
/// What a packet's chain may be.
pub(super) const CHAINS: [&str; 3] = ["INPUT", "FORWARD", "OUTPUT"];
/// What conntrack may say of a packet.
pub(super) const STATES: [&str; 5] = ["NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED"];
/// What may become of a packet.
pub(super) const VERDICTS: [&str; 4] = ["ACCEPT", "DROP", "REJECT", "unknown"];

/// The keys of what is given: those of a host, less how to reach it and its groups.
pub(super) fn given_keys() -> Vec<&'static str> {
    let mut keys = vec!["modules", "params"];
    keys.extend(resources::KEYS);
    keys
}

/// One test of a module.
#[derive(Clone, Debug)]
pub struct ModuleTest {
    /// The module that it belongs to.
    pub module: String,
    /// What it says of the module.
    pub name: Spanned<String>,
    /// What the host's entry would say; without modules, this module.
    pub given: InventoryEntry,
    /// The rules that are there already.
    pub saves: BTreeMap<IpFamily, SavedTables>,
    /// Live values of keys.
    pub live: Vec<SysctlStatement>,
    /// The chains that are expected, whole.
    pub chains: Vec<ChainStatement>,
    /// The sysctl files that are expected, whole.
    pub sysctl: Vec<SysctlStatement>,
    /// Packets and what is to become of them.
    pub packets: Vec<PacketStatement>,
    /// A part of what `check` is to say against it.
    pub error: Option<Spanned<String>>,
    /// What is wrong with what is given, where an error is expected.
    pub wrong: Vec<Problem>,
}

/// A packet and what is to become of it.
#[derive(Clone, Debug)]
pub struct PacketStatement {
    /// Where it stands.
    pub place: Place,
    /// INPUT, FORWARD or OUTPUT.
    pub chain: String,
    /// The bridge that forwards it as a frame.
    pub bridge: Option<String>,
    /// The families that it is sent in.
    pub families: Vec<IpFamily>,
    /// The device, or port of the bridge, it comes in by.
    pub input: Option<String>,
    /// The device, or port of the bridge, it leaves by.
    pub output: Option<String>,
    /// Source and destination.
    pub ends: [Option<IpAddr>; 2],
    /// What it carries.
    pub carries: PacketPayload,
    /// A name of [`STATES`].
    pub state: String,
    /// A name of [`VERDICTS`].
    pub verdict: String,
    /// A part of the rule or policy that decides.
    pub by: Option<String>,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketPayload {
    /// Nothing that is known.
    Something,
    /// TCP to a port.
    Tcp(u16),
    /// UDP to a port.
    Udp(u16),
    /// The question that ping asks.
    Echo,
    /// ICMP of a type and code.
    Icmp(u8, u8),
}

/// Reads a file of tests of a module.
pub(super) fn tests(
    module: &str,
    root: &Node,
    project: &Project,
    reader: &mut InventoryReader<'_>,
) -> Vec<ModuleTest> {
    let mut tests = Vec::new();
    for pair in reader.map(root, "tests by what they say") {
        let name = Spanned::new(pair.key.clone(), &pair.key_place);
        tests.push(test(module, name, &pair.value, project, reader));
    }
    tests
}

fn test(
    module: &str,
    name: Spanned<String>,
    node: &Node,
    project: &Project,
    reader: &mut InventoryReader<'_>,
) -> ModuleTest {
    let nothing = Node { value: Value::Null, style: Style::Plain, place: name.place.clone() };
    let mut test = ModuleTest {
        module: module.to_owned(),
        given: entry(&nothing, &name.place, EntryOwner::Host, reader),
        name,
        saves: BTreeMap::new(),
        live: vec![],
        chains: vec![],
        sysctl: vec![],
        packets: vec![],
        error: None,
        wrong: vec![],
    };
    let mut expects = false;
    for pair in reader.fields(node, "a test of a module", &KEYS) {
        let value = &pair.value;
        expects |= !matches!(pair.key.as_str(), "given" | "observed");
        match pair.key.as_str() {
            "given" => {
                // The reader of entries knows more keys than make sense here.
                reader.fields(value, "what is given", &given_keys());
                let before = reader.problems.len();
                test.given = entry(value, &pair.key_place, EntryOwner::Host, reader);
                test.wrong = reader.problems.split_off(before);
            }
            "observed" => observed(value, &mut test, reader),
            "iptables" => test.chains.extend(rules::chains(value, IpFamily::V4, &[], reader)),
            "ip6tables" => test.chains.extend(rules::chains(value, IpFamily::V6, &[], reader)),
            "sysctl" => test.sysctl = resources::sysctl_files(value, reader),
            "packets" => {
                let items = reader.list(value, "a list of packets");
                test.packets = items.iter().filter_map(|item| packet(item, reader)).collect();
            }
            "error" => {
                let text = reader.line(value, "a part of the error").map(str::to_owned);
                test.error = text.map(|text| Spanned::new(text, &value.place));
            }
            _ => {}
        }
    }
    if test.given.modules.is_empty() {
        test.given.modules.push(Spanned::new(module.to_owned(), &test.name.place));
    }
    test.wrong.extend(unknown_names(&test.given, &project.modules));
    if test.error.is_none() {
        reader.problems.append(&mut test.wrong);
    }
    if !expects {
        let help = "add an expectation: iptables, ip6tables, sysctl, packets or error";
        reader.wrong_help("missing-key", &test.name.place, "this test expects nothing", help);
    }
    test
}

fn observed(node: &Node, test: &mut ModuleTest, reader: &mut InventoryReader<'_>) {
    for pair in reader.fields(node, "what is observed", &OBSERVED) {
        let value = &pair.value;
        let family = match pair.key.as_str() {
            "iptables" => IpFamily::V4,
            "ip6tables" => IpFamily::V6,
            "sysctl" => {
                let file = crate::yaml::Pair {
                    key: "live".to_owned(),
                    key_place: pair.key_place.clone(),
                    value: value.clone(),
                };
                let files =
                    Node { value: Value::Map(vec![file]), style: Style::Plain, place: value.place.clone() };
                test.live = resources::sysctl_files(&files, reader);
                continue;
            }
            _ => continue,
        };
        let Value::Str(text) = &value.value else {
            reader.expected(value, "what iptables-save prints, in a block");
            continue;
        };
        match SavedTables::parse(text) {
            Ok(save) => drop(test.saves.insert(family, save)),
            Err(error) => {
                reader.wrong("rule", &value.place, format!("is not output of iptables-save: {error}"))
            }
        }
    }
}

fn packet(node: &Node, reader: &mut InventoryReader<'_>) -> Option<PacketStatement> {
    let mut found = PacketStatement {
        place: node.place.clone(),
        chain: String::new(),
        bridge: None,
        families: IpFamily::ALL.to_vec(),
        input: None,
        output: None,
        ends: [None, None],
        carries: PacketPayload::Something,
        state: "NEW".to_owned(),
        verdict: String::new(),
        by: None,
    };
    let before = reader.problems.len();
    let (mut carried, mut family) = (0, None);
    for pair in reader.fields(node, "a packet", &PACKET) {
        let value = &pair.value;
        let text = |reader: &mut InventoryReader<'_>| reader.line(value, &pair.key).map(str::to_owned);
        match pair.key.as_str() {
            "chain" => found.chain = one_of(value, "chain", &CHAINS, reader)?,
            "state" => found.state = one_of(value, "state", &STATES, reader)?,
            "verdict" => found.verdict = one_of(value, "verdict", &VERDICTS, reader)?,
            "bridge" => found.bridge = text(reader),
            "in" => found.input = text(reader),
            "out" => found.output = text(reader),
            "by" => found.by = text(reader),
            "ip" => family = reader.int(value, "the version of IP", 4, 6).filter(|v| *v != 5),
            "src" => found.ends[0] = address(value, reader),
            "dst" => found.ends[1] = address(value, reader),
            key => {
                carried += 1;
                found.carries = carries(key, value, reader)?;
            }
        }
    }
    let ends = found.ends.iter().flatten().map(|ip| if ip.is_ipv4() { 4 } else { 6 });
    let mut versions: Vec<i128> = ends.chain(family).collect();
    versions.dedup();
    match versions.as_slice() {
        [] if matches!(found.carries, PacketPayload::Icmp(..)) => {
            let help = "add `ip: 4` or `ip: 6`, or write `icmp: echo`";
            reader.wrong_help("wrong-type", &node.place, "types of ICMP are not those of ICMPv6", help);
        }
        [] => {}
        [4] => found.families = vec![IpFamily::V4],
        [6] => found.families = vec![IpFamily::V6],
        _ => reader.wrong("wrong-type", &node.place, "a packet has addresses of one family"),
    }
    if carried > 1 {
        reader.wrong("wrong-type", &node.place, "a packet carries one of `tcp`, `udp`, `icmp`");
    }
    match (&found.bridge, found.chain.as_str()) {
        (Some(_), "") => found.chain = "FORWARD".to_owned(),
        (Some(_), "FORWARD") | (None, "INPUT" | "FORWARD" | "OUTPUT") => {}
        (Some(_), _) => reader.wrong("wrong-type", &node.place, "a bridged frame meets FORWARD"),
        (None, _) => {
            let help =
                "add `chain: INPUT`, `FORWARD` or `OUTPUT`, or `bridge: NAME` for a frame that it forwards";
            reader.wrong_help("missing-key", &node.place, "this packet has no chain", help);
        }
    }
    if found.verdict.is_empty() {
        let help = format!("add `verdict:`, one of {}", VERDICTS.join(", "));
        reader.wrong_help("missing-key", &node.place, "this packet has no expected verdict", help);
    }
    (reader.problems.len() == before).then_some(found)
}

fn one_of(node: &Node, what: &str, words: &[&str], reader: &mut InventoryReader<'_>) -> Option<String> {
    let text = reader.line(node, what)?;
    if words.contains(&text) {
        return Some(text.to_owned());
    }
    let mut problem = Problem::new("wrong-type", format!("`{}` is not a valid {what}", text.escape_debug()));
    problem.help = did_you_mean(text, words.iter().copied());
    reader.problems.push(problem.at_place(&node.place));
    None
}

fn address(node: &Node, reader: &mut InventoryReader<'_>) -> Option<IpAddr> {
    let text = reader.line(node, "an address")?;
    let address = text.parse().ok();
    if address.is_none() && checks::host(text, node, reader) {
        reader.wrong("bad-address", &node.place, format!("`{text}` is a host name: write its address"));
    }
    address
}

fn carries(key: &str, node: &Node, reader: &mut InventoryReader<'_>) -> Option<PacketPayload> {
    if key != "icmp" {
        let port = u16::try_from(reader.int(node, "a port", 0, 65535)?).ok()?;
        return Some(if key == "tcp" { PacketPayload::Tcp(port) } else { PacketPayload::Udp(port) });
    }
    let number = |text: &str| text.parse::<u8>().ok();
    let found = match &node.value {
        Value::Int(kind) => u8::try_from(*kind).ok().map(|kind| PacketPayload::Icmp(kind, 0)),
        Value::Str(text) if text == "echo" => Some(PacketPayload::Echo),
        Value::Str(text) => text
            .split_once('/')
            .and_then(|(kind, code)| Some(PacketPayload::Icmp(number(kind)?, number(code)?))),
        _ => None,
    };
    if found.is_none() {
        reader.expected(node, "an ICMP type such as `8` or `3/4`, or `echo`");
    }
    found
}
