//! A line that the LOG target wrote, taken apart.

use crate::netfilter::{ConntrackStates, Packet, PacketDevice, PacketPath, TcpFlags};
use crate::resource::iptables::IpFamily;
use std::net::IpAddr;

/// What a kernel line says of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Everything before `IN=`: time, host, and at its end the prefix of the rule.
    pub head: String,
    /// `IN=`; empty where the host sent it.
    pub input: String,
    /// `OUT=`; empty where it is for the host.
    pub output: String,
    /// `PHYSIN=`.
    pub physin: Option<String>,
    /// `PHYSOUT=`.
    pub physout: Option<String>,
    /// `SRC=`.
    pub src: IpAddr,
    /// `DST=`.
    pub dst: IpAddr,
    /// `PROTO=`.
    pub protocol: String,
    /// `SPT=`.
    pub sport: Option<u16>,
    /// `DPT=`.
    pub dport: Option<u16>,
    /// `TYPE=` and `CODE=`.
    pub icmp: Option<(u8, u8)>,
    /// `SYN` without `ACK`.
    pub opens: bool,
}

impl LogLine {
    /// Reads a line; `None` if the LOG target did not write it.
    pub fn parse(line: &str) -> Option<Self> {
        // The prefix of a rule stands right before it, with or without a space.
        let at = line.match_indices("IN=").map(|(at, _)| at).find(|at| {
            let rest = &line[*at..];
            !line[..*at].ends_with("PHYS") && rest.contains(" OUT=") && rest.contains(" SRC=")
        })?;
        let (head, rest) = line.split_at(at);
        // What an ICMP error quotes stands in brackets and is another packet.
        let own = rest.split(" [").next().unwrap_or(rest);
        let value = |key: &str| own.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let text = |key: &str| value(key).filter(|text| !text.is_empty()).map(str::to_owned);
        let flag = |name: &str| own.split(' ').any(|word| word == name);
        let number = |key: &str| value(key).and_then(|text| text.parse().ok());
        let icmp = || Some((value("TYPE")?.parse().ok()?, value("CODE")?.parse().ok()?));
        Some(Self {
            head: head.to_owned(),
            input: value("IN")?.to_owned(),
            output: value("OUT")?.to_owned(),
            physin: text("PHYSIN"),
            physout: text("PHYSOUT"),
            src: value("SRC")?.parse().ok()?,
            dst: value("DST")?.parse().ok()?,
            protocol: value("PROTO")?.to_lowercase(),
            sport: number("SPT"),
            dport: number("DPT"),
            icmp: icmp(),
            opens: flag("SYN") && !flag("ACK"),
        })
    }

    /// The family.
    pub fn family(&self) -> IpFamily {
        if self.src.is_ipv4() { IpFamily::V4 } else { IpFamily::V6 }
    }

    /// Where the packet was going.
    pub fn base(&self) -> PacketPath {
        match (self.input.is_empty(), self.output.is_empty()) {
            (_, true) => PacketPath::Input,
            (true, false) => PacketPath::Output,
            (false, false) => PacketPath::Forward,
        }
    }

    /// The bridge whose ports it enters and leaves by.
    pub fn bridge(&self) -> Option<&str> {
        let crosses = self.input == self.output && self.physin.is_some() && self.physout.is_some();
        crosses.then_some(self.input.as_str())
    }

    /// The packet. What does not open a connection for certain is taken to be the first of one: whoever
    /// looks into a log asks why something does not begin.
    pub fn packet(&self) -> Packet {
        let family = self.family();
        let (sport, dport) = (self.sport.unwrap_or(0), self.dport.unwrap_or(0));
        let packet = match self.protocol.as_str() {
            "tcp" if self.opens => Packet::tcp(family, sport, dport, TcpFlags::SYN),
            "tcp" => Packet::tcp(family, sport, dport, TcpFlags::REPLY),
            "udp" => Packet::udp(family, sport, dport),
            "icmp" | "icmpv6" => match self.icmp {
                Some((kind, code)) => Packet::icmp(family, kind, code),
                None => Packet::new(family),
            },
            other => Packet { protocol: other.parse().ok(), ..Packet::new(family) },
        };
        let neighbour =
            family == IpFamily::V6 && self.icmp.is_some_and(|(kind, _)| (133..=137).contains(&kind));
        let state = match self.protocol.as_str() {
            _ if neighbour => ConntrackStates::UNTRACKED,
            "tcp" if !self.opens => ConntrackStates::NEW | ConntrackStates::ESTABLISHED,
            _ => ConntrackStates::NEW,
        };
        let device =
            |name: &str| if name.is_empty() { PacketDevice::Absent } else { PacketDevice::named(name) };
        let port = |name: &Option<String>| name.as_ref().map_or(PacketDevice::Absent, PacketDevice::named);
        Packet {
            src: Some(self.src),
            dst: Some(self.dst),
            dst_local: (self.base() == PacketPath::Input).then_some(true),
            in_iface: device(&self.input),
            out_iface: device(&self.output),
            physin: port(&self.physin),
            physout: port(&self.physout),
            bridged: self.bridge().is_some(),
            state,
            ..packet
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel() {
        let line = "Nov 24 10:00:01 kvm1 kernel: [ 812.337] Firewall FORWARD: IN=br123 OUT=br123 PHYSIN=vnet0 PHYSOUT=eth1 \
                    MAC=02:01:52:54:00:01:08:00 SRC=192.168.1.1 DST=192.168.1.53 LEN=56 TOS=0x00 PREC=0x00 TTL=64 ID=1 DF PROTO=UDP SPT=4001 DPT=53 LEN=36 ";
        let read = LogLine::parse(line).unwrap();
        assert!(read.head.ends_with("Firewall FORWARD: "));
        assert_eq!((read.bridge(), read.base(), read.dport), (Some("br123"), PacketPath::Forward, Some(53)));
        assert_eq!((read.physin.as_deref(), read.physout.as_deref()), (Some("vnet0"), Some("eth1")));

        let tcp = "tightIN=eth0 OUT= MAC=aa SRC=fd00::1 DST=fd00::2 LEN=60 PROTO=TCP SPT=1 DPT=22 WINDOW=1 RES=0x00 SYN URGP=0";
        let read = LogLine::parse(tcp).unwrap();
        assert_eq!(
            (read.head.as_str(), read.base(), read.family(), read.opens),
            ("tight", PacketPath::Input, IpFamily::V6, true)
        );

        let error = "IN=eth0 OUT= SRC=10.0.0.1 DST=10.0.0.2 PROTO=ICMP TYPE=3 CODE=1 [SRC=10.0.0.2 DST=10.9.9.9 PROTO=UDP SPT=5 DPT=6 ]";
        let read = LogLine::parse(error).unwrap();
        assert_eq!((read.protocol.as_str(), read.dport, read.icmp), ("icmp", None, Some((3, 1))));
        assert_eq!(LogLine::parse("usb 1-1: new device"), None);
        assert_eq!(LogLine::parse("PHYSIN=vnet0 nothing else"), None);
    }
}
