//! NAT that also meets what a bridge carries between its ports.

use super::{FamilyView, say};
use crate::netfilter::{
    MatchTest, MatchedRule, NatRewrite, Packet, PacketPath, RewriteAddress, RewritePart, RuleMatch,
    RuleTarget, Tristate, packets_between_ports, simulate,
};
use crate::plan::HostAfter;
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resource::bridge::LinkAddress;
use crate::resource::iptables::IpFamily;
use ipnet::IpNet;
use std::net::IpAddr;

impl FamilyView<'_> {
    /// Rules of NAT that rewrite frames between guests of one bridge, or may.
    pub(super) fn bridged_nat(&self, warnings: &mut Vec<Warning>) {
        for bridge in self.will_be.bridges() {
            let view = self.will_be.bridge_view(self.family, &bridge);
            if !view.nf_call {
                continue;
            }
            let networks = self.networks_of(&bridge);
            let mut told: Vec<String> = Vec::new();
            for packet in packets_between_ports(&self.after, self.family, &view) {
                let trace =
                    simulate(&self.after, &self.context, PacketPath::Forward, &between(packet, &networks));
                for met in trace.matched_rules().filter(|met| matches!(met.target, RuleTarget::Rewrite(_))) {
                    let name = met.step.to_string();
                    if told.contains(&name) || self.is_for_others(met, &bridge) {
                        continue;
                    }
                    told.push(name);
                    let message = self.nat_message(&bridge, met, self.will_be, &networks);
                    warnings.push(Warning::new(LintCode::NatOnBridged, message, self.origin_of(&met.step)));
                }
            }
        }
    }

    /// The networks of a family that the host has an address in on a bridge, or will have.
    fn networks_of(&self, bridge: &str) -> Vec<IpNet> {
        let v4 = self.family == IpFamily::V4;
        let live = self.context.addresses.iter().filter(|(link, _)| link == bridge).map(|(_, net)| *net);
        let declared = self
            .desired
            .bridges
            .get(bridge)
            .into_iter()
            .flat_map(|bridge| bridge.addresses.iter().map(LinkAddress::network));
        let near = |net: &IpNet| matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
        live.chain(declared).filter(|net| net.addr().is_ipv4() == v4 && !near(net)).collect()
    }

    /// Whether a rule asks for addresses that no guest of this bridge has: those of the host, or of the network of
    /// another of its links.
    fn is_for_others(&self, met: &MatchedRule, bridge: &str) -> bool {
        let rules = self.after.rules(&met.step.table, &met.step.chain).unwrap_or_default();
        let index = met.step.index.and_then(|index| index.checked_sub(1));
        let Some(rule) = index.and_then(|index| rules.get(index)) else { return false };
        rule.matches.iter().filter(|one| !one.negated).any(|RuleMatch { test, .. }| match test {
            MatchTest::Source(net) | MatchTest::Destination(net) => {
                let first = net.first();
                let of_link = |(link, own): &(String, IpNet)| {
                    link != bridge && own.contains(&first) && !first.is_unspecified() || own.addr() == first
                };
                self.context.addresses.iter().any(of_link)
            }
            _ => false,
        })
    }

    fn nat_message(
        &self,
        bridge: &str,
        met: &MatchedRule,
        host: &HostAfter<'_>,
        networks: &[IpNet],
    ) -> WarningMessage {
        let may = if met.answer == Tristate::Yes { "rewrites" } else { "may rewrite" };
        let offline = if self.observed.is_none() { " wherever br_netfilter is loaded" } else { "" };
        let RuleTarget::Rewrite(rewrite) = &met.target else { return WarningMessage::new("") };
        let forwards = host.forwards(self.family, bridge).map(|(on, _)| on);
        let (seen, remedy) = seen_by_peers(rewrite, forwards, networks);
        WarningMessage::new(format!("{} {may} frames between the ports of {bridge}: {seen}", say(&met.step)))
            .cause(format!(
                "bridged frames pass this rule because {}{offline}",
                host.switch_words(self.family, bridge)
            ))
            .fix(format!("{remedy}; or add the module bridge-bypass, with which no rule sees bridged frames"))
    }
}

/// What peers see of a guest whose frames are rewritten, and how the rule leaves them alone.
fn seen_by_peers(rewrite: &NatRewrite, forwards: Option<bool>, networks: &[IpNet]) -> (String, String) {
    let net = |option: &str| match networks.first() {
        Some(net) => format!("`! {option} {}`", net.trunc()),
        None => format!("`! {option}` the guests' network"),
    };
    let lost = match forwards {
        Some(true) => "their answers go through the host",
        Some(false) => "their answers are lost and guests are cut off, as the host does not forward",
        None => "their answers are lost and guests are cut off if the host does not forward",
    };
    match rewrite.to {
        RewriteAddress::Source(_) | RewriteAddress::Masquerade | RewriteAddress::Either => {
            let source = match rewrite.to {
                RewriteAddress::Source(RewritePart::To(address)) => {
                    format!("guests appear to their peers as {address}")
                }
                _ => "guests appear to their peers as the host".to_owned(),
            };
            (
                format!("{source}, and {lost}"),
                format!("add `-m physdev ! --physdev-is-bridged` to that rule; or add {}", net("-d")),
            )
        }
        RewriteAddress::Destination(RewritePart::To(address)) => (
            format!("packets between guests end at {address}, and {lost}"),
            format!(
                "add the device (`! -i BRIDGE`) or the host's own address (`-d ADDRESS`) to that rule; or add \
                 {}",
                net("-s")
            ),
        ),
        RewriteAddress::Destination(_) | RewriteAddress::Redirect => (
            format!("packets between guests end at the host, and {lost}"),
            format!(
                "add the device (`! -i BRIDGE`) or the host's own address (`-d ADDRESS`) to that rule; or add \
                 {}",
                net("-s")
            ),
        ),
    }
}

/// A packet between two guests, by addresses of the bridge's network where that is known.
fn between(packet: Packet, networks: &[IpNet]) -> Packet {
    let guests = networks.iter().find_map(|net| {
        let own = net.addr();
        let mut others = net.hosts().filter(|address| *address != own && *address != net.network());
        Some((others.next()?, others.next()?))
    });
    match guests {
        Some((src, dst)) => Packet { src: Some(src), src_local: Some(false), dst: Some(dst), ..packet },
        None => packet,
    }
}
