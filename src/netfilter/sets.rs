//! What lies in the sets of ipset that rules ask (`-m set`), where that is known.

use super::answer::Tristate;
use super::matches::{MatchTest, RuleMatch};
use super::packet::{FragmentPart, Packet, PacketDevice, protocol};
use crate::resource::ipset::{DeclaredSet, MemberPart, SetShape};
use crate::resource::iptables::{IpFamily, protocols};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, Weak};

/// Sets whose members are known, by name. Of any other set the answer is *unknown*.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownSets(BTreeMap<String, Arc<SetContents>>);

/// The members of a set, ready to be asked.
#[derive(PartialEq, Eq)]
struct SetContents {
    parts: &'static [MemberPart],
    /// The family whose packets it can match; `None`: both.
    family: Option<IpFamily>,
    members: Vec<SetMember>,
    /// The members in the place of those, where each is one address or network.
    networks: Option<NetworkTable>,
    /// The sets of a list; `None` for one that is not known.
    lists: Vec<Option<Arc<SetContents>>>,
}

/// Networks by how many of their bits count, with whether each is an exception: a big set is not searched member by member.
type NetworkTable = BTreeMap<u8, HashMap<u128, bool>>;

/// Contents that were made, by the list of members as it lies in memory. The weak pointer keeps that place from being used
/// for another list.
type Made = Option<HashMap<(usize, SetShape), (Weak<Vec<String>>, Arc<SetContents>)>>;

/// A list of members that several hosts may have.
type SharedList<'a> = Option<&'a Arc<Vec<String>>>;

/// Hosts of one group share a list of members, and every view of each host asks for its contents.
static MADE: Mutex<Made> = Mutex::new(None);

#[derive(PartialEq, Eq)]
struct SetMember {
    parts: Vec<MemberValue>,
    exception: bool,
}

/// One part of a member.
#[derive(PartialEq, Eq)]
enum MemberValue {
    /// An address and how many of its bits count.
    Net(IpAddr, u8),
    /// A port, of one protocol or of TCP and UDP.
    Port(Option<u8>, u16),
    Device(String),
    /// Something that packets do not show here.
    Other,
}

/// `--match-set NAME src,dst`.
#[derive(Clone, PartialEq, Eq)]
pub struct SetMembership {
    name: String,
    /// For each part, whether it is asked of the source.
    from_source: Vec<bool>,
    contents: Arc<SetContents>,
}

impl Hash for SetMembership {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.from_source.hash(state);
    }
}

impl fmt::Debug for SetMembership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for SetMembership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "whether set {} has it", self.name)
    }
}

impl fmt::Debug for SetContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks: usize = self.networks.iter().flat_map(BTreeMap::values).map(HashMap::len).sum();
        write!(f, "{} members", self.members.len() + networks)
    }
}

