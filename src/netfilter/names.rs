//! The protocol names that `iptables-save` prints.

/// The number of a protocol. iptables turns numbers to the names that it or `/etc/protocols` has;
/// a name that is not listed makes a match unknown.
pub(super) fn protocol(name: &str) -> Option<u8> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

const NAMES: [(&str, u8); 33] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ggp", 3),
    ("ipencap", 4),
    ("st", 5),
    ("tcp", 6),
    ("egp", 8),
    ("igp", 9),
    ("udp", 17),
    ("hmp", 20),
    ("rdp", 27),
    ("dccp", 33),
    ("ipv6", 41),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("eigrp", 88),
    ("ospf", 89),
    ("ipip", 94),
    ("pim", 103),
    ("ipcomp", 108),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("ipv6-mh", 135),
    ("udplite", 136),
];
