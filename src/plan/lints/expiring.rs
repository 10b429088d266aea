//! What the host's addresses and routes rest on and what expires: router advertisements and leases.

use super::{FamilyView, mark, say};
use crate::host_state::{HostLink, Observed, StaticRoute};
use crate::netfilter::{
    ConntrackStates, Packet, PacketDevice, PacketPath, PacketVerdict, TraceStep, simulate,
};
use crate::plan::{ChangeRisk, HostPlan};
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::ResourceKind;
use crate::resource::iptables::IpFamily;
use std::net::{IpAddr, Ipv6Addr};

/// All nodes of a link.
const ALL_NODES: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
/// All DHCPv6 servers and relays of a link.
const ALL_SERVERS: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2));

fn by_advertisement(route: &StaticRoute) -> bool {
    route.words.windows(2).any(|pair| pair == ["proto", "ra"])
}

/// Whether an address of a link is configured from a router advertisement, and not by a lease.
fn autoconfigured(link: &HostLink) -> impl Iterator<Item = &str> {
    let slaac = link.addresses.iter().filter(|a| a.family == "inet6" && a.dynamic && a.prefix < 128);
    slaac.filter(|a| a.scope == "global").map(|a| a.local.as_str())
}

impl FamilyView<'_> {
    /// Packets that renew what expires, where the new rules drop them.
    pub(super) fn expiring(&self, plan: &mut HostPlan) {
        let Some(observed) = self.observed else { return };
        if !self.changes_verdicts() {
            return;
        }
        for link in observed.links.by_name.values() {
            if self.family == IpFamily::V6 {
                self.advertisements(observed, link, plan);
            }
            self.leases(observed, link, plan);
        }
    }

    /// Router advertisements on a link that has a route or an address by them.
    fn advertisements(&self, observed: &Observed, link: &HostLink, plan: &mut HostPlan) {
        let routes = || observed.links.routes.iter().filter(|r| by_advertisement(r) && r.by(&link.name));
        let addresses: Vec<&str> = autoconfigured(link).collect();
        if routes().next().is_none() && addresses.is_empty() {
            return;
        }
        let router = routes().flat_map(|route| &route.hops).find_map(|hop| hop.via.as_ref()?.parse().ok());
        let packet = Packet {
            src: router,
            dst: Some(ALL_NODES),
            dst_local: None,
            state: ConntrackStates::UNTRACKED,
            ..Packet::icmp(IpFamily::V6, 134, 0)
        };
        let Some(step) = self.drops(PacketPath::Input, self.on_link(link, PacketPath::Input, packet)) else {
            return;
        };
        let ssh = observed.facts.ssh.as_ref();
        let what = if ssh.is_some_and(|ssh| addresses.contains(&ssh.server.to_string().as_str())) {
            "the address of SSH"
        } else if ssh.is_some_and(|ssh| answers_by_advertisement(observed, ssh.client, &link.name)) {
            "the route by which SSH is answered"
        } else {
            let message = WarningMessage::new(format!(
                "IPv6 router advertisements on {} are dropped, so the addresses and \
                 routes that they give end with their lifetime",
                link.name
            ))
            .cause(say(&step))
            .fix("add `-p ipv6-icmp --icmpv6-type router-advertisement -j ACCEPT` before that rule");
            plan.warnings.push(Warning::new(
                LintCode::RouterAdvertisementsDropped,
                message,
                self.origin_of(&step),
            ));
            return;
        };
        let why = format!(
            "IPv6 router advertisements on {} are dropped by {}, and {what} ends with its lifetime",
            link.name,
            say(&step)
        );
        self.latent(&why, &step, plan);
    }

    /// Answers of DHCP servers on a link that has an address by a lease.
    fn leases(&self, observed: &Observed, link: &HostLink, plan: &mut HostPlan) {
        // Only a client that reads its answers from a UDP socket is stopped by rules.
        let reads = |port: u16| observed.sockets.iter().any(|s| !s.tcp && s.peer.is_none() && s.port == port);
        let leased =
            link.addresses.iter().filter(|a| a.dynamic && a.scope == "global").filter(|a| {
                match self.family {
                    IpFamily::V4 => a.family == "inet" && reads(68),
                    IpFamily::V6 => a.family == "inet6" && a.prefix == 128 && reads(546),
                }
            });
        for address in leased {
            let Some(step) = self.renewal_dropped(link, address.local.parse().ok()) else { continue };
            let ssh = observed.facts.ssh.as_ref().is_some_and(|ssh| ssh.server.to_string() == address.local);
            let why = format!(
                "the DHCP packets that renew the lease of {} on {} are dropped by {}",
                address.local,
                link.name,
                say(&step)
            );
            if ssh && self.family == IpFamily::V6 {
                self.latent(&format!("{why}, and the address of SSH ends with its lifetime"), &step, plan);
                continue;
            }
            let message = format!("{why}. Clients with raw sockets (dhclient, dhcpcd) are not affected");
            plan.warnings.push(Warning::new(LintCode::LeaseRenewalDropped, message, self.origin_of(&step)));
        }
    }

    /// What drops the renewal of a lease. A DHCPv4 server answers the client's unicast request; a DHCPv6 server answers a
    /// multicast request, so that its answer counts as new.
    fn renewal_dropped(&self, link: &HostLink, address: Option<IpAddr>) -> Option<TraceStep> {
        let (client, server, state, servers) = match self.family {
            IpFamily::V4 => (68, 67, ConntrackStates::ESTABLISHED, None),
            IpFamily::V6 => (546, 547, ConntrackStates::NEW, Some(ALL_SERVERS)),
        };
        let v4 = self.family == IpFamily::V4;
        let request = Packet {
            src: address.filter(|_| v4),
            src_local: Some(true),
            dst: servers,
            state: ConntrackStates::NEW,
            ..Packet::udp(self.family, client, server)
        };
        let answer = Packet {
            dst: address.filter(|_| v4),
            dst_local: Some(true),
            state,
            ..Packet::udp(self.family, server, client)
        };
        let answer = self.drops(PacketPath::Input, self.on_link(link, PacketPath::Input, answer));
        answer.or_else(|| self.drops(PacketPath::Output, self.on_link(link, PacketPath::Output, request)))
    }

    /// Notes a lockout that a confirm cannot disprove.
    pub(super) fn latent(&self, why: &str, step: &TraceStep, plan: &mut HostPlan) {
        plan.warnings.push(Warning::new(LintCode::Lockout, format!("LOCKOUT: {why}"), self.origin_of(step)));
        plan.latent_lockout.get_or_insert_with(|| why.to_owned());
        mark(plan, ChangeRisk::Lockout, |c| {
            c.kind == ResourceKind::from(self.family) && c.risks.contains(&ChangeRisk::ManagementPath)
        });
    }

    /// A packet that comes or goes by a link, as it will be.
    pub(super) fn on_link(&self, link: &HostLink, base: PacketPath, packet: Packet) -> Packet {
        let device = PacketDevice::named(self.bridge_of(&link.name).unwrap_or(&link.name));
        match base {
            PacketPath::Output => Packet {
                in_iface: PacketDevice::Absent,
                out_iface: device,
                physin: PacketDevice::Absent,
                physout: PacketDevice::Absent,
                ..packet
            },
            PacketPath::Input | PacketPath::Forward => Packet {
                in_iface: device,
                out_iface: PacketDevice::Absent,
                physout: PacketDevice::Absent,
                ..packet
            },
        }
    }

    /// What drops a packet for certain.
    pub(super) fn drops(&self, base: PacketPath, packet: Packet) -> Option<TraceStep> {
        let found = simulate(&self.after, &self.context, base, &packet);
        found.decided_by.filter(|_| found.verdict == PacketVerdict::Drop)
    }
}