impl KnownSets {
    /// Whether no set is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of these sets that hold what is declared and nothing else: not where other programs, rules or time
    /// change the members.
    pub fn of<'a>(sets: impl Iterator<Item = (&'a String, &'a SetShape, Option<&'a [String]>)>) -> Self {
        Self::made(sets.map(|(name, shape, members)| (name, shape, members, None)))
    }

    /// The same of members with the list that hosts share, where they do.
    fn made<'a>(
        sets: impl Iterator<Item = (&'a String, &'a SetShape, Option<&'a [String]>, SharedList<'a>)>,
    ) -> Self {
        let mut known = Self::default();
        let mut lists = Vec::new();
        for (name, shape, members, list) in sets {
            let Some(members) = members.filter(|_| shape.timeout.is_none()) else { continue };
            if shape.kind.parts() == [MemberPart::Set] {
                lists.push((name, members));
                continue;
            }
            let contents =
                list.map_or_else(|| Arc::new(SetContents::of(shape, members)), |list| shared(shape, list));
            known.0.insert(name.clone(), contents);
        }
        for (name, members) in lists {
            let of = |member: &String| known.0.get(member.split(' ').next().unwrap_or(member)).cloned();
            let lists = members.iter().map(of).collect();
            let parts: &[MemberPart] = &[MemberPart::Set];
            let contents = SetContents { parts, family: None, members: Vec::new(), networks: None, lists };
            known.0.insert(name.clone(), Arc::new(contents));
        }
        known
    }

    /// The declared sets of a host that nothing but the inventory changes.
    pub fn declared<'a>(sets: impl Iterator<Item = &'a DeclaredSet>) -> Self {
        Self::made(sets.map(|set| {
            let list = set.entries.as_ref();
            (&set.name, &set.shape, list.map(|list| list.as_slice()), list)
        }))
    }

    /// Puts what is known of a set in the place of a condition that asks it and is not known.
    pub(super) fn resolve(&self, one: &mut RuleMatch) {
        let MatchTest::Unknown(text) = &one.test else { return };
        let words: Vec<&str> = text.split(' ').collect();
        let (negated, name, flags) = match words.as_slice() {
            ["-m", "set", "--match-set", name, flags] => (false, *name, *flags),
            ["-m", "set", "!", "--match-set", name, flags] => (true, *name, *flags),
            _ => return,
        };
        let from_source: Vec<bool> = flags.split(',').map(|flag| flag == "src").collect();
        if let Some(contents) = self.0.get(name) {
            let asked = SetMembership { name: name.to_owned(), from_source, contents: contents.clone() };
            *one = RuleMatch { negated, test: MatchTest::InSet(asked) };
        }
    }
}

fn member(parts: &[MemberPart], text: &str, bits: Option<u8>) -> SetMember {
    let (element, rest) = text.split_once(' ').unwrap_or((text, ""));
    let net = |text: &str, bits: Option<u8>| {
        let (address, length) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().ok()?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        Some(MemberValue::Net(address, length.parse().ok().or(bits).unwrap_or(whole)))
    };
    let value = |(part, text): (&MemberPart, &str)| match part {
        MemberPart::Ip => net(text, bits),
        MemberPart::Net => net(text, None),
        MemberPart::Port => {
            let (name, port) = text.split_once(':')?;
            Some(MemberValue::Port(Some(protocols::number(name)?), port.parse().ok()?))
        }
        MemberPart::BarePort => Some(MemberValue::Port(None, text.parse().ok()?)),
        MemberPart::Iface if !text.starts_with("physdev:") => Some(MemberValue::Device(text.to_owned())),
        MemberPart::Iface | MemberPart::Set => None,
    };
    let values = parts.iter().zip(element.split(',')).map(|part| value(part).unwrap_or(MemberValue::Other));
    SetMember { parts: values.collect(), exception: rest.starts_with("nomatch") }
}

impl SetMembership {
    /// Whether a packet lies in the set.
    pub(super) fn answer(&self, packet: &Packet) -> Tristate {
        if packet.src.is_none() && !packet.src_among.is_empty() && self.from_source.contains(&true) {
            // Of a source that is one of several the answer is what it is for each of them.
            let of = |address: &IpAddr| {
                self.contents.answer(&self.from_source, &Packet { src: Some(*address), ..packet.clone() })
            };
            let mut answers = packet.src_among.iter().map(of);
            return match answers.next() {
                Some(first) if answers.all(|answer| answer == first) => first,
                _ => Tristate::Unknown,
            };
        }
        self.contents.answer(&self.from_source, packet)
    }

    /// The addresses that members have, each with how many of its bits count.
    pub(super) fn networks(&self) -> Vec<(IpAddr, u8)> {
        let mut found = Vec::new();
        self.contents.each_network(&mut |address, length| found.push((address, length)));
        found
    }

    /// The ports that members have.
    pub(super) fn ports(&self) -> Vec<u16> {
        let mut found = Vec::new();
        self.contents.each_port(&mut |port| found.push(port));
        found
    }
}

