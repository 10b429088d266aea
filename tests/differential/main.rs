//! The packet walk against the kernel: random rules, random packets that are sent for real, and no
//! answer may be wrong.
//!
//!   DIFF_SEED=N     the seed; printed, else from the clock
//!   DIFF_PACKETS=N  so many packets (500; 10,000 with KVMFW_LONG=1)
//!   DIFF_ONLY=N     only ruleset N of that seed
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../common/mod.rs"]
mod common;
mod flow;
mod frames;
mod pieces;
mod public;
#[path = "../chaos/random.rs"]
mod random;
mod rules;
mod world;

use flow::{Arrived, Hints, Kind, Node, Sent};
use kvmfw::netfilter::{
    BridgeSwitches, BridgeView, ConntrackStates, FlowDirection, HostContext, IptablesBackend, Packet,
    PacketPath, PacketTrace, PacketVerdict, Ruleset, TcpFlags, blocked_between_ports, simulate,
    undecided_between_ports,
};
use kvmfw::resource::iptables::IpFamily;
use kvmfw::resource::iptables::save::SavedTables;
use random::Random;
use rules::{Rules, UNKNOWN_IS_ENOUGH};
use world::World;

/// So many connections are tried against one ruleset.
const FLOWS: u16 = 16;

#[derive(Default)]
struct Count {
    packets: u64,
    accepted: u64,
    dropped: u64,
    unknown: u64,
    /// Of those accepted: frames of a bridge that is out of iptables.
    unseen: u64,
    /// With a VLAN tag, and seen by rules.
    tagged: u64,
    /// ICMP errors about packets that went before.
    errors: u64,
    /// From guest to guest, on a bridge that is said to be open.
    open: u64,
    rulesets: u64,
    refused: u64,
    wrong: Vec<String>,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: no number")))
}

#[test]
fn the_simulator_agrees_with_the_kernel() {
    if !common::require_root() {
        return;
    }
    let long = std::env::var_os("KVMFW_LONG").is_some();
    let seed =
        number("DIFF_SEED").unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() % 1_000_000);
    let packets = number("DIFF_PACKETS").unwrap_or(if long { 10_000 } else { 500 });
    common::tell(&format!("DIFF_SEED={seed} DIFF_PACKETS={packets}"));
    let start = std::time::Instant::now();
    let mut world = World::up();
    let mut count = Count::default();
    let only = number("DIFF_ONLY");
    for run in only.map_or(0..u64::MAX, |run| run..run + 1) {
        if count.packets >= packets || count.wrong.len() >= 20 {
            break;
        }
        one_ruleset(&mut world, seed, run, &mut count);
    }
    common::tell(&format!(
        "{} packets ({} of them errors about another) through {} rulesets in {:.0} s: {} accepted ({} of them past all rules), {} with a VLAN tag asked about, {} dropped, {} unknown, {} over a bridge said to be open, {} wrong (DIFF_SEED={seed}); {} rulesets refused by the kernel",
        count.packets,
        count.errors,
        count.rulesets,
        start.elapsed().as_secs_f64(),
        count.accepted,
        count.unseen,
        count.tagged,
        count.dropped,
        count.unknown,
        count.open,
        count.wrong.len(),
        count.refused,
    ));
    assert!(count.wrong.is_empty(), "{}", count.wrong.join("\n\n"));
    if only.is_none() {
        assert!(count.refused * 5 <= count.rulesets, "rules are drawn that no kernel takes");
        assert!(count.accepted * 5 >= packets && count.dropped * 10 >= packets, "one-sided packets");
        assert!(packets < 3000 || count.unseen * 50 >= packets, "too few frames of bridges out of iptables");
        assert!(packets < 3000 || count.tagged * 100 >= packets, "too few frames with a VLAN tag");
        assert!(packets < 3000 || count.open * 500 >= packets, "too few bridges that are said to be open");
        assert!(count.unknown * 5 <= packets, "the walk knows too little");
    }
}

