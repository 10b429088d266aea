//! A default route that forwarding takes away.

use super::warn;
use crate::desired::Desired;
use crate::observe::{Live, Observed, Route};
use crate::problem::Warning;

/// With forwarding on, the kernel drops the default routes that router advertisements gave it, and takes
/// no more, unless `accept_ra` of the link is 2.
pub(super) fn lost(desired: &Desired, observed: &Observed, warnings: &mut Vec<Warning>) {
    let entries = || desired.sysctl.values().flat_map(|file| &file.entries);
    let live = |path: &str| match observed.sysctl.get(path) {
        Some(Live::Value(value)) => Some(value.trim().to_owned()),
        _ => None,
    };
    let by_advertisement =
        |route: &&Route| route.dst == "::/0" && route.words.windows(2).any(|pair| pair == ["proto", "ra"]);
    let links = observed.links.routes.iter().filter(by_advertisement).flat_map(|route| &route.hops);
    for link in links.map(|hop| hop.dev.as_str()) {
        let accept_ra = format!("net/ipv6/conf/{link}/accept_ra");
        let wanted = entries().find(|e| e.key.path() == accept_ra).map(|e| e.value.trim().to_owned());
        if wanted.or_else(|| live(&accept_ra)).is_some_and(|value| value == "2") {
            continue;
        }
        let own = format!("net/ipv6/conf/{link}/forwarding");
        let forwards = |path: &str| path == "net/ipv6/conf/all/forwarding" || path == own;
        let Some(entry) = entries().find(|e| forwards(e.key.path()) && e.value.trim() != "0") else {
            continue;
        };
        if live(entry.key.path()).is_some_and(|value| value != "0") {
            continue;
        }
        let message = format!(
            "{} = {} takes the IPv6 default route by {link} away, because it came by router advertisement: a host that \
             forwards takes none, unless net.ipv6.conf.{link}.accept_ra is 2; declare that, or a gateway",
            entry.key, entry.value
        );
        warnings.push(warn("ra-route-lost", message, Some(entry.origin.clone())));
    }
}