/// The contents of a list that hosts share; made once.
fn shared(shape: &SetShape, list: &Arc<Vec<String>>) -> Arc<SetContents> {
    let key = (Arc::as_ptr(list) as usize, shape.clone());
    // A poisoned lock only means that another thread died while it held a whole map.
    let found =
        MADE.lock().unwrap_or_else(|e| e.into_inner()).as_ref().and_then(|made| made.get(&key).cloned());
    if let Some((_, contents)) = found {
        return contents;
    }
    let contents = Arc::new(SetContents::of(shape, list));
    let mut made = MADE.lock().unwrap_or_else(|e| e.into_inner());
    let made = made.get_or_insert_default();
    made.retain(|_, (list, _)| list.strong_count() > 0);
    made.insert(key, (Arc::downgrade(list), contents.clone()));
    contents
}

impl SetContents {
    fn of(shape: &SetShape, members: &[String]) -> Self {
        let parts = shape.kind.parts();
        let family = match (shape.kind.has_family(), shape.kind.method()) {
            (false, _) => None,
            (true, "bitmap") => Some(IpFamily::V4),
            (true, _) => Some(shape.family),
        };
        // Without its mask an address would be compared with the one that is stored.
        let bits = shape.netmask;
        let members: Vec<SetMember> = members.iter().map(|text| member(parts, text, bits)).collect();
        let networks = networks(&members).filter(|_| parts.len() == 1 && family.is_some());
        let members = if networks.is_some() { Vec::new() } else { members };
        Self { parts, family, members, networks, lists: Vec::new() }
    }

    fn answer(&self, from_source: &[bool], packet: &Packet) -> Tristate {
        if self.parts == [MemberPart::Set] {
            let answers = self.lists.iter().map(|list| match list {
                Some(list) => list.answer(from_source, packet),
                None => Tristate::Unknown,
            });
            return any(answers);
        }
        // The kernel compares nothing where the family is another, or where a rule gives too few parts.
        if self.family.is_some_and(|family| family != packet.family) || from_source.len() < self.parts.len() {
            return Tristate::No;
        }
        if let Some(networks) = &self.networks {
            return among(networks, if from_source[0] { packet.src } else { packet.dst });
        }
        let of = |member: &SetMember| {
            let parts = member.parts.iter().zip(from_source);
            parts.fold(Tristate::Yes, |all, (part, source)| all.and(part.answer(*source, packet)))
        };
        if !self.members.iter().any(|member| member.exception) {
            return any(self.members.iter().map(of));
        }
        // The narrowest network that holds the address decides.
        let mut best: Option<(u8, bool)> = None;
        for member in &self.members {
            match of(member) {
                Tristate::No => {}
                Tristate::Yes if member.parts.len() == 1 => {
                    let length =
                        if let [MemberValue::Net(_, length)] = member.parts.as_slice() { *length } else { 0 };
                    if best.is_none_or(|(known, _)| length > known) {
                        best = Some((length, member.exception));
                    }
                }
                _ => return Tristate::Unknown,
            }
        }
        best.is_some_and(|(_, exception)| !exception).into()
    }
}

impl SetContents {
    fn each_network(&self, visit: &mut impl FnMut(IpAddr, u8)) {
        let v6 = self.family == Some(IpFamily::V6);
        for (length, of_length) in self.networks.iter().flatten() {
            for bits in of_length.keys() {
                let v4 = || u32::try_from(bits >> 96).ok().map(|bits| IpAddr::V4(bits.into()));
                let address = if v6 { Some(IpAddr::V6((*bits).into())) } else { v4() };
                address.into_iter().for_each(|address| visit(address, *length));
            }
        }
        for part in self.members.iter().flat_map(|member| &member.parts) {
            if let MemberValue::Net(address, length) = part {
                visit(*address, *length);
            }
        }
        self.lists.iter().flatten().for_each(|list| list.each_network(visit));
    }

    fn each_port(&self, visit: &mut impl FnMut(u16)) {
        for part in self.members.iter().flat_map(|member| &member.parts) {
            if let MemberValue::Port(_, port) = part {
                visit(*port);
            }
        }
        self.lists.iter().flatten().for_each(|list| list.each_port(visit));
    }
}

/// Whether one of several holds.
fn any(answers: impl Iterator<Item = Tristate>) -> Tristate {
    let mut all = Tristate::No;
    for answer in answers {
        match answer {
            Tristate::Yes => return Tristate::Yes,
            Tristate::Unknown => all = Tristate::Unknown,
            Tristate::No => {}
        }
    }
    all
}