/// Loads one random ruleset and sends connections through it.
fn one_ruleset(world: &mut World, seed: u64, run: u64, count: &mut Count) {
    let mut random = Random::of(seed, run);
    let family = random.of_these(&[IpFamily::V4, IpFamily::V4, IpFamily::V6]);
    let backend = random.of_these(&[IptablesBackend::Nft, IptablesBackend::Legacy]);
    let text = Rules { random: &mut random, family }.file();
    let Ok(save) = world.load(backend, family, &text) else {
        // What comes before the table that is refused is loaded.
        count.refused += 1;
        unload(world, backend, family);
        return;
    };
    let name = format!("DIFF_SEED={seed} DIFF_ONLY={run} {family:?} {backend:?}");
    let trial = Trial {
        name,
        family,
        backend,
        first_port: run * u64::from(FLOWS),
        flows: FLOWS,
        hints: Hints::default(),
    };
    try_out(world, &save, &trial, &mut random, count);
    unload(world, backend, family);
}

/// What is tried with rules that are loaded.
struct Trial {
    /// What a wrong answer is reported with.
    name: String,
    family: IpFamily,
    backend: IptablesBackend,
    /// Where the numbers of its connections begin.
    first_port: u64,
    flows: u16,
    hints: Hints,
}

/// Sends connections through rules that are loaded; stops at the first wrong answer.
fn try_out(world: &mut World, save: &SavedTables, trial: &Trial, random: &mut Random, count: &mut Count) {
    let loose = !random.one_in(4);
    world.sysctl("net.netfilter.nf_conntrack_tcp_loose", loose.into());
    // Mostly for all bridges; else for this one alone, or for none.
    let (all, own) =
        random.of_these(&[(true, false), (true, false), (true, true), (false, true), (false, false)]);
    world.nf_call(trial.family, all, own);
    let tagged = random.one_in(2);
    world.sysctl("net.bridge.bridge-nf-filter-vlan-tagged", tagged.into());
    let on = all || own;
    let switches = BridgeSwitches { iptables: on, ip6tables: on, arptables: false, tagged };
    let set = Ruleset::new(save);
    let around = flow::surroundings(trial.family, trial.backend);
    count.rulesets += 1;
    let ports = ["vnet0", "vnet1"].map(str::to_owned).to_vec();
    let bridge = BridgeView { name: "br0".to_owned(), ports, nf_call: on, untagged: None };
    let open = blocked_between_ports(&set, &around, trial.family, &bridge).is_none()
        && undecided_between_ports(&set, &around, trial.family, &bridge, true).is_none();
    for n in 0..trial.flows {
        let port = u16::try_from(20_000 + (trial.first_port + u64::from(n)) % 40_000).unwrap();
        let (kind, first) = Sent::first(random, trial.family, port, loose, switches, &trial.hints);
        if kind == Kind::Other {
            world.forget();
        }
        let mut flow =
            Flow { world, set: &set, around: &around, count, random, loose, open, log: String::new() };
        if let Err(wrong) = flow.run(kind, &first) {
            let log = flow.log.clone();
            count.wrong.push(format!("WRONG: {}: {wrong}\n{log}{}", trial.name, save.render()));
            return;
        }
    }
}

/// Whether a packet is the first from guest to guest, of one of the kinds by which `explain` tells whether they reach each
/// other.
fn opens(base: PacketPath, packet: &Packet) -> bool {
    let kind = match packet.protocol {
        Some(6) => packet.tcp_flags == TcpFlags::SYN,
        Some(17) => true,
        _ => matches!(packet.icmp, Some((8 | 128, 0))),
    };
    base == PacketPath::Forward && packet.bridged && packet.state == ConntrackStates::NEW && kind
}

/// Nothing of a ruleset may be met by the next one, which may be of the other backend or family.
fn unload(world: &World, backend: IptablesBackend, family: IpFamily) {
    let tables = rules::TABLES.map(|(table, chains)| {
        let chains: String = chains.iter().map(|chain| format!(":{chain} ACCEPT\n")).collect();
        format!("*{table}\n{chains}COMMIT\n")
    });
    world.load(backend, family, &tables.concat()).unwrap();
}

