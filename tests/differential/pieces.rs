//! Packets that come in pieces. Without connection tracking rules see each piece, and only the first has ports;
//! with it they see the whole, on bridges too.

use crate::flow::{Arrived, Hints, Kind, Node, Sent};
use crate::random::Random;
use crate::rules::{Rules, UNKNOWN_IS_ENOUGH};
use crate::world::World;
use crate::{common, flow, number, unload};
use kvmfw::netfilter::{
    BridgeSwitches, FragmentPart, HostContext, IptablesBackend, Packet, PacketPath, PacketTrace,
    PacketVerdict, Ruleset, simulate,
};
use kvmfw::resource::iptables::IpFamily;

/// So many packets are tried against one ruleset.
const PACKETS: u16 = 12;

const SWITCHES: BridgeSwitches =
    BridgeSwitches { iptables: true, ip6tables: true, arptables: false, tagged: false };

/// Asks for a state and drops nothing: connection tracking is on as long as it is there.
const TRACKING: &str =
    "table inet tracking { chain forward { type filter hook forward priority 500; ct state new counter; }; }";

/// On iptables-nft a later piece has for ports what stands in their place, which nobody knows.
const PORTS: [&str; 3] = ["-m tcp ", "-m udp ", "-m multiport "];

#[derive(Default)]
struct Count {
    sent: u64,
    arrived: u64,
    /// One piece arrived and the other did not.
    half: u64,
    dropped: u64,
    unknown: u64,
    wrong: Vec<String>,
}

fn pieces(tracking: bool) {
    if !common::require_root() {
        return;
    }
    let long = std::env::var_os("KVMFW_LONG").is_some();
    let seed =
        number("DIFF_SEED").unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() % 1_000_000);
    let packets = number("DIFF_PACKETS").unwrap_or(if long { 10_000 } else { 500 }) / 2;
    common::tell(&format!("DIFF_SEED={seed} DIFF_PACKETS={}", packets * 2));
    let mut world = World::up();
    for family in IpFamily::ALL {
        world.nf_call(family, true, false);
    }
    if tracking {
        world.host(&["nft", "-f", "-"], TRACKING).unwrap();
    }
    let mut count = Count::default();
    let only = number("DIFF_ONLY");
    for run in only.map_or(0..u64::MAX, |run| run..run + 1) {
        if count.sent >= packets || count.wrong.len() >= 20 {
            break;
        }
        one_ruleset(&mut world, tracking, seed, run, &mut count);
    }
    common::tell(&format!(
        "{} packets in pieces, tracking {tracking}: {} arrived, {} by half, {} dropped, {} unknown, {} wrong (DIFF_SEED={seed})",
        count.sent,
        count.arrived,
        count.half,
        count.dropped,
        count.unknown,
        count.wrong.len()
    ));
    assert!(count.wrong.is_empty(), "{}", count.wrong.join("\n\n"));
    if only.is_none() {
        assert!(count.arrived * 5 >= packets && count.dropped * 10 >= packets, "one-sided packets");
        assert!(count.unknown * 5 <= packets, "the walk knows too little");
        // Pieces are told apart where nothing joins them, and only there.
        assert!(!tracking || count.half == 0, "a piece arrived alone");
        assert!(tracking || packets < 1500 || count.half > 0, "no rule told pieces apart");
    }
}

#[test]
fn pieces_without_connection_tracking() {
    pieces(false);
}

#[test]
fn pieces_with_connection_tracking() {
    pieces(true);
}

fn one_ruleset(world: &mut World, tracking: bool, seed: u64, run: u64, count: &mut Count) {
    let mut random = Random::of(seed, run);
    let family = random.of_these(&[IpFamily::V4, IpFamily::V4, IpFamily::V6]);
    let backend = random.of_these(&[IptablesBackend::Nft, IptablesBackend::Legacy]);
    let mut text = Rules { random: &mut random, family }.file();
    if !tracking {
        text = untracked(&text);
    }
    if let Ok(save) = world.load(backend, family, &text) {
        let (set, around) = (Ruleset::new(&save), flow::surroundings(family, backend));
        for n in 0..PACKETS {
            let port = u16::try_from(20_000 + (run * u64::from(PACKETS) + u64::from(n)) % 40_000).unwrap();
            let hints = Hints::default();
            let (kind, mut sent) = Sent::first(&mut random, family, port, true, SWITCHES, &hints);
            if sent.at == Node::Host || kind == Kind::Discovery || sent.tagged {
                continue;
            }
            if kind == Kind::Other {
                world.forget();
            }
            sent.split = true;
            let trial = Trial { set: &set, around: &around, sent: &sent };
            if let Err(wrong) = trial.send(world, tracking, count) {
                count.wrong.push(format!(
                    "WRONG: DIFF_SEED={seed} DIFF_ONLY={run} {family:?} {backend:?} tracking {tracking}: {wrong}\n{sent:?}\n{}",
                    save.render()
                ));
                break;
            }
        }
    }
    unload(world, backend, family);
}