impl MemberValue {
    fn answer(&self, source: bool, packet: &Packet) -> Tristate {
        match self {
            MemberValue::Net(network, length) => {
                let address = if source { packet.src } else { packet.dst };
                address.map_or(Tristate::Unknown, |address| holds(*network, *length, address).into())
            }
            MemberValue::Port(_, _) if packet.fragment == FragmentPart::Later => Tristate::Unknown,
            MemberValue::Port(number, port) => {
                let carried = packet.protocol.map_or(Tristate::Unknown, |carried| {
                    number
                        .map_or([protocol::TCP, protocol::UDP].contains(&carried), |one| one == carried)
                        .into()
                });
                let asked = if source { packet.sport } else { packet.dport };
                carried.and(asked.map_or(Tristate::Unknown, |asked| (asked == *port).into()))
            }
            MemberValue::Device(name) => match if source { &packet.in_iface } else { &packet.out_iface } {
                PacketDevice::Named(device) => (**device == **name).into(),
                PacketDevice::Absent => Tristate::No,
                PacketDevice::Outside if name == "lo" => Tristate::No,
                PacketDevice::Unknown | PacketDevice::Some | PacketDevice::Outside => Tristate::Unknown,
            },
            MemberValue::Other => Tristate::Unknown,
        }
    }
}

fn holds(network: IpAddr, length: u8, address: IpAddr) -> bool {
    network.is_ipv4() == address.is_ipv4() && first_bits(network, length) == first_bits(address, length)
}

/// So many bits of an address, from the left of 128.
fn first_bits(address: IpAddr, length: u8) -> u128 {
    let bits = match address {
        IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
        IpAddr::V6(address) => address.into(),
    };
    bits & u128::MAX.checked_shl(128 - u32::from(length).min(128)).unwrap_or(0)
}

/// Members of one address or network each, to be looked up; `None` where one of them is something else.
fn networks(members: &[SetMember]) -> Option<NetworkTable> {
    let mut networks = NetworkTable::new();
    for member in members {
        let [MemberValue::Net(address, length)] = member.parts.as_slice() else { return None };
        networks.entry(*length).or_default().insert(first_bits(*address, *length), member.exception);
    }
    Some(networks)
}