struct Flow<'a> {
    world: &'a mut World,
    set: &'a Ruleset,
    around: &'a HostContext,
    count: &'a mut Count,
    random: &'a mut Random,
    loose: bool,
    /// What `explain` says of the bridge: guests reach each other, whatever their addresses and ports.
    open: bool,
    log: String,
}

/// What became of a packet.
struct Outcome {
    /// How it was seen at its end.
    arrived: Option<Arrived>,
    /// Whether conntrack has seen it: not what raw dropped or took out; nothing where nobody can tell.
    tracked: Option<bool>,
}

impl Flow<'_> {
    /// A packet, maybe one more before there is an answer, the answer, and one more. Ends where what
    /// conntrack makes of it cannot be told.
    fn run(&mut self, kind: Kind, first: &Sent) -> Result<(), String> {
        let outcome = self.send(first)?;
        let Some(arrived) = outcome.arrived else {
            // What was dropped has left no entry, so that another one is as new as the first.
            if self.random.one_in(4) && outcome.tracked.is_some() {
                self.send(first)?;
            }
            return Ok(());
        };
        if kind == Kind::Discovery || outcome.tracked.is_none() || self.random.one_in(4) {
            return Ok(());
        }
        // Conntrack has an entry unless it has not seen the packet or not understood it.
        let entry = outcome.tracked == Some(true) && first.state == ConntrackStates::NEW;
        if entry && self.random.one_in(4) {
            let error = first.error(&arrived);
            if error.to().is_some() && (error.at, error.to()) != (Node::Host, Some(Node::Host)) {
                self.count.errors += 1;
                self.send(&error)?;
            }
            return Ok(());
        }
        let mut reply = first.reply(&arrived);
        if entry {
            reply.state = ConntrackStates::ESTABLISHED;
            reply = reply.of_connection(first, &arrived, FlowDirection::Reply);
        } else {
            reply.state = match kind {
                Kind::Udp | Kind::Other => ConntrackStates::NEW,
                Kind::Tcp if reply.flags == flow::flags::ACK => flow::picked_up(self.loose),
                _ => ConntrackStates::INVALID,
            };
        }
        // What the host sends to itself is not tried, nor what nobody has the address of.
        if reply.to().is_none() || (reply.at, reply.to()) == (Node::Host, Some(Node::Host)) {
            return Ok(());
        }
        let answered = self.send(&reply)?;
        if !entry || answered.tracked != Some(true) {
            return Ok(());
        }
        let next = Sent { state: ConntrackStates::ESTABLISHED, ..first.next(&reply) };
        self.send(&next.of_connection(first, &arrived, FlowDirection::Original))?;
        Ok(())
    }

    /// Sends a packet and compares.
    fn send(&mut self, sent: &Sent) -> Result<Outcome, String> {
        if sent.unseen() {
            return self.send_unseen(sent);
        }
        let (base, packet) = sent.packet();
        let walk = simulate(self.set, self.around, base, &packet);
        if self.open && opens(base, &packet) {
            self.count.open += 1;
            if walk.verdict != PacketVerdict::Accept {
                return Err(format!(
                    "the bridge is said to be open, and of {packet:?} the walk says {:?}",
                    walk.verdict
                ));
            }
        }
        self.count.packets += 1;
        let seen = self.world.send(&sent.order(self.count.packets));
        let step = walk.decided_by.as_ref().map(ToString::to_string).unwrap_or_default();
        self.log += &format!("{sent:?}\n  walk {:?} by {step}\n  seen {seen:?}\n", walk.verdict);
        if let Some((base, left)) = &walk.final_packet {
            self.log += &format!("  left {base:?} {left:?}\n");
        }
        let arrived = seen.first().map(Arrived::read);
        self.count.tagged += u64::from(sent.tagged);
        let taken = match &walk.final_packet {
            Some((PacketPath::Forward, left)) => !left.bridged,
            Some(_) => true,
            // By some rule of chance, or not.
            None => arrived.is_none(),
        };
        if sent.tagged && walk.verdict == PacketVerdict::Accept && taken {
            // NAT takes it off the bridge, and the host has no device for its VLAN.
            self.count.accepted += 1;
            if arrived.is_some() {
                return Err("a frame with a VLAN tag was taken off the bridge, and arrived".to_owned());
            }
            return Ok(Outcome { arrived: None, tracked: None });
        }
        match (walk.verdict, &arrived) {
            (PacketVerdict::Accept, Some(arrived)) => {
                self.count.accepted += 1;
                self.compare(&walk, arrived)?;
                same_tag(sent, arrived)?;
            }
            (PacketVerdict::Drop, None) => self.count.dropped += 1,
            (PacketVerdict::Accept, None) if Self::nobody_there(sent, &walk) => {
                return Ok(Outcome { arrived: None, tracked: None });
            }
            (PacketVerdict::Unknown, _) => {
                self.count.unknown += 1;
                let meant = walk.unanswered_rules().any(|met| {
                    let text = format!("{} ", met.step.text);
                    UNKNOWN_IS_ENOUGH.iter().any(|enough| text.contains(enough))
                });
                if !meant {
                    return Err(format!("unknown by {step}"));
                }
                return Ok(Outcome { arrived: None, tracked: None });
            }
            (told, _) => return Err(format!("the walk says {told:?}")),
        }
        let state = match &walk.final_packet {
            Some((_, left)) => Some(left.state),
            None => walk.stages.last().map(|stage| stage.packet.state),
        };
        let at_raw = walk.verdict == PacketVerdict::Drop && step.starts_with("raw/");
        let tracked = match state {
            Some(ConntrackStates::UNTRACKED) => Some(false),
            _ if at_raw => Some(false),
            Some(state) if !state.meets(ConntrackStates::UNTRACKED) => Some(true),
            _ => None,
        };
        Ok(Outcome { arrived, tracked })
    }

    /// Sends what no rule is asked about: it arrives as it was sent, and conntrack hears nothing of it.
    fn send_unseen(&mut self, sent: &Sent) -> Result<Outcome, String> {
        self.count.packets += 1;
        self.count.accepted += 1;
        self.count.unseen += 1;
        let seen = self.world.send(&sent.order(self.count.packets));
        self.log += &format!("{sent:?}\n  no rule sees it\n  seen {seen:?}\n");
        let arrived = seen.first().map(Arrived::read);
        if let Some(arrived) = &arrived {
            same_tag(sent, arrived)?;
        }
        if arrived.as_ref().is_some_and(|arrived| (arrived.src, arrived.dst) == (sent.src, sent.dst)) {
            Ok(Outcome { arrived, tracked: Some(false) })
        } else {
            Err("no rule sees it, and it did not arrive as it was sent".to_owned())
        }
    }

    /// A bridge sends no frame back to the port by which it came in, and an address that nobody has is
    /// not found, whatever the rules say.
    fn nobody_there(sent: &Sent, walk: &PacketTrace) -> bool {
        let nodes = walk.stages.iter().filter_map(|stage| stage.packet.dst).map(Node::of);
        nodes.into_iter().any(|node| node.is_none() || node == Some(sent.at))
    }

    /// What NAT made of it is what the walk says.
    fn compare(&self, walk: &PacketTrace, arrived: &Arrived) -> Result<(), String> {
        let Some((_, left)) = &walk.final_packet else { return Ok(()) };
        let same = |told: Option<std::net::IpAddr>, seen| told.is_none_or(|told| told == seen);
        let port = |told: Option<u16>, seen: Option<u16>| match (told, seen) {
            (Some(told), Some(seen)) => told == seen,
            _ => true,
        };
        if same(left.src, arrived.src)
            && same(left.dst, arrived.dst)
            && port(left.sport, arrived.sport)
            && port(left.dport, arrived.dport)
        {
            return Ok(());
        }
        Err("NAT made something else of it".to_owned())
    }
}

/// A bridge leaves the tag of a frame as it is.
fn same_tag(sent: &Sent, arrived: &Arrived) -> Result<(), String> {
    if arrived.vlan == sent.tagged.then_some(flow::VLAN) {
        return Ok(());
    }
    Err(format!("VLAN {:?} arrived", arrived.vlan))
}