/// The same rules less all that asks connection tracking, NAT too.
fn untracked(text: &str) -> String {
    let mut out = String::new();
    let mut nat = false;
    for line in text.lines() {
        nat = if line.starts_with('*') { line == "*nat" } else { nat };
        let asks = ["-m state ", "-m conntrack ", "-j CT "].iter().any(|word| line.contains(word));
        if !nat && !asks {
            out += line;
            out.push('\n');
        }
    }
    out
}

struct Trial<'a> {
    set: &'a Ruleset,
    around: &'a HostContext,
    sent: &'a Sent,
}

impl Trial<'_> {
    fn walk(&self, fragment: FragmentPart) -> PacketTrace {
        let (base, packet) = self.sent.packet();
        simulate(self.set, self.around, base, &Packet { fragment, ..packet })
    }

    fn send(&self, world: &mut World, tracking: bool, count: &mut Count) -> Result<(), String> {
        count.sent += 1;
        let parts =
            if tracking { vec![FragmentPart::Whole] } else { vec![FragmentPart::First, FragmentPart::Later] };
        let walks: Vec<PacketTrace> = parts.iter().map(|part| self.walk(*part)).collect();
        let seen = world.send(&self.sent.order(count.sent));
        let seen: Vec<Arrived> = seen.iter().map(Arrived::read).collect();
        let nodes =
            walks.iter().flat_map(|walk| &walk.stages).filter_map(|stage| stage.packet.dst).map(Node::of);
        if nodes.into_iter().any(|node| node.is_none() || node == Some(self.sent.at)) {
            // Nobody has the address, or a bridge would have to send it back to where it came from: by what port it leaves is a vain question.
            return Ok(());
        }
        if let Some(unknown) = walks.iter().find(|walk| walk.verdict == PacketVerdict::Unknown) {
            count.unknown += 1;
            let texts = || unknown.unanswered_rules().map(|met| format!("{} ", met.step.text));
            let enough = UNKNOWN_IS_ENOUGH.iter().chain(if tracking { &[][..] } else { &PORTS });
            let meant = texts().any(|text| enough.clone().any(|enough| text.contains(enough)));
            return if meant { Ok(()) } else { Err(format!("unknown: {:?}", texts().collect::<Vec<_>>())) };
        }
        let left = walks.iter().find_map(|walk| walk.final_packet.clone());
        let local = matches!(left, Some((PacketPath::Input, _)));
        let joined = |n: usize, walk: &PacketTrace| {
            // IPv4 joins before INPUT, and what is joined has the mark of its first piece; a later one only has to come there.
            n > 0
                && local
                && self.sent.family == IpFamily::V4
                && walk.stages.iter().any(|stage| stage.chain == "INPUT")
        };
        let passes =
            |(n, walk): (usize, &PacketTrace)| walk.verdict == PacketVerdict::Accept || joined(n, walk);
        let pass: Vec<bool> = walks.iter().enumerate().map(passes).collect();
        // The host joins what is for itself, and a piece alone comes to nothing.
        let expected: Vec<&str> = match pass[..] {
            [true] => vec!["whole"],
            [true, true] if local => vec!["whole"],
            [_, _] if local => vec![],
            [first, later] => [("first", first), ("later", later)]
                .iter()
                .filter(|(_, pass)| *pass)
                .map(|(name, _)| *name)
                .collect(),
            _ => vec![],
        };
        let told = format!(
            "told {:?}, {expected:?}; seen {seen:?}",
            walks.iter().map(|w| w.verdict).collect::<Vec<_>>()
        );
        let pieces: Vec<&str> = seen.iter().map(|arrived| arrived.piece.as_str()).collect();
        // What was joined may leave in pieces again.
        if pieces != expected && !(expected == ["whole"] && pieces == ["first", "later"]) {
            return Err(told);
        }
        if let Some((_, left)) = &left {
            let to = left.dst.and_then(Node::of);
            if seen.iter().any(|arrived| Some(arrived.at) != to || Some(arrived.dst) != left.dst) {
                return Err(format!("elsewhere: {told}"));
            }
        }
        match seen.len() {
            0 => count.dropped += 1,
            1 if pieces != ["whole"] => count.half += 1,
            _ => count.arrived += 1,
        }
        Ok(())
    }
}