/// Whether an address lies in one of them: the narrowest that holds it decides.
fn among(networks: &NetworkTable, address: Option<IpAddr>) -> Tristate {
    let Some(address) = address else {
        return if networks.is_empty() { Tristate::No } else { Tristate::Unknown };
    };
    let holding =
        networks.iter().rev().find_map(|(length, of_length)| of_length.get(&first_bits(address, *length)));
    holding.is_some_and(|exception| !exception).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netfilter::{HostContext, PacketPath, PacketVerdict, Ruleset, TcpFlags, simulate};
    use crate::problem::Origin;
    use crate::resource::ipset::SetType;
    use crate::resource::iptables::save::SavedTables;

    fn set(name: &str, kind: &str, family: IpFamily, entries: &[&str]) -> DeclaredSet {
        let shape = SetShape::new(SetType::parse(kind).unwrap(), family);
        let entries = entries.iter().flat_map(|text| shape.members(text).unwrap()).collect();
        DeclaredSet {
            name: name.into(),
            shape,
            entries: Some(Arc::new(entries)),
            origin: Origin::new("x", 1),
        }
    }

    fn answer(rule: &str, packet: &Packet) -> PacketVerdict {
        let mut timed = set("timed", "hash:ip", IpFamily::V4, &["192.0.2.1"]);
        timed.shape.timeout = Some(60);
        let sets = [
            set("nets", "hash:net", IpFamily::V4, &["10.0.0.0/8", "10.1.0.0/16 nomatch", "10.1.2.0/24"]),
            set("nets6", "hash:net", IpFamily::V6, &["2001:db8::/32"]),
            set("ports", "bitmap:port", IpFamily::V4, &["22", "80-81"]),
            set("pairs", "hash:ip,port", IpFamily::V4, &["192.0.2.1,tcp:22"]),
            set("both", "list:set", IpFamily::V4, &["nets", "nets6"]),
            set("nobody", "hash:ip", IpFamily::V4, &[]),
            timed,
        ];
        let save = format!("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m set {rule} -j DROP\nCOMMIT\n");
        let rules =
            Ruleset::with_sets(&SavedTables::parse(&save).unwrap(), &KnownSets::declared(sets.iter()));
        simulate(&rules, &HostContext::default(), PacketPath::Input, packet).verdict
    }

    /// What a kernel of version 6.18 did with these rules and packets.
    #[test]
    fn members_decide() {
        let packet = |family, src: &str, dport| Packet {
            src: Some(src.parse().unwrap()),
            ..Packet::tcp(family, 40000, dport, TcpFlags::SYN)
        };
        let v4 = |src| packet(IpFamily::V4, src, 22);
        for (rule, packet, verdict) in [
            ("--match-set nets src", v4("10.9.9.9"), PacketVerdict::Drop),
            ("--match-set nets src", v4("10.1.9.9"), PacketVerdict::Accept),
            ("--match-set nets src", v4("10.1.2.9"), PacketVerdict::Drop),
            ("! --match-set nets src", v4("192.0.2.9"), PacketVerdict::Drop),
            ("--match-set nets dst", v4("10.9.9.9"), PacketVerdict::Unknown),
            ("--match-set ports dst", v4("192.0.2.9"), PacketVerdict::Drop),
            ("--match-set ports dst", packet(IpFamily::V4, "192.0.2.9", 443), PacketVerdict::Accept),
            ("--match-set pairs src,dst", v4("192.0.2.1"), PacketVerdict::Drop),
            ("--match-set pairs src,dst", packet(IpFamily::V4, "192.0.2.1", 23), PacketVerdict::Accept),
            ("--match-set pairs src", v4("192.0.2.1"), PacketVerdict::Accept),
            ("--match-set both src", v4("10.1.2.9"), PacketVerdict::Drop),
            ("--match-set both src", packet(IpFamily::V6, "2001:db8::9", 22), PacketVerdict::Drop),
            ("--match-set both src", packet(IpFamily::V6, "2001:db9::9", 22), PacketVerdict::Accept),
            ("--match-set nobody src", Packet::new(IpFamily::V4), PacketVerdict::Accept),
            ("--match-set timed src", v4("192.0.2.1"), PacketVerdict::Unknown),
            ("--match-set others src", v4("192.0.2.1"), PacketVerdict::Unknown),
        ] {
            assert_eq!(answer(rule, &packet), verdict, "{rule} {:?}", packet.src);
        }
        let several = Packet {
            src_among: ["10.9.9.9", "10.8.8.8"].map(|text| text.parse().unwrap()).to_vec(),
            ..Packet::new(IpFamily::V4)
        };
        assert_eq!(answer("--match-set nets src", &several), PacketVerdict::Drop);
    }

    /// Two hosts that have one list of members have one list of networks, and no other list is taken for it.
    #[test]
    fn hosts_share_what_is_made_of_a_list() {
        let one = set("one", "hash:net", IpFamily::V4, &["10.0.0.0/8"]);
        let contents = |set: &DeclaredSet| KnownSets::declared(std::iter::once(set)).0["one"].clone();
        let first = contents(&one);
        assert!(Arc::ptr_eq(&first, &contents(&one.clone())));
        let masked =
            DeclaredSet { shape: SetShape { netmask: Some(24), ..one.shape.clone() }, ..one.clone() };
        assert!(!Arc::ptr_eq(&first, &contents(&masked)), "another shape makes others of the same words");
        drop((first, one, masked));
        let other = contents(&set("one", "hash:net", IpFamily::V4, &["192.0.2.0/24"]));
        let packet = |src: &str| Packet { src: Some(src.parse().unwrap()), ..Packet::new(IpFamily::V4) };
        let answers = ["192.0.2.1", "10.0.0.1"].map(|src| other.answer(&[true], &packet(src)));
        assert_eq!(answers, [Tristate::Yes, Tristate::No]);
    }
}
