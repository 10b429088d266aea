//! Guests of a network that the host routes, and forwarding that ends.

use super::{FamilyView, mark};
use crate::host_state::HostLink;
use crate::plan::{ChangeRisk, HostAfter, HostPlan, ValueSource};
use crate::problem::{LintCode, Origin, Warning, WarningMessage};
use crate::resource::ResourceKind;
use crate::resource::iptables::IpFamily;
use crate::resource::sysctl::SysctlKey;
use std::collections::BTreeSet;

/// A network that the host routes for its guests.
struct RoutedNetwork<'a> {
    link: &'a HostLink,
    /// The host's addresses on it.
    addresses: Vec<String>,
    /// No port but those of guests: nothing else can route for them.
    alone: bool,
}

/// Where the way of guests ends.
struct ForwardingCut {
    /// The device whose packets the host no longer forwards.
    device: String,
    /// The key that decides, as a path.
    key: String,
}

impl FamilyView<'_> {
    /// Networks of guests to and from which the host no longer forwards.
    pub(super) fn routed_guests(&self, plan: &mut HostPlan) {
        let Some(observed) = self.observed else { return };
        let v6 = self.family == IpFamily::V6;
        let networks: Vec<RoutedNetwork<'_>> =
            observed.links.by_name.values().filter_map(|link| self.network(link)).collect();
        let default =
            observed.links.routes.iter().filter(|route| route.is_default() && (route.dst == "::/0") == v6);
        let mut uplinks: BTreeSet<&str> =
            default.flat_map(|route| &route.hops).map(|hop| hop.dev.as_str()).collect();
        if uplinks.is_empty() {
            let links =
                observed.links.by_name.values().filter(|link| !own_addresses(link, self.family).is_empty());
            uplinks.extend(links.map(|link| link.name.as_str()));
        }
        let at_boot = self.will_be.at_boot();
        for network in networks {
            let ways: Vec<&str> = uplinks.iter().copied().filter(|up| *up != network.link.name).collect();
            if ways.is_empty() {
                continue;
            }
            let cut = |host: &HostAfter<'_>| self.cut(host, &network.link.name, &ways);
            let (cut, host, when) = match (cut(self.will_be), cut(&at_boot)) {
                (Some(cut), _) => (cut, self.will_be, ""),
                (None, Some(cut)) if !self.drift => (cut, &at_boot, "after a boot, "),
                _ => continue,
            };
            self.tell_cut(plan, &network, &cut, host, when);
        }
    }

    fn tell_cut(
        &self,
        plan: &mut HostPlan,
        network: &RoutedNetwork<'_>,
        cut: &ForwardingCut,
        host: &HostAfter<'_>,
        when: &str,
    ) {
        let name = &network.link.name;
        let key = SysctlKey::parse(&cut.key).map_or_else(|_| cut.key.clone(), |key| key.to_string());
        let source = host.key(&cut.key).map(|(_, source)| source);
        let why = match (self.drift, source, when) {
            (true, ..) => format!("{key} is 0, and was 1 as applied"),
            (_, Some(ValueSource::Returned), "") => {
                format!("{key} goes back from 1 to 0, as it is no longer in the inventory")
            }
            (_, Some(ValueSource::Returned), _) => {
                format!("{key} is no longer in the inventory, and no file on the host sets it to 1")
            }
            _ => format!("{key} goes from 1 to 0"),
        };
        let which = if self.family == IpFamily::V4 { "IPv4" } else { "IPv6" };
        let will = if self.drift { "are" } else { "will be" };
        let others =
            if network.alone { "" } else { ". Guests on this bridge with another gateway are not affected" };
        let message = WarningMessage::new(format!(
            "guests on {name} that have the host as their gateway ({}) \
             {when}{will} unreachable from other networks over {which}{others}",
            network.addresses.join(", ")
        ))
        .cause(format!("{why}, so the host forwards nothing that arrives on {}", cut.device))
        .fix(format!("set `{key}: 1`"));
        // Whether guests have another gateway is not known where the network has other ports.
        let guests = !network.link.is_bridge()
            || self.observed.is_some_and(|o| o.links.ports(name).any(HostLink::is_of_guest));
        if network.alone && guests && when.is_empty() && !self.drift {
            plan.guest_outages.push(message.finding.clone());
        }
        plan.warnings.push(Warning::new(LintCode::GuestsUnreachable, message, self.key_origin(&cut.key)));
        if network.alone {
            mark(plan, ChangeRisk::GuestsUnreachable, |change| {
                change.kind == ResourceKind::Sysctl && change.diff.text().contains(&key)
            });
        }
    }

    pub(super) fn key_origin(&self, path: &str) -> Option<Origin> {
        let mut entries = self.desired.sysctl.values().flat_map(|file| &file.entries);
        entries.find(|entry| entry.key.path() == path).map(|entry| entry.origin.clone())
    }

    /// A link on which guests may have the host as their gateway.
    fn network<'l>(&self, link: &'l HostLink) -> Option<RoutedNetwork<'l>> {
        let routed_tap = link.linkinfo.kind.as_deref() == Some("tun") && link.master.is_none();
        let addresses = own_addresses(link, self.family);
        if !link.is_bridge() && !routed_tap || addresses.is_empty() {
            return None;
        }
        let links = self.observed.map(|observed| &observed.links)?;
        let alone = links.ports(&link.name).all(HostLink::is_of_guest);
        Some(RoutedNetwork { link, addresses, alone })
    }

    /// Whether packets of a network, or the answers to them, are no longer forwarded.
    fn cut(&self, host: &HostAfter<'_>, network: &str, ways: &[&str]) -> Option<ForwardingCut> {
        let ends = |device: &str| {
            let (before, _) = self.was.forwards(self.family, device)?;
            let (after, key) = host.forwards(self.family, device)?;
            (before && !after).then(|| ForwardingCut { device: device.to_owned(), key })
        };
        let was = |device: &str| self.was.forwards(self.family, device).is_none_or(|(on, _)| on);
        // Where packets of one direction were not forwarded before, nothing ends.
        if !was(network) || !ways.iter().any(|way| was(way)) {
            return None;
        }
        ends(network).or_else(|| {
            let open = |way: &&&str| host.forwards(self.family, way).is_none_or(|(on, _)| on);
            if ways.iter().any(|way| open(&way)) { None } else { ways.iter().find_map(|way| ends(way)) }
        })
    }
}

/// The host's own addresses on a link that other machines can use.
fn own_addresses(link: &HostLink, family: IpFamily) -> Vec<String> {
    let wanted = if family == IpFamily::V4 { "inet" } else { "inet6" };
    let near = |scope: &str| scope == "link" || scope == "host";
    let own = link.addresses.iter().filter(|a| a.family == wanted && !near(&a.scope));
    own.map(|a| format!("{}/{}", a.local, a.prefix)).collect()
}
