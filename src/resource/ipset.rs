//! Sets of ipset: their types and options, and members in the form in which the kernel prints them.

mod member;

pub use member::MemberProblem;

use crate::problem::Origin;
use crate::resource::iptables::IpFamily;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

/// The kernel takes no longer name.
pub const MAX_NAME: usize = 31;

/// Sets of such a name exist for the moment in which members are swapped.
pub const TEMPORARY: &str = "kvmfw-";

/// How many members a set of a hash type holds unless `maxelem` says otherwise.
pub const DEFAULT_MAXELEM: u32 = 65_536;

/// The sets of a host have no more members that are declared: each plan reads them, live and as they were applied.
pub const MAX_MEMBERS: usize = 100_000;

/// How many sets a `list:set` holds unless `size` says otherwise.
const DEFAULT_SIZE: u32 = 8;

/// The kernel makes a `list:set` of a smaller `size` with this one.
const MIN_SIZE: u32 = 4;

/// One part of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberPart {
    /// An address.
    Ip,
    /// A network.
    Net,
    /// A port with its protocol.
    Port,
    /// A port without a protocol.
    BarePort,
    /// The device of a packet.
    Iface,
    /// The name of another set.
    Set,
}

/// The types that an inventory can state, and the parts of their members.
pub const TYPES: [(&str, &[MemberPart]); 11] = [
    ("hash:ip", &[MemberPart::Ip]),
    ("hash:net", &[MemberPart::Net]),
    ("hash:ip,port", &[MemberPart::Ip, MemberPart::Port]),
    ("hash:net,port", &[MemberPart::Net, MemberPart::Port]),
    ("hash:ip,port,ip", &[MemberPart::Ip, MemberPart::Port, MemberPart::Ip]),
    ("hash:ip,port,net", &[MemberPart::Ip, MemberPart::Port, MemberPart::Net]),
    ("hash:net,net", &[MemberPart::Net, MemberPart::Net]),
    ("hash:net,iface", &[MemberPart::Net, MemberPart::Iface]),
    ("bitmap:ip", &[MemberPart::Ip]),
    ("bitmap:port", &[MemberPart::BarePort]),
    ("list:set", &[MemberPart::Set]),
];

/// A type of [`TYPES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SetType {
    name: &'static str,
    parts: &'static [MemberPart],
}

impl SetType {
    /// The type of a name.
    pub fn parse(name: &str) -> Option<Self> {
        TYPES.iter().find(|(known, _)| *known == name).map(|(name, parts)| Self { name, parts })
    }

    /// The name.
    pub fn as_str(self) -> &'static str {
        self.name
    }

    /// The parts of its members.
    pub fn parts(self) -> &'static [MemberPart] {
        self.parts
    }

    /// `hash`, `bitmap` or `list`.
    pub fn method(self) -> &'static str {
        self.name.split(':').next().unwrap_or(self.name)
    }

    /// Whether its members have addresses of one family.
    pub fn has_family(self) -> bool {
        self.parts.iter().any(|part| matches!(part, MemberPart::Ip | MemberPart::Net))
    }

    /// Whether a member can be an exception (`nomatch`).
    pub fn has_exceptions(self) -> bool {
        self.method() == "hash" && self.parts.contains(&MemberPart::Net)
    }

    /// The options that a set of this type may have.
    pub fn options(self) -> &'static [&'static str] {
        match self.method() {
            "hash" if self.name == "hash:ip" => {
                &["hashsize", "maxelem", "netmask", "timeout", "counters", "comment", "forceadd"]
            }
            "hash" => &["hashsize", "maxelem", "timeout", "counters", "comment", "forceadd"],
            "bitmap" => &["range", "timeout", "counters", "comment"],
            _ => &["size", "timeout", "counters", "comment"],
        }
    }
}

impl Serialize for SetType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for SetType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name)
            .ok_or_else(|| serde::de::Error::custom(format!("`{name}` is not a known type of set")))
    }
}