/// Whether the answers to a client leave by a route of a router advertisement on this link: its longest match is one.
pub(in crate::plan) fn answers_by_advertisement(observed: &Observed, client: IpAddr, link: &str) -> bool {
    let on_link = observed.links.by_name.values().flat_map(|link| &link.addresses).any(|a| {
        let net = format!("{}/{}", a.local, a.prefix).parse::<ipnet::IpNet>();
        !a.noprefixroute && net.is_ok_and(|net| net.contains(&client))
    });
    let fits = |route: &&StaticRoute| {
        let net = route
            .dst
            .parse::<ipnet::IpNet>()
            .or_else(|_| route.dst.parse::<IpAddr>().map(ipnet::IpNet::from));
        !route.words.iter().any(|word| word == "table") && net.is_ok_and(|net| net.contains(&client))
    };
    let length = |route: &&StaticRoute| {
        route.dst.split_once('/').and_then(|(_, length)| length.parse::<u8>().ok()).unwrap_or(128)
    };
    let fitting: Vec<&StaticRoute> = observed.links.routes.iter().filter(fits).collect();
    let longest = fitting.iter().map(length).max();
    let mut best = fitting.iter().filter(|route| Some(length(route)) == longest).peekable();
    // Another route as good as it takes its place.
    !on_link && best.peek().is_some() && best.all(|route| by_advertisement(route) && route.by(link))
}
