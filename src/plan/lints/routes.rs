//! A default route that forwarding takes away.

use crate::host_state::{Observed, StaticRoute};
use crate::plan::{HostAfter, ValueSource};
use crate::problem::{LintCode, Warning, WarningMessage};
use crate::resolve::Desired;
use crate::resource::sysctl::SysctlKey;

/// With forwarding on, the kernel drops the default routes that router advertisements gave it, and takes
/// no more, unless `accept_ra` of the link is 2.
pub(super) fn lost(
    desired: &Desired,
    observed: &Observed,
    host: &HostAfter<'_>,
    warnings: &mut Vec<Warning>,
) {
    let by_advertisement = |route: &&StaticRoute| {
        route.dst == "::/0" && route.words.windows(2).any(|pair| pair == ["proto", "ra"])
    };
    let links = observed.links.routes.iter().filter(by_advertisement).flat_map(|route| &route.hops);
    for link in links.map(|hop| hop.dev.as_str()) {
        let accept_ra = format!("net/ipv6/conf/{link}/accept_ra");
        if host.key(&accept_ra).is_some_and(|(value, _)| value == "2") {
            continue;
        }
        let own = format!("net/ipv6/conf/{link}/forwarding");
        let starts = |path: &str| {
            let (value, source) = host.key(path)?;
            let forwarded = host.live_key(path).is_some_and(|live| live != "0");
            (value != "0" && source != ValueSource::Live && !forwarded).then(|| (path.to_owned(), value))
        };
        let Some((path, value)) = ["net/ipv6/conf/all/forwarding", &own].into_iter().find_map(starts) else {
            continue;
        };
        let entry = desired.sysctl.values().flat_map(|file| &file.entries).find(|e| e.key.path() == path);
        let key = SysctlKey::parse(&path).map_or(path, |key| key.to_string());
        let message =
            WarningMessage::new(format!("{key} = {value} removes the IPv6 default route on {link}"))
                .cause(format!(
                    "the route came by router advertisement, which a forwarding host \
                     ignores unless net.ipv6.conf.{link}.accept_ra is 2"
                ))
                .fix("declare that key, or a gateway");
        warnings.push(Warning::new(LintCode::RaRouteLost, message, entry.map(|entry| entry.origin.clone())));
    }
}