/// What a set is beside its members.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SetShape {
    /// The type.
    #[serde(rename = "type")]
    pub kind: SetType,
    /// The family of its addresses; of types without any it says nothing.
    pub family: IpFamily,
    /// The initial size of its table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashsize: Option<u32>,
    /// How many members it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maxelem: Option<u32>,
    /// Addresses are stored with so many bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netmask: Option<u8>,
    /// Seconds after which a member goes, unless it has a time of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// From and to of a bitmap, as the kernel prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// How many sets a list may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Members have counters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counters: bool,
    /// Members may have comments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub comment: bool,
    /// A full set forgets a member for a new one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forceadd: bool,
}

impl SetShape {
    /// A shape with nothing but a type and a family.
    pub fn new(kind: SetType, family: IpFamily) -> Self {
        Self {
            kind,
            family,
            hashsize: None,
            maxelem: None,
            netmask: None,
            timeout: None,
            range: None,
            size: None,
            counters: false,
            comment: false,
            forceadd: false,
        }
    }

    /// Type and options as `ipset create` takes them behind the name; `members` is how many a list will have.
    fn options(&self, members: usize) -> String {
        let mut text = self.kind.as_str().to_owned();
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                let _ = write!(text, " {name} {value}");
            }
        };
        let number = |value: Option<u32>| value.map(|value| value.to_string());
        match self.kind.method() {
            "hash" => {
                add("family", Some(family_word(self.family).to_owned()));
                add("hashsize", number(self.hashsize));
                add("maxelem", number(self.maxelem.or(Some(DEFAULT_MAXELEM))));
                add("netmask", self.masked().map(|bits| bits.to_string()));
            }
            "bitmap" => add("range", self.range.clone()),
            _ => {
                let members = u32::try_from(members).unwrap_or(u32::MAX);
                let size = self.size.unwrap_or(members.max(DEFAULT_SIZE));
                add("size", number(Some(size.max(MIN_SIZE))));
            }
        }
        add("timeout", number(self.timeout));
        for (flag, set) in
            [("counters", self.counters), ("comment", self.comment), ("forceadd", self.forceadd)]
        {
            if set {
                let _ = write!(text, " {flag}");
            }
        }
        text
    }

    /// The netmask, where it masks anything: ipset neither sends nor shows one of all bits.
    fn masked(&self) -> Option<u8> {
        let whole = if self.family == IpFamily::V4 { 32 } else { 128 };
        self.netmask.filter(|bits| *bits != whole)
    }

    /// What is stated of it, as `OPTION VALUE`, less what is only a start value.
    fn stated(&self) -> BTreeSet<String> {
        let mut stated = compared(&self.options(0));
        if self.maxelem.is_none() {
            stated.retain(|one| !one.starts_with("maxelem "));
        }
        if self.size.is_none() {
            stated.retain(|one| !one.starts_with("size "));
        }
        stated
    }

    /// The members that a text stands for, in the form in which the kernel prints them.
    ///
    /// Errors: what is wrong with it, and the next step.
    pub fn members(&self, text: &str) -> Result<Vec<String>, MemberProblem> {
        member::members(self, text)
    }

    /// The most members that it can have.
    pub fn capacity(&self) -> usize {
        match self.kind.method() {
            "hash" => self.maxelem.unwrap_or(DEFAULT_MAXELEM) as usize,
            "bitmap" => 65_536,
            _ => self.size.map_or(MAX_MEMBERS, |size| size.max(MIN_SIZE) as usize),
        }
    }
}

/// The word of ipset for a family.
pub fn family_word(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "inet",
        IpFamily::V6 => "inet6",
    }
}

/// The first and the last number of the range of a bitmap.
pub fn range(kind: SetType, text: &str) -> Result<String, MemberProblem> {
    member::range(kind, text)
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclaredSet {
    /// Its name.
    pub name: String,
    /// What it is beside its members.
    #[serde(flatten)]
    pub shape: SetShape,
    /// Its members as the kernel prints them, in order; `None` where other programs add and remove them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<Arc<Vec<String>>>,
    /// Where it was declared.
    pub origin: Origin,
}

impl DeclaredSet {
    /// Type and options as `ipset create` takes them behind the name.
    pub fn options(&self) -> String {
        self.shape.options(self.entries.as_ref().map_or(0, |entries| entries.len()))
    }

    /// The line that makes it; of one whose members are those of others with another first word.
    pub fn header(&self) -> String {
        let word = if self.entries.is_some() { "create" } else { "keep" };
        format!("{word} {} {}\n", self.name, self.options())
    }

    /// The set as a host gets it: a line that makes it, and one for each member.
    pub fn render(&self) -> String {
        let mut text = self.header();
        for member in self.entries.iter().flat_map(|entries| entries.iter()) {
            let (element, rest) = member.split_once(' ').unwrap_or((member, ""));
            // A member that is declared stays, also where those that others add go after a while.
            let lasting = if self.shape.timeout.is_some() { " timeout 0" } else { "" };
            let space = if rest.is_empty() { "" } else { " " };
            let _ = writeln!(text, "add {} {element}{lasting}{space}{rest}", self.name);
        }
        text
    }

    /// Whether what is live is the same kind of set, so that members can be swapped.
    pub fn is_same_type(&self, live: &LiveSet) -> bool {
        let family = self.shape.kind.has_family() && self.shape.kind.method() == "hash";
        live.kind == self.shape.kind.as_str()
            && (!family || live.family.as_deref() == Some(family_word(self.shape.family)))
    }

    /// The options that are stated and that what is live has otherwise.
    pub fn differing(&self, live: &LiveSet) -> Vec<String> {
        let is = compared(&live.options);
        self.shape.stated().into_iter().filter(|option| !is.contains(option)).collect()
    }

    /// Whether options, stated or not, are as they are live.
    pub fn has_options_of(&self, live: &LiveSet) -> bool {
        compared(&self.options()) == compared(&live.options)
    }
}

/// A set as the host has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveSet {
    /// Type, in the words of the kernel.
    pub kind: String,
    /// `inet` or `inet6`.
    pub family: Option<String>,
    /// Type and options as they were printed.
    pub options: String,
    /// Its members in order, less times and counters; `None` where they were not asked for.
    pub members: Option<Vec<String>>,
    /// Some members go after a while.
    pub has_timeouts: bool,
}

impl LiveSet {
    /// Reads what stands behind `create NAME`.
    pub fn parse(options: &str) -> Self {
        let words: Vec<&str> = options.split(' ').collect();
        let family = words.windows(2).find(|two| two[0] == "family").map(|two| two[1].to_owned());
        Self {
            kind: words.first().map_or_else(String::new, |kind| (*kind).to_owned()),
            family,
            options: options.to_owned(),
            members: None,
            has_timeouts: words.contains(&"timeout"),
        }
    }

    /// It as an inventory could state it; `None` where that is not possible.
    pub fn shape(&self) -> Option<SetShape> {
        let kind = SetType::parse(&self.kind)?;
        let family = if self.family.as_deref() == Some("inet6") { IpFamily::V6 } else { IpFamily::V4 };
        let mut shape = SetShape::new(kind, family);
        let mut words = self.options.split(' ').skip(1);
        while let Some(word) = words.next() {
            match word {
                "counters" => shape.counters = true,
                "comment" => shape.comment = true,
                "forceadd" => shape.forceadd = true,
                "family" | "bucketsize" | "initval" => drop(words.next()),
                "hashsize" => shape.hashsize = words.next()?.parse().ok(),
                "maxelem" => shape.maxelem = words.next()?.parse().ok().filter(|n| *n != DEFAULT_MAXELEM),
                "netmask" => shape.netmask = Some(words.next()?.parse().ok()?),
                "timeout" => shape.timeout = Some(words.next()?.parse().ok()?),
                "range" => shape.range = Some(words.next()?.to_owned()),
                "size" => shape.size = words.next()?.parse().ok().filter(|n| *n != DEFAULT_SIZE),
                _ => return None,
            }
        }
        // The table grows with its members.
        shape.hashsize = None;
        Some(shape)
    }
}

/// Options as they are compared: in no order, less sizes that the kernel chooses or grows itself.
fn compared(options: &str) -> BTreeSet<String> {
    let mut words = options.split(' ').skip(1);
    let mut all = BTreeSet::new();
    while let Some(word) = words.next() {
        match word {
            "hashsize" | "bucketsize" | "initval" => drop(words.next()),
            // Some kernels never print it, so that nothing can be concluded from its absence.
            "forceadd" => {}
            "counters" | "comment" | "skbinfo" => drop(all.insert(word.to_owned())),
            option => drop(all.insert(format!("{option} {}", words.next().unwrap_or_default()))),
        }
    }
    all
}

/// A member as it is compared: less the time that is left, and counters.
pub fn plain_member(text: &str) -> String {
    let Some((element, rest)) = text.split_once(' ') else { return text.to_owned() };
    let mut plain = element.to_owned();
    let mut words = rest.split(' ');
    while let Some(word) = words.next() {
        match word {
            "packets" | "bytes" | "skbmark" | "skbprio" | "skbqueue" => drop(words.next()),
            "timeout" if words.next() == Some("0") => {}
            "timeout" => plain.push_str(" timeout"),
            // What follows is the comment.
            "comment" => {
                let at = rest.find("comment ").unwrap_or_default();
                let _ = write!(plain, " {}", &rest[at..]);
                break;
            }
            word => {
                let _ = write!(plain, " {word}");
            }
        }
    }
    plain
}

/// Members in the order in which people read them: by address and port, not letter by letter.
pub fn sort(members: &mut [String]) {
    members.sort_by_cached_key(|member| member::order(member));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_options_are_read_and_compared() {
        let live = LiveSet::parse(
            "hash:net family inet hashsize 4096 maxelem 65536 timeout 60 bucketsize 12 initval 0x1",
        );
        let shape = live.shape().unwrap();
        assert_eq!((shape.kind.as_str(), shape.timeout, shape.maxelem), ("hash:net", Some(60), None));
        let set = DeclaredSet {
            name: "a".into(),
            shape,
            entries: Some(Arc::default()),
            origin: Origin::new("x", 1),
        };
        assert!(set.is_same_type(&live) && set.has_options_of(&live));
        let mut other = set.clone();
        other.shape.timeout = None;
        assert!(!other.has_options_of(&live), "a timeout that goes is a change");
        other.shape.family = IpFamily::V6;
        assert!(!other.is_same_type(&live));
        assert!(LiveSet::parse("hash:mac hashsize 1024").shape().is_none());
    }

    #[test]
    fn a_member_is_compared_without_what_moves() {
        for (text, plain) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1 timeout 0 packets 3 bytes 9", "192.0.2.1"),
            ("192.0.2.1 timeout 77", "192.0.2.1 timeout"),
            (
                "10.0.0.0/8 timeout 0 nomatch packets 0 bytes 0 comment \"a timeout 7\"",
                "10.0.0.0/8 nomatch comment \"a timeout 7\"",
            ),
        ] {
            assert_eq!(plain_member(text), plain);
        }
    }

    #[test]
    fn a_declared_member_outlasts_the_timeout_of_its_set() {
        let kind = SetType::parse("hash:net").unwrap();
        let shape = SetShape { timeout: Some(60), comment: true, ..SetShape::new(kind, IpFamily::V4) };
        let entries = shape.members("10.0.0.1/8 comment \"the office\"").unwrap();
        let set = DeclaredSet {
            name: "a".into(),
            shape,
            entries: Some(Arc::new(entries)),
            origin: Origin::new("x", 1),
        };
        assert_eq!(
            set.render(),
            "create a hash:net family inet maxelem 65536 timeout 60 comment\nadd a 10.0.0.0/8 timeout 0 comment \"the office\"\n"
        );
    }
}
